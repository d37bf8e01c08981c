//! Laws of patches on random ones, and what decoders make of bytes that are no patch.

mod support;

use crdt_core::{
    Patch, PatchBuilder, PatchRef, SessionId, Timespan, Timestamp, Value,
    codec::{Malformed, PatchFormat, cbor, json, msgpack},
    patch::{Con, Op, RewriteError},
};
use proptest::prelude::*;
use support::{
    hex,
    random::{Entropy, mutated, patch},
    unhex,
};

fn entropy() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..160)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_form_brings_back_the_patch(entropy in entropy()) {
        let patch = patch(&entropy);
        for format in PatchFormat::ALL {
            if let Ok(bytes) = format.encode(&patch) {
                let back = format.decode(&bytes).unwrap_or_else(|e| panic!("{format:?}: {e}"));
                prop_assert_eq!(hex(back.as_bytes()), hex(patch.as_bytes()), "{:?}", format);
            }
        }
    }

    #[test]
    fn mutated_patches_are_refused_or_canonical(seed in entropy(), change in prop::collection::vec(any::<u8>(), 1..12)) {
        let patch = patch(&seed);
        for format in PatchFormat::ALL {
            if let Ok(bytes) = format.encode(&patch) {
                check(format, &mutated(bytes, &change));
            }
        }
    }

    #[test]
    fn any_bytes_are_refused_or_canonical(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        for format in PatchFormat::ALL {
            check(format, &bytes);
        }
        let _ = cbor::decode(&bytes);
        let _ = json::decode(&bytes);
        let _ = msgpack::decode(&bytes, 64);
    }

    #[test]
    fn values_come_back_from_their_containers(entropy in entropy()) {
        let value = Entropy(&entropy).value(6);
        prop_assert_eq!(&cbor::decode(&cbor::encode(&value)).unwrap(), &value);
        if json::is_json(&value) {
            prop_assert_eq!(&json::decode(json::encode(&value).as_bytes()).unwrap(), &value);
        }
        if msgpack::is_msgpack(&value) {
            prop_assert_eq!(&msgpack::decode(&msgpack::encode(&value), 64).unwrap(), &value);
        }
    }

    #[test]
    fn a_patch_moved_there_and_back_is_the_same(entropy in entropy(), to in 0u64..1000) {
        let patch = patch(&entropy);
        let home = patch.id().time;
        if let Ok(moved) = patch.rebase(to + home, 0) {
            prop_assert_eq!(moved.id().time, to + home);
            prop_assert_eq!(moved.span(), patch.span());
            prop_assert_eq!(moved.rebase(home, 0), Ok(patch));
        }
    }

    #[test]
    fn a_patch_cut_into_operations_combines_again(entropy in entropy()) {
        let whole = patch(&entropy);
        let parts: Vec<Patch> = whole.ops().filter_map(|(id, op)| {
            let mut b = PatchBuilder::new(id.sid, id.time);
            b.push(&op);
            b.set_meta(&whole.meta().map_or(Value::Undefined, |meta| meta.to_value()));
            b.finish()
        }).collect();
        prop_assert_eq!(Patch::combine(&parts), Ok(whole));
    }
}

/// What is decoded is canonical, and all that can be asked of it has an answer.
fn check(format: PatchFormat, bytes: &[u8]) {
    let Ok(patch) = format.decode(bytes) else { return };
    assert_eq!(PatchRef::decode(patch.as_bytes()).unwrap().to_patch(), patch, "{}", hex(bytes));
    assert_eq!(patch.ops().count() as u64, patch.op_count());
    let mut next = patch.id().time;
    for (id, op) in patch.ops() {
        assert_eq!(id.time, next);
        next += op.span();
    }
    assert_eq!(next, patch.next_time());
    let _ = (patch.dependencies(), patch.compact(), format!("{patch:?}"));
    let _ = patch.rebase(5, 3);
}

fn sid(id: u64) -> SessionId {
    SessionId::new(id).unwrap()
}

/// H1: the reference writes no length for an empty list, and its own reader then misreads the rest.
#[test]
fn empty_edits_are_never_written() {
    let mut b = PatchBuilder::new(sid(123_456), 1);
    let arr = b.new_arr();
    b.ins_arr(arr, arr, &[]);
    b.del(arr, &[]);
    b.del(arr, &[Timespan { start: arr, span: 0 }]);
    b.nop(0);
    b.ins_str(arr, arr, "");
    b.ins_bin(arr, arr, &[]);
    b.ins_obj::<&str, _>(arr, []);
    b.ins_vec(arr, []);
    let patch = b.finish().unwrap();
    assert_eq!(hex(patch.as_bytes()), "c0c40701f70130");
}

