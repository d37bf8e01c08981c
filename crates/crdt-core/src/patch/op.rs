//! The seventeen operations, borrowed from a patch's bytes, and how each is spelled in them.

use crate::{
    SessionId, Timespan, Timestamp,
    codec::{
        Malformed, RawValue, cbor,
        wire::{Reader, put_patch_id, put_vu57},
    },
    id::MAX_ID,
    text::Wtf8,
};

/// One operation. It borrows from the patch; its lists are read as they are walked.
#[derive(Clone, Copy, Debug)]
pub enum Op<'a> {
    /// Creates a constant.
    NewCon(Con<'a>),
    /// Creates a register without a value.
    NewVal,
    /// Creates a map.
    NewObj,
    /// Creates a tuple.
    NewVec,
    /// Creates a text.
    NewStr,
    /// Creates bytes.
    NewBin,
    /// Creates an array.
    NewArr,
    /// Sets a register; the document's root is the register [`Timestamp::ORIGIN`].
    InsVal {
        /// The register.
        obj: Timestamp,
        /// The node to hold.
        value: Timestamp,
    },
    /// Sets keys of a map.
    InsObj {
        /// The map.
        obj: Timestamp,
        /// Keys and the nodes to hold there.
        entries: Entries<'a>,
    },
    /// Sets places of a tuple.
    InsVec {
        /// The tuple.
        obj: Timestamp,
        /// Indexes and the nodes to hold there.
        slots: Slots<'a>,
    },
    /// Inserts text.
    InsStr {
        /// The text.
        obj: Timestamp,
        /// The unit to insert after; the text's own id for its start.
        after: Timestamp,
        /// What to insert.
        text: Wtf8<'a>,
        /// Its length in UTF-16 units.
        units: u64,
    },
    /// Inserts bytes.
    InsBin {
        /// The bytes node.
        obj: Timestamp,
        /// The byte to insert after; the node's own id for its start.
        after: Timestamp,
        /// What to insert.
        bytes: &'a [u8],
    },
    /// Inserts elements into an array.
    InsArr {
        /// The array.
        obj: Timestamp,
        /// The slot to insert after; the array's own id for its start.
        after: Timestamp,
        /// The nodes to hold.
        values: Ids<'a>,
    },
    /// Replaces what a slot of an array holds.
    UpdArr {
        /// The array.
        obj: Timestamp,
        /// The slot.
        slot: Timestamp,
        /// The node to hold.
        value: Timestamp,
    },
    /// Deletes units, bytes or slots.
    Del {
        /// The text, bytes or array.
        obj: Timestamp,
        /// What to delete.
        spans: Spans<'a>,
    },
    /// Nothing; skips so many ticks.
    Nop {
        /// How many.
        len: u64,
    },
}

/// The content of a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Con<'a> {
    /// A value.
    Value(RawValue<'a>),
    /// A timestamp, which names something without holding it.
    Id(Timestamp),
}

