//! The service against a model: writers, readers, reconnects, snapshots and compaction at random.
//!
//! A failure prints its seed: `WEFT_SEED=… cargo test -p eventsync --all-features --test model`.

mod support;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crdt_core::ClientId;
use eventsync::{
    ClientVector, EventCompactor, FeedItem, PageLimit, Problem, ProblemType, Resume, Scope, SyncService,
    protocol::PushOp,
    service::{FeedReader, SyncRequest, WriteOptions},
    shelf::MemoryShelf,
};
use futures_util::FutureExt;
use nodestorage::{DocumentId, MemoryStorage, Producer};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::time::timeout;

const LIMIT: PageLimit = PageLimit { events_max: 3, bytes_max: 600 };

fn id(document: usize) -> DocumentId {
    DocumentId::new(format!("doc {document}")).unwrap()
}

fn client(name: &str) -> ClientId {
    ClientId::new(name).unwrap()
}

/// What a document should be.
#[derive(Clone)]
struct Model {
    /// By version.
    states: Vec<Value>,
    /// By client: the versions that its writes were answered with.
    answers: BTreeMap<String, Vec<u64>>,
    /// By version less one: who made it, as which of its writes; 0 for who does not count.
    authors: Vec<(&'static str, u64)>,
}

impl Model {
    fn new() -> Self {
        Self { states: vec![Value::Null], answers: BTreeMap::new(), authors: Vec::new() }
    }

    /// All writes of a client that counts up to one of them: its count, and what of it is behind a version.
    fn some_of_one(&self, version: u64, rng: &mut StdRng) -> (ClientId, u64, Had) {
        let own = ["a.b", "c"][rng.random_range(0..2)];
        let count = rng.random_range(0..=self.answers.get(own).map_or(0, Vec::len)) as u64;
        let by_version = (1..).zip(self.authors.iter().zip(&self.states[1..]));
        let of_it = by_version.filter(|(at, ((by, n), _))| *at > version && *by == own && *n <= count);
        (client(own), count, of_it.map(|(at, ((_, n), state))| (at, (state.clone(), *n))).collect())
    }

    fn version(&self) -> u64 {
        self.states.len() as u64 - 1
    }

    fn state(&self) -> &Value {
        self.states.last().unwrap()
    }
}

/// By versions that are behind what a client has made: the state there, and as which of the client's writes.
type Had = BTreeMap<u64, (Value, u64)>;

/// A client that follows one document and makes a view of it.
struct Follower {
    document: usize,
    reader: FeedReader,
    version: u64,
    state: Value,
    vector: ClientVector,
    /// Writes of one client that it has though it has not heard of all before them.
    had: Had,
    /// Whose.
    own: Option<ClientId>,
}

impl Follower {
    fn new(service: &SyncService, document: usize) -> Self {
        let reader = service.follow(Scope::Document(id(document)), Resume::After(0), LIMIT);
        let (state, vector, had) = (Value::Null, ClientVector::new(), Had::new());
        Self { document, reader, version: 0, state, vector, had, own: None }
    }

    /// With a model, its vector may have holes.
    fn reconnect(&mut self, service: &SyncService, rng: &mut StdRng, model: Option<&Model>) {
        (self.had, self.own) = (Had::new(), None);
        let resume = match rng.random_range(0..4) {
            0 => Resume::Latest,
            1 => {
                let mut vector = self.vector.clone();
                if let Some(model) = model {
                    let (own, count, had) = model.some_of_one(self.version, rng);
                    if count > vector.get(&own) {
                        vector.advance(own.clone(), count);
                        (self.had, self.own) = (had, Some(own));
                    }
                }
                Resume::Vector(vector)
            }
            _ => Resume::After(self.version),
        };
        self.reader = service.follow(Scope::Document(id(self.document)), resume, LIMIT);
    }

    /// Takes what it has into what it has made.
    fn go_on(&mut self) {
        while let Some((state, count)) = self.had.remove(&(self.version + 1)) {
            self.version += 1;
            self.state = state;
            self.vector.advance(self.own.clone().expect("somebody made it"), count);
        }
    }

