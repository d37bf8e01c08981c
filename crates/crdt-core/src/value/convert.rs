//! Values out of what Rust has, and out of and into `serde_json`.

use super::{SAFE_INT_MAX, Value};
use crate::text::{Text, Wtf8};

impl From<f64> for Value {
    fn from(n: f64) -> Self {
        let is_integer = n.trunc() == n && n.abs() <= SAFE_INT_MAX && !is_minus_zero(n);
        if is_integer { Self::Int(n as i64) } else { Self::Float(n) }
    }
}

/// Zero, but for its sign: the one float that is an integer and that no integer can stand for.
fn is_minus_zero(n: f64) -> bool {
    n == 0.0 && n.is_sign_negative()
}

impl From<u64> for Value {
    fn from(n: u64) -> Self {
        i64::try_from(n).map_or(Self::Uint(n), Self::Int)
    }
}

impl From<i64> for Value {
    fn from(n: i64) -> Self {
        Self::Int(n)
    }
}

impl From<i32> for Value {
    fn from(n: i32) -> Self {
        Self::Int(n.into())
    }
}

impl From<u32> for Value {
    fn from(n: u32) -> Self {
        Self::Int(n.into())
    }
}

impl From<usize> for Value {
    fn from(n: usize) -> Self {
        (n as u64).into()
    }
}

/// `None` is `null`.
impl<V: Into<Self>> From<Option<V>> for Value {
    fn from(value: Option<V>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Bool(truth)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<Wtf8<'_>> for Value {
    fn from(text: Wtf8<'_>) -> Self {
        Self::Text(text.to_text())
    }
}

impl From<Text> for Value {
    fn from(text: Text) -> Self {
        Self::Text(text)
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.to_vec())
    }
}

impl From<Vec<Self>> for Value {
    fn from(items: Vec<Self>) -> Self {
        Self::Array(items)
    }
}

impl<V: Into<Value>> FromIterator<V> for Value {
    fn from_iter<I: IntoIterator<Item = V>>(items: I) -> Self {
        Self::Array(items.into_iter().map(Into::into).collect())
    }
}

/// Maps keep the order of `serde_json`, which is the order of the keys unless its feature `preserve_order` is on.
impl From<&serde_json::Value> for Value {
    #[inline]
    fn from(json: &serde_json::Value) -> Self {
        // Lists of numbers are long, and their loop is the caller's.
        match json.as_i64() {
            Some(n) => Self::Int(n),
            None => Self::from_any_json(json),
        }
    }
}

impl Value {
    #[inline(never)]
    fn from_any_json(json: &serde_json::Value) -> Self {
        use serde_json::Value as Json;
        match json {
            Json::Null => Self::Null,
            Json::Bool(truth) => Self::Bool(*truth),
            Json::Number(n) => match (n.as_i64(), n.as_u64()) {
                (Some(n), _) => Self::Int(n),
                (_, Some(n)) => Self::Uint(n),
                _ => n.as_f64().map_or(Self::Null, Self::from),
            },
            Json::String(text) => text.as_str().into(),
            Json::Array(items) => Self::Array(items.iter().map(Self::from).collect()),
            Json::Object(entries) => {
                Self::Map(entries.iter().map(|(key, value)| (key.as_str().into(), value.into())).collect())
            }
        }
    }
}

