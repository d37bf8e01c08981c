//! The founding document's example: a list that several nodes edit, over memory or Redis.
//!
//! ```text
//! cargo run -p crdt-sync --example distributed_example                                     two nodes in one program
//! cargo run -p crdt-sync --features redis --example distributed_example -- redis://127.0.0.1/ alice    one node each
//! ```
//!
//! Every line that is typed is an item; an empty one shows what each node has. `examples/notes` is this, grown up.

use std::{error::Error, sync::Arc};

use crdt_core::{EncodingFormat, PatchBuilder, SessionId, Timestamp};
use crdt_sync::{
    MemoryPatchStore, PeerId, PubSubBroadcaster, PubSubSyncer, SharedModel, SyncManager,
    discovery::PubSubPeerDiscovery, presence::PresenceOptions,
};
use serde_json::Value;
use spot::{MemoryPubSub, PubSub, Topic};
use tokio::io::{AsyncBufReadExt, BufReader};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

struct Node {
    name: String,
    document: Arc<SharedModel>,
    manager: SyncManager,
}

impl Node {
    async fn join(pubsub: &Arc<dyn PubSub>, name: &str) -> Result<Self> {
        // All begin with the same empty list, or each would make one of its own and one of them would win.
        let mut base = PatchBuilder::new(SessionId::GLOBAL, 1);
        let list = base.new_arr();
        base.ins_val(Timestamp::ORIGIN, list);
        let base = base.finish().ok_or("a base")?;

        let session = SessionId::from_random(rand::random());
        let document = Arc::new(SharedModel::with_base(session, base)?);
        let id = PeerId::new(format!("{name}-{session}"))?;
        let topic = |what: &str| Topic::new(format!("example-doc-{what}"));
        let format = EncodingFormat::Json;
        let broadcaster = PubSubBroadcaster::new(Arc::clone(pubsub), topic("patches")?, format).await?;
        let syncer = PubSubSyncer::new(Arc::clone(pubsub), topic("sync")?, id.clone(), format).await?;
        let discovery =
            PubSubPeerDiscovery::new(Arc::clone(pubsub), topic("peers")?, id, PresenceOptions::STANDARD);
        let store = Arc::new(MemoryPatchStore::new());
        let shared = Arc::<SharedModel>::clone(&document);
        let manager =
            SyncManager::new(shared, Arc::new(broadcaster), Arc::new(syncer), Arc::new(discovery), store);
        manager.start(session.get()).await?;
        Ok(Self { name: name.to_owned(), document, manager })
    }

    async fn add(&self, item: &str) -> Result<()> {
        let patch = self.document.edit(|model| {
            let mut list = model.api().arr("")?;
            let end = list.len();
            list.ins(end, [item])
        })?;
        match patch {
            Some(patch) => Ok(self.manager.apply_patch(&patch).await?),
            None => Ok(()),
        }
    }

    fn show(&self) {
        println!("{} has {}", self.name, Value::from(&self.document.view()));
    }
}

#[cfg(feature = "redis")]
async fn redis(url: &str) -> Result<Arc<dyn PubSub>> {
    Ok(Arc::new(spot::RedisPubSub::connect(url, spot::RedisOptions::standard()).await?))
}

#[cfg(not(feature = "redis"))]
async fn redis(_: &str) -> Result<Arc<dyn PubSub>> {
    Err("built without Redis: add --features redis".into())
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (pubsub, names): (Arc<dyn PubSub>, _) = match &arguments[..] {
        [url, name] => (redis(url).await?, vec![name.as_str()]),
        _ => (Arc::new(MemoryPubSub::new()), vec!["alice", "bob"]),
    };
    let mut nodes = Vec::new();
    for name in names {
        nodes.push(Node::join(&pubsub, name).await?);
    }
    println!("Type an item, or nothing to see what each has. The nodes take turns.");
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut turn = 0;
    while let Some(line) = lines.next_line().await? {
        match line.trim() {
            "" => nodes.iter().for_each(Node::show),
            item => {
                let node = &nodes[turn % nodes.len()];
                node.add(item).await?;
                println!("{} added {item}", node.name);
                turn += 1;
            }
        }
    }
    for node in &nodes {
        node.manager.stop().await;
    }
    Ok(())
}
