//! Who in this process gets which message: the table of subscriptions, and the way from a message to their rings.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, HashMap},
    hash::{Hash, Hasher},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use async_trait::async_trait;
use parking_lot::RwLock;

use crate::{
    Delivery, Message, PubSubError, Published, Received, SubscriptionOptions, Topic, TopicPattern,
    ring::{Pushed, Ring},
};

/// The subscriptions of one transport in this process.
#[derive(Debug, Default)]
pub(crate) struct Fanout {
    /// Publishers read it for as long as it takes to find their lists; subscribing and unsubscribing writes it.
    table: RwLock<Table>,
}

/// Copied only if a publisher holds it while a subscription comes or goes.
type Rings = Arc<Vec<Arc<Ring>>>;

#[derive(Debug, Default)]
struct Table {
    exact: HashMap<TopicKey, Rings>,
    /// By length, then by prefix, so that a topic is looked up once per length in use.
    prefixes: BTreeMap<usize, HashMap<Arc<str>, Rings>>,
    closed: bool,
}

/// A topic that can be looked up by its name.
#[derive(Debug, PartialEq, Eq)]
struct TopicKey(Topic);

impl Borrow<str> for TopicKey {
    fn borrow(&self) -> &str {
        self.0.as_str()
    }
}

impl Hash for TopicKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.as_str().hash(state);
    }
}

impl Fanout {
    /// Adds a subscription. Also says whether it is the first one with this pattern.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        pattern: TopicPattern,
        options: SubscriptionOptions,
    ) -> Result<(Feed, bool), PubSubError> {
        let ring = Arc::new(Ring::new(options));
        let mut table = self.table.write();
        if table.closed {
            return Err(PubSubError::Closed);
        }
        let rings = Arc::make_mut(table.rings_mut(&pattern));
        ring.place.store(rings.len(), Relaxed);
        rings.push(Arc::clone(&ring));
        let first = rings.len() == 1;
        drop(table);
        Ok((Feed { ring, pattern, fanout: Some(Arc::clone(self)) }, first))
    }

    /// Hands a message to every subscription whose pattern matches its topic.
    pub(crate) fn publish(&self, message: &Message) -> Result<Published, PubSubError> {
        let name = message.topic.as_str();
        let table = self.table.read();
        if table.closed {
            return Err(PubSubError::Closed);
        }
        let exact = table.exact.get(name).cloned();
        // An empty Vec allocates nothing, and most topics match no prefix.
        let mut by_prefix = Vec::new();
        for (&len, prefixes) in table.prefixes.range(..=name.len()) {
            // Not at a character boundary: then the topic can't start with a prefix of this length.
            if let Some(rings) = name.get(..len).and_then(|start| prefixes.get(start)) {
                by_prefix.push(Arc::clone(rings));
            }
        }
        drop(table); // Wake-ups run without the lock.
        let mut published = Published::default();
        for rings in exact.iter().chain(&by_prefix) {
            hand_out(rings, message, &mut published);
        }
        Ok(published)
    }

    /// Ends all subscriptions and refuses new ones.
    pub(crate) fn close(&self) {
        let table = std::mem::replace(&mut *self.table.write(), Table { closed: true, ..Table::default() });
        let prefixes = table.prefixes.values().flat_map(HashMap::values);
        for ring in table.exact.values().chain(prefixes).flat_map(|rings| rings.iter()) {
            ring.close();
        }
    }

    /// Takes a ring out. Says whether it was the last one with this pattern.
    fn unsubscribe(&self, pattern: &TopicPattern, ring: &Ring) -> bool {
        let mut table = self.table.write();
        if table.closed {
            return false;
        }
        let rings = Arc::make_mut(table.rings_mut(pattern));
        let place = ring.place.load(Relaxed);
        let gone = rings.swap_remove(place);
        debug_assert!(std::ptr::eq(&*gone, ring));
        if let Some(moved) = rings.get(place) {
            moved.place.store(place, Relaxed);
        }
        let last = rings.is_empty();
        if last {
            table.remove(pattern);
        }
        last
    }
}

/// For brokers, which match patterns by themselves and may lose messages on the way.
#[cfg(feature = "redis")]
impl Fanout {
    /// Hands a message to the subscriptions with exactly this pattern, for brokers that match by themselves.
    pub(crate) fn deliver(&self, pattern: &TopicPattern, message: &Message) -> Published {
        let rings = self.table.read().rings(pattern).cloned();
        let mut published = Published::default();
        if let Some(rings) = rings {
            hand_out(&rings, message, &mut published);
        }
        published
    }

    /// Tells the subscriptions with exactly this pattern that messages may be missing.
    pub(crate) fn gap(&self, pattern: &TopicPattern, reason: &str) {
        let rings = self.table.read().rings(pattern).cloned();
        for ring in rings.iter().flat_map(|rings| rings.iter()) {
            ring.push_gap(reason);
        }
    }

