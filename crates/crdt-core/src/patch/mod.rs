//! Patches: what one session did, in order, as the bytes that travel.
//!
//! A [`Patch`] owns its binary encoding, checked once; a [`PatchRef`] borrows one. Operations are read from the bytes as
//! they are walked, without allocation. [`PatchBuilder`] writes those bytes.

mod builder;
#[cfg(test)]
mod drawn;
pub(crate) mod elements;
pub(crate) mod keystroke;
pub(crate) mod op;
mod rewrite;
pub(crate) mod setting;

use std::{fmt, sync::Arc};

pub use builder::PatchBuilder;
pub(crate) use builder::{Mark, js_order};
pub use op::{Con, Entries, Ids, Op, Slots, Spans};
pub use rewrite::RewriteError;

use crate::{
    SessionId, StateVector, Timespan, Timestamp,
    codec::{
        Malformed, RawValue, cbor,
        wire::{Foreign, Reader, burst, put_vu57},
    },
    id::MAX_ID,
    text::Wtf8,
};

/// A patch in its binary form, borrowed. The bytes are checked and canonical: equal patches are equal bytes.
#[derive(Clone, Copy)]
pub struct PatchRef<'a> {
    bytes: &'a [u8],
    head: Head,
}

/// An owned patch in its binary form. Clones share the bytes.
#[derive(Clone)]
pub struct Patch {
    bytes: Arc<[u8]>,
    head: Head,
}

/// What a patch says before its operations, and where they start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    id: Timestamp,
    span: u64,
    op_count: u64,
    meta: Option<(usize, usize)>,
    ops_at: usize,
    /// The ids of other sessions that it may name.
    foreign: Foreign,
}

impl<'a> PatchRef<'a> {
    /// Takes bytes as a patch. Bytes that are a patch in another spelling are [`Malformed::NotCanonical`], and
    /// [`Patch::decode`] respells them.
    #[inline]
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if let Some(keystroke) = keystroke::read(bytes) {
            return Ok(Self { bytes, head: keystroke.head() });
        }
        match Self::decode_any(bytes)? {
            (patch, true) => Ok(patch),
            (_, false) => Err(Malformed::NotCanonical),
        }
    }

    /// [`decode`](Self::decode) that tells at once what the patch names of other sessions: all that it needs to have
    /// come before, without a second reading. Of a session that it names alone it may tell the last id only.
    #[inline]
    pub fn decode_naming(bytes: &'a [u8], mut each: impl FnMut(Timespan)) -> Result<Self, Malformed> {
        if let Some(keystroke) = keystroke::read(bytes) {
            keystroke.for_each_foreign(each);
            return Ok(Self { bytes, head: keystroke.head() });
        }
        let patch = Self::decode(bytes)?;
        match patch.last_foreign() {
            Some(last) if last.sid == SessionId::SYSTEM => {}
            Some(start) => each(Timespan { start, span: 1 }),
            None => patch.for_each_foreign(each),
        }
        Ok(patch)
    }

    /// Takes bytes as a patch, and tells whether they are canonical.
    fn decode_any(bytes: &'a [u8]) -> Result<(Self, bool), Malformed> {
        let mut r = Reader::new(bytes);
        let sid = r.session()?;
        if sid == SessionId::SYSTEM {
            // Its ids stand for the root and for "no node"; a node that had one could not be told from none.
            return Err(Malformed::Contradiction { at: r.offset(), what: "a patch of the system's session" });
        }
        let id = Timestamp::new(sid, r.time()?);
        let meta = if r.peek() == Some(0xf7) {
            r.u8("meta")?;
            None
        } else {
            meta(&mut r)?
        };
        let op_count = r.vu57("a count of operations")?;
        if op_count == 0 {
            return Err(Malformed::Contradiction { at: r.offset(), what: "a patch without operations" });
        }
        let ops_at = r.offset();
        let mut next = id.time;
        for _ in 0..op_count {
            next = next.saturating_add(op::read::<false>(&mut r, sid, false)?.span());
        }
        r.end()?;
        let span = next - id.time;
        // The next time must be one that the next patch can have.
        if next > MAX_ID {
            return Err(Malformed::TooLarge {
                at: r.offset(),
                what: "end of the patch",
                value: next,
                max: MAX_ID,
            });
        }
        let head = Head { id, span, op_count, meta, ops_at, foreign: r.foreign };
        Ok((Self { bytes, head }, r.canonical))
    }

    /// The id of the first operation.
    pub const fn id(&self) -> Timestamp {
        self.head.id
    }

    /// How many ticks all operations take.
    pub const fn span(&self) -> u64 {
        self.head.span
    }

    /// The first time that is not the patch's any more.
    pub const fn next_time(&self) -> u64 {
        self.head.id.time + self.head.span
    }

    /// How many operations it has; at least one.
    pub const fn op_count(&self) -> u64 {
        self.head.op_count
    }

    /// The application's own remark, if the patch has one.
    pub fn meta(&self) -> Option<RawValue<'a>> {
        self.head.meta.map(|(start, end)| RawValue::trusted(&self.bytes[start..end]))
    }

    /// The binary form.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The operations with their ids, in order.
    #[inline]
    pub fn ops(&self) -> Ops<'a> {
        Ops {
            reader: Reader::new(self.bytes).at_offset(self.head.ops_at),
            id: self.head.id,
            left: self.head.op_count,
        }
    }

    /// Every id of another session that must be known before all operations can have their effect. System ids, which
    /// are always known, are left out; an id may come more than once.
    pub fn for_each_foreign(&self, mut each: impl FnMut(Timespan)) {
        let own = self.head.id.sid;
        if self.head.foreign == Foreign::None {
            return;
        }
        if let Some(keystroke) = keystroke::read(self.bytes) {
            return keystroke.for_each_foreign(each);
        }
        for (_, op) in self.ops() {
            op.for_each_dependency(|span| {
                if span.start.sid != own && span.start.sid != SessionId::SYSTEM && span.span > 0 {
                    each(span);
                }
            });
        }
    }

    /// The last id of the one other session that it names ids of, if that is known from reading it: nothing is read again.
    /// (`None` also where several are named: [`for_each_foreign`](Self::for_each_foreign) tells all.)
    pub const fn last_foreign(&self) -> Option<Timestamp> {
        match self.head.foreign {
            Foreign::UpTo(last) => Some(last),
            _ => None,
        }
    }

    /// What a replica must have seen of *other* sessions before it takes this patch. It must also have all earlier
    /// patches of the patch's own session, which cannot be told from times, since they have gaps.
    pub fn dependencies(&self) -> StateVector {
        let mut seen = StateVector::new();
        self.for_each_foreign(|Timespan { start, span }| {
            seen.advance(start.sid, start.time + span - 1);
        });
        seen
    }

    /// An owned copy.
    pub fn to_patch(self) -> Patch {
        Patch { bytes: self.bytes.into(), head: self.head }
    }
}

