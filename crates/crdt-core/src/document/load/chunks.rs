//! Adding the chunks of a sequence, in order.

use super::{LoadError, SessionIx, bound, timestamp};
use crate::{
    document::{
        content::Contents,
        node::Form,
        sequence::{Chunk, Id, SPAN_MAX, Sequence, Span},
        sessions::Sessions,
        taken::Taken,
    },
    text::Wtf8,
};

/// Adds chunks to one sequence of a document that is being loaded, in order. Whether their ids are new is checked at
/// the [end of loading](super::Loader::finish), for all at once.
#[derive(Debug)]
pub struct ChunkLoader<'l> {
    pub(in crate::document) sequence: &'l mut Sequence,
    pub(in crate::document) contents: &'l mut Contents,
    pub(super) sessions: &'l mut Sessions,
    pub(in crate::document) span: &'l mut u64,
    pub(super) time: &'l mut u64,
    pub(in crate::document) form: Form,
    pub(in crate::document) taken: Option<Taken>,
}

impl ChunkLoader<'_> {
    /// Makes room for about so many chunks, before the first one is added.
    pub fn reserve(&mut self, chunks: usize) {
        if self.sequence.reserve(chunks) {
            self.taken = Taken::new(self.sessions, chunks);
        }
    }

    /// Adds a live chunk to a text.
    ///
    /// # Errors
    /// [`LoadError`]
    #[inline]
    pub fn text(&mut self, session: SessionIx, time: u64, text: Wtf8<'_>) -> Result<(), LoadError> {
        let units = text.units();
        self.admit(Form::Str, session, time, units as u64)?;
        let stored = self.contents.store_text(None, text, units as u32);
        self.push(session, time, stored.span, stored.offset);
        Ok(())
    }

    /// Adds a live chunk to a byte string.
    ///
    /// # Errors
    /// [`LoadError`]
    pub fn bytes(&mut self, session: SessionIx, time: u64, bytes: &[u8]) -> Result<(), LoadError> {
        self.admit(Form::Bin, session, time, bytes.len() as u64)?;
        let stored = self.contents.store_bytes(None, bytes);
        self.push(session, time, stored.span, stored.offset);
        Ok(())
    }

    pub(super) fn slots(&mut self, session: SessionIx, time: u64, nodes: &[u32]) -> Result<(), LoadError> {
        self.admit(Form::Arr, session, time, nodes.len() as u64)?;
        let stored = self.contents.store_slots(None, nodes);
        self.push(session, time, stored.span, stored.offset);
        Ok(())
    }

    /// Adds a tombstone.
    ///
    /// # Errors
    /// [`LoadError`]
    #[inline]
    pub fn tombstone(&mut self, session: SessionIx, time: u64, span: u64) -> Result<(), LoadError> {
        self.admit(self.form, session, time, span)?;
        self.push(session, time, Span::dead(span as u32), 0);
        Ok(())
    }

    /// Ends the adding.
    pub(crate) fn finish(self) {
        if self.taken.is_some_and(|taken| taken.are_distinct()) {
            self.sequence.set_distinct();
        }
    }

    /// Whether so many elements can be added; the clock is above them from now on.
    #[inline]
    fn admit(&mut self, form: Form, session: SessionIx, time: u64, units: u64) -> Result<(), LoadError> {
        let id = |chunk: &Self| timestamp(chunk.sessions, Id::new(session.at, time));
        if self.form != form {
            return Err(LoadError::Kind(id(self)));
        }
        if units == 0 {
            return Err(LoadError::Empty(id(self)));
        }
        bound("elements of all sequences", self.span.saturating_add(units), u64::from(SPAN_MAX))?;
        let last = bound("times", time.saturating_add(units - 1), crate::id::MAX_ID - 1)?;
        if last >= session.unseen {
            // As everywhere, an own time of 0 is one that was seen.
            if session.at == self.sessions.own && last > 0 {
                self.sessions.made = last.max(self.sessions.made);
            } else {
                self.sessions.observe(session.at, last);
            }
            *self.time = (last + 1).max(*self.time);
        }
        Ok(())
    }

    #[inline]
    fn push(&mut self, session: SessionIx, time: u64, span: Span, offset: u32) {
        *self.span += u64::from(span.len());
        if let Some(taken) = &mut self.taken {
            taken.take(session.at, time, span.len());
        }
        self.sequence.push(Chunk { time, session: session.at, span, offset });
    }
}
