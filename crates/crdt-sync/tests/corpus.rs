//! The corpora of fuzz targets, replayed: whole, cut short and with a byte changed. What a fuzzer once found stays found.

#[path = "fuzzed/client.rs"]
mod client;
#[path = "fuzzed/conflicts.rs"]
mod conflicts;
#[path = "fuzzed/wire.rs"]
mod wire;

use std::{fs, path::Path};

use proptest::prelude::*;

/// Gives each file of a target's corpus to what the target does.
fn replay(target: &str, look_at: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut files = 0;
    for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        look_at(&bytes);
        // As one frame, too: a seed may be what stands behind a length.
        look_at(&[&[bytes.len() as u8][..], &bytes].concat());
        for at in 0..bytes.len().min(512) {
            look_at(&bytes[..at]);
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            look_at(&changed);
        }
        files += 1;
    }
    assert!(files > 0, "the corpus of {target} is empty");
}

#[test]
fn the_corpus_of_sync_conflicts_does_no_harm() {
    replay("sync_conflicts", conflicts::look_at);
}

#[test]
fn the_corpus_of_sync_client_does_no_harm() {
    replay("sync_client", client::look_at);
}

#[test]
fn the_corpus_of_sync_wire_is_read_and_written_the_same_in_all_encodings() {
    replay("sync_wire", wire::look_at);
}

proptest! {
    #[test]
    fn any_frames_of_a_client_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        client::look_at(&bytes);
    }

    #[test]
    fn any_patches_are_observed_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        conflicts::look_at(&bytes);
    }
}
