//! Random edits of all kinds to one small document.

use crdt_core::{Model, Text, Value, model::EditError};
use proptest::prelude::*;
use serde_json::json;

/// Does something somewhere; what cannot be done is left out.
#[derive(Clone, Debug)]
pub enum Edit {
    TextIns(usize, usize, Text),
    TextDel(usize, usize, usize),
    BytesIns(usize, Vec<u8>),
    BytesDel(usize, usize),
    ListIns(usize, usize, Content),
    ListDel(usize, usize, usize),
    ListUpd(usize, usize, Content),
    Set(usize, usize, Content),
    Del(usize, usize),
    Register(usize, Content),
    Count(i8),
    Root,
}

/// What is put somewhere.
#[derive(Clone, Debug)]
pub enum Content {
    Number(i32),
    Text(String),
    List(Vec<i32>),
    Map(String),
}

impl Content {
    fn to_value(&self) -> Value {
        match self {
            Self::Number(number) => (*number).into(),
            Self::Text(text) => text.as_str().into(),
            Self::List(items) => items.iter().copied().collect(),
            Self::Map(text) => Value::from(&json!({"a": text, "b": [text]})),
        }
    }
}

/// What all begin with.
pub fn start() -> Value {
    let mut start = Value::from(&json!({
        "text": "warp",
        "more": {"text": "weft 🙂", "list": []},
        "list": ["a", 1, {"text": "inside", "list": [1, 2]}],
        "map": {"a": 1},
    }));
    if let Value::Map(entries) = &mut start {
        entries.push(("bytes".into(), Value::Bytes(vec![1, 2, 3])));
    }
    start
}

const TEXTS: [&str; 5] = ["/text", "/more/text", "/list/2/text", "/list/0", "/map/a/a"];
const LISTS: [&str; 5] = ["/list", "/more/list", "/list/2/list", "/map/a", "/list/1"];
const MAPS: [&str; 5] = ["/map", "/more", "/list/2", "/list/0", "/map/b"];
const KEYS: [&str; 4] = ["a", "b", "c", "count"];

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        any::<i32>().prop_map(Content::Number),
        "[a-z🙂é]{0,4}".prop_map(Content::Text),
        prop::collection::vec(any::<i32>(), 0..3).prop_map(Content::List),
        "[a-z]{0,3}".prop_map(Content::Map),
    ]
}

/// Text to be put in, now and then with halves of characters that have lost each other.
fn typed() -> impl Strategy<Value = Text> {
    let halves = prop::sample::select(vec![0xd83d_u16, 0xde42, 0xde43, 0x61]);
    prop_oneof![
        3 => "[a-z🙂é]{1,6}".prop_map(Text::from),
        1 => prop::collection::vec(halves, 1..4).prop_map(Text::from_utf16),
    ]
}

pub fn any_edit() -> impl Strategy<Value = Edit> {
    let (which, place) = (0..5usize, any::<usize>());
    prop_oneof![
        4 => (which.clone(), place, typed()).prop_map(|(w, p, t)| Edit::TextIns(w, p, t)),
        3 => (which.clone(), place, 1..5usize).prop_map(|(w, p, l)| Edit::TextDel(w, p, l)),
        1 => (place, prop::collection::vec(any::<u8>(), 1..4)).prop_map(|(p, b)| Edit::BytesIns(p, b)),
        1 => (place, 1..3usize).prop_map(|(p, l)| Edit::BytesDel(p, l)),
        3 => (which.clone(), place, content()).prop_map(|(w, p, c)| Edit::ListIns(w, p, c)),
        2 => (which.clone(), place, 1..3usize).prop_map(|(w, p, l)| Edit::ListDel(w, p, l)),
        1 => (which.clone(), place, content()).prop_map(|(w, p, c)| Edit::ListUpd(w, p, c)),
        3 => (which.clone(), 0..3usize, content()).prop_map(|(w, k, c)| Edit::Set(w, k, c)),
        1 => (which, 0..3usize).prop_map(|(w, k)| Edit::Del(w, k)),
        1 => (0..5usize, content()).prop_map(|(w, c)| Edit::Register(w, c)),
        1 => any::<i8>().prop_map(Edit::Count),
        1 => (0..40u8).prop_map(|n| if n == 0 { Edit::Root } else { Edit::Count(n as i8) }),
    ]
}

pub fn edits(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Edit>> {
    prop::collection::vec(any_edit(), len)
}

/// Makes an edit if there is something to be edited.
pub fn edit(model: &mut Model, edit: &Edit) {
    match try_edit(model, edit) {
        Ok(()) | Err(EditError::NotFound { .. } | EditError::Kind { .. } | EditError::OutOfRange { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

fn try_edit(model: &mut Model, edit: &Edit) -> Result<(), EditError> {
    match edit {
        Edit::TextIns(which, place, text) => {
            let mut cursor = model.api().str(TEXTS[*which])?;
            let place = place % (cursor.len() + 1);
            cursor.ins(place, text.as_wtf8())
        }
        Edit::TextDel(which, place, len) => {
            let mut cursor = model.api().str(TEXTS[*which])?;
            let place = place % (cursor.len() + 1);
            let len = (*len).min(cursor.len() - place);
            cursor.del(place, len)
        }
        Edit::BytesIns(place, bytes) => {
            let mut cursor = model.api().bin("/bytes")?;
            let place = place % (cursor.len() + 1);
            cursor.ins(place, bytes)
        }
        Edit::BytesDel(place, len) => {
            let mut cursor = model.api().bin("/bytes")?;
            let place = place % (cursor.len() + 1);
            let len = (*len).min(cursor.len() - place);
            cursor.del(place, len)
        }
        Edit::ListIns(which, place, content) => {
            let mut cursor = model.api().arr(LISTS[*which])?;
            let place = place % (cursor.len() + 1);
            cursor.ins(place, [content.to_value()])
        }
        Edit::ListDel(which, place, len) => {
            let mut cursor = model.api().arr(LISTS[*which])?;
            let place = place % (cursor.len() + 1);
            let len = (*len).min(cursor.len() - place);
            cursor.del(place, len)
        }
        Edit::ListUpd(which, place, content) => {
            let mut cursor = model.api().arr(LISTS[*which])?;
            let place = place % (cursor.len() + 1);
            cursor.upd(place, content.to_value())
        }
        Edit::Set(which, key, content) => {
            model.api().obj(MAPS[*which])?.set([(KEYS[*key], content.to_value())])
        }
        Edit::Del(which, key) => model.api().obj(MAPS[*which])?.del([KEYS[*key]]),
        Edit::Register(which, content) => {
            let path = format!("{}/0", LISTS[*which]);
            model.api().val(path.as_str())?.set(content.to_value())
        }
        Edit::Count(by) => match model.api().counter("/map/count") {
            Ok(mut counter) => counter.add(f64::from(*by)),
            Err(_) => model.api().obj("/map")?.set_counter("count", f64::from(*by)),
        },
        Edit::Root => model.api().root(start()).map(drop),
    }
}