/// The meta of a patch: by the reference an array of one, for any reader any value; of an array the first element.
fn meta(r: &mut Reader<'_>) -> Result<Option<(usize, usize)>, Malformed> {
    let start = r.offset();
    let Some(head) = r.peek() else { return Err(r.truncated("meta")) };
    if head >> 5 != 4 {
        r.canonical = false;
        let value = cbor::scan(r)?;
        return Ok((!value.is_undefined()).then_some((start, r.offset())));
    }
    let whole = cbor::scan_list(r)?;
    r.canonical &= head == 0x81;
    if head == 0x80 {
        return Ok(None);
    }
    // The first element starts behind the array's head, whatever its width.
    let mut inner = Reader::new(whole.as_bytes());
    cbor::skip_head(&mut inner)?;
    let from = inner.offset();
    if inner.peek() == Some(0xff) {
        return Ok(None);
    }
    let first = cbor::scan(&mut inner)?;
    if first.is_undefined() {
        r.canonical = false;
        return Ok(None);
    }
    Ok(Some((start + from, start + inner.offset())))
}

/// The operations of a patch with their ids.
#[derive(Clone, Copy, Debug)]
pub struct Ops<'a> {
    reader: Reader<'a>,
    id: Timestamp,
    left: u64,
}

/// An [`Op::InsStr`] with its id.
pub(crate) struct TextOp<'a> {
    pub(crate) id: Timestamp,
    pub(crate) obj: Timestamp,
    pub(crate) after: Timestamp,
    pub(crate) text: Wtf8<'a>,
    pub(crate) units: u64,
}

