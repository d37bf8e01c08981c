//! What is published to, and what is subscribed to.

use std::{borrow::Borrow, fmt, sync::Arc};

/// The name of a topic: 1 to [`Self::LEN_BYTES_MAX`] bytes of UTF-8 without `*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Arc<str>);

/// A topic, or with a `*` at the end all topics that start so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TopicPattern {
    /// Exactly this topic.
    Exact(Topic),
    /// Every topic that starts with this, which may be empty.
    Prefix(Arc<str>),
}

/// A name that is no topic or pattern, with the rule that it breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidTopic {
    /// Empty or too long.
    #[error("topic of {len} bytes: 1 to {} are allowed", Topic::LEN_BYTES_MAX)]
    Length {
        /// Its length in bytes.
        len: usize,
    },
    /// A `*` in a topic, or in a pattern at another place than the end.
    #[error("`*` at byte {at}: a pattern has one, at its end, and a topic none")]
    Star {
        /// Where.
        at: usize,
    },
    /// Bytes that are not UTF-8.
    #[error("topic is not UTF-8 after byte {valid_up_to}")]
    Utf8 {
        /// How much of it was.
        valid_up_to: usize,
    },
}

impl Topic {
    /// The longest topic.
    pub const LEN_BYTES_MAX: usize = 255;

    /// Takes a name from outside.
    pub fn new(name: impl AsRef<str>) -> Result<Self, InvalidTopic> {
        Self::check(name.as_ref()).map(|name| Self(name.into()))
    }

    /// Whether both are clones of one topic; equal ones may not be.
    #[inline]
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether it could be a topic, without making one.
    pub fn check(name: &str) -> Result<&str, InvalidTopic> {
        if name.is_empty() || name.len() > Self::LEN_BYTES_MAX {
            return Err(InvalidTopic::Length { len: name.len() });
        }
        match name.find('*') {
            Some(at) => Err(InvalidTopic::Star { at }),
            None => Ok(name),
        }
    }

    /// [`check`](Self::check) of a name from the wire.
    pub fn check_bytes(name: &[u8]) -> Result<&str, InvalidTopic> {
        Self::check(
            std::str::from_utf8(name).map_err(|e| InvalidTopic::Utf8 { valid_up_to: e.valid_up_to() })?,
        )
    }

    /// Takes a name from the wire.
    pub fn from_bytes(name: &[u8]) -> Result<Self, InvalidTopic> {
        Self::check_bytes(name).map(|name| Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TopicPattern {
    /// Takes a pattern from outside: a topic, or a prefix with `*` at the end.
    pub fn new(pattern: impl AsRef<str>) -> Result<Self, InvalidTopic> {
        let pattern = pattern.as_ref();
        match pattern.strip_suffix('*') {
            None => Topic::new(pattern).map(Self::Exact),
            Some(prefix) if prefix.len() > Topic::LEN_BYTES_MAX => {
                Err(InvalidTopic::Length { len: prefix.len() })
            }
            Some(prefix) => match prefix.find('*') {
                Some(at) => Err(InvalidTopic::Star { at }),
                None => Ok(Self::Prefix(prefix.into())),
            },
        }
    }

    /// Whether messages to `topic` are meant.
    pub fn matches(&self, topic: &Topic) -> bool {
        match self {
            Self::Exact(exact) => exact == topic,
            Self::Prefix(prefix) => topic.as_str().starts_with(&**prefix),
        }
    }
}

/// So that a table of topics can be asked with a name that was only checked.
impl Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<Topic> for TopicPattern {
    fn from(topic: Topic) -> Self {
        Self::Exact(topic)
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(topic) => topic.fmt(f),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        let check = |name: &str, expect: Result<&str, InvalidTopic>| {
            assert_eq!(Topic::new(name).map(|t| t.to_string()), expect.map(str::to_owned));
        };
        check("game:player1", Ok("game:player1"));
        check("", Err(InvalidTopic::Length { len: 0 }));
        check(&"x".repeat(256), Err(InvalidTopic::Length { len: 256 }));
        check("a*", Err(InvalidTopic::Star { at: 1 }));
        assert_eq!(Topic::from_bytes(b"ab\xff"), Err(InvalidTopic::Utf8 { valid_up_to: 2 }));
    }

    #[test]
    fn a_pattern_has_one_star_at_its_end() {
        let matches = |pattern: &str, topic: &str| {
            TopicPattern::new(pattern).unwrap().matches(&Topic::new(topic).unwrap())
        };
        assert!(matches("game:*", "game:score"));
        assert!(!matches("game:*", "chat"));
        assert!(matches("*", "chat"));
        assert!(matches("chat", "chat"));
        assert!(!matches("chat", "chat:1"));
        assert_eq!(TopicPattern::new("a*b*"), Err(InvalidTopic::Star { at: 1 }));
        assert_eq!(TopicPattern::new("a*b"), Err(InvalidTopic::Star { at: 1 }));
    }
}
