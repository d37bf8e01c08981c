//! What a load takes and refuses, with and without an index.

use super::*;

const SID: u64 = 70_000;

/// A map with a hundred constants, at every other time from the last one down, with a clock that is so far ahead; then
/// more at some times.
fn load(last: u64, more: &[u64]) -> Result<Document, LoadError> {
    let sid = SessionId::new(SID).unwrap();
    let mut bulk = Bulk::new(SessionId::new(SID + 1).unwrap(), Order::Logical, &[sid], &[last])?;
    bulk.set_time(last + 1, 0);
    bulk.set_keys(
        (100..300).map(|key| key.to_string()).collect::<String>().into_bytes(),
        (1..=200).map(|at| 3 * at).collect(),
    )?;
    bulk.begin_tree();
    let id = |time| NativeId { session: 0, time };
    bulk.open(id(1), Kind::Obj, 100)?;
    let times = (1..=100).rev().map(|at| 2 * at).chain(more.iter().copied());
    for (time, key) in times.zip(0..) {
        bulk.key(key);
        bulk.con(id(time), RawValue::trusted(&[0x18, 24]))?;
    }
    bulk.close();
    bulk.finish()
}

fn twice(time: u64) -> Option<LoadError> {
    Some(LoadError::Duplicate(Timestamp::new(SessionId::new(SID).unwrap(), time)))
}

#[test]
fn an_id_that_occurs_twice_is_found_with_an_index_and_without() {
    for last in [1000, 1 << 50] {
        let document = load(last, &[3]).unwrap();
        // Where the clock is far ahead of the nodes, there is an index at once.
        assert_eq!(document.store.rows.is_some(), last == 1000);
        document.check().unwrap();
        assert_eq!(load(last, &[3, 5, 7, 3]).err(), twice(3));
        assert_eq!(load(last, &[201, 8]).err(), twice(8));
    }
}

#[test]
fn a_server_document_has_nothing_at_time_0() {
    let server = |node, run| {
        let sid = SessionId::SERVER;
        let mut bulk = Bulk::new(sid, Order::Server, &[sid], &[9])?;
        bulk.set_time(10, 0);
        bulk.begin_tree();
        bulk.sequence(NativeId { session: 0, time: node }, Kind::Bin)?;
        bulk.begin_runs(1, false);
        bulk.runs([(NativeId { session: 0, time: run }, 2, false)].into_iter())?;
        bulk.end_runs()?;
        bulk.bytes(&[1, 2]);
        bulk.finish()
    };
    let zero = Some(LoadError::System(Timestamp::new(SessionId::SERVER, 0)));
    assert_eq!(server(1, 2).map(|document| document.time()), Ok(10));
    assert_eq!(server(0, 2).err(), zero);
    assert_eq!(server(1, 0).err(), zero);
}

#[test]
fn the_first_change_makes_the_index() {
    let mut document = load(1000, &[]).unwrap();
    document.set_session(SessionId::new(SID + 2).unwrap());
    assert!(document.store.rows.is_some());
    let before = document.nodes().map(|node| node.id()).collect::<Vec<_>>();
    assert!(document.store.own().is_none(), "the fast ways leave it to others");
    assert!(document.store.rows.is_some());
    let _ = &mut *document.store;
    assert!(document.store.rows.is_none() && document.store.own().is_some());
    assert_eq!(document.nodes().map(|node| node.id()).collect::<Vec<_>>(), before);
    document.check().unwrap();
}
