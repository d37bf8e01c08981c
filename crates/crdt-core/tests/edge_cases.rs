//! The 36 recorded edge cases of json-joy, but for those of the log file and of texts, which other tests have. Where we do
//! otherwise by rule, the test names the hazard (H…) and says what the reference does.

mod support;

use crdt_core::{
    Applied, Document, Model, Patch, PatchBuilder, SessionId, Text, Timespan, Timestamp, Value,
    codec::{DocumentFormat, PatchFormat, document::indexed, json},
};
use support::{get, hex, items, named, number, plain, text, unhex};

const A: u64 = 123_456;

fn sid(id: u64) -> SessionId {
    SessionId::new(id).unwrap()
}

fn at(session: u64, time: u64) -> Timestamp {
    Timestamp::new(sid(session), time)
}

fn recorded(name: &str) -> &'static Value {
    get(named("edge", name), "result")
}

/// A patch of a session from a time on.
fn patch(session: u64, time: u64, build: impl FnOnce(&mut PatchBuilder)) -> Patch {
    let mut b = PatchBuilder::new(sid(session), time);
    build(&mut b);
    b.finish().unwrap()
}

fn merged(receiver: u64, patches: &[Patch]) -> Document {
    let mut document = Document::new(sid(receiver));
    for patch in patches {
        let _: Applied = document.merge(patch.as_ref()).unwrap();
    }
    document
}

/// Text node (A, 1) in the root, its content from (A, 3) on.
fn text_patch(content: &str) -> Patch {
    patch(A, 1, |b| {
        let node = b.new_str();
        b.ins_val(Timestamp::ORIGIN, node);
        b.ins_str(node, node, content);
    })
}

fn deletion(session: u64, time: u64, start: Timestamp, span: u64) -> Patch {
    patch(session, time, |b| {
        b.del(at(A, 1), &[Timespan { start, span }]);
    })
}

/// A case that no test reads could say anything.
#[test]
fn every_recorded_case_is_looked_at() {
    // A hash by which json-joy compares two models in one process; we have none.
    let not_ours = ["hash_model"];
    let cases = items(get(support::vectors(), "edge"));
    assert_eq!(cases.len(), 36);
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let tests: String = files
        .filter(|path| path.extension().is_some_and(|end| end == "rs"))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    for case in cases {
        let name = text(get(case, "name"));
        assert!(not_ours.contains(&name) || tests.contains(&format!("\"{name}\"")), "{name}");
    }
}

/// H3: the reference writes a place as an octet and reads it as CBOR, so it reads another patch than it wrote.
#[test]
fn a_place_from_24_on_is_read_as_it_was_written() {
    let case = recorded("vec_index_24_binary_roundtrip");
    let theirs = unhex(text(get(case, "hex")));
    let wide = patch(A, 1, |b| {
        let (vec, con) = (b.new_vec(), b.new_con(&1.into()));
        b.ins_vec(vec, [(24, con)]);
        b.ins_val(Timestamp::ORIGIN, vec);
    });
    // What they read of their own bytes puts a value that is not there into place 2.
    let read = get(get(case, "decoded"), "ops");
    assert_eq!(get(&items(read)[2], "value").clone(), json::decode(b"[[2,[123456,8]]]").unwrap());
    assert_ne!(hex(wide.as_bytes()), hex(&theirs));
    let back = Patch::decode(wide.as_bytes()).unwrap();
    assert_eq!(back.to_verbose(), wide.to_verbose());
    assert_eq!(merged(A, &[back]).view(), merged(A, &[wide]).view());
}

#[test]
fn a_tuple_has_256_places() {
    let wide = patch(A, 1, |b| {
        let vec = b.new_vec();
        let con = b.new_con(&1.into());
        b.ins_vec(vec, [(255, con)]);
        b.ins_val(Timestamp::ORIGIN, vec);
    });
    let document = merged(A, std::slice::from_ref(&wide));
    let view = document.view();
    assert_eq!(items(&view).len() as u64, number(get(recorded("vec_index_255_verbose"), "len")));
    // The reference throws when it applies index 256; here no form can say it.
    let mut verbose = json::encode(&wide.to_verbose());
    verbose = verbose.replace("[[255,", "[[256,");
    assert!(PatchFormat::Verbose.decode(verbose.as_bytes()).is_err());
    assert!(recorded("vec_index_256").get("$error").is_some());
}

/// H1: the reference writes a `nop` of 0 without its length, and reads something else.
#[test]
fn a_nop_of_zero_is_not_misread() {
    let theirs = unhex(text(get(recorded("nop_zero"), "hex")));
    assert!(Patch::decode(&theirs).is_err());
}