    fn take(&mut self, item: FeedItem) {
        match item {
            FeedItem::Events(events) => {
                for event in events {
                    self.go_on();
                    assert_eq!(event.sequence_num(), self.version + 1, "a gap or a repeat");
                    event.apply(&mut self.state).unwrap();
                    event.advance(&mut self.vector);
                    self.version += 1;
                }
            }
            FeedItem::Snapshot(snapshot) => {
                self.had.clear();
                self.version = snapshot.version;
                self.state = snapshot.value();
                self.vector = snapshot.state_vector.clone();
            }
            FeedItem::Live { cursor } => {
                self.go_on();
                assert_eq!((cursor, self.had.len()), (self.version, 0), "live, and lacks nothing");
            }
            FeedItem::Resync { .. } => {}
        }
    }
}

struct World {
    service: SyncService,
    models: Vec<Model>,
    followers: Vec<Follower>,
    /// One follower of everything: by document, what it has.
    collection: (FeedReader, BTreeMap<DocumentId, (u64, Value)>),
    compacted: Vec<u64>,
}

impl World {
    async fn new() -> Self {
        let storage = Arc::new(MemoryStorage::default());
        let service = SyncService::start(eventsync::SyncServiceOptions {
            storage: Arc::new(eventsync::EventSyncStorage::new(storage)),
            shelf: Arc::new(MemoryShelf::new()),
            snapshots: eventsync::SnapshotPolicy { every: Some(7), age: None, keep: 3 },
            compaction: None,
            rules: None,
        })
        .await
        .unwrap();
        let followers = (0..6).map(|n| Follower::new(&service, n % 3)).collect();
        let reader = service.follow(Scope::Collection, Resume::After(0), LIMIT);
        Self {
            models: vec![Model::new(); 3],
            followers,
            collection: (reader, BTreeMap::new()),
            compacted: vec![0; 3],
            service,
        }
    }

    async fn write(&mut self, rng: &mut StdRng) {
        let document = rng.random_range(0..3);
        let model = &mut self.models[document];
        let writer: &'static str = ["a.b", "c", "server"][rng.random_range(0..3)];
        let counted = writer != "server";
        let answers = model.answers.entry(writer.to_owned()).or_default().clone();
        // Sometimes the client did not hear the answer and asks again.
        let repeats = counted && !answers.is_empty() && rng.random_bool(0.2);
        let sequence = if repeats { rng.random_range(1..=answers.len()) } else { answers.len() + 1 } as u64;
        let op = match rng.random_range(0..10) {
            0 => PushOp::Delete,
            1..4 => {
                PushOp::Replace { state: json!({"n": rng.random_range(0..50)}).as_object().unwrap().clone() }
            }
            _ => {
                PushOp::Merge { patch: json!({writer: rng.random_range(0..3)}).as_object().unwrap().clone() }
            }
        };
        let mut options = WriteOptions::by(client(writer));
        options.producer = Producer { client_id: client(writer), sequence: counted.then_some(sequence) };
        if rng.random_bool(0.2) {
            options.base_version = Some(rng.random_range(0..=model.version()));
        }
        let written = self.service.write(&id(document), &op, options.clone()).await;
        let before = model.state().clone();
        if repeats {
            let written = written.unwrap();
            let first = answers[sequence as usize - 1];
            assert!(written.repeated && !written.changed);
            // An answer whose event is compacted away may be given as a later version.
            assert!(written.version == first || first <= self.compacted[document]);
            return;
        }
        // A document that is absent has version 0 for conditions.
        let at = if before.is_null() { 0 } else { model.version() };
        if options.base_version.is_some_and(|base| base != at) {
            assert!(written.unwrap_err().problem.is(ProblemType::VersionMismatch));
            return;
        }
        let after = match (&op, &before) {
            (PushOp::Delete, _) => Value::Null,
            (PushOp::Replace { state }, _) => Value::Object(state.clone()),
            (PushOp::Merge { .. }, Value::Null) => {
                assert!(written.is_err());
                return;
            }
            (PushOp::Merge { patch }, before) => {
                let mut after = before.clone();
                json_patch::merge(&mut after, &Value::Object(patch.clone()));
                after
            }
            _ => unreachable!(),
        };
        let written = written.unwrap();
        assert!(!written.repeated);
        assert_eq!(written.changed, after != before);
        if written.changed {
            model.states.push(after);
            model.authors.push((writer, if counted { sequence } else { 0 }));
        }
        assert_eq!(written.version, model.version());
        model.answers.get_mut(writer).unwrap().push(written.version);
    }

