//! The verbose form of a patch: JSON with names, ids with their sessions.

use crate::{
    SessionId, Text, Timespan, Timestamp,
    codec::{
        Malformed, base64,
        shape::{self, Bare, at, field, items, of},
    },
    id::MAX_ID,
    patch::{Con, Op, Patch, PatchBuilder, PatchRef},
    value::Value,
};

/// A bare number is a time of the server's session, whatever the patch's session is.
const BARE: Bare = Bare(SessionId::SERVER);

pub(super) fn to_value(patch: PatchRef<'_>) -> Value {
    let ops: Vec<_> = patch.ops().map(|(_, op)| op_value(&op)).collect();
    let mut all = vec![("id", pair(patch.id())), ("ops", Value::Array(ops))];
    all.extend(patch.meta().map(|meta| ("meta", meta.to_value())));
    map(all)
}

pub(crate) fn map(entries: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    Value::Map(entries.into_iter().map(|(key, value)| (Text::from(key), value)).collect())
}

fn pair(id: Timestamp) -> Value {
    [id.sid.get(), id.time].into_iter().collect()
}

pub(crate) fn id_value(id: Timestamp) -> Value {
    if id.sid == SessionId::SERVER { id.time.into() } else { pair(id) }
}

fn op_value(op: &Op<'_>) -> Value {
    let id = id_value;
    let two = |first: Value, second| Value::Array(vec![first, id(second)]);
    let name = |name: &str| ("op", Value::from(name));
    match *op {
        Op::NewCon(Con::Value(value)) if value.is_undefined() => map([name("new_con")]),
        Op::NewCon(Con::Value(value)) => map([name("new_con"), ("value", value.to_value())]),
        Op::NewCon(Con::Id(named)) => {
            map([name("new_con"), ("timestamp", Value::Bool(true)), ("value", id(named))])
        }
        Op::NewVal => map([name("new_val")]),
        Op::NewObj => map([name("new_obj")]),
        Op::NewVec => map([name("new_vec")]),
        Op::NewStr => map([name("new_str")]),
        Op::NewBin => map([name("new_bin")]),
        Op::NewArr => map([name("new_arr")]),
        Op::InsVal { obj, value } => map([name("ins_val"), ("obj", id(obj)), ("value", id(value))]),
        Op::InsObj { obj, entries } => {
            let entries = entries.map(|(key, value)| two(key.into(), value)).collect();
            map([name("ins_obj"), ("obj", id(obj)), ("value", entries)])
        }
        Op::InsVec { obj, slots } => {
            let slots = slots.map(|(index, value)| two(Value::Int(index.into()), value)).collect();
            map([name("ins_vec"), ("obj", id(obj)), ("value", slots)])
        }
        Op::InsStr { obj, after, text, .. } => {
            map([name("ins_str"), ("obj", id(obj)), ("after", id(after)), ("value", text.into())])
        }
        Op::InsBin { obj, after, bytes } => {
            let value = base64::encode(bytes).into();
            map([name("ins_bin"), ("obj", id(obj)), ("after", id(after)), ("value", value)])
        }
        Op::InsArr { obj, after, values } => {
            let values = values.map(id).collect();
            map([name("ins_arr"), ("obj", id(obj)), ("after", id(after)), ("values", values)])
        }
        Op::UpdArr { obj, slot, value } => {
            map([name("upd_arr"), ("obj", id(obj)), ("ref", id(slot)), ("value", id(value))])
        }
        Op::Del { obj, spans } => {
            let triple = |Timespan { start, span }: Timespan| -> Value {
                [start.sid.get(), start.time, span].into_iter().collect()
            };
            map([name("del"), ("obj", id(obj)), ("what", spans.map(triple).collect())])
        }
        Op::Nop { len: 1 } => map([name("nop")]),
        Op::Nop { len } => map([name("nop"), ("len", len.into())]),
    }
}

pub(super) fn from_value(value: &Value) -> Result<Patch, Malformed> {
    read(value).map_err(|error| error.within("$"))
}

fn read(value: &Value) -> Result<Patch, Malformed> {
    let start = shape::id(field(value, "id"), BARE).map_err(of("id"))?;
    let mut builder = PatchBuilder::new(start.sid, start.time);
    builder.set_meta(field(value, "meta"));
    let ops = items(field(value, "ops"), "operations: an array").map_err(of("ops"))?;
    for (index, op) in ops.iter().enumerate() {
        read_op(&mut builder, op).map_err(|error| of("ops")(at(index)(error)))?;
    }
    builder.finish_checked()
}

fn read_op(builder: &mut PatchBuilder, op: &Value) -> Result<(), Malformed> {
    let id = |key: &'static str| shape::id(field(op, key), BARE).map_err(of(key));
    let list = |key: &'static str| items(field(op, key), "an array").map_err(of(key));
    // The place to insert after; the node itself, for its start, may be left out.
    let after = || match field(op, "after") {
        Value::Undefined | Value::Null => id("obj"),
        _ => id("after"),
    };
    let value = field(op, "value");
    match field(op, "op").as_str().unwrap_or_default() {
        "new_con" if !shape::is_falsy(field(op, "timestamp")) => builder.new_con_id(id("value")?),
        "new_con" => builder.new_con(value),
        "new_val" => builder.new_val(),
        "new_obj" => builder.new_obj(),
        "new_vec" => builder.new_vec(),
        "new_str" => builder.new_str(),
        "new_bin" => builder.new_bin(),
        "new_arr" => builder.new_arr(),
        "ins_val" => builder.ins_val(id("obj")?, id("value")?),
        "ins_obj" => {
            let entries = super::pairs(list("value")?, BARE, super::key);
            builder.ins_obj_or_nop(id("obj")?, &entries.map_err(of("value"))?)
        }
        "ins_vec" => {
            let slots = super::pairs(list("value")?, BARE, super::index).map_err(of("value"))?;
            builder.ins_vec_or_nop(id("obj")?, slots)
        }
        "ins_str" => builder.ins_str(id("obj")?, after()?, shape::text(value).map_err(of("value"))?),
        "ins_bin" => builder.ins_bin(id("obj")?, after()?, &shape::bytes(value).map_err(of("value"))?),
        "ins_arr" => {
            let values = super::ids(list("values")?, BARE).map_err(of("values"))?;
            builder.ins_arr(id("obj")?, after()?, &values)
        }
        "upd_arr" => builder.upd_arr(id("obj")?, id("ref")?, id("value")?),
        "del" => {
            let spans = super::spans(list("what")?, BARE).map_err(of("what"))?;
            builder.del_or_nop(id("obj")?, &spans)
        }
        "nop" => match field(op, "len") {
            Value::Undefined => builder.nop(1),
            len => builder.push(&Op::Nop { len: shape::number(len, MAX_ID, "a length").map_err(of("len"))? }),
        },
        other => return Err(of("op")(Malformed::shape("the name of an operation", format!("{other:?}")))),
    };
    Ok(())
}
