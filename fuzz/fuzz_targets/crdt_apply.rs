//! Patches one after the other, each with its length before it, into one document: it stays sound, and its snapshot is
//! read and written again.
#![no_main]

use crdt_core::{Document, Patch, SessionId};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut document = Document::new(SessionId::new(66_000).unwrap());
    let mut rest = bytes;
    while let [len, more @ ..] = rest {
        let (patch, more) = more.split_at(usize::from(*len).min(more.len()));
        rest = more;
        let Ok(patch) = Patch::decode(patch) else { continue };
        if len % 2 == 0 {
            let _ = document.merge(patch.as_ref());
        } else {
            let _ = document.apply(&patch);
        }
        document.check().unwrap();
    }
    let again = Document::from_binary(&document.to_binary()).unwrap();
    again.check().unwrap();
    // Not the views: a slot whose node was removed from elsewhere is written as a constant without a value (H5).
    assert!(Document::from_binary(&again.to_binary()).unwrap().view() == again.view());
});
