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
    Envelope, Needs, PatchRecord, Want,
    store::{
        EmbeddedPatchStores, MemoryPatchStore, PatchPage, PatchStore, PatchStoreError,
        conformance::StoreMaker,
        embedded::{OpenError, Salvaged, SalvagedDocument},
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
    Envelope {
        id: Timestamp::new(sid, prev + 1),
        span: 1,
        prev,
        needs: Needs::new(),
        patch,
        proof: Bytes::new(),
        links: Box::default(),
    }
    .into()
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

/// The engine's journal, and how much of it has been written: behind that is room that was never used.
fn journal(folder: &Path) -> (std::path::PathBuf, u64) {
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let journal = files.filter(|file| file.extension() == Some("jnl".as_ref())).max().unwrap();
    let bytes = std::fs::read(&journal).unwrap();
    (journal, bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1))
}

#[tokio::test]
async fn a_lost_end_of_the_journal_is_noticed_and_what_is_left_can_be_salvaged() {
    let folder = TempDir::new().unwrap();
    let stores = EmbeddedPatchStores::open(folder.path()).await.unwrap();
    let store = stores.document("doc").await.unwrap();
    for prev in 0..20 {
        store.append(&[record(1, prev)]).await.unwrap();
    }
    drop((store, stores));
    let (journal, written) = journal(folder.path());
    std::fs::OpenOptions::new().write(true).open(journal).unwrap().set_len(written / 2).unwrap();
    for _ in 0..2 {
        // The second time too, although the engine has mended its journal by then.
        let refused = EmbeddedPatchStores::open(folder.path()).await;
        let Err(OpenError::Lost { durable: 21, found }) = refused else { panic!("not noticed") };
        assert!((1..21).contains(&found));
    }
    let salvaged = EmbeddedPatchStores::salvage(folder.path()).await.unwrap();
    assert!(salvaged.batches_lost > 0);
    assert_eq!(salvaged.documents, []);
    let stores = EmbeddedPatchStores::open(folder.path()).await.unwrap();
    let store = stores.document("doc").await.unwrap();
    let sid = record(1, 0).session();
    let left = store.vector().await.unwrap().get(&sid);
    assert!((1..20).contains(&left), "{left}");
    // A peer brings the rest.
    let missing: Vec<_> = (left..20).map(|prev| record(1, prev)).collect();
    store.append(&missing).await.unwrap();
    let want = [Want { sid, after: 0, upto: 20 }];
    let whole: Vec<_> = (0..20).map(|prev| record(1, prev)).collect();
    assert_eq!(store.page(&want, usize::MAX).await.unwrap(), PatchPage::Records(whole));
}

/// A patch of session 2 that names what session 1 had made at the time before.
fn effect(prev: u64) -> PatchRecord {
    let mut effect = record(2, prev);
    effect.needs = std::iter::once(Timestamp::new(record(1, 0).session(), prev)).collect();
    effect
}

/// Session 1 has 20 patches of which the 7th is broken, and each of session 2 names the one of session 1 before it.
async fn damaged(folder: &Path) {
    let stores = EmbeddedPatchStores::open(folder).await.unwrap();
    let store = stores.document("doc").await.unwrap();
    let (causes, mut effects): (Vec<_>, Vec<_>) = (0..20).map(|prev| (record(1, prev), effect(prev))).unzip();
    effects[0].needs = Needs::new();
    store.append(&causes).await.unwrap();
    store.append(&effects).await.unwrap();
    stores.document("whole").await.unwrap().append(&causes).await.unwrap();
    drop((store, stores));
    let database = fjall::Database::builder(folder).open().unwrap();
    let table = database.keyspace("patches", fjall::KeyspaceCreateOptions::default).unwrap();
    let (key, value) = table.iter().nth(6).unwrap().into_inner().unwrap();
    table.insert(key, [&value, &b"x"[..]].concat()).unwrap();
    database.persist(fjall::PersistMode::SyncAll).unwrap();
}

/// What is left of it: six patches of session 1, and of session 2 those that name no later one.
async fn check_mended(folder: &Path) {
    let stores = EmbeddedPatchStores::open(folder).await.unwrap();
    let store = stores.document("doc").await.unwrap();
    let vector = store.vector().await.unwrap();
    let lasts = [1, 2].map(|session| vector.get(&record(session, 0).session()));
    assert_eq!(lasts, [6, 7]);
    let want = [1, 2].map(|session| Want { sid: record(session, 0).session(), after: 0, upto: 20 });
    let PatchPage::Records(page) = store.page(&want, usize::MAX).await.unwrap() else { panic!() };
    assert_eq!(page.len(), 13);
    let whole = stores.document("whole").await.unwrap().vector().await.unwrap();
    assert_eq!(whole.get(&record(1, 0).session()), 20);
}

#[tokio::test]
async fn salvage_keeps_what_has_all_its_causes_and_sets_the_rest_aside() {
    let folder = TempDir::new().unwrap();
    damaged(folder.path()).await;
    let stores = EmbeddedPatchStores::open(folder.path()).await.unwrap();
    assert!(stores.document("doc").await.is_err());
    drop(stores);
    let salvaged = EmbeddedPatchStores::salvage(folder.path()).await.unwrap();
    let mended =
        SalvagedDocument { name: "doc".to_owned(), kept: 13, set_aside: 27, snapshot_set_aside: false };
    assert_eq!(salvaged, Salvaged { batches_lost: 0, documents: vec![mended] });
    check_mended(folder.path()).await;
    let again = EmbeddedPatchStores::salvage(folder.path()).await.unwrap();
    assert_eq!(again, Salvaged { batches_lost: 0, documents: vec![] });
    let database = fjall::Database::builder(folder.path()).open().unwrap();
    let aside = database.keyspace("set_aside", fjall::KeyspaceCreateOptions::default).unwrap();
    assert_eq!(aside.iter().count(), 27);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_salvage_is_begun_again() {
    if let Some(folder) = env::var_os(CRASH_DIR) {
        println!("begun");
        drop(EmbeddedPatchStores::salvage(folder).await.unwrap());
        return;
    }
    for round in 0..8 {
        let folder = TempDir::new().unwrap();
        damaged(folder.path()).await;
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "a_killed_salvage_is_begun_again", "--nocapture"])
            .env(CRASH_DIR, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.into_iter().any(|line| line.ends_with("begun")));
        // The pause is the moment of the kill: from before the first write to after the last.
        tokio::time::sleep(std::time::Duration::from_millis(round * 2)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        EmbeddedPatchStores::salvage(folder.path()).await.unwrap();
        check_mended(folder.path()).await;
    }
}