#[test]
fn a_patch_without_operations_has_no_form() {
    assert!(get(recorded("empty_patch"), "verbose").get("$error").is_some());
    assert_eq!(PatchBuilder::new(sid(A), 1).finish(), None);
    assert!(Patch::decode(&unhex("c0c40701f700")).is_err());
    assert!(PatchFormat::Verbose.decode(br#"{"id":[123456,1],"ops":[]}"#).is_err());
}

#[test]
fn a_server_patch_says_its_session_in_verbose_form() {
    let theirs = recorded("server_patch_verbose_id");
    let patch = Patch::from_verbose(theirs).unwrap();
    assert_eq!(&patch.to_verbose(), theirs);
    let bare = br#"{"id":5,"ops":[{"op":"nop"}]}"#;
    let id = items(get(recorded("verbose_decode_numeric_id"), "id"));
    assert_eq!(PatchFormat::Verbose.decode(bare).unwrap().id(), at(number(&id[0]), number(&id[1])));
}

#[test]
fn a_server_document_keeps_a_timestamp_beyond_its_time() {
    let case = recorded("server_clock_con_ts");
    let mut document = Document::new_server();
    let patch = Patch::decode(&unhex(text(get(case, "binary")))).unwrap();
    let _: Applied = document.merge(patch.as_ref()).unwrap();
    assert_eq!(hex(&document.to_binary()), text(get(case, "model")));
    let back = Document::from_binary(&document.to_binary()).unwrap();
    assert_eq!(&back.view(), get(get(case, "view_after"), "$ts"));
}

/// H8: a session without a live id is in no snapshot, there as here; the clock is above all it did all the same.
#[test]
fn a_snapshot_forgets_sessions_without_an_id_in_the_tree() {
    let case = recorded("gc_drops_peer_clock");
    let base = patch(A, 1, |b| {
        let con = b.new_con(&1.into());
        b.ins_val(Timestamp::ORIGIN, con);
    });
    let peer = patch(200_000, 100, |b| {
        let con = b.new_con(&2.into());
        b.ins_val(Timestamp::ORIGIN, con);
    });
    let again = patch(A, 200, |b| {
        let con = b.new_con(&3.into());
        b.ins_val(Timestamp::ORIGIN, con);
    });
    let document = merged(A, &[base, peer, again]);
    let peers = |document: &Document| -> Value {
        document.peers().map(|peer| [peer.sid.get(), peer.time].into_iter().collect::<Value>()).collect()
    };
    assert_eq!(&peers(&document), get(case, "before"));
    assert_eq!(document.time(), number(get(case, "time_before")));
    let back = Document::from_binary(&document.to_binary()).unwrap();
    assert_eq!(&peers(&back), get(case, "after"));
    assert_eq!(back.time(), number(get(case, "time_after")));
}

#[test]
fn a_seen_peer_is_forgotten_but_its_time_is_not() {
    let case = recorded("peer_clock_lost_after_reload_then_new_op");
    let peer = deletion(200_000, 11, at(A, 7), 1);
    let document = merged(70_000, &[text_patch("hello"), peer]);
    let back = Document::from_binary(&document.to_binary()).unwrap();
    assert_eq!(back.time(), number(get(case, "re_time")));
    assert_eq!(document.peers().count(), 2);
    assert_eq!(back.peers().count(), 1);
}

/// H4: the reference follows links between chunks, and finds others after a reload than before. Here a span deletes each
/// of its ids, wherever it stands, before a reload and after it.
#[test]
fn a_deletion_over_several_runs_deletes_all_its_ids() {
    let abc = text_patch("abc");
    let xyz_before = patch(A, 6, |b| {
        b.ins_str(at(A, 1), at(A, 1), "XYZ");
    });
    let xyz_within = patch(A, 6, |b| {
        b.ins_str(at(A, 1), at(A, 3), "XYZ");
    });
    let span = deletion(A, 19, at(A, 3), 6);
    for middle in [xyz_before, xyz_within] {
        let live = merged(A, &[abc.clone(), middle.clone(), span.clone()]);
        assert_eq!(live.view(), "".into());
        let mut reloaded = Document::from_binary(&merged(A, &[abc.clone(), middle]).to_binary()).unwrap();
        let _: Applied = reloaded.merge(span.as_ref()).unwrap();
        assert_eq!(reloaded.to_binary(), live.to_binary());
    }
    for name in [
        "delete_span_across_unlinked_chunks_live",
        "delete_span_across_unlinked_chunks_reloaded",
        "delete_span_across_unlinked_reversed_live",
    ] {
        assert_eq!(get(recorded(name), "view"), &"XYZ".into(), "the reference keeps the second run");
    }
    let theirs = recorded("reload_delete_span_divergence");
    assert_ne!(get(theirs, "live"), get(theirs, "reloaded"));
}

#[test]
fn a_deletion_that_runs_beyond_the_text_deletes_what_there_is() {
    let case = recorded("delete_span_partial_unknown_tail");
    let document = merged(A, &[text_patch("hello"), deletion(A, 20, at(A, 6), 10)]);
    assert_eq!(&document.view(), get(case, "view"));
    assert_eq!(hex(&document.to_binary()), text(get(case, "model")));
}

/// H4: the reference ignores a span whose first id is unknown.
#[test]
fn a_deletion_that_starts_before_the_text_deletes_what_there_is() {
    let document = merged(A, &[text_patch("hello"), deletion(A, 19, at(A, 2), 3)]);
    assert_eq!(document.view(), "llo".into());
    assert_eq!(get(recorded("delete_span_unknown_head"), "view"), &"hello".into());
}

/// H11: the reference inserts at a wrong place.
#[test]
fn an_insertion_after_an_unknown_id_has_no_effect() {
    let odd = patch(200_000, 20, |b| {
        b.ins_str(at(A, 1), at(A, 2), "?");
    });
    assert_eq!(merged(A, &[text_patch("hello"), odd]).view(), "hello".into());
    assert_eq!(get(recorded("ins_ref_unknown_smaller_time_same_sid"), "view"), &"hel?lo".into());
}

#[test]
fn an_id_that_is_used_twice_keeps_its_first_content() {
    let document = merged(A, &[text_patch("hello"), text_patch("world")]);
    assert_eq!(&document.view(), get(recorded("same_id_twice_different_content"), "view"));
}

/// H2: beyond 41 units the reference writes U+FFFD for half a character.
#[test]
fn half_a_character_survives_in_texts_of_any_length() {
    for len in [1, 60] {
        let mut units = vec![u16::from(b'x'); len];
        units.push(0xd83d);
        let content = Text::from_utf16(units.iter().copied());
        let patch = patch(A, 1, |b| {
            let node = b.new_str();
            b.ins_val(Timestamp::ORIGIN, node);
            b.ins_str(node, node, content.as_wtf8());
        });
        let document = merged(A, &[patch]);
        for form in DocumentFormat::ALL {
            let back = form.decode(&form.encode(&document).unwrap()).unwrap();
            assert_eq!(back.view(), Value::Text(content.clone()), "{form:?}");
        }
        if len == 1 {
            assert_eq!(hex(&document.to_binary()), text(get(recorded("short_lone_surrogate_model"), "hex")));
        }
    }
    assert!(text(get(recorded("long_lone_surrogate_model"), "hex_tail")).contains("efbfbd"));
}

#[test]
fn session_ids_are_drawn_within_their_bounds() {
    assert_eq!(get(recorded("random_sids_min"), "ge_65535"), &true.into());
    assert_eq!(SessionId::from_random(0).get(), 65_536);
    // The reference can draw 65535; it is taken.
    assert!(SessionId::new(65_535).is_ok());
}

/// H12: the reference's views lose this key.
#[test]
fn proto_is_a_key_like_any_other() {
    let patch = patch(A, 1, |b| {
        let obj = b.new_obj();
        let con = b.new_con(&1.into());
        b.ins_obj(obj, [("__proto__", con)]);
        b.ins_val(Timestamp::ORIGIN, obj);
    });
    let document = merged(A, &[patch]);
    assert_eq!(hex(&document.to_binary()), text(get(recorded("obj_proto_key"), "model")));
    assert_eq!(document.view().get("__proto__"), Some(&1.into()));
}

#[test]
fn a_local_patch_is_moved_behind_what_was_seen() {
    let case = recorded("applyLocalPatch_rebase");
    let local = text_patch("hello");
    let moved = local.rebase(2, 1).unwrap();
    let document = merged(
        A,
        &[
            patch(A, 1, |b| {
                b.nop(1);
            }),
            moved,
        ],
    );
    assert_eq!(&document.view(), get(case, "view"));
    assert_eq!(document.time(), number(get(case, "time")));
}

/// H6: in the indexed form nodes that nothing refers to survive; in structural forms they do not, here as there.
#[test]
fn orphans_are_in_the_indexed_form_only() {
    let orphan = patch(A, 1, |b| {
        b.new_con(&"orphan".into());
        let con = b.new_con(&1.into());
        b.ins_val(Timestamp::ORIGIN, con);
    });
    let document = merged(A, &[orphan]);
    let fields = indexed::encode(&document).unwrap();
    let mut names: Vec<_> = items(recorded("indexed_orphans")).iter().map(text).collect();
    names.sort_unstable();
    assert_eq!(fields.keys().map(String::as_str).collect::<Vec<_>>(), names);
    assert_eq!(indexed::decode(&fields).unwrap().node_count(), 2);
    assert_eq!(Document::from_binary(&document.to_binary()).unwrap().node_count(), 1);
}

/// H6: a node that was never attached and is attached later shows on a live replica and not on a reloaded one.
#[test]
fn a_late_attachment_of_an_orphan_depends_on_a_reload() {
    let case = recorded("orphan_reattach_depends_on_reload");
    let base = patch(A, 1, |b| {
        let obj = b.new_obj();
        let con = b.new_con(&1.into());
        b.ins_obj(obj, [("k", con)]);
        b.ins_val(Timestamp::ORIGIN, obj);
        b.new_con(&"orphan".into());
    });
    let attach = patch(A, 6, |b| {
        b.ins_obj(at(A, 1), [("z", at(A, 5))]);
    });
    let live = merged(A, &[base.clone(), attach.clone()]);
    assert_eq!(plain(&live.view()), plain(get(case, "live")));
    let mut reloaded = Document::from_binary(&merged(A, &[base]).to_binary()).unwrap();
    let _: Applied = reloaded.merge(attach.as_ref()).unwrap();
    assert_eq!(plain(&reloaded.view()), plain(get(case, "reloaded")));
}

#[test]
fn a_fork_has_seen_what_its_origin_did() {
    let document = merged(A, &[text_patch("hello")]);
    let fork = document.fork(sid(200_000));
    let mut renamed = document;
    renamed.set_session(sid(200_000));
    for (name, fork) in [("fork_clock", fork), ("setSid_clock", renamed)] {
        let case = recorded(name);
        assert_eq!(fork.time(), number(get(case, "time")), "{name}");
        let peers: Value =
            fork.peers().map(|peer| [peer.sid.get(), peer.time].into_iter().collect::<Value>()).collect();
        assert_eq!(&peers, get(case, "peers"), "{name}");
    }
}

#[test]
fn default_contents_are_the_global_sessions() {
    let case = recorded("schema_global");
    let schema = Patch::from_verbose(get(case, "patch")).unwrap();
    let document = merged(A, &[schema]);
    assert_eq!(hex(&document.to_binary()), text(get(case, "model")));
}

/// H10: after a reload the reference joins a late insertion to the wrong chunk, and ids are lost.
#[test]
fn a_reload_does_not_change_what_a_late_insertion_does() {
    let case = recorded("reload_stale_split_link_corrupts_ids");
    let base = text_patch("ab");
    let x = patch(300_000, 10, |b| {
        b.ins_str(at(A, 1), at(A, 3), "X");
    });
    let c = patch(100_000, 4, |b| {
        b.ins_str(at(A, 1), at(A, 4), "c");
    });
    let w = patch(300_000, 11, |b| {
        b.ins_str(at(A, 1), at(300_000, 10), "W");
    });
    let before = merged(A, &[base, x, c]);
    let mut live = before.clone();
    let mut reloaded = Document::from_binary(&before.to_binary()).unwrap();
    for document in [&mut live, &mut reloaded] {
        let _: Applied = document.merge(w.as_ref()).unwrap();
    }
    assert_eq!(live.to_binary(), reloaded.to_binary());
    assert_eq!(live.to_verbose(), reloaded.to_verbose());
    // The reference: the same view, but other chunks.
    let (theirs, again) = (get(case, "live"), get(case, "reloaded"));
    assert_eq!(get(theirs, "view"), get(again, "view"));
    assert_ne!(get(theirs, "chunks"), get(again, "chunks"));
}

/// H14: key order and table order are those of arrival.
#[test]
fn structural_bytes_depend_on_arrival_and_views_do_not() {
    let base = patch(A, 1, |b| {
        let obj = b.new_obj();
        b.ins_val(Timestamp::ORIGIN, obj);
    });
    let set = |session, key: &'static str, n: i64| {
        patch(session, 3, |b| {
            let con = b.new_con(&n.into());
            b.ins_obj(at(A, 1), [(key, con)]);
        })
    };
    let (x, y) = (set(200_000, "x", 1), set(300_000, "y", 2));
    let a = merged(70_000, &[base.clone(), x.clone(), y.clone()]);
    let b = merged(70_000, &[base, y, x]);
    assert_eq!(get(recorded("obj_key_order_depends_on_arrival"), "equal"), &false.into());
    assert_ne!(a.to_binary(), b.to_binary());
    assert_eq!(plain(&a.view()), plain(&b.view()));
}

/// H9: the reference cannot write a timestamp beyond what was seen of its session.
#[test]
fn a_timestamp_beyond_the_clock_is_written_and_read() {
    for name in ["new_con_ts_same_session", "new_con_ts_other_session"] {
        let vector = named("vectors", name);
        assert!(get(get(vector, "result"), "model_binary").get("$error").is_some());
        let patch = Patch::decode(&unhex(text(get(vector, "binary")))).unwrap();
        let document = merged(A, &[patch]);
        for form in DocumentFormat::ALL {
            let back = form.decode(&form.encode(&document).unwrap()).unwrap();
            assert_eq!(back.view(), document.view(), "{name} {form:?}");
        }
    }
}

/// H5: of a node with two references the reference writes a corrupt file when one of them is replaced.
#[test]
fn a_reference_to_a_removed_node_is_written_as_nothing() {
    let base = patch(A, 1, |b| {
        let obj = b.new_obj();
        let value = b.json(&"v".into());
        b.ins_obj(obj, [("k", value), ("k2", value)]);
        b.ins_val(Timestamp::ORIGIN, obj);
        let zero = b.new_con(&0.into());
        b.ins_obj(obj, [("k", zero)]);
    });
    let document = merged(A, &[base]);
    assert_eq!(json::encode(&plain(&document.view())), r#"{"k":0}"#);
    for form in DocumentFormat::ALL {
        let back = form.decode(&form.encode(&document).unwrap()).unwrap();
        assert_eq!(plain(&back.view()), plain(&document.view()), "{form:?}");
    }
}

/// H13: minus zero is zero, and NaN has no JSON form.
#[test]
fn numbers_that_json_lacks_are_not_written_as_json() {
    let of = |n: f64| {
        patch(A, 1, |b| {
            let con = b.new_con(&n.into());
            b.ins_val(Timestamp::ORIGIN, con);
        })
    };
    assert_eq!(merged(A, &[of(-0.0)]).view(), 0.into());
    let nan = merged(A, &[of(f64::NAN)]);
    assert!(DocumentFormat::Verbose.encode(&nan).is_err());
    assert!(matches!(Document::from_binary(&nan.to_binary()).unwrap().view(), Value::Float(n) if n.is_nan()));
}

/// What json-joy's editing API makes of edits, ours makes, byte for byte.
#[test]
fn the_editing_api_makes_json_joys_operations() {
    let mut model = Model::new(sid(A));
    let entries = [
        ("t", Value::from("hi")),
        ("l", [1, 2, 3].into_iter().collect()),
        ("o", Value::Map(vec![("k".into(), 1.into())])),
    ];
    let root = Value::Map(entries.into_iter().map(|(key, value)| (key.into(), value)).collect());
    model.api().root(root).unwrap();
    let recorded = recorded("api_ops");
    assert_eq!(hex(model.flush().unwrap().as_bytes()), text(get(recorded, "p0bin")));

    model.api().str("/t").unwrap().ins(2, " you").unwrap();
    model.api().str("/t").unwrap().del(0, 1).unwrap();
    model.api().arr("/l").unwrap().ins(1, ["x"]).unwrap();
    model.api().arr("/l").unwrap().upd(0, 9).unwrap();
    model.api().arr("/l").unwrap().del(3, 1).unwrap();
    model.api().obj("/o").unwrap().set([("z", Value::Null)]).unwrap();
    model.api().obj("/o").unwrap().del(["k"]).unwrap();
    let patch = model.flush().unwrap();
    assert_eq!(hex(patch.as_bytes()), text(get(recorded, "p1bin")));
    assert_eq!(&patch.to_compact(), get(recorded, "p1"));
    assert_eq!(plain(&model.view()), plain(get(recorded, "view")));
    assert_eq!(hex(&model.document().to_binary()), text(get(recorded, "model")));
}

/// JavaScript has two zeros, and takes either for the other: where a form has 0 for nothing, −0 is nothing too.
#[test]
fn a_zero_of_either_sign_stands_for_nothing() {
    let empty = Document::from_compact(&Value::Array(vec![
        Value::Array(vec![A.into(), 1.into()]),
        Value::from(-0.0),
    ]));
    assert_eq!(empty.unwrap().view(), Value::Undefined);
    let map_with_a_key_of_minus_zero = unhex("81cb800000000000000001");
    let read = crdt_core::codec::msgpack::decode(&map_with_a_key_of_minus_zero, 2).unwrap();
    assert_eq!(read, Value::Map(vec![("0".into(), 1.into())]));
}
