//! What is written for each operation.

use std::mem::ManuallyDrop;

use super::{PatchBuilder, body::Noted};
use crate::{
    Timespan, Timestamp,
    codec::{
        RawValue, cbor,
        wire::{Alike, burst, put_vu57},
    },
    patch::{
        elements::ROW,
        op::{self, Con, code, put_index, put_len},
    },
    text::{Text, Wtf8},
    value::Value,
};

/// Room for the operations of some numbers.
const ROOM: usize = 128;

/// For so many constants at most is room made before they come.
const CONSTANTS_AT_ONCE_MAX: usize = 1 << 16;

impl PatchBuilder {
    fn create(&mut self, opcode: u8) -> Timestamp {
        self.body.bytes().push(opcode << 3);
        self.took(1)
    }

    /// Creates a constant. Parts nested deeper than [`Value::DEPTH_MAX`] become `null`.
    #[inline]
    pub fn new_con(&mut self, value: &Value) -> Timestamp {
        match *value {
            Value::Int(n) => put_number(self.body.bytes(), n),
            _ => self.is_cut |= put_other(self.body.bytes(), value),
        }
        self.took(1)
    }

    /// Creates constants, one after the other.
    pub(crate) fn new_cons<V: Into<Value>>(&mut self, values: impl Iterator<Item = V>) {
        if values.size_hint().1.is_some_and(|most| most < ROW) {
            return values.for_each(|value| self.new_con_of(value));
        }
        let mut values = values;
        // Most take two to four bytes, and their ids in the operation that puts them in about as many.
        self.body.bytes().reserve(values.size_hint().0.min(CONSTANTS_AT_ONCE_MAX) * 8);
        while let Some(odd) = self.new_numbers(&mut values) {
            self.new_con_of(odd);
        }
    }

    #[inline]
    fn new_con_of<V: Into<Value>>(&mut self, value: V) {
        let value = ManuallyDrop::new(value.into());
        self.new_con(&value);
        // In a number there is nothing to drop, which costs a call to find out.
        if !matches!(*value, Value::Int(_)) {
            drop(ManuallyDrop::into_inner(value));
        }
    }

    /// Creates constants out of the usual numbers, up to the first value that is none.
    #[inline(always)]
    fn new_numbers<V: Into<Value>>(&mut self, values: &mut impl Iterator<Item = V>) -> Option<Value> {
        let bytes = self.body.bytes();
        loop {
            // Room for many is made at once, and what is too much is cut off.
            let (start, mut at, mut len) = (bytes.len(), 0, 0);
            bytes.extend_from_slice(&[0; ROOM]);
            let room: &mut [u8; ROOM] = bytes.last_chunk_mut().expect("it was just appended");
            let left = loop {
                if at > ROOM - 4 {
                    break None;
                }
                let Some(value) = values.next() else { break Some(None) };
                let value = ManuallyDrop::new(value.into());
                let Value::Int(n) = *value else { break Some(Some(ManuallyDrop::into_inner(value))) };
                let Some((op, op_len)) = short(n) else { break Some(Some(Value::Int(n))) };
                room[at..at + 4].copy_from_slice(&op);
                at += op_len;
                len += 1;
            };
            bytes.truncate(start + at);
            self.next = self.next.saturating_add(len);
            self.op_count += len;
            if let Some(odd) = left {
                return odd;
            }
        }
    }

    /// Creates a constant out of bytes that are a value already.
    pub fn new_con_raw(&mut self, value: RawValue<'_>) -> Timestamp {
        self.body.bytes().push(code::NEW_CON << 3);
        self.body.bytes().extend_from_slice(value.as_bytes());
        self.took(1)
    }

    /// Creates a constant that is a timestamp.
    pub fn new_con_id(&mut self, id: Timestamp) -> Timestamp {
        self.push(&op::Op::NewCon(Con::Id(id)))
    }

    /// Creates a register.
    pub fn new_val(&mut self) -> Timestamp {
        self.create(code::NEW_VAL)
    }

