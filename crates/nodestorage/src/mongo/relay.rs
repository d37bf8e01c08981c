//! From the outboxes to the log: gives each event its position.
//!
//! An event is durable and visible from the moment its document is written; this only finds it its place in the order of
//! all changes. The place is taken by inserting the event, under two unique indexes: one of positions, one of documents
//! and versions. So any number of relays, in any number of processes, may move the same events at once: each event gets
//! one place, each place one event, and no place stays empty, because nobody takes a place before the one before it is
//! taken. A crash leaves events in the outbox that are in the log as well, or not yet: both are found by the next relay.

mod places;
mod queue;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use mongodb::{Collection, Database, bson::Document as Bsons, error::Error};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

pub(super) use self::places::End;
pub use self::queue::{QUEUE_BYTES_MAX, QUEUE_MAX};
use self::queue::{Queue, Waiting};
use super::{MongoOptions, failure::of_driver, record::event_version};
use crate::{DocumentId, clock::Clock, retry, watch::Tide};

/// For how many documents it is remembered how far their events have come. What is forgotten is tried again, and found.
const KNOWN_MAX: usize = 16_384;

/// How long an event that has its place may stay in its outbox. The next write of its document removes it for nothing.
const CLEAR_AFTER: Duration = Duration::from_millis(500);

/// After an insert the relay rests for so many times as long as the insert took, so that most of the server's time is for
/// writers; meanwhile events gather, and go by one insert. An event that comes when the relay has rested goes at once, and
/// so does one that somebody asks for.
const REST: u32 = 8;

/// The longest rest while somebody watches in this process.
const REST_MAX: Duration = Duration::from_millis(20);

/// The longest rest while nobody does: a command costs the server as much as twenty rows, so the fewer the better.
const REST_UNWATCHED_MAX: Duration = Duration::from_millis(50);

/// So many events in one document's outbox end the rest: each further write of it would carry all of them.
const PRESSING: u64 = 16;

/// How many documents may wait to be recorded as they are. What comes on top is told by a warning alone.
const DOUBTS_MAX: usize = 4_096;

/// How long the relay waits for one move. After that it is tried again, by another connection: the log refuses what it has.
const MOVE_TIME_MAX: Duration = Duration::from_secs(60);

/// The longest pause before it is tried again after a failure.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// One document of the store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) collection: Arc<str>,
    pub(super) id: DocumentId,
}

/// Events of one document, in the order of their versions, without a gap.
#[derive(Debug)]
pub(super) struct Moved {
    pub(super) key: Key,
    pub(super) events: Vec<Bsons>,
}

pub(super) struct Relay {
    database: Database,
    events: Collection<Bsons>,
    // Held for a push or a pop.
    queue: Mutex<Queue>,
    filled: Notify,
    /// Told when an outbox has grown so long that it should not wait.
    pressing: Notify,
    /// How far the events of documents have come. Held for a look-up.
    known: Mutex<HashMap<Key, Known>>,
    /// Held while events are inserted: one process takes its places one after the other.
    end: tokio::sync::Mutex<End>,
    tide: watch::Sender<Tide>,
    /// Documents whose events the log has refused, because another one has their number or their name. Held for a push or a look.
    doubts: Mutex<BTreeMap<Key, Doubt>>,
    /// Told when there is one more.
    doubted: watch::Sender<()>,
    clock: Clock,
}

/// What was wrong with an event that the log refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// Another write has its number.
    Numbered,
    /// It is the event of another document.
    Named,
}

/// How far the events of a document have come, by their versions; 0 where nothing is known.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// In the log.
    placed: u64,
    /// In the queue of this process, or further.
    taken: u64,
}

impl Relay {
    pub(super) fn new(database: Database, tide: watch::Sender<Tide>, options: &MongoOptions) -> Self {
        Self {
            events: database.collection("events"),
            database,
            queue: Mutex::new(Queue::new(options.queue_max, options.queue_bytes_max)),
            filled: Notify::new(),
            pressing: Notify::new(),
            known: Mutex::default(),
            end: tokio::sync::Mutex::default(),
            tide,
            doubts: Mutex::default(),
            doubted: watch::channel(()).0,
            clock: options.clock.clone(),
        }
    }

    /// Up to which version the events of a document are known to be in the log; 0 if nothing is known.
    pub(super) fn placed(&self, key: &Key) -> u64 {
        self.known.lock().get(key).map_or(0, |known| known.placed)
    }

