//! Constants put into an array, which has a way of its own for who makes the edit and for who gets the patch, against a plain
//! list, the general rules and the general writer of patches.

mod support;

use crdt_core::{Applied, Model, SessionId, Value, codec::Packing, model::EditError};
use proptest::prelude::*;
use serde_json::json;
use support::spelled_out;

#[derive(Clone, Debug)]
enum Step {
    /// Puts values in at a place, or where some were put in last.
    Put {
        at: Option<usize>,
        values: Vec<Value>,
    },
    /// The same by someone else.
    Other {
        at: usize,
        values: Vec<Value>,
    },
    Delete {
        at: usize,
        len: usize,
    },
    Replace {
        at: usize,
        value: Value,
    },
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => (0..100_000u64).prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<f32>().prop_filter("a number", |n| !n.is_nan()).prop_map(|n| Value::from(f64::from(n))),
        1 => "[a한🙂]{0,9}".prop_map(|text| Value::from(&*text)),
        1 => Just(Value::from_iter([Value::Null, Value::from(true)])),
    ]
}

/// Numbers that are looked at in rows.
fn two_bytes() -> impl Strategy<Value = Value> {
    (0x100..0x1_0000i64, any::<bool>())
        .prop_map(|(n, is_negative)| Value::from(if is_negative { !n } else { n }))
}

fn values() -> impl Strategy<Value = Vec<Value>> {
    prop_oneof![
        4 => prop::collection::vec(value(), 1..2),
        2 => prop::collection::vec(value(), 0..10),
        1 => prop::collection::vec(value(), 60..200),
        1 => prop::collection::vec(prop_oneof![60 => two_bytes(), 1 => value()], 16..150),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (prop::option::weighted(0.4, any::<usize>()), values()).prop_map(|(at, values)| Step::Put { at, values }),
        2 => (any::<usize>(), values()).prop_map(|(at, values)| Step::Other { at, values }),
        2 => (any::<usize>(), 1..9usize).prop_map(|(at, len)| Step::Delete { at, len }),
        1 => (any::<usize>(), value()).prop_map(|(at, value)| Step::Replace { at, value }),
    ]
}

fn session(at: u64) -> SessionId {
    SessionId::new(at).unwrap()
}

/// Who edits, the same edits by the general rules (somebody watches), who gets bytes, and who gets patches to be watched.
struct Replicas {
    model: Model,
    watched: Model,
    other: Model,
    other_watched: Model,
}

impl Replicas {
    fn edit(&mut self, edit: impl Fn(&mut Model)) {
        edit(&mut self.model);
        edit(&mut self.watched);
    }

    /// Hands the edits on. Everyone is in order and has the same document then.
    fn send(&mut self, list: &[Value]) {
        let (patch, same) = (self.model.flush(), self.watched.flush());
        assert_eq!(patch, same);
        if let Some(patch) = patch {
            assert_eq!(patch.as_bytes(), spelled_out(&patch));
            assert_eq!(self.other.apply_bytes(patch.as_bytes()), Ok(Applied::Merged));
            assert_eq!(self.other_watched.apply(&patch), Ok(Applied::Merged));
            assert_eq!(self.other.apply_bytes(patch.as_bytes()), Ok(Applied::Known));
        }
        let expected = self.model.document().to_native(Packing::Plain);
        for replica in [&self.model, &self.watched, &self.other, &self.other_watched] {
            replica.document().check().unwrap();
            assert_eq!(replica.view().get("list"), Some(&Value::Array(list.to_vec())));
            assert_eq!(replica.document().to_native(Packing::Plain), expected);
        }
    }
}

