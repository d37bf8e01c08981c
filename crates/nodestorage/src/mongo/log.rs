//! The log: all events of the store in the order of their positions, and who tells that it has grown.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::TryStreamExt;
use mongodb::{
    bson::{Document as Bsons, doc},
    change_stream::event::{ChangeStreamEvent, OperationType},
    error::Error,
};

use super::{
    Shared,
    failure::{Failure, has_no_streams, is_passing, is_refusal},
    record::{decode_event, event_version, id_of, whole},
    relay::Key,
    value::count,
};
use crate::{
    StorageError,
    watch::{Log, LogEntry, LogPage, PAGE_BYTES_MAX},
};

/// The pause before a change stream is opened again after a failure.
pub(super) const STREAM_PAUSE: Duration = Duration::from_millis(200);

/// What stands in the place of a document's name in a mark that something was missed. No document can have it, and so the
/// mark takes no number from one.
pub(super) const OF_NO_DOCUMENT: &str = "\u{1}";

/// Whether a row of the log is such a mark. It belongs to a whole collection, whichever document is asked for.
fn is_mark(event: &Bsons) -> bool {
    event.get_bool("missed").unwrap_or(false)
}

#[async_trait]
impl Log for Shared {
    async fn read(&self, after: u64, limit: usize) -> Result<LogPage, StorageError> {
        loop {
            match self.read_once(after, limit).await {
                // A watch goes on when the server is back, however long that takes; closing the store ends it.
                Err(Failure::Driver(error)) if is_passing(&error) => tokio::time::sleep(STREAM_PAUSE).await,
                read => return Ok(read?),
            }
        }
    }
}

impl Shared {
    async fn read_once(&self, after: u64, limit: usize) -> Result<LogPage, Failure> {
        loop {
            let find = self.events().find(doc! {"position": {"$gt": count(after)}});
            let found = find.sort(doc! {"position": 1}).limit(limit as i64).await?;
            let (mut found, mut entries, mut len_bytes) = (found, Vec::new(), 0);
            while len_bytes < PAGE_BYTES_MAX
                && let Some(event) = found.try_next().await?
            {
                len_bytes += ["diff", "metadata"]
                    .iter()
                    .filter_map(|name| event.get_str(name).ok())
                    .map(str::len)
                    .sum::<usize>();
                entries.push(self.entry(&event)?);
            }
            let Some(first) = entries.first().map(|entry: &LogEntry| entry.position) else {
                let last = self.relay.last_position().await?;
                return Ok(LogPage { floor: 0, last, entries });
            };
            let floor = first - 1;
            if floor > after && self.is_taken(after + 1).await? {
                // It was taken while the reader passed by; the one behind it was seen and it was not.
                continue;
            }
            let whole = entries.iter().zip(first..).take_while(|(entry, at)| entry.position == *at).count();
            entries.truncate(whole);
            let last = floor + whole as u64;
            return Ok(LogPage { floor: if floor > after { floor } else { 0 }, last, entries });
        }
    }

    fn entry(&self, event: &Bsons) -> Result<LogEntry, StorageError> {
        let position = event.get("position").and_then(whole).unwrap_or(0);
        let corrupt = |reason: &str| StorageError::Corrupt {
            place: format!("position {position} of the log"),
            reason: reason.to_owned(),
        };
        let collection = event.get_str("collection").map_err(|_| corrupt("no collection"))?;
        let removed = event.get_bool("removed").unwrap_or(false);
        let change = if is_mark(event) || removed { None } else { Some(Arc::new(decode_event(event)?)) };
        let id = if is_mark(event) { None } else { Some(id_of(event.get("documentId"))?) };
        Ok(LogEntry { position, collection: self.number(collection), id, change })
    }

    async fn is_taken(&self, position: u64) -> Result<bool, Failure> {
        let found = self.events().find_one(doc! {"position": count(position)}).projection(doc! {"_id": 1});
        Ok(found.await?.is_some())
    }

    /// Tells the watchers when any process has put something into the log, for as long as the store is open. It begins when
    /// there is somebody to be told: the server pays for each event that it shows.
    pub(super) async fn follow_log(self: Arc<Self>) {
        self.followed.notified().await;
        let mut refused = false;
        loop {
            match self.follow_log_once().await {
                Ok(()) => {}
                Err(error) if has_no_streams(&error) => return self.poll_log().await,
                Err(error) if is_refusal(&error) => {
                    if !std::mem::replace(&mut refused, true) {
                        tracing::warn!(%error, "no change stream of the log, it is looked at from time to time instead");
                    }
                    self.look_at_log().await;
                }
                Err(error) => tracing::debug!(%error, "the change stream of the log ended, opening it again"),
            }
            tokio::time::sleep(STREAM_PAUSE).await;
        }
    }

    async fn follow_log_once(&self) -> Result<(), Error> {
        let events = self.streams.database(self.database.name()).collection::<Bsons>("events");
        let only = [
            doc! {"$match": {"operationType": "insert"}},
            doc! {"$project": {
                "operationType": 1, "ns": 1, "documentKey": 1, "fullDocument.position": 1,
                "fullDocument.collection": 1, "fullDocument.documentId": 1, "fullDocument.sequenceNum": 1,
                "fullDocument.missed": 1,
            }},
        ];
        let mut stream = events.watch().pipeline(only).await?;
        // What came before the stream was open; from here on it tells.
        self.relay.look().await?;
        while let Some(event) = stream.try_next().await? {
            self.note_inserted(&event);
        }
        Ok(())
    }

    fn note_inserted(&self, event: &ChangeStreamEvent<Bsons>) {
        if event.operation_type != OperationType::Insert {
            return;
        }
        let Some(event) = &event.full_document else { return };
        if let (Ok(collection), Ok(id)) = (event.get_str("collection"), id_of(event.get("documentId")))
            && !is_mark(event)
        {
            self.relay.note_placed(Key { collection: collection.into(), id }, event_version(event));
        }
        if let Some(position) = event.get("position").and_then(whole) {
            self.relay.rise(position);
        }
    }

    /// Looks for itself, where the server can't tell.
    async fn poll_log(&self) {
        tracing::info!("the server has no change streams, the log is looked at from time to time");
        loop {
            self.look_at_log().await;
        }
    }

    async fn look_at_log(&self) {
        if let Err(error) = self.relay.look().await {
            tracing::debug!(%error, "the log can't be read");
        }
        let interval = *self.log_interval.lock();
        tokio::time::sleep(interval).await;
    }
}
