//! The 152 recorded primitives of json-joy: read and written byte for byte.

mod support;

use crdt_core::{
    Text, Value, Wtf8,
    codec::{
        RawValue, cbor,
        wire::{Reader, put_b1vu56, put_pair, put_vu57},
    },
};
use support::{get, hex, items, number, text, unhex, vectors};

fn primitives(kind: &str, count: usize) -> &'static [Value] {
    let all = items(get(get(vectors(), "primitives"), kind));
    assert_eq!(all.len(), count);
    all
}

#[test]
fn vu57_is_read_and_written() {
    for case in primitives("vu57", 25) {
        let (n, bytes) = (number(get(case, "n")), unhex(text(get(case, "hex"))));
        let mut out = Vec::new();
        put_vu57(&mut out, n);
        assert_eq!(hex(&out), hex(&bytes), "{n}");
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.vu57("n"), Ok(n));
        assert_eq!(reader.end(), Ok(()));
    }
}

#[test]
fn b1vu56_is_read_and_written() {
    for case in primitives("b1vu56", 42) {
        let (n, bytes) = (number(get(case, "n")), unhex(text(get(case, "hex"))));
        let flag = number(get(case, "flag")) == 1;
        let mut out = Vec::new();
        put_b1vu56(&mut out, flag, n);
        assert_eq!(hex(&out), hex(&bytes), "{flag} {n}");
        assert_eq!(Reader::new(&bytes).b1vu56("n"), Ok((flag, n)));
    }
}

#[test]
fn ids_are_read_and_written() {
    for case in primitives("id", 15) {
        let (x, y) = (number(get(case, "x")), number(get(case, "y")));
        let mut out = Vec::new();
        put_pair(&mut out, x, y);
        assert_eq!(hex(&out), text(get(case, "hex")));
        assert_eq!(Reader::new(&out).pair(), Ok((x, y)));
    }
}

#[test]
fn cbor_is_read_and_written() {
    for case in primitives("cbor", 62) {
        let (value, bytes) = (get(case, "value"), unhex(text(get(case, "hex"))));
        assert_eq!(hex(&cbor::encode(value)), hex(&bytes), "{value:?}");
        assert_eq!(&cbor::decode(&bytes).unwrap(), value);
        assert_eq!(RawValue::new(&bytes).map(RawValue::to_value).as_ref(), Ok(value));
    }
}

/// H2: the reference writes U+FFFD for a lone surrogate in a string of 42 units or more. Ours is always WTF-8.
#[test]
fn text_is_wtf8_also_where_the_reference_loses_a_surrogate() {
    for case in primitives("utf8", 8) {
        let units: Vec<u16> = items(get(case, "utf16")).iter().map(|unit| number(unit) as u16).collect();
        let theirs = unhex(text(get(case, "hex")));
        let ours = Text::from_utf16(units.iter().copied());
        let lossy = units.len() >= 42 && ours.as_str().is_none();
        if lossy {
            assert_eq!(Wtf8::new(&theirs).unwrap().as_str(), Some(&*ours.as_wtf8().to_str_lossy()));
        } else {
            assert_eq!(hex(ours.as_bytes()), hex(&theirs));
        }
        // Both keep the count.
        assert_eq!(Wtf8::new(&theirs).unwrap().units(), units.len());
        assert_eq!(ours.as_wtf8().utf16().collect::<Vec<_>>(), units);
    }
}
