//! Cola: the order of a text.

use super::Edit;

/// Cola keeps the order of a text and no text: the least that a peer can do. Returns the length.
pub fn type_in_cola(edits: &[Edit]) -> usize {
    let mut replica = cola::Replica::new(1, 0);
    for edit in edits {
        if edit.del > 0 {
            let _ = replica.deleted(edit.at..edit.at + edit.del);
        }
        let units = edit.ins.encode_utf16().count();
        if units > 0 {
            let _ = replica.inserted(edit.at, units);
        }
    }
    replica.len()
}
