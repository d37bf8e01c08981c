//! What rules have tracked, as it stands in front of the document in a peer's snapshot: any bytes are refused or taken, and
//! what was taken is written and read again the same.

use bytes::Bytes;
use crdt_core::{Model, SessionId, Value};
use crdt_sync::{
    SharedModel, SyncDocument as _,
    conflict::{Rules, Strategy},
};

fn session(number: u64) -> SessionId {
    SessionId::new(70_000 + number).unwrap()
}

/// A replica that takes over a snapshot with this section.
fn takes(section: &[u8], document: &[u8]) -> Option<SharedModel> {
    let rules = Rules::new()
        .with("/a", Strategy::MultiValue)
        .with("/price", Strategy::authority([session(1)]))
        .with("/*", Strategy::signed([[7; 32]]))
        .with("", Strategy::merge(|writes| writes[0].value.clone()));
    let shared = SharedModel::new(session(9)).with_conflicts(rules);
    let len = (section.len() as u32).to_be_bytes();
    shared.install(&[b"\xffweftcon", &len[..], section, document].concat()).ok().map(|()| shared)
}

fn section_of(shared: &SharedModel, document: &[u8]) -> Bytes {
    let vector = shared.with(|document| document.state_vector());
    let snapshot = shared.snapshot(&vector).expect("nothing is edited here");
    snapshot.slice(12..snapshot.len() - document.len())
}

/// Looks at any bytes. Panics where something is wrong with us.
pub(crate) fn look_at(section: &[u8]) {
    let mut model = Model::new(session(1));
    model.api().root(Value::from(&serde_json::json!({"a": 0, "price": [1]}))).unwrap();
    model.flush();
    let document = model.document().to_native(crdt_core::codec::Packing::Plain);
    let Some(shared) = takes(section, &document) else { return };
    let _ = shared.resolved();
    for open in shared.open_conflicts() {
        assert!(open.writes.len() > 1);
    }
    while let Some(report) = shared.poll_conflict() {
        assert!(report.kept.node >= report.other.node);
    }
    let written = section_of(&shared, &document);
    let again = takes(&written, &document).expect("it was written here");
    assert_eq!(section_of(&again, &document), written);
}
