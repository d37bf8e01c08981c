//! Change events: who does to a copy of the view what they say has the new view, whatever was edited by whom.

mod support;

use crdt_core::{
    Applied, Document, Model, Patch, SessionId, Text, Timestamp, Value,
    model::{
        Delta, Diff, Origin, UndoOptions,
        schema::{con, vec},
    },
};
use proptest::prelude::*;
use serde_json::json;
use support::{
    edits::{Edit, edit, edits},
    mirror::mirror,
};

const SESSIONS: usize = 4;

struct Replica {
    model: Model,
    view: Value,
    come: [usize; SESSIONS],
}

impl Replica {
    fn check(&mut self) {
        while let Some(set) = self.model.poll_changes() {
            assert!(!set.missed);
            mirror(&mut self.view, &set);
        }
        assert_eq!(self.view.in_key_order(), self.model.view().in_key_order());
        self.model.document().check().unwrap();
    }
}

#[derive(Clone, Debug)]
enum Step {
    Edit(usize, Vec<Edit>),
    Deliver(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..SESSIONS, edits(1..4)).prop_map(|(session, edits)| Step::Edit(session, edits)),
        (0..SESSIONS, 0..SESSIONS).prop_map(|(to, from)| Step::Deliver(to, from)),
    ]
}

fn replicas() -> Vec<Replica> {
    let mut first = Model::new(SessionId::new(70_000).unwrap());
    first.api().root(support::edits::start()).unwrap();
    let start = first.flush().unwrap();
    let replica = |session: u64| {
        let mut model = Model::new(SessionId::new(80_000 + session).unwrap());
        assert_eq!(model.apply(&start).unwrap(), Applied::Merged);
        model.watch();
        Replica { view: model.view(), model, come: [0; SESSIONS] }
    };
    (0..SESSIONS as u64).map(replica).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 150 } else { 2000 }))]

    #[test]
    fn a_copy_that_follows_the_changes_equals_the_view(steps in prop::collection::vec(step(), 1..60)) {
        let mut replicas = replicas();
        let mut logs: Vec<Vec<Patch>> = vec![Vec::new(); SESSIONS];
        let deliver = |replicas: &mut Vec<Replica>, logs: &[Vec<Patch>], to: usize, from: usize| {
            let replica = &mut replicas[to];
            let Some(patch) = logs[from].get(replica.come[from]) else { return false };
            if to == from || matches!(replica.model.apply(patch).unwrap(), Applied::Parked { .. }) {
                return false;
            }
            replica.come[from] += 1;
            replica.check();
            true
        };
        for step in steps {
            match step {
                Step::Edit(session, edits) => {
                    let replica = &mut replicas[session];
                    for todo in &edits {
                        edit(&mut replica.model, todo);
                    }
                    logs[session].extend(replica.model.flush());
                    replica.check();
                }
                Step::Deliver(to, from) => {
                    deliver(&mut replicas, &logs, to, from);
                }
            }
        }
        let mut news = true;
        while news {
            news = false;
            for to in 0..SESSIONS {
                for from in 0..SESSIONS {
                    news |= deliver(&mut replicas, &logs, to, from);
                }
            }
        }
        for replica in &replicas {
            prop_assert_eq!(replica.model.view().in_key_order(), replicas[0].model.view().in_key_order());
        }
    }
}

fn watched(start: &serde_json::Value) -> Model {
    let mut model = Model::new(SessionId::new(70_001).unwrap());
    model.api().root(start).unwrap();
    model.flush();
    model.watch();
    model
}

/// The one set of changes that there is, as pairs of paths and differences.
fn one_set(model: &mut Model) -> (Origin, Vec<(String, Diff)>) {
    let set = model.poll_changes().expect("changes");
    assert_eq!(model.poll_changes(), None);
    (set.origin, set.changes.into_iter().map(|change| (change.path.to_string(), change.diff)).collect())
}

#[test]
fn a_key_tells_what_it_was_and_what_it_is() {
    let mut model = watched(&json!({"a": {"b": 1}}));
    model.api().obj("/a").unwrap().set([("b", 2), ("c", 3)]).unwrap();
    let (origin, changes) = one_set(&mut model);
    assert_eq!(origin, Origin::Local);
    let key = |key: &str, old: Value, new: Value| crdt_core::model::KeyChange { key: key.into(), old, new };
    let keys = vec![key("b", 1.into(), 2.into()), key("c", Value::Undefined, 3.into())];
    assert_eq!(changes, [("/a".to_owned(), Diff::Map(keys))]);
}

