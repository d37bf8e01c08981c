//! The past: any state again, whatever order patches came in, and who wrote what when.

mod support;

use std::time::Duration;

use crdt_core::{
    Document, Model, Patch, SessionId, Timestamp, Value,
    codec::log::Log,
    document::Content,
    model::{History, Part},
};
use proptest::prelude::*;
use serde_json::json;
use support::edits::{edit, edits, start};

fn model(session: u64, root: impl Into<Value>) -> Model {
    let mut model = Model::new(SessionId::new(session).unwrap());
    model.api().root(root).unwrap();
    model.flush();
    model
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// The slow model replays every state from the start.
    #[test]
    fn every_state_is_the_one_that_replaying_gives(
        groups in prop::collection::vec((0..3usize, edits(1..3), any::<bool>()), 1..40),
        order in any::<u64>(),
    ) {
        let first = model(70_000, start());
        let mut models: Vec<Model> = (0..3).map(|at| first.fork(SessionId::new(80_000 + at).unwrap())).collect();
        let mut patches: Vec<Patch> = Vec::new();
        let mut sent = 0;
        for (who, todo, sync) in groups {
            todo.iter().for_each(|todo| edit(&mut models[who], todo));
            patches.extend(models[who].flush());
            if sync {
                for patch in &patches[sent..] {
                    for model in &mut models {
                        let _ = model.apply(patch).unwrap();
                    }
                }
                sent = patches.len();
            }
        }
        let mut history = History::new(first.document().clone());
        let mut log = Log::new(first.document().clone());
        // They come in any order, and are looked at in between.
        let mut rest = patches.clone();
        let mut turn = order;
        while !rest.is_empty() {
            turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let patch = rest.swap_remove((turn >> 33) as usize % rest.len());
            prop_assert!(history.push(patch.clone(), None));
            prop_assert!(!history.push(patch.clone(), None));
            log.push(patch.clone());
            prop_assert_eq!(history.at(patch.id()).unwrap().view(), log.at(patch.id()).unwrap().view());
        }
        for patch in &patches {
            prop_assert_eq!(history.at(patch.id()).unwrap().view(), log.at(patch.id()).unwrap().view());
            prop_assert_eq!(history.written(patch.id()).unwrap().id, patch.id());
        }
        // All that one replica had seen is what it shows.
        for model in &models {
            let seen = history.at_seen(&model.document().state_vector()).unwrap();
            prop_assert_eq!(seen.view().in_key_order(), model.view().in_key_order());
        }
    }
}

#[test]
fn a_long_history_is_not_replayed_from_the_start_each_time() {
    let mut typist = model(70_001, "");
    let mut history = History::new(typist.document().clone());
    let mut states = Vec::new();
    for at in 0..4 * History::CHECKPOINT_PATCHES {
        typist.api().str("").unwrap().ins(at, "x").unwrap();
        let patch = typist.flush().unwrap();
        states.push(patch.id());
        history.push(patch, None);
    }
    assert_eq!(history.checkpoints_len(), 0);
    for (at, &id) in states.iter().enumerate().rev().step_by(97) {
        assert_eq!(history.at(id).unwrap().view(), "x".repeat(at + 1).into());
    }
    assert_eq!(history.checkpoints_len(), 4);
    // A late patch takes the states after it with it.
    let mut late = Model::new(SessionId::new(70_000).unwrap());
    late.api().root("late").unwrap();
    history.push(late.flush().unwrap(), None);
    assert_eq!(history.checkpoints_len(), 0);
    history.advance_to(states[500]).unwrap();
    assert_eq!(history.at(states[600]).unwrap().view(), "x".repeat(601).into());
}

#[test]
fn the_number_of_saved_states_is_bounded() {
    let mut typist = model(70_001, "");
    let mut history = History::new(typist.document().clone());
    for at in 0..History::CHECKPOINTS_MAX + 2 {
        // More patches on each look than the pause between two states.
        let mut last = Timestamp::ORIGIN;
        for _ in 0..History::CHECKPOINT_PATCHES {
            typist.api().str("").unwrap().ins(0, "x").unwrap();
            let patch = typist.flush().unwrap();
            last = patch.id();
            history.push(patch, None);
        }
        let state = history.at(last).unwrap();
        assert_eq!(state.root().unwrap().len(), (at + 1) * History::CHECKPOINT_PATCHES);
        assert!(history.checkpoints_len() <= History::CHECKPOINTS_MAX);
    }
}

