//! Concurrent writes: what the strategies make of them, and that every order of delivery comes to the same.

#[path = "fuzzed/conflicts.rs"]
mod fuzzed;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use crdt_core::{Applied, Model, Patch, SessionId, Timestamp, Value, patch::Op};
use crdt_sync::{
    PatchRecord, SharedModel, SyncDocument,
    conflict::{Conflicts, Place, Rules, Strategy, Write, stamped},
};
use proptest::{prelude::*, sample::Index, strategy::Strategy as Draw};
use serde_json::{Value as Json, json};

fn session(number: u64) -> SessionId {
    SessionId::new(70_000 + number).unwrap()
}

fn edited(model: &mut Model, key: &str, value: i32) -> Patch {
    stamped(model, |model| model.api().obj("")?.set([(key, value)])).unwrap().unwrap()
}

/// What the first session begins with.
fn begun() -> (Model, Patch) {
    let mut model = Model::new(session(1));
    let start = json!({"a": 0, "b": 0, "list": [0, 0]});
    let patch = stamped(&mut model, |model| model.api().root(Value::from(&start))).unwrap().unwrap();
    (model, patch)
}

/// The resolved view of patches that are observed in a given order.
fn resolved(rules: &Rules, model: &Model, order: &[&Patch]) -> (Json, Conflicts) {
    let mut conflicts = Conflicts::new(rules.clone());
    order.iter().for_each(|patch| conflicts.observe(patch.as_ref()));
    (Json::from(&conflicts.view(model.document())), conflicts)
}

/// Three sessions write `a` at the same time: 1, 2 and 3. Returns a model that has it all, and the patches.
fn three_writes() -> (Model, Vec<Patch>) {
    let (mut first, start) = begun();
    let (mut second, mut third) = (first.fork(session(2)), first.fork(session(3)));
    let patches =
        vec![start, edited(&mut first, "a", 1), edited(&mut second, "a", 2), edited(&mut third, "a", 3)];
    for patch in &patches {
        let _ = first.apply(patch).unwrap();
    }
    (first, patches)
}

/// Every order of four patches.
fn orders(patches: &[Patch]) -> Vec<Vec<&Patch>> {
    let Some((head, rest)) = patches.split_first() else { return vec![vec![]] };
    let put = |order: Vec<_>| {
        (0..=order.len()).map(move |at| {
            let mut order = order.clone();
            order.insert(at, head);
            order
        })
    };
    orders(rest).into_iter().flat_map(put).collect()
}

/// Checks what three concurrent writes of `a` come to, whatever their order.
fn check(strategy: Strategy, expect: &Json) {
    let (model, patches) = three_writes();
    let rules = Rules::new().with("/a", strategy);
    let orders = orders(&patches);
    assert_eq!(orders.len(), 24);
    for order in orders {
        let (view, conflicts) = resolved(&rules, &model, &order);
        assert_eq!(&view["a"], expect);
        assert_eq!(view["b"], 0, "what no rule names stays");
        let open = conflicts.open(model.document());
        assert_eq!(open.len(), 1);
        let authors: Vec<_> = open[0].writes.iter().map(|write| write.author()).collect();
        assert_eq!(authors, [1, 2, 3].map(session));
    }
}

#[test]
fn last_writer_wins_by_default_and_is_reported_where_a_rule_names_it() {
    check(Strategy::default(), &json!(3));
}

#[test]
fn multi_value_shows_all_that_were_written_at_once() {
    check(Strategy::MultiValue, &json!([1, 2, 3]));
}

#[test]
fn the_application_merges_what_was_written_at_once() {
    let sum = |writes: &[Write]| Value::from(writes.iter().filter_map(|w| w.value.as_u64()).sum::<u64>());
    check(Strategy::merge(sum), &json!(6));
}

#[test]
fn only_the_value_of_the_authority_holds() {
    check(Strategy::authority([session(2)]), &json!(2));
}

#[test]
fn nothing_holds_until_the_authority_has_written() {
    check(Strategy::authority([session(9)]), &Json::Null);
}

