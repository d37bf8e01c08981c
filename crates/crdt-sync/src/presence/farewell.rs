//! Goodbyes that are signed, for groups in which keys speak for names: `docs/formats/presence.md`.
//!
//! Whoever is said to have left is not waited for any more, so who can write to the topic of discovery must not be able to say that of a
//! peer which is only cut off.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{InvalidPresence, PresenceMessage, message::TAG_FAREWELL};
use crate::Guard;

/// How far the clocks of two replicas may be apart, and how long a goodbye may be on its way. One that is older says nothing, as whoever
/// has written it down could say it again when the peer has come back and is cut off.
const AGE_MAX_MS: u64 = 120_000;

/// A goodbye, with the signature of who says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Farewell {
    /// When it was said, in milliseconds since 1970 UTC.
    pub said_at_ms: u64,
    /// The goodbye. It shows nothing.
    pub goodbye: PresenceMessage,
    /// The signature, as [`Guard::prove_word`] makes it.
    pub proof: Bytes,
}

impl Farewell {
    /// What is signed: everything before the proof.
    pub fn signed(&self) -> Bytes {
        let goodbye = self.goodbye.encode();
        let mut bytes = BytesMut::with_capacity(9 + goodbye.len());
        bytes.put_u8(TAG_FAREWELL);
        bytes.put_u64_le(self.said_at_ms);
        bytes.put_slice(&goodbye);
        bytes.freeze()
    }

    /// Writes it.
    pub fn encode(&self) -> Bytes {
        [&self.signed()[..], &self.proof].concat().into()
    }

    /// Reads one that fills `bytes`.
    pub fn decode(bytes: &Bytes) -> Result<Self, InvalidPresence> {
        let mut rest = bytes.clone();
        match rest.try_get_u8() {
            Ok(TAG_FAREWELL) => {}
            other => return Err(InvalidPresence::FarewellTag(other.ok())),
        }
        let short = |_| InvalidPresence::Short { len: bytes.len(), field: "time" };
        let said_at_ms = rest.try_get_u64_le().map_err(short)?;
        let mut goodbye = PresenceMessage::decode(&rest)?;
        if goodbye.here || goodbye.hello {
            return Err(InvalidPresence::NoGoodbye);
        }
        // Where others show something stands the proof.
        let proof = std::mem::take(&mut goodbye.shown);
        Ok(Self { said_at_ms, goodbye, proof })
    }
}

/// The signed form of this replica's goodbye, if its signature says anything.
pub(super) fn say(goodbye: &PresenceMessage, guard: &dyn Guard, now_ms: u64) -> Option<Bytes> {
    let farewell = Farewell { said_at_ms: now_ms, goodbye: goodbye.clone(), proof: Bytes::new() };
    let proof = guard.prove_word(&farewell.signed())?;
    Some(Farewell { proof, ..farewell }.encode())
}

/// Reads what came over the topic; `None` is a goodbye that somebody else may have said.
pub(super) fn hear(
    payload: &Bytes,
    guard: Option<&dyn Guard>,
    now_ms: u64,
) -> Result<Option<PresenceMessage>, InvalidPresence> {
    let (message, farewell) = match payload.first() {
        Some(&TAG_FAREWELL) => {
            let farewell = Farewell::decode(payload)?;
            (farewell.goodbye.clone(), Some(farewell))
        }
        _ => (PresenceMessage::decode(payload)?, None),
    };
    let Some(guard) = guard.filter(|_| !message.here) else { return Ok(Some(message)) };
    let is_proven = farewell.is_some_and(|farewell| {
        let check = || guard.check_word(&message.peer, &farewell.signed(), &farewell.proof);
        farewell.said_at_ms.abs_diff(now_ms) <= AGE_MAX_MS && matches!(check(), Ok(Some(_)))
    });
    Ok((is_proven || !guard.has_voice(&message.peer)).then_some(message))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::PeerId;

    fn farewell(name: &str, proof: &[u8]) -> Farewell {
        let peer = PeerId::new(name).unwrap();
        let goodbye =
            PresenceMessage { peer, run: 1, count: 258, here: false, hello: false, shown: Bytes::new() };
        Farewell { said_at_ms: 3, goodbye, proof: Bytes::copy_from_slice(proof) }
    }

    #[test]
    fn the_layout_is_what_the_format_document_shows() {
        let hex: String =
            farewell("ann", b"signed").encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "0403000000000000000300010000000000000002010000000000000\
                         3616e6e7369676e6564"
        );
    }

    #[test]
    fn what_is_no_goodbye_is_refused() {
        let bytes = farewell("ann", b"signed").encode();
        for (len, field) in [(8, "time"), (29, "name")] {
            let refused = Farewell::decode(&bytes.slice(..len)).unwrap_err();
            assert!(matches!(refused, InvalidPresence::Short { field: at, .. } if at == field), "{refused}");
        }
        assert_eq!(Farewell::decode(&Bytes::new()), Err(InvalidPresence::FarewellTag(None)));
        let mut here = farewell("ann", b"");
        here.goodbye.here = true;
        assert_eq!(Farewell::decode(&here.encode()), Err(InvalidPresence::NoGoodbye));
        // So do replicas of earlier releases, and hear the goodbye without the signature that comes behind it.
        assert_eq!(PresenceMessage::decode(&bytes), Err(InvalidPresence::Tag(Some(TAG_FAREWELL))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_mean_themselves(
            bytes in prop::collection::vec(any::<u8>(), 0..60), at in 0usize..40, byte: u8,
        ) {
            let mut changed = farewell("ann", b"signed").encode().to_vec();
            if at < changed.len() {
                changed[at] = byte;
            }
            for bytes in [bytes, changed] {
                let bytes = Bytes::from(bytes);
                if let Ok(farewell) = Farewell::decode(&bytes) {
                    prop_assert_eq!(farewell.encode(), bytes);
                }
            }
        }
    }
}
