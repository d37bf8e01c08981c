//! The chunks of a long text in a snapshot, read and written fast: ASCII and tombstones.
//!
//! What is unusual in any way is left to the general reader, which finds what is wrong with it, if anything is.

use super::{
    binary::IdWriter,
    table::{Known, Place},
};
use crate::{
    Timestamp,
    codec::{
        cbor,
        wire::{Burst, Bursts, Reader, at_once, burst},
    },
    document::{Chunk, ChunkLoader, Chunks, FindChunk, Found, TextChunk},
};

/// Bytes that must be left, so that numbers can be read eight bytes at a time.
const AHEAD: usize = 24;

/// Reads at most `count` chunks; tells how many it read.
pub(super) fn read_text_chunks(
    r: &mut Reader<'_>,
    count: u64,
    entries: &[Known],
    chunks: &mut ChunkLoader<'_>,
) -> u64 {
    let (read, rest) = chunks.usual(r.rest(), count, ByTable(entries));
    r.skip_to(rest);
    read
}

/// Finds chunks whose ids are spelled by a clock table.
struct ByTable<'t>(&'t [Known]);

impl FindChunk for ByTable<'_> {
    #[inline(always)]
    fn find<'a>(&self, bytes: &'a [u8]) -> Option<Found<'a>> {
        read_text_chunk(bytes, self.0)
    }
}

/// Reads a chunk up to its text.
#[inline(always)]
fn read_text_chunk<'a>(bytes: &'a [u8], entries: &[Known]) -> Option<Found<'a>> {
    let head: &[u8; AHEAD] = bytes.first_chunk()?;
    let word = u64::from_le_bytes(*head.first_chunk()?);
    // Where the next chunk starts hangs on this; so an id of the most usual length is told by a branch, which can be
    // foreseen, and the bytes behind it are there already.
    let (place, distance, at, text) = if word & 0x8080_80c0 == 0x0080_8080 {
        let distance = word >> 8 & 0x7f | word >> 9 & 0x3f80 | word >> 10 & 0x001f_c000;
        (word & 0x3f, distance, 4, (word >> 32) as u32)
    } else {
        let (place, distance, at) = match head[0] {
            small @ 0..0x80 => (u64::from(small >> 4), u64::from(small & 15), 1),
            0x80..0xc0 => {
                let (distance, len) = at_once(u64::from_le_bytes(*head[1..].first_chunk()?))?;
                (word & 0x3f, distance, 1 + len as usize)
            }
            0xc0.. => return None,
        };
        (place, distance, at, u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
    };
    let entry = entries.get(place.checked_sub(1)? as usize)?;
    let (session, time) = (entry.session?, entry.time.checked_sub(distance)?);
    let head = &HEADS[usize::from(text as u8)];
    let behind = ((text >> 8) as u16).swap_bytes();
    let len = u32::from(head.low) + u32::from(behind >> (head.shift & 15) & head.mask);
    if head.len == 0 {
        return None;
    }
    let ahead = bytes.get(at + usize::from(head.len)..)?;
    Some(Found { session, time, len, is_dead: head.is_dead, ahead })
}

/// What the first byte of a chunk says: text or a tombstone, and how long. The length stands in its low bits, or in one or two
/// bytes behind it. Nobody can foresee which, so it is looked up and not branched on.
#[derive(Clone, Copy)]
#[repr(align(8))]
struct Head {
    is_dead: bool,
    /// How many bytes it takes; 0 for what is unusual.
    len: u8,
    /// The length in it.
    low: u8,
    /// Which of two bytes behind it are the length, as a big-endian number.
    shift: u8,
    mask: u16,
}

const HEADS: [Head; 256] = {
    let mut heads = [Head { is_dead: false, len: 0, low: 0, shift: 0, mask: 0 }; 256];
    let mut low = 0;
    while low < 26 {
        let (len, low_bits, shift, mask) = match low {
            0..24 => (1, low, 0, 0),
            24 => (2, 0, 8, 0xff),
            _ => (3, 0, 0, 0xffff),
        };
        heads[low as usize] = Head { is_dead: true, len, low: low_bits, shift, mask };
        heads[0x60 | low as usize] = Head { is_dead: false, len, low: low_bits, shift, mask };
        low += 1;
    }
    heads
};

