//! JSON in BSON: how fields are named and what numbers become. The layout is docs/formats/mongodb.md, "Bodies".
//!
//! Every body comes back as it was: the names that mean something else to the server are escaped, and the whole numbers
//! that BSON has no integers for are decimals. What other programs put into documents is read as JSON that says the same.

use std::borrow::Cow;

use mongodb::bson::{Bson, Decimal128, Document as Bsons};
use serde_json::{Number, Value};

use crate::Body;

/// The name of the field that belongs to this storage.
pub(super) const OWN: &str = "_weft";

/// A name as the server has it: without dots, which are paths there, without a dollar in front, and not empty.
pub(crate) fn escape(name: &str) -> Cow<'_, str> {
    if name.is_empty() {
        return Cow::Borrowed("%");
    }
    if !name.starts_with('$') && !name.contains(['%', '.', '\0']) {
        return Cow::Borrowed(name);
    }
    let mut escaped = String::with_capacity(name.len() + 8);
    for (at, c) in name.char_indices() {
        match c {
            '%' | '.' | '\0' => push_escaped(&mut escaped, c),
            '$' if at == 0 => push_escaped(&mut escaped, c),
            c => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

/// [`escape`] for the fields of a document itself, where some names are taken.
pub(crate) fn escape_field<'n>(name: &'n str, version_field: &str) -> Cow<'n, str> {
    if name == "_id" || name == OWN || name == version_field {
        let mut chars = name.chars();
        let mut escaped = String::new();
        push_escaped(&mut escaped, chars.next().expect("none of them is empty"));
        return Cow::Owned(escaped + chars.as_str());
    }
    escape(name)
}

fn push_escaped(escaped: &mut String, c: char) {
    let mut bytes = [0; 4];
    for byte in c.encode_utf8(&mut bytes).bytes() {
        escaped.push_str(&format!("%{byte:02X}"));
    }
}

