//! The structural verbose form: JSON with names, ids with their sessions.

use super::{
    DocumentEncodeError, DocumentError, DocumentFormat, Nodes, Walk,
    fault::{Fault, or_find_double},
    is_nothing,
};
use crate::{
    Document, SessionId, Timestamp,
    codec::{
        Malformed, base64,
        patch::verbose::{id_value, map},
        shape::{self, Bare, Key, at, field, found, items, of},
    },
    document::{Child, Content, Kind, Loader, NodeIx, Order},
    id::MAX_ID,
    patch::js_order,
    value::Value,
};

const BARE: Bare = Bare(SessionId::SERVER);

pub(super) fn to_value(document: &Document) -> Result<Value, DocumentEncodeError> {
    let time = match document.order() {
        Order::Server => document.time().into(),
        Order::Logical => {
            let own = document.next_id();
            let entries = std::iter::once(own).chain(document.peers());
            entries.map(|entry| [entry.sid.get(), entry.time].into_iter().collect::<Value>()).collect()
        }
    };
    let root = document.root_child().unwrap_or(Child::Missing(Timestamp::ORIGIN));
    let root = node_value(&mut Walk::new(document), root, DocumentFormat::DEPTH_MAX)?;
    let id = [0u64, 0].into_iter().collect();
    let register = map([("type", "val".into()), ("id", id), ("value", root)]);
    Ok(map([("time", time), ("root", register)]))
}

fn node_value(walk: &mut Walk<'_>, child: Child<'_>, depth: usize) -> Result<Value, DocumentEncodeError> {
    let Some(deeper) = depth.checked_sub(1) else {
        return Err(DocumentEncodeError::TooDeep { max: DocumentFormat::DEPTH_MAX });
    };
    let head = |kind: &str| [("type", Value::from(kind)), ("id", id_value(child.id()))];
    let with =
        |kind: &str, key: &'static str, content: Value| map(head(kind).into_iter().chain([(key, content)]));
    let Some(node) = walk.enter(child) else { return Ok(map(head("con"))) };
    Ok(match node.content() {
        Content::Con(value) if value.is_undefined() => map(head("con")),
        Content::Con(value) => with("con", "value", value.to_value()),
        Content::ConId(named) => {
            let content = [("timestamp", Value::Bool(true)), ("value", id_value(named))];
            map(head("con").into_iter().chain(content))
        }
        Content::Val(child) => {
            let child = child.unwrap_or(Child::Missing(Timestamp::ORIGIN));
            with("val", "value", node_value(walk, child, deeper)?)
        }
        Content::Obj(entries) => {
            let entries: Result<Vec<_>, _> =
                entries.map(|(key, child)| Ok((key.to_text(), node_value(walk, child, deeper)?))).collect();
            with("obj", "map", in_js_order(entries?))
        }
        Content::Vec(places) => {
            let places: Result<Vec<_>, _> = places
                .map(|place| place.map_or(Ok(Value::Null), |child| node_value(walk, child, deeper)))
                .collect();
            with("vec", "map", Value::Array(places?))
        }
        Content::Str(chunks) => {
            with("str", "chunks", chunks.map(|chunk| chunk_value(&chunk, super::chunk_text)).collect())
        }
        Content::Bin(chunks) => {
            let bytes = |chunk: &crate::document::Chunk<'_>| {
                let mut bytes = Vec::new();
                chunk.write_bytes(&mut bytes);
                base64::encode(&bytes).into()
            };
            with("bin", "chunks", chunks.map(|chunk| chunk_value(&chunk, bytes)).collect())
        }
        Content::Arr(chunks) => {
            let mut all = Vec::new();
            for chunk in chunks {
                let mut children = Vec::new();
                if !chunk.is_tombstone() {
                    for child in chunk.children() {
                        children.push(node_value(walk, child, deeper)?);
                    }
                }
                all.push(chunk_value(&chunk, |_| Value::Array(children)));
            }
            with("arr", "chunks", Value::Array(all))
        }
    })
}

/// Entries as JavaScript orders them when it writes an object.
pub(super) fn in_js_order(entries: Vec<(crate::Text, Value)>) -> Value {
    let order: Vec<_> =
        js_order(&entries).into_iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    Value::Map(order)
}

fn chunk_value<'d>(
    chunk: &crate::document::Chunk<'d>,
    content: impl FnOnce(&crate::document::Chunk<'d>) -> Value,
) -> Value {
    let id = ("id", id_value(chunk.id()));
    match chunk.is_tombstone() {
        true => map([id, ("span", chunk.span().into())]),
        false => map([id, ("value", content(chunk))]),
    }
}

pub(super) fn from_value(value: &Value) -> Result<Document, DocumentError> {
    or_find_double(|sought| read(value, sought)).map_err(|fault| fault.within("$").by_path())
}

