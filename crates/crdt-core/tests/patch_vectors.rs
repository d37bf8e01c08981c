//! The 118 recorded patches of json-joy: each form is read as the same patch and written byte for byte.

mod support;

use crdt_core::{Patch, Value, codec::PatchFormat};
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

/// What the text forms hold is compared as values: the vectors were written by JavaScript, with other space between.
#[test]
fn verbose_is_read_and_written() {
    for (name, bytes, vector) in patches() {
        let verbose = without_undefined(get(vector, "verbose"));
        let patch = Patch::decode(&bytes).unwrap();
        assert_eq!(without_undefined(&patch.to_verbose()), verbose, "{name}");
        assert_eq!(Patch::from_verbose(&verbose), Ok(patch), "{name}");
    }
}

#[test]
fn compact_is_read_and_written() {
    for (name, bytes, vector) in patches() {
        let compact = get(vector, "compact");
        let patch = Patch::decode(&bytes).unwrap();
        assert_eq!(&patch.to_compact(), compact, "{name}");
        assert_eq!(Patch::from_compact(compact), Ok(patch), "{name}");
    }
}

#[test]
fn compact_binary_is_read_and_written() {
    for (name, bytes, vector) in patches() {
        let patch = Patch::decode(&bytes).unwrap();
        let cbor = unhex(text(get(vector, "compact_cbor")));
        assert_eq!(hex(&PatchFormat::CompactBinary.encode(&patch).unwrap()), hex(&cbor), "{name}");
        assert_eq!(PatchFormat::CompactBinary.decode(&cbor), Ok(patch), "{name}");
    }
}

#[test]
fn json_text_brings_back_every_patch_that_it_can_say() {
    let mut said = 0;
    for (name, bytes, _) in patches() {
        let patch = Patch::decode(&bytes).unwrap();
        for format in [PatchFormat::Compact, PatchFormat::Verbose] {
            match format.encode(&patch) {
                Ok(json) => {
                    assert_eq!(format.decode(&json), Ok(patch.clone()), "{name}");
                    said += 1;
                }
                Err(_) => assert!(
                    ["new_con_bin", "new_con_bin_empty", "vec_extension_header"].contains(&name),
                    "{name}"
                ),
            }
        }
    }
    assert!(said > 220, "{said}");
}

fn without_undefined(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(without_undefined).collect(),
        Value::Map(entries) => Value::Map(
            entries
                .iter()
                .filter(|(_, value)| !value.is_undefined())
                .map(|(key, value)| (key.clone(), without_undefined(value)))
                .collect(),
        ),
        other => other.clone(),
    }
}
