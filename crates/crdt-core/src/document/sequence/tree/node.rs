//! The nodes of the tree: leaves with chunks, inner nodes with counts.

use std::ops::Range;

use super::super::chunk::{Chunk, Id, Span};

/// Chunks per leaf and children per inner node.
pub(super) const WIDTH: usize = 32;
/// How full loading and appending leave a node.
pub(super) const FILL: usize = 24;
/// No node.
pub(super) const NIL: u32 = u32::MAX;

/// What a chunk is and where its content lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) time: u64,
    pub(super) session: u32,
    pub(super) offset: u32,
}

impl Head {
    /// Where no chunk stands: a time that no id has, and to which a length can be added.
    const FREE: Self = Self { time: 1 << 62, session: 0, offset: 0 };
}

/// Chunks in places of their own, and the order in which they stand there.
///
/// A chunk stays in its place until the leaf is split, whatever is inserted around it: who knows where it is finds it there
/// again, and an insertion writes to three or four lines of memory out of eleven. A search by position reads the spans, one
/// by id the heads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leaf {
    order: Places,
    pub(super) len: u32,
    pub(super) parent: u32,
    pub(super) next: u32,
    pub(super) prev: u32,
    /// Of no elements in free places.
    pub(super) span: [Span; WIDTH],
    pub(super) head: [Head; WIDTH],
}

/// The places in a leaf, in the order of their chunks; behind them the free ones.
#[derive(Debug, Clone, Copy)]
struct Places([u8; WIDTH]);

const HALF: usize = WIDTH / 2;

impl Places {
    /// Each chunk in the place of its number.
    const PLAIN: Self = {
        let mut places = [0; WIDTH];
        let mut at = 0;
        while at < WIDTH {
            places[at] = at as u8;
            at += 1;
        }
        Self(places)
    };

    #[inline]
    const fn at(&self, rank: usize) -> usize {
        self.0[rank & (WIDTH - 1)] as usize & (WIDTH - 1)
    }

    #[inline]
    fn halves(&self) -> [u128; 2] {
        let (halves, _) = self.0.as_chunks();
        [u128::from_le_bytes(halves[0]), u128::from_le_bytes(halves[1])]
    }

    #[inline]
    fn set_halves(&mut self, halves: [u128; 2]) {
        let (low, high) = self.0.split_at_mut(HALF);
        low.copy_from_slice(&halves[0].to_le_bytes());
        high.copy_from_slice(&halves[1].to_le_bytes());
    }

    /// Where a place stands in the order.
    #[inline]
    fn rank(&self, place: usize) -> usize {
        // The first byte that is equal is the lowest one that becomes zero.
        const ONES: u64 = u64::MAX / 0xff;
        let (words, _) = self.0.as_chunks();
        for (word, at) in words.iter().zip(0..) {
            let differs = u64::from_le_bytes(*word) ^ (ONES * place as u64);
            let zero = differs.wrapping_sub(ONES) & !differs & (ONES << 7);
            if zero != 0 {
                return 8 * at + (zero.trailing_zeros() / 8) as usize;
            }
        }
        0
    }

    /// Takes the last place, which is free, into the order. Returns it.
    #[inline]
    fn take(&mut self, rank: usize) -> usize {
        let place = self.0[WIDTH - 1];
        let [low, high] = self.halves();
        self.set_halves(if rank < HALF {
            [put_byte(low, rank, place), high << 8 | low >> 120]
        } else {
            [low, put_byte(high, rank - HALF, place)]
        });
        usize::from(place) & (WIDTH - 1)
    }

    /// Gives a place back. It comes to stand behind all others.
    fn give_back(&mut self, rank: usize) {
        self.0[rank..].rotate_left(1);
    }
}

/// Puts a byte before the one at `at`; the last one falls out.
#[inline]
const fn put_byte(bytes: u128, at: usize, byte: u8) -> u128 {
    let kept = (1 << (8 * at)) - 1;
    bytes & kept | (bytes & !kept) << 8 | (byte as u128) << (8 * at)
}

impl Leaf {
    pub(super) const fn new() -> Self {
        Self {
            order: Places::PLAIN,
            len: 0,
            parent: NIL,
            next: NIL,
            prev: NIL,
            span: [Span::live(0); WIDTH],
            head: [Head::FREE; WIDTH],
        }
    }

    /// The chunk in a place.
    #[inline]
    pub(super) const fn get(&self, place: usize) -> Chunk {
        let (head, span) = (&self.head[place & (WIDTH - 1)], self.span[place & (WIDTH - 1)]);
        Chunk { time: head.time, session: head.session, span, offset: head.offset }
    }

