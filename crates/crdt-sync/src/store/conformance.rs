//! The laws of [`PatchStore`] as tests that every store has to pass.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use crdt_core::{PatchBuilder, SessionId, StateVector, Timestamp, Value};

use super::{MemoryPatchStore, PatchPage, PatchStore, PatchStoreError};
use crate::{
    PatchRecord, Want,
    dag::{Link, NodeHash},
};

/// Opens the store of one document, empty at first.
#[async_trait]
pub trait StoreMaker: Send {
    /// Opens it, after the one opened before has been dropped. Says whether what was kept is kept still.
    async fn open(&mut self) -> (Arc<dyn PatchStore>, bool);
}

/// Makes one test per law, out of an expression that makes a [`StoreMaker`], and attributes for the tests. The calling
/// crate needs tokio with `macros` and `rt-multi-thread`.
#[macro_export]
macro_rules! patch_store_conformance_tests {
    ($maker:expr $(, #[$attr:meta])*) => {
        $crate::patch_store_conformance_tests!(@each $maker; ($(#[$attr])*);
            what_was_appended_is_there,
            repeated_patches_change_nothing,
            a_hole_is_refused_and_nothing_behind_it_is_kept,
            pages_have_causes_before_effects_and_a_size,
            ranges_are_exact,
            a_snapshot_takes_the_place_of_its_patches,
            an_older_snapshot_changes_nothing_and_a_diverged_one_is_refused,
            a_snapshot_of_a_peer_brings_what_is_missing,
            writers_do_not_get_in_each_others_way,
            any_history_is_as_in_the_reference,
            a_damaged_patch_is_put_back_and_nothing_else,
            a_note_is_kept_beside_the_patches,
            a_closed_store_says_so_or_still_works,
        );
    };
    (@each $maker:expr; $attrs:tt; $($law:ident),* $(,)?) => {
        $( $crate::patch_store_conformance_tests!(@one $maker; $attrs; $law); )*
    };
    (@one $maker:expr; ($($attr:tt)*); $law:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        $($attr)*
        async fn $law() {
            $crate::store::conformance::$law(&mut $maker).await;
        }
    };
}

fn sid(number: u64) -> SessionId {
    SessionId::new(70_000 + number).expect("a small number")
}

/// A patch of a session that follows `prev` after a pause of `pause` ticks, and all but the first need one of session 0.
fn record(session: u64, prev: u64, pause: u64, span: u64) -> PatchRecord {
    let id = Timestamp::new(sid(session), prev + 1 + pause);
    let behind = if session > 0 && prev > 0 { Timestamp::new(sid(0), prev) } else { id };
    let mut record = PatchRecord::new(prev, typed(id, behind, span, "x")).expect("a patch");
    record.proof = vec![5; (session % 2) as usize * 72].into();
    let link = Link { last: prev, sid: sid(session), hash: NodeHash([session as u8; 32]) };
    if prev % 3 == 1 {
        record.links = Box::new([link]);
    }
    record
}

/// A patch that types a letter so many times behind an element: a tick for each.
fn typed(id: Timestamp, behind: Timestamp, span: u64, letter: &str) -> Bytes {
    let mut patch = PatchBuilder::new(id.sid, id.time);
    patch.ins_str(behind, behind, letter.repeat(span as usize).as_str());
    Bytes::copy_from_slice(patch.finish().expect("an operation").as_bytes())
}

/// The first `count` patches of a session, of one tick each.
fn history(session: u64, count: u64) -> Vec<PatchRecord> {
    (0..count).map(|prev| record(session, prev, 0, 1)).collect()
}

fn want(session: u64, after: u64, upto: u64) -> Want {
    Want { sid: sid(session), after, upto }
}

async fn append(store: &Arc<dyn PatchStore>, records: &[PatchRecord]) {
    store.append(records).await.expect("append");
}

async fn records(store: &Arc<dyn PatchStore>, want: &[Want], bytes_max: usize) -> Vec<PatchRecord> {
    match store.page(want, bytes_max).await.expect("page") {
        PatchPage::Records(records) => records,
        PatchPage::Compacted => panic!("compacted"),
    }
}

async fn all(store: &Arc<dyn PatchStore>) -> Vec<PatchRecord> {
    let vector = store.vector().await.expect("vector");
    let contained = store.snapshot().await.expect("snapshot").map(|(vector, _)| vector).unwrap_or_default();
    let wants: Vec<_> =
        vector.iter().map(|(sid, upto)| Want { sid: *sid, after: contained.get(sid), upto }).collect();
    records(store, &wants, usize::MAX).await
}

/// The last note is there, now and after the store was opened again, and changes nothing else.
pub async fn a_note_is_kept_beside_the_patches(maker: &mut impl StoreMaker) {
    let (store, _) = maker.open().await;
    assert_eq!(store.note().await.expect("note"), Bytes::new());
    append(&store, &history(0, 3)).await;
    store.keep_note(Bytes::from_static(b"first")).await.expect("keep");
    store.keep_note(Bytes::from_static(b"a longer one")).await.expect("keep");
    store.install(&[(sid(0), 2)].into_iter().collect(), Bytes::from_static(b"two")).await.expect("install");
    assert_eq!(store.note().await.expect("note"), Bytes::from_static(b"a longer one"));
    assert_eq!(all(&store).await.len(), 1);
    drop(store);
    let (store, kept) = maker.open().await;
    if kept {
        assert_eq!(store.note().await.expect("note"), Bytes::from_static(b"a longer one"));
        assert_eq!(all(&store).await.len(), 1);
    }
}

/// Patches come back whole, now and after the store was opened again.
pub async fn what_was_appended_is_there(maker: &mut impl StoreMaker) {
    let (store, _) = maker.open().await;
    let id = store.id();
    assert!(store.vector().await.expect("vector").is_empty());
    assert_eq!(store.snapshot().await.expect("snapshot"), None);
    let mut patch = PatchBuilder::new(sid(2), 6);
    patch.new_con(&Value::Bytes(vec![7; 1 << 20]));
    let patch = Bytes::copy_from_slice(patch.finish().expect("an operation").as_bytes());
    let large = PatchRecord::new(5, patch).expect("a patch");
    let written = [record(1, 0, 0, 3), record(1, 3, 10, 1), record(2, 0, 4, 1), large, record(1, 14, 0, 2)];
    append(&store, &written[..1]).await;
    append(&store, &written[1..]).await;
    let vector = StateVector::from_iter([(sid(1), 16), (sid(2), 6)]);
    let mut expected = written.to_vec();
    expected.sort_by_key(|record| (record.last(), record.session()));
    assert_eq!(store.vector().await.expect("vector"), vector);
    assert_eq!(all(&store).await, expected);
    drop(store);
    let (store, kept) = maker.open().await;
    assert!(id.is_none() || (store.id() == id) == kept, "the same store has the same id, and no other");
    if kept {
        assert_eq!(store.vector().await.expect("vector"), vector);
        assert_eq!(all(&store).await, expected);
        append(&store, &[record(1, 16, 0, 1)]).await;
    }
}

/// Appending twice is appending once.
pub async fn repeated_patches_change_nothing(maker: &mut impl StoreMaker) {
    let (store, _) = maker.open().await;
    let written = history(1, 5);
    append(&store, &written[..3]).await;
    append(&store, &written).await;
    append(&store, &written[1..2]).await;
    append(&store, &[]).await;
    assert_eq!(all(&store).await, written);
}

/// A patch that does not follow is named, with what it should have followed; those before it are kept.
pub async fn a_hole_is_refused_and_nothing_behind_it_is_kept(maker: &mut impl StoreMaker) {
    let (store, _) = maker.open().await;
    let written = history(1, 5);
    let refused = store.append(&[written[0].clone(), written[2].clone(), written[3].clone()]).await;
    assert!(
        matches!(refused, Err(PatchStoreError::Order { id, last: 1 }) if id == written[2].id),
        "{refused:?}"
    );
    assert_eq!(all(&store).await, written[..1]);
    append(&store, &written[1..]).await;
    assert_eq!(all(&store).await, written);
}

/// Pages are in the order of (last time, session), at most as large as asked, and never empty before the end.
pub async fn pages_have_causes_before_effects_and_a_size(maker: &mut impl StoreMaker) {
    let (store, _) = maker.open().await;
    let mut written = Vec::new();
    for session in [3, 1, 2] {
        append(&store, &history(session, 50)).await;
        written.extend(history(session, 50));
    }
    written.sort_by_key(|record| (record.last(), record.session()));
    let mut wants = [want(1, 0, 50), want(2, 0, 50), want(3, 0, 50)];
    let mut read = Vec::new();
    let bytes_max = written[..10].iter().map(|record| record.len_bytes()).sum();
    while read.len() < written.len() {
        let page = records(&store, &wants, bytes_max).await;
        assert!(!page.is_empty());
        assert!(page.iter().map(|record| record.len_bytes()).sum::<usize>() <= bytes_max);
        for record in &page {
            let want = wants.iter_mut().find(|want| want.sid == record.session()).expect("wanted");
            want.after = record.last();
        }
        read.extend(page);
    }
    assert_eq!(read, written);
    assert_eq!(records(&store, &wants, bytes_max).await, []);
    assert_eq!(records(&store, &[want(1, 0, 50)], 0).await.len(), 1);
}

/// `after` is outside, `upto` inside; what nobody has is not there.
pub async fn ranges_are_exact(maker: &mut impl StoreMaker) {
    let (store, _) = maker.open().await;
    let written = [record(1, 0, 0, 3), record(1, 3, 0, 3), record(1, 6, 0, 3)];
    append(&store, &written).await;
    let check = async |after, upto, expect: &[PatchRecord]| {
        assert_eq!(records(&store, &[want(1, after, upto)], usize::MAX).await, expect, "{after}..={upto}");
    };
    check(0, 9, &written).await;
    check(0, 8, &written[..2]).await;
    check(3, 6, &written[1..2]).await;
    check(6, 6, &[]).await;
    check(9, u64::MAX >> 11, &[]).await;
    check(8, 3, &[]).await;
    assert_eq!(records(&store, &[want(2, 0, 9)], usize::MAX).await, []);
    assert_eq!(records(&store, &[], usize::MAX).await, []);
}

/// What a snapshot contains is gone as patches, says so, and still counts.
pub async fn a_snapshot_takes_the_place_of_its_patches(maker: &mut impl StoreMaker) {
    let (store, _) = maker.open().await;
    append(&store, &history(1, 10)).await;
    append(&store, &history(2, 10)).await;
    let contained = StateVector::from_iter([(sid(1), 10), (sid(2), 4)]);
    let snapshot = Bytes::from(vec![9; 300_000]);
    store.install(&contained, snapshot.clone()).await.expect("install");
    let (mut store, mut kept) = (store, true);
    for _ in 0..2 {
        let whole = StateVector::from_iter([(sid(1), 10), (sid(2), 10)]);
        assert_eq!(store.vector().await.expect("vector"), whole);
        assert_eq!(store.snapshot().await.expect("snapshot"), Some((contained.clone(), snapshot.clone())));
        assert_eq!(all(&store).await, history(2, 10)[4..]);
        for compacted in [want(1, 0, 10), want(1, 9, 10), want(2, 3, 10), want(1, 0, 1)] {
            assert_eq!(store.page(&[compacted], usize::MAX).await.expect("page"), PatchPage::Compacted);
        }
        drop(store);
        (store, kept) = maker.open().await;
        if !kept {
            return;
        }
    }
    assert!(kept);
    append(&store, &[record(1, 10, 0, 1)]).await;
}

/// Snapshots only grow.
pub async fn an_older_snapshot_changes_nothing_and_a_diverged_one_is_refused(maker: &mut impl StoreMaker) {
    let (store, _) = maker.open().await;
    append(&store, &history(1, 10)).await;
    let contained = StateVector::from_iter([(sid(1), 8)]);
    store.install(&contained, "new".into()).await.expect("install");
    store.install(&StateVector::from_iter([(sid(1), 5)]), "old".into()).await.expect("older");
    store.install(&contained, "same".into()).await.expect("as old");
    store.install(&StateVector::new(), "empty".into()).await.expect("empty");
    let diverged = StateVector::from_iter([(sid(1), 7), (sid(2), 9)]);
    let refused = store.install(&diverged, "diverged".into()).await;
    assert!(matches!(refused, Err(PatchStoreError::Diverged { upto: 8, .. })), "{refused:?}");
    assert_eq!(store.snapshot().await.expect("snapshot"), Some((contained, "new".into())));
    assert_eq!(all(&store).await, history(1, 10)[8..]);
}

/// A snapshot may contain more than was appended; patches go on behind it.
pub async fn a_snapshot_of_a_peer_brings_what_is_missing(maker: &mut impl StoreMaker) {
    let (store, _) = maker.open().await;
    append(&store, &history(1, 3)).await;
    let contained = StateVector::from_iter([(sid(1), 7), (sid(2), 5)]);
    store.install(&contained, "snapshot".into()).await.expect("install");
    assert_eq!(store.vector().await.expect("vector"), contained);
    append(&store, &history(1, 9)).await;
    append(&store, &[record(2, 5, 0, 1)]).await;
    assert_eq!(store.vector().await.expect("vector"), StateVector::from_iter([(sid(1), 9), (sid(2), 6)]));
    assert_eq!(all(&store).await.len(), 3);
    drop(store);
    let (store, kept) = maker.open().await;
    if kept {
        assert_eq!(all(&store).await.len(), 3);
    }
}

/// Many append, read and compact at the same time.
pub async fn writers_do_not_get_in_each_others_way(maker: &mut impl StoreMaker) {
    const COUNT: u64 = 40;
    let (store, _) = maker.open().await;
    let writers: Vec<_> = (1..=6)
        .map(|session| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for record in history(session, COUNT) {
                    let last = record.last();
                    append(&store, &[record]).await;
                    assert_eq!(store.vector().await.expect("vector").get(&sid(session)), last);
                }
            })
        })
        .collect();
    let compactor = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for _ in 0..10 {
                let vector = store.vector().await.expect("vector");
                store.install(&vector, "snapshot".into()).await.expect("install");
                // A page shows all that is wanted, or says that it can't.
                let wants: Vec<_> = (1..=6).map(|session| want(session, 0, COUNT)).collect();
                if let PatchPage::Records(page) = store.page(&wants, usize::MAX).await.expect("page") {
                    let mut next = BTreeMap::new();
                    for record in page {
                        assert_eq!(record.prev, next.insert(record.session(), record.last()).unwrap_or(0));
                    }
                }
                tokio::task::yield_now().await;
            }
        })
    };
    for task in writers.into_iter().chain([compactor]) {
        task.await.expect("task");
    }
    let vector = store.vector().await.expect("vector");
    assert_eq!(vector, (1..=6).map(|session| (sid(session), COUNT)).collect());
}

