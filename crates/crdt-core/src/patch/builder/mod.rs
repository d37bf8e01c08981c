//! Writes the operations of a patch as they are made.

mod body;
mod json;
mod mark;
mod ops;

use super::{Patch, op::put_len, put_head};
use crate::{
    SessionId, Timestamp,
    codec::{
        Malformed, RawValue, cbor,
        wire::{Burst, brief, burst, put_patch_id},
    },
    id::MAX_ID,
    value::Value,
};

use body::{Body, Noted};

pub(crate) use json::js_order;
pub(crate) use mark::Mark;

/// Builds a patch, operation by operation, straight into its binary form. Each method returns the id of its operation.
///
/// An operation that would do nothing (empty text, no spans, no entries) is not written and takes no tick: the reference
/// writes such operations in a form that it cannot read.
#[derive(Debug, Clone)]
pub struct PatchBuilder {
    start: Timestamp,
    next: u64,
    op_count: u64,
    meta: Option<Vec<u8>>,
    body: Body,
    /// The session's id as the head of a patch has it.
    sid: Short,
    /// Whether a part of a value was left out, since it is nested too deep.
    is_cut: bool,
}

/// At most sixteen bytes that are written again and again.
#[derive(Debug, Clone, Copy)]
struct Short {
    block: [u8; 16],
    len: u8,
}

impl Short {
    const EMPTY: Self = Self { block: [0; 16], len: 0 };

    #[inline]
    fn of(write: impl FnOnce(&mut Burst<'_>)) -> Self {
        let (block, len) = brief(write);
        Self { block, len: len as u8 }
    }
}

impl PatchBuilder {
    /// Starts a patch of a session at a time, the session's next unused one.
    pub const fn new(sid: SessionId, time: u64) -> Self {
        Self {
            start: Timestamp::new(sid, time),
            next: time,
            op_count: 0,
            meta: None,
            body: Body::new(),
            sid: Short::EMPTY,
            is_cut: false,
        }
    }

    /// The id of the next operation.
    pub const fn next_id(&self) -> Timestamp {
        Timestamp::new(self.start.sid, self.next)
    }

    /// Whether no operation was written yet.
    pub const fn is_empty(&self) -> bool {
        self.op_count == 0
    }

    /// Goes on at a later time: the clock has seen others. An open patch bridges the gap with a `nop`.
    #[inline]
    pub fn skip_to(&mut self, time: u64) {
        if time > self.next {
            self.skip(time);
        }
    }

    #[cold]
    fn skip(&mut self, time: u64) {
        if self.op_count == 0 {
            self.start.time = time;
            self.next = time;
        } else {
            self.nop(time - self.next);
        }
    }

    /// Gives the patch a remark of the application; `undefined` is none.
    pub fn set_meta(&mut self, meta: &Value) {
        self.meta = (!meta.is_undefined()).then(|| cbor::encode(meta));
    }

    #[inline]
    fn took(&mut self, span: u64) -> Timestamp {
        let id = self.next_id();
        // A hostile list of long `nop`s must not wrap around; the end is checked at last.
        self.next = self.next.saturating_add(span);
        self.op_count += 1;
        id
    }

    #[inline]
    fn id(&mut self, id: Timestamp) {
        put_patch_id(self.body.bytes(), self.start.sid, id);
    }

    pub(super) fn set_meta_raw(&mut self, meta: Option<RawValue<'_>>) {
        self.meta = meta.map(|meta| meta.as_bytes().to_vec());
    }

    /// Whether a part of a value was left out since this was asked last.
    pub(crate) const fn take_cut(&mut self) -> bool {
        std::mem::replace(&mut self.is_cut, false)
    }

    pub(crate) const fn body_len(&self) -> usize {
        self.body.len()
    }

    /// Ends the patch. `None` if no operation was written.
    ///
    /// # Panics
    /// If the operations run beyond the last time there is, 2^53 − 1: a document refuses edits before.
    pub fn finish(mut self) -> Option<Patch> {
        self.take()
    }

    /// Ends the patch and starts the next one at the next time, in the same memory.
    pub fn take(&mut self) -> Option<Patch> {
        if self.op_count == 0 {
            return None;
        }
        let span = self.checked_span();
        let body = self.body.bytes();
        let patch = Patch::assemble(self.start, span, self.meta.as_deref(), self.op_count, body);
        self.restart();
        Some(patch)
    }

    /// Appends the binary form of the patch to `out`, and starts the next one at the next time. Returns how many bytes
    /// that took; 0 if no operation was written. Costs no allocation once both buffers have grown.
    #[inline]
    pub fn take_into(&mut self, out: &mut Vec<u8>) -> usize {
        if self.op_count == 0 {
            return 0;
        }
        self.checked_span();
        let before = out.len();
        match self.body.noted() {
            Some(noted) if self.meta.is_none() && self.sid.len > 0 => {
                self.put_noted(out, noted);
                self.start.time = self.next;
                self.op_count = 0;
                self.body.forget();
            }
            _ => {
                self.put_written(out);
                self.restart();
            }
        }
        out.len() - before
    }

    /// Writes a patch of one keystroke.
    #[inline(always)]
    fn put_noted(&self, out: &mut Vec<u8>, noted: Noted) {
        burst(out, |patch| {
            patch.block(&self.sid.block, self.sid.len.into());
            patch.vu57(self.start.time);
            // No remark, and one operation.
            patch.block(&[0xf7, 1], 2);
            noted.put(patch, self.body.aimed_at());
        });
    }

    #[inline(never)]
    fn put_written(&mut self, out: &mut Vec<u8>) {
        let body = self.body.bytes();
        if self.meta.is_some() || body.len() > Burst::SOME_MAX {
            put_head(out, self.start, self.meta.as_deref(), self.op_count);
            return out.extend_from_slice(body);
        }
        if self.sid.len == 0 {
            self.sid = Short::of(|sid| sid.vu57(self.start.sid.get()));
        }
        burst(out, |patch| {
            patch.block(&self.sid.block, self.sid.len.into());
            patch.vu57(self.start.time);
            patch.u8(0xf7);
            // Each takes a byte at least.
            patch.u8(self.op_count as u8);
            patch.some(body);
        });
    }

    /// Ends a patch that came from outside.
    pub(crate) fn finish_checked(self) -> Result<Patch, Malformed> {
        if self.start.sid == SessionId::SYSTEM {
            return Err(Malformed::shape("a session that makes patches", "the system's session"));
        }
        if self.next > MAX_ID {
            let (what, value) = ("end of the patch", self.next);
            return Err(Malformed::TooLarge { at: 0, what, value, max: MAX_ID });
        }
        self.finish().ok_or_else(|| Malformed::shape("at least one operation", "none"))
    }

    #[inline]
    fn checked_span(&self) -> u64 {
        assert!(self.next <= MAX_ID, "the patch ends at time {}: at most {MAX_ID} is allowed", self.next);
        self.next - self.start.time
    }

    #[inline]
    fn restart(&mut self) {
        self.start.time = self.next;
        self.op_count = 0;
        self.meta = None;
        self.body.clear();
    }
}
