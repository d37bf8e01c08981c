//! From the outboxes to the log: gives each event its position.
//!
//! An event is durable and visible from the moment its document is written; this only finds it its place in the order of
//! all changes. The place is taken by inserting the event, under two unique indexes: one of positions, one of documents
//! and versions. So any number of relays, in any number of processes, may move the same events at once: each event gets
//! one place, each place one event, and no place stays empty, because nobody takes a place before the one before it is
//! taken. A crash leaves events in the outbox that are in the log as well, or not yet: both are found by the next relay.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use mongodb::{
    Collection, Database,
    bson::{Bson, Document as Bsons, doc},
    error::{Error, ErrorKind},
};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{
    failure::is_duplicate,
    record::{event_bytes, event_version, whole},
    value::count,
};
use crate::{DocumentId, watch::Tide};

/// How many writes may wait for the relay of their own process, if [`MongoOptions`](super::MongoOptions) does not say
/// otherwise.
pub const QUEUE_MAX: usize = 4_096;

/// How many events are inserted by one command.
const BATCH_MAX: usize = 512;

/// How many bytes of events are inserted by one command, unless a single one is larger. The server takes 48 MB.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// For how many documents it is remembered how far their events have come. What is forgotten is tried again, and found.
const KNOWN_MAX: usize = 16_384;

/// How long an event that has its place may stay in its outbox. The next write of its document removes it for nothing.
const CLEAR_AFTER: Duration = Duration::from_millis(500);

/// How many documents are cleared by one command.
const CLEAR_STEP: usize = 256;

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

/// For how long a relay trusts the last position that it knows. Were the next one taken and let go of since, it would take
/// it once more, behind everybody's back: places are kept for longer than this ([`PLACES_KEPT`](super::storage::PLACES_KEPT)).
const LAST_TRUSTED: Duration = Duration::from_secs(5 * 60);

/// The longest pause before it is tried again after a failure.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// One document of the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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
    queue_max: usize,
    filled: Notify,
    /// Told when an outbox has grown so long that it should not wait.
    pressing: Notify,
    /// How far the events of documents have come. Held for a look-up.
    known: Mutex<HashMap<Key, Known>>,
    /// Held while events are inserted: one process takes its places one after the other.
    end: tokio::sync::Mutex<End>,
    tide: watch::Sender<Tide>,
}

/// What waits for its places.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Moved>,
    /// How many were taken out to be placed, and come back if that fails. They wait as well.
    placing: usize,
}

/// How far the events of a document have come, by their versions; 0 where nothing is known.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// In the log.
    placed: u64,
    /// In the queue of this process, or further.
    taken: u64,
}

#[derive(Default)]
pub(super) struct End {
    /// The last position, as far as known, and since when.
    last: Option<(u64, Instant)>,
    /// Documents whose outboxes can be emptied, if they are not written again.
    clear: HashMap<Key, Placed>,
}

/// The last event of a document that came into the log, and with it all before.
struct Placed {
    version: u64,
    write: Bson,
    since: Instant,
}

impl End {
    /// Takes out the last position, if it can be trusted still.
    fn take_last(&mut self, now: Instant) -> Option<u64> {
        let (last, since) = self.last.take()?;
        (now.duration_since(since) < LAST_TRUSTED).then_some(last)
    }

    /// Somebody else has taken places.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }
}