    /// Creates a map.
    pub fn new_obj(&mut self) -> Timestamp {
        self.create(code::NEW_OBJ)
    }

    /// Creates a tuple.
    pub fn new_vec(&mut self) -> Timestamp {
        self.create(code::NEW_VEC)
    }

    /// Creates a text.
    pub fn new_str(&mut self) -> Timestamp {
        self.create(code::NEW_STR)
    }

    /// Creates bytes.
    pub fn new_bin(&mut self) -> Timestamp {
        self.create(code::NEW_BIN)
    }

    /// Creates an array.
    pub fn new_arr(&mut self) -> Timestamp {
        self.create(code::NEW_ARR)
    }

    /// Sets a register, or the root: [`Timestamp::ORIGIN`].
    pub fn ins_val(&mut self, obj: Timestamp, value: Timestamp) -> Timestamp {
        self.body.bytes().push(code::INS_VAL << 3);
        self.id(obj);
        self.id(value);
        self.took(1)
    }

    /// Sets keys of a map.
    pub fn ins_obj<'k, K, I>(&mut self, obj: Timestamp, entries: I) -> Timestamp
    where
        K: Into<Wtf8<'k>>,
        I: IntoIterator<Item = (K, Timestamp), IntoIter: ExactSizeIterator>,
    {
        let entries = entries.into_iter();
        if entries.len() == 0 {
            return self.next_id();
        }
        put_len(self.body.bytes(), code::INS_OBJ, entries.len() as u64);
        self.id(obj);
        for (key, value) in entries {
            cbor::put_text(self.body.bytes(), key.into());
            self.id(value);
        }
        self.took(1)
    }

    /// Sets places of a tuple.
    pub fn ins_vec<I>(&mut self, obj: Timestamp, slots: I) -> Timestamp
    where
        I: IntoIterator<Item = (u8, Timestamp), IntoIter: ExactSizeIterator>,
    {
        let slots = slots.into_iter();
        if slots.len() == 0 {
            return self.next_id();
        }
        put_len(self.body.bytes(), code::INS_VEC, slots.len() as u64);
        self.id(obj);
        for (index, value) in slots {
            put_index(self.body.bytes(), index);
            self.id(value);
        }
        self.took(1)
    }

