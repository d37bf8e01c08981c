//! A store over MongoDB: any number of processes, one database.
//!
//! The version check and the write of a change are one atomic step of the server, a `findOneAndUpdate` or the same as a statement of a
//! command that writes share which meet, and the change's event is part of the very same write: it goes into an outbox inside the document. So a standalone server keeps document and event together as
//! well as a replica set does, without a transaction. A relay then gives the event its place in the log, the collection
//! `events`; [`changes`](Storage::changes) and [`watch`](Storage::watch) read the log, and put into it what they find
//! missing.
//!
//! What differs from the other stores:
//! - a [`Change`](crate::Change) in the answer to a write has the position 0: it gets its position a moment later;
//! - other programs may write to the collections directly. A listener sees it and records the change as a client named
//!   [`DIRECT`]; until then the document shows another body than its last change made;
//! - a document and its event have to fit into one document of the server, 16 MiB.
//!
//! The layout is docs/formats/mongodb.md.

mod failure;
pub(crate) mod value;
mod record;
mod relay;
mod log;
mod listener;
mod producers;
mod query;
mod storage;
mod plan;
mod commit;
mod group;
mod claim;
mod remembered;
mod adopt;
mod whole;
mod pipeline;
mod transaction;
mod tombstones;
#[cfg(feature = "conformance")]
pub mod testing;

use std::{
    collections::BTreeSet,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    sync::{Arc, OnceLock, atomic::AtomicBool},
    time::Duration,
};

use async_trait::async_trait;
use mongodb::{
    Client, Collection, Database, IndexModel,
    bson::{Document as Bsons, doc},
    options::{Acknowledgment, ClientOptions, IndexOptions, ReadConcern, WriteConcern},
};
use parking_lot::Mutex;
use tokio::{sync::watch, task::JoinSet};

/// The driver, for what [`native`](Storage::native) gives: the same version of it.
pub use mongodb as driver;

pub use self::{
    commit::OUTBOX_MAX,
    failure::{INSIDE_FAILURES_MAX, is_passing},
    group::{GROUP_BYTES_MAX, GROUP_MAX, SharedWrites, WRITE_LANES},
    producers::PRODUCERS_MAX,
    relay::{QUEUE_BYTES_MAX, QUEUE_MAX},
    storage::MongoStorage,
};
use self::{
    failure::{is_there_already, of_driver},
    group::Groups,
    relay::{Key, Relay},
    remembered::Gate,
};
use crate::{
    Storage, StorageError, StorageOptions, Store,
    clock::{self, Clock},
    retry, store,
    watch::Tide,
};

/// The name under which changes are recorded that other programs made.
pub const DIRECT: &str = "direct-write";

/// How many documents can be written at a time by one process; more wait for each other. So many that of 256 documents that
/// are written by turns hardly three share one: those are not remembered, and each write of theirs has to read first.
const GATES: usize = 4_096;

/// How many change streams a store may have open: one per collection that is listened to, and one of the log. A further
/// one waits.
const STREAMS_MAX: u32 = 1_024;

/// How long a server that was found may take for what the store asks of it when it is opened.
pub const CONNECT_TIME_MAX: Duration = Duration::from_secs(30);

/// How long closing waits for the last events to come into the log. What does not is moved when the store is opened again.
pub const SETTLE_TIME_MAX: Duration = Duration::from_secs(10);

/// How long closing waits for the driver to end, which asks the server to forget its sessions.
pub const SHUTDOWN_TIME_MAX: Duration = Duration::from_secs(5);

/// Collections that belong to the store, or to those who keep side data and patches in the same database.
const OWN_COLLECTIONS: &[&str] = &[
    "events",
    "snapshots",
    "state_vectors",
    "vector_clocks",
    "idempotency_keys",
    "shelf",
    "patches",
    "patch_documents",
    "patch_snapshots",
];

/// What the store keeps under its own name. All of it is there before the first write: created by that, a collection is one
/// more thing that a crash of the server can leave half done.
const SIDE_COLLECTIONS: [&str; 4] = ["answers", "listeners", "producers", "tombstones"];