#[test]
fn an_authority_stands_against_later_writes() {
    let (mut server, start) = begun();
    let decided = edited(&mut server, "a", 1);
    let mut client = server.fork(session(2));
    let wished = edited(&mut client, "a", 2);
    let rules = Rules::new().with("/a", Strategy::authority([session(1)]));
    let (view, conflicts) = resolved(&rules, &client, &[&wished, &decided, &start]);
    assert_eq!(view["a"], 1);
    assert!(conflicts.open(client.document()).is_empty(), "the client had seen what it wrote over");
}

#[test]
fn a_write_that_has_seen_the_others_settles_the_conflict() {
    let (mut model, mut patches) = three_writes();
    patches.push(edited(&mut model, "a", 7));
    let rules = Rules::new().with("/a", Strategy::MultiValue);
    for order in orders(&patches) {
        let (view, conflicts) = resolved(&rules, &model, &order);
        assert_eq!(view["a"], json!([7]));
        assert!(conflicts.open(model.document()).is_empty());
    }
}

#[test]
fn without_rules_nothing_is_kept_and_the_view_is_the_documents() {
    let (model, patches) = three_writes();
    let (view, mut conflicts) = resolved(&Rules::new(), &model, &patches.iter().collect::<Vec<_>>());
    assert_eq!(view, Json::from(&model.view()));
    assert_eq!(conflicts.poll_report(), None);
}

#[test]
fn a_report_names_both_values_authors_and_clocks() {
    let (model, patches) = three_writes();
    let rules = Rules::new().with("/*", Strategy::LastWriterWins);
    let (_, mut conflicts) = resolved(&rules, &model, &[&patches[0], &patches[3], &patches[1], &patches[1]]);
    let report = conflicts.poll_report().unwrap();
    assert_eq!(report.place, Place::Key("a".into()));
    assert_eq!((report.kept.author(), &report.kept.value), (session(3), &Value::from(3)));
    assert_eq!((report.other.author(), &report.other.value), (session(1), &Value::from(1)));
    assert!(report.kept.clock.get(&session(1)) >= patches[0].next_time() - 1, "it had seen the beginning");
    assert!(report.kept.clock.get(&session(1)) < report.other.id.time, "and not the other");
    assert!(report.other.clock.get(&session(3)) < report.kept.id.time);
    assert_eq!(conflicts.poll_report(), None, "a patch that comes twice is no conflict with itself");
}

#[test]
fn reports_that_nobody_takes_are_dropped_from_the_oldest_and_counted() {
    let (first, start) = begun();
    let (mut one, mut other) = (first.fork(session(1)), first.fork(session(2)));
    let mut conflicts = Conflicts::new(Rules::new().with("/*", Strategy::MultiValue));
    conflicts.observe(start.as_ref());
    for number in 0..Conflicts::REPORTS_MAX + 3 {
        let key = format!("key {number}");
        conflicts.observe(edited(&mut one, &key, 1).as_ref());
        conflicts.observe(edited(&mut other, &key, 2).as_ref());
    }
    assert_eq!(conflicts.reports_dropped(), 3);
    assert_eq!(conflicts.poll_report().unwrap().place, Place::Key("key 3".into()));
    assert_eq!(std::iter::from_fn(|| conflicts.poll_report()).count(), Conflicts::REPORTS_MAX - 1);
}

#[test]
fn a_write_without_a_stamp_hides_no_conflict() {
    let (mut first, start) = begun();
    let mut second = first.fork(session(2));
    let stamped = edited(&mut first, "a", 1);
    second.api().obj("").unwrap().set([("a", 2)]).unwrap();
    let plain = second.flush().unwrap();
    let _ = first.apply(&plain).unwrap();
    let rules = Rules::new().with("/a", Strategy::MultiValue);
    let (view, _) = resolved(&rules, &first, &[&plain, &stamped, &start]);
    assert_eq!(view["a"], json!([1, 2]));
}

