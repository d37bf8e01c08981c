//! This program's replica of the text, with everything that keeps it in step.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::Arc,
    time::Duration,
};

use crdt_core::{EncodingFormat, Model, SessionId, Value, model::EditError};
use crdt_sync::{
    Gateway, MemoryPatchStore, PatchStore, PeerId, PubSubBroadcaster, PubSubSyncer, SharedModel, StoreId,
    SyncDocument as _, SyncManager, SyncStatus,
    crypto::{Access, AuthorKey},
    discovery::PubSubPeerDiscovery,
    presence::{PresenceOptions, PubSubPresence},
    session::{SessionOptions, SyncMode, TrickleOptions},
    store::{EmbeddedPatchStores, embedded::OpenError},
};
use spot::{PubSub, Topic};
use tokio::{sync::watch, time::timeout};

use crate::{
    keys, note,
    options::Options,
    place::Met,
    shown::{Shown, hue},
};

/// Folders that are tried when none is named: so many programs can run side by side in one place.
const FOLDERS_MAX: usize = 64;
/// How long leaving may take; then it is left undone, and the others notice a little later.
const LEAVE_MAX: Duration = Duration::from_secs(3);

/// See the [module](self).
pub(crate) struct Replica {
    pub(crate) document: Arc<SharedModel>,
    pub(crate) manager: Arc<SyncManager>,
    pub(crate) gateway: Arc<Gateway>,
    /// Which store the text is kept in: windows keep a copy for each.
    pub(crate) store: Option<StoreId>,
    presence: PubSubPresence,
    pubsub: Arc<dyn PubSub>,
    /// Where the text is kept, for people.
    pub(crate) kept: String,
}

impl Replica {
    /// Opens the store, reads the text, and begins to keep it in step. An error is one line for the user.
    pub(crate) async fn open(options: &Options, met: Met) -> Result<Self, String> {
        let Opened { store, kept, place } = open_store(options).await?;
        let store_id = store.id();
        let session = SessionId::from_random(rand::random());
        let own = name(session, store_id.zip(place), keys::author(options)?)?;
        let pubsub = keys::sealed(options, met.pubsub)?;
        let topic =
            |what: &str| Topic::new(format!("notes/{}/{what}", options.doc)).map_err(|e| e.to_string());
        let failed = |error: &dyn std::fmt::Display| format!("can't take part: {error}");
        let format = EncodingFormat::Binary;

        let document = SharedModel::with_base(session, note::base()).map_err(|e| failed(&e))?;
        let document = Arc::new(document);
        let broadcaster = PubSubBroadcaster::new(Arc::clone(&pubsub), topic("patches")?, format);
        let syncer = PubSubSyncer::new(Arc::clone(&pubsub), topic("sync")?, own.clone(), format);
        let peers = PresenceOptions::STANDARD;
        let access = keys::access(options)?;
        let discovery = PubSubPeerDiscovery::new(Arc::clone(&pubsub), topic("peers")?, own.clone(), peers);
        let discovery = match &access {
            Some(access) => discovery.with_guard(Arc::<Access>::clone(access)),
            None => discovery,
        };
        let manager = SyncManager::new(
            Arc::<SharedModel>::clone(&document),
            Arc::new(broadcaster.await.map_err(|e| failed(&e))?),
            Arc::new(syncer.await.map_err(|e| failed(&e))?),
            Arc::new(discovery),
            Arc::clone(&store),
        )
        .with_options(SessionOptions {
            sync: if options.dag { SyncMode::Dag } else { SyncMode::Vectors },
            // People watch each other type: what was lost is asked for soon.
            settle: Duration::from_millis(50),
            request_timeout: Duration::from_secs(1),
            trickle: TrickleOptions {
                interval_min: Duration::from_millis(100),
                interval_max: Duration::from_secs(4),
                ..TrickleOptions::STANDARD
            },
            ..SessionOptions::standard(session)
        });
        let manager = match access {
            Some(access) => manager.with_guard(access),
            None => manager,
        };
        manager.start(session.get()).await.map_err(|e| failed(&e))?;
        let manager = Arc::new(manager);
        let shown = (Arc::clone(&pubsub), topic("presence")?, PresenceOptions::STANDARD);
        let gateway = Gateway::new(own.clone(), Arc::clone(&manager), &document, store, shown);
        let gateway = Arc::new(gateway.map_err(|e| failed(&e))?);
        let presence =
            PubSubPresence::join(Arc::clone(&pubsub), topic("presence")?, own, PresenceOptions::STANDARD);
        let presence = presence.await.map_err(|e| failed(&e))?;
        let replica = Self { document, manager, gateway, store: store_id, presence, pubsub, kept };
        replica.show(&options.name, None);
        Ok(replica)
    }

    /// The note's text.
    pub(crate) fn text(&self) -> String {
        self.document.with(|document| note::string(document, "text"))
    }

    /// The note's title.
    pub(crate) fn title(&self) -> String {
        self.document.with(|document| note::string(document, "title"))
    }

    /// The whole document.
    pub(crate) fn view(&self) -> Value {
        self.document.view()
    }