/// How a store is opened.
#[derive(Clone)]
pub struct MongoOptions {
    /// The name of the database; `None` takes the one that the URI names.
    pub database: Option<String>,
    /// How many connections writes and reads share. Change streams have a client of their own, as each holds one.
    pub connections_max: u32,
    /// How many commands with writes are under way at a time, at least one. A write that finds so many waits for one of them, and goes by one command with the others
    /// that wait. Few are best where commands are dear to the server; more where it is far away and has processors to spare.
    pub write_lanes: usize,
    /// Whether what other programs write directly is seen and recorded. Without that it is left to whoever writes next, and
    /// what a process left that died is moved every thirty [`poll_interval`](Self::poll_interval)s.
    pub listen: bool,
    /// How often it is looked for what other programs wrote directly, where the server has no change streams. It reads
    /// the whole collection, and each thirtieth time also looks for documents that are gone. How often a watch looks for other processes' changes there is the collection's
    /// [`watch_poll_interval`](StorageOptions::watch_poll_interval).
    pub poll_interval: Duration,
    /// How many writes may wait for their places in the log. At the bound a writer first moves what waits, and fails with
    /// what keeps it from that.
    pub queue_max: usize,
    /// How many bytes of events may wait for their places in the log, of their diffs and metadata. At the bound it is as with
    /// [`queue_max`](Self::queue_max); a write that is let in may go over it by its own.
    pub queue_bytes_max: usize,
    /// For how long a deleted document leaves its tombstone where it was.
    pub tombstones_kept: Duration,
    /// The time that changes carry.
    pub clock: Clock,
}

impl Default for MongoOptions {
    /// The URI's database, 32 connections, [`WRITE_LANES`], a listener, a look every two seconds, [`QUEUE_MAX`] and [`QUEUE_BYTES_MAX`], tombstones for
    /// a day.
    fn default() -> Self {
        Self {
            database: None,
            connections_max: 32,
            write_lanes: WRITE_LANES,
            listen: true,
            poll_interval: Duration::from_secs(2),
            queue_max: QUEUE_MAX,
            queue_bytes_max: QUEUE_BYTES_MAX,
            tombstones_kept: Duration::from_secs(24 * 60 * 60),
            clock: clock::system(),
        }
    }
}

/// A store in a MongoDB database. Clones are the same store; dropped, it stops its tasks.
#[derive(Clone)]
pub struct MongoStore {
    handle: Arc<Handle>,
}

/// What the users of the store hold.
struct Handle {
    shared: Arc<Shared>,
    /// The relay, the followers and listeners. They hold `shared`, so they end with the handle.
    tasks: Mutex<JoinSet<()>>,
    following: OnceLock<()>,
    /// The collections that are listened to, or of which was moved what a crash left: each once, however often it is opened.
    listening: Mutex<BTreeSet<String>>,
}

/// What the tasks of the store hold as well.
struct Shared {
    options: MongoOptions,
    client: Client,
    streams: Client,
    /// Where the writers of all collections meet.
    groups: Arc<Groups>,
    database: Database,
    events: Collection<Bsons>,
    relay: Arc<Relay>,
    tide: watch::Sender<Tide>,
    /// Collections that were opened here, by number. Held for a look-up.
    names: Mutex<Vec<Arc<str>>>,
    /// Whether a change stream tells what other programs write to them, by number. Held for a look-up.
    heard: Mutex<Vec<Arc<AtomicBool>>>,
    /// A writer holds the gate of its document, so that writers of one process don't make each other try again. It holds what
    /// the last of them has left.
    gates: Vec<tokio::sync::Mutex<Gate>>,
    /// Told when somebody watches, or another process writes to the same documents.
    followed: tokio::sync::Notify,
    /// How often the log is looked at where there are no change streams: as often as the most impatient of the
    /// collections asks for. Held for a look.
    log_interval: Mutex<Duration>,
    /// The latest time that was recorded here.
    time_ms: Mutex<u64>,
}