#[test]
fn what_was_there_is_what_the_last_set_showed() {
    let mut start = Value::from(&json!({"text": "warp", "deep": {"list": ["a", {"b": "c"}, 3]}}));
    if let Value::Map(entries) = &mut start {
        entries.push(("bytes".into(), Value::Bytes(vec![1, 2, 3])));
    }
    let mut model = Model::new(SessionId::new(70_001).unwrap());
    model.api().root(start.clone()).unwrap();
    model.flush();
    model.watch();
    // All of it is edited inside and then replaced: nobody has seen the edits.
    model.api().str("/text").unwrap().ins(1, "xx").unwrap();
    model.api().str("/text").unwrap().del(0, 2).unwrap();
    model.api().bin("/bytes").unwrap().del(1, 1).unwrap();
    model.api().str("/deep/list/1/b").unwrap().ins(0, "cc").unwrap();
    model.api().obj("/deep/list/1").unwrap().set([("b", 5), ("new", 6)]).unwrap();
    model.api().arr("/deep/list").unwrap().ins(1, ["new"]).unwrap();
    model.api().arr("/deep/list").unwrap().upd(0, "other").unwrap();
    model.api().val("/deep/list/3").unwrap().set(4).unwrap();
    model.api().root("all new").unwrap();
    let (_, changes) = one_set(&mut model);
    assert_eq!(changes, [(String::new(), Diff::Value { old: start, new: "all new".into() })]);
}

#[test]
fn a_tuple_that_grew_before_it_was_replaced_is_told_as_short_as_it_was() {
    let mut model = Model::new(SessionId::new(70_001).unwrap());
    model.api().root(json!({})).unwrap();
    model.api().obj("").unwrap().set_node("tuple", &vec([con(1), con(2)])).unwrap();
    model.flush();
    model.watch();
    model.api().vec("/tuple").unwrap().set([(4, 5), (1, 3)]).unwrap();
    model.api().obj("").unwrap().del(["tuple"]).unwrap();
    let (_, changes) = one_set(&mut model);
    let old = Value::from_iter([1, 2]);
    let change = crdt_core::model::KeyChange { key: "tuple".into(), old, new: Value::Undefined };
    assert_eq!(changes, [(String::new(), Diff::Map(vec![change]))]);
}

/// A patch is sent while it is open, and later with more in it under the same id.
#[test]
fn what_a_longer_patch_adds_is_told_and_what_was_known_is_not() {
    let mut alice = Model::new(SessionId::new(70_001).unwrap());
    alice.api().root(json!({})).unwrap();
    let mut bob = alice.fork(SessionId::new(70_002).unwrap());
    alice.flush();
    bob.watch();
    alice.api().obj("").unwrap().set([("text", "warp")]).unwrap();
    let shorter = alice.open_patch().unwrap();
    assert_eq!(bob.apply(&shorter), Ok(Applied::Merged));
    let mut view = Value::from(&json!({}));
    mirror(&mut view, &bob.poll_changes().unwrap());

    alice.api().str("/text").unwrap().ins(4, "!").unwrap();
    let longer = alice.flush().unwrap();
    assert_eq!(bob.apply(&longer), Ok(Applied::Merged));
    let set = bob.poll_changes().expect("the text has changed");
    mirror(&mut view, &set);
    assert_eq!(view, bob.view());
    assert_eq!((set.by.start.time, set.by.span), (shorter.next_time(), longer.span() - shorter.span()));
    assert_eq!(bob.apply(&longer), Ok(Applied::Known));
    assert_eq!(bob.poll_changes(), None);
}

#[test]
fn what_is_new_is_told_once_by_what_holds_it() {
    let mut model = watched(&json!({"list": ["a"]}));
    model.api().arr("/list").unwrap().ins(0, ["new"]).unwrap();
    model.api().str("/list/0").unwrap().ins(3, "er").unwrap();
    model.api().str("/list/1").unwrap().ins(0, "old ").unwrap();
    let (_, changes) = one_set(&mut model);
    let list = Diff::Array(vec![Delta::Insert(vec!["newer".into()])]);
    let text = Diff::Text(vec![Delta::Insert("old ".into())]);
    assert_eq!(changes, [("/list".to_owned(), list), ("/list/1".to_owned(), text)]);
}

