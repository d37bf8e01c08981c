//! A value that is hoisted: a patch puts a node in the place of a node above it. What stood there goes with all below it,
//! the hoisted node included; its place shows nothing, as in json-joy (a node in two places, hazard H5).

mod support;

use crdt_core::{Applied, Document, Patch, PatchBuilder, SessionId, Timestamp, Value, codec::Packing};
use proptest::prelude::*;
use serde_json::json;
use support::random::Entropy;

fn sid(id: u64) -> SessionId {
    SessionId::new(id).unwrap()
}

fn patch(session: u64, time: u64, build: impl FnOnce(&mut PatchBuilder)) -> Patch {
    let mut b = PatchBuilder::new(sid(session), time);
    build(&mut b);
    b.finish().unwrap()
}

#[track_caller]
fn take(document: &mut Document, patch: &Patch) {
    let _: Applied = document.merge(patch.as_ref()).unwrap();
    check(document);
}

/// It holds together, and comes back from its native bytes as it was.
#[track_caller]
fn check(document: &Document) {
    document.check().unwrap();
    let bytes = document.to_native(Packing::Plain);
    let back = Document::from_native(&bytes, document.session()).unwrap();
    back.check().unwrap();
    assert_eq!(support::plain(&back.view()), support::plain(&document.view()));
    assert_eq!(back.to_native(Packing::Plain), bytes);
}

const A: u64 = 70_000;
const B: u64 = 80_000;

/// The four places that a later node can take over, each with a node below the one that is there: `build` is told the
/// container and puts things there.
fn hoist(
    into: impl Fn(&mut PatchBuilder, Timestamp, Timestamp),
    root: impl Fn(&mut PatchBuilder) -> Timestamp,
) {
    let mut node = Timestamp::ORIGIN;
    let first = patch(A, 1, |b| {
        let holder = root(b);
        let above = b.new_obj();
        node = b.new_con(&1.into());
        b.ins_obj(above, [("a", node)]);
        b.ins_val(Timestamp::ORIGIN, holder);
        into(b, holder, above);
    });
    let holder = first.id();
    let hoist = patch(B, 20, |b| into(b, holder, node));
    let mut document = Document::new(sid(90_000));
    take(&mut document, &first);
    take(&mut document, &hoist);
    let before = document.view();
    let mut fresh = document.clone();
    for time in [100, 200, 300] {
        // New nodes do not come to stand where the hoisted one was.
        let more = patch(B, time, |b| _ = b.new_con(&"new".into()));
        take(&mut fresh, &more);
        assert_eq!(fresh.view(), before);
    }
}

#[test]
fn a_value_hoisted_into_its_ancestors_place_is_gone() {
    hoist(|b, obj, value| _ = b.ins_obj(obj, [("k", value)]), |b| b.new_obj());
    hoist(|b, vec, value| _ = b.ins_vec(vec, [(3, value)]), |b| b.new_vec());
    hoist(|b, val, value| _ = b.ins_val(val, value), |b| b.new_val());
    hoist(|b, _, value| _ = b.ins_val(Timestamp::ORIGIN, value), |b| b.new_obj());
}

/// json-joy 17.67 shows `{}` after these two patches.
#[test]
fn a_map_shows_nothing_where_a_value_was_hoisted() {
    let mut node = Timestamp::ORIGIN;
    let first = patch(A, 1, |b| {
        let (root, above) = (b.new_obj(), b.new_obj());
        node = b.new_con(&1.into());
        b.ins_obj(above, [("a", node)]);
        b.ins_obj(root, [("k", above)]);
        b.ins_val(Timestamp::ORIGIN, root);
    });
    let mut document = Document::new(sid(90_000));
    take(&mut document, &first);
    assert_eq!(document.view(), Value::from(&json!({"k": {"a": 1}})));
    take(&mut document, &patch(B, 20, |b| _ = b.ins_obj(first.id(), [("k", node)])));
    assert_eq!(document.view(), Value::from(&json!({})));
}

