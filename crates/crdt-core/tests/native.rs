//! The native snapshot: what comes back, what it does not depend on, and what it refuses.

#[path = "support/checksum.rs"]
#[expect(unreachable_pub, reason = "the fuzz targets include this module too")]
mod checksum;
mod support;

use checksum::repaired;
use crdt_core::{
    Applied, Document, Model, Patch, PatchBuilder, SessionId, Timespan, Timestamp, Value,
    codec::{Log, NativeError, Packing},
    document::Compaction,
};
use proptest::prelude::*;
use serde_json::json;
use support::{
    hex, plain,
    random::{mutated, patch, sensible},
    unhex,
};

const HOLDER: SessionId = SessionId::LOCAL;

fn receiver(sid: u64) -> Document {
    Document::new(SessionId::new(sid).unwrap())
}

/// A document out of patches that mostly mean something, with everything that can go wrong in between.
fn document(seeds: &[Vec<u8>]) -> Document {
    let mut document = receiver(66_000);
    for (index, seed) in seeds.iter().enumerate() {
        let patch = if index % 5 == 4 { patch(seed) } else { sensible(seed, index as u64) };
        let _ = document.merge(patch.as_ref());
    }
    document.check().unwrap();
    document
}

/// It comes back, in either packing, and says the same again.
fn check(document: &Document) {
    let bytes = document.to_native(Packing::Plain);
    let back = Document::from_native(&bytes, HOLDER).unwrap_or_else(|e| panic!("{e}: {document:?}"));
    back.check().unwrap();
    assert_eq!(plain(&back.view()), plain(&document.view()));
    assert_eq!(back.state_vector(), document.state_vector());
    assert_eq!(back.time(), document.time());
    assert_eq!(back.to_native(Packing::Plain), bytes);
    let packed = document.to_native(Packing::Deflate);
    assert!(packed.len() <= bytes.len());
    let unpacked = Document::from_native(&packed, HOLDER).unwrap();
    assert_eq!(unpacked.to_native(Packing::Plain), bytes);
    assert_eq!(Document::view_native(&bytes).unwrap(), back.view());
    assert_eq!(Document::view_native(&packed).unwrap(), back.view());
    for bytes in [bytes, packed] {
        check_opened(Document::open_native(bytes, HOLDER).unwrap(), &back);
    }
}

/// It is what the document is that was loaded from the same bytes, before and after it is read.
fn check_opened(opened: Document, loaded: &Document) {
    assert_eq!(opened.view(), loaded.view());
    assert_eq!(opened.state_vector(), loaded.state_vector());
    assert_eq!((opened.time(), opened.session()), (loaded.time(), loaded.session()));
    assert!(opened.peers().eq(loaded.peers()));
    assert_eq!(opened.compacted_to(), loaded.compacted_to());
    opened.check().unwrap();
    assert_eq!(opened.view(), loaded.view());
    assert_eq!(opened.to_native(Packing::Plain), loaded.to_native(Packing::Plain));
}

/// Refused with a reason, or a document that holds together.
fn check_bytes(bytes: &[u8]) {
    let view = Document::view_native(bytes);
    let document = Document::from_native(bytes, HOLDER);
    let opened = Document::open_native(bytes.to_vec(), HOLDER);
    assert_eq!(opened.as_ref().err(), document.as_ref().err());
    if let (Ok(document), Ok(opened)) = (document, opened) {
        document.check().unwrap();
        assert_eq!(view.unwrap(), document.view());
        check_opened(opened, &document);
        let again = document.to_native(Packing::Plain);
        assert_eq!(Document::from_native(&again, HOLDER).unwrap().to_native(Packing::Plain), again);
    }
}

