//! A document as it stood at one exact place of its history, so that nobody has to replay all of it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use nodestorage::{Body, DocumentId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    clock::DocumentClock,
    event::ClientVector,
    shelf::{self, Durability, ScanRange, Shelf, ShelfError},
};

/// What events 1 to `version` of a document make: not one less and not one more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Which document.
    pub document_id: DocumentId,
    /// The last event it contains.
    pub version: u64,
    /// The document's fields; `None` where it does not exist at that version.
    pub state: Option<Arc<Body>>,
    /// Which clients' writes it contains.
    pub state_vector: ClientVector,
    /// When it was made, in milliseconds since 1970 UTC.
    pub created_at: u64,
    /// When its last event was made, in milliseconds since 1970 UTC; `None` where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<u64>,
}

impl Snapshot {
    /// The state as JSON; `Null` for absent.
    pub fn value(&self) -> Value {
        self.state.as_ref().map_or(Value::Null, |body| Value::Object((**body).clone()))
    }

    /// What lists tell of it.
    fn info(&self) -> SnapshotInfo {
        SnapshotInfo {
            document_id: self.document_id.clone(),
            version: self.version,
            state_vector: self.state_vector.clone(),
            created_at: self.created_at,
        }
    }

    /// Its place in the history.
    pub fn clock(&self) -> DocumentClock {
        DocumentClock { version: self.version, vector: self.state_vector.clone(), timestamp: self.timestamp }
    }
}

/// A snapshot without its state, for lists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotInfo {
    /// Which document.
    pub document_id: DocumentId,
    /// The last event it contains.
    pub version: u64,
    /// Which clients' writes it contains.
    pub state_vector: ClientVector,
    /// When it was made, in milliseconds since 1970 UTC.
    pub created_at: u64,
}

/// When a snapshot is made without being asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotPolicy {
    /// At every version that is a multiple of this; `None` not by count.
    pub every: Option<u64>,
    /// When a change that no snapshot contains is this old; `None` not by age. With neither, only on demand. Of a service that
    /// was started again only changes since then count.
    pub age: Option<Duration>,
    /// How many of a document are kept; the oldest go first.
    pub keep: usize,
}

impl SnapshotPolicy {
    /// Every 100 events, the last 32 kept.
    pub const STANDARD: Self = Self { every: Some(100), age: None, keep: 32 };

    /// Whether one is due at a version.
    pub fn is_due(&self, version: u64) -> bool {
        self.every.is_some_and(|every| every > 0 && version.is_multiple_of(every))
    }
}

/// Keeps snapshots.
#[async_trait]
pub trait SnapshotStore: Send + Sync {
    /// Keeps a snapshot, durable when this returns. There is one per document and version: the same again changes nothing.
    async fn save(&self, snapshot: &Snapshot) -> Result<(), ShelfError>;

    /// Keeps one that the events behind it are to start from, because those up to it go now. [`prune`](Self::prune) leaves it,
    /// also one that was told of an older `floor`, or is under way.
    async fn save_base(&self, snapshot: &Snapshot) -> Result<(), ShelfError> {
        self.save(snapshot).await
    }

    /// The latest one at or before a version (`u64::MAX`: the latest of all).
    async fn at_or_before(&self, document: &DocumentId, version: u64)
    -> Result<Option<Snapshot>, ShelfError>;

    /// What there is of a document, newest first, those before a version, at most `limit`.
    async fn list(
        &self,
        document: &DocumentId,
        before: u64,
        limit: usize,
    ) -> Result<Vec<SnapshotInfo>, ShelfError>;

    /// Removes all but the newest `keep` of a document; at least one stays. The newest one at or before `floor`, the last
    /// event that was compacted away, stays too: without it the events after it lead from nowhere. Returns how many went.
    async fn prune(&self, document: &DocumentId, keep: usize, floor: u64) -> Result<usize, ShelfError>;
}

/// A snapshot on the shelf that later events start from. Whoever read it before it was marked finds another value.
#[derive(Serialize)]
struct Base<'s> {
    #[serde(flatten)]
    snapshot: &'s Snapshot,
    base: bool,
}

/// What a snapshot on the shelf says of that.
#[derive(Deserialize)]
struct Mark {
    #[serde(default)]
    base: bool,
}