    /// Inserts text after a unit, or at the start of the text after the text's own id.
    #[inline]
    pub fn ins_str<'t>(&mut self, obj: Timestamp, after: Timestamp, text: impl Into<Wtf8<'t>>) -> Timestamp {
        let text = text.into();
        if text.is_empty() {
            return self.next_id();
        }
        put_len(self.body.bytes(), code::INS_STR, text.as_bytes().len() as u64);
        self.id(obj);
        self.id(after);
        self.body.bytes().extend_from_slice(text.as_bytes());
        self.took(text.units() as u64)
    }

    /// Inserts ASCII after the own unit that was made just before a time, at which it goes on.
    #[inline]
    pub(crate) fn type_on(&mut self, obj: Timestamp, time: u64, text: &[u8]) {
        self.skip_to(time);
        let target = self.body.target(self.start.sid, obj);
        if let ([letter], 0) = (text, self.op_count) {
            self.body.note(Noted { octet: code::INS_STR << 3 | 1, time: time - 1, last: *letter });
            self.took(1);
            return;
        }
        let short = text.len() < 8;
        burst(self.body.bytes(), |op| {
            if short {
                op.u8(code::INS_STR << 3 | text.len() as u8);
            } else {
                op.u8(code::INS_STR << 3);
                op.vu57(text.len() as u64);
            }
            op.block(&target.block, target.len.into());
            op.b1vu56(false, time - 1);
            match text {
                [one] => op.u8(*one),
                text if short => op.few(text),
                _ => {}
            }
        });
        if !short {
            self.body.bytes().extend_from_slice(text);
        }
        self.took(text.len() as u64);
    }

    /// [`ins_str`](Self::ins_str) for text that is not empty and whose length in UTF-16 units is known.
    #[inline]
    pub(crate) fn ins_text(
        &mut self,
        obj: Timestamp,
        after: Timestamp,
        text: Wtf8<'_>,
        units: u64,
    ) -> Timestamp {
        let (own, bytes) = (self.start.sid, text.as_bytes());
        let short = bytes.len() < 8;
        burst(self.body.bytes(), |op| {
            if short {
                op.u8(code::INS_STR << 3 | bytes.len() as u8);
            } else {
                op.u8(code::INS_STR << 3);
                op.vu57(bytes.len() as u64);
            }
            op.patch_id(own, obj);
            op.patch_id(own, after);
            if short {
                op.few(bytes);
            }
        });
        if !short {
            self.body.bytes().extend_from_slice(bytes);
        }
        self.took(units)
    }

    /// Inserts bytes after a byte, or at the start after the node's own id.
    pub fn ins_bin(&mut self, obj: Timestamp, after: Timestamp, bytes: &[u8]) -> Timestamp {
        if bytes.is_empty() {
            return self.next_id();
        }
        put_len(self.body.bytes(), code::INS_BIN, bytes.len() as u64);
        self.id(obj);
        self.id(after);
        self.body.bytes().extend_from_slice(bytes);
        self.took(bytes.len() as u64)
    }

    /// Inserts elements after a slot, or at the start after the array's own id.
    pub fn ins_arr(&mut self, obj: Timestamp, after: Timestamp, values: &[Timestamp]) -> Timestamp {
        if values.is_empty() {
            return self.next_id();
        }
        put_len(self.body.bytes(), code::INS_ARR, values.len() as u64);
        self.id(obj);
        self.id(after);
        for &value in values {
            self.id(value);
        }
        self.took(values.len() as u64)
    }

    /// [`ins_arr`](Self::ins_arr) for the nodes of the last so many operations, which took one tick each.
    pub(crate) fn ins_arr_made(&mut self, obj: Timestamp, after: Timestamp, len: u32) -> Timestamp {
        let (own, first) = (self.start.sid, self.next - u64::from(len));
        let target = self.body.target(own, obj);
        burst(self.body.bytes(), |op| {
            if len < 8 {
                op.u8(code::INS_ARR << 3 | len as u8);
            } else {
                op.u8(code::INS_ARR << 3);
                op.vu57(len.into());
            }
            op.block(&target.block, target.len.into());
            op.patch_id(own, after);
            if len == 1 {
                op.b1vu56(false, first);
            }
        });
        if len > 1 {
            let (out, mut times) = (self.body.bytes(), first..self.next);
            while let Some(row) = Alike::first_of(&mut times) {
                row.write(out);
            }
        }
        self.took(len.into())
    }

    /// Replaces what a slot of an array holds.
    pub fn upd_arr(&mut self, obj: Timestamp, slot: Timestamp, value: Timestamp) -> Timestamp {
        self.body.bytes().push(code::UPD_ARR << 3);
        self.id(obj);
        self.id(slot);
        self.id(value);
        self.took(1)
    }

    /// Deletes. Each span should lie within one run of one insertion (json-joy follows no other). Empty spans are left out.
    #[inline]
    pub fn del(&mut self, obj: Timestamp, spans: &[Timespan]) -> Timestamp {
        if let [Timespan { start, span: span @ 1.. }] = *spans {
            let own = self.start.sid;
            let target = self.body.target(own, obj);
            if start.sid == own && span < 0x80 && self.op_count == 0 {
                let (octet, time) = (code::DEL << 3 | 1, start.time);
                self.body.note(Noted { octet, time, last: span as u8 });
                return self.took(1);
            }
            burst(self.body.bytes(), |op| {
                op.u8(code::DEL << 3 | 1);
                op.block(&target.block, target.len.into());
                op.patch_id(own, start);
                op.vu57(span);
            });
            return self.took(1);
        }
        let full = || spans.iter().filter(|span| span.span > 0);
        let len = full().count();
        if len == 0 {
            return self.next_id();
        }
        put_len(self.body.bytes(), code::DEL, len as u64);
        self.id(obj);
        for span in full() {
            self.id(span.start);
            put_vu57(self.body.bytes(), span.span);
        }
        self.took(1)
    }

    /// Skips ticks.
    pub fn nop(&mut self, len: u64) -> Timestamp {
        if len == 0 {
            return self.next_id();
        }
        put_len(self.body.bytes(), code::NOP, len);
        self.took(len)
    }

    /// Appends an operation as it is, an empty one too. Its id is the next one.
    pub fn push(&mut self, op: &op::Op<'_>) -> Timestamp {
        self.push_mapped(op, |id| id)
    }

    pub(in crate::patch) fn push_mapped(
        &mut self,
        op: &op::Op<'_>,
        map: impl Fn(Timestamp) -> Timestamp,
    ) -> Timestamp {
        op::put(self.body.bytes(), self.start.sid, op, map);
        self.took(op.span())
    }

    /// The low-level spelling of lists whose items come one by one; `put` writes them all.
    pub(crate) fn list(
        &mut self,
        opcode: u8,
        len: u64,
        span: u64,
        put: impl FnOnce(&mut Vec<u8>),
    ) -> Timestamp {
        put_len(self.body.bytes(), opcode, len);
        put(self.body.bytes());
        self.took(span)
    }

    /// From outside, where an empty list still takes its tick.
    pub(crate) fn ins_obj_or_nop(&mut self, obj: Timestamp, entries: &[(Text, Timestamp)]) -> Timestamp {
        match entries {
            [] => self.nop(1),
            entries => self.ins_obj(obj, entries.iter().map(|(key, value)| (key.as_wtf8(), *value))),
        }
    }

    /// From outside, where an empty list still takes its tick.
    pub(crate) fn ins_vec_or_nop(&mut self, obj: Timestamp, slots: Vec<(u8, Timestamp)>) -> Timestamp {
        if slots.is_empty() { self.nop(1) } else { self.ins_vec(obj, slots) }
    }

    /// From outside, where an empty list still takes its tick.
    pub(crate) fn del_or_nop(&mut self, obj: Timestamp, spans: &[Timespan]) -> Timestamp {
        let before = self.op_count;
        let id = self.del(obj, spans);
        if self.op_count == before { self.nop(1) } else { id }
    }
}

