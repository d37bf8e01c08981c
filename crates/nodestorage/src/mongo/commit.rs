//! The way of a write: read, decide, and compare-and-swap, as often as it takes.

use crdt_core::ClientId;
use mongodb::{
    ClientSession,
    bson::{Bson, Document as Bsons, doc},
};

use super::{
    claim::CLAIM_AFTER,
    failure::{Failure, Tolerance, has_failed_inside, is_duplicate, is_refusal, is_too_large},
    group::Passage,
    plan::{How, Planned},
    record::{Mark, Stored, WriteId, check_event, encode_mark, event_version},
    relay::{Key, Moved},
    storage::{CUT_PAUSE, MongoStorage},
    value::{self, count, escape},
};
use crate::{
    Body, Document, DocumentId, EditOptions, Operation, StorageError,
    retry::{self, Backoff},
    rules::{self, Turn},
    verbs::{Outcome, Step},
};

/// How many events an outbox may hold before a writer moves them to the log itself.
pub const OUTBOX_MAX: usize = 64;

/// What is asked what to do with the document that was found, as often as it takes.
pub(super) enum Verb<'v> {
    Here(&'v mut (dyn FnMut(Option<&Document>) -> Result<Step, StorageError> + Send)),
    /// The server, which computes by a pipeline.
    Pipeline(Vec<Bsons>),
}

/// What the tries of one verb have in common.
struct Tries {
    write: WriteId,
    unsure: Option<Unsure>,
    /// How often others were faster.
    lost: u32,
    /// What the write left that was answered.
    left: Option<Stored>,
}

/// What is to be done with a document.
enum Decision {
    Write(Write),
    /// Nothing, and the sequence is noted if the caller named one.
    Keep(Option<u64>),
    /// The producer's sequence was answered before.
    Repeated(u64),
    /// Another writer came between.
    Overtaken,
}

struct Write {
    operation: Operation,
    after: Option<Body>,
    sequence: u64,
}

/// A write that was sent and not answered.
struct Unsure {
    /// The version that it was to follow.
    base: u64,
    planned: Planned,
    /// It was sent again, and that was refused: because the first has arrived meanwhile, or somebody else came between.
    refused: bool,
}

impl MongoStorage {
    /// Carries out one verb.
    pub(super) async fn run(
        &self,
        id: &DocumentId,
        options: EditOptions,
        mut verb: Verb<'_>,
    ) -> Result<Outcome, StorageError> {
        rules::check_metadata(id, &options.metadata, &self.options)?;
        self.check_open()?;
        retry::within(self.options.operation_timeout, self.attempts(id, &options, &mut verb)).await
    }