fn seeds() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_document_comes_back(seeds in seeds()) {
        check(&document(&seeds));
    }

    #[test]
    fn a_patch_does_the_same_before_and_after(seeds in seeds(), last in prop::collection::vec(any::<u8>(), 0..60)) {
        let mut live = document(&seeds);
        let mut back = Document::from_native(&live.to_native(Packing::Plain), live.session()).unwrap();
        let patch = sensible(&last, 99);
        // Nodes that lost are not in the snapshot; no honest patch names one.
        let mut names_lost = false;
        for (_, op) in patch.ops() {
            op.for_each_dependency(|Timespan { start, .. }| {
                names_lost |= live.node(start).is_some() && back.node(start).is_none();
            });
        }
        prop_assume!(!names_lost);
        let (a, b) = (live.merge(patch.as_ref()), back.merge(patch.as_ref()));
        prop_assert_eq!(a.is_ok(), b.is_ok());
        prop_assert_eq!(plain(&live.view()), plain(&back.view()));
        back.check().unwrap();
    }

    #[test]
    fn mutated_snapshots_are_refused_or_sound(seeds in seeds(), change in prop::collection::vec(any::<u8>(), 1..12)) {
        let document = document(&seeds);
        for packing in [Packing::Plain, Packing::Deflate] {
            let changed = mutated(document.to_native(packing), &change);
            check_bytes(&changed);
            check_bytes(&repaired(&changed));
        }
    }

    #[test]
    fn keys_of_all_lengths_come_back(
        keys in prop::collection::btree_set("[\\x00a-c]{0,3}[ab\\x7fé]{0,18}", 1..40),
        change in prop::collection::vec(any::<u8>(), 1..12),
    ) {
        let mut model = Model::new(HOLDER);
        model.api().root(json!({})).unwrap();
        model.api().obj("").unwrap().set(keys.iter().map(|key| (&**key, 7))).unwrap();
        check(model.document());
        let changed = mutated(model.document().to_native(Packing::Plain), &change);
        check_bytes(&repaired(&changed));
    }

    #[test]
    fn any_bytes_are_refused_or_sound(columns in prop::collection::vec(prop::collection::vec(0..20u8, 0..8), 13)) {
        let mut bytes = b"Weft\x01\x00\0\0\0\0".to_vec();
        for (at, column) in columns.iter().enumerate() {
            // A clock that knows some times, so that more of the rest gets through.
            let column: &[u8] = if at == 0 { &[2, 3, 60, 1, 40, 0, 0] } else { column };
            bytes.push((column.len() as u8) << 1);
            bytes.extend(column);
        }
        check_bytes(&repaired(&bytes));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Many pieces of two sessions, so that ids are told apart as they are in what is large.
    #[test]
    fn mutated_texts_are_refused_or_sound(
        places in prop::collection::vec((any::<u16>(), 1..9usize, any::<bool>()), 60..160),
        values in 0..80u64,
        change in prop::collection::vec(any::<u8>(), 1..8),
        at in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut models = [70_000, 80_000].map(|sid| Model::new(SessionId::new(sid).unwrap()));
        models[0].api().root(json!({"text": "", "map": {}, "list": [0]})).unwrap();
        let start = models[0].flush().unwrap();
        prop_assert_eq!(models[1].apply(&start), Ok(Applied::Merged));
        for turn in 0..places.len() + values as usize {
            let who = match places.get(turn) {
                Some(&(place, len, second)) => {
                    let api = models[usize::from(second)].api();
                    let mut text = api.str("/text").unwrap();
                    let (at, end) = (usize::from(place) % (text.len() + 1), text.len());
                    text.ins(at, "abcdefgh".get(..len).unwrap()).unwrap();
                    if place % 3 == 0 && at + 2 < end {
                        text.del(at + 1, 2).unwrap();
                    }
                    usize::from(second)
                }
                None => {
                    let number = places.len() as u64 + values - turn as u64;
                    models[turn % 2].api().obj("/map").unwrap().set([(&*format!("k{number:02}"), number as i64)]).unwrap();
                    turn % 2
                }
            };
            let patch = models[who].flush().unwrap();
            prop_assert_eq!(models[1 - who].apply(&patch), Ok(Applied::Merged));
        }
        let bytes = models[0].document().to_native(Packing::Plain);
        check_bytes(&bytes);
        check_bytes(&repaired(&mutated(bytes.clone(), &change)));
        // Some other small number in the columns, which mostly leaves them readable.
        let mut changed = bytes;
        for (place, byte) in at {
            let place = 10 + place.index(changed.len() - 10);
            changed[place] = byte % 16;
            check_bytes(&repaired(&changed));
        }
    }
}

