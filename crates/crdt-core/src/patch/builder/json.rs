//! What json-joy's builder writes for JSON values.

use super::{PatchBuilder, put_len, put_patch_id};
use crate::{
    Timestamp,
    codec::cbor,
    patch::op::code,
    text::{Key, Text},
    value::Value,
};

impl PatchBuilder {
    /// Writes the values of keys, as [`const_or_json`](Self::const_or_json) does, and sets the keys to them.
    pub(crate) fn set_keys<K: Key, V: Into<Value>>(
        &mut self,
        obj: Timestamp,
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Timestamp {
        // The keys stand behind all values, so they are put together elsewhere.
        let (mut list, mut len) = (Vec::new(), 0);
        for (key, value) in entries {
            let node = self.const_or_json(&value.into());
            cbor::put_text(&mut list, key.as_key());
            put_patch_id(&mut list, self.start.sid, node);
            len += 1;
        }
        if len == 0 {
            return self.next_id();
        }
        put_len(self.body.bytes(), code::INS_OBJ, len);
        self.id(obj);
        self.body.bytes().append(&mut list);
        self.took(1)
    }

    /// Writes what json-joy's builder writes for a JSON value and returns the id of its node: text, bytes, arrays and
    /// maps become nodes that can be edited inside; other values become registers that hold a constant, and within a
    /// map just the constant.
    pub fn json(&mut self, value: &Value) -> Timestamp {
        self.json_within(value, Value::DEPTH_MAX)
    }

    /// Like [`json`](Self::json), but a number, boolean or null becomes a bare constant.
    pub fn const_or_json(&mut self, value: &Value) -> Timestamp {
        self.const_or_json_within(value, Value::DEPTH_MAX)
    }

    fn const_or_json_within(&mut self, value: &Value, depth: usize) -> Timestamp {
        if is_scalar(value) { self.new_con(value) } else { self.json_within(value, depth) }
    }

    fn json_within(&mut self, value: &Value, depth: usize) -> Timestamp {
        // Deeper parts are constants, which end in `null`: see `new_con`.
        let Some(deeper) = depth.checked_sub(1) else { return self.new_con(value) };
        match value {
            Value::Text(text) => {
                let obj = self.new_str();
                self.ins_str(obj, obj, text.as_wtf8());
                obj
            }
            Value::Bytes(bytes) => {
                let obj = self.new_bin();
                self.ins_bin(obj, obj, bytes);
                obj
            }
            Value::Array(items) => {
                let obj = self.new_arr();
                let values: Vec<_> = items.iter().map(|item| self.json_within(item, deeper)).collect();
                self.ins_arr(obj, obj, &values);
                obj
            }
            Value::Map(entries) => {
                let obj = self.new_obj();
                let entries: Vec<_> = js_order(entries)
                    .into_iter()
                    .map(|(key, value)| (key.as_wtf8(), self.const_or_json_within(value, deeper)))
                    .collect();
                self.ins_obj(obj, entries);
                obj
            }
            value if is_scalar(value) => {
                let obj = self.new_val();
                let con = self.new_con(value);
                self.ins_val(obj, con);
                obj
            }
            value => self.new_con(value),
        }
    }
}

const fn is_scalar(value: &Value) -> bool {
    matches!(
        value,
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Nint(_) | Value::Float(_)
    )
}

/// Entries in the order in which JavaScript walks an object: keys that are array indexes first, ascending.
pub(crate) fn js_order<V>(entries: &[(Text, V)]) -> Vec<(&Text, &V)> {
    let mut ordered: Vec<_> = entries.iter().map(|(key, value)| (key, value)).collect();
    // A stable sort: other keys stay in their order.
    ordered.sort_by_key(|(key, _)| array_index(key.as_bytes()).unwrap_or(u32::MAX));
    ordered
}

/// The array index that a key spells: 0 to 2^32 − 2 without leading zeros.
fn array_index(key: &[u8]) -> Option<u32> {
    let plain = matches!(key, [b'0'] | [b'1'..=b'9', ..]) && key.len() <= 10;
    let text = plain.then(|| std::str::from_utf8(key).ok()).flatten()?;
    text.parse().ok().filter(|&index| index < u32::MAX)
}
