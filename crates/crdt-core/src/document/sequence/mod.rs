//! The order of elements in text, bytes and arrays: a replicated growable array (RGA) of run-length chunks.
//!
//! The rule, for one element at a time, is in `tests/sequence_oracle.rs`; the rules for chunks (what joins, what splits) follow
//! the reference, because chunk borders can be seen in every snapshot. Contents lie elsewhere: a chunk knows where.

mod chunk;
mod few;
mod loading;
mod rules;
mod runs;
mod tree;
mod typing;

use few::Few;
use rules::{Step, beside, delete_next, delete_visible, kill, live_before, place, place_at};
use runs::Runs;
use tree::{Tree, TreeWalk};

pub(super) use chunk::{Chunk, Id, SPAN_MAX, Span};
pub(super) use runs::At;

/// Who is who: the public id of each session of the document, by its place.
pub(super) trait Sids {
    /// The public id of a session.
    fn sid(&self, session: u32) -> u64;

    /// The total order of ids: by time, then by session.
    fn after(&self, a: Id, b: Id) -> bool {
        a.time > b.time || a.time == b.time && self.sid(a.session) > self.sid(b.session)
    }
}

/// Where a run of new elements goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spot {
    /// Behind which chunk; `None` is the beginning.
    left: Option<At>,
    /// The run has the ids that follow that chunk's and joins it.
    join: bool,
}

impl Chunk {
    /// The last `len` elements, as something that was there.
    const fn suffix(&self, len: u32) -> Killed {
        let from = self.span.len() - len;
        Killed {
            id: self.id().tick(from as u64),
            span: self.span.with_len(len).soft(false),
            offset: self.offset + from,
        }
    }
}

/// What was at elements that have become tombstones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Killed {
    pub(super) id: Id,
    pub(super) span: Span,
    pub(super) offset: u32,
}

#[derive(Debug, Clone)]
enum Storage {
    Few(Few),
    Many(Box<Tree>),
}

impl Default for Storage {
    fn default() -> Self {
        Self::Few(Few::default())
    }
}

/// Calls the storage's own code, which the compiler then sees through.
macro_rules! storage {
    ($storage:expr, $runs:ident => $call:expr) => {
        match $storage {
            Storage::Few($runs) => $call,
            Storage::Many($runs) => {
                let $runs = &mut **$runs;
                $call
            }
        }
    };
}

macro_rules! storage_ref {
    ($storage:expr, $runs:ident => $call:expr) => {
        match $storage {
            Storage::Few($runs) => $call,
            Storage::Many($runs) => {
                let $runs = &**$runs;
                $call
            }
        }
    };
}

/// All elements of a text, byte string or array that were ever inserted, in order; deleted ones as tombstones.
#[derive(Debug, Clone, Default)]
pub(super) struct Sequence {
    storage: Storage,
    /// How many elements can be seen.
    len: u32,
    /// How many elements there are, tombstones included.
    span: u32,
    /// No element's time is above it.
    time_max: u64,
    /// Whether a chunk was ever made that goes on where its neighbour ends.
    in_pieces: bool,
    /// The chunk that was typed in last, or that stands before what was erased last (a tombstone, if nothing that can be seen
    /// is near), and the position of its end.
    cursor: Option<(At, u32)>,
}

impl Sequence {
    /// How many elements can be seen.
    pub(super) const fn len(&self) -> u32 {
        self.len
    }

    /// How many elements there are, tombstones included.
    pub(super) const fn span(&self) -> u32 {
        self.span
    }

    /// Where a run of `units` that starts with `id` goes when it was inserted after `after` (`None` is the
    /// beginning). `None` if any of it is there already, or if there is no such element.
    pub(super) fn place(&mut self, after: Option<Id>, id: Id, units: u32, sids: &impl Sids) -> Option<Spot> {
        self.cursor = None;
        self.make_room();
        let is_new = id.time > self.time_max;
        storage!(&mut self.storage, runs => {
            if !is_new && !runs.is_fresh(id) {
                let next = runs.ceiling(id);
                if runs.peek(id).is_some() || next.is_some_and(|time| time < id.time + u64::from(units)) {
                    return None;
                }
            }
            place(runs, after, id, is_new, sids)
        })
    }

    /// Where a run that starts with `id`, a new id above all others, goes to stand at a visible position; and the id
    /// of the element before it. `None` if the sequence is shorter.
    pub(super) fn place_at(&mut self, position: u32, id: Id) -> Option<(Option<Id>, Spot)> {
        if let Some((at, end)) = self.cursor
            && end == position
        {
            let chunk = storage_ref!(&self.storage, runs => runs.get(at));
            let last = Id::new(chunk.session, chunk.end() - 1);
            let join = chunk.session == id.session && chunk.end() == id.time;
            // A chunk of its own needs room beside the other.
            if !chunk.span.is_dead() && (join || !self.is_full()) {
                return Some((Some(last), Spot { left: Some(at), join }));
            }
        }
        self.cursor = None;
        self.make_room();
        storage!(&mut self.storage, runs => place_at(runs, position, id))
    }