#[test]
fn the_memory_of_saved_states_is_bounded() {
    let mut typist = model(70_001, "x".repeat(50_000));
    let mut history = History::new(typist.document().clone());
    history.set_checkpoint_bytes(300_000);
    let mut states = Vec::new();
    for at in 0..10 * History::CHECKPOINT_PATCHES {
        typist.api().str("").unwrap().ins(at, "y").unwrap();
        let patch = typist.flush().unwrap();
        states.push(patch.id());
        history.push(patch, None);
    }
    let last = *states.last().unwrap();
    assert_eq!(history.at(last).unwrap().root().unwrap().len(), 50_000 + states.len());
    assert!((1..10).contains(&history.checkpoints_len()), "{}", history.checkpoints_len());
    assert!(history.checkpoint_bytes() <= 300_000);
    // Where not even one has room, each look begins at the start.
    history.set_checkpoint_bytes(10_000);
    assert_eq!((history.checkpoints_len(), history.checkpoint_bytes()), (0, 0));
    assert_eq!(history.at(last).unwrap().root().unwrap().len(), 50_000 + states.len());
    assert_eq!(history.checkpoints_len(), 0);
}

#[test]
fn a_model_keeps_what_it_flushes_and_takes_in_with_the_time() {
    let mut alice = model(70_001, json!({"text": "warp"}));
    let mut bob = alice.fork(SessionId::new(70_002).unwrap());
    alice.keep_history().unwrap();
    alice.set_now(Duration::from_secs(10));
    alice.api().str("/text").unwrap().ins(4, "!").unwrap();
    let mut bytes = Vec::new();
    assert!(alice.flush_into(&mut bytes) > 0);
    let sent = Patch::decode(&bytes).unwrap();
    alice.set_now(Duration::from_secs(20));
    bob.api().str("/text").unwrap().ins(0, "the ").unwrap();
    let patch = bob.flush().unwrap();
    alice.apply(&patch).map(drop).unwrap();
    alice.apply(&patch).map(drop).unwrap();
    let history = alice.history().unwrap();
    let versions: Vec<_> =
        history.versions().map(|version| (version.id, version.at.unwrap().as_secs())).collect();
    assert_eq!(versions, [(sent.id(), 10), (patch.id(), 20)]);
    let text = |document: Document| document.view().get("text").unwrap().clone();
    assert_eq!(text(history.at_time(Duration::from_secs(15)).unwrap()), "warp!".into());
    assert_eq!(text(history.at_time(Duration::from_secs(20)).unwrap()), "the warp!".into());

    let blame: Vec<_> = alice
        .blame("/text")
        .unwrap()
        .into_iter()
        .map(|run| (run.part, run.ids.start.sid.get(), run.at.map(|at| at.as_secs())))
        .collect();
    let range = |range| Part::Range(range);
    assert_eq!(
        blame,
        [(range(0..4), 70_002, Some(20)), (range(4..8), 70_001, None), (range(8..9), 70_001, Some(10))]
    );
}

