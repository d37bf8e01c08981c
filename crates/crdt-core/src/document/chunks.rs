//! Walking the chunks of a sequence as they are to the outside: one that lies in several places is one.

use smallvec::SmallVec;

use super::{
    content::TextOut,
    read::Child,
    sequence::{self, At, Sequence},
    store::Store,
};
use crate::Timestamp;

/// Consecutive ids of one session that stand side by side in a sequence: all visible, or all deleted.
#[derive(Debug, Clone)]
pub struct Chunk<'d> {
    store: &'d Store,
    /// The chunk as it lies in the sequence: a live one may lie in several places.
    pieces: SmallVec<[sequence::Chunk; 1]>,
}

impl<'d> Chunk<'d> {
    /// The first id.
    pub fn id(&self) -> Timestamp {
        self.store.timestamp(self.pieces[0].id())
    }

    /// The number of its session in the document: [`NodeRef::session_index`](super::NodeRef::session_index).
    pub fn session_index(&self) -> usize {
        self.pieces[0].session as usize
    }

    /// How many ids.
    pub fn span(&self) -> u64 {
        self.pieces.iter().map(|piece| u64::from(piece.span.len())).sum()
    }

    /// Whether its elements were deleted.
    pub fn is_tombstone(&self) -> bool {
        self.pieces[0].span.is_dead()
    }

    /// Appends the text of a live chunk of a text, as WTF-8.
    pub fn write_text(&self, out: &mut Vec<u8>) {
        self.store.contents.read_texts(self.pieces.iter().copied(), &mut TextOut::new(out));
    }

    /// The text of a live chunk of a text, if it lies in one place and is ASCII.
    pub fn ascii(&self) -> Option<&'d [u8]> {
        match self.pieces[..] {
            [piece] if !piece.span.is_wide() => {
                Some(self.store.contents.narrow.get(piece.offset, piece.span.len()))
            }
            _ => None,
        }
    }

    /// Appends the bytes of a live chunk of a byte string.
    pub fn write_bytes(&self, out: &mut Vec<u8>) {
        for piece in &self.pieces {
            out.extend_from_slice(self.store.contents.narrow.get(piece.offset, piece.span.len()));
        }
    }

    /// What the slots of a live chunk of an array hold.
    pub fn children(&self) -> impl Iterator<Item = Child<'d>> + '_ {
        self.pieces.iter().flat_map(|piece| {
            let store = self.store;
            store.slots(piece.offset, piece.span.len()).iter().map(move |&node| Child::of(store, node))
        })
    }
}

/// The chunks of a sequence in order, deleted ones included.
#[derive(Debug, Clone)]
pub struct Chunks<'d> {
    store: &'d Store,
    sequence: &'d Sequence,
    next: Option<At>,
}

impl<'d> Chunks<'d> {
    pub(super) fn of(store: &'d Store, sequence: &'d Sequence) -> Self {
        Self { store, sequence, next: sequence.first() }
    }

    /// How many visible elements the sequence has.
    pub fn visible(&self) -> u64 {
        u64::from(self.sequence.len())
    }

    /// The public form of an id.
    pub(crate) fn id(&self, session: usize, time: u64) -> Timestamp {
        self.store.timestamp(sequence::Id::new(session as u32, time))
    }

    /// How many chunks the whole sequence has.
    pub(crate) fn total(&self) -> usize {
        if !self.sequence.is_in_pieces() {
            return self.sequence.pieces();
        }
        let (mut total, mut last) = (0, None::<sequence::Chunk>);
        for chunk in self.sequence.chunks() {
            total += usize::from(!last.is_some_and(|last| last.goes_on_in(&chunk)));
            last = Some(chunk);
        }
        total
    }

    /// Calls `each` with the chunks of the whole sequence, of a text: what the iterator gives, faster.
    #[inline]
    pub(crate) fn for_each_text(&self, mut each: impl FnMut(TextChunk<'d>)) {
        let (store, mut chunks) = (self.store, self.sequence.chunks());
        while let Some(chunk) = chunks.next() {
            let live = !chunk.span.is_dead();
            let goes_on =
                chunks.is_soft_next() && chunks.clone().next().is_some_and(|next| chunk.goes_on_in(&next));
            each(if goes_on || chunk.span.is_wide() && live {
                let mut pieces = SmallVec::from_buf([chunk]);
                while let Some(piece) = chunks.clone().next()
                    && pieces[pieces.len() - 1].goes_on_in(&piece)
                {
                    pieces.push(piece);
                    chunks.next();
                }
                TextChunk::Other(Chunk { store, pieces })
            } else {
                TextChunk::Plain {
                    session: chunk.session as usize,
                    time: chunk.time,
                    span: chunk.span.len(),
                    is_dead: !live,
                    ahead: store.contents.narrow.ahead(chunk.offset),
                }
            });
        }
    }
}

/// A chunk of a text.
pub(crate) enum TextChunk<'d> {
    /// A tombstone, or ASCII in one place.
    Plain {
        /// [`NodeRef::session_index`](super::NodeRef::session_index).
        session: usize,
        time: u64,
        span: u32,
        is_dead: bool,
        /// The text, and what lies behind it; of a tombstone, anything.
        ahead: &'d [u8],
    },
    Other(Chunk<'d>),
}

impl<'d> Iterator for Chunks<'d> {
    type Item = Chunk<'d>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = self.sequence.chunk(self.next?);
        self.next = self.sequence.next(self.next?);
        let mut pieces = SmallVec::from_buf([first]);
        while let Some(at) = self.next {
            let (last, piece) = (pieces[pieces.len() - 1], self.sequence.chunk(at));
            if !last.goes_on_in(&piece) {
                break;
            }
            pieces.push(piece);
            self.next = self.sequence.next(at);
        }
        Some(Chunk { store: self.store, pieces })
    }
}