/// Two patches that once made a register hold itself through another one.
#[test]
fn hoists_make_no_circle() {
    let mut above = Timestamp::ORIGIN;
    let first = patch(A, 10, |b| {
        above = b.new_val();
        let inner = b.new_val();
        let node = b.new_con(&1.into());
        b.ins_val(inner, node);
        b.ins_val(above, inner);
        b.ins_val(Timestamp::ORIGIN, above);
        b.ins_val(above, node);
    });
    let second = patch(B, 1, |b| {
        let register = b.new_val();
        b.ins_val(register, above);
    });
    let mut document = Document::new(sid(90_000));
    take(&mut document, &first);
    take(&mut document, &second);
    assert_eq!(document.view(), Value::Undefined);
}

/// The root register knows which node it held last, in a document that was read as in the one that was written.
#[test]
fn a_root_that_is_gone_still_wins_over_earlier_ones() {
    let first = patch(A, 1, |b| {
        let above = b.new_obj();
        b.nop(10);
        let node = b.new_con(&1.into());
        b.ins_obj(above, [("a", node)]);
        b.ins_val(Timestamp::ORIGIN, above);
        b.ins_val(Timestamp::ORIGIN, node);
    });
    let lower = patch(B, 5, |b| {
        let node = b.new_con(&2.into());
        b.ins_val(Timestamp::ORIGIN, node);
    });
    let mut document = Document::new(sid(90_000));
    take(&mut document, &first);
    let mut back = Document::from_native(&document.to_native(Packing::Plain), document.session()).unwrap();
    let mut binary = Document::from_binary(&document.to_binary()).unwrap();
    for document in [&mut document, &mut back, &mut binary] {
        take(document, &lower);
        assert_eq!(document.view(), Value::Undefined);
    }
    assert_eq!(back.to_native(Packing::Plain), document.to_native(Packing::Plain));
}

/// A patch that makes a few nodes, puts them below others, and puts any node anywhere that is above it, its own ancestors'
/// places included.
fn session(entropy: &mut Entropy<'_>, turn: u64, made: &mut Vec<Timestamp>) -> Patch {
    patch([A, B, 123_456][(turn % 3) as usize], 1 + 30 * turn, |b| {
        if made.is_empty() {
            made.push(b.new_obj());
            b.ins_val(Timestamp::ORIGIN, made[0]);
        }
        for _ in 0..4 {
            let parent = made[entropy.below(made.len() as u64) as usize];
            let child = match entropy.below(9) {
                0 => b.new_con(&turn.into()),
                1 => b.new_val(),
                2 => b.new_vec(),
                3 => b.new_arr(),
                4 | 5 => b.new_obj(),
                _ => made[entropy.below(made.len() as u64) as usize],
            };
            match entropy.below(8) {
                0..5 => b.ins_obj(parent, [("k", child)]),
                5 => b.ins_vec(parent, [(0, child)]),
                6 => b.ins_val(parent, child),
                _ => b.ins_val(Timestamp::ORIGIN, child),
            };
            // What is not a map takes it too, if it is what it is.
            b.ins_vec(parent, [(1, child)]);
            b.ins_val(parent, child);
            b.ins_arr(parent, parent, &[child]);
            made.push(child);
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn documents_with_hoists_hold_together(entropy in prop::collection::vec(any::<u8>(), 0..160)) {
        let mut entropy = Entropy(&entropy);
        let (mut made, mut turn) = (Vec::new(), 0);
        let mut document = Document::new(sid(90_000));
        while turn == 0 || !entropy.is_spent() {
            take(&mut document, &session(&mut entropy, turn, &mut made));
            // Nodes that nothing refers to take the places of those that are gone, and are not seen.
            let mut later = document.clone();
            let orphans = patch(B, 30 * turn + 200, |b| (0..20).for_each(|_| _ = b.new_con(&"new".into())));
            take(&mut later, &orphans);
            prop_assert_eq!(later.view(), document.view());
            turn += 1;
        }
    }
}