    /// The chunk that a spot's run would become part of.
    pub(super) fn joined(&self, spot: Spot) -> Option<Chunk> {
        spot.left.filter(|_| spot.join).map(|at| storage_ref!(&self.storage, runs => runs.get(at)))
    }

    /// Puts a run at its spot: `offset` and the kind of `span` say where its content lies. When it joins its left
    /// neighbour and its content follows that one's, the two become one.
    #[inline]
    pub(super) fn put(&mut self, spot: Spot, id: Id, span: Span, offset: u32) -> At {
        let units = span.len();
        self.len += span.weight();
        self.span += units;
        self.time_max = self.time_max.max(id.time + u64::from(units) - 1);
        storage!(&mut self.storage, runs => {
            if spot.join && let Some(at) = spot.left {
                let left = runs.get(at);
                if left.span.is_wide() == span.is_wide() && left.offset + left.span.len() == offset {
                    runs.replace(at, Chunk { span: left.span.with_len(left.span.len() + units), ..left });
                    return at;
                }
            }
            self.in_pieces |= spot.join;
            let chunk = Chunk { time: id.time, session: id.session, span: span.soft(spot.join), offset };
            runs.insert_after(spot.left, chunk)
        })
    }

    /// Moves the content of the chunk that a run is about to join.
    pub(super) fn relocate(&mut self, spot: Spot, offset: u32) {
        if let Some(at) = spot.left {
            storage!(&mut self.storage, runs => {
                let chunk = runs.get(at);
                runs.replace(at, Chunk { offset, ..chunk });
            });
        }
    }

    /// Remembers that a chunk ends at a visible position, for typing on.
    pub(super) fn set_cursor(&mut self, at: At, end: u32) {
        self.cursor = Some((at, end));
    }

    /// Makes tombstones of the elements of a span that exist. Tells what was there.
    pub(super) fn delete(&mut self, start: Id, span: u64, mut killed: impl FnMut(Killed)) {
        self.cursor = None;
        if let Storage::Many(tree) = &mut self.storage
            && span < u64::from(SPAN_MAX)
            && let Some(chunk) = tree.shrink_found(start, span as u32)
        {
            self.len -= span as u32;
            return killed(chunk.suffix(span as u32));
        }
        let end = start.time.saturating_add(span);
        let mut time = start.time;
        while time < end {
            self.make_room();
            let step = storage!(&mut self.storage, runs => {
                delete_next(runs, Id::new(start.session, time), end)
            });
            match step {
                Step::Killed(dead) => {
                    self.len -= dead.span.len();
                    time = dead.id.time + u64::from(dead.span.len());
                    killed(dead);
                }
                Step::Skipped(next) => time = next,
                Step::Done => return,
            }
        }
    }

    /// Makes tombstones of the visible elements from a position on. Tells what was there, chunk by chunk.
    pub(super) fn delete_at(&mut self, position: u32, len: u32, mut killed: impl FnMut(Killed)) {
        let mut left = len.min(self.len.saturating_sub(position));
        if left == 0 {
            return;
        }
        if let Some(dead) = self.erase_on(position, left) {
            return killed(dead);
        }
        let cursor = self.cursor.take();
        let mut found = cursor
            .filter(|_| !self.is_full())
            .and_then(|cursor| storage_ref!(&self.storage, runs => beside(runs, cursor, position, left)));
        let mut tombstone = None;
        while left > 0 {
            let step = match found.take() {
                Some((at, from)) => Some(storage!(&mut self.storage, runs => kill(runs, at, from, left))),
                None => {
                    self.make_room();
                    storage!(&mut self.storage, runs => delete_visible(runs, position, left))
                }
            };
            let Some((dead, at)) = step else { break };
            self.len -= dead.span.len();
            left -= dead.span.len();
            tombstone = Some(at);
            killed(dead);
        }
        self.cursor = tombstone
            .map(|at| (storage_ref!(&self.storage, runs => live_before(runs, at)).unwrap_or(at), position));
    }

    /// Whether some chunk to the outside may be several in here.
    pub(super) const fn is_in_pieces(&self) -> bool {
        self.in_pieces
    }

    /// How many chunks there are in here.
    pub(super) fn pieces(&self) -> usize {
        match &self.storage {
            Storage::Few(few) => few.0.len(),
            Storage::Many(tree) => tree.len(),
        }
    }

    /// The chunk that holds an element.
    pub(super) fn find(&self, id: Id) -> Option<At> {
        storage_ref!(&self.storage, runs => runs.peek(id))
    }

    /// The time of the first chunk of the same session that starts after an id.
    pub(super) fn ceiling(&self, id: Id) -> Option<u64> {
        storage_ref!(&self.storage, runs => runs.ceiling(id))
    }

