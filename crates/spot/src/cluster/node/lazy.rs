//! State that most topics never need.

use std::ops::{Deref, DerefMut};

/// What a state is before anything has happened to it.
pub(super) trait Blank: 'static {
    /// To read from.
    const BLANK: &'static Self;

    /// To begin with.
    fn blank() -> Self;
}

/// A state that takes a word until it is changed for the first time; until then it reads as it begins. To look at it with
/// `&mut` is to change it, so who only wants to tidy up asks [`get_mut`](Self::get_mut).
#[derive(Debug)]
pub(super) struct Lazy<T>(Option<Box<T>>);

impl<T> Lazy<T> {
    pub(super) const fn new() -> Self {
        Self(None)
    }

    /// The state if it was ever changed.
    pub(super) fn get_mut(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }
}

impl<T: Blank> Deref for Lazy<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or(T::BLANK)
    }
}

impl<T: Blank> DerefMut for Lazy<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_with(|| Box::new(T::blank()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;

    #[test]
    fn a_topic_that_nobody_uses_has_nothing_on_the_heap_but_its_name() {
        let mut node = Node::new(NodeOptions::standard(NodeId(0), 1));
        node.topic_create("quiet", TopicOptions::STANDARD).expect("a good name");
        node.topic_create("used", TopicOptions::STANDARD).expect("a good name");
        for _ in 0..3 {
            let _ = node.publish("used", &bytes::Bytes::from_static(b"x"), false);
        }
        // Time goes by, and it is looked at from all sides.
        node.advance(std::time::Duration::from_secs(5));
        assert_eq!(node.list_topics().len(), 2);
        let quiet = &mut node.topics[0];
        let local = quiet.local.as_mut().expect("it is ours");
        let made = [
            local.flow.get_mut().is_some(),
            quiet.elsewhere.get_mut().is_some(),
            quiet.subs.get_mut().is_some(),
            quiet.upstream.get_mut().is_some(),
            quiet.uplink.is_some(),
        ];
        assert_eq!(made, [false; 5]);
        let used = node.topics[1].local.as_ref().expect("it is ours");
        assert_eq!(used.flow.log.next(), 4);
        assert!(size_of::<TopicState>() <= 96, "{} bytes of each topic", size_of::<TopicState>());
    }
}