    /// Edits the note. When this returns, the edit is durable, and on its way to all.
    pub(crate) async fn edit(
        &self,
        edit: impl FnOnce(&mut Model) -> Result<(), EditError>,
    ) -> Result<(), String> {
        let patch = self.document.edit(edit).map_err(|error| error.to_string())?;
        match patch {
            Some(patch) => self.manager.apply_patch(&patch).await.map_err(|error| error.to_string()),
            None => Ok(()),
        }
    }

    /// Shows a name and a cursor to the others.
    pub(crate) fn show(&self, name: &str, position: Option<usize>) {
        let caret = position.and_then(|at| self.document.with(|document| note::id_before(document, at)));
        let caret = caret.map(|id| (id.sid.get(), id.time));
        let shown = Shown { name: name.to_owned(), hue: hue(name), caret, editing: position.is_some() };
        if let Err(error) = self.presence.show(shown.write()) {
            tracing::warn!(%error, "not shown");
        }
    }

    /// The others, and what each shows. Who has just come and shows nothing yet will say in a moment who it is.
    pub(crate) fn others(&self) -> BTreeMap<PeerId, Shown> {
        let others = self.presence.others().into_iter().filter(|(_, bytes)| !bytes.is_empty());
        others.map(|(peer, bytes)| (peer, Shown::read(&bytes))).collect()
    }

    /// Changes when someone comes, goes, or shows something else.
    pub(crate) fn others_changed(&self) -> watch::Receiver<u64> {
        self.presence.changes()
    }

    /// How the synchronisation stands.
    pub(crate) async fn status(&self) -> Result<SyncStatus, String> {
        self.manager.status().await.map_err(|error| error.to_string())
    }

    /// The session under which this program edits.
    pub(crate) fn session(&self) -> SessionId {
        self.document.session()
    }

    /// Says goodbye. What was confirmed is durable already.
    pub(crate) async fn leave(&self) {
        let leaving = async {
            self.presence.leave().await;
            self.manager.stop().await;
            self.pubsub.close().await;
        };
        if timeout(LEAVE_MAX, leaving).await.is_err() {
            tracing::warn!("left without a word: the others were not reached in time");
        }
    }
}

/// The name under which the others know this program: that of its folder, so that one which was killed is the same when it comes
/// back, and nobody waits for days for one that has not said goodbye. A copy of a folder is another one on the disk, and
/// has another name, as two programs must; so has a folder of which somebody else signs. Who keeps nothing is new each time.
fn name(
    session: SessionId,
    kept: Option<(StoreId, Place)>,
    author: Option<AuthorKey>,
) -> Result<PeerId, String> {
    let name = kept.map_or_else(
        || session.to_string(),
        |kept| {
            let mut hasher = DefaultHasher::new();
            (kept, author.map(AuthorKey::to_bytes)).hash(&mut hasher);
            format!("{:016x}", hasher.finish())
        },
    );
    PeerId::new(format!("terminal-{name}")).map_err(|error| error.to_string())
}

/// Which folder it is, for the file system: the device, and the number there.
type Place = (u64, u64);

fn place(folder: &Path) -> Option<Place> {
    let folder = folder.metadata().ok()?;
    Some((folder.dev(), folder.ino()))
}

struct Opened {
    store: Arc<dyn PatchStore>,
    /// Where the text is kept, for people.
    kept: String,
    place: Option<Place>,
}

async fn open_store(options: &Options) -> Result<Opened, String> {
    let at = |folder: &Path, error: OpenError| match error {
        OpenError::Locked(_) => format!(
            "{} is in use by another program; --store takes another folder, and without it one is found",
            folder.display()
        ),
        other => format!("can't keep the text in {}: {other}", folder.display()),
    };
    match &options.store {
        Some(store) if store.as_os_str() == "memory" => {
            let kept = "nowhere (--store memory)".to_owned();
            Ok(Opened { store: Arc::new(MemoryPatchStore::new()), kept, place: None })
        }
        Some(folder) => open_folder(folder, &options.doc).await.map_err(|error| at(folder, error)),
        None => {
            for number in 1..=FOLDERS_MAX {
                let folder = Path::new("weft-notes").join(number.to_string());
                match open_folder(&folder, &options.doc).await {
                    Err(OpenError::Locked(_)) => {}
                    opened => return opened.map_err(|error| at(&folder, error)),
                }
            }
            Err(format!("all {FOLDERS_MAX} folders of ./weft-notes are in use; --store takes another one"))
        }
    }
}

async fn open_folder(folder: &Path, doc: &str) -> Result<Opened, OpenError> {
    let store = EmbeddedPatchStores::open(folder).await?.document(doc).await?;
    Ok(Opened { store: Arc::new(store), kept: folder.display().to_string(), place: place(folder) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_a_name_and_its_copy_another_one() {
        let session = |number: u64| SessionId::new(70_000 + number).unwrap();
        let store = StoreId::new(7).unwrap();
        let [here, copy] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let named =
            |start: u64, folder: &Path| name(session(start), Some(store).zip(place(folder)), None).unwrap();
        assert_eq!(named(1, here.path()), named(2, here.path()));
        assert_ne!(named(1, here.path()), named(1, copy.path()));
        let another = StoreId::new(8).zip(place(here.path()));
        assert_ne!(name(session(1), another, None).unwrap(), named(1, here.path()));
        // Who keeps nothing comes back as somebody else.
        assert_ne!(name(session(1), None, None).unwrap(), name(session(2), None, None).unwrap());
    }
}
