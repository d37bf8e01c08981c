//! The chunks of a long text in a snapshot, read fast: ids near their entry of the clock table, ASCII, tombstones.
//!
//! What is unusual in any way is left to the general reader, which finds what is wrong with it, if anything is.

use super::table::Table;
use crate::{
    codec::wire::Reader,
    document::{ChunkLoader, SessionIx},
    text::Wtf8,
};

/// Bytes that must be left, so that numbers can be read eight bytes at a time.
const AHEAD: usize = 24;

/// Reads at most `count` chunks; tells how many it read.
pub(super) fn read_text_chunks(
    r: &mut Reader<'_>,
    count: u64,
    table: &Table,
    sessions: &[Option<SessionIx>],
    chunks: &mut ChunkLoader<'_>,
) -> u64 {
    let mut rest = r.rest();
    let mut read = 0;
    while read < count {
        let Some(after) = read_text_chunk(rest, table, sessions, chunks) else { break };
        rest = after;
        read += 1;
    }
    r.skip_to(rest);
    read
}

/// Reads a chunk; returns what follows, or `None` and has changed nothing.
#[inline]
fn read_text_chunk<'a>(
    bytes: &'a [u8],
    table: &Table,
    sessions: &[Option<SessionIx>],
    chunks: &mut ChunkLoader<'_>,
) -> Option<&'a [u8]> {
    let head: &[u8; AHEAD] = bytes.first_chunk()?;
    let (place, distance, at) = match head[0] {
        small @ 0..0x80 => (u64::from(small >> 4), u64::from(small & 15), 1),
        place @ 0x80..0xc0 => {
            let (distance, len) = vu57(u64::from_le_bytes(*head[1..].first_chunk()?))?;
            (u64::from(place & 0x3f), distance, 1 + len)
        }
        0xc0.. => return None,
    };
    let session = (*sessions.get(place.checked_sub(1)? as usize)?)?;
    let time = table.time(place, distance)?;
    let bytes = bytes.get(at..)?;
    let (len, at) = match bytes[0] & 31 {
        small @ 0..24 => (u32::from(small), 1),
        24 => (u32::from(bytes[1]), 2),
        25 => (u32::from(bytes[1]) << 8 | u32::from(bytes[2]), 3),
        _ => return None,
    };
    let after = &bytes[at..];
    match bytes[0] >> 5 {
        0 => chunks.quick_tombstone(session, time, len).then_some(after),
        3 => {
            let (text, after) = after.split_at_checked(len as usize)?;
            (text.is_ascii() && chunks.quick_text(session, time, Wtf8::trusted(text))).then_some(after)
        }
        _ => None,
    }
}

/// A number of at most six bytes with seven bits each, and how many it took.
#[inline]
fn vu57(word: u64) -> Option<(u64, usize)> {
    let len = (!word & 0x8080_8080_8080_8080).trailing_zeros() / 8 + 1;
    if len > 6 {
        return None;
    }
    let word = word & 0x7f7f_7f7f_7f7f_7f7f & (u64::MAX >> (64 - 8 * len));
    let word = word & 0x00ff_00ff_00ff_00ff | (word & 0xff00_ff00_ff00_ff00) >> 1;
    let word = word & 0x0000_ffff_0000_ffff | (word & 0xffff_0000_ffff_0000) >> 2;
    let word = word & 0x0000_0000_ffff_ffff | (word & 0xffff_ffff_0000_0000) >> 4;
    Some((word, len as usize))
}