#[test]
fn a_value_made_of_many_nodes_is_reported_as_it_was_written() {
    let (mut first, start) = begun();
    let mut second = first.fork(session(2));
    let large = json!({"text": "gruß 𝒳", "items": [1, [true, null]], "at": {"x": 1.5}});
    let one = stamped(&mut first, |model| model.api().obj("")?.set([("a", Value::from(&large))]));
    let (one, other) = (one.unwrap().unwrap(), edited(&mut second, "a", 2));
    let mut conflicts = Conflicts::new(Rules::new().with("/a", Strategy::LastWriterWins));
    for patch in [&start, &one, &other] {
        conflicts.observe(patch.as_ref());
    }
    let report = conflicts.poll_report().unwrap();
    let values = [&report.kept, &report.other].map(|write| Json::from(&write.value));
    assert!(values.contains(&large) && values.contains(&json!(2)), "{values:?}");
}

/// A step of a session: write something, or take in all that another session has.
#[derive(Debug, Clone)]
enum Act {
    Write { by: usize, what: u8, value: i32 },
    Hear { by: usize, from: usize },
}

fn acts() -> impl Draw<Value = Vec<Act>> {
    let write = (0..4usize, 0..4u8, 1..100).prop_map(|(by, what, value)| Act::Write { by, what, value });
    let hear = (0..4usize, 0..4usize).prop_map(|(by, from)| Act::Hear { by, from });
    prop::collection::vec(prop_oneof![3 => write, 2 => hear], 1..40)
}

fn write(model: &mut Model, what: u8, value: i32) -> Patch {
    let edit = |model: &mut Model| match what {
        0 => model.api().obj("")?.set([("a", value)]),
        1 => model.api().obj("")?.set([("b", value), ("a", value)]),
        slot => model.api().arr("/list")?.upd(usize::from(slot) - 2, value),
    };
    stamped(model, edit).unwrap().unwrap()
}

/// What a patch writes, read anew from its operations.
fn written(patch: &Patch) -> Vec<((Timestamp, Place), Timestamp)> {
    let mut writes = Vec::new();
    for (id, op) in patch.ops() {
        match op {
            Op::InsVal { obj, .. } => writes.push(((obj, Place::Register), id)),
            Op::InsObj { obj, entries } => {
                writes.extend(entries.map(|(key, _)| ((obj, Place::Key(key.to_text())), id)));
            }
            Op::UpdArr { obj, slot, .. } => writes.push(((obj, Place::Slot(slot)), id)),
            _ => {}
        }
    }
    writes
}

proptest! {
    #[test]
    fn every_order_of_delivery_comes_to_the_same_and_to_what_really_was_concurrent(
        acts in acts(),
        orders in prop::collection::vec(prop::collection::vec(any::<Index>(), 40), 3),
    ) {
        let (first, start) = begun();
        let mut models: Vec<Model> = (2..=5).map(|number| first.fork(session(number))).collect();
        let mut patches = vec![start];
        // What a session has, and what each patch's author had: by the patches' numbers.
        let mut has = vec![BTreeSet::from([0]); models.len()];
        let mut had = vec![BTreeSet::new()];
        for act in acts {
            match act {
                Act::Write { by, what, value } => {
                    had.push(has[by].clone());
                    has[by].insert(patches.len());
                    patches.push(write(&mut models[by], what, value));
                }
                Act::Hear { by, from } => {
                    for &news in has[from].clone().difference(&has[by].clone()) {
                        let applied = models[by].apply(&patches[news]).unwrap();
                        let parked = matches!(applied, Applied::Parked { .. });
                        prop_assert!(!parked);
                        has[by].insert(news);
                    }
                }
            }
        }
        let mut all = first;
        for patch in &patches {
            let _ = all.apply(patch).unwrap();
        }

        let mut expect: BTreeMap<_, BTreeSet<Timestamp>> = BTreeMap::new();
        let of: Vec<_> = patches.iter().map(written).collect();
        for (number, place, id) in
            of.iter().enumerate().flat_map(|(n, writes)| writes.iter().map(move |(place, id)| (n, place, id)))
        {
            let over = |(later, writes): (usize, &Vec<_>)| {
                writes.iter().any(|(other, _)| other == place) && had[later].contains(&number)
            };
            if !of.iter().enumerate().any(over) {
                expect.entry(place.clone()).or_default().insert(*id);
            }
        }
        expect.retain(|_, ids| ids.len() > 1);

        let sum = |writes: &[Write]| Value::from(writes.iter().filter_map(|w| w.value.as_u64()).sum::<u64>());
        let rules = Rules::new()
            .with("/a", Strategy::MultiValue)
            .with("/b", Strategy::authority([session(3), session(4)]))
            .with("/list/*", Strategy::merge(sum));
        let in_turn: Vec<&Patch> = patches.iter().collect();
        let (view, conflicts) = resolved(&rules, &all, &in_turn);
        let open = conflicts.open(all.document());
        let found: BTreeMap<_, BTreeSet<Timestamp>> = open.iter()
            .map(|open| ((open.container, open.place.clone()), open.writes.iter().map(|w| w.id).collect()))
            .collect();
        prop_assert_eq!(found, expect);
        for indexes in orders {
            let mut order = in_turn.clone();
            for (at, index) in indexes.iter().enumerate().take(order.len()) {
                let other = index.index(order.len());
                order.swap(at, other);
            }
            // Some come twice.
            order.extend(in_turn.iter().take(3));
            let (other_view, conflicts) = resolved(&rules, &all, &order);
            prop_assert_eq!(&other_view, &view);
            prop_assert_eq!(conflicts.open(all.document()), open.clone());
        }
    }
}

