//! Typing and erasing on where the last edit was: the common case, without a search.

use super::{
    super::{
        super::content::Arena,
        Killed, Sids,
        chunk::{Chunk, Id, Span},
        runs::{At, Runs},
    },
    Tree,
    node::WIDTH,
};

impl Tree {
    /// Makes a live chunk longer by elements with narrow content, if they have the ids that follow its own, `id` first,
    /// and there is room behind its content.
    #[inline(always)]
    pub(in super::super) fn extend(&mut self, at: At, id: Id, bytes: &[u8], narrow: &mut Arena<u8>) -> bool {
        let place = at.slot as usize & (WIDTH - 1);
        let leaf = &mut self.leaves[at.leaf as usize];
        let (head, span, units) = (&leaf.head[place], leaf.span[place], bytes.len() as u32);
        let end = head.time + u64::from(span.len());
        if end != id.time
            || head.session != id.session
            || span.is_dead()
            || span.is_wide()
            || !narrow.follow(head.offset + span.len(), bytes)
        {
            return false;
        }
        leaf.span[place] = span.with_len(span.len() + units);
        if let Some(index) = self.index.get_mut() {
            index.grown += units as usize;
            let author = index.author(id.session);
            author.end = author.end.max(end + u64::from(units));
        }
        if self.pending.0 == at.leaf {
            self.pending.1 += units as i32;
        } else {
            self.weigh(at.leaf, units as i32);
        }
        true
    }

    /// Makes a live chunk longer by one element, which has the id behind its last one.
    #[inline(always)]
    pub(in super::super) fn lengthen(&mut self, at: At, id: Id) {
        let span = &mut self.leaves[at.leaf as usize].span[at.slot as usize & (WIDTH - 1)];
        *span = span.with_len(span.len() + 1);
        if let Some(index) = self.index.get_mut() {
            index.grown += 1;
            let author = index.author(id.session);
            author.end = author.end.max(id.time + 1);
        }
        if self.pending.0 == at.leaf {
            self.pending.1 += 1;
        } else {
            self.weigh(at.leaf, 1);
        }
    }

    /// [`extend`](Self::extend) for the chunk of the id's session that was found last, if nothing larger stands behind it.
    #[inline]
    pub(in super::super) fn extend_found(
        &mut self,
        id: Id,
        bytes: &[u8],
        is_new: bool,
        sids: &impl Sids,
        narrow: &mut Arena<u8>,
    ) -> bool {
        let Some(author) = self.index.get_mut().and_then(|index| index.known_mut(id.session)) else {
            return false;
        };
        let (at, place, units) = (author.last, author.last.slot as usize & (WIDTH - 1), bytes.len() as u32);
        let Some(leaf) = self.leaves.get_mut(at.leaf as usize) else { return false };
        let (head, span) = (leaf.head[place], leaf.span[place]);
        let end = head.time + u64::from(span.len());
        if end != id.time
            || author.end > id.time
            || head.session != id.session
            || span.is_dead()
            || span.is_wide()
        {
            return false;
        }
        if !is_new && self.next(at).is_some_and(|next| sids.after(self.get(next).id(), id)) {
            return false;
        }
        let leaf = &mut self.leaves[at.leaf as usize];
        if !narrow.follow(head.offset + span.len(), bytes) {
            return false;
        }
        leaf.span[place] = span.with_len(span.len() + units);
        if let Some(index) = self.index.get_mut() {
            index.grown += units as usize;
            if let Some(author) = index.known_mut(id.session) {
                author.end = end + u64::from(units);
            }
        }
        if self.pending.0 == at.leaf {
            self.pending.1 += units as i32;
        } else {
            self.weigh(at.leaf, units as i32);
        }
        true
    }