    /// Whether an event of a document needs nobody else: it is in the log, or this process sees to it.
    pub(super) fn sees_to(&self, key: &Key, version: u64) -> bool {
        self.known.lock().get(key).is_some_and(|known| known.placed.max(known.taken) >= version)
    }

    /// Up to which version this process sees to the events of a document; 0 if nothing is known.
    pub(super) fn taken(&self, key: &Key) -> u64 {
        self.known.lock().get(key).map_or(0, |known| known.taken)
    }

    /// Up to which version the events of a document are known to be in the log or on their way.
    pub(super) fn reached(&self, key: &Key) -> u64 {
        self.known.lock().get(key).map_or(0, |known| known.placed.max(known.taken))
    }

    /// Keeps a document to be recorded as it is, because the log has refused one of its events.
    pub(super) fn doubt(&self, key: Key, doubt: Doubt) {
        let mut doubts = self.doubts.lock();
        if doubts.len() < DOUBTS_MAX {
            doubts.insert(key, doubt);
            self.doubted.send_replace(());
        }
    }

    /// Says when a document is doubted.
    pub(super) fn doubted(&self) -> watch::Receiver<()> {
        self.doubted.subscribe()
    }

    /// Takes out the documents of a collection that are doubted.
    pub(super) fn doubts_of(&self, collection: &str) -> Vec<(DocumentId, Doubt)> {
        let doubts = &mut *self.doubts.lock();
        doubts
            .extract_if(.., |key, _| *key.collection == *collection)
            .map(|(key, doubt)| (key.id, doubt))
            .collect()
    }

    /// Knows nothing any more of one document's events.
    pub(super) fn forget_one(&self, key: &Key) {
        self.known.lock().remove(key);
    }

    /// Knows nothing any more of what is in the log, and where it ends: somebody may have put it back. The log refuses what it has.
    pub(super) async fn forget(&self) {
        self.forget_at(&mut *self.end.lock().await);
    }

    fn forget_at(&self, end: &mut End) {
        *end = End::default();
        self.known.lock().clear();
    }

    /// The log was put back: those who watch are told, and whatever is known of it is known of another life.
    pub(super) async fn begin_anew(&self) -> Result<(), Error> {
        // Nobody of this process takes a place meanwhile.
        let mut end = self.end.lock().await;
        self.forget_at(&mut end);
        let last = self.last_position().await?;
        self.tide.send_modify(|tide| {
            tide.position = last;
            tide.put_back += 1;
        });
        Ok(())
    }

    /// Looks where the log ends, and wakes the watchers. Where it ends before a position that it had, it was put back.
    pub(super) async fn look(&self) -> Result<(), Error> {
        let had = self.tide.borrow().position;
        let last = self.last_position().await?;
        if last < had {
            tracing::warn!(
                last,
                had,
                "the log ends before where it did: it was put back, and who watches is told"
            );
            return self.begin_anew().await;
        }
        self.rise(last);
        Ok(())
    }

    /// Learns that an event is in the log.
    pub(super) fn note_placed(&self, key: Key, version: u64) {
        self.note(key, Known { placed: version, taken: 0 });
    }

    /// Answers with how many events of the document are on their way.
    fn note(&self, key: Key, news: Known) -> u64 {
        let mut all = self.known.lock();
        if all.len() >= KNOWN_MAX && !all.contains_key(&key) {
            all.clear();
        }
        let known = all.entry(key).or_default();
        known.placed = known.placed.max(news.placed);
        known.taken = known.taken.max(news.taken);
        known.taken.saturating_sub(known.placed)
    }

    /// Sees to it that there is room for one more. Writers that are let in at once may each bring one over the bound.
    pub(super) async fn make_room(&self) -> Result<(), Error> {
        let full = self.queue.lock().is_full();
        if full { self.settle().await } else { Ok(()) }
    }

    /// Takes events that were just written.
    pub(super) fn take(&self, moved: Moved) {
        let last = moved.events.last().map_or(0, event_version);
        let on_their_way = self.note(moved.key.clone(), Known { placed: 0, taken: last });
        self.queue.lock().push(moved, (self.clock)());
        self.filled.notify_one();
        if on_their_way >= PRESSING {
            self.pressing.notify_one();
        }
    }

    /// Moves everything that was taken before the call.
    pub(super) async fn settle(&self) -> Result<(), Error> {
        let mut end = self.end.lock().await;
        self.settle_at(&mut end).await
    }