impl MongoStore {
    /// Connects and sees to it that the collections and indexes of the store are there.
    ///
    /// # Errors
    /// [`StorageError::Backend`] when the address is none, or no server answers within the time that the URI gives
    /// (`serverSelectionTimeoutMS`, ten seconds if it gives none); [`StorageError::Timeout`] when one does not do what it
    /// is asked for within [`CONNECT_TIME_MAX`].
    pub async fn connect(uri: &str, options: MongoOptions) -> Result<Self, StorageError> {
        let mut client = ClientOptions::parse(uri).await.map_err(|e| of_driver(&e))?;
        client.app_name.get_or_insert_with(|| "weft".to_owned());
        client.server_selection_timeout.get_or_insert(Duration::from_secs(10));
        // Acknowledged is durable, also when the primary changes; unless the URI says that it need not be.
        client
            .write_concern
            .get_or_insert_with(|| WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build());
        client.read_concern.get_or_insert_with(ReadConcern::majority);
        // Which writes were applied is known here better than to the driver, also on servers that can't tell it.
        client.retry_writes = Some(false);
        let mut streams = client.clone();
        client.max_pool_size = Some(options.connections_max.max(1));
        // Each stream holds a connection for as long as it is open.
        streams.max_pool_size = Some(STREAMS_MAX);
        let (client, streams) = (with(client)?, with(streams)?);
        let database = match (&options.database, client.default_database()) {
            (Some(name), _) => client.database(name),
            (None, Some(database)) => database,
            (None, None) => return Err(StorageError::Backend("the URI names no database".to_owned())),
        };
        let (tide, _) = watch::channel(Tide { position: 0, put_back: 0, closed: false });
        let relay = Arc::new(Relay::new(database.clone(), tide.clone(), &options));
        let groups = Groups::new(client.clone(), options.write_lanes);
        let shared = Arc::new(Shared {
            options,
            client,
            groups,
            streams,
            events: database.collection("events"),
            database,
            relay: relay.clone(),
            tide,
            names: Mutex::default(),
            heard: Mutex::default(),
            gates: (0..GATES).map(|_| tokio::sync::Mutex::default()).collect(),
            followed: tokio::sync::Notify::new(),
            log_interval: Mutex::new(Duration::MAX),
            time_ms: Mutex::new(0),
        });
        let prepared = async { shared.prepare().await.map_err(|e| of_driver(&e)) };
        retry::within(CONNECT_TIME_MAX, prepared).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(relay.run());
        tasks.spawn(Arc::clone(&shared).purge_tombstones());
        Ok(Self {
            handle: Arc::new(Handle {
                shared,
                tasks: Mutex::new(tasks),
                following: OnceLock::new(),
                listening: Mutex::default(),
            }),
        })
    }

    /// The database, for what this crate does not offer.
    pub fn database(&self) -> &Database {
        &self.handle.shared.database
    }

    /// How many writes have shared their commands with others.
    pub fn shared_writes(&self) -> SharedWrites {
        self.handle.shared.groups.counts()
    }

    /// Opens a collection, creating it if it is absent.
    pub async fn collection(
        &self,
        name: &str,
        options: StorageOptions,
    ) -> Result<MongoStorage, StorageError> {
        check_name(name, &options)?;
        let shared = &self.handle.shared;
        if shared.tide.borrow().closed {
            return Err(StorageError::Closed);
        }
        let opened = async {
            let collections = shared.own("collections");
            let unrecorded = collections.find_one(doc! {"_id": name, "recorded": false}).await;
            if unrecorded.map_err(|e| of_driver(&e))?.is_some() {
                return Err(store::unrecorded_collection(name));
            }
            let number = shared.number(name);
            let storage = MongoStorage::new(self.handle.clone(), name, number, options.clone());
            storage.create_indexes().await.map(|()| storage)
        };
        let storage = retry::within(options.operation_timeout, opened).await?;
        let mut interval = shared.log_interval.lock();
        *interval = storage.options.watch_poll_interval.min(*interval);
        drop(interval);
        self.handle.follow();
        if self.handle.listening.lock().insert(name.to_owned()) {
            let (storage, listens) = (storage.for_task(), shared.options.listen);
            self.handle.tasks.lock().spawn(async move {
                let mend = storage.clone().mend();
                let listen =
                    async { if listens { storage.listen().await } else { storage.only_recover().await } };
                tokio::join!(mend, listen);
            });
        }
        Ok(storage)
    }
}

/// The time by which tasks here wait for each other.
#[expect(
    clippy::disallowed_methods,
    reason = "the store is a driver: what is not of its own time is told to it"
)]
fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

fn with(options: ClientOptions) -> Result<Client, StorageError> {
    Client::with_options(options).map_err(|e| of_driver(&e))
}

/// Names that are no collection of the server, or one of the store's own.
fn check_name(name: &str, options: &StorageOptions) -> Result<(), StorageError> {
    store::check_collection(name, options)?;
    let reason = if name.contains('$') {
        "MongoDB has no collection with a $ in its name"
    } else if name.starts_with("system.") {
        "MongoDB keeps the collections under system. for itself"
    } else if name.starts_with(value::OWN) || OWN_COLLECTIONS.contains(&name) {
        "the store keeps it for itself"
    } else if options.version_field == value::OWN {
        "its versions would stand where the store keeps what is its own, under the name _weft"
    } else {
        return Ok(());
    };
    Err(StorageError::InvalidCollection { name: name.to_owned(), reason: reason.to_owned() })
}

