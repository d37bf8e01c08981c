//! Patches in all forms: whatever is read is canonical, and every form brings it back.
#![no_main]

use crdt_core::{PatchRef, codec::PatchFormat};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for format in PatchFormat::ALL {
        let Ok(patch) = format.decode(bytes) else { continue };
        assert_eq!(PatchRef::decode(patch.as_bytes()).unwrap().to_patch(), patch);
        assert_eq!(patch.ops().map(|(_, op)| op.span()).sum::<u64>(), patch.span());
        let _ = (patch.dependencies(), patch.compact(), patch.rebase(1000, 3));
        for other in PatchFormat::ALL {
            if let Ok(written) = other.encode(&patch) {
                assert_eq!(other.decode(&written).unwrap().span(), patch.span());
            }
        }
    }
});