#[test]
fn shared_models_with_rules_stamp_and_observe_by_themselves() {
    let rules = Rules::new().with("/a", Strategy::MultiValue);
    let shared = |number| SharedModel::new(session(number)).with_conflicts(rules.clone());
    let (alice, bob) = (shared(1), shared(2));
    let mut lasts = BTreeMap::new();
    let mut record = |patch: &Patch| {
        let prev = lasts.insert(patch.id().sid, patch.next_time() - 1).unwrap_or(0);
        PatchRecord::new(prev, Bytes::copy_from_slice(patch.as_bytes())).unwrap()
    };
    let set = |on: &SharedModel, value: i32| {
        on.edit(|model| model.api().obj("")?.set([("a", value)])).unwrap().unwrap()
    };
    let start = alice.edit(|model| model.api().root(Value::from(&json!({"a": 0})))).unwrap().unwrap();
    bob.apply(&record(&start), None).unwrap();
    let (one, two) = (record(&set(&alice, 1)), record(&set(&bob, 2)));
    bob.apply(&one, None).unwrap();
    alice.apply(&two, None).unwrap();
    for replica in [&alice, &bob] {
        assert_eq!(Json::from(&replica.resolved()), json!({"a": [1, 2]}));
        assert_eq!(replica.open_conflicts().len(), 1);
        let report = replica.poll_conflict().unwrap();
        assert_eq!((report.other.author(), report.kept.author()), (session(1), session(2)));
        assert_eq!(replica.poll_conflict(), None);
    }
    // Whoever writes next has seen both.
    let settled = record(&set(&alice, 3));
    bob.apply(&settled, None).unwrap();
    for replica in [&alice, &bob] {
        assert_eq!(Json::from(&replica.resolved()), json!({"a": [3]}));
        assert_eq!(replica.open_conflicts(), []);
    }
}

#[test]
fn what_was_deleted_with_its_container_is_forgotten_and_the_rest_stays() {
    let (mut first, start) = begun();
    let mut second = first.fork(session(2));
    let rules = Rules::new().with("/*", Strategy::MultiValue).with("/*/note", Strategy::MultiValue);
    let mut conflicts = Conflicts::new(rules);
    // A conflict inside of a map, another beside it.
    let made =
        stamped(&mut first, |model| model.api().obj("")?.set([("m", Value::from(&json!({"note": 0})))]));
    let made = made.unwrap().unwrap();
    let _ = second.apply(&made).unwrap();
    let inside = |model: &mut Model, note: i32| {
        stamped(model, |model| model.api().obj("/m")?.set([("note", note)])).unwrap().unwrap()
    };
    let patches = [
        inside(&mut first, 1),
        inside(&mut second, 2),
        edited(&mut first, "a", 3),
        edited(&mut second, "a", 4),
    ];
    for patch in [&start, &made].into_iter().chain(&patches) {
        let _ = first.apply(patch).unwrap();
        conflicts.observe(patch.as_ref());
    }
    assert_eq!(conflicts.open(first.document()).len(), 2);
    assert_eq!(conflicts.purge(first.document()), 0, "everything is there");

    let deleted = stamped(&mut first, |model| model.api().obj("")?.del(["m"])).unwrap().unwrap();
    conflicts.observe(deleted.as_ref());
    let places = conflicts.places();
    assert!(conflicts.purge(first.document()) > 0);
    assert!(conflicts.places() < places);
    let open = conflicts.open(first.document());
    assert_eq!(open.len(), 1);
    assert_eq!(Json::from(&conflicts.view(first.document()))["a"], json!([3, 4]));
    assert_eq!(conflicts.places_forgotten(), 0, "no bound was reached");
}

