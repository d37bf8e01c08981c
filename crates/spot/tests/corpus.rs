//! The fuzz targets in ordinary tests: on their corpora, whole, cut short and with a byte changed, and on chance.

#[path = "support/hostile.rs"]
#[expect(unreachable_pub, reason = "the fuzz targets include this module too")]
mod hostile;

use std::{fs, path::Path};

use hostile::TARGETS;
use proptest::prelude::*;

/// What the fuzzer begins with, and what it once found.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../fuzz/corpus/spot_{target}"));
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn run(target: &str) -> fn(&[u8]) {
    TARGETS.into_iter().find(|(name, _)| *name == target).expect("a target of this name").1
}

/// Of each file, the cuts and changes at so many places.
fn replay(target: &str, places: usize) {
    let (corpus, run) = (corpus(target), run(target));
    assert!(!corpus.is_empty(), "{target} has no corpus");
    for bytes in corpus {
        run(&bytes);
        for at in (0..bytes.len()).step_by(bytes.len().div_ceil(places).max(1)) {
            run(&bytes[..at]);
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            run(&changed);
        }
    }
}

#[test]
fn commands_of_the_corpus_do_a_node_no_harm() {
    replay("command", 128);
}

#[test]
fn frames_of_the_corpus_are_cut_the_same_however_they_come() {
    replay("decoder", 512);
}

/// Few places: the arithmetic of CURVE is slow without optimisation.
#[test]
fn handshakes_of_the_corpus_are_established_or_refused() {
    replay("handshake", 16);
}

/// Every target of this crate is one of these functions.
#[test]
fn every_target_is_among_them() {
    let targets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/fuzz_targets");
    let mut found = Vec::new();
    for file in fs::read_dir(targets).unwrap() {
        let path = file.unwrap().path();
        if let Some(name) = path.file_stem().unwrap().to_str().unwrap().strip_prefix("spot_") {
            let source = fs::read_to_string(&path).unwrap();
            assert!(source.contains(&format!("hostile::{name}(bytes)")), "{name} does something else");
            found.push(name.to_owned());
        }
    }
    found.sort();
    assert_eq!(found, TARGETS.map(|(name, _)| name));
}

proptest! {
    #[test]
    fn whatever_comes_is_refused_or_followed(
        target in 0..TARGETS.len(),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        TARGETS[target].1(&bytes);
    }
}