/// What [`escape`] made of a name. One that it never makes, because another program wrote it, is taken as it is.
pub(super) fn unescape(name: &str) -> Cow<'_, str> {
    if !name.contains('%') {
        return Cow::Borrowed(name);
    }
    if name == "%" {
        return Cow::Borrowed("");
    }
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let [first, behind @ ..] = rest {
        let byte = (*first == b'%').then(|| behind.get(..2)).flatten();
        let byte = byte.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (first, byte) {
            (b'%', None) => return Cow::Borrowed(name),
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            _ => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8(bytes).map_or(Cow::Borrowed(name), Cow::Owned)
}

/// A value as the server has it.
pub(crate) fn to_bson(value: &Value) -> Bson {
    match value {
        Value::Null => Bson::Null,
        Value::Bool(value) => Bson::Boolean(*value),
        Value::Number(number) => number_to_bson(number),
        Value::String(text) => Bson::String(text.clone()),
        Value::Array(elements) => Bson::Array(elements.iter().map(to_bson).collect()),
        Value::Object(members) => {
            Bson::Document(members.iter().map(|(k, v)| (escape(k).into_owned(), to_bson(v))).collect())
        }
    }
}

/// A value that is in the server's own language: its names are not escaped.
pub(super) fn verbatim(value: &Value) -> Bson {
    match value {
        Value::Array(elements) => Bson::Array(elements.iter().map(verbatim).collect()),
        Value::Object(members) => {
            Bson::Document(members.iter().map(|(k, v)| (k.clone(), verbatim(v))).collect())
        }
        plain => to_bson(plain),
    }
}

pub(super) fn number_to_bson(number: &Number) -> Bson {
    match (number.as_i64(), number.as_u64()) {
        (Some(whole), _) => Bson::Int64(whole),
        // BSON has no unsigned integers; a decimal is exact and in the right order among all numbers.
        (None, Some(whole)) => {
            Bson::Decimal128(whole.to_string().parse().expect("a decimal has room for 20 digits"))
        }
        (None, None) => Bson::Double(number.as_f64().expect("every JSON number has a float")),
    }
}

/// What the server has, as JSON.
pub(super) fn to_json(value: &Bson) -> Value {
    match value {
        Bson::Null | Bson::Undefined => Value::Null,
        Bson::Boolean(value) => Value::Bool(*value),
        Bson::Int32(whole) => Value::from(*whole),
        Bson::Int64(whole) => Value::from(*whole),
        // Not a number and the infinities are none in JSON.
        Bson::Double(float) => Number::from_f64(*float).map_or(Value::Null, Value::Number),
        Bson::Decimal128(decimal) => decimal_to_json(decimal),
        Bson::String(text) | Bson::Symbol(text) => Value::String(text.clone()),
        Bson::Array(elements) => Value::Array(elements.iter().map(to_json).collect()),
        Bson::Document(members) => Value::Object(to_object(members)),
        Bson::ObjectId(id) => Value::String(id.to_hex()),
        Bson::DateTime(time) => match time.try_to_rfc3339_string() {
            Ok(text) => Value::String(text),
            Err(_) => Value::from(time.timestamp_millis()),
        },
        // Binary data, regular expressions and the like: as the server writes them.
        other => Value::String(other.to_string()),
    }
}

fn to_object(members: &Bsons) -> Body {
    members.iter().map(|(k, v)| (unescape(k).into_owned(), to_json(v))).collect()
}

fn decimal_to_json(decimal: &Decimal128) -> Value {
    let text = decimal.to_string();
    match (text.parse::<u64>(), text.parse::<f64>()) {
        (Ok(whole), _) => Value::from(whole),
        (_, Ok(float)) => Number::from_f64(float).map_or(Value::String(text), Value::Number),
        _ => Value::String(text),
    }
}

/// The body in a document of the server.
pub(super) fn body_of(stored: &Bsons, version_field: &str) -> Body {
    let fields = stored.iter().filter(|(name, _)| is_field(name, version_field));
    fields.map(|(name, value)| (unescape(name).into_owned(), to_json(value))).collect()
}

/// Whether a field of a document of the server belongs to its body.
pub(super) fn is_field(name: &str, version_field: &str) -> bool {
    name != "_id" && name != OWN && name != version_field
}

/// The fields of a body, as the server has them.
pub(super) fn fields_of(body: &Body, version_field: &str) -> Bsons {
    body.iter().map(|(k, v)| (escape_field(k, version_field).into_owned(), to_bson(v))).collect()
}

/// A number of ours. The server has no unsigned integers, and none of ours ever needs the last bit.
pub(crate) fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::diff::tests::values;

    #[test]
    fn names_that_mean_something_else_are_escaped() {
        let check = |name: &str, escaped: &str| {
            assert_eq!(escape_field(name, "version"), escaped, "{name:?}");
            assert_eq!(unescape(escaped), name);
        };
        check("gold", "gold");
        check("", "%");
        check("a.b", "a%2Eb");
        check("$set", "%24set");
        check("us$", "us$");
        check("100%", "100%25");
        check("\0", "%00");
        check("_id", "%5Fid");
        check("_weft", "%5Fweft");
        check("version", "%76ersion");
        check("é.ü", "é%2Eü");
        assert_eq!(unescape("100%"), "100%", "written by another program");
        assert_eq!(unescape("%FF"), "%FF");
    }

    #[test]
    fn numbers_stay_what_they_are() {
        for number in [json!(0), json!(i64::MIN), json!(u64::MAX), json!(1.0), json!(-0.5), json!(5e-324)] {
            assert_eq!(to_json(&to_bson(&number)), number);
        }
        assert_eq!(to_json(&Bson::Int32(7)), json!(7));
        assert_eq!(to_json(&Bson::Double(f64::NAN)), json!(null));
        assert_eq!(to_json(&Bson::Decimal128("0.5".parse().unwrap())), json!(0.5));
    }

    #[test]
    fn a_body_may_use_every_name() {
        let Value::Object(body) = json!({"_id": 1, "_weft": {"a.b": {"$c": []}}, "version": null, "": ""})
        else {
            unreachable!()
        };
        assert_eq!(body_of(&fields_of(&body, "version"), "version"), body);
    }

    proptest! {
        #[test]
        fn every_value_comes_back(value in values(), name in ".*") {
            prop_assert_eq!(&to_json(&to_bson(&value)), &value);
            let body = Body::from_iter([(name, value)]);
            prop_assert_eq!(body_of(&fields_of(&body, "_version"), "_version"), body);
        }
    }
}
