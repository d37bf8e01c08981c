//! Sealed messages: XChaCha20-Poly1305 (RFC 8439 with the nonce of draft-irtf-cfrg-xchacha), and a window against
//! replays (RFC 6479).

use std::collections::BTreeMap;

use chacha20poly1305::{
    AeadInOut, KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Buffer, Error as AeadError},
};

/// The first byte of a sealed message.
const TAG_SEALED: u8 = 0x10;
const KEY_ID_BYTES: usize = 4;
const SENDER_BYTES: usize = 16;
const COUNTER_BYTES: usize = 8;
const HEAD_BYTES: usize = 1 + KEY_ID_BYTES + SENDER_BYTES + COUNTER_BYTES;
const MAC_BYTES: usize = 16;

/// How many bytes a seal adds.
pub const SEAL_BYTES: usize = HEAD_BYTES + MAC_BYTES;
/// How far a message may be behind its sender's latest; one further behind can't be told from a replay.
pub const WINDOW: u64 = 1024;
/// How many senders an opener remembers; above it the one whose latest message is oldest is forgotten.
pub const SENDERS_MAX: usize = 4096;
/// How many keys a ring holds; above it the oldest goes.
pub const KEYS_MAX: usize = 16;

/// A key that all readers and writers of a document share.
#[derive(Clone)]
pub struct SealingKey {
    id: u32,
    cipher: XChaCha20Poly1305,
}

impl SealingKey {
    /// A key of 32 secret bytes, and the number that messages name it by. A number is used for one key, for ever.
    pub fn new(id: u32, secret: &[u8; 32]) -> Self {
        Self { id, cipher: XChaCha20Poly1305::new(secret.into()) }
    }
}

/// The keys that messages are opened with, and the one that seals.
///
/// To rotate: [`Keyring::add_to_open`] the new key everywhere, then [`Keyring::seal_with`] it everywhere; once nothing sealed with
/// the old one is under way any more, take that out. So nobody is sent what he can't open yet. Who has left does not get the
/// new key, and reads nothing after it.
#[derive(Clone, Default)]
pub struct Keyring {
    keys: Vec<SealingKey>,
    seals: Option<u32>,
}

impl Keyring {
    /// A ring with one key, which seals.
    pub fn new(key: SealingKey) -> Self {
        Self { seals: Some(key.id), keys: vec![key] }
    }

    /// Adds a key that opens. Returns the oldest key's number if it had to go: at most [`KEYS_MAX`] are kept, among them the one
    /// that seals.
    pub fn add_to_open(&mut self, key: SealingKey) -> Option<u32> {
        self.keys.retain(|old| old.id != key.id);
        self.keys.push(key);
        if self.keys.len() <= KEYS_MAX {
            return None;
        }
        let oldest = self.keys.iter().position(|key| Some(key.id) != self.seals)?;
        Some(self.keys.remove(oldest).id)
    }

    /// Seals with a key that is on the ring from now on; `false` if it is not.
    #[must_use = "with a key that is not on the ring nothing is sealed"]
    pub fn seal_with(&mut self, id: u32) -> bool {
        let is_there = self.get(id).is_some();
        if is_there {
            self.seals = Some(id);
        }
        is_there
    }

    /// Adds a key that opens and seals from now on, for who has nobody to wait for. Returns as
    /// [`add_to_open`](Self::add_to_open).
    pub fn add(&mut self, key: SealingKey) -> Option<u32> {
        self.seals = Some(key.id);
        self.add_to_open(key)
    }

    /// Takes a key out: what was sealed with it can't be opened any more.
    pub fn remove(&mut self, id: u32) {
        self.keys.retain(|key| key.id != id);
    }

    fn sealing(&self) -> Option<&SealingKey> {
        self.get(self.seals?)
    }

    fn get(&self, id: u32) -> Option<&SealingKey> {
        self.keys.iter().rfind(|key| key.id == id)
    }
}

/// Why a message could not be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The key that sealed is not on the ring any more.
    #[error("there is no key to seal with")]
    NoKey,
    /// The sender has sealed as many messages as one nonce prefix allows.
    #[error("the sender has used up its counter: it needs a new name")]
    UsedUp,
    /// It is no sealed message, or is cut off.
    #[error("not a sealed message: {len_bytes} bytes, first {first:?}")]
    NotSealed {
        /// Its length.
        len_bytes: usize,
        /// Its first byte.
        first: Option<u8>,
    },
    /// It was sealed with a key that is not on the ring.
    #[error("sealed with key {0}, which is not on the ring")]
    UnknownKey(u32),
    /// It was changed, or sealed for another topic.
    #[error("the seal is broken: changed on the way, cut off, or made for another topic")]
    Broken,
    /// It came before.
    #[error(
        "message {counter} of this sender came before, or is more than {WINDOW} behind its latest, {latest}"
    )]
    Replayed {
        /// Its number.
        counter: u64,
        /// The latest number of its sender.
        latest: u64,
    },
}

/// Seals messages under one sender's name.
#[derive(Debug)]
pub struct Sealer {
    sender: [u8; SENDER_BYTES],
    counter: u64,
}

impl Sealer {
    /// `sender` is 16 random bytes, drawn anew at each start: together with the counter they make the nonce, which must
    /// never come twice under one key.
    pub fn new(sender: [u8; SENDER_BYTES]) -> Self {
        Self { sender, counter: 0 }
    }

