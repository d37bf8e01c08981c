//! That a check notices what it is for: documents that are broken in one way each.

use serde_json::json;

use super::super::{
    Document,
    node::{Entry, Form, Node},
    sequence::Id,
};
use crate::{Applied, Model, PatchBuilder, SessionId, Timestamp};

/// A document with something of everything, that was edited, and that removed things.
fn document() -> Document {
    let sid = |number: u64| SessionId::new(70_000 + number).unwrap();
    let mut model = Model::new(sid(1));
    let long = "a constant that does not fit into its node";
    model
        .api()
        .root(json!({"t": "text", "w": "\u{d55c}\u{ad6d}", "l": [1, 2, [3]], "o": {"a": {"b": 1}}, "c": 7}))
        .unwrap();
    for other in 2..14 {
        let mut b = PatchBuilder::new(sid(other), model.document().time());
        let root = model.document().root().unwrap().id();
        let [bytes, tuple, value, named] =
            [b.new_bin(), b.new_vec(), b.new_con(&long.into()), b.new_con_id(Timestamp::new(sid(2), 3))];
        b.ins_bin(bytes, bytes, &[1, 2, 3]);
        b.ins_vec(tuple, [(0, value), (2, named)]);
        b.ins_obj(root, [("b", bytes), ("v", tuple), (["k", "m", "n"][other as usize % 3], value)]);
        assert_eq!(model.apply(&b.finish().unwrap()), Ok(Applied::Merged));
    }
    model.api().obj("").unwrap().del(["o"]).unwrap();
    model.api().str("/t").unwrap().ins(2, "more \u{d55c}").unwrap();
    model.api().str("/t").unwrap().del(1, 3).unwrap();
    model.api().arr("/l").unwrap().del(0, 1).unwrap();
    model.into_document()
}

fn first(document: &Document, form: Form) -> u32 {
    (0..document.store.nodes.len() as u32).find(|&node| document.store.form(node) == form).unwrap()
}

#[test]
fn each_way_of_being_broken_is_noticed() {
    type Break = fn(&mut Document);
    let ways: Vec<(&str, Break)> = vec![
        ("the index leads nowhere", |d| {
            let id = d.store.node(first(d, Form::Obj)).id();
            d.store.sessions.at_mut(id.session).nodes.remove(id.time);
        }),
        ("the index leads from a time that made nothing", |d| {
            let node = first(d, Form::Str);
            let session = d.store.sessions.own;
            d.store.sessions.at_mut(session).nodes.insert(d.time + 5, node);
        }),
        ("a node counts one reference too many", |d| {
            let node = first(d, Form::Arr);
            d.store.node_mut(node).link();
        }),
        ("a node is dead and no ghost", |d| {
            let node = first(d, Form::Str);
            let id = d.store.node(node).id();
            d.store.sessions.at_mut(id.session).nodes.remove(id.time);
            d.store.node_mut(node).kill();
        }),
        ("a ghost is no node", |d| {
            d.store.ghosts.insert(Id::new(0, 999), 0);
        }),
        ("the clock is behind", |d| d.time = 3),
        ("a session was not seen so far", |d| {
            let session = d.store.sessions.get(70_013).unwrap();
            d.store.sessions.go_on(session, 1);
        }),
        ("a map has a key twice", |d| {
            let node = first(d, Form::Obj);
            let obj = d.store.obj_mut(node);
            let key = obj.entries[0].key;
            obj.entries[1].key = key;
        }),
        ("a map has a key that is none", |d| {
            let node = first(d, Form::Obj);
            d.store.obj_mut(node).entries[0].key = 1 << 20;
        }),
        ("a map refers to a node that is not there", |d| {
            let node = first(d, Form::Obj);
            d.store.obj_mut(node).entries.push(Entry { key: 0, node: 1 << 20 });
        }),
        ("a place is free twice", |d| {
            let free = d.store.free[0];
            d.store.free.push(free);
        }),
        ("a node is known as free", |d| d.store.free.push(0)),
        ("two maps are one", |d| {
            let node = first(d, Form::Obj);
            let payload = d.store.node(node).payload();
            let id = d.store.node(node).id();
            let at = d.store.sessions.own;
            d.store.nodes.push(Node::new(Id::new(at, id.time + 4), Form::Obj, payload));
        }),
        ("a map is lost", |d| _ = d.store.objs.add()),
        ("a tuple is lost", |d| _ = d.store.vecs.add()),
        ("a text is lost", |d| _ = d.store.sequences.add()),
        ("elements are counted wrong", |d| d.store.span += 1),
        ("dead bytes are counted wrong", |d| d.store.contents.narrow.push(&[1])),
        ("dead wide text is counted wrong", |d| d.store.contents.wide.push(&[1])),
        ("dead slots are counted wrong", |d| d.store.contents.slots.push(&[1])),
        ("a text lost its content", |d| {
            let end = d.store.contents.wide.tail();
            d.store.contents.wide.kill(0, end);
        }),
        ("dead values are counted wrong", |d| d.store.heap_dead += 1),
        ("two constants have one value", |d| {
            let payload = d.store.node(first(d, Form::Con)).payload();
            let other = first(d, Form::ConId);
            d.store.node_mut(other).set_payload(payload);
        }),
        ("a value is not there", |d| {
            let node = first(d, Form::ConId);
            d.store.node_mut(node).set_payload(1 << 20);
        }),
        ("a key is lost", |d| d.store.keys = crate::document::keys::Keys::default()),
        ("a peer is there twice", |d| {
            let peer = d.store.sessions.peers[0];
            d.store.sessions.peers.push(peer);
        }),
        ("the own session is none", |d| d.store.sessions.own = 99),
    ];
    document().check().unwrap();
    for (what, break_it) in ways {
        let mut document = document();
        break_it(&mut document);
        assert!(document.check().is_err(), "not noticed: {what}");
    }
}