/// What an operation that makes a constant begins with.
const CON: u8 = code::NEW_CON << 3;

/// Writes the operation that makes a constant out of what is no usual number. Whether a part of it is left out.
fn put_other(out: &mut Vec<u8>, value: &Value) -> bool {
    out.push(CON);
    cbor::write(out, value);
    value.is_deeper_than(Value::DEPTH_MAX)
}

/// Writes the operation that makes a constant out of a number.
#[inline]
fn put_number(out: &mut Vec<u8>, n: i64) {
    if let Some((op, len)) = short(n) {
        let end = out.len() + len;
        out.extend_from_slice(&op);
        out.truncate(end);
    } else {
        out.push(CON);
        let sign = n >> 63;
        cbor::put_head(out, sign as u8 & 1, (n ^ sign) as u64);
    }
}

/// The operation that makes a constant out of a number of at most two bytes, and how many bytes of it count.
#[inline(always)]
const fn short(n: i64) -> Option<([u8; 4], usize)> {
    if let 0x100..0x1_0000 = n {
        // As most are in a long list.
        return Some((two_bytes(0x19, n as u16), 4));
    }
    let sign = n >> 63;
    let (major, n) = (sign as u8 & 0x20, n ^ sign);
    match n {
        0..24 => Some(([CON, major | n as u8, 0, 0], 2)),
        24..0x100 => Some(([CON, major | 0x18, n as u8, 0], 3)),
        0x100..0x1_0000 => Some((two_bytes(major | 0x19, n as u16), 4)),
        _ => None,
    }
}

/// The operation with two bytes behind a head, as a word.
#[inline(always)]
const fn two_bytes(head: u8, n: u16) -> [u8; 4] {
    (u32::from_le_bytes([CON, head, 0, 0]) | (n as u32).swap_bytes()).to_le_bytes()
}
