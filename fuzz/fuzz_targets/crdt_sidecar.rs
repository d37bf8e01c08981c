//! The sidecar and the indexed form, cut out of the input at the places that its first bytes tell.
#![no_main]

use crdt_core::codec::document::{
    indexed,
    sidecar::{self, Sidecar},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let [cut, names @ ..] = bytes else { return };
    let (view, meta) = names.split_at(usize::from(*cut).min(names.len()));
    if let Ok(document) = sidecar::decode(&Sidecar { view: view.to_vec(), meta: meta.to_vec() }) {
        document.check().unwrap();
    }
    let mut fields = indexed::Fields::new();
    for (index, field) in names.split(|&byte| byte == 0xfe).enumerate() {
        let name = match index {
            0 => "c".to_owned(),
            1 => "r".to_owned(),
            _ => format!("{}_{}", index % 2, index),
        };
        fields.insert(name, field.to_vec());
    }
    if let Ok(document) = indexed::decode(&fields) {
        document.check().unwrap();
        assert_eq!(indexed::decode(&indexed::encode(&document).unwrap()).unwrap().view(), document.view());
    }
});
