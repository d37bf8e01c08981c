//! Transactions: what fails leaves nothing, what succeeds is as if there had been none.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crdt_core::{
    Applied, Model, Patch, SessionId, Timestamp, Value,
    codec::Packing,
    model::{EditError, UndoOptions},
};
use proptest::prelude::*;
use serde_json::json;
use support::{
    edits::{Edit, edit, edits},
    mirror::mirror,
};

fn session(number: u64) -> SessionId {
    SessionId::new(70_000 + number).unwrap()
}

fn model(root: impl Into<Value>) -> Model {
    let mut model = Model::new(session(1));
    model.api().root(root).unwrap();
    model.flush();
    model
}

/// What is done in a transaction, or outside of one.
#[derive(Clone, Debug)]
enum Step {
    Edits(Vec<Edit>),
    /// A patch comes from the other session, which has made it on what it knew.
    Comes(Vec<Edit>),
    Flush,
    Poll,
    /// Steps within, and whether they fail in the end.
    Transaction(Vec<Self>, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let plain = prop_oneof![
        4 => edits(1..4).prop_map(Step::Edits),
        1 => edits(1..3).prop_map(Step::Comes),
        1 => Just(Step::Flush),
        1 => Just(Step::Poll),
    ];
    plain.prop_recursive(3, 24, 5, |inner| {
        (prop::collection::vec(inner, 0..5), any::<bool>())
            .prop_map(|(steps, fails)| Step::Transaction(steps, fails))
    })
}

/// What has come of steps in the one model, to be done in the other.
#[derive(Debug)]
enum Done {
    Edit(Edit),
    Came(Patch),
}

/// Does steps with transactions, and notes what must come of them without.
fn with_transactions(
    (model, other, view): (&mut Model, &mut Model, &mut Value),
    steps: &[Step],
    done: &mut Vec<Done>,
    depth: usize,
) {
    for step in steps {
        match step {
            Step::Edits(edits) => edits.iter().for_each(|one| {
                edit(model, one);
                done.push(Done::Edit(one.clone()));
            }),
            Step::Comes(edits) => {
                edits.iter().for_each(|one| edit(other, one));
                let Some(patch) = other.flush() else { continue };
                assert_eq!(model.apply(&patch), Ok(Applied::Merged));
                done.push(Done::Came(patch));
            }
            Step::Flush if depth > 0 => assert_eq!(model.flush(), None),
            Step::Flush => {}
            Step::Poll => {
                while let Some(set) = model.poll_changes() {
                    mirror(view, &set);
                }
            }
            Step::Transaction(steps, fails) => {
                let start = done.len();
                let result = model.transaction(|model| {
                    with_transactions((model, other, view), steps, done, depth + 1);
                    if *fails { Err(()) } else { Ok(()) }
                });
                assert_eq!(result.is_err(), *fails);
                if *fails {
                    // What came stays.
                    let kept: Vec<Done> =
                        done.drain(start..).filter(|done| matches!(done, Done::Came(_))).collect();
                    done.extend(kept);
                }
            }
        }
        model.document().check().unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_failed_transaction_leaves_what_came_and_nothing_else(
        rounds in prop::collection::vec((step(), any::<bool>()), 1..12),
        undoes in any::<bool>(),
    ) {
        let mut plain = model(support::edits::start());
        let mut other = plain.fork(session(2));
        let mut tried = plain.clone();
        if undoes {
            tried.enable_undo(UndoOptions::STANDARD);
        }
        for (step, flushes) in &rounds {
            let mut done = Vec::new();
            let mut untold = Value::Undefined;
            let all = (&mut tried, &mut other, &mut untold);
            with_transactions(all, std::slice::from_ref(step), &mut done, 0);
            for done in done {
                match done {
                    Done::Edit(one) => edit(&mut plain, &one),
                    Done::Came(patch) => prop_assert_eq!(plain.apply(&patch), Ok(Applied::Merged)),
                }
            }
            let native = |model: &Model| model.document().to_native(Packing::Plain);
            prop_assert_eq!(native(&tried), native(&plain));
            prop_assert_eq!(tried.document().next_id(), plain.document().next_id());
            if *flushes {
                prop_assert_eq!(tried.flush(), plain.flush());
            }
        }
        prop_assert_eq!(tried.flush(), plain.flush());
    }

    /// Who does what the change events tell has the view in the end, whatever was taken back meanwhile.
    #[test]
    fn who_watches_through_transactions_is_told_of_what_stays(steps in prop::collection::vec(step(), 1..10)) {
        let mut tried = model(support::edits::start());
        let mut other = tried.fork(session(2));
        tried.watch();
        let mut view = tried.view();
        with_transactions((&mut tried, &mut other, &mut view), &steps, &mut Vec::new(), 0);
        while let Some(set) = tried.poll_changes() {
            mirror(&mut view, &set);
        }
        prop_assert_eq!(view.in_key_order(), tried.view().in_key_order());
    }
}

#[test]
fn ids_of_what_was_taken_back_were_never_sent() {
    let mut alice = model("warp");
    let mut bob = alice.fork(session(2));
    let failed: Result<(), EditError> = alice.transaction(|alice| {
        alice.api().str("")?.ins(4, " lost")?;
        // Nothing leaves a transaction that can still fail.
        assert_eq!(alice.flush(), None);
        let mut bytes = Vec::new();
        assert_eq!((alice.flush_into(&mut bytes), bytes.len()), (0, 0));
        assert!(alice.has_edits());
        alice.api().str("")?.ins(99, "!")
    });
    assert!(failed.is_err());
    assert!(!alice.has_edits());
    alice.api().str("").unwrap().ins(4, " weft").unwrap();
    assert_eq!(bob.apply(&alice.flush().unwrap()), Ok(Applied::Merged));
    assert_eq!((alice.view(), bob.view()), ("warp weft".into(), "warp weft".into()));
}

#[test]
fn what_a_successful_transaction_edits_is_flushed_after_it() {
    let mut alice = model("");
    let mut bob = alice.fork(session(2));
    alice.api().str("").unwrap().ins(0, "a").unwrap();
    let done: Result<(), EditError> = alice.transaction(|alice| {
        alice.api().str("")?.ins(1, "b")?;
        alice.transaction(|alice| alice.api().str("")?.ins(2, "c"))?;
        let inner: Result<(), &str> = alice.transaction(|alice| {
            alice.api().str("").unwrap().ins(0, "lost").unwrap();
            Err("no")
        });
        assert_eq!(inner, Err("no"));
        alice.api().str("")?.ins(3, "d")
    });
    done.unwrap();
    assert_eq!(bob.apply(&alice.flush().unwrap()), Ok(Applied::Merged));
    assert_eq!((alice.view(), bob.view()), ("abcd".into(), "abcd".into()));
}

#[test]
fn a_panic_takes_the_transaction_back() {
    let mut alice = model(json!({"n": 1}));
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _: Result<(), ()> = alice.transaction(|alice| {
            alice.api().obj("").unwrap().set([("n", 2)]).unwrap();
            panic!("in the middle");
        });
    }));
    assert!(panicked.is_err());
    assert_eq!(alice.view(), Value::from(&json!({"n": 1})));
    alice.api().obj("").unwrap().set([("n", 3)]).unwrap();
    assert!(alice.flush().is_some());
}

