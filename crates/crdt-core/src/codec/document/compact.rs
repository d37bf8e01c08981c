//! The structural compact form: arrays, with kinds as numbers and ids as distances from a clock table.

use super::{
    DocumentEncodeError, DocumentError, DocumentFormat, Nodes, Walk,
    binary::kind,
    fault::{Fault, or_find_double},
    is_nothing,
    table::{Table, TableWriter},
    verbose::in_js_order,
};
use crate::{
    Document, SessionId, Timestamp,
    codec::{
        Malformed,
        shape::{self, Key, at, found, item, items},
    },
    document::{Child, Content, Kind, Loader, NodeIx, Order},
    id::MAX_ID,
    value::Value,
};

/// How ids are written.
enum Ids {
    Logical(TableWriter),
    Server { time: u64 },
}

struct Writer<'d> {
    ids: Ids,
    walk: Walk<'d>,
}

pub(super) fn to_value(document: &Document) -> Result<Value, DocumentEncodeError> {
    let ids = match document.order() {
        Order::Server => Ids::Server { time: document.time() },
        Order::Logical => Ids::Logical(TableWriter::new(document)),
    };
    let mut writer = Writer { ids, walk: Walk::new(document) };
    let root = match document.root_child() {
        Some(root) => writer.node(root, DocumentFormat::DEPTH_MAX)?,
        None => Value::Int(0),
    };
    let clock = match &writer.ids {
        Ids::Server { time } => (*time).into(),
        Ids::Logical(table) => {
            table.entries().iter().flat_map(|entry| [entry.sid.get(), entry.time]).collect()
        }
    };
    Ok([clock, root].into_iter().collect())
}

impl Writer<'_> {
    fn id(&mut self, id: Timestamp) -> Value {
        match &mut self.ids {
            Ids::Server { time } => Value::Int(*time as i64 - id.time as i64),
            Ids::Logical(_) if is_nothing(id) => [0, id.time].into_iter().collect(),
            Ids::Logical(table) => {
                let (place, distance) = table.relative(id);
                [Value::Int(-(place as i64)), distance.into()].into_iter().collect()
            }
        }
    }

    /// The order in which ids enter the clock table is that of the reference: constants and registers tell theirs first,
    /// other nodes their contents'.
    fn node(&mut self, child: Child<'_>, depth: usize) -> Result<Value, DocumentEncodeError> {
        let Some(deeper) = depth.checked_sub(1) else {
            return Err(DocumentEncodeError::TooDeep { max: DocumentFormat::DEPTH_MAX });
        };
        let id = child.id();
        let code = |kind: u8| Value::Int(kind.into());
        let Some(node) = self.walk.enter(child) else {
            return Ok(Value::Array(vec![code(kind::CON), self.id(id), Value::Int(0), Value::Int(0)]));
        };
        let (kind, content) = match node.content() {
            Content::Con(value) => {
                let mut con = vec![code(kind::CON), self.id(id)];
                match value.is_undefined() {
                    true => con.extend([Value::Int(0), Value::Int(0)]),
                    false => con.push(value.to_value()),
                }
                return Ok(Value::Array(con));
            }
            Content::ConId(named) => {
                if let Ids::Server { time } = self.ids
                    && named.time >= time
                {
                    let what = "a timestamp at or beyond the document's time";
                    return Err(DocumentEncodeError::Lost { what });
                }
                return Ok(Value::Array(vec![code(kind::CON), self.id(id), Value::Int(0), self.id(named)]));
            }
            Content::Val(child) => {
                let id = self.id(id);
                let child = self.node(child.unwrap_or(Child::Missing(Timestamp::ORIGIN)), deeper)?;
                return Ok(Value::Array(vec![code(kind::VAL), id, child]));
            }
            Content::Obj(entries) => {
                // The reference walks a JavaScript `Map` here, in the order of insertion.
                let mut all = Vec::with_capacity(entries.len());
                for (key, child) in entries {
                    all.push((key.to_text(), self.node(child, deeper)?));
                }
                (kind::OBJ, in_js_order(all))
            }
            Content::Vec(places) => {
                let mut all = Vec::with_capacity(places.len());
                for place in places {
                    all.push(match place {
                        Some(child) => self.node(child, deeper)?,
                        None => Value::Int(0),
                    });
                }
                (kind::VEC, Value::Array(all))
            }
            Content::Str(chunks) => (
                kind::STR,
                chunks.map(|chunk| self.chunk(&chunk, |chunk| super::chunk_text(chunk))).collect(),
            ),
            Content::Bin(chunks) => {
                let bytes = |chunk: &crate::document::Chunk<'_>| {
                    let mut bytes = Vec::new();
                    chunk.write_bytes(&mut bytes);
                    bytes.into()
                };
                (kind::BIN, chunks.map(|chunk| self.chunk(&chunk, bytes)).collect())
            }
            Content::Arr(chunks) => {
                let mut all = Vec::new();
                for chunk in chunks {
                    let id = self.id(chunk.id());
                    let content = match chunk.is_tombstone() {
                        true => chunk.span().into(),
                        false => {
                            let mut children = Vec::new();
                            for child in chunk.children() {
                                children.push(self.node(child, deeper)?);
                            }
                            Value::Array(children)
                        }
                    };
                    all.push([id, content].into_iter().collect());
                }
                (kind::ARR, Value::Array(all))
            }
        };
        Ok(Value::Array(vec![code(kind), self.id(id), content]))
    }

    fn chunk<'d>(
        &mut self,
        chunk: &crate::document::Chunk<'d>,
        content: impl FnOnce(&crate::document::Chunk<'d>) -> Value,
    ) -> Value {
        let content = if chunk.is_tombstone() { chunk.span().into() } else { content(chunk) };
        [self.id(chunk.id()), content].into_iter().collect()
    }
}

