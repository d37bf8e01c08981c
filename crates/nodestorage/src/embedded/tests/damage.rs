//! Damaged files: never silently wrong.

use std::ops::Bound;

use fjall::Readable;

use super::*;

/// Every file of a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let copy = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        // The journal is mostly room that has not been used yet.
        let mut bytes = fs::read(&file).unwrap();
        let len = bytes.len() as u64;
        bytes.truncate(used(&bytes));
        fs::write(&copy, bytes).unwrap();
        fs::OpenOptions::new().write(true).open(&copy).unwrap().set_len(len).unwrap();
    }
}

/// How many bytes there are before the zeros at the end.
fn used(bytes: &[u8]) -> usize {
    const PAGE: usize = 4096;
    let pages =
        bytes.chunks(PAGE).rposition(|page| page != &[0; PAGE][..page.len()]).map_or(0, |last| last + 1);
    let end = bytes.len().min(pages * PAGE);
    bytes[..end].iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1)
}

/// Opens a damaged copy of a store and reads everything: that is an error, or the truth.
async fn check(pristine: &Path, shown: &BTreeMap<String, Value>, what: &str, damage: impl FnOnce(&Path)) {
    let folder = common::folder();
    copy(pristine, folder.path());
    damage(folder.path());
    let Ok(store) = open(folder.path()) else { return };
    if let Ok(actual) = contents(&games(&store).await).await {
        assert!(actual == *shown, "{what} went unnoticed");
    }
}

/// A store whose records are still in the journal, or already in tables.
async fn pristine(in_tables: bool) -> (tempfile::TempDir, BTreeMap<String, Value>) {
    let (store, folder) = store().await;
    fill(&games(&store).await).await;
    let shown = contents(&games(&store).await).await.unwrap();
    if in_tables {
        store.shared.engine().unwrap().flush();
    }
    store.close().await.unwrap();
    (folder, shown)
}