    async fn attempts(
        &self,
        id: &DocumentId,
        options: &EditOptions,
        verb: &mut Verb<'_>,
    ) -> Result<Outcome, StorageError> {
        let key = self.key(id);
        let mut gate = self.shared().gate(&key).lock().await;
        self.check_open()?;
        // One id for all attempts: whichever of them the server has applied, it is this write, and it is once.
        let mut tries = Tries { write: WriteId::new(), unsure: None, lost: 0, left: None };
        let mut remembered = self.recall(&mut gate, &key);
        // Where another process writes as well, what is remembered would mostly be old.
        let mut outdated = false;
        let mut made_room = false;
        let mut backoff = Backoff::new(&self.options);
        let mut tolerance = Tolerance::default();
        loop {
            let attempted = match remembered.take() {
                Some(found) => match self.attempt_remembered(&key, options, found, &mut tries, verb).await {
                    Ok(None) => {
                        outdated = true;
                        continue;
                    }
                    attempted => attempted,
                },
                None => self.attempt(&key, options, &mut tries, verb).await,
            };
            match attempted {
                Ok(Some(outcome)) => {
                    gate.remember(key, tries.left.filter(|_| !outdated));
                    return Ok(outcome);
                }
                // Refused when it was sent again: the next try looks which of the two it was.
                Ok(None) if tries.unsure.is_some() => {}
                Ok(None) => {
                    tries.lost += 1;
                    if !backoff.pause().await {
                        return Err(StorageError::RetriesExhausted { attempts: backoff.attempts() });
                    }
                }
                // The next try looks what became of it, and sends it again alone if it is open. By a group it goes again only after another
                // write took its version, and each group was waited for: no round of this is a quick one.
                Err(Failure::Unanswered) => {}
                Err(Failure::Driver(error)) if tolerance.bears(&error) => {
                    tracing::debug!(%error, document = %id, "sending it again");
                    tokio::time::sleep(CUT_PAUSE).await;
                }
                Err(Failure::Driver(error)) if is_too_large(&error) && !made_room => {
                    // Events that are in the log leave the outbox with the next try, which may be all it takes.
                    made_room = true;
                    tries.unsure = None;
                    self.place_outbox(id).await?;
                }
                Err(Failure::Driver(error)) if is_too_large(&error) => {
                    let reason =
                        format!("the document with its event is more than the server takes: {error}");
                    return Err(StorageError::InvalidDocument { id: id.clone(), reason });
                }
                Err(error) if tries.unsure.is_some() => {
                    return Err(StorageError::OutcomeUnknown {
                        reason: StorageError::from(error).to_string(),
                    });
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// One try: `None` when another writer came between.
    async fn attempt(
        &self,
        key: &Key,
        options: &EditOptions,
        tries: &mut Tries,
        verb: &mut Verb<'_>,
    ) -> Result<Option<Outcome>, Failure> {
        // Whoever looks for a write whose answer was lost looks into the outbox too.
        let found = if tries.unsure.is_some() {
            self.stored(&key.id).await?
        } else if tries.lost >= CLAIM_AFTER {
            self.claimed(key).await?
        } else {
            self.stored_in_turn(key).await?
        };
        let found = match found {
            Some(found) => found,
            None => self.absent(&key.id).await?,
        };
        if let Some(sent) = tries.unsure.take() {
            match self.what_became_of(&sent, tries.write, &found).await {
                Ok(Fate::Applied) => return Ok(Some(self.applied(key, sent.planned, &found.outbox))),
                Ok(Fate::Open) => return self.send_again(key, sent.planned, found, tries).await,
                Ok(Fate::Overtaken) => {}
                Err(error) => {
                    tries.unsure = Some(sent);
                    return Err(error);
                }
            }
        }
        if !self.is_recorded(&found) || self.is_behind(key, &found).await? {
            self.adopt(found, false).await?;
            return Ok(None);
        }
        self.shared().relay.make_room().await?;
        if found.outbox.len() >= OUTBOX_MAX {
            self.shared().relay.place_now(Moved { key: key.clone(), events: found.outbox.clone() }).await?;
        }
        let client = &options.producer.client_id;
        match self.decide(key, &found, options, verb).await? {
            Decision::Write(write) => self.write(key, found, write, options, tries).await,
            Decision::Repeated(sequence) => {
                let version = self.shared().answer(key, &found, client, sequence).await?;
                Ok(Some(Outcome::Repeated { version, document: found.document() }))
            }
            Decision::Keep(None) => Ok(Some(Outcome::Kept(found.document()))),
            Decision::Keep(Some(sequence)) => {
                let noted = self.note(None, &found, client, sequence).await?;
                Ok(noted.then(|| Outcome::Kept(found.document())))
            }
            Decision::Overtaken => Ok(None),
        }
    }

    /// A try without a reading. `None` when it has to be read after all.
    async fn attempt_remembered(
        &self,
        key: &Key,
        options: &EditOptions,
        found: Stored,
        tries: &mut Tries,
        verb: &mut Verb<'_>,
    ) -> Result<Option<Outcome>, Failure> {
        self.shared().relay.make_room().await?;
        match self.decide(key, &found, options, verb).await {
            Ok(Decision::Write(write)) => self.write(key, found, write, options, tries).await,
            // True of what is remembered, perhaps not of what is there.
            Ok(_) | Err(_) => Ok(None),
        }
    }

    /// What is to be done with a document as it was found.
    async fn decide(
        &self,
        key: &Key,
        found: &Stored,
        options: &EditOptions,
        verb: &mut Verb<'_>,
    ) -> Result<Decision, Failure> {
        let document = found.document();
        let producer = &options.producer;
        let mark = self.mark(found, &producer.client_id).await?;
        let sequence = match rules::turn(producer.sequence, mark.map_or(0, |mark| mark.sequence))? {
            Turn::Next(sequence) => sequence,
            Turn::Repeated(sequence) => return Ok(Decision::Repeated(sequence)),
        };
        rules::expect_version(&key.id, options, document.as_ref().map_or(0, |document| document.version))?;
        let step = match verb {
            Verb::Here(verb) => verb(document.as_ref())?,
            Verb::Pipeline(stages) => match self.step_by_pipeline(found, document.as_ref(), stages).await? {
                Some(step) => step,
                None => return Ok(Decision::Overtaken),
            },
        };
        Ok(match step {
            Step::Keep => Decision::Keep(producer.sequence),
            Step::Write(operation, after) => {
                if let Some(after) = &after {
                    rules::check_body(&key.id, after, &self.options)?;
                }
                Decision::Write(Write { operation, after, sequence })
            }
        })
    }

    async fn write(
        &self,
        key: &Key,
        found: Stored,
        Write { operation, after, sequence }: Write,
        options: &EditOptions,
        tries: &mut Tries,
    ) -> Result<Option<Outcome>, Failure> {
        let spilled = self.shared().spill(key, &found).await?;
        let planned = self.plan(key, &found, (operation, after), sequence, options, tries.write, &spilled);
        check_event(&key.id, &planned.event)?;
        match self.send(&planned).await {
            Ok(true) => Ok(Some(self.answered(key, planned, found, tries))),
            Ok(false) => Ok(None),
            Err(error) => {
                if !matches!(&error, Failure::Driver(error) if is_refusal(error) && !has_failed_inside(error))
                {
                    tries.unsure = Some(Unsure { base: found.version, planned, refused: false });
                }
                Err(error)
            }
        }
    }

    /// Sends the very same change again. Should both arrive, the version check lets one through: if it was not this one,
    /// it has to be asked which.
    async fn send_again(
        &self,
        key: &Key,
        planned: Planned,
        found: Stored,
        tries: &mut Tries,
    ) -> Result<Option<Outcome>, Failure> {
        let sent = self.send_alone(&planned).await;
        if let Ok(true) = sent {
            return Ok(Some(self.answered(key, planned, found, tries)));
        }
        tries.unsure = Some(Unsure { base: found.version, planned, refused: sent.is_ok() });
        sent.map(|_| None)
    }

    fn answered(&self, key: &Key, planned: Planned, mut found: Stored, tries: &mut Tries) -> Outcome {
        let outbox = std::mem::take(&mut found.outbox);
        tries.left = self.left_by(found, &planned);
        self.applied(key, planned, &outbox)
    }

    /// Sends a change, with others that meet it. `false` when the document is not as it was found any more.
    async fn send(&self, planned: &Planned) -> Result<bool, Failure> {
        match self.shared().groups.turn(&planned.how, &self.documents).await {
            Passage::Alone(lane) => lane.during(self.send_alone(planned)).await,
            Passage::Answered(found) => Ok(found),
            Passage::Unknown => Err(Failure::Unanswered),
            Passage::Failed(error) => Err(error.into()),
        }
    }

    async fn send_alone(&self, planned: &Planned) -> Result<bool, Failure> {
        let sent = match &planned.how {
            How::Insert(document) => match self.documents.insert_one(document).await {
                Ok(_) => Ok(true),
                Err(error) if is_duplicate(&error) => Ok(false),
                Err(error) => Err(error),
            },
            How::Update { filter, update } => {
                let update = self.documents.find_one_and_update(filter.clone(), update.clone());
                update.projection(doc! {"_id": 1}).await.map(|found| found.is_some())
            }
        };
        Ok(sent?)
    }

    /// Writes a change as a part of a transaction, which puts its event into the log itself. `false` when the document is
    /// not as it was found any more.
    pub(super) async fn write_in(
        &self,
        session: &mut ClientSession,
        planned: &mut Planned,
    ) -> Result<bool, Failure> {
        Ok(match &mut planned.how {
            How::Insert(document) => {
                if let Ok(own) = document.get_document_mut(value::OWN) {
                    own.insert("outbox", Bson::Array(Vec::new()));
                }
                match self.documents.insert_one(&*document).session(session).await {
                    Ok(_) => true,
                    Err(error) if is_duplicate(&error) => false,
                    Err(error) => return Err(error.into()),
                }
            }
            How::Update { filter, update } => {
                // All that the outbox holds was seen to be in the log.
                if update.remove("$push").is_some()
                    && let Ok(set) = update.get_document_mut("$set")
                {
                    set.insert("_weft.outbox", Bson::Array(Vec::new()));
                }
                let updated = self.documents.update_one(filter.clone(), update.clone());
                updated.session(session).await?.matched_count > 0
            }
        })
    }

    /// A change was written: its event goes to the log, and so does what else was found in the outbox.
    fn applied(&self, key: &Key, planned: Planned, outbox: &[Bsons]) -> Outcome {
        let shared = self.shared();
        let left = outbox.iter().filter(|event| {
            let version = event_version(event);
            version < planned.change.version && !shared.relay.sees_to(key, version)
        });
        let mut events: Vec<Bsons> = left.cloned().collect();
        if !events.is_empty() {
            // Another process writes to this document too: it helps to know what it has put into the log.
            shared.followed.notify_one();
        }
        events.push(planned.event);
        shared.relay.take(Moved { key: key.clone(), events });
        let document = planned.after.or(planned.before).expect("it is there now or was before");
        Outcome::Changed { document, change: planned.change }
    }

    async fn what_became_of(&self, sent: &Unsure, write: WriteId, found: &Stored) -> Result<Fate, Failure> {
        if found.write == Some(write) {
            return Ok(Fate::Applied);
        }
        if found.version == sent.base {
            return Ok(if sent.refused { Fate::Overtaken } else { Fate::Open });
        }
        let of_this = |event: &&Bsons| event.get_object_id("_id").is_ok_and(|id| id == write);
        let applied = found.outbox.iter().any(|event| of_this(&event))
            || self
                .shared()
                .events()
                .find_one(doc! {"_id": write})
                .projection(doc! {"_id": 1})
                .await?
                .is_some();
        Ok(if applied { Fate::Applied } else { Fate::Overtaken })
    }

    /// Notes a counted write that changed nothing, so that its repeat is known. `false` when another writer came between.
    pub(super) async fn note(
        &self,
        session: Option<&mut ClientSession>,
        found: &Stored,
        client: &ClientId,
        sequence: u64,
    ) -> Result<bool, Failure> {
        let mark = Mark { sequence, version: found.version };
        self.shared().note_answer(&self.key(&found.id), client, mark).await?;
        if found.raw.is_none() {
            let mut producers = found.producers.clone();
            producers.insert(client.clone(), mark);
            let insert = self.documents.insert_one(self.stand_in(found, &producers));
            let inserted = match session {
                Some(session) => insert.session(session).await,
                None => insert.await,
            };
            return match inserted {
                Ok(_) => Ok(true),
                Err(error) if is_duplicate(&error) => Ok(false),
                Err(error) => Err(error.into()),
            };
        }
        let place = format!("_weft.producers.{}", escape(client.as_str()));
        let last = found.producers.get(client).map(|mark| count(mark.sequence));
        let mut filter = doc! {"_id": found.id.as_str(), "_weft.version": count(found.version)};
        filter.insert(format!("{place}.s"), last.map_or_else(|| doc! {"$exists": false}.into(), Bson::Int64));
        // Whoever remembers the document would leave the marks that it remembers: by the other id it finds that they are others
        // now.
        let set = doc! {
            place: encode_mark(mark), "_weft.write": WriteId::new(), "_weft.version": count(found.version),
        };
        let update = self.documents.update_one(filter, doc! {"$set": set});
        let noted = match session {
            Some(session) => update.session(session).await?,
            None => update.await?,
        };
        Ok(noted.matched_count > 0)
    }
}

/// What became of a write whose answer was lost.
enum Fate {
    Applied,
    /// Not yet, but it may still arrive.
    Open,
    /// Another write took its version: it never will be.
    Overtaken,
}
