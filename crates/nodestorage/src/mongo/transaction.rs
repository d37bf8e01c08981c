//! Transactions: what was read is compared and what is staged is written in one transaction of the server.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use crdt_core::ClientId;
use mongodb::{
    ClientSession,
    bson::{Document as Bsons, doc, oid::ObjectId},
    error::{Error, TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT},
};

use super::{
    failure::{Failure, has_failed_inside, has_no_transactions, is_duplicate, is_passing},
    plan::Planned,
    record::{Stored, WriteId, check_event},
    relay::Moved,
    storage::MongoStorage,
    value::count,
};
use crate::{
    Change, DocumentId, Storage, StorageError, StorageOptions, TransactionFn,
    transaction::staging::{self, Commit, Draft, Entry, Ground, Outside},
};

/// How often the answer to a commit is asked for again.
const COMMIT_TRIES_MAX: u32 = 5;

impl MongoStorage {
    pub(super) async fn transact(
        &self,
        transaction: TransactionFn<'_>,
    ) -> Result<Vec<Arc<Change>>, StorageError> {
        self.check_open()?;
        staging::run(Arc::new(self.clone()), transaction).await
    }

    /// A document as it is for everybody, or what is left of it.
    async fn found(&self, id: &DocumentId) -> Result<Stored, Failure> {
        Ok(match self.stored(id).await? {
            Some(stored) => stored,
            None => self.absent(id).await?,
        })
    }

    async fn in_session(&self, session: &mut ClientSession, id: &DocumentId) -> Result<Stored, Failure> {
        let raw = self.documents.find_one(doc! {"_id": id.as_str()}).session(session).await?;
        Ok(match raw {
            Some(raw) => Stored::decode(raw, self.version_field())?,
            None => self.absent_in_log(id).await?,
        })
    }

    async fn try_commit(&self, session: &mut ClientSession, draft: &Draft) -> Result<Commit, Failure> {
        let shared = self.shared();
        // Their places in the log come before those of this transaction, and so does what other programs wrote.
        for id in draft.touched.keys() {
            match self.stored(id).await? {
                Some(stored)
                    if !self.is_recorded(&stored) || self.is_behind(&self.key(id), &stored).await? =>
                {
                    self.adopt(stored, false).await?;
                    return Ok(Commit::Conflict(written_by_another(id)));
                }
                Some(stored) if !stored.outbox.is_empty() => {
                    shared.relay.place_now(Moved { key: self.key(id), events: stored.outbox }).await?;
                }
                Some(_) => {}
                // What will stand in for it takes the place of the tombstone that a direct delete has not left.
                None if is_only_read(draft, id) => {
                    self.look_at_delete(id, false).await?;
                }
                None => drop(self.absent(id).await?),
            }
        }
        let mut end = shared.relay.hold().await;
        let committed = self.write_all(session, draft).await;
        // Whoever takes the next places looks where they are.
        end.forget();
        committed
    }

    async fn write_all(&self, session: &mut ClientSession, draft: &Draft) -> Result<Commit, Failure> {
        session.start_transaction().await?;
        let mut found: HashMap<DocumentId, Stored> = HashMap::new();
        for id in draft.touched.keys() {
            let stored = self.in_session(session, id).await?;
            let mut lasts = HashMap::new();
            for client in draft.touched[id].lasts_seen.keys() {
                lasts.insert(
                    client.clone(),
                    self.mark(&stored, client).await?.map_or(0, |mark| mark.sequence),
                );
            }
            let last = |client: &ClientId| Ok(lasts.get(client).copied().unwrap_or(0));
            let conflict = match stored.outbox.last() {
                Some(event)
                    if super::record::event_version(event) > self.shared().relay.placed(&self.key(id)) =>
                {
                    Some(format!("document {id} was written meanwhile"))
                }
                _ if !self.is_recorded(&stored) => Some(written_by_another(id)),
                _ => draft.conflict(id, stored.version, last)?,
            };
            if let Some(reason) = conflict {
                session.abort_transaction().await?;
                return Ok(Commit::Conflict(reason));
            }
            found.insert(id.clone(), stored);
        }
        if draft.entries.is_empty() {
            session.abort_transaction().await?;
            return Ok(Commit::Done(Vec::new()));
        }
        // What was only read must stay as it is too, until all of it is written: absent, if it is.
        for id in draft.touched.keys().filter(|id| is_only_read(draft, id)) {
            if found[id].raw.is_some() {
                let touch = doc! {"$set": {"_weft.read": ObjectId::new()}};
                self.documents.update_one(doc! {"_id": id.as_str()}, touch).session(&mut *session).await?;
            } else {
                let stand_in = self.stand_in(&found[id], &found[id].producers);
                self.documents.insert_one(stand_in).session(&mut *session).await?;
            }
        }
        let mut position = self.shared().relay.last_position().await?;
        let (mut changes, mut events) = (Vec::new(), Vec::new());
        for entry in &draft.entries {
            let change = match entry {
                Entry::Change(change) => change,
                Entry::Note { id, client, sequence, .. } => {
                    if !self.note(Some(&mut *session), &found[id], client, *sequence).await? {
                        return overtaken(session, id).await;
                    }
                    let raw = self.in_session(session, id).await?;
                    found.insert(id.clone(), raw);
                    continue;
                }
            };
            let write = WriteId::new();
            let what = (change.operation, change.after.clone());
            let key = self.key(&change.id);
            let mut planned =
                self.plan(&key, &found[&change.id], what, change.sequence, &change.options, write, &[]);
            check_event(&change.id, &planned.event)?;
            if !self.write_in(session, &mut planned).await? {
                return overtaken(session, &change.id).await;
            }
            let Planned { change, mut event, .. } = planned;
            let mut change = (*change).clone();
            position += 1;
            change.position = position;
            event.extend(doc! {
                "collection": &*self.name, "documentId": change.document_id.as_str(), "position": count(position),
            });
            events.push(event);
            let stored = self.in_session(session, &change.document_id).await?;
            found.insert(change.document_id.clone(), stored);
            changes.push(Arc::new(change));
        }
        if !events.is_empty() {
            let inserted = self.shared().events().insert_many(&events).session(&mut *session).await;
            match inserted {
                Err(error) if is_duplicate(&error) => {
                    let _ = session.abort_transaction().await;
                    return Ok(Commit::Conflict("another process took its places in the log".to_owned()));
                }
                inserted => inserted?,
            };
        }
        for tries in 1.. {
            match session.commit_transaction().await {
                Ok(()) => break,
                Err(error)
                    if error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT)
                        && tries < COMMIT_TRIES_MAX => {}
                // A server that was started again meanwhile may know nothing of it and have it all the same.
                Err(error) => match self.is_committed(&events).await {
                    Ok(true) => break,
                    Ok(false) if is_conflict(&error) => return Err(error.into()),
                    _ => return Err(StorageError::OutcomeUnknown { reason: error.to_string() }.into()),
                },
            }
        }
        for change in &changes {
            self.shared().relay.note_placed(self.key(&change.document_id), change.version);
        }
        self.shared().relay.rise(position);
        Ok(Commit::Done(changes))
    }
}