/// H1: with its length, an empty deletion can be read by everyone, and keeps its tick.
#[test]
fn an_empty_deletion_with_its_length_is_kept() {
    let patch = Patch::decode(&unhex("c0c40701f703308000010001")).unwrap();
    assert_eq!(hex(patch.as_bytes()), "c0c40701f703308000010001");
    assert_eq!(patch.span(), 3);
}

/// H1: the reference's own bytes of such edits do not parse, or parse to something else; they never half parse.
#[test]
fn the_references_misparsed_patches_are_refused() {
    for name in ["ins_arr_zero_elements", "del_zero_spans"] {
        let theirs =
            unhex(support::text(support::get(support::get(support::named("edge", name), "result"), "hex")));
        assert!(Patch::decode(&theirs).is_err(), "{name}");
    }
}

/// H3: the reference writes an index as one octet and reads it as CBOR, which agree up to 23 only.
#[test]
fn every_index_of_a_tuple_survives() {
    for index in 0..=255 {
        let mut b = PatchBuilder::new(sid(123_456), 1);
        let vec = b.new_vec();
        b.ins_vec(vec, [(index, vec)]);
        let patch = Patch::decode(b.finish().unwrap().as_bytes()).unwrap();
        let Some((_, Op::InsVec { slots, .. })) = patch.ops().last() else { panic!("{patch:?}") };
        assert_eq!(slots.collect::<Vec<_>>(), [(index, vec)]);
    }
}

/// H7: the reference moves the ids of a rebased patch but not its deletions.
#[test]
fn rebase_moves_deletions_too() {
    let case = support::get(support::named("edge", "patch_rebase"), "result");
    let before = Patch::from_compact(support::get(case, "before")).unwrap();
    assert_eq!(before.id(), Timestamp::new(sid(123_456), 5));
    let after = before.rebase(100, 5).unwrap();
    let theirs = json::encode(support::get(case, "after"));
    let ours = json::encode(&after.to_compact());
    assert_eq!(ours, theirs.replace("[[5,1]]", "[[100,1]]"));
}

#[test]
fn rebase_cuts_a_deletion_that_crosses_the_line() {
    let (own, obj) = (sid(70_000), Timestamp::new(sid(70_000), 1));
    let mut b = PatchBuilder::new(own, 10);
    b.del(obj, &[Timespan { start: Timestamp::new(own, 6), span: 6 }]);
    let moved = b.finish().unwrap().rebase(30, 10).unwrap();
    let Some((_, Op::Del { spans, .. })) = moved.ops().next() else { panic!("{moved:?}") };
    let spans: Vec<_> = spans.map(|span| (span.start.time, span.span)).collect();
    assert_eq!(spans, [(6, 4), (30, 2)]);
}

/// H15: the reference drops the meta.
#[test]
fn rewriting_keeps_the_meta() {
    let mut b = PatchBuilder::new(sid(70_000), 1);
    b.set_meta(&"by ada".into());
    b.new_con(&Value::Null);
    let patch = b.finish().unwrap();
    for rewritten in [patch.rebase(9, 0).unwrap(), patch.compact(), Patch::combine([&patch]).unwrap()] {
        assert_eq!(rewritten.meta().unwrap().to_value(), "by ada".into());
    }
}

#[test]
fn a_gap_is_bridged_and_an_overlap_refused() {
    let one = |time| {
        let mut b = PatchBuilder::new(sid(70_000), time);
        b.new_obj();
        b.finish().unwrap()
    };
    let joined = Patch::combine([&one(1), &one(5)]).unwrap();
    let ops: Vec<_> = joined.ops().map(|(id, op)| (id.time, op.span())).collect();
    assert_eq!(ops, [(1, 1), (2, 3), (5, 1)]);
    let next = Timestamp::new(sid(70_000), 1);
    assert_eq!(Patch::combine([&one(1), &one(1)]), Err(RewriteError::Overlap { end: 2, next }));
}