#[test]
fn text_positions_count_utf16_units() {
    let mut model = watched(&json!("a🙂b"));
    model.api().str("").unwrap().ins(3, "🙃").unwrap();
    let (_, changes) = one_set(&mut model);
    assert_eq!(changes[0].1, Diff::Text(vec![Delta::Retain(3), Delta::Insert("🙃".into())]));
}

#[test]
fn a_remote_patch_tells_who_made_it() {
    let mut model = watched(&json!({"text": "abc"}));
    let mut other = model.fork(SessionId::new(70_002).unwrap());
    other.api().str("/text").unwrap().del(0, 2).unwrap();
    let patch = other.flush().unwrap();
    assert_eq!(model.apply(&patch).unwrap(), Applied::Merged);
    let set = model.poll_changes().unwrap();
    assert_eq!((set.origin, set.by.start, set.by.span), (Origin::Remote, patch.id(), patch.span()));
    assert_eq!(set.changes[0].diff, Diff::Text(vec![Delta::Delete("ab".into())]));
    // Also when the clock here is far ahead of the author's.
    model.api().str("/text").unwrap().ins(0, "a long insertion").unwrap();
    other.api().str("/text").unwrap().ins(1, "!").unwrap();
    assert!(model.poll_changes().is_some());
    let late = other.flush().unwrap();
    assert_eq!(model.apply(&late).unwrap(), Applied::Merged);
    let set = model.poll_changes().unwrap();
    assert_eq!((set.by.start, set.by.span), (late.id(), late.span()));
    // A patch that is known already changes nothing.
    assert_eq!(model.apply(&patch).unwrap(), Applied::Known);
    assert_eq!(model.poll_changes(), None);
}

#[test]
fn a_loser_is_not_told_of() {
    let mut model = watched(&json!({"a": 1}));
    let mut other = model.fork(SessionId::new(70_000).unwrap());
    other.api().obj("").unwrap().set([("a", 2)]).unwrap();
    model.api().obj("").unwrap().set([("a", 3)]).unwrap();
    one_set(&mut model);
    assert_eq!(model.apply(&other.flush().unwrap()).unwrap(), Applied::Merged);
    assert_eq!(model.poll_changes(), None);
}

#[test]
fn a_big_patch_comes_as_several_sets_that_follow_each_other() {
    let mut model = watched(&json!({"text": "x".repeat(20_000), "list": []}));
    let mut other = model.fork(SessionId::new(70_002).unwrap());
    let mut view = model.view();
    for at in 0..5000usize {
        let mut text = other.api().str("/text").unwrap();
        let len = text.len();
        text.ins(at * 7919 % (len + 1), "ab").unwrap();
        text.del(at * 31 % (len + 1), 1).unwrap();
        if at % 10 == 0 {
            other.api().arr("/list").unwrap().ins(0, [Value::from(&json!({"n": [at]}))]).unwrap();
        }
        if at % 10 == 5 {
            other.api().arr("/list/0/n").unwrap().ins(0, [at as f64]).unwrap();
        }
    }
    assert_eq!(model.apply(&other.flush().unwrap()).unwrap(), Applied::Merged);
    let mut sets = 0;
    while let Some(set) = model.poll_changes() {
        mirror(&mut view, &set);
        sets += 1;
    }
    assert!(sets > 1);
    assert_eq!(view.in_key_order(), other.view().in_key_order());
}

#[test]
fn who_does_not_fetch_changes_gets_the_whole_view() {
    let mut model = watched(&json!({"n": 0}));
    for n in 0..=Model::SETS_MAX {
        model.api().obj("").unwrap().set([("n", n as f64)]).unwrap();
        model.flush();
    }
    let set = model.poll_changes().unwrap();
    assert!(set.missed);
    let mut view = Value::Undefined;
    mirror(&mut view, &set);
    assert_eq!(view, model.view());
    assert_eq!(model.poll_changes(), None);
    model.api().obj("").unwrap().set([("n", "on")]).unwrap();
    assert!(!model.poll_changes().unwrap().missed);
}