    /// Whether anybody subscribes with exactly this pattern.
    pub(crate) fn wants(&self, pattern: &TopicPattern) -> bool {
        self.table.read().rings(pattern).is_some()
    }
}

fn hand_out(rings: &[Arc<Ring>], message: &Message, published: &mut Published) {
    for ring in rings {
        match ring.push(message.clone()) {
            Pushed::Taken => published.delivered += 1,
            Pushed::Dropped => {
                published.delivered += 1;
                published.dropped += 1;
            }
            Pushed::Closed => {}
        }
    }
}

impl Table {
    #[cfg(feature = "redis")]
    fn rings(&self, pattern: &TopicPattern) -> Option<&Rings> {
        match pattern {
            TopicPattern::Exact(topic) => self.exact.get(topic.as_str()),
            TopicPattern::Prefix(prefix) => self.prefixes.get(&prefix.len())?.get(prefix),
        }
    }

    fn rings_mut(&mut self, pattern: &TopicPattern) -> &mut Rings {
        match pattern {
            TopicPattern::Exact(topic) => self.exact.entry(TopicKey(topic.clone())).or_default(),
            TopicPattern::Prefix(prefix) => {
                self.prefixes.entry(prefix.len()).or_default().entry(Arc::clone(prefix)).or_default()
            }
        }
    }

    fn remove(&mut self, pattern: &TopicPattern) {
        match pattern {
            TopicPattern::Exact(topic) => drop(self.exact.remove(topic.as_str())),
            TopicPattern::Prefix(prefix) => {
                let Some(prefixes) = self.prefixes.get_mut(&prefix.len()) else { return };
                prefixes.remove(prefix);
                if prefixes.is_empty() {
                    self.prefixes.remove(&prefix.len());
                }
            }
        }
    }
}

/// The reader's end. Dropping it unsubscribes.
#[derive(Debug)]
pub(crate) struct Feed {
    ring: Arc<Ring>,
    pattern: TopicPattern,
    /// `None` once left.
    fanout: Option<Arc<Fanout>>,
}

impl Feed {
    /// Unsubscribes. Says whether nobody with this pattern is left; on repetition, `false`.
    pub(crate) fn leave(&mut self) -> bool {
        let Some(fanout) = self.fanout.take() else { return false };
        let last = fanout.unsubscribe(&self.pattern, &self.ring);
        self.ring.abandon();
        last
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.leave();
    }
}

#[async_trait]
impl Delivery for Feed {
    async fn recv(&mut self) -> Option<Received> {
        self.ring.recv().await
    }

    fn try_recv(&mut self) -> Option<Received> {
        self.ring.try_recv()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscribe(fanout: &Arc<Fanout>, pattern: &str) -> Feed {
        fanout.subscribe(TopicPattern::new(pattern).unwrap(), SubscriptionOptions::STANDARD).unwrap().0
    }

    fn publish(fanout: &Fanout, topic: &str) -> usize {
        let topic = Topic::new(topic).unwrap();
        fanout.publish(&Message { topic, payload: "x".into() }).unwrap().delivered
    }

    #[test]
    fn every_matching_pattern_gets_its_copy() {
        let fanout = Arc::new(Fanout::default());
        let _feeds = ["*", "a*", "a:b*", "a:b", "a:b", "ä*", "b"].map(|pattern| subscribe(&fanout, pattern));
        assert_eq!(publish(&fanout, "a:b"), 5);
        assert_eq!(publish(&fanout, "a"), 2);
        assert_eq!(publish(&fanout, "ä"), 2);
        assert_eq!(publish(&fanout, "äb"), 2);
        // Shares the first byte with `ä`, so the prefixes of one byte end inside of a character.
        assert_eq!(publish(&fanout, "ö"), 1);
    }

    #[test]
    fn leaving_in_any_order_leaves_the_others_and_no_rest() {
        let fanout = Arc::new(Fanout::default());
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            for pattern in ["t", "t*"] {
                let mut feeds = [0; 3].map(|_| Some(subscribe(&fanout, pattern)));
                for (left, gone) in order.into_iter().enumerate() {
                    assert_eq!(publish(&fanout, "t"), 3 - left);
                    let last = feeds[gone].take().unwrap().leave();
                    assert_eq!(last, left == 2);
                }
                let table = fanout.table.read();
                assert!(table.exact.is_empty() && table.prefixes.is_empty());
            }
        }
    }

    #[test]
    fn only_the_first_subscription_with_a_pattern_is_the_first() {
        let fanout = Arc::new(Fanout::default());
        let pattern = || TopicPattern::new("a*").unwrap();
        let (one, first) = fanout.subscribe(pattern(), SubscriptionOptions::STANDARD).unwrap();
        assert!(first);
        let (mut two, first) = fanout.subscribe(pattern(), SubscriptionOptions::STANDARD).unwrap();
        assert!(!first);
        drop(one);
        assert!(two.leave());
        assert!(!two.leave());
    }
}
