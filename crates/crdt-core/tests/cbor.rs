//! CBOR that others may write: the examples of RFC 8949, appendix A, and what is not well-formed by its appendix F.

mod support;

use crdt_core::{
    Text, Value,
    codec::{Malformed, RawValue, cbor},
};
use support::unhex;

/// What an example says.
#[derive(Debug)]
enum Says {
    /// This value.
    Is(Value),
    /// A number; JavaScript has one kind of them.
    Number(f64),
}

fn is(value: impl Into<Value>) -> Says {
    Says::Is(value.into())
}

fn tagged(tag: u64, value: impl Into<Value>) -> Says {
    Says::Is(Value::Tag(tag, Box::new(value.into())))
}

fn bytes(hex: &str) -> Value {
    Value::Bytes(unhex(hex))
}

fn json(text: &str) -> Says {
    Says::Is(crdt_core::codec::json::decode(text.as_bytes()).unwrap())
}

/// Appendix A, all of it, and each with its value.
fn appendix_a() -> Vec<(&'static str, Says)> {
    use Says::Number;
    let up_to_25 = "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25]";
    vec![
        ("00", is(0)),
        ("01", is(1)),
        ("0a", is(10)),
        ("17", is(23)),
        ("1818", is(24)),
        ("1819", is(25)),
        ("1864", is(100)),
        ("1903e8", is(1000)),
        ("1a000f4240", is(1_000_000)),
        ("1b000000e8d4a51000", is(1_000_000_000_000_i64)),
        ("1bffffffffffffffff", is(u64::MAX)),
        ("c249010000000000000000", tagged(2, bytes("010000000000000000"))),
        ("3bffffffffffffffff", Says::Is(Value::Nint(u64::MAX))),
        ("c349010000000000000000", tagged(3, bytes("010000000000000000"))),
        ("20", is(-1)),
        ("29", is(-10)),
        ("3863", is(-100)),
        ("3903e7", is(-1000)),
        ("f90000", Number(0.0)),
        ("f98000", Number(-0.0)),
        ("f93c00", Number(1.0)),
        ("fb3ff199999999999a", Number(1.1)),
        ("f93e00", Number(1.5)),
        ("f97bff", Number(65504.0)),
        ("fa47c35000", Number(100_000.0)),
        ("fa7f7fffff", Number(f64::from(f32::MAX))),
        ("fb7e37e43c8800759c", Number(1.0e300)),
        ("f90001", Number(5.960_464_477_539_063e-8)),
        ("f90400", Number(0.000_061_035_156_25)),
        ("f9c400", Number(-4.0)),
        ("fbc010666666666666", Number(-4.1)),
        ("f97c00", Number(f64::INFINITY)),
        ("f97e00", Number(f64::NAN)),
        ("f9fc00", Number(f64::NEG_INFINITY)),
        ("fa7f800000", Number(f64::INFINITY)),
        ("fa7fc00000", Number(f64::NAN)),
        ("faff800000", Number(f64::NEG_INFINITY)),
        ("fb7ff0000000000000", Number(f64::INFINITY)),
        ("fb7ff8000000000000", Number(f64::NAN)),
        ("fbfff0000000000000", Number(f64::NEG_INFINITY)),
        ("f4", is(false)),
        ("f5", is(true)),
        ("f6", Says::Is(Value::Null)),
        ("f7", Says::Is(Value::Undefined)),
        ("f0", Says::Is(Value::Simple(16))),
        ("f8ff", Says::Is(Value::Simple(255))),
        ("c074323031332d30332d32315432303a30343a30305a", tagged(0, "2013-03-21T20:04:00Z")),
        ("c11a514b67b0", tagged(1, 1_363_896_240)),
        ("c1fb41d452d9ec200000", tagged(1, 1_363_896_240.5)),
        ("d74401020304", tagged(23, bytes("01020304"))),
        ("d818456449455446", tagged(24, bytes("6449455446"))),
        ("d82076687474703a2f2f7777772e6578616d706c652e636f6d", tagged(32, "http://www.example.com")),
        ("40", Says::Is(bytes(""))),
        ("4401020304", Says::Is(bytes("01020304"))),
        ("60", is("")),
        ("6161", is("a")),
        ("6449455446", is("IETF")),
        ("62225c", is("\"\\")),
        ("62c3bc", is("\u{fc}")),
        ("63e6b0b4", is("\u{6c34}")),
        ("64f0908591", is("\u{10151}")),
        ("80", json("[]")),
        ("83010203", json("[1,2,3]")),
        ("8301820203820405", json("[1,[2,3],[4,5]]")),
        ("98190102030405060708090a0b0c0d0e0f101112131415161718181819", json(up_to_25)),
        ("a0", json("{}")),
        // Keys that are numbers become their digits, as in JavaScript.
        ("a201020304", json(r#"{"1":2,"3":4}"#)),
        ("a26161016162820203", json(r#"{"a":1,"b":[2,3]}"#)),
        ("826161a161626163", json(r#"["a",{"b":"c"}]"#)),
        ("a56161614161626142616361436164614461656145", json(r#"{"a":"A","b":"B","c":"C","d":"D","e":"E"}"#)),
        ("5f42010243030405ff", Says::Is(bytes("0102030405"))),
        ("7f657374726561646d696e67ff", is("streaming")),
        ("9fff", json("[]")),
        ("9f018202039f0405ffff", json("[1,[2,3],[4,5]]")),
        ("9f01820203820405ff", json("[1,[2,3],[4,5]]")),
        ("83018202039f0405ff", json("[1,[2,3],[4,5]]")),
        ("83019f0203ff820405", json("[1,[2,3],[4,5]]")),
        ("9f0102030405060708090a0b0c0d0e0f101112131415161718181819ff", json(up_to_25)),
        ("bf61610161629f0203ffff", json(r#"{"a":1,"b":[2,3]}"#)),
        ("826161bf61626163ff", json(r#"["a",{"b":"c"}]"#)),
        ("bf6346756ef563416d7421ff", json(r#"{"Fun":true,"Amt":-2}"#)),
    ]
}

#[track_caller]
fn check(hex: &str, says: &Says) {
    let value = cbor::decode(&unhex(hex)).unwrap_or_else(|error| panic!("{hex}: {error}"));
    match says {
        Says::Is(expected) => assert_eq!(&value, expected, "{hex}"),
        Says::Number(expected) => {
            let number = match value {
                Value::Int(n) => n as f64,
                Value::Float(n) => n,
                ref other => panic!("{hex}: {other:?}"),
            };
            let is_same = number == *expected || number.is_nan() && expected.is_nan();
            assert!(is_same, "{hex}: {number} for {expected}");
        }
    }
    // Whatever its spelling was, it is written in one, and read again.
    let written = cbor::encode(&value);
    assert!(RawValue::new(&written).is_ok(), "{hex}: {written:02x?}");
    let is_ours = RawValue::new(&unhex(hex)).is_ok();
    assert_eq!(is_ours, written == unhex(hex), "{hex}: {written:02x?}");
    let again = cbor::decode(&written).unwrap();
    assert_eq!(cbor::encode(&again), written, "{hex}");
}

#[test]
fn the_examples_of_the_rfc_are_read() {
    let examples = appendix_a();
    assert_eq!(examples.len(), 81);
    for (hex, says) in &examples {
        check(hex, says);
    }
}

/// What others may spell otherwise than json-joy does.
#[test]
fn wider_spellings_are_read() {
    for (hex, says) in [
        ("1800", is(0)),
        ("190000", is(0)),
        ("1a00000017", is(23)),
        ("1b0000000000000000", is(0)),
        ("1b0020000000000000", is(1_i64 << 53)),
        ("3800", is(-1)),
        ("3b0000000000000000", is(-1)),
        ("3b7fffffffffffffff", is(i64::MIN)),
        ("3b8000000000000000", Says::Is(Value::Nint(1 << 63))),
        ("5800", Says::Is(bytes(""))),
        ("5b0000000000000001ff", Says::Is(bytes("ff"))),
        ("79000161", is("a")),
    ] {
        check(hex, &says);
    }
    // Halves: the smallest, the largest of the smallest, and both signs of zero.
    for (hex, number) in [
        ("f903ff", 1023.0 / 16_777_216.0),
        ("f98001", -1.0 / 16_777_216.0),
        ("f90400", 1.0 / 16_384.0),
        ("f93555", 1365.0 / 4096.0),
        ("f97e01", f64::NAN),
        ("f9fbff", -65504.0),
        ("fb41dfffffffc00000", 2_147_483_647.0),
        ("fb4340000000000000", 9_007_199_254_740_992.0),
    ] {
        check(hex, &Says::Number(number));
    }
    // Texts and bytes in pieces, of which some are empty; keys of maps too.
    check("7f60ff", &is(""));
    check("7fff", &is(""));
    check("5fff", &Says::Is(bytes("")));
    check("7f616160606162ff", &is("ab"));
    check("bf7f61616162ff01ff", &json(r#"{"ab":1}"#));
    // Halves of a character in two pieces become the character.
    check("7f63eda08063edb080ff", &is("\u{10000}"));
    // Keys that come twice: the last one counts, in the place of the first.
    check("a3616101616202616103", &json(r#"{"a":3,"b":2}"#));
    check("a120f6", &json(r#"{"-1":null}"#));
    check("a13bfffffffffffffffff6", &json(r#"{"-18446744073709551616":null}"#));
    check("63eda080", &Says::Is(Value::Text(Text::from_utf16([0xd800]))));
}

/// What is not well-formed, or no value here: what is wrong, and where.
#[test]
fn what_is_not_well_formed_is_refused_where_it_is() {
    let truncated = |error: &Malformed| matches!(error, Malformed::Truncated { .. });
    let unexpected = |error: &Malformed| matches!(error, Malformed::Unexpected { .. });
    let left_over = |error: &Malformed| matches!(error, Malformed::LeftOver { .. });
    let text = |error: &Malformed| matches!(error, Malformed::Text { .. });
    type Is<'a> = &'a dyn Fn(&Malformed) -> bool;
    let cases: [(&str, Is<'_>, &[&str]); 5] = [
        // Appendix F.1: the end of input within a head, within content, in lists of known and of unknown length.
        (
            "truncated",
            &truncated,
            &[
                "",
                "18",
                "19",
                "1a",
                "1b",
                "1901",
                "1a0102",
                "1b01020304050607",
                "38",
                "58",
                "78",
                "98",
                "9a01ff00",
                "b8",
                "d8",
                "f8",
                "f900",
                "fa0000",
                "fb000000",
                "41",
                "61",
                "5affffffff00",
                "5bffffffffffffffff010203",
                "7affffffff00",
                "7b7fffffffffffffff010203",
                "81",
                "818181818181818181",
                "8200",
                "a1",
                "a20102",
                "a100",
                "a2000000",
                "c0",
                "5f4100",
                "7f6100",
                "9f",
                "9f0102",
                "bf",
                "bf01020102",
                "819f",
                "9f8000",
                "9f9f9f9f9fffffffff",
                "9f819f819f9fffffff",
            ],
        ),
        // Heads that are reserved, simple values in two bytes that have one, breaks where none may be, pieces of another kind.
        (
            "unexpected",
            &unexpected,
            &[
                "1c",
                "1d",
                "1e",
                "3c",
                "3d",
                "3e",
                "5c",
                "5d",
                "5e",
                "7c",
                "7d",
                "7e",
                "9c",
                "9d",
                "9e",
                "bc",
                "bd",
                "be",
                "dc",
                "dd",
                "de",
                "fc",
                "fd",
                "fe",
                "1f",
                "3f",
                "df",
                "f800",
                "f801",
                "f818",
                "f81f",
                "ff",
                "81ff",
                "8200ff",
                "a1ff",
                "a1ff00",
                "a100ff",
                "a20000ff",
                "9f81ff",
                "9f829f819f9fffffffff",
                "bf00ff",
                "bf000000ff",
                "5f00ff",
                "5f21ff",
                "5f6100ff",
                "5f80ff",
                "5fa0ff",
                "5fc000ff",
                "5fe0ff",
                "7f4100ff",
                "5f5f4100ffff",
                "7f7f6100ffff",
                "a1f600",
                "a18000",
                "a14000",
                "a1f93c0000",
            ],
        ),
        ("left over", &left_over, &["0000", "f6f6", "8000", "6161ff", "9fff00"]),
        ("text", &text, &["61ff", "62c328", "63e28028", "64f0282800", "7f62c3ffff", "64f5808080", "62c080"]),
        ("too deep", &|error| matches!(error, Malformed::TooDeep { max: Value::DEPTH_MAX, .. }), &[]),
    ];
    for (kind, is_kind, list) in cases {
        for hex in list {
            let bytes = unhex(hex);
            let error = cbor::decode(&bytes).err().unwrap_or_else(|| panic!("{hex} is read"));
            assert!(is_kind(&error), "{hex} is {kind}: {error:?}");
            assert!(error.offset().is_some_and(|at| at <= bytes.len()), "{hex}: {error}");
            // The other way of reading, which makes no value, finds the same.
            assert_eq!(RawValue::new(&bytes).err(), Some(error), "{hex}");
        }
    }
    for head in ["81", "a100", "c0", "9f", "bf00"] {
        let deep = unhex(&head.repeat(Value::DEPTH_MAX + 1));
        let error = cbor::decode(&deep).unwrap_err();
        assert!(matches!(error, Malformed::TooDeep { max: Value::DEPTH_MAX, .. }), "{head}: {error:?}");
        assert_eq!(RawValue::new(&deep).err(), Some(error), "{head}");
    }
    // Which byte, not the one behind.
    for (hex, at, found) in [("a1410000", 1, 0x41), ("5f41006101ff", 3, 0x61), ("820f7f4100ff", 3, 0x41)] {
        match cbor::decode(&unhex(hex)).unwrap_err() {
            Malformed::Unexpected { at: here, found: byte, .. } => {
                assert_eq!((here, byte), (at, found), "{hex}");
            }
            other => panic!("{hex}: {other:?}"),
        }
    }
    let exact = |hex: &str| cbor::decode(&unhex(hex)).unwrap_err().to_string();
    assert_eq!(exact("8200ff"), "byte 0xff at 2: expected a value");
    assert_eq!(exact("820061ff"), "text is not valid UTF-8 at byte 3");
    assert_eq!(exact("0001"), "1 bytes left over at byte 1");
}
