//! Keys of maps that are set one at a time, which has a way of its own for who gets the patch, against the general rules.

use crdt_core::{Applied, Document, Model, Patch, PatchBuilder, SessionId, Timestamp, Value, codec::Packing};
use proptest::prelude::*;
use serde_json::json;

fn session(at: u64) -> SessionId {
    SessionId::new(70_000 + at).unwrap()
}

/// What a patch makes and sets.
#[derive(Clone, Debug)]
enum Made {
    Con(Value),
    Text(String),
}

#[derive(Clone, Debug)]
struct Step {
    /// Who sends it, and how much later than anything known.
    by: u64,
    later: u64,
    /// The map, or a node of another kind, or one that nobody has made.
    which: usize,
    key: String,
    made: Made,
    /// How often it comes.
    times: usize,
}

fn step() -> impl Strategy<Value = Step> {
    let made = prop_oneof![
        any::<i64>().prop_map(|n| Made::Con(n.into())),
        Just(Made::Con(Value::Undefined)),
        "[a-z]{0,40}".prop_map(|text| Made::Con(text.as_str().into())),
        "[a-z]{0,40}".prop_map(Made::Text),
        "[a한🙂]{0,9}".prop_map(Made::Text),
    ];
    (0..6u64, 0..9u64, 0..5usize, "[ab]|key [a-e]|한{0,40}", made, 1..3usize)
        .prop_map(|(by, later, which, key, made, times)| Step { by, later, which, key, made, times })
}

/// The patch, with ids that do not follow the clock of who takes it in: so it wins or loses against what is there.
fn patch(step: &Step, nodes: &[Timestamp], start: u64) -> Patch {
    let obj = nodes.get(step.which).copied().unwrap_or(Timestamp::new(session(1), 1 << 40));
    let mut patch = PatchBuilder::new(session(step.by), start + 3 * step.later);
    let value = match &step.made {
        Made::Con(value) => patch.new_con(value),
        Made::Text(text) => {
            let made = patch.new_str();
            patch.ins_str(made, made, &**text);
            made
        }
    };
    patch.ins_obj(obj, [(&*step.key, value)]);
    patch.finish().unwrap()
}

proptest! {
    #[test]
    fn a_key_that_is_set_at_once_is_set_as_the_rules_have_it(steps in prop::collection::vec(step(), 1..40)) {
        let mut model = Model::new(session(1));
        model.api().root(json!({"map": {"a": {}, "text": "t"}, "list": [{}]})).unwrap();
        let _ = model.flush();
        let start = model.document().time();
        let maps = model.document().nodes().filter(|node| node.get("a").is_some() || node.is_empty());
        let mut nodes: Vec<Timestamp> = maps.map(|node| node.id()).collect();
        nodes.extend(model.document().root().map(|root| root.id()));
        nodes.extend(model.document().root().and_then(|root| root.get("list")).map(|list| list.id()));
        let document = model.into_document();
        // Who watches takes every patch by the general rules.
        let (mut plain, mut watched): (Model, Model) = (document.fork(session(9)).into(), document.fork(session(9)).into());
        watched.watch();
        // And one that has been loaded.
        let mut loaded = Document::from_native(&document.to_native(Packing::Plain), session(9)).unwrap();
        for step in &steps {
            let patch = patch(step, &nodes, start);
            for _ in 0..step.times {
                let applied = plain.apply_bytes(patch.as_bytes());
                prop_assert_eq!(&applied, &watched.apply_bytes(patch.as_bytes()));
                prop_assert_eq!(&applied, &loaded.apply_bytes(patch.as_bytes()));
            }
            plain.document().check().map_err(TestCaseError::fail)?;
            prop_assert_eq!(plain.document().to_binary(), watched.document().to_binary());
            prop_assert_eq!(plain.document().to_native(Packing::Plain), loaded.to_native(Packing::Plain));
            prop_assert_eq!(plain.document().state_vector(), watched.document().state_vector());
            prop_assert_eq!(plain.document().time(), watched.document().time());
        }
    }
}

#[test]
fn what_is_known_is_told_and_costs_no_copy() {
    let mut model = Model::new(session(1));
    model.api().root(json!({"map": {}})).unwrap();
    let _ = model.flush();
    let mut other = model.fork(session(2));
    other.api().obj("/map").unwrap().set([("key", "text")]).unwrap();
    let patch = other.flush().unwrap();
    assert_eq!(model.apply_bytes(patch.as_bytes()), Ok(Applied::Merged));
    model.share();
    let copy = model.document().clone();
    assert_eq!(model.apply_bytes(patch.as_bytes()), Ok(Applied::Known));
    assert!(model.document().shares_with(&copy));
    assert_eq!(model.view(), other.view());
}

/// A map with a map, of keys that were never there before.
fn fresh(round: usize) -> Value {
    let long = "k".repeat(1000);
    let entries = (0..40).map(|at| (format!("{round} {at} {long}"), at.into()));
    let mut map: serde_json::Map<_, _> = entries.collect();
    map.insert(format!("inner {round}"), json!({"n": 0}));
    serde_json::Value::Object(map).into()
}

/// Each round puts a map of new keys in the place of the one before, and sets a key in the map within it.
#[test]
fn keys_that_no_map_has_are_given_back() {
    let mut model = Model::new(session(1));
    model.api().root(json!({"stays": {"a": 1, "b": [{"c": 2}]}})).unwrap();
    let _ = model.flush();
    let [mut plain, mut watched] = [2, 3].map(|at| model.fork(session(at)));
    watched.watch();
    let mut early = 0;
    for round in 0..60 {
        let inner = format!("/goes/inner {round}");
        model.api().obj("").unwrap().set([("goes", fresh(round))]).unwrap();
        let replaced = model.flush().unwrap();
        model.api().obj(&*inner).unwrap().set([("n", 1)]).unwrap();
        let set = model.flush().unwrap();
        for (patch, path) in [(replaced, ""), (set, &*inner)] {
            assert_eq!(plain.apply(&patch).unwrap(), Applied::Merged);
            assert_eq!(watched.apply(&patch).unwrap(), Applied::Merged);
            let told = watched.poll_changes().unwrap();
            assert_eq!(told.changes.iter().map(|change| change.path.to_string()).collect::<Vec<_>>(), [path]);
        }
        for replica in [&model, &plain, &watched] {
            replica.document().check().unwrap();
            assert!(replica.view().is_same_json(&model.view()));
            let size = replica.document().size_bytes();
            early = early.max(if round < 5 { size } else { 0 });
            assert!(size < 2 * early, "{size} bytes after round {round}, {early} in the first ones");
        }
    }
    // Nothing of them is left for who loads the document either.
    assert_eq!(plain.document().to_native(Packing::Plain), model.document().to_native(Packing::Plain));
    assert!(plain.document().to_native(Packing::Plain).len() < 60_000);
}
