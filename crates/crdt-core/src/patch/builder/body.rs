//! The operations of an open patch, of which the first may not be written yet.
//!
//! Most patches are one keystroke, and are ended at once. So the first keystroke is only noted: it goes straight into the
//! message with which the patch ends, or in front of the next operation.

use super::Short;
use crate::{
    SessionId, Timestamp,
    codec::wire::{Burst, burst},
};

/// What the operations of an open patch are spelled as.
#[derive(Debug, Clone)]
pub(super) struct Body {
    written: Vec<u8>,
    /// The container that was edited last, and its id as operations have it.
    target: (Timestamp, Short),
    /// The only operation, if it is not written yet.
    noted: Option<Noted>,
}

/// A keystroke in what was edited last: an operation that names one time of its own session, and ends in one byte.
#[derive(Debug, Clone, Copy)]
pub(super) struct Noted {
    /// What it does, and how long its list is.
    pub(super) octet: u8,
    pub(super) time: u64,
    /// A letter that is inserted, or how many units are deleted.
    pub(super) last: u8,
}

impl Body {
    pub(super) const fn new() -> Self {
        Self { written: Vec::new(), target: (Timestamp::ORIGIN, Short::EMPTY), noted: None }
    }

    /// All that is there, to be read and added to.
    #[inline]
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        if let Some(noted) = self.noted.take() {
            self.write(noted);
        }
        &mut self.written
    }

    /// How many bytes that will be.
    #[inline]
    pub(super) const fn len(&self) -> usize {
        match &self.noted {
            Some(Noted { time, .. }) => {
                let bits = 64 - time.leading_zeros();
                self.target.1.len as usize + 3 + bits.saturating_sub(6).div_ceil(7) as usize
            }
            None => self.written.len(),
        }
    }

    #[inline]
    pub(super) fn clear(&mut self) {
        self.noted = None;
        self.written.clear();
    }

    /// [`clear`](Self::clear) when the only operation is just noted.
    #[inline]
    pub(super) const fn forget(&mut self) {
        self.noted = None;
    }

    /// A container's id as operations of a session have it.
    #[inline]
    pub(super) fn target(&mut self, own: SessionId, obj: Timestamp) -> Short {
        if self.target.0 != obj || self.target.1.len == 0 {
            self.aim(own, obj);
        }
        self.target.1
    }

    #[cold]
    fn aim(&mut self, own: SessionId, obj: Timestamp) {
        // What is noted belongs to the last one.
        self.bytes();
        self.target = (obj, Short::of(|id| id.patch_id(own, obj)));
    }

    /// Notes the first operation, in the [target](Self::target) that was asked for last.
    #[inline]
    pub(super) const fn note(&mut self, noted: Noted) {
        self.noted = Some(noted);
    }

    /// The only operation, if it is just noted.
    #[inline]
    pub(super) const fn noted(&self) -> Option<Noted> {
        self.noted
    }

    /// The [target](Self::target) that was asked for last.
    #[inline]
    pub(super) const fn aimed_at(&self) -> &Short {
        &self.target.1
    }

    #[inline(never)]
    fn write(&mut self, noted: Noted) {
        burst(&mut self.written, |op| noted.put(op, &self.target.1));
    }
}

impl Noted {
    #[inline(always)]
    pub(super) fn put(self, op: &mut Burst<'_>, target: &Short) {
        op.u8(self.octet);
        op.block(&target.block, target.len.into());
        op.b1vu56(false, self.time);
        op.u8(self.last);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::MAX_ID;

    proptest! {
        #[test]
        fn what_is_noted_is_as_long_as_it_will_be(time in 0..=MAX_ID, shift in 0..53u32, sid in 1..=MAX_ID) {
            let (own, other) = (SessionId::new(1).unwrap(), SessionId::new(sid).unwrap());
            let mut body = Body::new();
            body.target(own, Timestamp::new(other, time));
            body.note(Noted { octet: 1, time: time >> shift, last: 2 });
            let len = body.len();
            prop_assert_eq!(len, body.bytes().len());
            prop_assert_eq!(len, body.len());
        }
    }
}