fn run(steps: &[Step]) {
    let mut model = Model::new(session(70_001));
    model.api().root(json!({"list": []})).unwrap();
    let _ = model.flush();
    let other = model.fork(session(70_002));
    let mut all = Replicas { watched: model.clone(), model, other_watched: other.clone(), other };
    all.watched.watch();
    all.other_watched.watch();
    let (mut list, mut place): (Vec<Value>, usize) = (Vec::new(), 0);
    for step in steps {
        match step {
            Step::Put { at, values } => {
                let at = at.map_or(place, |at| at % (list.len() + 1)).min(list.len());
                all.edit(|model| model.api().arr("/list").unwrap().ins_con(at, values.clone()).unwrap());
                list.splice(at..at, values.iter().cloned());
                place = at + values.len();
            }
            Step::Other { at, values } => {
                all.send(&list);
                let at = at % (list.len() + 1);
                let mut made = Vec::new();
                for other in [&mut all.other, &mut all.other_watched] {
                    other.api().arr("/list").unwrap().ins_con(at, values.clone()).unwrap();
                    made.push(other.flush());
                }
                assert_eq!(made[0], made[1]);
                if let Some(patch) = &made[0] {
                    assert_eq!(all.model.apply_bytes(patch.as_bytes()), Ok(Applied::Merged));
                    assert_eq!(all.watched.apply(patch), Ok(Applied::Merged));
                }
                list.splice(at..at, values.iter().cloned());
            }
            Step::Delete { at, len } => {
                let at = at % (list.len() + 1);
                let len = *len.min(&(list.len() - at));
                all.edit(|model| model.api().arr("/list").unwrap().del(at, len).unwrap());
                list.drain(at..at + len);
            }
            Step::Replace { at, value } if !list.is_empty() => {
                let at = at % list.len();
                // Constants of any kind: what is no plain value would become nodes.
                let value = if value.as_text().is_some() || matches!(value, Value::Array(_)) {
                    &Value::Null
                } else {
                    value
                };
                all.edit(|model| model.api().arr("/list").unwrap().upd(at, value.clone()).unwrap());
                list[at] = value.clone();
            }
            Step::Replace { .. } => {}
        }
        if !matches!(step, Step::Delete { len: 1, .. }) {
            all.send(&list);
        }
    }
    all.send(&list);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn values_put_in_are_the_same_everywhere(steps in prop::collection::vec(step(), 1..60)) {
        run(&steps);
    }
}

#[test]
fn thousands_at_once_or_one_by_one_are_the_same_list() {
    let numbers: Vec<Value> = (0..3000u64).map(Value::from).collect();
    let one_by_one = |at: fn(usize) -> usize| {
        let one = |n: usize| Step::Put { at: Some(at(n)), values: vec![numbers[n].clone()] };
        (0..120).map(one).collect::<Vec<_>>()
    };
    run(&[
        Step::Put { at: None, values: numbers.clone() },
        Step::Put { at: Some(7), values: numbers.clone() },
    ]);
    run(&one_by_one(|n| n));
    run(&one_by_one(|_| 0));
}

#[test]
fn numbers_of_all_lengths_are_spelled_as_one_by_one() {
    let edges = [0, 23, 24, 255, 256, 65_535, 65_536, 1 << 32, i64::MAX >> 1];
    let mut numbers: Vec<Value> = Vec::new();
    for last in edges {
        for n in [last, !last] {
            // Alone among numbers of a row, and in a row.
            numbers.extend((0..15).map(|n| Value::from(300 + n)));
            numbers.push(Value::from(n));
            numbers.extend(vec![Value::from(n); 33]);
        }
    }
    run(&[Step::Put { at: None, values: numbers.clone() }, Step::Other { at: 20, values: numbers }]);
}

#[test]
fn a_place_behind_the_end_is_refused_and_changes_nothing() {
    let mut model = Model::new(session(70_001));
    model.api().root(json!([1, 2])).unwrap();
    let _ = model.flush();
    let before = model.document().to_native(Packing::Plain);
    for watches in [false, true] {
        if watches {
            model.watch();
        }
        let mut arr = model.api().arr("").unwrap();
        assert_eq!(arr.ins_con(3, [3]), Err(EditError::OutOfRange { position: 3, len: 2 }));
        assert_eq!(arr.ins(3, [3]), Err(EditError::OutOfRange { position: 3, len: 2 }));
        assert_eq!(model.flush(), None);
        assert_eq!(model.document().to_native(Packing::Plain), before);
    }
}
