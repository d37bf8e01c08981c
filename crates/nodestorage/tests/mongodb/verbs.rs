//! Every verb, drawn from a seed: a writer that does now this and now that, and what has to be true afterwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    hash::{BuildHasher, RandomState},
    sync::Mutex,
};

use crdt_core::ClientId;
use futures_util::{StreamExt, future::join_all};
use nodestorage::{
    Body, Deleted, DocumentId, EditOptions, Edited, MongoStorage, Staged, Storage, StorageError, StorageExt,
    Update, Upserted, WatchEvent, WatchFilter, WatchFrom, query::FieldPath,
};
use serde_json::{Value, json};

use super::{PATIENCE, body, counted, id};

/// Set it to repeat a run.
const SEED: &str = "WEFT_MONGO_SEED";

/// How many documents a writer writes at once, of its own.
const BULK: u64 = 4;

pub(super) fn seed() -> u64 {
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| RandomState::new().hash_one(0) % 1_000_000);
    println!("{SEED}={seed}");
    seed
}

/// How a write was answered: the version, and whether it made that; a repeat does not say.
type Answer = (u64, Option<bool>);

/// What was acknowledged: document, writer, number.
pub(super) type Acknowledged = BTreeMap<(DocumentId, u64, u64), Answer>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Verb {
    Edit,
    Operators,
    Section,
    Pipeline,
    Upsert,
    Delete,
    Transaction,
    Bulk,
}

fn verb(seed: u64, writer: u64, nth: u64) -> Verb {
    let mut mixed =
        seed ^ writer.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ nth.wrapping_mul(0xd1b5_4a32_d192_ed03);
    mixed = (mixed ^ mixed >> 31).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    match (mixed ^ mixed >> 29) % 12 {
        0 | 1 => Verb::Edit,
        2 | 3 => Verb::Operators,
        4 | 5 => Verb::Section,
        6 | 7 => Verb::Pipeline,
        8 => Verb::Upsert,
        9 => Verb::Delete,
        10 => Verb::Transaction,
        _ => Verb::Bulk,
    }
}

pub(super) fn document(n: u64) -> DocumentId {
    id(&format!("d{n}"))
}

fn book(writer: u64) -> DocumentId {
    id(&format!("book {writer}"))
}

fn bulk(writer: u64, n: u64) -> DocumentId {
    id(&format!("bulk {writer} {n}"))
}

fn update(operators: Value) -> Update {
    Update::parse(&operators).unwrap()
}

/// What a document begins with: a section for each writer.
fn new(writers: u64) -> Body {
    let sections: Body = (0..writers).map(|writer| (format!("w{writer}"), json!({}))).collect();
    body(json!({"log": [], "sections": sections}))
}

/// One of several writers. All that it does is counted, so that it can do the same again until it is answered.
pub(super) struct Writer {
    games: MongoStorage,
    seed: u64,
    writers: u64,
    writer: u64,
    document: DocumentId,
    /// How often it has written to its document, to its book, and to its documents of its own.
    done: (u64, u64, u64),
    /// Whether it may leave a transaction open when it is killed.
    pub(super) transacts: bool,
}

impl Writer {
    /// Goes on where the writer of this number was.
    pub(super) async fn new(
        games: &MongoStorage,
        seed: u64,
        (writer, writers): (u64, u64),
        document: DocumentId,
    ) -> Result<Self, StorageError> {
        let client = ClientId::new(format!("w{writer}")).unwrap();
        let last = async |id: &DocumentId| Ok::<_, StorageError>(games.producers(id).await?.get(&client));
        let mut bulks = u64::MAX;
        for n in 0..BULK {
            bulks = bulks.min(last(&bulk(writer, n)).await?);
        }
        let done = (last(&document).await?, last(&book(writer)).await?, bulks);
        Ok(Self { games: games.clone(), seed, writers, writer, document, done, transacts: true })
    }

