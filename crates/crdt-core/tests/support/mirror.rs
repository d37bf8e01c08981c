//! A copy of a view that is kept up with change events alone.

use crdt_core::{
    Text, Value,
    model::{ChangeSet, Delta, Diff, PathStep},
};

fn at<'v>(value: &'v mut Value, path: &[PathStep]) -> &'v mut Value {
    path.iter().fold(value, |value, step| match (value, step) {
        (Value::Map(entries), PathStep::Key(key)) => {
            &mut entries.iter_mut().find(|(here, _)| here == key).expect("a key on the way").1
        }
        (Value::Array(items), PathStep::Index(index)) => &mut items[*index],
        (value, step) => panic!("no {step:?} in {value:?}"),
    })
}

/// Does what a delta says, and checks that what is told to be gone was there.
fn splice<T: Clone + PartialEq + std::fmt::Debug, L>(
    list: &mut Vec<T>,
    delta: &[Delta<L>],
    items: impl Fn(&L) -> Vec<T>,
    is_same: impl Fn(&T, &T) -> bool,
) {
    let mut at = 0;
    for step in delta {
        match step {
            Delta::Retain(len) => at += len,
            Delta::Insert(new) => {
                let new = items(new);
                let len = new.len();
                list.splice(at..at, new);
                at += len;
            }
            Delta::Delete(old) => {
                let old = items(old);
                let gone: Vec<T> = list.drain(at..at + old.len()).collect();
                let same = gone.iter().zip(&old).all(|(gone, old)| is_same(gone, old));
                assert!(same, "{gone:?} is gone, told was {old:?}");
            }
        }
    }
    assert!(at <= list.len());
}

/// Checks that what is told to have been somewhere was there.
#[track_caller]
fn check_old(here: &Value, old: &Value, set: &ChangeSet) {
    assert!(set.missed || here.is_same_json(old), "{here:?} was there, told was {old:?}");
}

/// Changes a copy of the view as a set tells, and checks that the set tells what was there before.
pub fn mirror(view: &mut Value, set: &ChangeSet) {
    for change in &set.changes {
        let here = at(view, &change.path.0);
        match (&change.diff, here) {
            (Diff::Value { old, new }, here) => {
                check_old(here, old, set);
                *here = new.clone();
            }
            (Diff::Map(keys), Value::Map(entries)) => {
                for change in keys {
                    let was = entries.iter().find(|(key, _)| *key == change.key);
                    check_old(was.map_or(&Value::Undefined, |(_, was)| was), &change.old, set);
                    entries.retain(|(key, _)| *key != change.key);
                    if !change.new.is_undefined() {
                        entries.push((change.key.clone(), change.new.clone()));
                    }
                }
            }
            (Diff::Tuple(places), Value::Array(items)) => {
                for change in places {
                    let at = usize::from(change.index);
                    check_old(items.get(at).unwrap_or(&Value::Undefined), &change.old, set);
                    items.resize(items.len().max(at + 1), Value::Undefined);
                    items[at] = change.new.clone();
                }
            }
            (Diff::Text(delta), Value::Text(text)) => {
                let mut units: Vec<u16> = text.as_wtf8().utf16().collect();
                splice(&mut units, delta, |text| text.as_wtf8().utf16().collect(), |a, b| a == b);
                *text = Text::from_utf16(units);
            }
            (Diff::Bytes(delta), Value::Bytes(bytes)) => splice(bytes, delta, Clone::clone, |a, b| a == b),
            (Diff::Array(delta), Value::Array(items)) => {
                splice(items, delta, Clone::clone, Value::is_same_json);
            }
            (diff, here) => panic!("{diff:?} of {here:?}"),
        }
    }
}