/// Writes the chunks of a text.
pub(super) fn put_text_chunks(
    out: &mut Vec<u8>,
    ids: &mut IdWriter,
    chunks: &Chunks<'_>,
    scratch: &mut Vec<u8>,
) {
    out.reserve(chunks.visible() as usize + 8 * chunks.total());
    let mut known: Vec<Option<Place>> = Vec::new();
    let mut bursts = Bursts::new();
    chunks.for_each_text(|chunk| match chunk {
        TextChunk::Plain { session, time, span, is_dead, ahead } => {
            let units = if is_dead { 0 } else { span as usize };
            let place = known.get(session).copied().flatten().filter(|place| time <= place.time);
            let Some(place) = place else {
                bursts.flush(out);
                let place = put_first_chunk(out, ids, chunks.id(session, time), is_dead, span);
                out.extend_from_slice(&ahead[..units]);
                known.resize(known.len().max(session + 1), None);
                known[session] = place;
                return;
            };
            // A copy of a fixed size is two instructions, and a tombstone may as well copy nothing.
            let block = ahead.first_chunk::<32>().filter(|_| units <= 32);
            bursts.put(out, |burst| {
                burst.pair(place.number, place.time - time);
                chunk_head(burst, is_dead, span);
                if let Some(block) = block {
                    burst.block(block, units);
                }
            });
            if block.is_none() && !is_dead {
                bursts.flush(out);
                out.extend_from_slice(&ahead[..units]);
            }
        }
        TextChunk::Other(chunk) => {
            bursts.flush(out);
            put_other_chunk(out, ids, &chunk, scratch);
        }
    });
    bursts.flush(out);
}

/// Writes a chunk up to its text, of a session whose ids have no place to be relative to yet. This and the other unusual ones are
/// kept out of the loop, whose words would have to leave their registers for them.
#[inline(never)]
fn put_first_chunk(
    out: &mut Vec<u8>,
    ids: &mut IdWriter,
    id: Timestamp,
    is_dead: bool,
    span: u32,
) -> Option<Place> {
    let place = ids.put_placed(out, id);
    burst(out, |burst| chunk_head(burst, is_dead, span));
    place
}

#[inline(never)]
fn put_other_chunk(out: &mut Vec<u8>, ids: &mut IdWriter, chunk: &Chunk<'_>, scratch: &mut Vec<u8>) {
    ids.put(out, chunk.id());
    if chunk.is_tombstone() {
        cbor::put_head(out, 0, chunk.span());
    } else {
        super::put_chunk_text(out, chunk, scratch);
    }
}

/// The head of ASCII as `cbor::put_text_head` has it, or the length of a tombstone as `cbor::put_head` does. How wide it is
/// nobody can foresee, so it is counted and not branched on.
#[inline(always)]
fn chunk_head(burst: &mut Burst<'_>, is_dead: bool, span: u32) {
    match SHORT_HEADS[usize::from(is_dead)].get(span as usize) {
        Some(&(head, len)) => burst.pair_of_bytes(head, len),
        None => long_head(burst, is_dead, span),
    }
}

/// The heads of short chunks, of texts and of tombstones: one or two bytes, and how many.
const SHORT_HEADS: [[([u8; 2], u8); 0x40]; 2] = {
    let mut heads = [[([0; 2], 0); 0x40]; 2];
    let mut span = 0;
    while span < 0x40 {
        let short = span as u8;
        heads[0][span] = if short < 6 { ([0x60 | short, 0], 1) } else { ([0x78, short], 2) };
        heads[1][span] = if short < 24 { ([short, 0], 1) } else { ([24, short], 2) };
        span += 1;
    }
    heads
};

fn long_head(burst: &mut Burst<'_>, is_dead: bool, span: u32) {
    const STEPS: [[u32; 3]; 2] = [[6, 0x40, 0x4000], [24, 0x100, 0x1_0000]];
    let [one, two, four] = STEPS[usize::from(is_dead)].map(|step| u32::from(span >= step));
    burst.head(if is_dead { 0 } else { 0x60 }, one + two + 2 * four, span);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::wire::brief;

    #[test]
    fn heads_are_those_of_cbor() {
        let around =
            [6, 24, 64, 256, 1 << 14, 1 << 16, 1 << 20].into_iter().flat_map(|span| span - 3..span + 3);
        for span in around {
            for is_dead in [false, true] {
                let mut expected = Vec::new();
                if is_dead {
                    cbor::put_head(&mut expected, 0, span.into());
                } else {
                    cbor::put_text_head(&mut expected, span as usize, span as usize);
                }
                let (block, len) = brief(|burst| chunk_head(burst, is_dead, span));
                assert_eq!(block[..len], expected, "{span}, a tombstone: {is_dead}");
            }
        }
    }
}