/// Random histories, compared with the store in memory after every step.
pub async fn any_history_is_as_in_the_reference(maker: &mut impl StoreMaker) {
    let seed = std::env::var("WEFT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_260_101);
    println!("WEFT_SEED={seed}");
    let mut state: u64 = seed;
    // SplitMix64.
    let mut random = |below: u64| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    };
    let reference = MemoryPatchStore::new();
    let (mut store, _) = maker.open().await;
    for step in 0..300 {
        let vector = reference.vector().await.expect("vector");
        let session = random(4);
        let last = vector.get(&sid(session));
        match random(10) {
            0..6 => {
                // Now and then something that does not follow, or is there already.
                let prev = if random(8) == 0 { random(last + 2) } else { last };
                let mut records = vec![record(session, prev, random(3), 1 + random(4))];
                if random(2) == 0 {
                    records.push(record(session, records[0].last(), random(3), 1 + random(4)));
                }
                let (ours, expected) = (store.append(&records).await, reference.append(&records).await);
                assert_eq!(format!("{ours:?}"), format!("{expected:?}"), "append in step {step}");
            }
            6 => {
                let contained: StateVector<_> =
                    vector.iter().filter(|_| random(5) > 0).map(|(sid, last)| (*sid, last)).collect();
                let bytes = Bytes::from(format!("snapshot {step}"));
                let ours = store.install(&contained, bytes.clone()).await;
                let expected = reference.install(&contained, bytes).await;
                assert_eq!(format!("{ours:?}"), format!("{expected:?}"), "install in step {step}");
            }
            7 if step % 3 == 0 => {
                drop(store);
                let kept;
                (store, kept) = maker.open().await;
                if !kept {
                    return;
                }
            }
            _ => {
                let wants: Vec<_> = (0..4)
                    .filter(|_| random(4) > 0)
                    .collect::<Vec<_>>()
                    .into_iter()
                    .map(|session| {
                        let after = random(last + 2);
                        want(session, after, after + random(last + 5))
                    })
                    .collect();
                let bytes_max = random(1000) as usize;
                let ours = store.page(&wants, bytes_max).await.expect("page");
                assert_eq!(
                    ours,
                    reference.page(&wants, bytes_max).await.expect("page"),
                    "page in step {step}"
                );
            }
        }
        assert_eq!(store.vector().await.expect("vector"), reference.vector().await.expect("vector"));
        let (ours, expected) = (store.snapshot().await, reference.snapshot().await);
        assert_eq!(ours.expect("snapshot"), expected.expect("snapshot"), "snapshot in step {step}");
    }
}