impl MongoStorage {
    /// Whether the events of a transaction are in the log. It is asked as often as an operation has time.
    async fn is_committed(&self, events: &[Bsons]) -> Result<bool, StorageError> {
        let Some(first) = events.first().and_then(|event| event.get("_id")) else { return Ok(false) };
        let found = self
            .reading(|| async {
                Ok(self.shared().events().find_one(doc! {"_id": first}).projection(doc! {"_id": 1}).await?)
            })
            .await?;
        Ok(found.is_some())
    }
}

fn is_only_read(draft: &Draft, id: &DocumentId) -> bool {
    !draft.entries.iter().any(|entry| of(entry) == id)
}

fn written_by_another(id: &DocumentId) -> String {
    format!("document {id} was written by another program")
}

/// Which document an entry is about.
fn of(entry: &Entry) -> &DocumentId {
    match entry {
        Entry::Change(change) => &change.id,
        Entry::Note { id, .. } => id,
    }
}

async fn overtaken(session: &mut ClientSession, id: &DocumentId) -> Result<Commit, Failure> {
    let _ = session.abort_transaction().await;
    Ok(Commit::Conflict(format!("document {id} was written meanwhile")))
}

#[async_trait]
impl Ground for MongoStorage {
    fn options(&self) -> &StorageOptions {
        &self.options
    }

    async fn outside(&self, id: &DocumentId) -> Result<Outside, StorageError> {
        let stored = self.reading(|| self.found(id)).await?;
        Ok(Outside { version: stored.version, document: stored.document() })
    }

    async fn last_sequence(&self, id: &DocumentId, client: &ClientId) -> Result<u64, StorageError> {
        self.reading(|| async {
            let stored = self.found(id).await?;
            Ok(self.mark(&stored, client).await?.map_or(0, |mark| mark.sequence))
        })
        .await
    }

    async fn answer(&self, id: &DocumentId, client: &ClientId, sequence: u64) -> Result<u64, StorageError> {
        self.reading(|| async {
            let stored = self.found(id).await?;
            match self.mark(&stored, client).await? {
                Some(_) => self.shared().answer(&self.key(id), &stored, client, sequence).await,
                // Gone since it was found: the commit sees it too, and the transaction runs again.
                None => Ok(0),
            }
        })
        .await
    }

    async fn commit(&self, draft: &mut Draft) -> Result<Commit, StorageError> {
        self.check_open()?;
        let mut session = self.shared().client.start_session().await.map_err(super::storage::driver)?;
        match self.try_commit(&mut session, draft).await {
            Ok(commit) => Ok(commit),
            Err(Failure::Driver(error)) if has_no_transactions(&error) => Err(StorageError::Unsupported {
                what: "a transaction on a server that is no member of a replica set".to_owned(),
                backend: "MongoDB",
            }),
            // What is known of a commit has been told; before it nothing is written.
            Err(Failure::Driver(error))
                if is_conflict(&error) || is_passing(&error) || has_failed_inside(&error) =>
            {
                let _ = session.abort_transaction().await;
                Ok(Commit::Conflict(error.to_string()))
            }
            Err(error) => {
                let _ = session.abort_transaction().await;
                Err(error.into())
            }
        }
    }
}

fn is_conflict(error: &Error) -> bool {
    error.contains_label(TRANSIENT_TRANSACTION_ERROR) || is_duplicate(error)
}
