//! Patches made out of patches: moved in time, joined, with typed runs merged.

use super::{Op, Patch, PatchBuilder, op::code};
use crate::{
    SessionId, Timespan, Timestamp,
    codec::{
        cbor,
        wire::{put_patch_id, put_vu57},
    },
    id::MAX_ID,
    text::Text,
    value::Value,
};

/// Why patches could not be joined or moved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RewriteError {
    /// There was no patch to join.
    #[error("no patch to combine")]
    Nothing,
    /// Patches of two sessions do not join.
    #[error("patch {next} cannot follow a patch of session {sid}")]
    OtherSession {
        /// The session of those before.
        sid: SessionId,
        /// The patch that does not fit.
        next: Timestamp,
    },
    /// A patch starts before the one before it ends.
    #[error("patch {next} starts before {end}, where the patch before it ends")]
    Overlap {
        /// The end of those before.
        end: u64,
        /// The patch that does not fit.
        next: Timestamp,
    },
    /// Moved beyond the times there are.
    #[error("patch {id} does not fit at time {time}: times go from 0 to {MAX_ID}")]
    OutOfTime {
        /// The patch.
        id: Timestamp,
        /// Where it should go.
        time: u64,
    },
}

impl Patch {
    /// The same edits at another time: every id of the patch's own session from time `from` on moves along with the
    /// patch. For local patches that nobody has seen yet.
    ///
    /// Unlike the reference this moves the spans of deletions too (its rebased patch deletes something else than it
    /// inserted), and keeps the meta.
    pub fn rebase(&self, time: u64, from: u64) -> Result<Self, RewriteError> {
        let Timestamp { sid, time: old } = self.id();
        let out_of_time = RewriteError::OutOfTime { id: self.id(), time };
        if time.checked_add(self.span()).is_none_or(|end| end > MAX_ID) {
            return Err(out_of_time);
        }
        let moved = |at: u64| if at < from { Some(at) } else { (at + time).checked_sub(old) };
        // Checked first, so that the mapping below has an answer for each id.
        let mut fits = true;
        for (_, op) in self.ops() {
            let mut check = |id: Timestamp, span: u64| {
                fits &= id.sid != sid || moved(id.time).is_some_and(|at| at + span.max(1) - 1 <= MAX_ID);
            };
            if let Op::NewCon(super::Con::Id(id)) = op {
                check(id, 1);
            }
            op.for_each_dependency(|span| {
                split(span, sid, from).for_each(|part| check(part.start, part.span));
            });
        }
        if !fits {
            return Err(out_of_time);
        }
        let map = |id: Timestamp| match id.sid == sid {
            true => Timestamp::new(sid, moved(id.time).unwrap_or(id.time)),
            false => id,
        };
        let mut builder = PatchBuilder::new(sid, time);
        builder.set_meta_raw(self.meta());
        for (_, op) in self.ops() {
            if let Op::Del { obj, spans } = op {
                let spans: Vec<_> = spans.flat_map(|span| split(span, sid, from)).collect();
                builder.list(code::DEL, spans.len() as u64, 1, |out| {
                    put_patch_id(out, sid, map(obj));
                    for Timespan { start, span } in spans {
                        put_patch_id(out, sid, map(start));
                        put_vu57(out, span);
                    }
                });
            } else {
                builder.push_mapped(&op, map);
            }
        }
        Ok(builder.finish().unwrap_or_else(|| self.clone()))
    }

    /// The same operations under another remark; [`Value::Undefined`] takes the remark away.
    pub fn with_meta(&self, meta: &Value) -> Self {
        let meta = (!meta.is_undefined()).then(|| cbor::encode(meta));
        let operations = &self.bytes[self.head.ops_at..];
        Self::assemble(self.id(), self.span(), meta.as_deref(), self.op_count(), operations)
    }

    /// One patch out of several of one session, in the order of time. A gap becomes a `nop`; the meta is the first's.
    pub fn combine<'a>(patches: impl IntoIterator<Item = &'a Self>) -> Result<Self, RewriteError> {
        let mut patches = patches.into_iter();
        let first = patches.next().ok_or(RewriteError::Nothing)?;
        let sid = first.id().sid;
        let mut builder = PatchBuilder::new(sid, first.id().time);
        builder.set_meta_raw(first.meta());
        for patch in std::iter::once(first).chain(patches) {
            let next = patch.id();
            if next.sid != sid {
                return Err(RewriteError::OtherSession { sid, next });
            }
            let end = builder.next_id().time;
            if next.time < end {
                return Err(RewriteError::Overlap { end, next });
            }
            builder.skip_to(next.time);
            for (_, op) in patch.ops() {
                builder.push(&op);
            }
        }
        builder.finish().ok_or(RewriteError::Nothing)
    }

    /// The same patch with insertions of text that follow each other, as typing makes them, merged into one. Whoever has the
    /// beginning of it already takes the rest.
    pub fn compact(&self) -> Self {
        let mut builder = PatchBuilder::new(self.id().sid, self.id().time);
        builder.set_meta_raw(self.meta());
        let mut ops = self.ops().peekable();
        while let Some((_, op)) = ops.next() {
            let Op::InsStr { obj, after, text, units } = op else {
                builder.push(&op);
                continue;
            };
            let mut run: Option<Text> = None;
            while let Some(more) = ops.peek().and_then(|&(id, next)| match next {
                Op::InsStr { obj: o, after: a, text, .. } => {
                    (o == obj && units > 0 && a.tick(1) == id && a.sid == id.sid).then_some(text)
                }
                _ => None,
            }) {
                run.get_or_insert_with(|| text.to_text()).push(more);
                ops.next();
            }
            match run {
                None => builder.push(&op),
                Some(run) => builder.ins_str(obj, after, run.as_wtf8()),
            };
        }
        builder.finish().unwrap_or_else(|| self.clone())
    }
}

/// The part of a span before a time and the part from it on.
fn split(span: Timespan, sid: SessionId, from: u64) -> impl Iterator<Item = Timespan> {
    let before = match span.start.sid == sid {
        true => from.saturating_sub(span.start.time).min(span.span),
        false => 0,
    };
    let first = Timespan { start: span.start, span: before };
    let second = Timespan {
        start: Timestamp { time: span.start.time + before, ..span.start },
        span: span.span - before,
    };
    // An empty span stays one, so that nothing else changes.
    let first = (before > 0).then_some(first);
    let second = (second.span > 0 || before == 0).then_some(second);
    first.into_iter().chain(second)
}
