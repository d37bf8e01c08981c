//! Every patch store against the laws of the trait, and the one on disk against crashes and damage.

use bytes::Bytes;
use std::{
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use async_trait::async_trait;
use crdt_core::{SessionId, Timestamp};
use crdt_sync::{
    PatchRecord, Want,
    store::{
        EmbeddedPatchStores, MemoryPatchStore, PatchPage, PatchStore, PatchStoreError,
        conformance::StoreMaker, embedded::OpenError,
    },
};
use tempfile::TempDir;

mod memory {
    use super::*;

    struct Memory;

    #[async_trait]
    impl StoreMaker for Memory {
        async fn open(&mut self) -> (Arc<dyn PatchStore>, bool) {
            (Arc::new(MemoryPatchStore::new()), false)
        }
    }

    crdt_sync::patch_store_conformance_tests!(Memory);
}

mod embedded {
    use super::*;

    struct Folder(TempDir);

    #[async_trait]
    impl StoreMaker for Folder {
        async fn open(&mut self) -> (Arc<dyn PatchStore>, bool) {
            let stores = EmbeddedPatchStores::open(self.0.path()).await.unwrap();
            (Arc::new(stores.document("doc").await.unwrap()), true)
        }
    }

    crdt_sync::patch_store_conformance_tests!(Folder(TempDir::new().unwrap()));
}

fn record(session: u64, prev: u64) -> PatchRecord {
    let sid = SessionId::new(70_000 + session).unwrap();
    let patch = format!("patch {session} {prev}").into();
    PatchRecord {
        id: Timestamp::new(sid, prev + 1),
        span: 1,
        prev,
        needs: Box::default(),
        patch,
        proof: Bytes::new(),
        links: Box::default(),
    }
}

#[tokio::test]
async fn documents_of_one_folder_are_apart_and_stores_of_one_document_are_one() {
    let folder = TempDir::new().unwrap();
    let stores = EmbeddedPatchStores::open(folder.path()).await.unwrap();
    let (a, b) = (stores.document("a").await.unwrap(), stores.document("b").await.unwrap());
    let also_a = stores.document("a").await.unwrap();
    a.append(&[record(1, 0)]).await.unwrap();
    also_a.append(&[record(1, 1)]).await.unwrap();
    assert_eq!(a.vector().await.unwrap().get(&record(1, 0).session()), 2);
    assert!(b.vector().await.unwrap().is_empty());
    assert_eq!(stores.names().await.unwrap(), ["a", "b"]);
    let refused = stores.document("").await;
    assert!(matches!(refused, Err(OpenError::Name { len: 0 })));
    a.close().await.unwrap();
    assert!(matches!(a.append(&[record(1, 2)]).await, Err(PatchStoreError::Closed)));
    also_a.append(&[record(1, 2)]).await.unwrap();
}

#[tokio::test]
async fn a_folder_is_open_once() {
    let folder = TempDir::new().unwrap();
    let stores = EmbeddedPatchStores::open(folder.path()).await.unwrap();
    let second = EmbeddedPatchStores::open(folder.path()).await;
    assert!(matches!(second, Err(OpenError::Locked(_))));
    drop(stores);
    EmbeddedPatchStores::open(folder.path()).await.unwrap();
}

/// Changes one value behind the store's back.
fn tamper(folder: &Path, table: &str, change: impl Fn(&fjall::Keyspace, &[u8], &[u8])) {
    let database = fjall::Database::builder(folder).open().unwrap();
    let table = database.keyspace(table, fjall::KeyspaceCreateOptions::default).unwrap();
    let entries: Vec<_> = table.iter().map(|entry| entry.into_inner().unwrap()).collect();
    let (key, value) = &entries[entries.len() / 2];
    change(&table, key, value);
    database.persist(fjall::PersistMode::SyncAll).unwrap();
}

#[tokio::test]
async fn damage_is_noticed_when_the_document_is_opened() {
    type Change = fn(&fjall::Keyspace, &[u8], &[u8]);
    let changes: [(Change, &str); 3] = [
        (|table, key, value| table.insert(key, [value, b"x"].concat()).unwrap(), "checksum"),
        (|table, key, _| table.remove(key).unwrap(), "does not follow"),
        (|table, key, _| table.insert(key, [0; 3]).unwrap(), "shorter or longer"),
    ];
    for (change, reason) in changes {
        let folder = TempDir::new().unwrap();
        let stores = EmbeddedPatchStores::open(folder.path()).await.unwrap();
        let history: Vec<_> = (0..9).map(|prev| record(1, prev)).collect();
        stores.document("doc").await.unwrap().append(&history).await.unwrap();
        drop(stores);
        tamper(folder.path(), "patches", change);
        let stores = EmbeddedPatchStores::open(folder.path()).await.unwrap();
        let Err(error) = stores.document("doc").await else { panic!("{reason} not noticed") };
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[tokio::test]
async fn a_newer_layout_is_refused_with_both_numbers() {
    let folder = TempDir::new().unwrap();
    drop(EmbeddedPatchStores::open(folder.path()).await.unwrap());
    tamper(folder.path(), "names", |table, key, _| {
        assert_eq!(key, [0]);
        let contents = 2u32.to_be_bytes();
        let mut crc = crc32fast::Hasher::new();
        crc.update(&[0, 0, 0, 1, 0]);
        crc.update(&contents);
        table.insert(key, [crc.finalize().to_be_bytes(), contents].concat()).unwrap();
    });
    let refused = EmbeddedPatchStores::open(folder.path()).await;
    assert!(matches!(refused, Err(OpenError::Newer { found: 2, known: 1 })));
}

const CRASH_DIR: &str = "WEFT_TEST_CRASH_DIR";
const SESSIONS: u64 = 4;

/// The process that is killed: appends without end to several sessions, compacts now and then, and says what was
/// answered.
async fn append_until_killed(folder: &Path) {
    let stores = EmbeddedPatchStores::open(folder).await.unwrap();
    let store = Arc::new(stores.document("doc").await.unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for session in 0..SESSIONS {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            loop {
                let vector = store.vector().await.unwrap();
                let prev = vector.get(&record(session, 0).session());
                store.append(&[record(session, prev)]).await.unwrap();
                println!("answered {session} {}", prev + 1);
                if prev % 50 == 49 && session == 0 {
                    store.install(&vector, format!("snapshot at {prev}").into()).await.unwrap();
                }
            }
        });
    }
    tasks.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_patches_survive_kill_9() {
    if let Some(folder) = env::var_os(CRASH_DIR) {
        return append_until_killed(folder.as_ref()).await;
    }
    let folder = TempDir::new().unwrap();
    let mut answered = [0; SESSIONS as usize];
    for round in 0..12 {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "acknowledged_patches_survive_kill_9", "--nocapture"])
            .env(CRASH_DIR, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut note = |line: String| {
            let mut words = line.split(' ').skip_while(|word| !word.ends_with("answered")).skip(1);
            let mut number = || words.next()?.parse::<u64>().ok();
            if let (Some(session), Some(last)) = (number(), number()) {
                answered[session as usize] = last;
            }
        };
        lines.by_ref().take(20 + 37 * round).for_each(&mut note);
        child.kill().unwrap();
        lines.for_each(&mut note); // What it said before it died.
        child.wait().unwrap();

        let stores = EmbeddedPatchStores::open(folder.path()).await.unwrap();
        let store = stores.document("doc").await.unwrap();
        let vector = store.vector().await.unwrap();
        let contained = store.snapshot().await.unwrap().map(|(vector, _)| vector).unwrap_or_default();
        for session in 0..SESSIONS {
            let sid = record(session, 0).session();
            let (last, after) = (vector.get(&sid), contained.get(&sid));
            assert!(last >= answered[session as usize], "round {round}: {last} of {answered:?}");
            let want = [Want { sid, after, upto: last }];
            let PatchPage::Records(page) = store.page(&want, usize::MAX).await.unwrap() else { panic!() };
            let expected: Vec<_> = (after..last).map(|prev| record(session, prev)).collect();
            assert_eq!(page, expected, "round {round}");
        }
    }
    assert!(answered.iter().all(|last| *last > 50), "{answered:?}");
}