#[test]
fn keys_and_elements_tell_who_set_them_last() {
    let mut alice = model(70_001, json!({"a": 1, "b": 1, "list": [1, 2]}));
    let mut bob = alice.fork(SessionId::new(70_002).unwrap());
    bob.api().obj("").unwrap().set([("b", 2)]).unwrap();
    bob.api().arr("/list").unwrap().upd(1, 3).unwrap();
    alice.apply(&bob.flush().unwrap()).map(drop).unwrap();
    let who = |path: &str| -> Vec<(Part, u64)> {
        alice.blame(path).unwrap().into_iter().map(|part| (part.part, part.ids.start.sid.get())).collect()
    };
    let key = |key: &str| Part::Key(key.into());
    assert_eq!(who(""), [(key("a"), 70_001), (key("b"), 70_002), (key("list"), 70_001)]);
    assert_eq!(who("/list"), [(Part::Range(0..1), 70_001), (Part::Range(1..2), 70_002)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// The slow model asks for the id of each unit.
    #[test]
    fn every_unit_of_a_text_is_told_of_once(
        steps in prop::collection::vec((0..3usize, any::<usize>(), "[a-z🙂]{1,5}", any::<bool>()), 1..40),
    ) {
        let first = model(70_000, "woven");
        let mut models: Vec<Model> = (0..3).map(|at| first.fork(SessionId::new(80_000 + at).unwrap())).collect();
        for (who, place, text, delete) in steps {
            let mut str = models[who].api().str("").unwrap();
            let place = place % (str.len() + 1);
            let len = str.len();
            if delete {
                str.del(place, 3.min(len - place)).unwrap();
            } else {
                str.ins(place, text.as_str()).unwrap();
            }
            if let Some(patch) = models[who].flush() {
                for model in &mut models {
                    let _ = model.apply(&patch).unwrap();
                }
            }
        }
        let document = models[0].document();
        let Content::Str(chunks) = document.root().unwrap().content() else { panic!("no text") };
        let live = chunks.filter(|chunk| !chunk.is_tombstone());
        let ids: Vec<Timestamp> =
            live.flat_map(|chunk| (0..chunk.span()).map(move |tick| chunk.id().tick(tick))).collect();
        let mut told = Vec::new();
        for run in models[0].blame("").unwrap() {
            prop_assert_eq!(run.part, Part::Range(told.len()..told.len() + run.ids.span as usize));
            told.extend((0..run.ids.span).map(|tick| run.ids.start.tick(tick)));
        }
        prop_assert_eq!(told, ids);
    }
}

/// What is sent while it is still open comes again, longer, under the same id.
#[test]
fn a_patch_that_came_again_longer_is_there_whole() {
    let mut alice = model(70_001, "warp");
    let mut bob = Model::from(alice.document().fork(SessionId::new(70_002).unwrap()));
    bob.keep_history().unwrap();
    alice.api().str("").unwrap().ins(4, " and").unwrap();
    let open = alice.open_patch().unwrap();
    alice.api().str("").unwrap().ins(8, " weft").unwrap();
    let whole = alice.flush().unwrap();
    assert_eq!(open.id(), whole.id());
    bob.set_now(Duration::from_secs(1));
    assert_eq!(bob.apply(&open).unwrap(), crdt_core::Applied::Merged);
    let history = bob.history_mut().unwrap();
    assert_eq!(history.at(open.id()).unwrap().view(), "warp and".into());
    assert_eq!(bob.apply(&whole).unwrap(), crdt_core::Applied::Merged);
    let last = Timestamp::new(whole.id().sid, whole.next_time() - 1);
    let history = bob.history_mut().unwrap();
    assert_eq!(history.written(last).map(|version| version.span), Some(whole.span()));
    assert_eq!(history.at(whole.id()).unwrap().view(), "warp and weft".into());
    // The part of it, once more, is nothing new and takes nothing away.
    assert!(!history.push(open.clone(), None));
    assert_eq!(history.at(whole.id()).unwrap().view(), "warp and weft".into());
    let mut log = history.log().clone();
    assert!(!log.push(open));
    assert_eq!(log.end().unwrap().view(), "warp and weft".into());
}

#[test]
fn a_patch_without_a_time_is_there_with_the_one_before_it() {
    let mut alice = model(70_001, "");
    alice.keep_history().unwrap();
    let write = |alice: &mut Model, text: &str| {
        let mut str = alice.api().str("").unwrap();
        let len = str.len();
        str.ins(len, text).unwrap();
        alice.flush().unwrap()
    };
    write(&mut alice, "a");
    alice.set_now(Duration::from_secs(10));
    write(&mut alice, "b");
    let at = |history: &History, secs| history.at_time(Duration::from_secs(secs)).unwrap().view();
    let history = alice.history().unwrap();
    assert_eq!((at(history, 9), at(history, 10)), ("a".into(), "ab".into()));

    // Someone else is told some of the times.
    let mut bob = alice.fork(SessionId::new(70_002).unwrap());
    bob.keep_history().unwrap();
    for (text, time) in [("c", Some(20)), ("d", None), ("e", Some(30)), ("f", None)] {
        let patch = write(&mut alice, text);
        assert!(bob.history_mut().unwrap().push(patch, time.map(Duration::from_secs)));
    }
    let history = bob.history().unwrap();
    let views: Vec<Value> = [19, 20, 29, 30].into_iter().map(|secs| at(history, secs)).collect();
    assert_eq!(views, ["ab", "abcd", "abcd", "abcdef"].map(Value::from));
    // Only what was told is told.
    let told: Vec<_> = history.versions().map(|version| version.at.map(|at| at.as_secs())).collect();
    assert_eq!(told, [Some(20), None, Some(30), None]);

    // What a log file has was there before all that comes after.
    let mut history = History::from(history.log().clone());
    history.push(write(&mut alice, "g"), Some(Duration::from_secs(40)));
    assert_eq!((at(&history, 39), at(&history, 40)), ("abcdef".into(), "abcdefg".into()));
}

/// Clocks of several machines disagree: an answer can have an earlier time than the question.
#[test]
fn nothing_is_there_before_what_it_was_built_on() {
    let mut alice = model(70_001, "");
    let mut history = History::new(alice.document().clone());
    let mut bob = alice.fork(SessionId::new(70_002).unwrap());
    alice.api().str("").unwrap().ins(0, "question").unwrap();
    let question = alice.flush().unwrap();
    let _ = bob.apply(&question).unwrap();
    bob.api().str("").unwrap().ins(8, " answer").unwrap();
    let answer = bob.flush().unwrap();
    bob.api().str("").unwrap().ins(15, "!").unwrap();
    let more = bob.flush().unwrap();
    history.push(question, Some(Duration::from_secs(100)));
    history.push(answer, Some(Duration::from_secs(50)));
    history.push(more, Some(Duration::from_secs(60)));
    let at = |secs| history.at_time(Duration::from_secs(secs)).unwrap().view();
    assert_eq!((at(70), at(100)), ("".into(), "question answer!".into()));
}

#[test]
fn a_history_does_not_begin_within_an_open_patch() {
    let mut alice = model(70_001, "");
    let before = alice.document().state_vector();
    alice.api().str("").unwrap().ins(0, "open").unwrap();
    assert_eq!(alice.keep_history(), Err(crdt_core::model::EditError::Unflushed));
    assert!(alice.history().is_none());
    alice.flush();
    alice.keep_history().unwrap();
    alice.api().str("").unwrap().ins(4, "ed").unwrap();
    // Once it is kept the edits that are open do no harm.
    alice.keep_history().unwrap();
    alice.flush();
    let history = alice.history().unwrap();
    assert_eq!(history.at_seen(&before).unwrap().view(), "open".into());
}

/// Who looks at an old version and edits it to have it back would give ids again that were sent.
#[test]
fn a_state_of_the_past_is_not_edited_under_the_live_session() {
    let mut alice = model(70_001, "warp");
    let mut bob = alice.fork(SessionId::new(70_002).unwrap());
    alice.keep_history().unwrap();
    alice.api().str("").unwrap().ins(4, "!").unwrap();
    let first = alice.flush().unwrap();
    let seen = alice.document().state_vector();
    alice.api().str("").unwrap().ins(5, "?").unwrap();
    let second = alice.flush().unwrap();
    for patch in [&first, &second] {
        assert_eq!(bob.apply(patch), Ok(crdt_core::Applied::Merged));
    }
    let history = alice.history_mut().unwrap();
    let states = [
        history.at(first.id()).unwrap(),
        history.at_seen(&seen).unwrap(),
        history.at_time(Duration::ZERO).unwrap(),
        history.log().at(first.id()).unwrap(),
    ];
    for state in states {
        let mut past = Model::from(state);
        assert_eq!(past.document().session(), SessionId::LOCAL);
        past.api().str("").unwrap().ins(0, "the ").unwrap();
        let mut bob = bob.clone();
        assert_eq!(bob.apply(&past.flush().unwrap()), Ok(crdt_core::Applied::Merged));
    }
    // What is not of the past goes on under its session.
    assert_eq!(history.log().end().unwrap().session(), alice.document().session());
}

#[test]
fn text_that_was_typed_on_is_told_with_the_time_of_each_part() {
    let mut alice = model(70_001, "ab");
    let mut parts = |steps: &[(u64, &str)]| {
        alice.keep_history().unwrap();
        for &(secs, text) in steps {
            alice.set_now(Duration::from_secs(secs));
            let mut cursor = alice.api().str("").unwrap();
            cursor.ins(cursor.len(), text).unwrap();
            alice.flush();
        }
        let parts = alice.blame("").unwrap().into_iter();
        parts.map(|run| (run.part, run.at.map(|at| at.as_secs()))).collect::<Vec<_>>()
    };
    let expected =
        [(0..2, None), (2..3, Some(10)), (3..5, Some(9999))].map(|(range, at)| (Part::Range(range), at));
    // Two patches of one time are one run.
    assert_eq!(parts(&[(10, "c"), (9999, "d"), (9999, "e")]), expected);
}

/// A history that was kept elsewhere: it goes on, and what was made before it counts.
#[test]
fn a_history_is_gone_on_with_by_another_model() {
    let mut first = model(70_001, "warp");
    first.keep_history().unwrap();
    first.set_now(Duration::from_secs(1));
    first.api().str("").unwrap().ins(4, " and").unwrap();
    let before = first.flush().unwrap().id();
    let history = first.history().unwrap().clone();

    let mut second = first.fork(first.document().fresh_session(0));
    second.resume_history(history);
    second.set_now(Duration::from_secs(2));
    second.api().str("").unwrap().ins(8, " weft").unwrap();
    let after = second.flush().unwrap().id();
    let history = second.history_mut().unwrap();
    let versions: Vec<_> = history.versions().map(|version| (version.id, version.at.unwrap())).collect();
    assert_eq!(versions, [(before, Duration::from_secs(1)), (after, Duration::from_secs(2))]);
    assert_eq!(history.at(before).unwrap().view(), "warp and".into());
    assert_eq!(history.at_time(Duration::from_secs(2)).unwrap().view(), "warp and weft".into());
}

#[test]
fn bytes_places_and_registers_tell_who_wrote_them() {
    use crdt_core::model::schema::{bin, con, obj, val, vec};
    let schema = obj([("bytes", bin([1, 2])), ("tuple", vec([con(1), con(2)])), ("register", val(con(1)))]);
    let mut alice = Model::with_schema(SessionId::new(70_001).unwrap(), &schema).unwrap();
    alice.flush();
    let mut bob = alice.fork(SessionId::new(70_002).unwrap());
    bob.api().bin("/bytes").unwrap().ins(1, &[9, 9]).unwrap();
    bob.api().vec("/tuple").unwrap().set([(1, 5), (3, 6)]).unwrap();
    bob.api().val("/register").unwrap().set(7).unwrap();
    assert_eq!(bob.api().con("/register").unwrap().view(), 7.into());
    let told = |path: &str| -> Vec<(Part, u64)> {
        let blame = bob.blame(path).unwrap();
        blame.into_iter().map(|part| (part.part, part.ids.start.sid.get())).collect()
    };
    let (global, bobs) = (SessionId::GLOBAL.get(), 70_002);
    let bytes = [(Part::Range(0..1), global), (Part::Range(1..3), bobs), (Part::Range(3..4), global)];
    assert_eq!(told("/bytes"), bytes);
    assert_eq!(told("/tuple"), [(Part::Place(0), global), (Part::Place(1), bobs), (Part::Place(3), bobs)]);
    assert_eq!(told("/register"), [(Part::Whole, bobs)]);
}
