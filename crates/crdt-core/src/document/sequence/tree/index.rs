//! Which leaf a chunk stands in, by id. Made when it is asked for the first time: who loads a document to show it, or
//! types without hearing of others, needs none.

use super::{
    super::{
        super::time_index::TimeIndex,
        chunk::{Chunk, Id},
        runs::At,
    },
    node::{Leaf, NIL},
};

/// What one session inserted.
#[derive(Debug, Clone)]
pub(super) struct Author {
    /// From the time of a chunk's first id to the chunk's leaf.
    pub(super) times: TimeIndex,
    /// All times are below it.
    pub(super) end: u64,
    /// The chunk of this session that was found last, if it still stands there: each author types on at a place of
    /// their own.
    pub(super) last: At,
}

impl Default for Author {
    fn default() -> Self {
        Self { times: TimeIndex::default(), end: 0, last: At { leaf: NIL, slot: 0 } }
    }
}

/// The chunks of a tree by session and time.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    /// For each session its author's place, [`NIL`] for most: a text has few authors of all that a document has.
    places: Vec<u32>,
    authors: Vec<Author>,
    /// Elements that were added to chunks without the times hearing of it.
    pub(super) grown: usize,
}

/// A session's times in a sequence, before the index is built.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) units: usize,
    pub(super) chunks: usize,
}

/// By session, from when to when its chunks are; `None` for sessions without any.
pub(super) fn extents(leaves: &[Leaf]) -> Vec<Option<Extent>> {
    let mut extents: Vec<Option<Extent>> = Vec::new();
    // The session of the last chunk, which most often is the next one's too.
    let (mut last, mut extent) = (None, Extent { start: 0, end: 0, units: 0, chunks: 0 });
    for leaf in leaves {
        for chunk in leaf.chunks() {
            let session = chunk.session as usize;
            if last != Some(session) {
                if let Some(last) = last.replace(session) {
                    extents[last] = Some(extent);
                }
                if extents.len() <= session {
                    extents.resize(session + 1, None);
                }
                let empty = Extent { start: chunk.time, end: chunk.end(), units: 0, chunks: 0 };
                extent = extents[session].unwrap_or(empty);
            }
            extent.start = extent.start.min(chunk.time);
            extent.end = extent.end.max(chunk.end());
            extent.units += chunk.span.weight() as usize;
            extent.chunks += 1;
        }
    }
    if let Some(last) = last {
        extents[last] = Some(extent);
    }
    extents
}

impl Index {
    pub(super) fn build(leaves: &[Leaf]) -> Self {
        let mut index = Self::default();
        for (extent, session) in extents(leaves).into_iter().zip(0..) {
            if let Some(Extent { start, end, units, chunks }) = extent {
                let author = index.author(session);
                (author.times, author.end) = (TimeIndex::with_few(start, end, units, chunks), end);
            }
        }
        for chunk in leaves.iter().flat_map(Leaf::chunks) {
            index.author(chunk.session).times.mark(chunk.time);
        }
        index.authors.iter_mut().for_each(|author| author.times.lay_out());
        for (leaf, at) in leaves.iter().zip(0..) {
            for chunk in leaf.chunks() {
                index.author(chunk.session).times.fill(chunk.time, at);
            }
        }
        index
    }

    #[inline]
    pub(super) fn author(&mut self, session: u32) -> &mut Author {
        let place = match self.places.get(session as usize) {
            Some(&place) if place != NIL => place,
            _ => self.enter(session as usize),
        };
        &mut self.authors[place as usize]
    }

    #[cold]
    fn enter(&mut self, session: usize) -> u32 {
        if self.places.len() <= session {
            self.places.resize(session + 1, NIL);
        }
        let place = self.authors.len() as u32;
        self.places[session] = place;
        self.authors.push(Author::default());
        place
    }

    #[inline]
    pub(super) fn known(&self, session: u32) -> Option<&Author> {
        self.authors.get(*self.places.get(session as usize)? as usize)
    }

    #[inline]
    pub(super) fn known_mut(&mut self, session: u32) -> Option<&mut Author> {
        self.authors.get_mut(*self.places.get(session as usize)? as usize)
    }

    /// Enters a new chunk.
    pub(super) fn note(&mut self, chunk: Chunk, at: At) {
        let units = std::mem::take(&mut self.grown) + chunk.span.weight() as usize;
        let author = self.author(chunk.session);
        author.end = author.end.max(chunk.end());
        author.last = at;
        author.times.allow(units);
        author.times.insert(chunk.time, at.leaf);
    }

    /// How many chunks it knows.
    pub(super) fn len(&self) -> usize {
        self.authors.iter().map(|author| author.times.iter().count()).sum()
    }

    /// Bytes that it takes beside itself, roughly.
    pub(super) fn size_bytes(&self) -> usize {
        let author = |author: &Author| size_of::<Author>() + author.times.size_bytes();
        self.places.capacity() * 4 + self.authors.iter().map(author).sum::<usize>()
    }
}

/// An id that stands in more than one chunk.
pub(super) fn find_double(leaves: &[Leaf]) -> Option<Id> {
    let extents = extents(leaves);
    // A bit for each time. For times too far apart for that, all chunks are sorted.
    let words = |extent: &Extent| (extent.end - extent.start) / 64 + 1;
    let total: u64 = extents.iter().flatten().map(words).sum();
    let chunks: usize = leaves.iter().map(|leaf| leaf.len as usize).sum();
    if total > 64 * (chunks as u64 + 64) {
        let mut all: Vec<Chunk> = leaves.iter().flat_map(Leaf::chunks).collect();
        all.sort_unstable_by_key(|chunk| (chunk.session, chunk.time));
        let doubles = |pair: &[Chunk]| pair[0].session == pair[1].session && pair[0].end() > pair[1].time;
        return all.windows(2).find(|pair| doubles(pair)).map(|pair| pair[1].id());
    }
    let mut taken = vec![0u64; total as usize];
    let mut base = 0;
    let starts: Vec<(usize, u64)> = extents
        .iter()
        .map(|extent| {
            let at = base;
            base += extent.as_ref().map_or(0, words) as usize;
            (at, extent.map_or(0, |extent| extent.start))
        })
        .collect();
    for leaf in leaves {
        for chunk in leaf.chunks() {
            if !take(&mut taken, starts[chunk.session as usize], &chunk) {
                return Some(chunk.id());
            }
        }
    }
    None
}

/// Sets the bits of a chunk's times; whether none was set.
#[inline]
fn take(taken: &mut [u64], (base, start): (usize, u64), chunk: &Chunk) -> bool {
    let (mut at, end) = (chunk.time - start, chunk.end() - start);
    if at % 64 + (end - at) <= 64 {
        // Most chunks are short.
        let bits = u64::MAX >> (64 - (end - at)) << (at % 64);
        let word = &mut taken[base + (at / 64) as usize];
        let free = *word & bits == 0;
        *word |= bits;
        return free;
    }
    let mut free = true;
    while at < end {
        let (bit, room) = (at % 64, 64 - at % 64);
        let len = room.min(end - at);
        let bits = u64::MAX >> (64 - len) << bit;
        let word = &mut taken[base + (at / 64) as usize];
        free &= *word & bits == 0;
        *word |= bits;
        at += len;
    }
    free
}