/// Keeps snapshots on a shelf.
pub struct ShelfSnapshotStore {
    shelf: Arc<dyn Shelf>,
}

impl ShelfSnapshotStore {
    /// How many snapshots one call of [`SnapshotStore::prune`] looks at; the next call sees the rest.
    const PRUNE_MAX: usize = 1024;

    /// How many snapshots are listed at a time. Of each only its line is read, which has no document in it.
    const STEP: usize = 64;

    /// Keeps them on a shelf.
    pub fn new(shelf: Arc<dyn Shelf>) -> Self {
        Self { shelf }
    }

    fn prefix(document: &DocumentId) -> Vec<u8> {
        shelf::key(&["snapshot", document.as_str()])
    }

    fn key(document: &DocumentId, version: u64) -> Vec<u8> {
        of_version(Self::prefix(document), version)
    }

    /// The place of a snapshot's line: what lists tell of it.
    fn line(document: &DocumentId, version: u64) -> Vec<u8> {
        of_version(shelf::key(&["snapshot_line", document.as_str()]), version)
    }

    /// Keeps a snapshot as it is encoded. Its line comes first and need not outlive a crash: only what has a snapshot is
    /// listed, and one without a line is read whole.
    async fn keep(&self, snapshot: &Snapshot, encoded: Vec<u8>) -> Result<(), ShelfError> {
        let (document, version) = (&snapshot.document_id, snapshot.version);
        let line = shelf::encode(&snapshot.info())?;
        self.shelf.put(Self::line(document, version), line, Durability::Lazy).await?;
        self.shelf.put(Self::key(document, version), encoded, Durability::Synced).await
    }

    /// The lines of snapshots, whose versions are given from the newest to the oldest.
    async fn lines(&self, document: &DocumentId, versions: &[u64]) -> Result<Vec<SnapshotInfo>, ShelfError> {
        let (Some(newest), Some(oldest)) = (versions.first(), versions.last()) else {
            return Ok(Vec::new());
        };
        // Behind the newest there is nothing but a longer key.
        let mut to = Self::line(document, *newest);
        to.push(0);
        let range = ScanRange { from: Self::line(document, *oldest), to, backwards: true };
        let lines = self.shelf.scan(range, versions.len()).await?;
        let mut lines: BTreeMap<u64, SnapshotInfo> = lines
            .iter()
            .filter_map(|(key, bytes)| Some((version_of(key), shelf::decode("line of a snapshot", bytes)?)))
            .collect();
        let mut found = Vec::new();
        for version in versions {
            let line = match lines.remove(version) {
                Some(line) => Some(line),
                // Kept by an earlier release, or before a crash that took the line.
                None => {
                    let whole = self.shelf.get(&Self::key(document, *version)).await?;
                    whole.and_then(|whole| shelf::decode("snapshot", &whole))
                }
            };
            found.extend(line);
        }
        Ok(found)
    }

    fn newest_first(document: &DocumentId, to: Vec<u8>) -> ScanRange {
        ScanRange { from: Self::prefix(document), to, backwards: true }
    }
}

/// Versions are written big-endian, so that keys are in their order.
fn of_version(mut prefix: Vec<u8>, version: u64) -> Vec<u8> {
    prefix.extend_from_slice(&version.to_be_bytes());
    prefix
}