#[async_trait]
impl Store for MongoStore {
    async fn collection(
        &self,
        name: &str,
        options: StorageOptions,
    ) -> Result<Arc<dyn Storage>, StorageError> {
        Ok(Arc::new(self.collection(name, options).await?))
    }

    async fn close(&self) -> Result<(), StorageError> {
        let shared = &self.handle.shared;
        let closed = shared.tide.send_if_modified(|tide| !std::mem::replace(&mut tide.closed, true));
        if !closed {
            return Ok(());
        }
        // A writer that was let in before leaves through its gate.
        for gate in &shared.gates {
            drop(gate.lock().await);
        }
        // What nobody waited for any more may be under way still.
        shared.groups.ended().await;
        let mut tasks = std::mem::take(&mut *self.handle.tasks.lock());
        tasks.shutdown().await;
        let settled = async {
            shared.relay.settle().await.map_err(|e| of_driver(&e))?;
            shared.relay.clear(Duration::ZERO).await.map_err(|e| of_driver(&e))
        };
        // Nothing is lost by an error here: it is all in the outboxes.
        if let Err(error) = retry::within(SETTLE_TIME_MAX, settled).await {
            tracing::warn!(%error, "events stay in their outboxes until the store is opened again");
        }
        let shut = async {
            shared.streams.clone().shutdown().immediate(true).await;
            shared.client.clone().shutdown().immediate(true).await;
            Ok(())
        };
        if retry::within(SHUTDOWN_TIME_MAX, shut).await.is_err() {
            tracing::warn!("the driver waits for a server that says nothing, and is left to itself");
        }
        Ok(())
    }
}

impl Handle {
    /// Follows the log from the first collection on.
    fn follow(&self) {
        self.following.get_or_init(|| {
            self.tasks.lock().spawn(Arc::clone(&self.shared).follow_log());
        });
    }
}

/// A collection of the store's own.
fn own_collection(database: &Database, name: &str) -> Collection<Bsons> {
    database.collection(&format!("{}.{name}", value::OWN))
}

impl Shared {
    fn events(&self) -> &Collection<Bsons> {
        &self.events
    }

    fn own(&self, name: &str) -> Collection<Bsons> {
        own_collection(&self.database, name)
    }

    /// The collections and indexes of the store. Creating one that is there is nothing.
    async fn prepare(&self) -> Result<(), mongodb::error::Error> {
        let side = SIDE_COLLECTIONS.map(|name| self.own(name).name().to_owned());
        let there = self.database.list_collection_names().filter(doc! {"name": {"$in": &side[..]}}).await?;
        for name in side.iter().filter(|name| !there.contains(name)) {
            match self.database.create_collection(name).await {
                Err(error) if is_there_already(&error) => {}
                created => created?,
            }
        }
        let unique = |keys: Bsons| {
            IndexModel::builder().keys(keys).options(IndexOptions::builder().unique(true).build()).build()
        };
        let by_producer = doc! {"collection": 1, "documentId": 1, "clientId": 1, "clientSeq": 1};
        let indexes = [
            unique(doc! {"position": 1}),
            unique(doc! {"collection": 1, "documentId": 1, "sequenceNum": 1}),
            IndexModel::builder().keys(by_producer).build(),
        ];
        self.events().create_indexes(indexes).await?;
        Ok(())
    }

    /// The number of a collection, the same for as long as the store is open.
    fn number(&self, name: &str) -> u32 {
        let mut names = self.names.lock();
        let number = names.iter().position(|other| **other == *name).unwrap_or_else(|| {
            names.push(name.into());
            names.len() - 1
        });
        number as u32
    }

    fn heard(&self, number: u32) -> Arc<AtomicBool> {
        let (number, mut heard) = (number as usize, self.heard.lock());
        if heard.len() <= number {
            heard.resize_with(number + 1, Arc::default);
        }
        Arc::clone(&heard[number])
    }

    fn gate(&self, key: &Key) -> &tokio::sync::Mutex<Gate> {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(key);
        &self.gates[hash as usize % GATES]
    }

    /// The time of a change: never before another one's.
    fn now_ms(&self, at_least: u64) -> u64 {
        let mut time = self.time_ms.lock();
        *time = (self.options.clock)().max(*time).max(at_least);
        *time
    }
}
