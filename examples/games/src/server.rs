//! From the command line to a running server, and down again in order.

use std::{future::Future, io::Write, net::SocketAddr, sync::Arc, time::Duration};

use eventsync::{
    EventSyncStorage, PersistentVectorClockManager, SyncService, SyncServiceOptions,
    http::{self, Door, HttpOptions, Peer},
    shelf::{Durability, EmbeddedShelf, MongoShelf, Shelf, ShelfError},
};
use nodestorage::{
    CachedStorage, CachedStore, MemoryCache, MongoOptions, MongoStore, RedisCache, RedisCacheOptions,
    Storage, StorageError, StorageOptions, Store,
    embedded::{EmbeddedOptions, EmbeddedStore},
};
use spot::{RedisOptions, RedisPubSub, Topic};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use crate::{
    access::Access,
    game,
    options::{Cache, Options},
    page,
};

/// How long requests and connections may take to end after a goodbye; then they are cut.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Where those meet that share a database. Two databases on one Redis are told apart by its own numbers: `redis://host/1`.
const WAKE_TOPIC: &str = "games/wake";

/// Under which key the shelf has the name of these games.
const NAME: &[u8] = b"games/name\0";

/// Serves until it is told to stop. An error is one line for the user.
pub(crate) async fn run(options: &Options) -> Result<(), String> {
    // The port first: a second start by mistake must not touch the store of the first.
    let listener = TcpListener::bind(options.listen)
        .await
        .map_err(|e| format!("can't listen on {}: {e}; --listen takes another address", options.listen))?;
    let address = listener.local_addr().map_err(|e| format!("no address: {e}"))?;
    let access = Arc::new(Access::new(options)?);
    access.check(address, options)?;
    let Opened { store, service, cached } = match &options.store {
        Some(uri) => open_database(uri, options).await?,
        None => open(options).await?,
    };
    if let Some(url) = &options.wake {
        wake_others(&service, url).await?;
    }
    let http_options = HttpOptions {
        authorizer: access.authorizer.clone(),
        any_host: options.open,
        per_address: Some(options.allowance()),
        per_principal: Some(options.allowance()),
        client_address: options.client_address(),
        ..HttpOptions::new("games")
    };
    let router = http::router(service.clone(), http_options)
        .merge(page::router())
        .merge(http::metrics(service.clone(), access.authorizer.clone(), move |page| {
            if let Some(cached) = &cached {
                page.cache(&cached.stats(), cached.is_cache_trusted());
            }
        }))
        .fallback(http::not_found);
    let stop = stop_signal()?;
    let draining = service.clone();
    let router = router.into_make_service_with_connect_info::<Peer>();
    let serving = axum::serve(Door::new(listener), router).with_graceful_shutdown(async move {
        stop.await;
        tracing::info!("stopping: answering what is under way");
        draining.drain();
    });
    access.warn(address);
    match &options.store {
        // Not its URI, which may hold a password.
        Some(_) => say_ready(address, "the database"),
        None => say_ready(address, &options.data.display().to_string()),
    }

    let mut reloads = signal(SignalKind::hangup()).map_err(|e| format!("can't listen for signals: {e}"))?;
    let reloading = async {
        while reloads.recv().await.is_some() {
            access.reload(options);
        }
    };
    let drained = service.draining().clone();
    let cut = async {
        drained.cancelled().await;
        tokio::time::sleep(DRAIN_MAX).await;
    };
    tokio::select! {
        served = serving => served.map_err(|e| format!("the server failed: {e}"))?,
        () = reloading => {}
        () = cut => tracing::warn!("some connections did not end in time and were cut"),
    }
    if timeout(DRAIN_MAX, service.close()).await.is_err() {
        tracing::warn!("some clients did not say goodbye in time");
    }
    store.close().await.map_err(|e| format!("the store did not close: {e}"))?;
    tracing::info!("stopped");
    Ok(())
}

/// Everything that is open while it serves.
struct Opened {
    store: Arc<dyn Store>,
    service: SyncService,
    /// The games, if there is a cache in front of them.
    cached: Option<Arc<CachedStorage>>,
}

async fn open(options: &Options) -> Result<Opened, String> {
    let data = &options.data;
    let at = |what: &str, e: &dyn std::fmt::Display| format!("{what} in {}: {e}", data.display());
    std::fs::create_dir_all(data).map_err(|e| at("can't keep data", &e))?;
    let documents = data.join("documents");
    // Checking a large store takes a while, on a thread that may wait.
    let opening =
        tokio::task::spawn_blocking(move || EmbeddedStore::open(documents, EmbeddedOptions::default()));
    let store = opening.await.map_err(|e| at("can't open the store", &e))?;
    let store = store.map_err(|e| at("can't open the store", &e))?;
    let shelf = EmbeddedShelf::open(data.join("shelf")).map_err(|e| at("can't open the shelf", &e))?;
    wire(Arc::new(store), Arc::new(shelf), options, &at).await
}

