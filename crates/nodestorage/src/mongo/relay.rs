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

/// The longest rest.
const REST_MAX: Duration = Duration::from_millis(20);

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
    /// The last position, as far as known.
    last: Option<u64>,
    /// What can go from the outboxes: the ids of the events, and since when.
    clear: HashMap<Key, (Vec<Bson>, Instant)>,
}

impl End {
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

    fn note(&self, key: Key, news: Known) {
        let mut all = self.known.lock();
        if all.len() >= KNOWN_MAX && !all.contains_key(&key) {
            all.clear();
        }
        let known = all.entry(key).or_default();
        known.placed = known.placed.max(news.placed);
        known.taken = known.taken.max(news.taken);
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
        if let Some(last) = moved.events.last() {
            self.note(moved.key.clone(), Known { placed: 0, taken: event_version(last) });
        }
        self.queue.lock().waiting.push_back(moved);
        self.filled.notify_one();
    }

    /// Moves everything that was taken before the call.
    pub(super) async fn settle(&self) -> Result<(), Error> {
        let mut end = self.end.lock().await;
        self.settle_at(&mut end).await
    }

    async fn settle_at(&self, end: &mut End) -> Result<(), Error> {
        loop {
            let batch = self.batch();
            if batch.is_empty() {
                return Ok(());
            }
            self.place(end, batch).await?;
        }
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

    fn batch(&self) -> Vec<Moved> {
        let mut queue = self.queue.lock();
        let (mut batch, mut events) = (Vec::new(), 0);
        while events < BATCH_MAX
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
                    self.clear(CLEAR_AFTER).await.map(|()| rest.min(REST_MAX))
                }
                Err(error) => Err(error),
            };
            match moved {
                Ok(rest) => {
                    pause = Duration::from_millis(10);
                    tokio::time::sleep(rest).await;
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
            let last = match end.last.take() {
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
                end.last = Some(last);
            }
            self.rise(last);
        }
        Ok(())
    }

    fn done(&self, end: &mut End, key: &Key, event: &Bsons) {
        self.note_placed(key.clone(), event_version(event));
        let write = event.get("_id").cloned().unwrap_or(Bson::Null);
        let clear = end.clear.entry(key.clone()).or_insert_with(|| (Vec::new(), super::now()));
        clear.0.push(write);
        clear.1 = super::now();
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

    /// Removes from the outboxes what has been in the log for a while.
    pub(super) async fn clear(&self, age: Duration) -> Result<(), Error> {
        let mut old: Vec<(Key, Vec<Bson>)> = {
            let mut end = self.end.lock().await;
            let old =
                |(events, since): &(Vec<Bson>, Instant)| since.elapsed() >= age || events.len() >= CLEAR_STEP;
            end.clear.extract_if(|_, waiting| old(waiting)).map(|(key, (events, _))| (key, events)).collect()
        };
        old.sort_by(|(a, _), (b, _)| a.collection.cmp(&b.collection));
        let of_one = old.chunk_by(|(a, _), (b, _)| a.collection == b.collection);
        for chunk in of_one.flat_map(|same| same.chunks(CLEAR_STEP)) {
            let ids: Vec<&str> = chunk.iter().map(|(key, _)| key.id.as_str()).collect();
            let events: Vec<&Bson> = chunk.iter().flat_map(|(_, events)| events).collect();
            let collection = self.database.collection::<Bsons>(&chunk[0].0.collection);
            let pull = doc! {"$pull": {"_weft.outbox": {"_id": {"$in": events}}}};
            // What fails here goes with the next write of its document.
            collection
                .update_many(doc! {"_id": {"$in": ids}, "_weft.outbox.0": {"$exists": true}}, pull)
                .await?;
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