/// A history of what anyone could have done.
fn history(seeds: &[Vec<u8>]) -> Log {
    let mut log = Log::new(document(&seeds[..seeds.len() / 2]));
    for (index, seed) in seeds.iter().enumerate().skip(seeds.len() / 2) {
        log.push(if index % 3 == 2 { patch(seed) } else { sensible(seed, index as u64) });
    }
    log
}

fn check_history(log: &Log) {
    let bytes = log.to_native(Packing::Plain);
    let back = Log::from_native(&bytes, log.start().session()).unwrap_or_else(|e| panic!("{e}: {log:?}"));
    assert!(back.patches().eq(log.patches()));
    assert_eq!(back.to_native(Packing::Plain), bytes);
    let packed = Log::from_native(&log.to_native(Packing::Deflate), HOLDER).unwrap();
    assert!(packed.patches().eq(log.patches()));
    assert_eq!(plain(&back.start().view()), plain(&log.start().view()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_history_comes_back(seeds in seeds()) {
        check_history(&history(&seeds));
    }

    #[test]
    fn every_typed_history_comes_back(choices in prop::collection::vec(any::<u8>(), 1..200)) {
        let mut model = Model::new(SessionId::new(70_000).unwrap());
        let mut log = Log::new(model.fork(SessionId::new(70_000).unwrap()).into_document());
        model.api().root("").unwrap();
        let mut cursor = 0;
        for choice in choices {
            let mut text = model.api().str("").unwrap();
            match choice & 15 {
                0..8 => {
                    text.ins(cursor, ["a", "é", "\u{20ac}", "b"][usize::from(choice & 3)]).unwrap();
                    cursor += 1;
                }
                8..11 if cursor > 0 => {
                    text.del(cursor - 1, 1).unwrap();
                    cursor -= 1;
                }
                11 if cursor < text.len() => text.del(cursor, 1).unwrap(),
                12 => text.ins(cursor, "pasted 𝄞").unwrap(),
                13 => text.del(cursor / 2, 3.min(text.len() - cursor / 2)).map(|()| cursor /= 2).unwrap(),
                14 => cursor = usize::from(choice >> 4) % (text.len() + 1),
                _ => {
                    let patch = model.flush();
                    patch.into_iter().for_each(|patch| assert!(log.push(patch)));
                }
            }
        }
        model.flush().into_iter().for_each(|patch| assert!(log.push(patch)));
        check_history(&log);
        let back = Log::from_native(&log.to_native(Packing::Deflate), HOLDER).unwrap();
        prop_assert_eq!(back.end().unwrap().view(), model.view());
    }

    #[test]
    fn mutated_histories_are_refused_or_sound(seeds in seeds(), change in prop::collection::vec(any::<u8>(), 1..12)) {
        let log = history(&seeds);
        for packing in [Packing::Plain, Packing::Deflate] {
            let changed = repaired(&mutated(log.to_native(packing), &change));
            if let Ok(log) = Log::from_native(&changed, HOLDER) {
                log.start().check().unwrap();
                check_history(&log);
            }
        }
    }
}

/// What three sessions do at once to what one of them made.
fn concurrent_patches(choices: &[u8]) -> (Patch, Vec<Vec<Patch>>) {
    let mut first = Model::new(SessionId::new(70_000).unwrap());
    first
        .api()
        .root(json!({"text": "warp and weft", "list": [1, {"a": 2}, "three"], "map": {"x": {"y": 1}}}))
        .unwrap();
    let start = first.flush().unwrap();
    let mut patches = Vec::new();
    for (sid, choices) in
        [80_000, 90_000, 100_000].into_iter().zip(choices.chunks(choices.len().div_ceil(3).max(1)))
    {
        let mut model = Model::new(SessionId::new(sid).unwrap());
        let _ = model.apply(&start).unwrap();
        let mut own = Vec::new();
        for &choice in choices {
            let place = usize::from(choice >> 4);
            let done = match choice & 15 {
                0..4 => model.api().str("/text").and_then(|mut text| text.ins(place.min(text.len()), "é𝄞x")),
                4..6 => model.api().str("/text").and_then(|mut text| text.del(place.min(text.len()), 2)),
                6 => model.api().arr("/list").and_then(|mut list| list.ins(0, [&json!({"n": place})])),
                7 => model.api().arr("/list").and_then(|mut list| list.del(0, 1)),
                8 => model.api().arr("/list").and_then(|mut list| list.upd(0, json!([place]))),
                9 => model.api().obj("/map").and_then(|mut map| map.set([("x", &json!({"y": place}))])),
                10 => model.api().obj("/map/x").and_then(|mut x| x.set([("z", &json!({"deep": place}))])),
                11 => model.api().obj("").and_then(|mut root| root.set([("map", &json!({"x": {}}))])),
                12 => model.api().obj("").and_then(|mut root| root.del(["text"])),
                _ => model
                    .api()
                    .obj("")
                    .and_then(|mut root| root.set([(["a", "b", "c"][place % 3], &json!(place))])),
            };
            // What another choice deleted cannot be edited.
            if done.is_ok() {
                own.extend(model.flush());
            }
        }
        patches.push(own);
    }
    (start, patches)
}

fn take_in(holder: u64, start: &Patch, patches: &[Vec<Patch>], order: &[u8]) -> Document {
    let mut document = receiver(holder);
    let _ = document.apply(start).unwrap();
    let mut queues: Vec<_> = patches.iter().map(|own| own.iter()).collect();
    for &turn in order {
        let queue = &mut queues[usize::from(turn) % patches.len()];
        if let Some(patch) = queue.next() {
            let _ = document.apply(patch).unwrap();
        }
    }
    for patch in queues.into_iter().flatten() {
        let _ = document.apply(patch).unwrap();
    }
    document
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn equal_documents_give_equal_bytes_whatever_the_order(
        choices in prop::collection::vec(any::<u8>(), 3..40),
        one in prop::collection::vec(any::<u8>(), 0..60),
        other in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let (start, patches) = concurrent_patches(&choices);
        let one = take_in(200_000, &start, &patches, &one);
        let other = take_in(300_000, &start, &patches, &other);
        prop_assert_eq!(hex(&one.to_native(Packing::Plain)), hex(&other.to_native(Packing::Plain)));
        check(&one);
    }
}

#[test]
fn the_bytes_of_a_small_document_are_these() {
    let mut model = Model::new(SessionId::new(70_000).unwrap());
    model.api().root(json!({"text": "warp", "n": [1, null]})).unwrap();
    let _ = model.flush();
    model.api().str("/text").unwrap().ins(2, "--").unwrap();
    model.api().str("/text").unwrap().del(0, 1).unwrap();
    let _ = model.flush();
    let document = model.into_document();
    check(&document);
    assert_eq!(
        hex(&document.to_native(Packing::Plain)),
        "57656674010088bcaadd0e01f0a2041400000e020601000100040c0602020200060c020101010400140200016e0004746578740401\
         000401f60a00010200040a0100000101061800100a612d2d72700000"
    );
}

/// A fork is given on before its session made anything, and its origin knew later times than it made.
#[test]
fn equal_documents_give_equal_bytes_whoever_they_were_given_to() {
    let sid = |sid| SessionId::new(sid).unwrap();
    let mut author = Model::new(sid(70_003));
    author.api().root("warp and weft").unwrap();
    let patch = author.flush().unwrap();
    let direct = {
        let mut direct = receiver(70_002);
        assert_eq!(direct.apply(&patch), Ok(Applied::Merged));
        direct
    };
    for shared in [false, true] {
        let mut document = receiver(70_001);
        assert_eq!(document.apply(&patch), Ok(Applied::Merged));
        if shared {
            document.share();
        }
        let mut forks = vec![document.fork(sid(70_002)), document.fork(sid(70_002)).fork(sid(70_004))];
        let mut back = document.fork(sid(70_002));
        back.set_session(sid(70_001));
        forks.extend([back, author.document().fork(sid(70_002))]);
        for mut fork in forks {
            check(&fork);
            assert_eq!(fork.to_native(Packing::Plain), direct.to_native(Packing::Plain));
            assert_eq!(fork.state_vector(), direct.state_vector());
            // Nobody has to wait for what was never made.
            assert_eq!(fork.compact(&direct.state_vector()), Compaction::Done { elements: 0 });
        }
        // What it makes then is seen, and what its origin makes is new to it.
        let mut one = Model::from(document.fork(sid(70_002)));
        one.api().str("").unwrap().ins(0, "the ").unwrap();
        let one_made = one.flush().unwrap();
        let mut other = Model::from(document);
        other.api().str("").unwrap().ins(0, "a ").unwrap();
        let other_made = other.flush().unwrap();
        let mut one = one.into_document();
        one.set_session(sid(70_005));
        assert_eq!(one.apply(&one_made), Ok(Applied::Known));
        assert_eq!(one.apply(&other_made), Ok(Applied::Merged));
        assert_eq!(other.apply(&one_made), Ok(Applied::Merged));
        assert_eq!(one.to_native(Packing::Plain), other.document().to_native(Packing::Plain));
        assert_eq!(one.state_vector(), other.document().state_vector());
    }
}

/// What an application asks that only shows it, and what who takes it over does with it, leaves it lying there.
#[test]
fn an_opened_document_is_read_when_it_must_be() {
    let mut model = Model::new(SessionId::new(70_000).unwrap());
    model.api().root(json!({"text": "warp"})).unwrap();
    let sent = model.flush().unwrap();
    let bytes = model.document().to_native(Packing::Plain);
    let mut opened = Document::open_native(bytes, HOLDER).unwrap();
    let size = opened.size_bytes();
    opened.set_session(SessionId::new(80_000).unwrap());
    assert_eq!(opened.apply(&sent), Ok(Applied::Known));
    let mut taken = Model::new(SessionId::new(90_000).unwrap());
    taken.replace_document(opened.fork(SessionId::new(90_001).unwrap())).unwrap();
    let mut taken = Model::from(taken.into_document());
    taken.share();
    assert!(taken.document().shares_with(&opened));
    assert_eq!(taken.view(), Value::from(&json!({"text": "warp"})));
    assert_eq!(taken.document().state_vector(), model.document().state_vector());
    assert_eq!(taken.document().size_bytes(), opened.size_bytes());
    assert!(taken.document().size_bytes() < size + 200, "{size} and the sessions that it was given to");

    taken.api().str("/text").unwrap().ins(4, " and weft").unwrap();
    assert_eq!(
        taken.flush().unwrap().id(),
        Timestamp::new(SessionId::new(90_000).unwrap(), model.document().time())
    );
    assert!(!taken.document().shares_with(&opened));
    assert_eq!(opened.view(), model.view());
    taken.document().check().unwrap();
}

#[test]
fn a_document_goes_on_as_its_session() {
    let mut model = Model::new(SessionId::new(70_000).unwrap());
    model.api().root(json!({"text": "warp"})).unwrap();
    let _ = model.flush();
    let document = model.into_document();
    let back = Document::from_native(&document.to_native(Packing::Plain), document.session()).unwrap();
    assert_eq!((back.session(), back.next_id()), (document.session(), document.next_id()));
    assert_eq!(back.state_vector(), document.state_vector());
    let other = SessionId::new(80_000).unwrap();
    let fork = Document::from_native(&document.to_native(Packing::Plain), other).unwrap();
    assert_eq!(fork.next_id(), Timestamp::new(other, document.time()));
}

#[test]
fn a_node_that_nothing_refers_to_yet_is_kept() {
    let session = SessionId::new(70_000).unwrap();
    let mut b = PatchBuilder::new(session, 1);
    let map = b.new_obj();
    let mut document = receiver(66_000);
    let _ = document.apply(&b.take().unwrap()).unwrap();
    b.ins_val(Timestamp::ORIGIN, map);
    let later = b.take().unwrap();
    let mut back = Document::from_native(&document.to_native(Packing::Plain), HOLDER).unwrap();
    let _ = back.apply(&later).unwrap();
    assert_eq!(back.view(), Value::Map(Vec::new()));
}

#[test]
fn what_is_wrong_is_said() {
    let mut model = Model::new(SessionId::new(70_000).unwrap());
    model.api().root(json!({"text": "warp and weft, ".repeat(40)})).unwrap();
    let document = model.into_document();
    let bytes = document.to_native(Packing::Plain);
    let refused = |bytes: &[u8]| Document::from_native(bytes, HOLDER).unwrap_err().to_string();
    assert_eq!(refused(b"Wef"), "column `frame`, from byte 0: input ends at byte 3, within the head");
    assert_eq!(
        refused(b"PK\x03\x04......"),
        "starts with [50, 4b, 03, 04]: expected [57, 65, 66, 74] (\"Weft\")"
    );
    let newer = repaired(&[&bytes[..4], &[9], &bytes[5..]].concat());
    assert_eq!(refused(&newer), "version 9 of the native snapshot: this build reads version 1");
    let mut damaged = bytes.clone();
    damaged[20] ^= 1;
    assert!(matches!(Document::from_native(&damaged, HOLDER), Err(NativeError::Checksum { .. })));
    let short = repaired(&bytes[..bytes.len() - 5]);
    assert!(refused(&short).starts_with("column `frame`, from byte 0: "), "{}", refused(&short));
    // One packed byte that claims to be a megabyte.
    let bomb = repaired(&[&bytes[..10], &[0x81, 0x80, 0x80, 0x01, 0x02, 0x03, 0x00]].concat());
    assert!(refused(&bomb).contains("at most 128 is allowed"), "{}", refused(&bomb));
}

#[test]
fn a_snapshot_has_room_for_any_depth() {
    let deep = 50_000;
    let mut b = PatchBuilder::new(SessionId::new(70_000).unwrap(), 1);
    let root = b.new_val();
    b.ins_val(Timestamp::ORIGIN, root);
    let mut last = root;
    for _ in 0..deep {
        let next = b.new_val();
        b.ins_val(last, next);
        last = next;
    }
    let mut document = receiver(66_000);
    let _ = document.apply(&b.finish().unwrap()).unwrap();
    let bytes = document.to_native(Packing::Plain);
    let back = Document::from_native(&bytes, HOLDER).unwrap();
    assert_eq!(back.node_count(), deep + 1);
    assert_eq!(Document::view_native(&bytes).unwrap(), back.view());
}

/// Found by the fuzzer: a row of three keys where there are two.
#[test]
fn a_row_of_more_keys_than_there_are_is_refused() {
    let bytes = unhex(
        "57656674010088bcaadd0e01f0a2041400000e020601000100040c0602020200060c0400000004001402\
         00016e0004746578740401020401f60a00010200040a0100000101061800100a612d2d72700000",
    );
    let error = Document::view_native(&repaired(&bytes)).unwrap_err();
    assert!(error.to_string().contains("number of keys"), "{error}");
}

/// The system makes nothing, so its session has no place in the clock, also where a document goes on as it.
#[test]
fn a_document_of_the_systems_session_comes_back() {
    let value = json!([[0, 1000, 70_000, 9], [5, [-2, 1], [[[-2, 2], 3]]]]);
    let mut document = Document::from_compact(&Value::from(&value)).unwrap();
    assert_eq!((document.session(), document.time()), (SessionId::SYSTEM, 1001));
    let stable = document.state_vector();
    let _ = document.compact(&stable);
    for packing in [Packing::Plain, Packing::Deflate] {
        let native = document.to_native(packing);
        let back = Document::from_native(&native, SessionId::SYSTEM).unwrap();
        assert_eq!((back.time(), back.view()), (document.time(), document.view()));
        assert_eq!(back.compacted_to(), document.compacted_to());
        assert_eq!(back.to_native(packing), native);
    }
}
