//! The 118 recorded patches of json-joy: each form is read as the same patch and written byte for byte.

mod support;

use crdt_core::{Patch, Value};
use support::{get, hex, items, text, unhex, vectors};

fn patches() -> impl Iterator<Item = (&'static str, Vec<u8>, &'static Value)> {
    let all = items(get(vectors(), "vectors"));
    assert_eq!(all.len(), 118);
    all.iter().map(|vector| (text(get(vector, "name")), unhex(text(get(vector, "binary"))), vector))
}

#[test]
fn binary_is_read_and_written() {
    for (name, bytes, vector) in patches() {
        let patch = Patch::decode(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(hex(patch.as_bytes()), hex(&bytes), "{name}");
        assert_eq!(patch.span(), support::number(get(vector, "span")), "{name}");
        let id = items(get(vector, "patch_id"));
        assert_eq!(patch.id().sid.get(), support::number(&id[0]), "{name}");
        assert_eq!(patch.id().time, support::number(&id[1]), "{name}");
        let ids: Vec<_> = patch.ops().map(|(id, op)| (id.time, op.span())).collect();
        let expected: Vec<_> = items(get(vector, "ops"))
            .iter()
            .map(|op| (support::number(&items(get(op, "id"))[1]), support::number(get(op, "span"))))
            .collect();
        assert_eq!(ids, expected, "{name}");
    }
}
