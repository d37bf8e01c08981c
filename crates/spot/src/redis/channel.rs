//! Topics and patterns as Redis channels and globs, and back.

use crate::{InvalidTopic, Topic, TopicPattern};

/// What Redis takes for more than a character in a pattern.
const GLOB: &[u8] = br"*?[]\";

/// Puts a key prefix in front of all channels, so that several groups can share a Redis server.
#[derive(Debug, Clone)]
pub(super) struct Channels {
    prefix: String,
}

impl Channels {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    pub(super) fn channel(&self, topic: &Topic) -> Vec<u8> {
        [self.prefix.as_bytes(), topic.as_str().as_bytes()].concat()
    }

    /// The topic of a channel, or why it is none: others may publish what they like under our prefix.
    pub(super) fn topic(&self, channel: &[u8]) -> Result<Topic, InvalidTopic> {
        Topic::from_bytes(channel.strip_prefix(self.prefix.as_bytes()).unwrap_or_default())
    }

    /// The glob that matches a prefix literally.
    pub(super) fn glob(&self, prefix: &str) -> Vec<u8> {
        let mut glob = Vec::with_capacity(self.prefix.len() + prefix.len() + 1);
        for byte in self.prefix.bytes().chain(prefix.bytes()) {
            if GLOB.contains(&byte) {
                glob.push(b'\\');
            }
            glob.push(byte);
        }
        glob.push(b'*');
        glob
    }

    /// The pattern that a glob of ours stands for.
    pub(super) fn pattern(&self, glob: &[u8]) -> Option<TopicPattern> {
        let mut literal = Vec::with_capacity(glob.len());
        let mut bytes = glob.strip_suffix(b"*")?.iter();
        while let Some(&byte) = bytes.next() {
            literal.push(if byte == b'\\' { *bytes.next()? } else { byte });
        }
        let prefix = std::str::from_utf8(literal.strip_prefix(self.prefix.as_bytes())?).ok()?;
        TopicPattern::new(format!("{prefix}*")).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn globs_are_literal_but_for_their_last_star() {
        let channels = Channels::new("we[f]t:");
        assert_eq!(channels.glob(r"a?\b"), br"we\[f\]t:a\?\\b*");
        assert_eq!(channels.glob(""), br"we\[f\]t:*");
        assert_eq!(channels.topic(b"we[f]t:a").unwrap().as_str(), "a");
        assert!(channels.topic(b"other:a").is_err());
        assert!(channels.topic(b"we[f]t:").is_err());
    }

    proptest! {
        #[test]
        fn names_come_back(prefix in r"[a-z\[\]\\?*:]{0,5}", name in r"[a-zé\[\]\\?^-]{1,20}") {
            let channels = Channels::new(&prefix);
            let topic = Topic::new(&name).unwrap();
            prop_assert_eq!(channels.topic(&channels.channel(&topic)).unwrap(), topic);
            let pattern = TopicPattern::new(format!("{name}*")).unwrap();
            prop_assert_eq!(channels.pattern(&channels.glob(&name)), Some(pattern));
        }
    }
}