#[test]
fn what_can_be_undone_and_redone_is_as_it_was() {
    let mut alice = model("");
    alice.enable_undo(UndoOptions::STANDARD);
    for (at, text) in ["a", "b", "c"].into_iter().enumerate() {
        alice.api().str("").unwrap().ins(at, text).unwrap();
        alice.flush();
    }
    alice.undo().unwrap().unwrap();
    let failed: Result<(), ()> = alice.transaction(|alice| {
        alice.api().str("").unwrap().ins(0, "x").unwrap();
        alice.undo().unwrap().unwrap();
        alice.undo().unwrap().unwrap();
        Err(())
    });
    assert_eq!(failed, Err(()));
    assert_eq!(alice.view(), "ab".into());
    alice.redo().unwrap().unwrap();
    assert_eq!(alice.view(), "abc".into());
    let views = std::iter::from_fn(|| alice.undo().unwrap().map(|_| alice.view())).collect::<Vec<_>>();
    assert_eq!(views, ["ab", "a", ""].map(Value::from));
}

#[test]
fn undo_can_be_enabled_within() {
    let mut alice = model("a");
    let done: Result<(), EditError> = alice.transaction(|alice| {
        alice.enable_undo(UndoOptions::STANDARD);
        alice.api().str("")?.ins(1, "b")
    });
    done.unwrap();
    alice.undo().unwrap().unwrap();
    assert_eq!(alice.view(), "a".into());
}