    /// Seals a message for a topic with the ring's key for that.
    pub fn seal(&mut self, ring: &Keyring, topic: &str, message: &[u8]) -> Result<Vec<u8>, SealError> {
        let key = ring.sealing().ok_or(SealError::NoKey)?;
        self.counter = self.counter.checked_add(1).ok_or(SealError::UsedUp)?;
        let mut out = Vec::with_capacity(message.len() + SEAL_BYTES);
        out.push(TAG_SEALED);
        out.extend_from_slice(&key.id.to_be_bytes());
        out.extend_from_slice(&self.sender);
        out.extend_from_slice(&self.counter.to_be_bytes());
        let nonce = nonce(&out);
        let associated = associated(&out, topic);
        out.extend_from_slice(message);
        let mut body = Tail { bytes: &mut out, from: HEAD_BYTES };
        key.cipher.encrypt_in_place(&nonce, &associated, &mut body).map_err(|_| SealError::Broken)?;
        Ok(out)
    }
}

/// Opens sealed messages, each once.
#[derive(Debug, Default)]
pub struct Opener {
    senders: BTreeMap<[u8; SENDER_BYTES], Window>,
    opened: u64,
}

impl Opener {
    /// An opener that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens a message that came on a topic.
    pub fn open(&mut self, ring: &Keyring, topic: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        if sealed.first() != Some(&TAG_SEALED) || sealed.len() < SEAL_BYTES {
            return Err(SealError::NotSealed { len_bytes: sealed.len(), first: sealed.first().copied() });
        }
        let (head, body) = sealed.split_at(HEAD_BYTES);
        let (_, named) = head.split_at(1);
        let (id, named) = named.split_at(KEY_ID_BYTES);
        let (sender, counter) = named.split_at(SENDER_BYTES);
        let id = u32::from_be_bytes(id.try_into().map_err(|_| SealError::Broken)?);
        let sender: [u8; SENDER_BYTES] = sender.try_into().map_err(|_| SealError::Broken)?;
        let counter = u64::from_be_bytes(counter.try_into().map_err(|_| SealError::Broken)?);
        let key = ring.get(id).ok_or(SealError::UnknownKey(id))?;
        let mut message = body.to_vec();
        let associated = associated(head, topic);
        let opened = key.cipher.decrypt_in_place(&nonce(head), &associated, &mut message);
        opened.map_err(|_| SealError::Broken)?;
        // Only now is the counter known to be the sender's own.
        self.note(sender, counter)?;
        Ok(message)
    }

    fn note(&mut self, sender: [u8; SENDER_BYTES], counter: u64) -> Result<(), SealError> {
        if !self.senders.contains_key(&sender) && self.senders.len() >= SENDERS_MAX {
            let oldest =
                self.senders.iter().min_by_key(|(_, window)| window.heard).map(|(sender, _)| *sender);
            oldest.and_then(|oldest| self.senders.remove(&oldest));
        }
        self.opened += 1;
        let window = self.senders.entry(sender).or_default();
        window.heard = self.opened;
        window.take(counter)
    }
}

/// The last [`WINDOW`] numbers of a sender, those that came marked: a ring of bits (RFC 6479).
#[derive(Debug, Default)]
struct Window {
    latest: u64,
    seen: [u64; WINDOW as usize / 64],
    /// When the sender was heard last, in opened messages.
    heard: u64,
}

impl Window {
    fn take(&mut self, counter: u64) -> Result<(), SealError> {
        let place = |counter: u64| ((counter % WINDOW / 64) as usize, 1_u64 << (counter % 64));
        let latest = self.latest;
        if counter == 0 || counter.saturating_add(WINDOW) <= latest {
            return Err(SealError::Replayed { counter, latest });
        }
        if counter > latest {
            if counter - latest >= WINDOW {
                self.seen = [0; WINDOW as usize / 64];
            } else {
                for skipped in latest + 1..=counter {
                    let (word, bit) = place(skipped);
                    self.seen[word] &= !bit;
                }
            }
            self.latest = counter;
        }
        let (word, bit) = place(counter);
        if self.seen[word] & bit != 0 {
            return Err(SealError::Replayed { counter, latest });
        }
        self.seen[word] |= bit;
        Ok(())
    }
}

/// The sender's name and its counter, which come once together.
fn nonce(head: &[u8]) -> XNonce {
    let mut nonce = XNonce::default();
    nonce.copy_from_slice(&head[1 + KEY_ID_BYTES..HEAD_BYTES]);
    nonce
}

/// What is not hidden and yet can't be changed: the head, and the topic.
fn associated(head: &[u8], topic: &str) -> Vec<u8> {
    [head, topic.as_bytes()].concat()
}

/// A buffer behind a head that stays as it is.
struct Tail<'a> {
    bytes: &'a mut Vec<u8>,
    from: usize,
}

impl AsRef<[u8]> for Tail<'_> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.from..]
    }
}

impl AsMut<[u8]> for Tail<'_> {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.from..]
    }
}

impl Buffer for Tail<'_> {
    fn extend_from_slice(&mut self, more: &[u8]) -> Result<(), AeadError> {
        self.bytes.extend_from_slice(more);
        Ok(())
    }

    fn truncate(&mut self, len: usize) {
        self.bytes.truncate(self.from + len);
    }
}