    async fn read_some(&mut self, rng: &mut StdRng) {
        let follower = rng.random_range(0..self.followers.len());
        for _ in 0..rng.random_range(0..4) {
            if let Some(item) = self.followers[follower].reader.next().now_or_never() {
                self.followers[follower].take(item.unwrap());
            }
        }
        if rng.random_bool(0.5)
            && let Some(item) = self.collection.0.next().now_or_never()
        {
            self.take_collection(item.unwrap()).await;
        }
        self.check(follower);
    }

    async fn take_collection(&mut self, item: FeedItem) {
        match item {
            FeedItem::Events(events) => {
                for event in events {
                    let known =
                        self.collection.1.entry(event.document_id().clone()).or_insert((0, Value::Null));
                    // After a resync the list may be newer than the event; then it is no news.
                    if event.sequence_num() > known.0 {
                        assert_eq!(event.sequence_num(), known.0 + 1, "a gap in the collection");
                        event.apply(&mut known.1).unwrap();
                        known.0 += 1;
                    }
                }
            }
            FeedItem::Resync { .. } => {
                for document in 0..3 {
                    let latest = self.service.latest(&id(document)).await.unwrap();
                    self.collection.1.insert(id(document), (latest.version, latest.value()));
                }
            }
            FeedItem::Live { .. } => {}
            FeedItem::Snapshot(_) => panic!("the collection has no snapshot"),
        }
    }

    fn check(&self, follower: usize) {
        let follower = &self.followers[follower];
        assert_eq!(follower.state, self.models[follower.document].states[follower.version as usize]);
    }

    async fn look_back(&self, rng: &mut StdRng) {
        let document = rng.random_range(0..3);
        let model = &self.models[document];
        if model.version() == 0 {
            return;
        }
        let version = rng.random_range(1..=model.version());
        match self.service.state_at(&id(document), version).await {
            Ok(past) => {
                assert_eq!(past.version, version);
                assert_eq!(past.value(), model.states[version as usize], "another past than it was");
            }
            Err(problem) => {
                assert!(problem.is(ProblemType::HistoryCompacted), "{problem}");
                assert!(version <= self.compacted[document]);
            }
        }
    }

    /// Catches a client up in requests and compares.
    async fn sync(&self, rng: &mut StdRng) -> Result<(), Problem> {
        let follower = &self.followers[rng.random_range(0..self.followers.len())];
        let model = &self.models[follower.document];
        if model.version() == 0 {
            return Ok(());
        }
        let mut request = SyncRequest { limit: Some(2), ..SyncRequest::default() };
        // What the client has besides its beginning, and what it says.
        let (mut had, mut said) = (Had::new(), ClientVector::new());
        match rng.random_range(0..3) {
            0 => request.cursor = Some(follower.version),
            1 => {
                let (own, count, of_it) = model.some_of_one(follower.version, rng);
                let mut vector = follower.vector.clone();
                if count > vector.get(&own) {
                    vector.advance(own, count);
                    had = of_it;
                }
                said.clone_from(&vector);
                request.vector_clock = Some(vector);
            }
            _ => {}
        }
        let (mut version, mut state) = (follower.version, follower.state.clone());
        loop {
            let answer = self.service.sync(&id(follower.document), &request).await?;
            if let Some(snapshot) = &answer.snapshot {
                (version, state) = (snapshot.version, snapshot.value());
                said = ClientVector::new();
            }
            let mut go_on = |version: &mut u64, state: &mut Value| {
                while *version < answer.cursor
                    && let Some((after, _)) = had.remove(&(*version + 1))
                {
                    *version += 1;
                    *state = after;
                }
            };
            for event in &answer.events {
                go_on(&mut version, &mut state);
                assert_eq!(event.sequence_num(), version + 1, "a gap or a repeat");
                event.apply(&mut state).unwrap();
                version += 1;
            }
            go_on(&mut version, &mut state);
            assert_eq!(version, answer.cursor);
            let mut vector = self.service.clock_at(&id(follower.document), version).await?.vector;
            vector.merge(&said);
            assert_eq!(answer.state_vector, vector);
            match answer.next {
                Some(next) => request.cursor = Some(next),
                None => break,
            }
        }
        assert_eq!((version, &state), (model.version(), model.state()));
        Ok(())
    }

