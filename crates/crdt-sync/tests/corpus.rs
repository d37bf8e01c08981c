//! The corpora of fuzz targets, replayed: whole, cut short and with a byte changed. What a fuzzer once found stays found.

#[path = "fuzzed/client.rs"]
mod client;
#[path = "fuzzed/conflicts.rs"]
mod conflicts;
#[cfg(feature = "crypto")]
#[path = "fuzzed/owners.rs"]
mod owners;
#[path = "fuzzed/presence.rs"]
mod presence;
#[path = "fuzzed/reconcile.rs"]
mod reconcile;
#[path = "fuzzed/section.rs"]
mod section;
#[path = "fuzzed/snapshot.rs"]
mod snapshot;
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

#[test]
fn the_corpus_of_sync_snapshot_is_opened_or_refused() {
    replay("sync_snapshot", look_at_snapshot);
}

#[test]
fn the_corpus_of_sync_presence_is_read_or_refused() {
    replay("sync_presence", presence::look_at);
}

#[test]
fn the_corpus_of_sync_section_is_taken_or_refused() {
    replay("sync_section", section::look_at);
}

#[test]
fn the_corpus_of_sync_reconcile_is_decoded_or_refused() {
    replay("sync_reconcile", reconcile::look_at);
}

#[cfg(feature = "embedded")]
#[test]
fn the_corpus_of_sync_layout_is_read_or_refused() {
    replay("sync_layout", |contents| {
        let key = [0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0x11, 0x71, 0, 0, 0, 0, 0, 0, 1, 0x2e];
        crdt_sync::store::embedded::look_at(&key, contents);
        crdt_sync::store::embedded::look_at(&key[..4], contents);
    });
}

#[cfg(feature = "crypto")]
use owners::look_at as look_at_owners;

#[cfg(not(feature = "crypto"))]
fn look_at_owners(_: &[u8]) {}

fn look_at_snapshot(bytes: &[u8]) {
    look_at_owners(&snapshot::look_at(bytes));
}

/// What is wrapped around a snapshot, and something behind it.
fn wrapped() -> impl Strategy<Value = Vec<u8>> {
    let magics = prop::sample::subsequence(vec![&b"\xffweftown"[..], b"\xffweftdag", b"\xffweftsum"], 0..=3);
    let counts = prop::collection::vec(prop_oneof![0u32..4, any::<u32>()], 3);
    (magics, counts, prop::collection::vec(any::<u8>(), 0..200)).prop_map(|(magics, counts, rest)| {
        let wrap =
            |rest: Vec<u8>, (magic, count): (&[u8], u32)| [magic, &count.to_be_bytes(), &rest].concat();
        magics.into_iter().zip(counts).rev().fold(rest, wrap)
    })
}

proptest! {
    #[test]
    fn any_wrapped_snapshot_is_opened_or_refused(bytes in wrapped()) {
        look_at_snapshot(&bytes);
    }

    #[test]
    fn any_section_is_taken_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        section::look_at(&[&[1], &bytes[..]].concat());
    }

    #[test]
    fn any_symbols_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
        reconcile::look_at(&bytes);
    }

    #[test]
    fn true_symbols_with_a_changed_bit_are_decoded_or_refused(
        honest in 0u8..64, more in prop::collection::vec((0u64..20, 0u64..9, any::<u64>(), -2i64..3), 0..9),
    ) {
        let more = more.into_iter().flat_map(|(sid, last, check, count)| {
            [65_536 + sid, last, check, count as u64].map(u64::to_le_bytes).concat()
        });
        let bytes: Vec<u8> = std::iter::once(honest).chain(more).collect();
        reconcile::look_at(&bytes);
    }

    #[test]
    fn any_frames_of_a_client_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        client::look_at(&bytes);
    }

    #[test]
    fn any_patches_are_observed_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        conflicts::look_at(&bytes);
    }
}