/// Numbers that look random and are the same in every run.
fn scatter(n: u64) -> u64 {
    (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 11
}

#[tokio::test]
async fn a_flipped_bit_is_an_error_or_harmless() {
    for in_tables in [false, true] {
        let (pristine, shown) = pristine(in_tables).await;
        for (nth, file) in files(pristine.path()).into_iter().enumerate() {
            let name = file.strip_prefix(pristine.path()).unwrap().to_owned();
            let len = written_len(&file);
            for probe in 0..if len < 512 { 1 } else { 5 } {
                let Some(place) = scatter(nth as u64 * 100 + probe).checked_rem(len) else { break };
                let what = format!("{} with a bit flipped at {place} of {len}", name.display());
                check(pristine.path(), &shown, &what, |folder| {
                    let mut bytes = fs::read(folder.join(&name)).unwrap();
                    bytes[place as usize] ^= 1 << (probe % 8);
                    fs::write(folder.join(&name), bytes).unwrap();
                })
                .await;
            }
        }
    }
}

#[tokio::test]
async fn a_cut_file_is_an_error_or_harmless() {
    for in_tables in [false, true] {
        let (pristine, shown) = pristine(in_tables).await;
        for (nth, file) in files(pristine.path()).into_iter().enumerate() {
            let name = file.strip_prefix(pristine.path()).unwrap().to_owned();
            let len = written_len(&file);
            for probe in 0..if len < 512 { 1 } else { 2 } {
                let Some(place) = scatter(nth as u64 * 100 + probe).checked_rem(len) else { break };
                let place = if probe == 0 { len - 1 } else { place };
                let what = format!("{} cut from {len} to {place} bytes", name.display());
                check(pristine.path(), &shown, &what, |folder| {
                    let cut = fs::OpenOptions::new().write(true).open(folder.join(&name)).unwrap();
                    cut.set_len(place).unwrap();
                })
                .await;
            }
        }
    }
}

fn written_len(file: &Path) -> u64 {
    used(&fs::read(file).unwrap()) as u64
}

#[tokio::test]
async fn a_journal_cut_in_the_middle_is_reported_as_lost_batches() {
    let (pristine, _) = pristine(false).await;
    let journal = files(pristine.path()).into_iter().find(|file| file.extension() == Some("jnl".as_ref()));
    let journal = journal.expect("the engine has a journal");
    let cut = fs::OpenOptions::new().write(true).open(&journal).unwrap();
    cut.set_len(written_len(&journal) / 2).unwrap();
    for _ in 0..2 {
        // The second time as well, although the engine has mended its journal by then.
        let error = open(pristine.path()).err().expect("half of the store is gone");
        assert!(matches!(&error, StorageError::Corrupt { .. }), "{error:?}");
        assert!(error.to_string().contains("were acknowledged"), "{error}");
    }
}

/// What a torn write leaves at the end of the journal was never acknowledged.
#[tokio::test]
async fn a_torn_tail_that_was_never_acknowledged_is_dropped() {
    let (pristine, shown) = pristine(false).await;
    let journal = files(pristine.path()).into_iter().find(|file| file.extension() == Some("jnl".as_ref()));
    let journal = journal.unwrap();
    let mut bytes = fs::read(&journal).unwrap();
    bytes.truncate(written_len(&journal) as usize);
    // The start of a batch, and then nothing.
    bytes.extend([1, 3, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 2, 0]);
    fs::write(&journal, bytes).unwrap();
    let store = open(pristine.path()).unwrap();
    assert_eq!(contents(&games(&store).await).await.unwrap(), shown);
}

#[tokio::test]
async fn a_missing_watermark_is_noticed() {
    let (pristine, _) = pristine(false).await;
    fs::remove_file(pristine.path().join(Watermark::FILE_NAME)).unwrap();
    let error = open(pristine.path()).err().unwrap();
    assert!(error.to_string().contains("watermark"), "{error}");
}

#[tokio::test]
async fn a_missing_engine_is_noticed() {
    let (pristine, _) = pristine(false).await;
    fs::remove_dir_all(pristine.path().join("engine")).unwrap();
    let error = open(pristine.path()).err().unwrap();
    assert!(matches!(&error, StorageError::Corrupt { .. }), "{error:?}");
}

/// A record that vanished, or came from elsewhere, with everything around it intact.
#[tokio::test]
async fn a_record_that_is_missing_from_the_middle_is_noticed() {
    let key = DocumentKey::new(0, &id("d1"));
    for (space, key) in [
        (Space::Log, 30u64.to_be_bytes().to_vec()),
        (Space::Log, 106u64.to_be_bytes().to_vec()),
        (Space::Changes, key.change(1)),
        (Space::Changes, key.change(9)),
        (Space::Changes, key.change(21)),
        (Space::Documents, key.as_bytes().to_vec()),
        (Space::Meta, State::KEY.to_vec()),
    ] {
        let (pristine, _) = pristine(false).await;
        let engine = Engine::open(&pristine.path().join("engine")).unwrap();
        let exists = engine.get(space, &key, |_| Ok(())).unwrap();
        assert!(exists.is_some(), "{space:?} {key:?} is not there to begin with");
        engine.commit(vec![Write::remove(space, key.clone())], true).unwrap();
        drop(engine);
        let error = open(pristine.path()).err().unwrap_or_else(|| panic!("{space:?} {key:?} went unnoticed"));
        assert!(matches!(&error, StorageError::Corrupt { .. }), "{error:?}");
    }
}

/// The answers of a document end in a client and a number; a key that is cut is none.
#[tokio::test]
async fn a_key_of_an_answer_that_is_too_short_is_an_error() {
    let (store, _folder) = store().await;
    let games = games(&store).await;
    games.find_one_and_upsert(&id("a"), Body::new(), by("p", Some(1))).await.unwrap();
    let mut short = games.key(&id("a")).as_bytes().to_vec();
    short.push(1);
    assert!(short.len() < 8, "{short:?}");
    let answer = Write::put(Space::Answers, short, 1_u64.to_le_bytes().to_vec());
    store.shared.engine().unwrap().commit(vec![answer], true).unwrap();
    let error = games.remove_changes(&id("a"), 1).await.unwrap_err();
    assert!(matches!(&error, StorageError::Corrupt { .. }), "{error:?}");
}

#[tokio::test]
async fn a_store_of_a_newer_format_is_refused() {
    let (pristine, _) = pristine(false).await;
    let engine = Engine::open(&pristine.path().join("engine")).unwrap();
    let mut state = State { batch: u64::MAX, ..State::default() }.encode();
    state[0] = 9;
    engine.commit(vec![Write::put(Space::Meta, State::KEY, state)], true).unwrap();
    drop(engine);
    let error = open(pristine.path()).err().unwrap();
    assert!(error.to_string().contains("format version 9 is newer"), "{error}");
}

impl Engine {
    /// Moves everything from the journal into tables.
    fn flush(&self) {
        for space in &self.spaces {
            space.rotate_memtable_and_wait().unwrap();
        }
        assert!(self.database.snapshot().range(&self.spaces[1], full()).next().is_some());
    }
}

fn full() -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    (Bound::Unbounded, Bound::Unbounded)
}