#[test]
fn a_transaction_that_fails_changes_nothing_and_tells_nothing() {
    let mut model = watched(&json!({"text": "abc"}));
    let failed: Result<(), &str> = model.transaction(|model| {
        model.api().str("/text").unwrap().ins(0, "x").unwrap();
        Err("no")
    });
    assert_eq!(failed, Err("no"));
    assert_eq!(model.poll_changes(), None);
    model.api().str("/text").unwrap().ins(3, "d").unwrap();
    assert_eq!(one_set(&mut model).1[0].1, Diff::Text(vec![Delta::Retain(3), Delta::Insert("d".into())]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Patches that nobody would make, aliases and nonsense among them: who watches has the same document as who does not.
    #[test]
    fn watching_changes_nothing_whatever_comes(
        seeds in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..12),
    ) {
        let session = SessionId::new(66_000).unwrap();
        let (mut plain, mut watched) = (Model::new(session), Model::new(session));
        watched.watch();
        watched.enable_undo(crdt_core::model::UndoOptions::STANDARD);
        watched.keep_history().unwrap();
        for (turn, seed) in seeds.iter().enumerate() {
            let patch = match turn % 3 {
                2 => support::random::patch(seed),
                _ => support::random::sensible(seed, turn as u64),
            };
            prop_assert_eq!(plain.apply(&patch), watched.apply(&patch));
            watched.document().check().unwrap();
            while let Some(set) = watched.poll_changes() {
                prop_assert!(!set.changes.is_empty());
            }
            for model in [&mut plain, &mut watched] {
                // An edit of one's own among them, if there is anything to be edited.
                if let Ok(mut text) = model.api().str("") {
                    text.ins(0, "own").unwrap();
                } else {
                    model.api().root("text").unwrap();
                }
                model.flush();
            }
            prop_assert_eq!(plain.document().to_binary(), watched.document().to_binary());
        }
        while watched.undo().unwrap().is_some() {}
        watched.document().check().unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Repeated patches are known to both alike, in either order of operations, also when tombstones are gone.
    #[test]
    fn watching_changes_nothing_in_server_order_and_after_compaction(
        is_server in any::<bool>(),
        rounds in prop::collection::vec((edits(1..6), any::<bool>(), any::<prop::sample::Index>()), 1..12),
    ) {
        let document = || match is_server {
            true => Document::new_server(),
            false => Document::new(SessionId::new(70_000).unwrap()),
        };
        let mut author = Model::from(document());
        if !is_server {
            author = author.fork(SessionId::new(70_001).unwrap());
        }
        let (mut plain, mut watched) = (Model::from(document()), Model::from(document()));
        watched.watch();
        let mut patches = Vec::new();
        author.api().root(support::edits::start()).unwrap();
        for (edits, compacts, repeated) in &rounds {
            edits.iter().for_each(|one| edit(&mut author, one));
            patches.extend(author.flush());
            let repeated = repeated.get(&patches).clone();
            for patch in [patches.last().unwrap().clone(), repeated] {
                prop_assert_eq!(plain.apply(&patch), watched.apply(&patch));
            }
            if *compacts {
                let stable = plain.document().state_vector();
                prop_assert_eq!(plain.compact(&stable), watched.compact(&stable));
            }
            watched.document().check().unwrap();
            prop_assert_eq!(plain.document().to_binary(), watched.document().to_binary());
            prop_assert_eq!(plain.view(), author.view());
        }
    }
}

#[test]
fn a_watcher_is_told_the_whole_view_when_the_document_is_replaced() {
    let sid = |number: u64| SessionId::new(70_000 + number).unwrap();
    let mut model = Model::new(sid(1));
    model.watch();
    model.enable_undo(UndoOptions::STANDARD);
    model.keep_history().unwrap();
    model.api().root(json!({"text": "warp"})).unwrap();
    let first = model.flush().unwrap();

    // Another replica goes on with it, and its state takes the place of ours.
    let mut ahead = Model::new(sid(2));
    let _ = ahead.apply(&first).unwrap();
    ahead.api().str("/text").unwrap().ins(4, " and weft").unwrap();
    ahead.flush();
    model.replace_document(ahead.document().clone()).unwrap();

    assert_eq!(model.document().session(), sid(1));
    let set = model.poll_changes().unwrap();
    assert!(set.missed);
    assert!(matches!(&set.changes[0].diff, Diff::Value { new, .. } if *new == model.view()));
    assert_eq!(model.poll_changes(), None);
    // What comes after it is told of as before.
    model.api().str("/text").unwrap().ins(0, "the ").unwrap();
    let patch = model.flush().unwrap();
    assert!(patch.id().time > ahead.document().state_vector().get(&sid(2)));
    let set = model.poll_changes().unwrap();
    assert_eq!(set.changes[0].path.to_string(), "/text");
    assert_eq!(model.history().unwrap().versions().len(), 1);
    // And undo finds what it was about.
    model.undo().unwrap().unwrap();
    assert_eq!(model.view(), Value::from(&json!({"text": "warp and weft"})));
    model.undo().unwrap().unwrap();
    model.flush();
    assert_eq!(model.view(), Value::Undefined);
}

/// Others can put one text into two places. What is typed into it shows at both, and when one of them is set anew it is gone
/// from the other.
#[test]
fn a_copy_follows_what_stands_at_two_places() {
    let mut model = watched(&json!({"list": ["a"]}));
    let root = model.document().root().unwrap();
    let (root, list) = (root.id(), root.get("list").unwrap().id());
    let mut view = model.view();
    let mut other = crdt_core::PatchBuilder::new(SessionId::new(80_000).unwrap(), 100);
    let mut then = |model: &mut Model, build: &dyn Fn(&mut crdt_core::PatchBuilder)| {
        build(&mut other);
        let next = crdt_core::PatchBuilder::new(SessionId::new(80_000).unwrap(), other.next_id().time);
        let patch = std::mem::replace(&mut other, next).finish().unwrap();
        assert_eq!(model.apply(&patch).unwrap(), Applied::Merged);
        while let Some(set) = model.poll_changes() {
            match &set.changes[..] {
                [crdt_core::model::Change { diff: Diff::Value { new, .. }, .. }] if set.missed => {
                    view = new.clone();
                }
                _ => mirror(&mut view, &set),
            }
        }
        assert_eq!(view.in_key_order(), model.view().in_key_order());
        model.document().check().unwrap();
    };
    let text = Timestamp::new(SessionId::new(80_000).unwrap(), 100);
    then(&mut model, &|patch| {
        let text = patch.json(&"warp".into());
        patch.ins_obj(root, [("x", text)]);
    });
    then(&mut model, &|patch| _ = patch.ins_obj(root, [("y", text)]));
    then(&mut model, &|patch| _ = patch.ins_arr(list, list, &[text]));
    then(&mut model, &|patch| _ = patch.ins_str(text, text, "the "));
    then(&mut model, &|patch| {
        let one = patch.json(&1.into());
        patch.ins_obj(root, [("x", one)]);
    });
    then(&mut model, &|patch| {
        let more = patch.json(&"b".into());
        patch.ins_arr(list, list, &[more]);
    });
}

/// A key can hold half a character, and then no text names it.
#[test]
fn a_path_leads_to_its_own_key_whatever_that_holds() {
    let half = Text::from_utf16([0xd83d]);
    let mut model = Model::new(SessionId::new(70_001).unwrap());
    model
        .api()
        .root(Value::Map(vec![(half.clone(), "half".into()), ("\u{fffd}".into(), "whole".into())]))
        .unwrap();
    let mut bob = model.fork(SessionId::new(70_002).unwrap());
    model.flush();
    model.watch();
    bob.api().str([half.as_wtf8().into()]).unwrap().ins(4, "!").unwrap();
    assert_eq!(model.apply(&bob.flush().unwrap()), Ok(Applied::Merged));
    let set = model.poll_changes().unwrap();
    assert_eq!(model.view_at(&set.changes[0].path).unwrap(), "half!".into());
    assert!(set.changes[0].path.is_within(&[half.as_wtf8().into()]));
    assert!(!set.changes[0].path.is_within(&["\u{fffd}".into()]));
    let mut map = model.api().obj("").unwrap();
    map.del([&half]).unwrap();
    assert_eq!((map.has(&half), map.has("\u{fffd}")), (false, true));
    model.api().update([half.as_wtf8().into()], "again").unwrap();
    assert_eq!(model.view_at([half.as_wtf8().into()]).unwrap(), "again".into());
}

/// What is kept for who does not fetch it is bounded in bytes too.
#[test]
fn large_changes_that_are_not_fetched_become_the_whole_view() {
    let mut model = watched(&json!(""));
    let large = "x".repeat(1 << 20);
    for _ in 0..Model::CHANGE_BYTES_MAX >> 20 {
        model.api().root(large.as_str()).unwrap();
        model.flush();
    }
    let set = model.poll_changes().unwrap();
    assert!(set.missed);
    assert_eq!(set.changes[0].diff, Diff::Value { old: Value::Undefined, new: large.as_str().into() });
    assert_eq!(model.poll_changes(), None);
    model.api().root("small").unwrap();
    let set = model.poll_changes().unwrap();
    assert_eq!(set.changes[0].diff, Diff::Value { old: large.as_str().into(), new: "small".into() });
}