/// The version in a key that this store made.
fn version_of(key: &[u8]) -> u64 {
    key.last_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

#[async_trait]
impl SnapshotStore for ShelfSnapshotStore {
    async fn save(&self, snapshot: &Snapshot) -> Result<(), ShelfError> {
        self.keep(snapshot, shelf::encode(snapshot)?).await
    }

    async fn save_base(&self, snapshot: &Snapshot) -> Result<(), ShelfError> {
        self.keep(snapshot, shelf::encode(&Base { snapshot, base: true })?).await
    }

    async fn at_or_before(
        &self,
        document: &DocumentId,
        version: u64,
    ) -> Result<Option<Snapshot>, ShelfError> {
        let to = match version.checked_add(1) {
            Some(behind) => Self::key(document, behind),
            None => ScanRange::of_prefix(&Self::prefix(document)).to,
        };
        let found = self.shelf.scan(Self::newest_first(document, to), 1).await?;
        Ok(found.first().and_then(|(_, bytes)| shelf::decode("snapshot", bytes)))
    }

    async fn list(
        &self,
        document: &DocumentId,
        before: u64,
        limit: usize,
    ) -> Result<Vec<SnapshotInfo>, ShelfError> {
        let (mut found, mut before) = (Vec::new(), before);
        while found.len() < limit {
            let range = Self::newest_first(document, Self::key(document, before));
            let step = Self::STEP.min(limit - found.len());
            let keys = self.shelf.keys(range, step).await?;
            let versions: Vec<u64> = keys.iter().map(|key| version_of(key)).collect();
            found.extend(self.lines(document, &versions).await?);
            match versions.last() {
                Some(oldest) if versions.len() == step => before = *oldest,
                _ => break,
            }
        }
        Ok(found)
    }

    async fn prune(&self, document: &DocumentId, keep: usize, floor: u64) -> Result<usize, ShelfError> {
        let all = ScanRange::of_prefix(&Self::prefix(document)).to;
        let keys = self.shelf.keys(Self::newest_first(document, all), Self::PRUNE_MAX).await?;
        let base = keys.iter().map(|key| version_of(key)).find(|version| *version <= floor);
        let mut gone = 0;
        for key in keys.into_iter().skip(keep.max(1)) {
            let version = version_of(&key);
            if base == Some(version) {
                continue;
            }
            let Some(value) = self.shelf.get(&key).await? else { continue };
            // Events went that the caller did not see go, or are about to.
            let is_base = shelf::decode("snapshot", &value).is_some_and(|Mark { base }| base);
            if is_base && version > floor {
                continue;
            }
            // Only as it was read: it may be marked in this moment.
            if self.shelf.swap(key, Some(value), None, Durability::Lazy).await? {
                self.shelf.remove(Self::line(document, version)).await?;
                gone += 1;
            }
        }
        Ok(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_without_an_interval_or_with_zero_is_never_due() {
        assert!(SnapshotPolicy::STANDARD.is_due(200));
        assert!(!SnapshotPolicy::STANDARD.is_due(201));
        assert!(!SnapshotPolicy { every: None, ..SnapshotPolicy::STANDARD }.is_due(100));
        assert!(!SnapshotPolicy { every: Some(0), ..SnapshotPolicy::STANDARD }.is_due(100));
    }

    #[tokio::test]
    async fn a_list_reads_no_documents() {
        use std::sync::atomic::Ordering;
        let shelf = Arc::new(crate::shelf::Watched::default());
        let store = ShelfSnapshotStore::new(Arc::clone(&shelf) as Arc<dyn Shelf>);
        let go = DocumentId::new("go").unwrap();
        let state = Some(Arc::new(Body::from_iter([("text".to_owned(), "x".repeat(10_000).into())])));
        for version in 1..=100 {
            store.save(&Snapshot { state: state.clone(), ..snapshot(version) }).await.unwrap();
        }
        let listed = async |before, limit| {
            let found = store.list(&go, before, limit).await.unwrap();
            found.iter().map(|info| info.version).collect::<Vec<_>>()
        };
        assert_eq!(listed(u64::MAX, 1000).await, (1..=100).rev().collect::<Vec<_>>());
        assert_eq!(listed(31, 6).await, (25..=30).rev().collect::<Vec<_>>());
        assert_eq!(listed(3, 4).await, [2, 1]);
        assert!(listed(3, 0).await.is_empty());
        let read = shelf.read_bytes.load(Ordering::Relaxed);
        assert!(read < 100 * 200, "{read} bytes");
        assert!(shelf.largest.load(Ordering::Relaxed) <= ShelfSnapshotStore::STEP);
        // What the events after 7 start from stays; of what goes nothing is left.
        assert_eq!(store.prune(&go, 10, 7).await.unwrap(), 89);
        assert_eq!(listed(92, 1000).await, [91, 7]);
        let all = ScanRange { from: Vec::new(), to: vec![0xff], backwards: false };
        assert_eq!(shelf.keys(all, 1000).await.unwrap().len(), 2 * 11);
    }

    /// As an earlier release has left them, or a crash that took the line and not the snapshot, or the other way round.
    #[tokio::test]
    async fn what_has_no_line_is_listed_and_a_line_alone_is_not() {
        let shelf = Arc::new(crate::shelf::MemoryShelf::default());
        let store = ShelfSnapshotStore::new(Arc::clone(&shelf) as Arc<dyn Shelf>);
        for version in 1..=5 {
            store.save(&snapshot(version)).await.unwrap();
        }
        let go = snapshot(1).document_id;
        shelf.remove(ShelfSnapshotStore::line(&go, 1)).await.unwrap();
        shelf.remove(ShelfSnapshotStore::line(&go, 4)).await.unwrap();
        shelf.remove(ShelfSnapshotStore::key(&go, 3)).await.unwrap();
        let unreadable = b"{".to_vec();
        shelf.put(ShelfSnapshotStore::line(&go, 2), unreadable, Durability::Lazy).await.unwrap();
        let found = store.list(&go, u64::MAX, 100).await.unwrap();
        assert_eq!(found, [5, 4, 2, 1].map(|version| snapshot(version).info()));
    }

    fn snapshot(version: u64) -> Snapshot {
        Snapshot {
            document_id: DocumentId::new("go").unwrap(),
            version,
            state: None,
            state_vector: ClientVector::new(),
            created_at: version,
            timestamp: None,
        }
    }

    async fn versions(store: &ShelfSnapshotStore) -> Vec<u64> {
        let found = store.list(&snapshot(1).document_id, u64::MAX, 100).await.unwrap();
        found.iter().map(|info| info.version).collect()
    }

    /// A shelf on which a compaction marks its base while old snapshots are removed: after they were read.
    struct Meanwhile {
        inner: Arc<crate::shelf::MemoryShelf>,
        marked: std::sync::atomic::AtomicBool,
    }

    impl Meanwhile {
        async fn mark(&self) {
            if !self.marked.swap(true, std::sync::atomic::Ordering::Relaxed) {
                let store = ShelfSnapshotStore::new(Arc::clone(&self.inner) as Arc<dyn Shelf>);
                store.save_base(&snapshot(2)).await.unwrap();
            }
        }
    }

    #[async_trait]
    impl Shelf for Meanwhile {
        async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ShelfError> {
            self.inner.get(key).await
        }

        async fn put(&self, key: Vec<u8>, value: Vec<u8>, how: Durability) -> Result<(), ShelfError> {
            self.inner.put(key, value, how).await
        }

        async fn remove(&self, key: Vec<u8>) -> Result<(), ShelfError> {
            if key.starts_with(&ShelfSnapshotStore::prefix(&snapshot(1).document_id)) {
                self.mark().await;
            }
            self.inner.remove(key).await
        }

        async fn swap(
            &self,
            key: Vec<u8>,
            expected: Option<Vec<u8>>,
            value: Option<Vec<u8>>,
            how: Durability,
        ) -> Result<bool, ShelfError> {
            if version_of(&key) == 2 {
                self.mark().await;
            }
            self.inner.swap(key, expected, value, how).await
        }

        async fn scan(&self, range: ScanRange, limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>, ShelfError> {
            self.inner.scan(range, limit).await
        }
    }

    /// Who removes old snapshots has looked for the first event before, and another process compacts meanwhile.
    #[tokio::test]
    async fn a_base_stays_whose_compaction_was_not_seen() {
        let inner = Arc::new(crate::shelf::MemoryShelf::default());
        let during = Meanwhile { inner: Arc::clone(&inner), marked: false.into() };
        let store = ShelfSnapshotStore::new(Arc::new(during));
        for version in 1..=5 {
            store.save(&snapshot(version)).await.unwrap();
        }
        let go = snapshot(1).document_id;
        assert_eq!(store.prune(&go, 1, 0).await.unwrap(), 3);
        assert_eq!(versions(&store).await, [5, 2]);
        // It is read as any other, and stays for who has seen nothing,
        assert_eq!(store.at_or_before(&go, 4).await.unwrap(), Some(snapshot(2)));
        assert_eq!(store.prune(&go, 1, 0).await.unwrap(), 0);
        // until another one took its place.
        store.save_base(&snapshot(4)).await.unwrap();
        assert_eq!(store.prune(&go, 1, 4).await.unwrap(), 1);
        assert_eq!(versions(&store).await, [5, 4]);
    }
}
