//! The fast way through the chunks of a text, against the way that reads them one by one.

use proptest::prelude::*;

use super::binary;
use crate::{Document, Model, SessionId, Text, Timestamp, codec::Packing};

/// An edit of the text by one of several sessions.
type Edit = (usize, u64, Typed);

#[derive(Clone, Debug)]
enum Typed {
    Text(String),
    Halves(Vec<u16>),
    Erased(usize),
    /// Typed unit by unit with erasing in between, so that there are chunks and tombstones.
    Torn(u8),
}

fn edit() -> impl Strategy<Value = Edit> {
    let halves = prop::collection::vec(prop::sample::select(vec![0xd83d_u16, 0xde42, 0x61]), 1..4);
    let typed = prop_oneof![
        4 => "[a-z]{1,9}".prop_map(Typed::Text),
        1 => "[a-zé🙂]{1,5}".prop_map(Typed::Text),
        1 => "[a-z]{30,80}".prop_map(Typed::Text),
        1 => halves.prop_map(Typed::Halves),
        3 => (1..40usize).prop_map(Typed::Erased),
        2 => (1..40u8).prop_map(Typed::Torn),
    ];
    (any::<usize>(), 0..6u64, typed)
}

/// A text that six sessions have edited, from their own places in the clock table.
fn document(edits: &[Edit]) -> Document {
    let session = |number| SessionId::new(70_000 + number).unwrap();
    let mut model = Model::new(session(0));
    model.api().root("warp and weft").unwrap();
    for (place, author, typed) in edits {
        model.flush();
        let mut document = model.into_document();
        document.set_session(session(*author));
        model = document.into();
        let mut text = model.api().str("").unwrap();
        let at = place % (text.len() + 1);
        match typed {
            Typed::Text(typed) => text.ins(at, typed.as_str()).unwrap(),
            Typed::Halves(units) => text.ins(at, Text::from_utf16(units.iter().copied()).as_wtf8()).unwrap(),
            Typed::Erased(len) => text.del(at, (*len).min(text.len() - at)).unwrap(),
            Typed::Torn(times) => {
                for turn in 0..usize::from(*times) {
                    text.ins(at, "xy").unwrap();
                    text.del(at + turn % 2, 1).unwrap();
                }
            }
        }
    }
    model.into_document()
}

/// Both ways refuse, or come to the same document. Returns whether they came to one.
fn check(bytes: &[u8]) -> bool {
    // The system's id is that of no element: nothing is found, and no fast way is taken.
    let slow = binary::decode_seeking(bytes, Some(Timestamp::ORIGIN));
    match (Document::from_binary(bytes), slow) {
        (Ok(fast), Ok(slow)) => {
            fast.check().unwrap();
            slow.check().unwrap();
            assert_eq!(fast.to_binary(), slow.to_binary());
            assert_eq!(fast.to_native(Packing::Plain), slow.to_native(Packing::Plain));
            assert_eq!((fast.time(), fast.state_vector()), (slow.time(), slow.state_vector()));
            assert_eq!(fast.view(), slow.view());
            true
        }
        (fast, slow) => {
            let (fast, slow) = (fast.map(drop), slow.map(drop));
            assert!(fast.is_err() && slow.is_err(), "fast: {fast:?}, slow: {slow:?}");
            false
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_fast_way_reads_what_the_slow_one_does(
        edits in prop::collection::vec(edit(), 0..40),
        torn in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 1..12),
    ) {
        let bytes = document(&edits).to_binary();
        prop_assert!(check(&bytes));
        for (at, with, how) in torn {
            let (mut bytes, at) = (bytes.clone(), at.index(bytes.len()));
            match how {
                0 => bytes[at] ^= 1 << (with % 8),
                1 => bytes[at] = with,
                // The length of the root stays right.
                2 if bytes.len() > at + 1 => bytes.swap(at, at + 1),
                _ => bytes.truncate(at),
            }
            check(&bytes);
        }
    }
}
