//! Many replicas, one bad network, one seed.
//!
//! The production machines run in a simulated world, and load, fold and take snapshots over by production's code, with loss,
//! repeats, reordering, delay, partitions that discovery takes for absence, crashes that lose what was not synced, stores that
//! fail for a while or for longer than a manager waits, discovery that is wrong, compaction (also while somebody is cut off), a
//! peer that lies, and outsiders who say things in anybody's name.
//! A second kind of world has a store that is put back from a backup, a third one has signatures, those who have no right to
//! write, and one on the list who signs in the names of others, a fourth one windows at the replicas, which type, lose their
//! connection, and bring what was not acknowledged to the same node or another one. `WEFT_SIM_SEEDS=n` runs n seeds instead of 200;
//! `WEFT_SIM_SEED=s` runs one, printing each event.

mod random;
mod document;
mod disk;
#[cfg_attr(
    not(feature = "crypto"),
    expect(dead_code, reason = "the guard of a replica is for the world with signatures")
)]
mod replica;
mod shelf;
mod outsider;
mod window;
#[cfg(feature = "crypto")]
mod forger;
mod world;

use std::{collections::BTreeMap, ops::Range};

use world::World;

/// How many seeds `cargo test` runs.
const SEEDS: u64 = 200;
/// Where patches are signed one in so many seeds is run: signatures take time.
#[cfg(feature = "crypto")]
const SIGNED_STEP: usize = 4;

/// Of those with windows one in so many, too: all that is said to them is encoded.
const WINDOWS_STEP: usize = 8;

fn env(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}

fn seeds() -> Range<u64> {
    match env("WEFT_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..env("WEFT_SIM_SEEDS").unwrap_or(SEEDS),
    }
}

#[test]
fn replicas_converge_and_no_acknowledged_edit_is_lost() {
    let print = env("WEFT_SIM_SEED").is_some();
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in seeds() {
        let outcome = std::panic::catch_unwind(|| World::new(seed, print).run());
        match outcome {
            Ok(Ok((_, counted))) => {
                for (name, count) in counted {
                    *counts.entry(name).or_insert(0) += count;
                }
            }
            Ok(Err(wrong)) => panic!("seed {seed}: {wrong} (replay with WEFT_SIM_SEED={seed})"),
            Err(_) => panic!("seed {seed} panicked (replay with WEFT_SIM_SEED={seed})"),
        }
    }
    // A world in which something never happens tests nothing of it.
    // (Its stores lose what was not synced; they damage nothing, so nothing is repaired. Nobody is gone for days.)
    assert_eq!(counts.remove("parted"), Some(0), "nobody folds what others lack");
    if !print {
        for never in ["repaired", "forgotten"] {
            counts.remove(never);
        }
        let never: Vec<_> = counts.iter().filter(|(_, count)| **count == 0).collect();
        assert!(never.is_empty(), "never happened: {never:?}");
    }
}

#[test]
fn a_store_that_was_put_back_is_noticed() {
    let print = env("WEFT_SIM_SEED").is_some();
    let (mut worlds, mut differed) = (0, 0);
    for seed in seeds() {
        match World::with_backup(seed, print).run_with_backup() {
            Ok(differs) => {
                worlds += 1;
                differed += u64::from(differs);
            }
            Err(wrong) => panic!("seed {seed}: {wrong} (replay with WEFT_SIM_SEED={seed})"),
        }
    }
    assert!(print || differed > worlds / 4, "only {differed} of {worlds} tested anything");
}

#[test]
fn what_a_window_was_told_to_be_stored_is_everywhere_in_the_end() {
    let print = env("WEFT_SIM_SEED").is_some();
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in seeds().step_by(WINDOWS_STEP) {
        match World::with_windows(seed, print).run_with_windows() {
            Ok((_, counted)) => {
                for (name, count) in counted {
                    *counts.entry(name).or_insert(0) += count;
                }
            }
            Err(wrong) => panic!("seed {seed}: {wrong} (replay with WEFT_SIM_SEED={seed})"),
        }
    }
    let all = ["stored for windows", "snapshots for windows", "relayed", "busy", "strange", "name taken"];
    let never: Vec<_> = all.iter().filter(|name| !counts.contains_key(*name)).collect();
    assert!(print || never.is_empty(), "never happened: {never:?}");
}

/// The peer's patches began with one that was folded here, and those behind it in the same page were not looked at.
#[test]
fn what_was_folded_hides_no_other_patch_behind_it() {
    assert_eq!(World::with_backup(7208, false).run_with_backup(), Ok(true));
}

#[cfg(feature = "crypto")]
#[test]
fn nobody_changes_a_signed_document_without_the_right_to() {
    let print = env("WEFT_SIM_SEED").is_some();
    let mut refused = 0;
    for seed in seeds().step_by(SIGNED_STEP) {
        match World::with_signatures(seed, print).run_with_signatures() {
            Ok(count) => refused += count,
            Err(wrong) => panic!("seed {seed}: {wrong} (replay with WEFT_SIM_SEED={seed})"),
        }
    }
    assert!(print || refused > 0, "nothing was refused");
}

#[test]
fn the_same_seed_gives_the_same_events() {
    for seed in 0..5 {
        let run = || World::new(seed, false).traced().run();
        assert_eq!(run(), run(), "seed {seed}");
        let run = || World::with_windows(seed, false).traced().run_with_windows();
        assert_eq!(run(), run(), "seed {seed}, with windows");
    }
}