impl Op<'_> {
    /// How many ticks the operation takes: one, or one for each element that it inserts.
    #[inline]
    pub fn span(&self) -> u64 {
        match self {
            Self::InsStr { units, .. } => *units,
            Self::InsBin { bytes, .. } => bytes.len() as u64,
            Self::InsArr { values, .. } => values.left,
            Self::Nop { len } => *len,
            _ => 1,
        }
    }

    /// Whether the operation creates a node.
    pub(crate) const fn makes_node(&self) -> bool {
        use Op::{NewArr, NewBin, NewCon, NewObj, NewStr, NewVal, NewVec};
        matches!(self, NewCon(_) | NewVal | NewObj | NewVec | NewStr | NewBin | NewArr)
    }

    /// The node that the operation changes, if it changes one.
    pub const fn target(&self) -> Option<Timestamp> {
        match *self {
            Self::InsVal { obj, .. }
            | Self::InsObj { obj, .. }
            | Self::InsVec { obj, .. }
            | Self::InsStr { obj, .. }
            | Self::InsBin { obj, .. }
            | Self::InsArr { obj, .. }
            | Self::UpdArr { obj, .. }
            | Self::Del { obj, .. } => Some(obj),
            _ => None,
        }
    }

    /// Calls `each` with every id that has to be known before the operation can have its effect. The timestamp in a
    /// constant is none of them.
    pub fn for_each_dependency(&self, mut each: impl FnMut(Timespan)) {
        let one = |start| Timespan { start, span: 1 };
        if let Some(obj) = self.target() {
            each(one(obj));
        }
        match *self {
            Self::InsVal { value, .. } => each(one(value)),
            Self::InsObj { entries, .. } => entries.for_each(|(_, id)| each(one(id))),
            Self::InsVec { slots, .. } => slots.for_each(|(_, id)| each(one(id))),
            Self::InsStr { after, .. } | Self::InsBin { after, .. } => each(one(after)),
            Self::InsArr { after, values, .. } => {
                each(one(after));
                values.for_each(|id| each(one(id)));
            }
            Self::UpdArr { slot, value, .. } => {
                each(one(slot));
                each(one(value));
            }
            Self::Del { spans, .. } => spans.for_each(each),
            _ => {}
        }
    }
}

