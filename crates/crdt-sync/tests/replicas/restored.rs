//! A store that was put back from a backup, and in which was written what others do not know.

use super::*;

const OWN: u64 = 1;

/// All that a store has, in another one.
async fn copied(store: &MemoryPatchStore) -> Arc<MemoryPatchStore> {
    let copy = MemoryPatchStore::new();
    if let Some((vector, snapshot)) = store.snapshot().await.unwrap() {
        copy.install(&vector, snapshot).await.unwrap();
    }
    let (have, all) = (copy.vector().await.unwrap(), store.vector().await.unwrap());
    let want: Vec<Want> =
        have.missing_from(&all).map(|(sid, after, upto)| Want { sid: *sid, after, upto }).collect();
    let page = store.page(&want, usize::MAX).await.unwrap();
    let PatchPage::Records(records) = page else { panic!("{page:?}") };
    copy.append(&records).await.unwrap();
    Arc::new(copy)
}

/// Edits of one replica: each sets so many keys to a number.
async fn writes(replica: &Replica, edits: impl IntoIterator<Item = (usize, i64)>) {
    let names = ["count", "b", "c", "d"];
    for (keys, value) in edits {
        let set: Vec<_> = names[..keys].iter().map(|name| (*name, value)).collect();
        replica.edit(|model| model.api().obj("").unwrap().set(set)).await;
    }
}

/// The first replica writes, and three more times after a backup; the backup is put back, and `written` is written in the
/// place of what was lost before anybody is heard. Returns the group with the other replica and the first one.
async fn put_back(group: Group, written: &[(usize, i64)], fold: bool) -> (Group, Replica, Replica) {
    let store = Arc::new(MemoryPatchStore::new());
    let first = group.join_with(OWN, EncodingFormat::Binary, Arc::clone(&store) as _).await;
    let other = group.join(2, EncodingFormat::Binary).await;
    first.edit(|model| model.api().root(json(json!({"count": 0})))).await;
    writes(&first, [(1, 1), (1, 2)]).await;
    other.sees(&json(json!({"count": 2}))).await;
    if fold {
        first.manager.compact().await.unwrap();
    }
    let backup = copied(&store).await;
    writes(&first, [(1, 3), (1, 4), (1, 5)]).await;
    other.sees(&json(json!({"count": 5}))).await;
    first.manager.stop().await;
    drop(first);

    let away = Group { sync: group.sync, ..Group::new() };
    let alone = away.join_with(OWN, EncodingFormat::Json, Arc::clone(&backup) as _).await;
    writes(&alone, written.iter().copied()).await;
    alone.manager.stop().await;
    let restored = group.join_with(OWN, EncodingFormat::Json, backup).await;
    (group, other, restored)
}

/// What was written in the place of what was lost is noticed by both, and the one that was put back takes no more.
async fn is_noticed(group: Group, written: &[(usize, i64)], fold: bool) {
    let (_group, other, restored) = put_back(group, written, fold).await;
    restored.stands("the one that was put back", |status| status.counters.refused > 0).await;
    let tells = |status: &SyncStatus| status.counters.diverged + status.counters.refused > 0;
    other.stands("the other one", tells).await;
    let patch = restored.document.edit(|model| model.api().obj("").unwrap().set([("more", 1)]));
    let refused = restored.manager.apply_patch(&patch.unwrap().unwrap()).await;
    assert!(matches!(refused, Err(SyncError::Refused(Refusal::SessionUsedTwice(_)))), "{refused:?}");
    // The other one goes on.
    other.edit(|model| model.api().obj("").unwrap().set([("after", true)])).await;
}

#[tokio::test(start_paused = true)]
async fn as_much_written_as_was_lost_is_noticed() {
    is_noticed(Group::new(), &[(1, 13), (1, 14), (1, 15)], false).await;
}

#[tokio::test(start_paused = true)]
async fn more_written_than_was_lost_is_noticed() {
    is_noticed(Group::new(), &[(1, 13), (1, 14), (1, 15), (1, 16), (1, 17)], false).await;
}

#[tokio::test(start_paused = true)]
async fn less_written_than_was_lost_is_noticed() {
    is_noticed(Group::new(), &[(1, 13)], false).await;
}

#[tokio::test(start_paused = true)]
async fn a_difference_before_patches_that_are_the_same_is_noticed() {
    is_noticed(Group::new(), &[(1, 13), (1, 4), (1, 5)], false).await;
}

#[tokio::test(start_paused = true)]
async fn patches_that_end_within_each_other_are_noticed() {
    // The three that were lost take two ticks each, these five.
    is_noticed(Group::new(), &[(4, 13), (4, 14)], false).await;
}

/// Nobody has a patch left that differs: that one ends where none ends here is told all the same. (It proves nothing: anybody
/// can say it.)
#[tokio::test(start_paused = true)]
async fn what_all_others_have_folded_is_told() {
    let group = Group::new();
    let store = Arc::new(MemoryPatchStore::new());
    let first = group.join_with(OWN, EncodingFormat::Binary, Arc::clone(&store) as _).await;
    let other = group.join(2, EncodingFormat::Binary).await;
    first.edit(|model| model.api().root(json(json!({"count": 0})))).await;
    other.sees(&json(json!({"count": 0}))).await;
    let backup = copied(&store).await;
    writes(&first, [(1, 1), (1, 2), (1, 3)]).await;
    other.sees(&json(json!({"count": 3}))).await;
    first.manager.stop().await;
    let all = other.manager.status().await.unwrap().stored;
    // Who said goodbye is not waited for.
    other.folds(&all).await;
    let away = Group { sync: group.sync, ..Group::new() };
    let alone = away.join_with(OWN, EncodingFormat::Json, Arc::clone(&backup) as _).await;
    writes(&alone, [(4, 13), (4, 14)]).await;
    alone.manager.stop().await;
    let restored = group.join_with(OWN, EncodingFormat::Json, backup).await;
    let mut events = restored.manager.events();
    let told = async {
        loop {
            if let SessionEvent::Refused(Refusal::SessionUsedTwice(_)) = events.recv().await.unwrap() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("it is told");
}

#[tokio::test(start_paused = true)]
async fn what_was_written_on_top_of_a_snapshot_is_noticed() {
    is_noticed(Group::new(), &[(1, 13), (1, 14), (1, 15)], true).await;
}

#[tokio::test(start_paused = true)]
async fn a_group_that_uses_the_dag_notices_it_too() {
    is_noticed(Group::with_dag(), &[(1, 13), (1, 14), (1, 15)], false).await;
}
