//! The compact form of a patch: arrays, with opcodes for names and bare times for ids of the patch's own session.

use crate::{
    SessionId, Timespan, Timestamp,
    codec::{
        Malformed, base64,
        shape::{self, Bare, at, item, items},
    },
    id::MAX_ID,
    patch::{Con, Op, Patch, PatchBuilder, PatchRef, op::code},
    value::Value,
};

pub(super) fn to_value(patch: PatchRef<'_>) -> Value {
    let own = patch.id().sid;
    let mut header = vec![id_value(patch.id(), SessionId::SERVER)];
    header.extend(patch.meta().map(|meta| meta.to_value()));
    let ops = patch.ops().map(|(_, op)| Value::Array(op_value(&op, own)));
    Value::Array(std::iter::once(Value::Array(header)).chain(ops).collect())
}

fn id_value(id: Timestamp, bare: SessionId) -> Value {
    match id.sid == bare {
        true => id.time.into(),
        false => [id.sid.get(), id.time].into_iter().collect(),
    }
}

fn op_value(op: &Op<'_>, own: SessionId) -> Vec<Value> {
    let id = |id| id_value(id, own);
    let code = |code: u8| Value::Int(code.into());
    let pair = |first: Value, second| Value::Array(vec![first, id(second)]);
    match *op {
        Op::NewCon(Con::Value(value)) if value.is_undefined() => vec![code(code::NEW_CON)],
        Op::NewCon(Con::Value(value)) => vec![code(code::NEW_CON), value.to_value()],
        Op::NewCon(Con::Id(named)) => vec![code(code::NEW_CON), id(named), true.into()],
        Op::NewVal => vec![code(code::NEW_VAL)],
        Op::NewObj => vec![code(code::NEW_OBJ)],
        Op::NewVec => vec![code(code::NEW_VEC)],
        Op::NewStr => vec![code(code::NEW_STR)],
        Op::NewBin => vec![code(code::NEW_BIN)],
        Op::NewArr => vec![code(code::NEW_ARR)],
        Op::InsVal { obj, value } => vec![code(code::INS_VAL), id(obj), id(value)],
        Op::InsObj { obj, entries } => {
            vec![code(code::INS_OBJ), id(obj), entries.map(|(key, value)| pair(key.into(), value)).collect()]
        }
        Op::InsVec { obj, slots } => {
            let slots = slots.map(|(index, value)| pair(Value::Int(index.into()), value));
            vec![code(code::INS_VEC), id(obj), slots.collect()]
        }
        Op::InsStr { obj, after, text, .. } => vec![code(code::INS_STR), id(obj), id(after), text.into()],
        Op::InsBin { obj, after, bytes } => {
            vec![code(code::INS_BIN), id(obj), id(after), base64::encode(bytes).into()]
        }
        Op::InsArr { obj, after, values } => {
            vec![code(code::INS_ARR), id(obj), id(after), values.map(id).collect()]
        }
        Op::UpdArr { obj, slot, value } => vec![code(code::UPD_ARR), id(obj), id(slot), id(value)],
        Op::Del { obj, spans } => {
            vec![code(code::DEL), id(obj), spans.map(|span| span_value(span, own)).collect()]
        }
        Op::Nop { len: 1 } => vec![code(code::NOP)],
        Op::Nop { len } => vec![code(code::NOP), len.into()],
    }
}

fn span_value(Timespan { start, span }: Timespan, own: SessionId) -> Value {
    match start.sid == own {
        true => [start.time, span].into_iter().collect(),
        false => [start.sid.get(), start.time, span].into_iter().collect(),
    }
}

pub(super) fn from_value(value: &Value) -> Result<Patch, Malformed> {
    read(value).map_err(|error| error.within("$"))
}

fn read(value: &Value) -> Result<Patch, Malformed> {
    let all = items(value, "a patch: an array")?;
    let header = items(item(all, 0), "a header: [id] or [id, meta]").map_err(at(0))?;
    let start = shape::id(item(header, 0), Bare(SessionId::SERVER)).map_err(|e| at(0)(at(0)(e)))?;
    let mut builder = PatchBuilder::new(start.sid, start.time);
    builder.set_meta(item(header, 1));
    for (index, op) in all.iter().enumerate().skip(1) {
        read_op(&mut builder, op, start.sid).map_err(at(index))?;
    }
    builder.finish_checked()
}

fn read_op(builder: &mut PatchBuilder, value: &Value, own: SessionId) -> Result<(), Malformed> {
    let op = items(value, "an operation: an array")?;
    let id = |index: usize| shape::id(item(op, index), Bare(own)).map_err(at(index));
    let list = |index: usize| items(item(op, index), "an array").map_err(at(index));
    let code = shape::byte(item(op, 0), "an opcode").map_err(at(0))?;
    match code {
        code::NEW_CON if !shape::is_falsy(item(op, 2)) => builder.new_con_id(id(1)?),
        code::NEW_CON => builder.new_con(item(op, 1)),
        code::NEW_VAL => builder.new_val(),
        code::NEW_OBJ => builder.new_obj(),
        code::NEW_VEC => builder.new_vec(),
        code::NEW_STR => builder.new_str(),
        code::NEW_BIN => builder.new_bin(),
        code::NEW_ARR => builder.new_arr(),
        code::INS_VAL => builder.ins_val(id(1)?, id(2)?),
        code::INS_OBJ => {
            let entries = super::pairs(list(2)?, Bare(own), super::key).map_err(at(2))?;
            builder.ins_obj_or_nop(id(1)?, &entries)
        }
        code::INS_VEC => {
            builder.ins_vec_or_nop(id(1)?, super::pairs(list(2)?, Bare(own), super::index).map_err(at(2))?)
        }
        code::INS_STR => {
            let text = shape::text(item(op, 3)).map_err(at(3))?;
            builder.ins_str(id(1)?, id(2)?, text)
        }
        code::INS_BIN => builder.ins_bin(id(1)?, id(2)?, &shape::bytes(item(op, 3)).map_err(at(3))?),
        code::INS_ARR => builder.ins_arr(id(1)?, id(2)?, &super::ids(list(3)?, Bare(own)).map_err(at(3))?),
        code::UPD_ARR => builder.upd_arr(id(1)?, id(2)?, id(3)?),
        code::DEL => builder.del_or_nop(id(1)?, &super::spans(list(2)?, Bare(own)).map_err(at(2))?),
        code::NOP => match item(op, 1) {
            Value::Undefined => builder.nop(1),
            len => builder.push(&Op::Nop { len: shape::number(len, MAX_ID, "a length").map_err(at(1))? }),
        },
        other => return Err(at(0)(Malformed::shape("an opcode", other.to_string()))),
    };
    Ok(())
}