    /// Does what comes next, again and again until it is answered. An error is one that no repeating helps against.
    pub(super) async fn write(&mut self) -> Result<Acknowledged, StorageError> {
        let nth = self.done.0 + 1;
        let mut verb = verb(self.seed, self.writer, nth);
        if verb == Verb::Transaction && !self.transacts {
            verb = Verb::Edit;
        }
        loop {
            let done = match verb {
                Verb::Transaction => self.trade(nth).await,
                Verb::Bulk => self.fill(nth).await,
                verb => self.one(verb, nth).await,
            };
            match done {
                Ok(acknowledged) => {
                    self.done.0 = nth;
                    self.done.1 += u64::from(verb == Verb::Transaction);
                    self.done.2 += u64::from(verb == Verb::Bulk);
                    let all = acknowledged.into_iter();
                    return Ok(all.map(|(id, nth, answer)| ((id, self.writer, nth), answer)).collect());
                }
                Err(error) if error.is_retryable() => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn by(&self, nth: u64) -> EditOptions {
        counted(&format!("w{}", self.writer), nth)
    }

    async fn one(&self, verb: Verb, nth: u64) -> Result<Vec<(DocumentId, u64, Answer)>, StorageError> {
        let (games, id, by) = (&self.games, &self.document, self.by(nth));
        let name = format!("{verb:?} {}", self.writer);
        let answer = loop {
            let edited = match verb {
                Verb::Delete => {
                    break match games.delete_one(id, by).await? {
                        Deleted::Deleted { change, .. } => (change.version, Some(true)),
                        Deleted::Absent => (0, Some(false)),
                        Deleted::Repeated { version } => (version, None),
                        other => panic!("{other:?}"),
                    };
                }
                Verb::Upsert => {
                    break match games.find_one_and_upsert(id, new(self.writers), by).await? {
                        Upserted::Created { change, .. } => (change.version, Some(true)),
                        Upserted::Existing { document } => (document.version, Some(false)),
                        Upserted::Repeated { version, .. } => (version, None),
                        other => panic!("{other:?}"),
                    };
                }
                Verb::Operators => {
                    let log = json!({"$each": [[self.writer, nth]], "$slice": -10});
                    let operators = update(json!({"$set": {&name: nth}, "$push": {"log": log}}));
                    games.update_one(id, &operators, by.clone()).await
                }
                Verb::Section => {
                    let section = FieldPath::new(&format!("sections.w{}", self.writer)).unwrap();
                    let edit = |section: &mut Value| {
                        section["nth"] = json!(nth);
                        Ok(())
                    };
                    games.update_section(id, &section, Box::new(edit), by.clone()).await
                }
                Verb::Pipeline => {
                    let stages = [json!({"$set": {&name: nth}})];
                    games.update_one_with_pipeline(id, &stages, by.clone()).await
                }
                _ => {
                    let edit = |body: &mut Body| {
                        body.insert(name.clone(), json!(nth));
                        Ok::<_, Infallible>(())
                    };
                    games.edit(id, edit, by.clone()).await
                }
            };
            match edited {
                Ok(Edited::Changed { change, .. }) => break (change.version, Some(true)),
                Ok(Edited::Repeated { version, .. }) => break (version, Some(true)),
                Ok(other) => panic!("{other:?}"),
                // Somebody has deleted it: it is made anew under the same number, unless somebody else has done that.
                Err(StorageError::NotFound { .. }) => {
                    let only_if_absent = EditOptions { expected_version: Some(0), ..by.clone() };
                    match games.find_one_and_upsert(id, new(self.writers), only_if_absent).await {
                        Ok(Upserted::Created { change, .. }) => break (change.version, Some(true)),
                        Ok(Upserted::Repeated { version, .. }) => break (version, Some(true)),
                        Err(StorageError::VersionMismatch { .. }) => {}
                        Err(error) => return Err(error),
                        other => panic!("{other:?}"),
                    }
                }
                Err(error) => return Err(error),
            }
        };
        Ok(vec![(id.clone(), nth, answer)])
    }

    /// Writes to its document and to its book, or to neither.
    async fn trade(&self, nth: u64) -> Result<Vec<(DocumentId, u64, Answer)>, StorageError> {
        let (trades, answered) = (self.done.1 + 1, Mutex::new([0, 0]));
        let books = [(self.document.clone(), self.by(nth)), (book(self.writer), self.by(trades))];
        let (books, versions) = (&books, &answered);
        let mark = format!("trade {}", self.writer);
        let set = &update(json!({"$set": {&mark: nth}}));
        let mut new = new(self.writers);
        new.insert(mark, json!(nth));
        let new = &new;
        let traded = self.games.transact(|of| {
            Box::pin(async move {
                for (at, (id, by)) in books.iter().enumerate() {
                    let staged = if of.find_one(id).await?.is_some() {
                        of.update_one(id, set, by.clone()).await?
                    } else {
                        of.find_one_and_upsert(id, new.clone(), by.clone()).await?
                    };
                    versions.lock().unwrap()[at] = match staged {
                        Staged::Changed(document) => document.expect("it was not deleted").version,
                        Staged::Repeated { version, .. } => version,
                        other => panic!("{other:?}"),
                    };
                }
                Ok(())
            })
        });
        traded.await?;
        let versions = answered.into_inner().unwrap();
        let numbers = [nth, trades];
        let answers = books.iter().zip(numbers).zip(versions);
        Ok(answers.map(|(((id, _), nth), version)| (id.clone(), nth, (version, Some(true)))).collect())
    }

    /// Writes to its document, and at once to several of its own.
    async fn fill(&self, nth: u64) -> Result<Vec<(DocumentId, u64, Answer)>, StorageError> {
        let bulks = self.done.2 + 1;
        let writes = (0..BULK).map(async |n| {
            let (id, by) = (bulk(self.writer, n), self.by(bulks));
            let answer = match self.games.find_one_and_upsert(&id, Body::new(), by.clone()).await? {
                Upserted::Created { change, .. } => (change.version, Some(true)),
                Upserted::Repeated { version, .. } => (version, None),
                Upserted::Existing { document } => (document.version, Some(false)),
                other => panic!("{other:?}"),
            };
            Ok((id, bulks, answer))
        });
        let mut answers = join_all(writes).await.into_iter().collect::<Result<Vec<_>, StorageError>>()?;
        answers.extend(self.one(Verb::Edit, nth).await?);
        Ok(answers)
    }
}

/// Every acknowledged version has its event, every version exactly one and every write too, the events make the documents, and
/// of a transaction there is all or nothing.
pub(super) async fn check(games: &MongoStorage, documents: u64, writers: u64, acknowledged: &Acknowledged) {
    let mut positions = BTreeSet::new();
    let mut trades: [BTreeSet<(u64, u64)>; 2] = Default::default();
    let all = (0..documents).map(document).chain((0..writers).map(book));
    let all = all.chain((0..writers).flat_map(|writer| (0..BULK).map(move |n| bulk(writer, n))));
    for id in all {
        let (mut state, mut writes, mut version) = (None, BTreeMap::new(), 0);
        loop {
            let page = games.changes(&id, version, 500).await.unwrap();
            for change in page.changes {
                version += 1;
                assert_eq!(change.version, version, "{id}: a number twice, or a gap");
                let position = change.position;
                assert!(positions.insert(position), "{id}@{version}: position {position} twice");
                let before: Option<Body> = state.clone();
                state = change.diff.apply(state).unwrap();
                let writer = change.producer.client_id.as_str().strip_prefix('w').map(|n| n.parse().unwrap());
                let write: (u64, u64) = (writer.unwrap(), change.producer.sequence.unwrap());
                assert_eq!(writes.insert(write, version), None, "{id}: {write:?} was applied twice");
                let mark = |body: &Option<Body>| body.as_ref()?.get(&format!("trade {}", write.0))?.as_u64();
                if let Some(nth) = mark(&state).filter(|_| mark(&before) != mark(&state)) {
                    let is_new = trades[usize::from(id.as_str().starts_with("book"))].insert((write.0, nth));
                    assert!(is_new, "{id}: the transaction {nth} of {} was carried out twice", write.0);
                }
            }
            if !page.more {
                break;
            }
        }
        let found = games.find_one(&id).await.unwrap();
        assert_eq!(games.last_version(&id).await.unwrap(), version, "{id}");
        assert_eq!(found.map(|found| (*found.body).clone()), state, "{id}: its events make something else");
        for ((_, writer, nth), (at, changed)) in acknowledged.iter().filter(|((of, ..), _)| *of == id) {
            let made = writes.get(&(*writer, *nth));
            let is_so = match changed {
                Some(true) => made == Some(at),
                Some(false) => made.is_none(),
                None => made.is_none_or(|made| made == at),
            };
            assert!(is_so, "{id}: {nth} of {writer} was answered with {at} ({changed:?}), and made {made:?}");
        }
    }
    assert_eq!(trades[0], trades[1], "half of a transaction is there");
    let last = games.position().await.unwrap();
    assert!(positions.iter().copied().eq(1..=last), "the log has a gap");
    let mut watch = games.watch(WatchFilter::default(), WatchFrom::After(0)).await.unwrap();
    for position in 1..=last {
        let event = tokio::time::timeout(PATIENCE, watch.next()).await.expect("in time").unwrap().unwrap();
        assert!(matches!(event, WatchEvent::Change(change) if change.position == position));
    }
}