/// [`PatchStore::mend`] replaces what stands in a patch's place, and neither appends nor brings back what was folded.
pub async fn a_damaged_patch_is_put_back_and_nothing_else(maker: &mut impl StoreMaker) {
    let (store, _) = maker.open().await;
    let patches = [record(0, 0, 0, 3), record(0, 3, 2, 1), record(0, 6, 0, 4)];
    append(&store, &patches).await;
    // Another patch of the same place: as if it had been damaged.
    let mut damaged = patches[1].clone();
    damaged.patch = typed(damaged.id, damaged.id, 1, "y");
    store.mend(&damaged).await.expect("it takes what it is given");
    assert_eq!(all(&store).await, [patches[0].clone(), damaged, patches[2].clone()]);
    store.mend(&patches[1]).await.expect("a patch of that place");
    assert_eq!(all(&store).await, patches);

    // What is not contained is not appended by it, and what a snapshot contains does not come back.
    let next = record(0, 10, 0, 1);
    store.mend(&next).await.expect("nothing to do");
    let vector = [(sid(0), 3)].into_iter().collect();
    store.install(&vector, Bytes::from_static(b"snapshot")).await.expect("it keeps snapshots");
    store.mend(&patches[0]).await.expect("nothing to do");
    assert_eq!(records(&store, &[want(0, 3, 99)], usize::MAX).await, patches[1..]);
    assert_eq!(store.vector().await.expect("it can be read").get(&sid(0)), 10);
}
/// Closing loses nothing; afterwards every call works as before or is [`PatchStoreError::Closed`].
pub async fn a_closed_store_says_so_or_still_works(maker: &mut impl StoreMaker) {
    let (store, _) = maker.open().await;
    append(&store, &history(1, 3)).await;
    store.close().await.expect("close");
    store.close().await.expect("close again");
    match store.vector().await {
        Ok(vector) => assert_eq!(vector.get(&sid(1)), 3),
        Err(error) => assert!(matches!(error, PatchStoreError::Closed), "{error}"),
    }
    drop(store);
    let (store, kept) = maker.open().await;
    if kept {
        assert_eq!(all(&store).await, history(1, 3));
    }
}