fn read(value: &Value, sought: Option<Timestamp>) -> Result<Document, Fault> {
    let mut nodes = Nodes::new(loader(field(value, "time")).map_err(within("time", None))?, sought);
    let root = field(field(value, "root"), "value");
    let root = read_node(&mut nodes, root).map_err(within("root.value", None))?;
    Ok(nodes.finish(root)?)
}

fn loader(time: &Value) -> Result<Loader, Fault> {
    let Value::Array(entries) = time else {
        let time = shape::number(time, MAX_ID, "a time, or a list of [session, time]")?;
        return Ok(Loader::new(SessionId::SERVER, time, Order::Server));
    };
    let mut entries =
        entries.iter().enumerate().map(|(index, entry)| shape::id(entry, BARE).map_err(at(index)));
    let own =
        entries.next().unwrap_or_else(|| Err(Malformed::shape("the own [session, time]", "nothing")))?;
    let mut loader = Loader::new(own.sid, own.time, Order::Logical);
    for peer in entries {
        let peer = peer?;
        if peer.time >= MAX_ID {
            return Err(Malformed::shape("a time below 2^53 - 1", peer.time.to_string()).into());
        }
        if peer.sid != own.sid && !is_nothing(peer) {
            loader.observe(peer.sid, peer.time)?;
        }
    }
    Ok(loader)
}

fn within(step: &'static str, index: Option<usize>) -> impl Fn(Fault) -> Fault {
    move |fault| match index {
        Some(index) => fault.within(format_args!(".{step}[{index}]")),
        None => fault.within(format_args!(".{step}")),
    }
}

/// `None` for the system's id, which stands for no node.
fn read_node(nodes: &mut Nodes, value: &Value) -> Result<Option<NodeIx>, Fault> {
    let id = shape::id(field(value, "id"), BARE).map_err(of("id"))?;
    let list = |key: &'static str| items(field(value, key), "an array").map_err(of(key));
    let kind = match field(value, "type").as_str().unwrap_or_default() {
        "con" => {
            let content = field(value, "value");
            if is_nothing(id) {
                return Ok(None);
            }
            if !shape::is_falsy(field(value, "timestamp")) {
                let named = shape::id(content, BARE).map_err(of("value"))?;
                return Ok(Some(nodes.con_id(id, named)?));
            }
            return Ok(Some(nodes.con(id, super::ConBytes::from(content).as_raw())?));
        }
        "val" => Kind::Val,
        "obj" => Kind::Obj,
        "vec" => Kind::Vec,
        "str" => Kind::Str,
        "bin" => Kind::Bin,
        "arr" => Kind::Arr,
        _ => return Err(of("type")(found("the type of a node", field(value, "type"))).into()),
    };
    let (node, muted_before) = nodes.open(id, kind)?;
    match kind {
        Kind::Val => {
            if let Some(child) = read_node(nodes, field(value, "value")).map_err(within("value", None))? {
                nodes.set_val(node, child)?;
            }
        }
        Kind::Obj => {
            let Value::Map(entries) = field(value, "map") else {
                return Err(of("map")(found("a map", field(value, "map"))).into());
            };
            for (key, child) in entries {
                let in_key = |fault: Fault| within("map", None)(fault.within(Key(key)));
                if let Some(child) = read_node(nodes, child).map_err(in_key)? {
                    nodes.push_key(node, key.as_wtf8(), child).map_err(|e| in_key(e.into()))?;
                }
            }
        }
        Kind::Vec => {
            for (index, child) in list("map")?.iter().enumerate() {
                let child = match child {
                    Value::Null | Value::Undefined => None,
                    child => read_node(nodes, child).map_err(within("map", Some(index)))?,
                };
                nodes.push_place(node, child)?;
            }
        }
        _ => {
            for (index, chunk) in list("chunks")?.iter().enumerate() {
                read_chunk(nodes, node, kind, chunk).map_err(within("chunks", Some(index)))?;
            }
        }
    }
    nodes.muted = muted_before;
    Ok(Some(node))
}

fn read_chunk(nodes: &mut Nodes, node: NodeIx, kind: Kind, chunk: &Value) -> Result<(), Fault> {
    let id = shape::id(field(chunk, "id"), BARE).map_err(of("id"))?;
    let content = field(chunk, "value");
    if let Some(span) = field(chunk, "span").as_u64() {
        return Ok(nodes.push_tombstone(node, id, span)?);
    }
    match kind {
        Kind::Str => nodes.push_text(node, id, shape::text(content).map_err(of("value"))?)?,
        Kind::Bin => nodes.push_bytes(node, id, &shape::bytes(content).map_err(of("value"))?)?,
        _ => {
            let children: Result<Vec<_>, _> = items(content, "an array")
                .map_err(of("value"))?
                .iter()
                .enumerate()
                .map(|(index, child)| read_node(nodes, child).map_err(within("value", Some(index))))
                .collect();
            super::push_all(nodes, node, id, children?)?;
        }
    }
    Ok(())
}