macro_rules! list {
    ($(#[$doc:meta])* $name:ident of $item:ty, $read:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name<'a> {
            reader: Reader<'a>,
            own: SessionId,
            left: u64,
        }

        impl<'a> $name<'a> {
            /// Steps over `len` items and checks them; not if they were `CHECKED` and nothing comes behind them.
            #[inline]
            fn read<const CHECKED: bool>(
                r: &mut Reader<'a>,
                own: SessionId,
                len: u64,
                is_last: bool,
            ) -> Result<Self, Malformed> {
                let list = Self { reader: *r, own, left: len };
                if CHECKED && is_last {
                    return Ok(list);
                }
                for _ in 0..len {
                    let read: fn(&mut Reader<'a>, SessionId) -> Result<$item, Malformed> = $read;
                    read(r, own)?;
                }
                Ok(list)
            }
        }

        impl<'a> Iterator for $name<'a> {
            type Item = $item;

            #[inline]
            fn next(&mut self) -> Option<$item> {
                self.left = self.left.checked_sub(1)?;
                let read: fn(&mut Reader<'a>, SessionId) -> Result<$item, Malformed> = $read;
                // The bytes were checked when the patch was made.
                read(&mut self.reader, self.own).ok()
            }

            fn size_hint(&self) -> (usize, Option<usize>) {
                (self.left as usize, Some(self.left as usize))
            }
        }

        impl ExactSizeIterator for $name<'_> {}
    };
}

list! {
    /// Keys and the ids of the nodes to hold there.
    Entries of (Wtf8<'a>, Timestamp), |r, own| Ok((cbor::key(r)?, r.patch_id(own)?))
}

list! {
    /// Indexes and the ids of the nodes to hold there.
    Slots of (u8, Timestamp), |r, own| Ok((index(r)?, r.patch_id(own)?))
}

list! {
    /// Ids of nodes.
    Ids of Timestamp, |r, own| r.patch_id(own)
}

list! {
    /// Runs of ids to delete.
    Spans of Timespan, |r, own| {
        let start = r.patch_id(own)?;
        let span = r.vu57_up_to(MAX_ID - start.time + 1, "a span")?;
        r.reach(own, start, span);
        Ok(Timespan { start, span })
    }
}

/// The index into a tuple: a CBOR integer. The reference writes a bare octet, which agrees up to 23 only.
fn index(r: &mut Reader<'_>) -> Result<u8, Malformed> {
    match r.u8("an index")? {
        small @ 0..24 => Ok(small),
        0x18 => {
            let index = r.u8("an index")?;
            r.canonical &= index >= 24;
            Ok(index)
        }
        other => Err(r.unexpected(other, "an index from 0 to 255")),
    }
}

/// Opcodes as the binary form numbers them.
pub(crate) mod code {
    pub(crate) const NEW_CON: u8 = 0;
    pub(crate) const NEW_VAL: u8 = 1;
    pub(crate) const NEW_OBJ: u8 = 2;
    pub(crate) const NEW_VEC: u8 = 3;
    pub(crate) const NEW_STR: u8 = 4;
    pub(crate) const NEW_BIN: u8 = 5;
    pub(crate) const NEW_ARR: u8 = 6;
    pub(crate) const INS_VAL: u8 = 9;
    pub(crate) const INS_OBJ: u8 = 10;
    pub(crate) const INS_VEC: u8 = 11;
    pub(crate) const INS_STR: u8 = 12;
    pub(crate) const INS_BIN: u8 = 13;
    pub(crate) const INS_ARR: u8 = 14;
    pub(crate) const UPD_ARR: u8 = 15;
    pub(crate) const DEL: u8 = 16;
    pub(crate) const NOP: u8 = 17;
}

/// Reads an insertion of text out of bytes that were checked; `None`, and nothing of use read, for another operation.
#[inline]
pub(super) fn read_text<'a>(r: &mut Reader<'a>, own: SessionId) -> Option<(Timestamp, Timestamp, Wtf8<'a>)> {
    let octet = r.peek()?;
    if octet >> 3 != code::INS_STR {
        return None;
    }
    r.u8("").ok()?;
    let len = if octet & 7 == 0 { r.vu57("").ok()? } else { (octet & 7).into() };
    let (obj, after) = (r.patch_id(own).ok()?, r.patch_id(own).ok()?);
    Some((obj, after, Wtf8::trusted(r.take(len, "").ok()?)))
}

/// Reads an operation of a patch of `own`. Text in bytes that were `CHECKED` before is not checked again; nor is it
/// looked where a list ends that is the last thing there.
#[inline]
pub(crate) fn read<'a, const CHECKED: bool>(
    r: &mut Reader<'a>,
    own: SessionId,
    is_last: bool,
) -> Result<Op<'a>, Malformed> {
    let octet = r.u8("an operation")?;
    let (opcode, bits) = (octet >> 3, octet & 7);
    if let code::INS_OBJ..=code::INS_ARR | code::DEL | code::NOP = opcode {
        let len = match bits {
            0 => {
                let len = r.vu57("a length")?;
                r.canonical &= len == 0 || len > 7;
                len
            }
            bits => bits.into(),
        };
        if opcode == code::NOP {
            return Ok(Op::Nop { len });
        }
        let obj = r.patch_id(own)?;
        return Ok(match opcode {
            code::INS_OBJ => Op::InsObj { obj, entries: Entries::read::<CHECKED>(r, own, len, is_last)? },
            code::INS_VEC => Op::InsVec { obj, slots: Slots::read::<CHECKED>(r, own, len, is_last)? },
            code::INS_STR => {
                let after = r.patch_id(own)?;
                let text = if CHECKED { Wtf8::trusted(r.take(len, "text")?) } else { r.text(len)? };
                Op::InsStr { obj, after, text, units: text.units() as u64 }
            }
            code::INS_BIN => Op::InsBin { obj, after: r.patch_id(own)?, bytes: r.take(len, "bytes")? },
            code::INS_ARR => Op::InsArr {
                obj,
                after: r.patch_id(own)?,
                values: Ids::read::<CHECKED>(r, own, len, is_last)?,
            },
            _ => Op::Del { obj, spans: Spans::read::<CHECKED>(r, own, len, is_last)? },
        });
    }
    r.canonical &= bits <= u8::from(opcode == code::NEW_CON);
    Ok(match opcode {
        code::NEW_CON if bits == 0 => Op::NewCon(Con::Value(cbor::scan(r)?)),
        code::NEW_CON => Op::NewCon(Con::Id(r.patch_id(own)?)),
        code::NEW_VAL => Op::NewVal,
        code::NEW_OBJ => Op::NewObj,
        code::NEW_VEC => Op::NewVec,
        code::NEW_STR => Op::NewStr,
        code::NEW_BIN => Op::NewBin,
        code::NEW_ARR => Op::NewArr,
        code::INS_VAL => Op::InsVal { obj: r.patch_id(own)?, value: r.patch_id(own)? },
        code::UPD_ARR => {
            Op::UpdArr { obj: r.patch_id(own)?, slot: r.patch_id(own)?, value: r.patch_id(own)? }
        }
        _ => return Err(r.unexpected(octet, "an operation")),
    })
}

