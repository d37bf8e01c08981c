//! What replicas say about their presence, as bytes: `docs/formats/presence.md`.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{InvalidPeerId, PeerId};

/// "I am here, and this is what I show", or "I go".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresenceMessage {
    /// Who.
    pub peer: PeerId,
    /// Which of its starts; later ones have greater numbers.
    pub run: u64,
    /// The number of this message in the run.
    pub count: u64,
    /// Whether it is here, or goes.
    pub here: bool,
    /// Whether it is new here and would like to know who else is.
    pub hello: bool,
    /// What it shows; the application's bytes.
    pub shown: Bytes,
}

/// Bytes that are no presence message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPresence {
    /// They begin with something else.
    #[error("a presence message begins with byte {TAG}, not {0:?}")]
    Tag(Option<u8>),
    /// They begin with something else than a signed goodbye does.
    #[error("a signed goodbye begins with byte {TAG_FAREWELL}, not {0:?}")]
    FarewellTag(Option<u8>),
    /// It is signed, and says that somebody is here.
    #[error("a signed goodbye that is none")]
    NoGoodbye,
    /// They end too early.
    #[error("presence message of {len} bytes ends within its {field}")]
    Short {
        /// How many there are.
        len: usize,
        /// Where they end.
        field: &'static str,
    },
    /// A flag that is not known.
    #[error("unknown presence flags {0:#04x}")]
    Flags(u8),
    /// A name that is none.
    #[error("presence of a peer whose name is not UTF-8")]
    Name,
    /// A name that breaks its rule.
    #[error(transparent)]
    Peer(#[from] InvalidPeerId),
}

/// The first byte; patches have 1 and state synchronisation 2.
const TAG: u8 = 3;
/// The first byte of a signed goodbye.
pub(super) const TAG_FAREWELL: u8 = 4;
const HERE: u8 = 1;
const HELLO: u8 = 2;

impl PresenceMessage {
    /// Writes it.
    pub fn encode(&self) -> Bytes {
        let name = self.peer.as_str().as_bytes();
        let mut bytes = BytesMut::with_capacity(19 + name.len() + self.shown.len());
        bytes.put_u8(TAG);
        bytes.put_u8((u8::from(self.here) * HERE) | (u8::from(self.hello) * HELLO));
        bytes.put_u64_le(self.run);
        bytes.put_u64_le(self.count);
        bytes.put_u8(name.len() as u8); // At most PeerId::LEN_BYTES_MAX.
        bytes.put_slice(name);
        bytes.put_slice(&self.shown);
        bytes.freeze()
    }

    /// Reads one that fills `bytes`.
    pub fn decode(bytes: &Bytes) -> Result<Self, InvalidPresence> {
        let short = |field| InvalidPresence::Short { len: bytes.len(), field };
        let rest = match bytes.split_first() {
            Some((&TAG, rest)) => rest,
            other => return Err(InvalidPresence::Tag(other.map(|(tag, _)| *tag))),
        };
        let (&flags, rest) = rest.split_first().ok_or(short("flags"))?;
        if flags & !(HERE | HELLO) != 0 {
            return Err(InvalidPresence::Flags(flags));
        }
        let (run, rest) = rest.split_first_chunk().ok_or(short("run"))?;
        let (count, rest) = rest.split_first_chunk().ok_or(short("count"))?;
        let (&len, rest) = rest.split_first().ok_or(short("name"))?;
        let (name, shown) = rest.split_at_checked(len.into()).ok_or(short("name"))?;
        Ok(Self {
            peer: PeerId::new(std::str::from_utf8(name).map_err(|_| InvalidPresence::Name)?)?,
            run: u64::from_le_bytes(*run),
            count: u64::from_le_bytes(*count),
            here: flags & HERE != 0,
            hello: flags & HELLO != 0,
            shown: bytes.slice_ref(shown),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(name: &str) -> PresenceMessage {
        let peer = PeerId::new(name).unwrap();
        PresenceMessage { peer, run: 1, count: 258, here: true, hello: true, shown: "cursor 7".into() }
    }

    #[test]
    fn the_layout_is_what_the_format_document_shows() {
        let hex: String = message("ann").encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "03030100000000000000020100000000000003616e6e637572736f722037");
    }

    #[test]
    fn every_truncation_says_where_it_ends() {
        let bytes = message("ann").encode();
        for (len, field) in [(1, "flags"), (9, "run"), (17, "count"), (18, "name"), (21, "name")] {
            let refused = PresenceMessage::decode(&bytes.slice(..len));
            assert_eq!(refused, Err(InvalidPresence::Short { len, field }));
        }
        assert_eq!(PresenceMessage::decode(&Bytes::new()), Err(InvalidPresence::Tag(None)));
        assert_eq!(PresenceMessage::decode(&Bytes::from_static(b"\x01")), Err(InvalidPresence::Tag(Some(1))));
        assert_eq!(PresenceMessage::decode(&Bytes::from_static(b"\x03\x04")), Err(InvalidPresence::Flags(4)));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            name in "[a-zé]{1,20}", run: u64, count: u64, here: bool, hello: bool,
            shown in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let message = PresenceMessage { run, count, here, hello, shown: shown.into(), ..message(&name) };
            prop_assert_eq!(PresenceMessage::decode(&message.encode()), Ok(message));
        }

        #[test]
        fn any_bytes_are_refused_or_mean_themselves(
            bytes in prop::collection::vec(any::<u8>(), 0..60), at in 0usize..30, byte: u8,
        ) {
            let mut changed = message("ann").encode().to_vec();
            if at < changed.len() {
                changed[at] = byte;
            }
            for bytes in [bytes, changed] {
                let bytes = Bytes::from(bytes);
                if let Ok(message) = PresenceMessage::decode(&bytes) {
                    prop_assert_eq!(message.encode(), bytes);
                }
            }
        }
    }
}
