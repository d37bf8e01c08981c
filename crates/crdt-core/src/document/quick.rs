//! The chunks of a long text, taken out of a snapshot many at a time: ASCII and tombstones.
//!
//! This is where loading a text spends its time, so all that is known of the chunks stays in registers, and no place of the
//! bytes is found by way of memory.

use super::{
    ChunkLoader, SessionIx,
    content::Arena,
    node::Form,
    sequence::{Chunk, SPAN_MAX, Span},
    taken::Taken,
};

/// A chunk of text as it was found in a snapshot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found<'a> {
    pub(crate) session: SessionIx,
    pub(crate) time: u64,
    pub(crate) len: u32,
    pub(crate) is_dead: bool,
    /// The bytes that follow, the text first.
    pub(crate) ahead: &'a [u8],
}

/// Knows how chunks are spelled. A trait and no closure, since it has to become one with the loop.
pub(crate) trait FindChunk {
    /// The chunk that stands first in some bytes; `None` if it is unusual in any way.
    fn find<'a>(&self, bytes: &'a [u8]) -> Option<Found<'a>>;
}

/// By how many bytes there are: their high bits.
const HIGH_BITS: [[u128; 2]; 33] = {
    let (mut masks, mut len) = ([[0; 2]; 33], 0);
    while len < 32 {
        masks[len + 1] = masks[len];
        masks[len + 1][len / 16] |= 0x80 << (8 * (len % 16));
        len += 1;
    }
    masks
};

/// Whether the first `len` bytes of a block are ASCII.
#[inline(always)]
fn is_ascii(block: &[u8; 32], len: usize) -> bool {
    let ([low, high], [low_bits, high_bits]) = (block.as_chunks().0, &HIGH_BITS[len]) else { return false };
    u128::from_le_bytes(*low) & low_bits | u128::from_le_bytes(*high) & high_bits == 0
}

/// Chunks, as far as they are usual.
struct Usual<'a, 'l, F> {
    finder: F,
    rest: &'a [u8],
    left: u64,
    /// How many elements all sequences have.
    span: u64,
    narrow: &'l mut Arena<u8>,
    taken: Option<&'l mut Taken>,
}

impl<F: FindChunk> Iterator for Usual<'_, '_, F> {
    type Item = Chunk;

    #[inline(always)]
    fn next(&mut self) -> Option<Chunk> {
        let left = self.left.checked_sub(1)?;
        let Found { session, time, len, is_dead, ahead } = self.finder.find(self.rest)?;
        // There must be room, and the clock must be above them already.
        let span = self.span + u64::from(len);
        if len == 0 || time + u64::from(len) > session.unseen || span > u64::from(SPAN_MAX) {
            return None;
        }
        let offset = self.narrow.tail();
        let units = if is_dead { 0 } else { len as usize };
        self.rest = match ahead.first_chunk::<32>() {
            // A copy of a fixed size is two instructions.
            Some(block) if units <= 32 => {
                if !is_ascii(block, units) {
                    return None;
                }
                self.narrow.push_block(block, units);
                ahead.get(units..)?
            }
            _ => long(self.narrow, ahead, units)?,
        };
        if let Some(taken) = &mut self.taken {
            taken.take(session.at, time, len);
        }
        (self.left, self.span) = (left, span);
        let (state, offset) = if is_dead { (Span::dead(len), 0) } else { (Span::live(len), offset) };
        Some(Chunk { time, session: session.at, span: state, offset })
    }
}

/// Takes so many bytes of ASCII. Returns what follows.
#[inline(never)]
fn long<'a>(narrow: &mut Arena<u8>, ahead: &'a [u8], units: usize) -> Option<&'a [u8]> {
    let (text, after) = ahead.split_at_checked(units)?;
    if !text.is_ascii() {
        return None;
    }
    narrow.push(text);
    Some(after)
}

impl ChunkLoader<'_> {
    /// Adds the chunks of a text that `finder` finds in bytes, one behind the other, up to the first one that is unusual in
    /// any way. Returns how many it added, and the bytes behind them.
    #[inline]
    pub(crate) fn usual<'a>(
        &mut self,
        bytes: &'a [u8],
        count: u64,
        finder: impl FindChunk,
    ) -> (u64, &'a [u8]) {
        if self.form != Form::Str {
            return (0, bytes);
        }
        let mut chunks = Usual {
            finder,
            rest: bytes,
            left: count,
            span: *self.span,
            narrow: &mut self.contents.narrow,
            taken: self.taken.as_mut(),
        };
        self.sequence.push_all(&mut chunks);
        *self.span = chunks.span;
        (count - chunks.left, chunks.rest)
    }
}