    /// The chunk at a place.
    pub(super) fn chunk(&self, at: At) -> Chunk {
        storage_ref!(&self.storage, runs => runs.get(at))
    }

    /// The chunk with the visible element at a position, and the element's place in it.
    pub(super) fn seek(&self, position: u32) -> Option<(At, u32)> {
        if position >= self.len {
            return None;
        }
        storage_ref!(&self.storage, runs => runs.peek_position(position))
    }

    /// How many visible elements stand before a chunk.
    pub(super) fn position(&self, at: At) -> u32 {
        storage_ref!(&self.storage, runs => runs.position(at))
    }

    /// The place of the chunk that follows.
    pub(super) fn next(&self, at: At) -> Option<At> {
        storage_ref!(&self.storage, runs => runs.next(at))
    }

    /// The place of the first chunk.
    pub(super) fn first(&self) -> Option<At> {
        storage_ref!(&self.storage, runs => runs.first())
    }

    /// All chunks as they lie here, in order.
    #[inline]
    pub(super) fn chunks(&self) -> Walk<'_> {
        match &self.storage {
            Storage::Few(few) => Walk { few: few.0.iter(), tree: None },
            Storage::Many(tree) => Walk { few: [].iter(), tree: Some(tree.walk()) },
        }
    }

    /// Rewrites where the contents of live chunks lie.
    pub(super) fn move_contents(&mut self, mut moved: impl FnMut(Chunk) -> u32) {
        let mut next = self.first();
        while let Some(at) = next {
            next = self.next(at);
            storage!(&mut self.storage, runs => {
                let chunk = runs.get(at);
                if !chunk.span.is_dead() {
                    let offset = moved(chunk);
                    runs.replace(at, Chunk { offset, ..chunk });
                }
            });
        }
    }

    /// Bytes that it takes, roughly.
    pub(super) fn size_bytes(&self) -> usize {
        size_of::<Self>()
            + match &self.storage {
                Storage::Few(few) if few.0.spilled() => few.0.capacity() * size_of::<Chunk>(),
                Storage::Few(_) => 0,
                Storage::Many(tree) => tree.size_bytes(),
            }
    }

    /// Checks all counts, links and rules; says what is wrong.
    pub(super) fn check(&self) -> Result<(), String> {
        let (mut len, mut span) = (0, 0);
        for chunk in self.chunks() {
            if chunk.span.len() == 0 {
                return Err(format!("chunk {:?} is empty", chunk.id()));
            }
            if chunk.span.is_soft() && !self.in_pieces {
                return Err(format!("chunk {:?} goes on, and none is known to", chunk.id()));
            }
            if chunk.end() - 1 > self.time_max {
                return Err(format!("chunk {:?} ends after {}", chunk.id(), self.time_max));
            }
            len += chunk.span.weight();
            span += chunk.span.len();
        }
        if (len, span) != (self.len, self.span) {
            return Err(format!("{len} of {span} elements, counted {} of {}", self.len, self.span));
        }
        if let Some((at, end)) = self.cursor {
            let chunk = self.chunk(at);
            if self.position(at) + chunk.span.weight() != end {
                return Err("the cursor is elsewhere".to_owned());
            }
        }
        match &self.storage {
            Storage::Few(_) => Ok(()),
            Storage::Many(tree) => tree.check(),
        }
    }

    /// Whether one edit more could be too much for the storage.
    fn is_full(&self) -> bool {
        storage_ref!(&self.storage, runs => runs.is_full())
    }

    /// Changes to the storage for many chunks when one edit more could be too much for the other.
    #[inline]
    fn make_room(&mut self) {
        if let Storage::Few(few) = &self.storage
            && few.is_full()
        {
            self.plant();
        }
    }

    #[cold]
    fn plant(&mut self) {
        if let Storage::Few(few) = &self.storage {
            let mut tree = Box::new(Tree::open(few::FEW));
            few.0.iter().for_each(|&chunk| tree.append(chunk));
            tree.seal();
            self.storage = Storage::Many(tree);
            self.cursor = None;
        }
    }
}

/// All chunks of a sequence in order.
#[derive(Debug, Clone)]
pub(super) struct Walk<'s> {
    few: std::slice::Iter<'s, Chunk>,
    tree: Option<TreeWalk<'s>>,
}

impl Walk<'_> {
    /// Whether the next chunk may go on with the last one.
    #[inline]
    pub(super) fn is_soft_next(&self) -> bool {
        match &self.tree {
            Some(tree) => tree.is_soft_next(),
            None => self.few.as_slice().first().is_some_and(|next| next.span.is_soft()),
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = Chunk;

    #[inline]
    fn next(&mut self) -> Option<Chunk> {
        match &mut self.tree {
            Some(tree) => tree.next(),
            None => self.few.next().copied(),
        }
    }
}