impl Relay {
    pub(super) fn new(database: Database, tide: watch::Sender<Tide>, queue_max: usize) -> Self {
        Self {
            queue_max,
            events: database.collection("events"),
            database,
            queue: Mutex::default(),
            filled: Notify::new(),
            pressing: Notify::new(),
            known: Mutex::default(),
            end: tokio::sync::Mutex::default(),
            tide,
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
        let full = {
            let queue = self.queue.lock();
            queue.waiting.len() + queue.placing >= self.queue_max
        };
        if full { self.settle().await } else { Ok(()) }
    }

    /// Takes events that were just written.
    pub(super) fn take(&self, moved: Moved) {
        let last = moved.events.last().map_or(0, event_version);
        let on_their_way = self.note(moved.key.clone(), Known { placed: 0, taken: last });
        self.queue.lock().waiting.push_back(moved);
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
        let mut left = self.queue.lock().waiting.len();
        while left > 0 {
            let batch = self.batch(left);
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
        self.place(&mut end, vec![moved]).await
    }

    /// Keeps this process from taking places, so that another part of it can.
    pub(super) async fn hold(&self) -> tokio::sync::MutexGuard<'_, End> {
        self.end.lock().await
    }

    /// Takes out what is to be placed next, at most so many writes.
    fn batch(&self, writes_max: usize) -> Vec<Moved> {
        let mut queue = self.queue.lock();
        let (mut batch, mut events) = (Vec::new(), 0);
        while events < BATCH_MAX
            && batch.len() < writes_max
            && let Some(moved) = queue.waiting.pop_front()
        {
            events += moved.events.len();
            batch.push(moved);
        }
        queue.placing = batch.len();
        batch
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
            let waited = !self.queue.lock().waiting.is_empty();
            let moved = match self.settle().await {
                Ok(()) => {
                    let rest = if waited { started.elapsed() * REST } else { Duration::ZERO };
                    self.clear(CLEAR_AFTER).await.map(|()| rest.min(self.rest_max()))
                }
                Err(error) => Err(error),
            };
            match moved {
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

    /// Gives places to what has none. On an error the rest of it is taken again later, and so it is when the caller has no
    /// time any more.
    async fn place(&self, end: &mut End, batch: Vec<Moved>) -> Result<(), Error> {
        let mut rows = Rows { waiting: VecDeque::new(), relay: self };
        let mut seen: HashMap<Key, u64> = HashMap::new();
        for moved in batch {
            let seen = seen.entry(moved.key.clone()).or_insert_with(|| self.placed(&moved.key));
            for mut event in moved.events {
                let version = event_version(&event);
                if version <= *seen {
                    continue;
                }
                *seen = version;
                event.insert("collection", &*moved.key.collection);
                event.insert("documentId", moved.key.id.as_str());
                rows.waiting.push_back((moved.key.clone(), event));
            }
        }
        self.insert(end, &mut rows.waiting).await
    }

    async fn insert(&self, end: &mut End, rows: &mut VecDeque<(Key, Bsons)>) -> Result<(), Error> {
        while !rows.is_empty() {
            // Unknown again unless all goes well: also when nobody waits for the answer.
            let started = super::now();
            let last = match end.take_last(started) {
                Some(last) => last,
                None => self.last_position().await?,
            };
            let mut bytes = 0;
            let mut batch: Vec<Bsons> = Vec::new();
            for ((_, row), position) in rows.iter().take(BATCH_MAX).zip(last + 1..) {
                bytes += event_bytes(row);
                if bytes > BATCH_BYTES_MAX && !batch.is_empty() {
                    break;
                }
                let mut row = row.clone();
                row.insert("position", count(position));
                batch.push(row);
            }
            let inserted = match self.events.insert_many(&batch).ordered(true).await {
                Ok(_) => batch.len(),
                Err(error) if is_duplicate(&error) => {
                    let at = first_refused(&error);
                    let refused = &batch[at];
                    if self.is_placed(refused).await? {
                        // Another relay was first, or this one before its connection was cut.
                        let (key, event) = rows.remove(at).expect("it was in the batch");
                        self.done(end, &key, &event);
                    }
                    at
                }
                Err(error) => return Err(error),
            };
            for (key, event) in rows.drain(..inserted) {
                self.done(end, &key, &event);
            }
            let last = last + inserted as u64;
            if inserted == batch.len() {
                end.last = Some((last, started));
            }
            self.rise(last);
        }
        Ok(())
    }

    fn done(&self, end: &mut End, key: &Key, event: &Bsons) {
        let version = event_version(event);
        self.note_placed(key.clone(), version);
        let write = event.get("_id").cloned().unwrap_or(Bson::Null);
        end.clear.insert(key.clone(), Placed { version, write, since: super::now() });
    }

    /// Wakes the watchers.
    pub(super) fn rise(&self, position: u64) {
        self.tide.send_if_modified(|tide| {
            let risen = position > tide.position;
            tide.position = tide.position.max(position);
            risen
        });
    }

    async fn is_placed(&self, event: &Bsons) -> Result<bool, Error> {
        let field = |name: &str| event.get(name).cloned().unwrap_or(Bson::Null);
        let found = doc! {
            "collection": field("collection"),
            "documentId": field("documentId"),
            "sequenceNum": field("sequenceNum"),
        };
        Ok(self.events.find_one(found).projection(doc! {"_id": 1}).await?.is_some())
    }

    pub(super) async fn last_position(&self) -> Result<u64, Error> {
        let options = self.events.find_one(doc! {}).sort(doc! {"position": -1});
        let last = options.projection(doc! {"position": 1}).await?;
        Ok(last.and_then(|event| event.get("position").and_then(whole)).unwrap_or(0))
    }

    /// Empties the outboxes of documents that were not written for a while since all of theirs came into the log.
    pub(super) async fn clear(&self, age: Duration) -> Result<(), Error> {
        let mut old: Vec<(Key, Placed)> = {
            let mut end = self.end.lock().await;
            end.clear.extract_if(|_, placed| placed.since.elapsed() >= age).collect()
        };
        // What was written again by this process has lost them already, and comes here once more.
        old.retain(|(key, placed)| self.taken(key) <= placed.version);
        old.sort_by(|(a, _), (b, _)| a.collection.cmp(&b.collection));
        let of_one = old.chunk_by(|(a, _), (b, _)| a.collection == b.collection);
        for chunk in of_one.flat_map(|same| same.chunks(CLEAR_STEP)) {
            let ids: Vec<&str> = chunk.iter().map(|(key, _)| key.id.as_str()).collect();
            let writes: Vec<&Bson> = chunk.iter().map(|(_, placed)| &placed.write).collect();
            let collection = self.database.collection::<Bsons>(&chunk[0].0.collection);
            // As the last write left them: one that came since, of whatever process, has an event that may have no place.
            let unwritten = doc! {
                "_id": {"$in": ids}, "_weft.write": {"$in": writes}, "_weft.outbox.0": {"$exists": true},
            };
            collection.update_many(unwritten, doc! {"$set": {"_weft.outbox": []}}).await?;
        }
        Ok(())
    }
}

/// Events that are given places; those that have none in the end go back into the queue.
struct Rows<'r> {
    waiting: VecDeque<(Key, Bsons)>,
    relay: &'r Relay,
}

impl Drop for Rows<'_> {
    fn drop(&mut self) {
        let again = !self.waiting.is_empty();
        let mut queue = self.relay.queue.lock();
        queue.placing = 0;
        for (key, event) in self.waiting.drain(..).rev() {
            queue.waiting.push_front(Moved { key, events: vec![event] });
        }
        drop(queue);
        if again {
            self.relay.filled.notify_one();
        }
    }
}

/// Which row of an ordered insert was refused; all before it are in.
fn first_refused(error: &Error) -> usize {
    match &*error.kind {
        ErrorKind::InsertMany(error) => {
            error.write_errors.as_ref().and_then(|errors| errors.first()).map_or(0, |error| error.index)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use mongodb::Client;

    use super::*;

    fn moved(version: u64) -> Moved {
        let key = Key { collection: "games".into(), id: DocumentId::new("chess").unwrap() };
        Moved { key, events: vec![doc! {"sequenceNum": count(version)}] }
    }

    /// Of a server that nobody asks.
    async fn relay() -> Relay {
        let client = Client::with_uri_str("mongodb://127.0.0.1:1").await.unwrap();
        let (tide, _) = watch::channel(Tide { position: 0, closed: false });
        Relay::new(client.database("weft"), tide, QUEUE_MAX)
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

    #[test]
    fn an_old_end_is_looked_for_again() {
        let since = crate::mongo::now();
        let mut end = End { last: Some((7, since)), clear: HashMap::new() };
        assert_eq!(end.take_last(since + LAST_TRUSTED), None);
        end.last = Some((7, since));
        assert_eq!(end.take_last(since + LAST_TRUSTED / 2), Some(7));
        assert!(LAST_TRUSTED * 4 < crate::mongo::storage::PLACES_KEPT, "there is time to insert");
    }

    #[tokio::test]
    async fn what_comes_meanwhile_waits_for_the_next_insert() {
        let relay = relay().await;
        (1..=3).for_each(|version| relay.take(moved(version)));
        let left = relay.queue.lock().waiting.len();
        (4..=5).for_each(|version| relay.take(moved(version)));
        assert_eq!(relay.batch(left).len(), 3);
        assert_eq!(relay.queue.lock().waiting.len(), 2);
    }
}