impl<'a> Ops<'a> {
    /// The next operation if it inserts text, as most do: the same as from the iterator, at less cost.
    #[inline]
    pub(crate) fn next_text(&mut self) -> Option<TextOp<'a>> {
        if self.left == 0 {
            return None;
        }
        let mut reader = self.reader;
        let (obj, after, text) = op::read_text(&mut reader, self.id.sid)?;
        self.reader = reader;
        self.left -= 1;
        let (id, units) = (self.id, text.units() as u64);
        self.id.time += units;
        Some(TextOp { id, obj, after, text, units })
    }
}

impl<'a> Iterator for Ops<'a> {
    type Item = (Timestamp, Op<'a>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        // The bytes were checked when the patch was made.
        let op = op::read::<true>(&mut self.reader, self.id.sid, self.left == 0).ok()?;
        let id = self.id;
        self.id.time += op.span();
        Some((id, op))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for Ops<'_> {}

impl Patch {
    /// Takes bytes from anyone as a patch: checks them and, if they spell it in another way than json-joy's encoder and
    /// ours do, respells it.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if let Some(keystroke) = keystroke::read(bytes) {
            return Ok(Self { bytes: bytes.into(), head: keystroke.head() });
        }
        let (patch, canonical) = PatchRef::decode_any(bytes)?;
        if canonical {
            return Ok(patch.to_patch());
        }
        let mut body = Vec::with_capacity(bytes.len() + bytes.len() / 8);
        for (_, op) in patch.ops() {
            op::put(&mut body, patch.id().sid, &op, |id| id);
        }
        let meta = patch.meta().map(|meta| cbor::encode(&meta.to_value()));
        Ok(Self::assemble(patch.id(), patch.span(), meta.as_deref(), patch.op_count(), &body))
    }

    /// Puts a head before operations.
    fn assemble(id: Timestamp, span: u64, meta: Option<&[u8]>, op_count: u64, body: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(30 + meta.map_or(0, <[u8]>::len) + body.len());
        let (meta, ops_at) = put_head(&mut bytes, id, meta, op_count);
        bytes.extend_from_slice(body);
        let head = Head { id, span, op_count, meta, ops_at, foreign: Foreign::Any };
        Self { bytes: bytes.into(), head }
    }

    /// The patch, borrowed.
    #[inline]
    pub fn as_ref(&self) -> PatchRef<'_> {
        PatchRef { bytes: &self.bytes, head: self.head }
    }

    /// The binary form.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The binary form, shared.
    pub fn to_shared_bytes(&self) -> Arc<[u8]> {
        self.bytes.clone()
    }

    /// The id of the first operation.
    pub const fn id(&self) -> Timestamp {
        self.head.id
    }

    /// How many ticks all operations take.
    pub const fn span(&self) -> u64 {
        self.head.span
    }

    /// The first time that is not the patch's any more.
    pub const fn next_time(&self) -> u64 {
        self.head.id.time + self.head.span
    }

    /// How many operations it has; at least one.
    pub const fn op_count(&self) -> u64 {
        self.head.op_count
    }

    /// The application's own remark, if the patch has one.
    pub fn meta(&self) -> Option<RawValue<'_>> {
        self.as_ref().meta()
    }

    /// The operations with their ids, in order.
    pub fn ops(&self) -> Ops<'_> {
        self.as_ref().ops()
    }

    /// What a replica must have seen of other sessions first: [`PatchRef::dependencies`].
    pub fn dependencies(&self) -> StateVector {
        self.as_ref().dependencies()
    }
}

/// Writes all that stands before the operations; tells where the meta value is and where the operations start.
#[inline]
fn put_head(
    out: &mut Vec<u8>,
    id: Timestamp,
    meta: Option<&[u8]>,
    op_count: u64,
) -> (Option<(usize, usize)>, usize) {
    let start = out.len();
    burst(out, |head| {
        head.vu57(id.sid.get());
        head.vu57(id.time);
        if meta.is_none() {
            head.u8(0xf7);
            head.vu57(op_count);
        } else {
            head.u8(0x81);
        }
    });
    let Some(value) = meta else { return (None, out.len() - start) };
    let from = out.len() - start;
    out.extend_from_slice(value);
    let meta = (from, out.len() - start);
    put_vu57(out, op_count);
    (Some(meta), out.len() - start)
}

impl PartialEq for Patch {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Patch {}

impl PartialEq for PatchRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for PatchRef<'_> {}

impl fmt::Debug for PatchRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.ops()).finish()
    }
}

impl fmt::Debug for Patch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}
