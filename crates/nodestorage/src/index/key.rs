//! Values as bytes that sort as the values do.
//!
//! The bytes of one value are never the beginning of another's, so values follow each other in a key without anything
//! between them, and turned over, bit by bit, they sort the other way round. `docs/formats/embedded-store.md` draws
//! them.

use serde_json::{Number, Value};

use crate::query::{
    Direction,
    order::{by_name, float, kind, whole},
};

/// Ends a list of elements or members; less than any tag.
const END: u8 = 0;

/// The byte that the values of a kind begin with.
pub(crate) fn tag(value: &Value) -> u8 {
    0x10 * (kind(value) + 1)
}

/// Appends a value.
pub(crate) fn encode(value: &Value, key: &mut Vec<u8>) {
    key.push(tag(value));
    match value {
        Value::Null => {}
        Value::Bool(value) => key.push((*value).into()),
        Value::Number(number) => encode_number(number, key),
        Value::String(text) => encode_text(text, key),
        Value::Array(elements) => {
            elements.iter().for_each(|element| encode(element, key));
            key.push(END);
        }
        Value::Object(members) => {
            for (name, value) in by_name(members) {
                // The order of objects looks at the kind of a member before its name.
                key.push(tag(value));
                encode_text(name, key);
                encode(value, key);
            }
            key.push(END);
        }
    }
}

/// Appends a value in a direction.
pub(crate) fn encode_in(direction: Direction, value: &Value, key: &mut Vec<u8>) {
    let start = key.len();
    encode(value, key);
    if direction == Direction::Descending {
        turn_over(&mut key[start..]);
    }
}

pub(crate) fn turn_over(bytes: &mut [u8]) {
    bytes.iter_mut().for_each(|byte| *byte = !*byte);
}

/// What the bytes of all texts with this beginning begin with.
pub(crate) fn text_prefix(prefix: &str) -> Vec<u8> {
    let mut key = vec![tag(&Value::String(String::new()))];
    escape(prefix, &mut key);
    key
}

/// The first key behind all that begin like this. `None` if there is none.
pub(crate) fn behind(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut key = prefix[..=last].to_vec();
    key[last] += 1;
    Some(key)
}

fn encode_text(text: &str, key: &mut Vec<u8>) {
    escape(text, key);
    key.extend([0, 1]);
}

fn escape(text: &str, key: &mut Vec<u8>) {
    for byte in text.bytes() {
        key.push(byte);
        if byte == 0 {
            key.push(u8::MAX);
        }
    }
}

/// The nearest float, then how far the number is from it: whole numbers beyond 2^53 are not all floats.
fn encode_number(number: &Number, key: &mut Vec<u8>) {
    let (nearest, rest) = match whole(number) {
        Some(whole) => (whole as f64, whole - (whole as f64) as i128),
        None => (float(number), 0),
    };
    // Minus zero is zero.
    let bits = (nearest + 0.0).to_bits();
    let ordered = if bits >> 63 == 0 { bits | 1 << 63 } else { !bits };
    key.extend(ordered.to_be_bytes());
    let rest = i16::try_from(rest).expect("floats below 2^64 are at most 2 048 apart");
    key.extend((rest.cast_unsigned() ^ 0x8000).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{diff::tests::values, query::order::compare};

    fn key(value: &Value) -> Vec<u8> {
        let mut key = Vec::new();
        encode(value, &mut key);
        key
    }

    fn check(a: &Value, b: &Value) {
        assert_eq!(key(a).cmp(&key(b)), compare(a, b), "{a} and {b}");
        let (mut one, mut other) = (key(a), key(b));
        turn_over(&mut one);
        turn_over(&mut other);
        assert_eq!(one.cmp(&other), compare(b, a), "{a} and {b} the other way round");
        if one != other {
            assert!(!one.starts_with(&other), "the bytes of {b} begin those of {a}");
        }
    }

    #[test]
    fn bytes_sort_as_values_do() {
        let values = [
            json!(null),
            json!(i64::MIN),
            json!(i64::MIN + 1),
            json!(-1.5),
            json!(-0.0),
            json!(0),
            json!(5e-324),
            json!(1),
            json!(1.0),
            json!(9_007_199_254_740_992i64),
            json!(9_007_199_254_740_993i64),
            json!(9_007_199_254_740_992.0),
            json!(i64::MAX),
            json!(u64::MAX - 1),
            json!(u64::MAX),
            json!(u64::MAX as f64),
            json!(f64::MAX),
            json!(""),
            json!("\0"),
            json!("\0\0"),
            json!("a"),
            json!("a\0"),
            json!("ab"),
            json!("\u{10ffff}"),
            json!({}),
            json!({"a": 1}),
            json!({"a": 1, "b": null}),
            json!({"a": "1"}),
            json!({"b": 0}),
            json!([]),
            json!([[]]),
            json!([null]),
            json!([1, 2]),
            json!(["a", "b"]),
            json!(["a\0", "b"]),
            json!(false),
            json!(true),
        ];
        for a in &values {
            for b in &values {
                check(a, b);
            }
        }
    }

    #[test]
    fn behind_a_prefix_is_behind_all_that_begins_with_it() {
        assert_eq!(behind(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(behind(&[1, 0xff, 0xff]), Some(vec![2]));
        assert_eq!(behind(&[0xff]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_sort_as_their_values_do(a in values(), b in values()) {
            check(&a, &b);
        }

        #[test]
        fn any_numbers_sort_as_they_are(a in any::<i64>(), b in any::<u64>(), c in any::<f64>(), bits in 0u32..64) {
            let near = (b >> bits) as f64;
            let mut numbers = vec![json!(a), json!(b), json!(b >> bits), json!(near)];
            if c.is_finite() {
                numbers.push(json!(c));
            }
            for a in &numbers {
                for b in &numbers {
                    check(a, b);
                }
            }
        }
    }
}
