//! The patch that sets one key of a map to a new constant or a new text: what a form, a settings page or a game sends most.
//!
//! As with a [keystroke](super::keystroke), a patch that is unusual in any way is left to the general reader.

use super::{keystroke::Start, op::code};
use crate::{
    Timestamp,
    codec::{RawValue, cbor, wire::Reader},
    id::MAX_ID,
    text::Wtf8,
};

/// A patch that makes a node and sets a key to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting<'a> {
    /// The node's id.
    pub(crate) id: Timestamp,
    pub(crate) value: Fresh<'a>,
    pub(crate) obj: Timestamp,
    pub(crate) key: Wtf8<'a>,
    /// The last time that it takes.
    pub(crate) last: u64,
}

/// A new node with what it holds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fresh<'a> {
    Con(RawValue<'a>),
    /// A text that is not empty, and its length in UTF-16 units.
    Text(Wtf8<'a>, u64),
}

/// Reads what stands behind a start, if that sets one key, in its canonical spelling.
#[inline]
pub(crate) fn read(start: Start<'_>) -> Option<Setting<'_>> {
    let Start { words: mut r, id, count, octet } = start;
    let bytes = r.bytes;
    r.at += 3;
    let (value, last) = if (count, octet) == (2, code::NEW_CON << 3) {
        let mut reader = Reader::new(bytes).at_offset(r.at);
        let value = cbor::canonical(&mut reader).ok()?;
        r.at = reader.offset();
        (Fresh::Con(value), id.time + 1)
    } else if (count, octet) == (3, code::NEW_STR << 3) {
        let octet = r.u8().filter(|octet| octet >> 3 == code::INS_STR)?;
        let len = if octet & 7 == 0 { r.vu57().filter(|&len| len > 7)? } else { (octet & 7).into() };
        let (obj, after) = (r.id(id.sid, &mut false)?, r.id(id.sid, &mut false)?);
        let text = bytes.get(r.at..)?.get(..usize::try_from(len).ok()?)?;
        r.at += text.len();
        let (text, units) = match text {
            text if text.is_ascii() => (Wtf8::trusted(text), len),
            text => Wtf8::new(text).ok().map(|text| (text, text.units() as u64))?,
        };
        if obj != id || after != id {
            return None;
        }
        (Fresh::Text(text, units), id.time + units + 1)
    } else {
        return None;
    };
    if r.u8()? != code::INS_OBJ << 3 | 1 {
        return None;
    }
    let obj = r.id(id.sid, &mut false)?;
    let mut reader = Reader::new(bytes).at_offset(r.at);
    let key = cbor::key(&mut reader).ok().filter(|_| reader.canonical)?;
    r.at = reader.offset();
    let set = r.id(id.sid, &mut false)?;
    (set == id && r.at == bytes.len() && last < MAX_ID).then_some(Setting { id, value, obj, key, last })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        Patch, PatchBuilder, PatchRef, SessionId, Value,
        patch::{
            Con, Op,
            drawn::{id, nearly, number},
        },
    };

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<i64>().prop_map(Value::from),
            (0..70_000u64).prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            Just(Value::from_iter([1, 2])),
        ]
    }

    /// A patch that sets a key, or one that something makes unusual.
    fn patch() -> impl Strategy<Value = Patch> {
        let text = prop_oneof!["[a-z]{0,40}", "[a한🙂]{0,12}"];
        let new = prop_oneof![value().prop_map(Ok), text.prop_map(Err)].boxed();
        let key = prop_oneof!["[a-z]{0,9}", "[a한🙂]{0,70}"].boxed();
        number().prop_flat_map(move |sid| {
            (Just(sid), 0..MAX_ID / 2, id(sid), new.clone(), key.clone(), 0..20u8).prop_map(
                |(sid, time, obj, new, key, odd)| {
                    let mut patch = PatchBuilder::new(SessionId::new(sid).unwrap(), time);
                    let value = match new {
                        Ok(value) => patch.new_con(&value),
                        Err(text) => {
                            let made = patch.new_str();
                            patch.ins_str(made, if odd == 0 { obj } else { made }, &*text);
                            made
                        }
                    };
                    let value = if odd == 1 { obj } else { value };
                    let entries = [(&*key, value), ("another", value)];
                    patch.ins_obj(
                        obj,
                        entries.into_iter().take(if odd == 2 { 2 } else { 1 }).collect::<Vec<_>>(),
                    );
                    patch.finish().unwrap()
                },
            )
        })
    }

    /// What was read at once says the same as what the general reader finds.
    fn check(bytes: &[u8]) -> bool {
        let Some(setting) = Start::of(bytes).and_then(read) else { return false };
        let patch = PatchRef::decode(bytes).unwrap();
        let ops: Vec<_> = patch.ops().collect();
        assert_eq!((patch.id(), patch.next_time()), (setting.id, setting.last + 1));
        match (setting.value, &*ops) {
            (Fresh::Con(value), [(id, Op::NewCon(Con::Value(same))), _]) => {
                assert_eq!((*id, *same), (setting.id, value));
            }
            (Fresh::Text(text, units), [(id, Op::NewStr), (_, put), _]) => {
                let Op::InsStr { obj, after, text: same, units: len } = *put else { panic!("{put:?}") };
                assert_eq!((*id, obj, after), (setting.id, setting.id, setting.id));
                assert_eq!((text.as_bytes(), units), (same.as_bytes(), len));
            }
            (value, ops) => panic!("{value:?} of {ops:?}"),
        }
        let Some((_, Op::InsObj { obj, entries })) = ops.last() else { panic!("{ops:?}") };
        let entries: Vec<_> = entries.map(|(key, value)| (key.as_bytes().to_vec(), value)).collect();
        assert_eq!((*obj, entries), (setting.obj, vec![(setting.key.as_bytes().to_vec(), setting.id)]));
        true
    }

    #[test]
    fn a_key_that_is_set_is_read_at_once() {
        let obj = Timestamp::new(SessionId::new(70_000).unwrap(), 3);
        for text in [None, Some("a"), Some("some text that is longer"), Some("글 🙂")] {
            let mut patch = PatchBuilder::new(SessionId::new(70_001).unwrap(), 5);
            let value = match text {
                None => patch.new_con(&Value::from(1000)),
                Some(text) => {
                    let made = patch.new_str();
                    patch.ins_str(made, made, text);
                    made
                }
            };
            patch.ins_obj(obj, [("key", value)]);
            assert!(check(patch.finish().unwrap().as_bytes()), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_at_once_is_what_any_reader_finds(patch in patch()) {
            check(patch.as_bytes());
        }

        #[test]
        fn what_is_not_quite_it_is_left_alone(bytes in nearly(patch())) {
            check(&bytes);
        }
    }
}