/// Writes the octet of an operation and its length. A length of 0 gets its number too: without it, as the reference
/// writes it, nobody can read on.
#[inline]
pub(super) fn put_len(out: &mut Vec<u8>, opcode: u8, len: u64) {
    if (1..8).contains(&len) {
        out.push(opcode << 3 | len as u8);
    } else {
        out.push(opcode << 3);
        put_vu57(out, len);
    }
}

/// Writes an index into a tuple.
pub(super) fn put_index(out: &mut Vec<u8>, index: u8) {
    cbor::put_head(out, 0, index.into());
}

/// Writes an operation with each of its ids mapped.
pub(crate) fn put(out: &mut Vec<u8>, own: SessionId, op: &Op<'_>, map: impl Fn(Timestamp) -> Timestamp) {
    let id = |out: &mut Vec<u8>, id| put_patch_id(out, own, map(id));
    match *op {
        Op::NewCon(Con::Value(value)) => {
            out.push(code::NEW_CON << 3);
            match RawValue::new(value.as_bytes()) {
                Ok(value) => out.extend_from_slice(value.as_bytes()),
                Err(_) => cbor::write(out, &value.to_value()),
            }
        }
        Op::NewCon(Con::Id(named)) => {
            out.push(code::NEW_CON << 3 | 1);
            id(out, named);
        }
        Op::NewVal => out.push(code::NEW_VAL << 3),
        Op::NewObj => out.push(code::NEW_OBJ << 3),
        Op::NewVec => out.push(code::NEW_VEC << 3),
        Op::NewStr => out.push(code::NEW_STR << 3),
        Op::NewBin => out.push(code::NEW_BIN << 3),
        Op::NewArr => out.push(code::NEW_ARR << 3),
        Op::InsVal { obj, value } => {
            out.push(code::INS_VAL << 3);
            id(out, obj);
            id(out, value);
        }
        Op::InsObj { obj, entries } => {
            put_len(out, code::INS_OBJ, entries.left);
            id(out, obj);
            for (key, value) in entries {
                cbor::put_text(out, key);
                id(out, value);
            }
        }
        Op::InsVec { obj, slots } => {
            put_len(out, code::INS_VEC, slots.left);
            id(out, obj);
            for (index, value) in slots {
                put_index(out, index);
                id(out, value);
            }
        }
        Op::InsStr { obj, after, text, .. } => {
            put_len(out, code::INS_STR, text.as_bytes().len() as u64);
            id(out, obj);
            id(out, after);
            out.extend_from_slice(text.as_bytes());
        }
        Op::InsBin { obj, after, bytes } => {
            put_len(out, code::INS_BIN, bytes.len() as u64);
            id(out, obj);
            id(out, after);
            out.extend_from_slice(bytes);
        }
        Op::InsArr { obj, after, values } => {
            put_len(out, code::INS_ARR, values.left);
            id(out, obj);
            id(out, after);
            values.for_each(|value| id(out, value));
        }
        Op::UpdArr { obj, slot, value } => {
            out.push(code::UPD_ARR << 3);
            id(out, obj);
            id(out, slot);
            id(out, value);
        }
        Op::Del { obj, spans } => {
            put_len(out, code::DEL, spans.left);
            id(out, obj);
            for Timespan { start, span } in spans {
                id(out, start);
                put_vu57(out, span);
            }
        }
        Op::Nop { len } => put_len(out, code::NOP, len),
    }
}