/// How ids are read.
enum Clock {
    Logical(Table),
    Server(u64),
}

impl Clock {
    fn id(&self, value: &Value) -> Result<Timestamp, Malformed> {
        let beyond = |value: &Value| found("an id that the clock explains", value);
        if let Self::Server(time) = self {
            let distance = shape::number(value, *time, "a distance from the document's time")?;
            let time = time - distance;
            return Ok(Timestamp::new(if time == 0 { SessionId::SYSTEM } else { SessionId::SERVER }, time));
        }
        let Self::Logical(table) = self else { return Err(beyond(value)) };
        match items(value, "an id: [-place, distance] or [session, time]")? {
            [Value::Int(place @ ..0), distance] => {
                let distance = shape::number(distance, MAX_ID, "a distance").map_err(at(1))?;
                table.absolute(place.unsigned_abs(), distance).ok_or_else(|| beyond(value))
            }
            [sid, time] => Ok(Timestamp::new(shape::session(sid)?, shape::time(time)?)),
            _ => Err(found("an id: [-place, distance] or [session, time]", value)),
        }
    }
}

pub(super) fn from_value(value: &Value) -> Result<Document, DocumentError> {
    or_find_double(|sought| read(value, sought)).map_err(|fault| fault.within("$").by_path())
}

fn read(value: &Value, sought: Option<Timestamp>) -> Result<Document, Fault> {
    let parts = items(value, "a document: [clock, root]")?;
    let (clock, loader) = match item(parts, 0) {
        Value::Array(flat) => {
            let table = Table::from_values(flat).map_err(at(0))?;
            let loader = table.loader().map_err(|e| within(0)(e.into()))?;
            (Clock::Logical(table), loader)
        }
        time => {
            let time = shape::number(time, MAX_ID, "a clock table or a time").map_err(at(0))?;
            (Clock::Server(time), Loader::new(SessionId::SERVER, time, Order::Server))
        }
    };
    let mut nodes = Nodes::new(loader, sought);
    let root = match item(parts, 1) {
        nothing if is_zero(nothing) => None,
        root => read_node(&mut nodes, &clock, root).map_err(within(1))?,
    };
    Ok(nodes.finish(root)?)
}

