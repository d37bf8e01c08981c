//! Patches of strangers, looked at for conflicts: each byte in front says how long the next one is. Whatever they claim to
//! have seen and to write, nothing panics, and no more is remembered than the bounds say.

use crdt_core::{Model, Patch, SessionId};
use crdt_sync::conflict::{Conflicts, Rules, Strategy};

/// Looks at any bytes. Panics where something is wrong with us.
pub(crate) fn look_at(data: &[u8]) {
    let authority = SessionId::USER_MIN;
    let rules = Rules::new()
        .with("/*", Strategy::MultiValue)
        .with("/list/*", Strategy::merge(|writes| writes[0].value.clone()))
        .with("", Strategy::authority([authority]));
    let mut conflicts = Conflicts::new(rules);
    let mut model = Model::new(SessionId::new(SessionId::USER_MIN.get() + 9).unwrap());
    let mut rest = data;
    while let Some((&len, tail)) = rest.split_first() {
        let (bytes, tail) = tail.split_at(usize::from(len).min(tail.len()));
        rest = tail;
        if let Ok(patch) = Patch::decode(bytes) {
            conflicts.observe(patch.as_ref());
            let _ = model.apply(&patch);
        }
    }
    assert!(conflicts.places() <= Conflicts::PLACES_MAX);
    let _ = conflicts.view(model.document());
    for open in conflicts.open(model.document()) {
        assert!(open.writes.len() > 1);
    }
    while let Some(report) = conflicts.poll_report() {
        assert!(report.kept.node >= report.other.node);
    }
}