async fn open_database(uri: &str, options: &Options) -> Result<Opened, String> {
    let at = |what: &str, e: &dyn std::fmt::Display| format!("{what} in the database: {e}");
    let store = MongoStore::connect(uri, MongoOptions::default()).await;
    let store = store.map_err(|e| at("can't keep data", &e))?;
    let shelf = Arc::new(MongoShelf::new(&store));
    wire(Arc::new(store), shelf, options, &at).await
}

/// From a store and what is kept beside it to the service. `at` says where something went wrong.
async fn wire(
    store: Arc<dyn Store>,
    shelf: Arc<dyn Shelf>,
    options: &Options,
    at: &impl Fn(&str, &dyn std::fmt::Display) -> String,
) -> Result<Opened, String> {
    let opened = |e: StorageError| at("can't open the games", &e);
    let cache: Option<Arc<dyn nodestorage::Cache>> = match options.cache() {
        Cache::None => None,
        Cache::Memory => Some(Arc::new(MemoryCache::default())),
        Cache::Redis(uri) => {
            let name = name_of(&*shelf).await.map_err(|e| at("can't name the games", &e))?;
            let cache_options =
                RedisCacheOptions { prefix: format!("weft:{name}"), ..RedisCacheOptions::default() };
            let cache = RedisCache::new(&uri, "games", cache_options);
            Some(Arc::new(cache.map_err(|e| format!("can't use the cache: {e}"))?))
        }
    };
    let (store, games, cached): (Arc<dyn Store>, Arc<dyn Storage>, _) = match cache {
        None => {
            let games = store.collection("games", StorageOptions::default()).await.map_err(opened)?;
            (store, games, None)
        }
        Some(cache) => {
            let store = CachedStore::new(store, move |_| Arc::clone(&cache));
            let games = Arc::new(store.cached("games", StorageOptions::default()).await.map_err(opened)?);
            (Arc::new(store), Arc::clone(&games) as _, Some(games))
        }
    };
    let service = serve(games, shelf, options).await.map_err(|e| at("can't follow the games", &e))?;
    Ok(Opened { store, service, cached })
}

/// The name of these games among others in one Redis: made once, and kept beside them, where all find it that serve them.
async fn name_of(shelf: &dyn Shelf) -> Result<String, ShelfError> {
    loop {
        if let Some(name) = shelf.get(NAME).await? {
            return String::from_utf8(name).map_err(|e| ShelfError(e.to_string()));
        }
        let name = uuid::Uuid::now_v7().to_string().into_bytes();
        shelf.swap(NAME.to_vec(), None, Some(name), Durability::Synced).await?;
    }
}

/// Joins those over the same database.
async fn wake_others(service: &SyncService, url: &str) -> Result<(), String> {
    // Not the URL, which may hold a password.
    let at = |e: &dyn std::fmt::Display| format!("can't wake others over Redis: {e}");
    let redis = RedisPubSub::connect(url, RedisOptions::standard()).await.map_err(|e| at(&e))?;
    let topic = Topic::new(WAKE_TOPIC).map_err(|e| at(&e))?;
    service.wake_others(Arc::new(redis), topic).await.map_err(|e| at(&e))
}

async fn serve(
    games: Arc<dyn Storage>,
    shelf: Arc<dyn Shelf>,
    options: &Options,
) -> Result<SyncService, StorageError> {
    let clocks = PersistentVectorClockManager::new(Arc::clone(&shelf));
    let storage = EventSyncStorage::new(games).with_vector_clock_manager(Arc::new(clocks));
    SyncService::start(SyncServiceOptions {
        storage: Arc::new(storage),
        shelf,
        snapshots: options.snapshots(),
        compaction: options.compaction(),
        rules: Some(Arc::new(game::check)),
    })
    .await
}

/// Resolves at ctrl-c or SIGTERM.
fn stop_signal() -> Result<impl Future<Output = ()>, String> {
    let listen = |kind| signal(kind).map_err(|e| format!("can't listen for signals: {e}"));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

fn say_ready(address: SocketAddr, data: &str) {
    // Who reads this may be gone already; that is no reason to stop.
    let _ = writeln!(std::io::stdout(), "Weft games: http://{address} (data in {data})");
    let _ = std::io::stdout().flush();
}