/// Zero of either sign.
fn is_zero(value: &Value) -> bool {
    *value == Value::Int(0)
}

fn within(index: usize) -> impl Fn(Fault) -> Fault {
    move |fault| fault.within(format_args!("[{index}]"))
}

/// `None` for the system's id, which stands for no node.
fn read_node(nodes: &mut Nodes, clock: &Clock, value: &Value) -> Result<Option<NodeIx>, Fault> {
    let parts = items(value, "a node: an array")?;
    let code = shape::byte(item(parts, 0), "the kind of a node").map_err(at(0))?;
    let id = clock.id(item(parts, 1)).map_err(at(1))?;
    let content = item(parts, 2);
    let kind = match code {
        kind::CON => {
            if is_nothing(id) {
                return Ok(None);
            }
            return Ok(Some(match parts.get(3) {
                None => nodes.con(id, super::ConBytes::from(content).as_raw())?,
                // In server order too, where it could be a timestamp of the document's time: that is refused when written.
                Some(zero) if is_zero(zero) => nodes.con(id, crate::codec::RawValue::UNDEFINED)?,
                Some(named) => nodes.con_id(id, clock.id(named).map_err(at(3))?)?,
            }));
        }
        kind::VAL => Kind::Val,
        kind::OBJ => Kind::Obj,
        kind::VEC => Kind::Vec,
        kind::STR => Kind::Str,
        kind::BIN => Kind::Bin,
        kind::ARR => Kind::Arr,
        _ => return Err(at(0)(found("the kind of a node", item(parts, 0))).into()),
    };
    let (node, muted_before) = nodes.open(id, kind)?;
    match kind {
        Kind::Val => {
            if let Some(child) = read_node(nodes, clock, content).map_err(within(2))? {
                nodes.set_val(node, child)?;
            }
        }
        Kind::Obj => {
            let Value::Map(entries) = content else { return Err(at(2)(found("a map", content)).into()) };
            for (key, child) in entries {
                let in_key = |fault: Fault| within(2)(fault.within(Key(key)));
                if let Some(child) = read_node(nodes, clock, child).map_err(in_key)? {
                    nodes.push_key(node, key.as_wtf8(), child).map_err(|e| in_key(e.into()))?;
                }
            }
        }
        Kind::Vec => {
            for (index, child) in items(content, "an array").map_err(at(2))?.iter().enumerate() {
                let child = match child {
                    nothing if is_zero(nothing) => None,
                    child => read_node(nodes, clock, child).map_err(|e| within(2)(within(index)(e)))?,
                };
                nodes.push_place(node, child)?;
            }
        }
        _ => {
            for (index, chunk) in items(content, "an array").map_err(at(2))?.iter().enumerate() {
                read_chunk(nodes, clock, node, kind, chunk).map_err(|e| within(2)(within(index)(e)))?;
            }
        }
    }
    nodes.muted = muted_before;
    Ok(Some(node))
}

fn read_chunk(
    nodes: &mut Nodes,
    clock: &Clock,
    node: NodeIx,
    kind: Kind,
    chunk: &Value,
) -> Result<(), Fault> {
    let parts = items(chunk, "a chunk: [id, content]")?;
    let id = clock.id(item(parts, 0)).map_err(at(0))?;
    let content = item(parts, 1);
    if let Some(span) = content.as_u64() {
        return Ok(nodes.push_tombstone(node, id, span)?);
    }
    match kind {
        Kind::Str => nodes.push_text(node, id, shape::text(content).map_err(at(1))?)?,
        Kind::Bin => nodes.push_bytes(node, id, &shape::bytes(content).map_err(at(1))?)?,
        _ => {
            let children: Result<Vec<_>, _> = items(content, "an array")
                .map_err(at(1))?
                .iter()
                .enumerate()
                .map(|(index, child)| read_node(nodes, clock, child).map_err(|e| within(1)(within(index)(e))))
                .collect();
            super::push_all(nodes, node, id, children?)?;
        }
    }
    Ok(())
}