#[test]
fn typing_is_compacted_into_one_insertion() {
    let mut b = PatchBuilder::new(sid(70_000), 1);
    let text = b.new_str();
    let mut after = text;
    for c in ["a", "b\u{1f642}", "c"] {
        let id = b.ins_str(text, after, c);
        after = id.tick(crdt_core::Wtf8::from(c).units() as u64 - 1);
    }
    b.ins_str(text, text, "x");
    let compact = b.finish().unwrap().compact();
    let texts: Vec<_> = compact
        .ops()
        .filter_map(|(_, op)| match op {
            Op::InsStr { text, .. } => Some(text.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(texts, ["ab\u{1f642}c", "x"]);
}

#[test]
fn dependencies_are_the_last_ids_of_other_sessions() {
    let (own, other) = (sid(70_000), sid(80_000));
    let mut b = PatchBuilder::new(own, 10);
    let text = Timestamp::new(other, 3);
    b.ins_str(text, Timestamp::new(other, 7), "x");
    b.del(text, &[Timespan { start: Timestamp::new(other, 6), span: 4 }]);
    b.new_con_id(Timestamp::new(sid(90_000), 50));
    b.ins_val(Timestamp::ORIGIN, Timestamp::new(own, 1));
    let seen = b.finish().unwrap().dependencies();
    assert_eq!(seen.iter().map(|(sid, time)| (*sid, time)).collect::<Vec<_>>(), [(other, 9)]);
}

#[test]
fn other_spellings_are_respelled() {
    // Long numbers, a wide length, a wide integer, own session named, meta that is no array, stray low bits.
    let odd = unhex("c0c487008100056b028000f70019000110 0011".replace(' ', "").as_str());
    assert!(Patch::decode(&odd).is_err());
    let odd = unhex("c0c40701f7021a001900050848800001".replace("1a", "00").as_str());
    assert!(Patch::decode(&odd).is_err());
    let odd = unhex("c0c4070106030019000512498000c1c0c407".replace("c1", "81").as_str());
    assert_eq!(PatchRef::decode(&odd), Err(Malformed::NotCanonical));
    let patch = Patch::decode(&odd).unwrap();
    assert_eq!(hex(patch.as_bytes()), "c0c40701810603000510488000 01".replace(' ', ""));
    assert_eq!(patch.meta().unwrap().to_value(), 6.into());
}

#[test]
fn times_beyond_the_last_are_refused() {
    for end in ["ffffffffffffff0ff70108", "feffffffffffff0ff7010808"] {
        let bytes = unhex(&format!("c0c407{end}"));
        assert!(matches!(
            Patch::decode(&bytes),
            Err(Malformed::TooLarge { .. } | Malformed::LeftOver { .. })
        ));
    }
    let nops = format!("c0c40701f7ffff03{}", "88ffffffffffffff0f".repeat(0xffff));
    assert!(Patch::decode(&unhex(&nops)).is_err());
    let json = format!("[[[70000,1]]{}]", ",[17,9007199254740991]".repeat(3000));
    assert!(PatchFormat::Compact.decode(json.as_bytes()).is_err());
}

#[test]
fn errors_say_what_and_where() {
    let check = |json: &str, expect: &str| {
        assert_eq!(PatchFormat::Compact.decode(json.as_bytes()).unwrap_err().to_string(), expect);
    };
    check("[[[70000,1]],[12,1,1,5]]", "a number at $[1][3]: expected text");
    check("[[[70000,1]],[99]]", "99 at $[1][0]: expected an opcode");
    check("[[[70000,1]]]", "none at $: expected at least one operation");
    check("{}", "a map at $: expected a patch: an array");
    let error = Patch::decode(&unhex("c0c40701f70101")).unwrap_err();
    assert_eq!(error.to_string(), "input ends at byte 7, within a timestamp");
    assert!(Patch::decode(&[0x91; 1000]).is_err());
}

/// A constant nested a hundred thousand deep is refused, and takes no stack.
#[test]
fn deep_nests_are_refused() {
    let mut deep = unhex("c0c40701f70100");
    deep.extend([0x81; 100_000]);
    assert!(matches!(Patch::decode(&deep), Err(Malformed::TooDeep { .. })));
    assert!(matches!(json::decode(&[b'['; 100_000]), Err(Malformed::TooDeep { .. })));
    // JavaScript reads infinity, and has no JSON for it then.
    assert!(matches!(json::decode(b"[1e999]"), Err(Malformed::Unexpected { at: 1, .. })));
    assert!(matches!(json::decode(b"[1,-1e309]"), Err(Malformed::Unexpected { at: 3, .. })));
    assert_eq!(json::decode(b"1.7976931348623157e308").unwrap().as_f64(), Some(f64::MAX));
    assert!(matches!(msgpack::decode(&[0x91; 100_000], 128), Err(Malformed::TooDeep { .. })));
}

#[test]
fn json_values_become_the_nodes_of_json_joy() {
    let value = json::decode(br#"{"b":[1,"x"],"2":null,"1":{"k":true}}"#).unwrap();
    let mut b = PatchBuilder::new(sid(123_456), 1);
    let root = b.json(&value);
    b.ins_val(Timestamp::ORIGIN, root);
    let expect = "[[[123456,1]],[2],[2],[0,true],[10,2,[[\"k\",3]]],[0,null],[6],[1],[0,1],[9,7,8],[4],[12,10,10,\"x\"],\
                  [14,6,6,[7,10]],[10,1,[[\"1\",2],[\"2\",5],[\"b\",6]]],[9,[0,0],1]]";
    assert_eq!(json::encode(&b.finish().unwrap().to_compact()), expect);
}

#[test]
fn constants_keep_every_number() {
    for n in [0.1, -0.0, 1e21, 1.5e-9, f64::NAN, f64::INFINITY, 2f64.powi(53), 1e20, -1.0e-6] {
        let mut b = PatchBuilder::new(sid(70_000), 1);
        b.new_con(&Value::from(n));
        let patch = b.finish().unwrap();
        let Some((_, Op::NewCon(Con::Value(raw)))) = patch.ops().next() else { panic!() };
        assert_eq!(raw.to_value(), Value::from(n));
    }
    let shown: Vec<_> = [1e21, 1.5e-9, 1e20, 123e-8, 0.1].map(|n| json::encode(&Value::from(n))).into();
    assert_eq!(shown, ["1e+21", "1.5e-9", "100000000000000000000", "0.00000123", "0.1"]);
}

#[test]
fn a_patch_without_a_json_form_says_which_operation_it_is() {
    let mut b = PatchBuilder::new(SessionId::USER_MIN, 7);
    b.new_con(&Value::Null);
    b.new_con(&Value::Bytes(vec![1]));
    let error = PatchFormat::Compact.encode(&b.finish().unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a patch with a constant that holds more than JSON at 65536.8 has no form in JSON: take a binary form"
    );
}

/// A deletion that crosses the line is moved in part; that part must have times to go to as well.
#[test]
fn rebase_refuses_to_move_a_part_of_a_deletion_beyond_all_times() {
    let sid = SessionId::new(70_001).unwrap();
    let at = |time| Timestamp::new(sid, time);
    let mut builder = PatchBuilder::new(sid, 100);
    builder.del(at(1), &[Timespan { start: at(50), span: 1 << 52 }]);
    let patch = builder.finish().unwrap();
    let near_the_end = (1 << 53) - 100;
    match patch.rebase(near_the_end, 100) {
        Ok(moved) => panic!("{moved:?} is read as {:?}", Patch::decode(moved.as_bytes())),
        Err(refused) => assert!(matches!(refused, RewriteError::OutOfTime { .. }), "{refused}"),
    }
}

/// A remark changes nothing of what a patch does, and is what its forms carry.
#[test]
fn a_remark_is_put_on_a_patch_and_taken_off() {
    let mut b = PatchBuilder::new(SessionId::new(70_001).unwrap(), 1);
    let text = b.json(&"warp".into());
    b.ins_val(Timestamp::ORIGIN, text);
    let plain = b.finish().unwrap();
    let remark = Value::Map(vec![("author".into(), "ada".into())]);
    let told = plain.with_meta(&remark);
    assert_eq!(told.meta().unwrap().to_value(), remark);
    let ops = |patch: &Patch| format!("{:?}", patch.ops().collect::<Vec<_>>());
    assert_eq!((told.id(), told.span(), ops(&told)), (plain.id(), plain.span(), ops(&plain)));
    for format in PatchFormat::ALL {
        assert_eq!(format.decode(&format.encode(&told).unwrap()).unwrap(), told, "{format:?}");
    }
    assert_eq!(told.with_meta(&7.into()).with_meta(&Value::Undefined), plain);
}