#[test]
fn another_document_within_a_transaction_stays() {
    let mut alice = model("warp");
    let mut bob = alice.fork(session(2));
    bob.api().str("").unwrap().ins(4, " and weft").unwrap();
    bob.flush();
    let failed: Result<(), ()> = alice.transaction(|alice| {
        alice.api().str("").unwrap().ins(0, "lost ").unwrap();
        let inner: Result<(), ()> = alice.transaction(|alice| {
            alice.replace_document(bob.document().clone()).unwrap();
            alice.api().str("").unwrap().ins(0, "too ").unwrap();
            Err(())
        });
        assert_eq!(inner, Err(()));
        assert_eq!(alice.view(), "warp and weft".into());
        alice.api().str("").unwrap().ins(0, "lost ").unwrap();
        Err(())
    });
    assert_eq!(failed, Err(()));
    assert_eq!(alice.view(), "warp and weft".into());
    alice.api().str("").unwrap().ins(0, "the ").unwrap();
    assert_eq!(bob.apply(&alice.flush().unwrap()), Ok(Applied::Merged));
    assert_eq!(bob.view(), "the warp and weft".into());
}

#[test]
fn a_history_keeps_what_came_within() {
    let mut alice = model("");
    let mut bob = alice.fork(session(2));
    alice.keep_history().unwrap();
    bob.api().str("").unwrap().ins(0, "b").unwrap();
    let patch = bob.flush().unwrap();
    let failed: Result<(), ()> = alice.transaction(|alice| {
        assert_eq!(alice.apply(&patch), Ok(Applied::Merged));
        Err(())
    });
    assert_eq!(failed, Err(()));
    assert_eq!(alice.view(), "b".into());
    assert_eq!(
        alice.history().unwrap().versions().map(|version| version.id).collect::<Vec<_>>(),
        [patch.id()]
    );
}

#[test]
fn edits_that_were_not_flushed_are_not_compacted() {
    let mut alice = model("abc");
    alice.api().str("").unwrap().del(1, 1).unwrap();
    let stable = alice.document().state_vector();
    let ahead = crdt_core::document::Compaction::Ahead { extra: Timestamp::new(session(1), 6) };
    assert_eq!(alice.compact(&stable), ahead);
    alice.flush();
    assert_eq!(alice.compact(&stable), crdt_core::document::Compaction::Done { elements: 1 });
    // And a transaction goes back to the compacted document.
    let native = alice.document().to_native(Packing::Plain);
    let failed: Result<(), ()> = alice.transaction(|alice| {
        alice.api().str("").unwrap().ins(0, "x").unwrap();
        Err(())
    });
    assert_eq!(failed, Err(()));
    assert_eq!(alice.document().to_native(Packing::Plain), native);
}

#[test]
fn a_copy_made_within_goes_its_own_way() {
    let mut alice = model("");
    let done: Result<Model, EditError> = alice.transaction(|alice| {
        alice.api().str("")?.ins(0, "a")?;
        Ok(alice.clone())
    });
    assert!(done.unwrap().flush().is_some());
}