    /// Makes a tombstone of the last `len` elements of a live chunk that keeps some: they go to the one on its right in the
    /// same leaf, if that has the ids that follow, or to one of their own, if the leaf has room. Returns what the chunk was.
    #[inline(always)]
    pub(in super::super) fn shrink(&mut self, at: At, len: u32) -> Option<Chunk> {
        let place = at.slot as usize & (WIDTH - 1);
        let leaf = &mut self.leaves[at.leaf as usize];
        let behind = leaf.behind(place)?;
        let (span, next) = (leaf.span[place], leaf.span[behind]);
        let end = leaf.head[place].time + u64::from(span.len());
        if len == 0 || span.is_dead() || span.len() <= len {
            return None;
        }
        let start = end - u64::from(len);
        let (chunk, tomb) = (leaf.get(place), &mut leaf.head[behind]);
        if next.is_dead() && chunk.session == tomb.session && tomb.time == end {
            tomb.time = start;
            leaf.span[place] = span.with_len(span.len() - len);
            leaf.span[behind] = next.with_len(next.len() + len);
            if let Some(index) = self.index.get_mut() {
                index.author(chunk.session).times.shift(end, start, at.leaf);
            }
        } else {
            let tombstone = Chunk { time: start, span: Span::dead(len), offset: 0, ..chunk };
            self.put_behind(at, tombstone)?;
            self.leaves[at.leaf as usize].span[place] = span.with_len(span.len() - len);
        }
        self.lighten(at.leaf, len);
        Some(chunk)
    }

    /// Makes a tombstone of the first `len` elements of the live chunk behind another one in the same leaf, which keeps some:
    /// they go to the one on its left, if that has the ids before, or to one of their own, if the leaf has room. Tells what
    /// was there.
    #[inline(always)]
    pub(in super::super) fn shrink_next(&mut self, at: At, len: u32) -> Option<Killed> {
        let leaf = &mut self.leaves[at.leaf as usize];
        let mut before = at.slot as usize & (WIDTH - 1);
        let mut behind = leaf.places(leaf.rank(before) + 1..WIDTH);
        let place = behind.find(|&place| {
            let is_live = !leaf.span[place].is_dead();
            before = if is_live { before } else { place };
            is_live
        })?;
        drop(behind);
        let (tomb, chunk) = (leaf.span[before], leaf.get(place));
        if len == 0 || chunk.span.len() <= len {
            return None;
        }
        let (killed, rest) = chunk.split(len);
        if tomb.is_dead()
            && leaf.head[before].session == chunk.session
            && leaf.head[before].time + u64::from(tomb.len()) == chunk.time
        {
            leaf.set(place, rest);
            leaf.span[before] = tomb.with_len(tomb.len() + len);
            if let Some(index) = self.index.get_mut() {
                index.author(rest.session).times.shift(chunk.time, rest.time, at.leaf);
            }
        } else {
            self.put_behind(At { slot: place as u32, ..at }, rest)?;
            let tombstone = Chunk { span: Span::dead(len), offset: 0, ..killed };
            self.leaves[at.leaf as usize].set(place, tombstone);
        }
        self.lighten(at.leaf, len);
        Some(Killed { id: killed.id(), span: killed.span, offset: killed.offset })
    }

    /// Puts a chunk behind another one of its session, if their leaf has room. Counts are for the caller.
    #[inline(never)]
    fn put_behind(&mut self, at: At, chunk: Chunk) -> Option<()> {
        let leaf = &mut self.leaves[at.leaf as usize];
        if leaf.len as usize >= WIDTH {
            return None;
        }
        let place = leaf.insert(leaf.rank(at.slot as usize) + 1, chunk);
        if let Some(index) = self.index.get_mut() {
            index.note(chunk, At { slot: place as u32, ..at });
            // A hint: who goes on erasing is near here.
            index.author(chunk.session).last = at;
        }
        Some(())
    }

    /// Notes that a leaf has fewer visible elements.
    #[inline(always)]
    fn lighten(&mut self, leaf: u32, len: u32) {
        if self.pending.0 == leaf {
            self.pending.1 -= len as i32;
        } else {
            self.weigh(leaf, -(len as i32));
        }
    }

    /// [`shrink`](Self::shrink) for the chunk of the id's session that was found last, if its last `len` elements start with an id.
    #[inline]
    pub(in super::super) fn shrink_found(&mut self, id: Id, len: u32) -> Option<Chunk> {
        let at = self.index().known(id.session)?.last;
        let node = self.leaves.get(at.leaf as usize)?;
        let found = node.get(at.slot as usize);
        let ends = found.session == id.session && found.end() == id.time + u64::from(len);
        if ends { self.shrink(at, len) } else { None }
    }
}