    async fn settle_at(&self, end: &mut End) -> Result<(), Error> {
        // Not what comes meanwhile: while somebody writes there is always some, and each insert would be a small one.
        let mut left = self.queue.lock().len();
        while left > 0 {
            let batch = self.queue.lock().take(left);
            left -= batch.len();
            self.place(end, batch).await?;
        }
        Ok(())
    }

    /// Moves events that may have been moved already, behind everything that was taken before: what this process wrote
    /// first has the lower position, whichever document somebody looks at.
    pub(super) async fn place_now(&self, moved: Moved) -> Result<(), Error> {
        let mut end = self.end.lock().await;
        self.settle_at(&mut end).await?;
        let waiting = Waiting { moved, since_ms: (self.clock)() };
        self.place(&mut end, vec![waiting]).await
    }

    /// Keeps this process from taking places, so that another part of it can.
    pub(super) async fn hold(&self) -> tokio::sync::MutexGuard<'_, End> {
        self.end.lock().await
    }

    /// Runs until the store is closed.
    pub(super) async fn run(self: Arc<Self>) {
        let mut pause = Duration::from_millis(10);
        loop {
            tokio::select! {
                () = self.filled.notified() => {}
                () = tokio::time::sleep(CLEAR_AFTER) => {}
            }
            let started = super::now();
            let waited = self.queue.lock().len() > 0;
            // A server that takes a command and is never heard of again must not hold up all that come after.
            let moved = async {
                self.settle().await.map_err(|e| of_driver(&e))?;
                let rest = if waited { started.elapsed() * REST } else { Duration::ZERO };
                self.clear(CLEAR_AFTER).await.map_err(|e| of_driver(&e))?;
                Ok(rest.min(self.rest_max()))
            };
            match retry::within(MOVE_TIME_MAX, moved).await {
                Ok(rest) => {
                    pause = Duration::from_millis(10);
                    // Outboxes that were long before the insert are not any more.
                    let _ = self.pressing.notified().now_or_never();
                    tokio::select! {
                        () = tokio::time::sleep(rest) => {}
                        () = self.pressing.notified() => {}
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "events wait in their outboxes: the log can't be written");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                    self.filled.notify_one();
                }
            }
        }
    }

    fn rest_max(&self) -> Duration {
        if self.tide.receiver_count() > 0 { REST_MAX } else { REST_UNWATCHED_MAX }
    }

    /// Wakes the watchers.
    pub(super) fn rise(&self, position: u64) {
        self.tide.send_if_modified(|tide| {
            let risen = position > tide.position;
            tide.position = tide.position.max(position);
            risen
        });
    }
}

#[cfg(test)]
mod tests {
    use mongodb::{Client, bson::doc};

    use super::*;
    use crate::mongo::value::count;

    fn moved(version: u64) -> Moved {
        let key = Key { collection: "games".into(), id: DocumentId::new("chess").unwrap() };
        Moved { key, events: vec![doc! {"sequenceNum": count(version)}] }
    }

    /// Of a server that nobody asks.
    async fn relay() -> Relay {
        let client = Client::with_uri_str("mongodb://127.0.0.1:1").await.unwrap();
        let (tide, _) = watch::channel(Tide { position: 0, put_back: 0, closed: false });
        Relay::new(client.database("weft"), tide, &MongoOptions::default())
    }

    #[tokio::test]
    async fn an_outbox_that_grows_long_ends_the_rest() {
        let relay = relay().await;
        let is_pressing = || relay.pressing.notified().now_or_never().is_some();
        for version in 1..PRESSING {
            relay.take(moved(version));
            assert!(!is_pressing(), "{version}");
        }
        relay.take(moved(PRESSING));
        assert!(is_pressing());
        relay.note_placed(moved(1).key, PRESSING);
        relay.take(moved(PRESSING + 1));
        assert!(!is_pressing(), "what has its place leaves with the next write");
    }

    #[tokio::test]
    async fn the_relay_rests_longer_while_nobody_watches() {
        let relay = relay().await;
        assert_eq!(relay.rest_max(), REST_UNWATCHED_MAX);
        let watcher = relay.tide.subscribe();
        assert_eq!(relay.rest_max(), REST_MAX);
        drop(watcher);
        assert_eq!(relay.rest_max(), REST_UNWATCHED_MAX);
    }
}