impl From<serde_json::Value> for Value {
    fn from(json: serde_json::Value) -> Self {
        use serde_json::Value as Json;
        match json {
            Json::String(text) => text.into(),
            Json::Array(items) => Self::Array(items.into_iter().map(Self::from).collect()),
            Json::Object(entries) => {
                Self::Map(entries.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
            }
            other => Self::from(&other),
        }
    }
}

/// As `JSON.stringify` sees it: keys without a value are left out, other things that JSON lacks are `null`, lone
/// surrogates are U+FFFD; bytes are base64.
impl From<&Value> for serde_json::Value {
    fn from(value: &Value) -> Self {
        match value {
            Value::Undefined | Value::Null | Value::Simple(_) => Self::Null,
            Value::Bool(truth) => Self::Bool(*truth),
            Value::Int(n) => (*n).into(),
            Value::Uint(n) => (*n).into(),
            Value::Nint(n) => (-1.0 - *n as f64).into(),
            Value::Float(n) => (*n).into(),
            Value::Text(text) => text.to_string().into(),
            Value::Bytes(bytes) => crate::codec::base64::encode(bytes).into(),
            Value::Array(items) => items.iter().map(Self::from).collect(),
            Value::Map(entries) => entries
                .iter()
                .filter(|(_, value)| !value.is_undefined())
                .map(|(key, value)| (key.to_string(), Self::from(value)))
                .collect(),
            Value::Tag(_, inner) => Self::from(&**inner),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rust_has_is_a_value() {
        assert_eq!(Value::from(7u32), Value::Int(7));
        assert_eq!(Value::from(usize::MAX), Value::Uint(u64::MAX));
        assert_eq!(Value::from(Some("a")), Value::from("a"));
        assert_eq!(Value::from(None::<bool>), Value::Null);
        assert_eq!(Value::from(&b"ab"[..]), Value::Bytes(vec![b'a', b'b']));
        assert_eq!(Value::from(vec![Value::Null, 1.into()]).to_string(), "[null,1]");
    }

    #[test]
    fn what_a_value_is_can_be_asked() {
        let value = Value::from(&serde_json::json!({"a": [true, "b", -2, null]}));
        let items = value.as_map().unwrap()[0].1.as_array().unwrap();
        assert_eq!((items[0].as_bool(), items[1].as_bool()), (Some(true), None));
        assert_eq!(items[1].as_text().unwrap(), "b");
        assert_eq!((items[2].as_i64(), items[3].is_null()), (Some(-2), true));
    }

    #[test]
    fn the_sign_of_zero_is_kept_where_it_can_be_written_and_tells_no_values_apart() {
        let json = crate::codec::json::decode(b"[-0,-0.0,-0e5,0,1]").unwrap();
        let signs = |value: &Value| -> Vec<bool> {
            value.as_array().unwrap().iter().map(|n| n.as_f64().unwrap().is_sign_negative()).collect()
        };
        assert_eq!(signs(&json), [true, true, true, false, false]);
        assert_eq!(signs(&Value::from(&serde_json::Value::from(&json))), signs(&json));
        let written = json.to_string();
        assert_eq!(written, "[-0,-0,-0,0,1]");
        assert_eq!(signs(&crate::codec::json::decode(written.as_bytes()).unwrap()), signs(&json));
        // The binary forms are byte for byte json-joy's, which have no room for it (H13).
        assert_eq!(crate::codec::cbor::encode(&json), [0x85, 0, 0, 0, 0, 1]);
        assert_eq!(crate::codec::msgpack::encode(&json), [0x95, 0, 0, 0, 0, 1]);
        let minus_zero = Value::from(-0.0);
        assert_eq!((minus_zero.as_i64(), minus_zero.as_u64()), (Some(0), Some(0)));
        assert_eq!(minus_zero, Value::Int(0));
        assert_eq!(Value::Int(0), minus_zero);
        assert_ne!(minus_zero, Value::Int(1));
        assert!(minus_zero.is_same_json(&Value::Int(0)));
    }

    #[test]
    fn json_is_the_same_whatever_the_order_of_its_keys() {
        let (one, other) = (r#"{"a":1,"b":{"c":2,"d":3}}"#, r#"{"b":{"d":3,"c":2},"a":1}"#);
        let [one, other] = [one, other].map(|text| crate::codec::json::decode(text.as_bytes()).unwrap());
        assert_ne!(one, other);
        assert!(one.is_same_json(&other));
        assert!(!one.is_same_json(&Value::Null));
    }
}
