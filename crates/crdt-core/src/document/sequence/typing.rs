//! Typing and erasing where the last edit was, without a search.

use super::{super::content::Arena, Id, Killed, Sequence, Sids, Storage};

impl Sequence {
    /// Typing on at the cursor, the fast way: if a run of narrow content that starts with `id` just makes the chunk
    /// there longer, this does it.
    #[inline(always)]
    pub(in super::super) fn type_on(
        &mut self,
        position: u32,
        id: Id,
        bytes: &[u8],
        narrow: &mut Arena<u8>,
    ) -> bool {
        let Some((at, end)) = self.cursor else { return false };
        let Storage::Many(tree) = &mut self.storage else { return false };
        if end != position || !tree.extend(at, id, bytes, narrow) {
            return false;
        }
        self.cursor = Some((at, end + bytes.len() as u32));
        self.grew(id, bytes.len() as u32);
        true
    }

    /// Whether what is typed on at the cursor, `next` first, only makes the chunk there longer, and a narrow arena that ends at
    /// `tail`.
    pub(in super::super) fn types_at(&self, next: Id, tail: u32) -> bool {
        let Some((at, _)) = self.cursor.filter(|_| matches!(self.storage, Storage::Many(_))) else {
            return false;
        };
        let chunk = self.chunk(at);
        let is_narrow = !chunk.span.is_dead() && !chunk.span.is_wide();
        is_narrow
            && chunk.id().tick(chunk.span.len().into()) == next
            && chunk.offset + chunk.span.len() == tail
    }

    /// [`type_on`](Self::type_on) for one letter more where [all else is known](Self::types_at): its content goes to the end
    /// of the arena. `false`, and nothing has changed, if that is not the place of the cursor.
    #[inline(always)]
    pub(in super::super) fn type_letter(&mut self, position: usize, id: Id) -> bool {
        let (Some((at, end)), Storage::Many(tree)) = (&mut self.cursor, &mut self.storage) else {
            return false;
        };
        if *end as usize != position {
            return false;
        }
        *end += 1;
        tree.lengthen(*at, id);
        self.grew(id, 1);
        true
    }

    /// Erasing on beside the cursor, the fast way: if elements at the end of the chunk there, or at the start of the live
    /// one behind it, just go to a tombstone beside them, or become one of their own where the leaf has room, this does it. Tells what was there.
    #[inline(always)]
    pub(in super::super) fn erase_on(&mut self, position: u32, len: u32) -> Option<Killed> {
        let (at, end) = self.cursor?;
        let Storage::Many(tree) = &mut self.storage else { return None };
        let dead = if position == end {
            tree.shrink_next(at, len)?
        } else if position.checked_add(len)? == end {
            let chunk = tree.shrink(at, len)?;
            self.cursor = Some((at, position));
            chunk.suffix(len)
        } else {
            return None;
        };
        self.len -= len;
        Some(dead)
    }

    /// [`type_on`](Self::type_on) for a run from elsewhere that goes behind `after`.
    #[inline]
    pub(in super::super) fn type_after(
        &mut self,
        after: Id,
        id: Id,
        bytes: &[u8],
        sids: &impl Sids,
        narrow: &mut Arena<u8>,
    ) -> bool {
        if after.time + 1 != id.time || after.session != id.session {
            return false;
        }
        let Storage::Many(tree) = &mut self.storage else { return false };
        // Nothing that stands behind can be larger than an id above all.
        let is_new = id.time > self.time_max;
        if !tree.extend_found(id, bytes, is_new, sids, narrow) {
            return false;
        }
        self.cursor = None;
        self.grew(id, bytes.len() as u32);
        true
    }

    #[inline]
    fn grew(&mut self, id: Id, units: u32) {
        self.len += units;
        self.span += units;
        self.time_max = self.time_max.max(id.time + u64::from(units) - 1);
    }
}
