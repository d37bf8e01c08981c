//! Documents in the structural forms: whatever is read holds together and comes back from its own bytes.
#![no_main]

use crdt_core::{Document, codec::DocumentFormat};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for form in DocumentFormat::ALL {
        let Ok(document) = form.decode(bytes) else { continue };
        document.check().unwrap();
        let binary = document.to_binary();
        let again = Document::from_binary(&binary).unwrap();
        assert_eq!(again.view(), document.view());
        assert_eq!(again.to_binary(), binary);
    }
});