/// A list of tasks that come and go, for a long time: what is kept of them is in proportion to those that are there.
#[test]
fn a_shared_model_forgets_the_places_of_what_was_deleted() {
    let rules = Rules::new().with("/*/done", Strategy::MultiValue);
    let shared = SharedModel::new(session(1)).with_conflicts(rules);
    let task = Value::from(&json!({"done": false}));
    shared.edit(|model| model.api().root(Value::from(&json!([])))).unwrap();
    for _ in 0..4_000 {
        let patch = shared
            .edit(|model| {
                model.api().arr("")?.ins(0, [task.clone()])?;
                model.api().obj("/0")?.set([("done", true)])?;
                if model.view().as_array().is_some_and(|tasks| tasks.len() > 4) {
                    model.api().arr("")?.del(4, 1)?;
                }
                Ok::<_, crdt_core::model::EditError>(())
            })
            .unwrap()
            .unwrap();
        let record = PatchRecord::new(patch.id().time - 1, Bytes::copy_from_slice(patch.as_bytes())).unwrap();
        shared.apply(&record, None).unwrap();
    }
    let places = shared.conflict_places();
    assert!((4..=512).contains(&places), "{places} places of 4 tasks");
}

#[test]
fn places_are_forgotten_at_the_bound_and_conflicts_last() {
    let (mut first, start) = begun();
    let mut second = first.fork(session(2));
    let mut conflicts = Conflicts::new(Rules::new().with("/*", Strategy::MultiValue));
    for patch in [&start, &edited(&mut first, "a", 1), &edited(&mut second, "a", 2)] {
        conflicts.observe(patch.as_ref());
    }
    let open = conflicts.open(first.document());
    assert_eq!(open.len(), 1);
    let mut written = 3;
    while conflicts.places_forgotten() == 0 {
        let keys: Vec<(String, i32)> = (0..4096).map(|key| (format!("key {}", written + key), 0)).collect();
        let set = |model: &mut Model| {
            model.api().obj("")?.set(keys.iter().map(|(key, value)| (key.as_str(), *value)))
        };
        conflicts.observe(stamped(&mut first, set).unwrap().unwrap().as_ref());
        written += keys.len();
        assert!(conflicts.places() <= Conflicts::PLACES_MAX);
        assert!(written <= Conflicts::PLACES_MAX + 2 * 4096, "nothing is forgotten");
    }
    assert_eq!(conflicts.places(), Conflicts::PLACES_MAX / 16 * 15);
    assert_eq!(conflicts.open(first.document())[0].writes, open[0].writes);
}

/// What a fuzz target does with any bytes; each patch is a frame, with its length in front.
fn observe_any(patches: &[Vec<u8>]) {
    let frames = patches.iter().flat_map(|patch| [&[patch.len() as u8][..], patch].concat());
    fuzzed::look_at(&frames.collect::<Vec<u8>>());
}

proptest! {
    #[test]
    fn any_bytes_are_observed_without_harm(
        any in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..4),
        changes in prop::collection::vec((0usize..4, any::<Index>(), any::<u8>()), 0..6),
    ) {
        let (_, patches) = three_writes();
        let mut bytes: Vec<Vec<u8>> = patches.iter().map(|patch| patch.as_bytes().to_vec()).collect();
        for (patch, at, by) in changes {
            let at = at.index(bytes[patch].len());
            bytes[patch][at] ^= by;
        }
        bytes.extend(any);
        observe_any(&bytes);
    }
}
