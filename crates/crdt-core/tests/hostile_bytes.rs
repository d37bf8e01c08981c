//! The fuzz targets in ordinary tests: on their corpora, on what chance makes of those, and on chance alone.

#[path = "support/hostile.rs"]
#[expect(unreachable_pub, reason = "the fuzz targets include this module too")]
mod hostile;
mod support;

use std::{fs, path::Path};

use hostile::TARGETS;
use proptest::prelude::*;
use support::random;

/// What the fuzzer begins with, and what it once found.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

#[test]
fn every_corpus_runs() {
    for (name, run) in TARGETS {
        let corpus = corpus(name);
        assert!(!corpus.is_empty(), "{name} has no corpus");
        corpus.iter().for_each(|bytes| run(bytes));
    }
}

/// Every target of this crate is one of these functions.
#[test]
fn every_target_is_among_them() {
    let targets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/fuzz_targets");
    let mut found = Vec::new();
    for file in fs::read_dir(targets).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if name.starts_with("crdt_") {
            let source = fs::read_to_string(&path).unwrap();
            let function = name.trim_start_matches("crdt_");
            assert!(source.contains(&format!("hostile::{function}(bytes)")), "{name} does something else");
            found.push(name);
        }
    }
    found.sort();
    assert_eq!(found, TARGETS.map(|(name, _)| name));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn whatever_comes_is_refused_or_sound(
        target in 0..TARGETS.len(),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        TARGETS[target].1(&bytes);
    }

    #[test]
    fn what_was_changed_on_the_way_is_refused_or_sound(
        target in 0..TARGETS.len(),
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec(any::<u8>(), 0..24),
    ) {
        let (name, run) = TARGETS[target];
        run(&random::mutated(which.get(&corpus(name)).clone(), &changes));
    }

    /// Patches that mostly mean something, between own edits, undo, failed transactions and compaction.
    #[test]
    fn a_model_stays_sound(
        flags in any::<u8>(),
        steps in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..24),
    ) {
        let mut bytes = vec![flags];
        for (turn, (step, entropy)) in steps.iter().enumerate() {
            bytes.push(*step);
            if step % 8 < 3 {
                let patch = match step / 8 % 4 {
                    0 => random::patch(entropy),
                    _ => random::sensible(entropy, turn as u64),
                };
                if patch.as_bytes().len() > 255 {
                    bytes.pop();
                    continue;
                }
                bytes.push(patch.as_bytes().len() as u8);
                bytes.extend_from_slice(patch.as_bytes());
            }
        }
        hostile::model(&bytes);
    }
}