    #[inline]
    pub(super) const fn set(&mut self, place: usize, chunk: Chunk) {
        let Chunk { time, session, span, offset } = chunk;
        self.span[place & (WIDTH - 1)] = span;
        self.head[place & (WIDTH - 1)] = Head { time, session, offset };
    }

    /// The place of the chunk with a rank.
    #[inline]
    pub(super) const fn place(&self, rank: usize) -> usize {
        self.order.at(rank)
    }

    /// How many chunks stand before the one in a place.
    #[inline]
    pub(super) fn rank(&self, place: usize) -> usize {
        self.order.rank(place)
    }

    /// The place of the chunk behind the one in a place.
    #[inline]
    pub(super) fn behind(&self, place: usize) -> Option<usize> {
        let rank = self.rank(place) + 1;
        (rank < self.len as usize).then(|| self.place(rank))
    }

    /// The place of the chunk before the one in a place.
    #[inline]
    pub(super) fn before(&self, place: usize) -> Option<usize> {
        Some(self.place(self.rank(place).checked_sub(1)?))
    }

    /// The places of the chunks with some ranks, in order.
    #[inline]
    pub(super) fn places(&self, ranks: Range<usize>) -> impl Iterator<Item = usize> + '_ {
        let order = self.order.0.get(ranks.start..ranks.end.min(self.len as usize)).unwrap_or_default();
        order.iter().map(|&place| usize::from(place) & (WIDTH - 1))
    }

    /// Puts a chunk before the one with a rank, if there is one. Returns its place.
    #[inline]
    pub(super) fn insert(&mut self, rank: usize, chunk: Chunk) -> usize {
        let place = self.order.take(rank);
        self.len += 1;
        self.set(place, chunk);
        place
    }

    /// Appends a chunk to a leaf from which none was taken.
    #[inline(always)]
    pub(super) const fn append(&mut self, chunk: Chunk) {
        self.set(self.len as usize, chunk);
        self.len += 1;
    }

    pub(super) fn remove(&mut self, place: usize) {
        self.order.give_back(self.rank(place));
        self.len -= 1;
        self.free(place);
    }

    const fn free(&mut self, place: usize) {
        self.span[place] = Span::live(0);
        self.head[place] = Head::FREE;
    }

    /// Frees the places behind the last chunk, when chunks were appended to a copy of another leaf.
    pub(super) fn free_spare(&mut self) {
        (self.len as usize..WIDTH).for_each(|rank| self.free(self.place(rank)));
    }

    /// A leaf with the chunks from a rank on, which this one loses. There, each has the place of its rank.
    pub(super) fn split_off(&mut self, keep: usize) -> Self {
        let mut right = Self::new();
        for rank in keep..self.len as usize {
            let place = self.place(rank);
            right.append(self.get(place));
            self.free(place);
        }
        self.len = keep as u32;
        right
    }

    pub(super) fn chunks(&self) -> impl Iterator<Item = Chunk> + '_ {
        self.places(0..WIDTH).map(|place| self.get(place))
    }

    /// How many elements can be seen.
    pub(super) fn weight(&self) -> u32 {
        self.span.iter().map(|span| span.weight()).sum()
    }

    /// The place of the chunk that starts with an id.
    #[inline]
    pub(super) fn place_of(&self, id: Id) -> Option<usize> {
        self.head.iter().position(|head| head.time == id.time && head.session == id.session)
    }
}

/// Children with the counts of what can be seen in each.
#[derive(Debug, Clone)]
pub(super) struct Inner {
    pub(super) child: [u32; WIDTH],
    pub(super) weight: [u32; WIDTH],
    pub(super) len: u32,
    pub(super) parent: u32,
    /// Whether the children are leaves.
    pub(super) low: bool,
}

impl Inner {
    pub(super) const fn new(low: bool) -> Self {
        Self { child: [NIL; WIDTH], weight: [0; WIDTH], len: 0, parent: NIL, low }
    }

    pub(super) fn push(&mut self, child: u32, weight: u32) {
        self.child[self.len as usize] = child;
        self.weight[self.len as usize] = weight;
        self.len += 1;
    }

    #[inline]
    pub(super) fn slot_of(&self, child: u32) -> usize {
        self.child.iter().position(|&c| c == child).expect("a parent knows its children")
    }

    pub(super) fn total(&self) -> u32 {
        self.weight[..self.len as usize].iter().sum()
    }
}
