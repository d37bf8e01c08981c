//! The power goes: of each file only what was synced is left. A killed process leaves to the system what it wrote, and the
//! system writes it out; so only this shows whether what was acknowledged has been synced before.
//!
//! This program has its own `fsync` and `fdatasync`: they keep a copy of the file as it is, by its number in the file system,
//! and a disk after the crash is made of these copies. Of names nothing is lost: a file that was never synced is there, and empty.
#![cfg(all(target_os = "linux", feature = "embedded"))]

use std::{
    collections::HashMap,
    ffi::c_int,
    fs::{self, File},
    io::{self, Read as _},
    iter, mem,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use crdt_core::{PatchBuilder, SessionId, StateVector};
use crdt_sync::{
    PatchRecord, PatchStore as _, Want,
    store::{EmbeddedPatchStores, PatchPage},
};
use tempfile::TempDir;

/// A file on the disk: its beginning, behind which there are zeros only, and its length. Journals have 64 MiB from the start.
#[derive(Clone, Default)]
struct OnDisk {
    beginning: Vec<u8>,
    len_bytes: u64,
}

/// By device and number.
type Files = HashMap<(u64, u64), OnDisk>;

static SYNCED: Mutex<Option<Files>> = Mutex::new(None);

fn synced<T>(with: impl FnOnce(&mut Files) -> T) -> T {
    with(SYNCED.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
}

fn read(place: &str) -> io::Result<OnDisk> {
    let (zeros, mut file) = (vec![0; 1 << 16], File::open(place)?);
    let (mut contents, mut zero_bytes) = (OnDisk::default(), 0);
    loop {
        let mut chunk = Vec::with_capacity(zeros.len());
        let len_bytes = (&mut file).take(zeros.len() as u64).read_to_end(&mut chunk)?;
        if len_bytes == 0 {
            return Ok(contents);
        }
        contents.len_bytes += len_bytes as u64;
        if chunk == zeros[..len_bytes] {
            zero_bytes += len_bytes;
        } else {
            contents.beginning.extend(iter::repeat_n(0, mem::take(&mut zero_bytes)));
            contents.beginning.extend(chunk);
        }
    }
}

fn keep(fd: c_int) -> c_int {
    let place = format!("/proc/self/fd/{fd}");
    // A folder has no contents of its own here.
    if let (Ok(about), Ok(contents)) = (fs::metadata(&place), read(&place)) {
        synced(|files| files.insert((about.dev(), about.ino()), contents));
    }
    0
}

// SAFETY: the signature is that of POSIX, and whoever calls it sees a sync that went well.
#[expect(unsafe_code, reason = "it takes the place of the system's, which is how a test sees what is synced")]
#[unsafe(no_mangle)]
extern "C" fn fsync(fd: c_int) -> c_int {
    keep(fd)
}

// SAFETY: as above.
#[expect(unsafe_code, reason = "as above")]
#[unsafe(no_mangle)]
extern "C" fn fdatasync(fd: c_int) -> c_int {
    keep(fd)
}

/// The disk as it is when the power goes now.
fn after_the_crash(folder: &Path) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            let about = entry.metadata().unwrap();
            if about.is_dir() {
                fs::create_dir(&to).unwrap();
                copy(&entry.path(), &to);
            } else {
                let contents = synced(|files| files.get(&(about.dev(), about.ino())).cloned());
                let OnDisk { beginning, len_bytes } = contents.unwrap_or_default();
                fs::write(&to, beginning).unwrap();
                File::options().write(true).open(&to).unwrap().set_len(len_bytes).unwrap();
            }
        }
    }
    let left = TempDir::new().unwrap();
    copy(folder, left.path());
    left
}

fn sid() -> SessionId {
    SessionId::new(70_001).unwrap()
}

fn record(number: u64) -> PatchRecord {
    let mut patch = PatchBuilder::new(sid(), number);
    patch.nop(1);
    PatchRecord::new(number - 1, Bytes::copy_from_slice(patch.finish().unwrap().as_bytes())).unwrap()
}

/// What a folder has after a crash: the last patch, with all those before it that are in no snapshot, and the snapshot.
async fn left_in(folder: &Path) -> (u64, Option<(StateVector<SessionId>, Bytes)>) {
    let stores = EmbeddedPatchStores::open(folder).await.unwrap();
    let store = stores.document("doc").await.unwrap();
    let (last, snapshot) = (store.vector().await.unwrap().get(&sid()), store.snapshot().await.unwrap());
    let after = snapshot.as_ref().map_or(0, |(contained, _)| contained.get(&sid()));
    let want = [Want { sid: sid(), after, upto: last }];
    let PatchPage::Records(records) = store.page(&want, 1 << 20).await.unwrap() else { panic!("folded") };
    assert!(records.iter().map(|record| record.last()).eq(after + 1..=last));
    (last, snapshot)
}

#[tokio::test]
async fn what_was_acknowledged_is_left_when_the_power_goes() {
    let folder = TempDir::new().unwrap();
    let stores = EmbeddedPatchStores::open(folder.path()).await.unwrap();
    let store = stores.document("doc").await.unwrap();
    for number in 1..=5 {
        store.append(&[record(number)]).await.unwrap();
        let left = after_the_crash(folder.path());
        assert_eq!(left_in(left.path()).await, (number, None), "after {number} were acknowledged");
    }
    // Without the syncs it would not be: a later state is not on the disk because an earlier one is.
    let before = synced(|files| files.clone());
    store.append(&[record(6)]).await.unwrap();
    synced(|files| *files = before);
    let left = after_the_crash(folder.path());
    assert_eq!(left_in(left.path()).await, (5, None));
    // What is said to be on the disk from here on is there again, what is beside the patches and the snapshot too.
    store.append(&[record(7)]).await.unwrap();
    store.keep_note(Bytes::from_static(b"who was there")).await.unwrap();
    let left = after_the_crash(folder.path());
    assert_eq!(left_in(left.path()).await, (7, None));
    let contained = [(sid(), 4)].into_iter().collect();
    store.install(&contained, Bytes::from_static(b"a snapshot")).await.unwrap();
    let left = after_the_crash(folder.path());
    assert_eq!(left_in(left.path()).await, (7, Some((contained, Bytes::from_static(b"a snapshot")))));
    let stores = EmbeddedPatchStores::open(left.path()).await.unwrap();
    assert_eq!(stores.document("doc").await.unwrap().note().await.unwrap(), &b"who was there"[..]);
}
