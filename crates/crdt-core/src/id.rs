//! Names: who made something, and which something it is.

use std::{fmt, num::NonZeroU64, sync::Arc};

use serde::{Deserialize, Serialize};

/// The largest session id and the largest logical time: 2^53 − 1, the largest integer that JavaScript holds exactly.
pub const MAX_ID: u64 = (1 << 53) - 1;

/// An id that breaks its rule, with the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidId {
    /// A session id outside 0 to 2^53 − 1.
    #[error("session id {0} is above {MAX_ID}")]
    Session(u64),
    /// A client id that is empty or too long.
    #[error("client id of {len} bytes: 1 to {max} are allowed")]
    ClientLength {
        /// Its length in bytes.
        len: usize,
        /// [`ClientId::LEN_BYTES_MAX`].
        max: usize,
    },
    /// A client id with a control character.
    #[error("client id with the control character {0:?}")]
    ClientControl(char),
}

/// One live replica of a CRDT document, drawn at random by that replica.
///
/// Unlike a [`ClientId`], which names a device or user for ever, a session id names one run of one replica: two
/// replicas that use the same session id at the same time break every document that they share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct SessionId(u64);

impl SessionId {
    /// Names the root of every document and "no value".
    pub const SYSTEM: Self = Self(0);
    /// The only session of a document that a server orders.
    pub const SERVER: Self = Self(1);
    /// Default contents that every replica creates alike (schemas).
    pub const GLOBAL: Self = Self(2);
    /// Documents that are never shared.
    pub const LOCAL: Self = Self(3);
    /// Ids below this are reserved. (json-joy's generator can also yield this one itself.)
    pub const RESERVED_END: Self = Self(65_535);
    /// The lowest id that is drawn here.
    pub const USER_MIN: Self = Self(65_536);

    /// Takes an id as it came from outside. Any value up to [`MAX_ID`] may come.
    pub const fn new(id: u64) -> Result<Self, InvalidId> {
        if id <= MAX_ID { Ok(Self(id)) } else { Err(InvalidId::Session(id)) }
    }

    /// Makes a user's id out of 64 random bits, spread evenly over all user ids. The caller brings the randomness.
    pub const fn from_random(bits: u64) -> Self {
        let users = MAX_ID - Self::USER_MIN.0 + 1;
        Self(Self::USER_MIN.0 + ((bits as u128 * users as u128) >> 64) as u64)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl TryFrom<u64> for SessionId {
    type Error = InvalidId;
    fn try_from(id: u64) -> Result<Self, InvalidId> {
        Self::new(id)
    }
}

impl From<SessionId> for u64 {
    fn from(id: SessionId) -> Self {
        id.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A logical timestamp: names one operation, one node, or one element of a sequence.
///
/// Ordered by time first, then by session (Lamport's total order).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timestamp {
    // The order of the fields is the order of comparison.
    /// Lamport time.
    pub time: u64,
    /// Who counted it.
    pub sid: SessionId,
}

impl Timestamp {
    /// The root of every document; as a value, "none".
    pub const ORIGIN: Self = Self { time: 0, sid: SessionId::SYSTEM };

    /// The timestamp of a session at a time.
    pub const fn new(sid: SessionId, time: u64) -> Self {
        Self { time, sid }
    }

    /// The timestamp `ticks` later in the same session.
    pub const fn tick(self, ticks: u64) -> Self {
        Self { time: self.time + ticks, sid: self.sid }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.sid, self.time)
    }
}

/// The `span` consecutive timestamps of one session that start at `start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timespan {
    /// The first.
    pub start: Timestamp,
    /// How many.
    pub span: u64,
}

/// One writer, for ever: a device, a user or a service, as it calls itself. Counts its own writes 1, 2, 3 ….
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClientId(Arc<str>);

impl ClientId {
    /// The longest id.
    pub const LEN_BYTES_MAX: usize = 128;

    /// Takes a name of 1 to [`Self::LEN_BYTES_MAX`] bytes without control characters.
    pub fn new(name: impl AsRef<str>) -> Result<Self, InvalidId> {
        let name = name.as_ref();
        if name.is_empty() || name.len() > Self::LEN_BYTES_MAX {
            return Err(InvalidId::ClientLength { len: name.len(), max: Self::LEN_BYTES_MAX });
        }
        match name.chars().find(|c| c.is_control()) {
            Some(control) => Err(InvalidId::ClientControl(control)),
            None => Ok(Self(name.into())),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ClientId {
    type Error = InvalidId;
    fn try_from(name: String) -> Result<Self, InvalidId> {
        Self::new(name)
    }
}

impl From<ClientId> for String {
    fn from(id: ClientId) -> Self {
        (*id.0).to_owned()
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A count that starts at 1, such as a version, an event's sequence number or a client's sequence.
pub type Count = NonZeroU64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_ordered_by_time_first() {
        let (low, high) = (SessionId(70_000), SessionId(80_000));
        assert!(Timestamp::new(high, 1) < Timestamp::new(low, 2));
        assert!(Timestamp::new(low, 2) < Timestamp::new(high, 2));
    }

    #[test]
    fn random_bits_reach_every_user_id_and_no_other() {
        assert_eq!(SessionId::from_random(0), SessionId::USER_MIN);
        assert_eq!(SessionId::from_random(u64::MAX).get(), MAX_ID);
    }

    #[test]
    fn ids_from_outside_are_checked() {
        assert_eq!(SessionId::new(MAX_ID + 1), Err(InvalidId::Session(MAX_ID + 1)));
        assert_eq!(ClientId::new(""), Err(InvalidId::ClientLength { len: 0, max: 128 }));
        assert_eq!(ClientId::new("a\nb"), Err(InvalidId::ClientControl('\n')));
        assert!(serde_json::from_str::<ClientId>("\"\"").is_err());
        assert!(ClientId::new("browser.7 é").is_ok());
    }
}