    async fn settle(&mut self) {
        for follower in 0..self.followers.len() {
            let head = self.models[self.followers[follower].document].version();
            while self.followers[follower].version < head {
                let item = timeout(support::DEADLINE, self.followers[follower].reader.next()).await;
                self.followers[follower].take(item.expect("an event in time").unwrap());
                self.check(follower);
            }
            // Whatever else comes is nothing new.
            while let Some(item) = self.followers[follower].reader.next().now_or_never() {
                self.followers[follower].take(item.unwrap());
                self.check(follower);
            }
            assert_eq!(self.followers[follower].version, head);
        }
        let position = self.service.events().position().await.unwrap();
        while self.collection.0.cursor() < position {
            let item = timeout(support::DEADLINE, self.collection.0.next()).await.expect("an event in time");
            self.take_collection(item.unwrap()).await;
        }
        while let Some(item) = self.collection.0.next().now_or_never() {
            self.take_collection(item.unwrap()).await;
        }
        for (document, model) in self.models.iter().enumerate() {
            let (version, state) = self.collection.1.get(&id(document)).cloned().unwrap_or((0, Value::Null));
            assert_eq!((version, &state), (model.version(), model.state()), "the collection's follower");
            let latest = self.service.latest(&id(document)).await.unwrap();
            assert_eq!((latest.version, &latest.value()), (model.version(), model.state()));
        }
    }
}

async fn run(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut world = World::new().await;
    for _ in 0..150 {
        match rng.random_range(0..100) {
            0..45 => world.write(&mut rng).await,
            45..75 => world.read_some(&mut rng).await,
            75..80 => {
                let follower = rng.random_range(0..world.followers.len());
                let service = world.service.clone();
                let World { models, followers, .. } = &mut world;
                let model = &models[followers[follower].document];
                followers[follower].reconnect(&service, &mut rng, Some(model));
            }
            80..84 => world.look_back(&mut rng).await,
            84..88 => world.sync(&mut rng).await.unwrap(),
            88..90 => {
                let document = rng.random_range(0..3);
                let made = world.service.snapshot(&id(document)).await;
                if let Ok((snapshot, _)) = made {
                    let model = &world.models[document];
                    assert_eq!(snapshot.value(), model.states[snapshot.version as usize]);
                }
            }
            90..92 => {
                let document = rng.random_range(0..3);
                let keep = rng.random_range(0..6);
                let compactor = EventCompactor::keeping(keep);
                compactor.compact(&world.service, &id(document)).await.unwrap();
                let last = world.models[document].version();
                world.compacted[document] = world.compacted[document].max(last.saturating_sub(keep));
            }
            _ => tokio::task::yield_now().await,
        }
    }
    world.settle().await;
    world.service.close().await.unwrap();
}

#[test]
fn every_client_has_every_change_once_and_in_order() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if let Ok(seed) = std::env::var("WEFT_SEED") {
        return runtime().block_on(run(seed.parse().expect("WEFT_SEED is a number")));
    }
    for seed in 0..200 {
        if let Err(panic) = std::panic::catch_unwind(|| runtime().block_on(run(seed))) {
            eprintln!("failed with WEFT_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// The same with real concurrency: nobody waits for anybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_writers_readers_and_compaction_agree_in_the_end() {
    let storage = Arc::new(MemoryStorage::default());
    let service = support::service(storage, Arc::new(MemoryShelf::new()), 9).await;
    agree_in_the_end(vec![service], 100).await;
}

/// The same by way of two processes over one database.
#[cfg(all(feature = "mongodb", feature = "conformance"))]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs secantusd"]
async fn concurrent_writers_readers_and_compaction_agree_in_the_end_over_mongodb() {
    use eventsync::shelf::MongoShelf;
    use nodestorage::{MongoOptions, MongoStore, StorageOptions, Store, mongo::testing::TestServer};
    let server = TestServer::start();
    let (mut stores, mut services) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let database = Some(server.database().to_owned());
        let options = MongoOptions { database, ..MongoOptions::default() };
        let store = MongoStore::connect(server.uri(), options).await.unwrap();
        let games = store.collection("games", StorageOptions::default()).await.unwrap();
        services.push(support::service(Arc::new(games), Arc::new(MongoShelf::new(&store)), 9).await);
        stores.push(store);
    }
    agree_in_the_end(services, 25).await;
    for store in stores {
        store.close().await.unwrap();
    }
}

/// `writes` by each of four writers, by way of these services in turn.
async fn agree_in_the_end(services: Vec<SyncService>, writes: u64) {
    const WRITERS: usize = 4;
    let is_shared = services.len() > 1;
    let service = services[0].clone();
    let state = json!({"name": "x"}).as_object().unwrap().clone();
    service.write(&id(0), &PushOp::Create { state }, WriteOptions::by(client("server"))).await.unwrap();
    let mut tasks = Vec::new();
    for writer in 0..WRITERS {
        let service = services[writer % services.len()].clone();
        tasks.push(tokio::spawn(async move {
            let name = format!("writer {writer}");
            for count in 1..=writes {
                let patch = json!({&name: count}).as_object().unwrap().clone();
                let mut options = WriteOptions::by(client(&name));
                options.producer.sequence = Some(count);
                let op = PushOp::Merge { patch };
                let mut refused = false;
                let written = loop {
                    match service.write(&id(0), &op, options.clone()).await {
                        Ok(written) => break written,
                        // Two processes at one document may come between each other until one gives up, for now.
                        Err(refusal) => {
                            let passing = refusal.problem.is(ProblemType::Unavailable);
                            assert!(is_shared && passing, "{refusal:?}");
                            refused = true;
                        }
                    }
                };
                assert!(written.changed || refused);
            }
        }));
    }
    let head = 1 + WRITERS as u64 * writes;
    for seed in 0..8 {
        let service = services[seed as usize % services.len()].clone();
        tasks.push(tokio::spawn(async move {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut follower = Follower::new(&service, 0);
            while follower.version < head {
                if rng.random_bool(0.05) {
                    follower.reconnect(&service, &mut rng, None);
                }
                let item = timeout(support::DEADLINE, follower.reader.next()).await.expect("progress");
                follower.take(item.unwrap());
            }
            for writer in 0..WRITERS {
                assert_eq!(follower.state[format!("writer {writer}")], writes);
            }
        }));
    }
    let compacting = services[services.len() - 1].clone();
    let compaction = tokio::spawn(async move {
        loop {
            EventCompactor::keeping(20).compact(&compacting, &id(0)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    });
    for task in tasks {
        task.await.unwrap();
    }
    compaction.abort();
    let latest = service.latest(&id(0)).await.unwrap();
    assert_eq!(latest.version, head);
    assert_eq!(latest.state_vector.get(&client("writer 0")), writes);
    for service in services {
        service.close().await.unwrap();
    }
}
