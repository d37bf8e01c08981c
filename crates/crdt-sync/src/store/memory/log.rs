//! Where the patches lie: one behind the other in the order in which they came, written as few bytes.
//!
//! A record as it goes through the machine takes some two hundred bytes of memory in several places, and keeps alive
//! what it came in. Kept by the hundred thousand that is most of what a replica holds, and a process with many replicas
//! spends its time in fetching it from far away. Written down, a keystroke takes fifty bytes, next to the one before it.

use bytes::Bytes;
use crdt_core::{SessionId, Timestamp};
use smallvec::SmallVec;

use crate::{
    Envelope, PatchRecord,
    dag::{Link, NodeHash},
    record::Needs,
};

/// A document begins with so little,
const CHUNK_BYTES_MIN: usize = 256;
/// and takes at most so much at once, apart from a larger patch.
const CHUNK_BYTES_MAX: usize = 64 << 10;
/// A new chunk is this part of all before it.
const CHUNK_PART: usize = 4;

/// Patches in the order in which they came. Nothing that stands here moves or changes.
#[derive(Debug, Default)]
pub(super) struct Log {
    chunks: Vec<Vec<u8>>,
    /// Of all chunks but the last.
    full_bytes: usize,
}

/// Where a patch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    chunk: u32,
    at: u32,
}

/// What an index has to know of a patch.
pub(super) struct Found {
    pub(super) sid: SessionId,
    pub(super) last: u64,
    pub(super) place: Place,
}

/// Bytes in here are written by [`Log::push`] alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a patch in memory is not what was written")]
pub(super) struct Damaged;

/// Most heads fit.
type Head = SmallVec<[u8; 96]>;

impl Log {
    /// Writes a record down.
    pub(super) fn push(&mut self, record: &PatchRecord) -> Place {
        let mut head = Head::new();
        put_session(&mut head, record.session());
        put_number(&mut head, record.id.time);
        put_number(&mut head, record.span);
        put_number(&mut head, record.id.time.wrapping_sub(record.prev));
        put_number(&mut head, record.needs.len() as u64);
        for needed in &record.needs {
            put_session(&mut head, needed.sid);
            put_number(&mut head, record.id.time.wrapping_sub(needed.time));
        }
        put_number(&mut head, record.proof.len() as u64);
        put_number(&mut head, record.links.len() as u64);
        for link in &record.links {
            put_session(&mut head, link.sid);
            put_number(&mut head, link.last);
            head.extend_from_slice(&link.hash.0);
        }
        self.push_parts(&[&head, &record.proof, &record.patch])
    }

    /// Takes over what stands in another log, as it is.
    pub(super) fn push_from(&mut self, other: &Self, place: Place) -> Result<Place, Damaged> {
        Ok(self.push_parts(&[other.entry(place)?.0]))
    }

    fn push_parts(&mut self, parts: &[&[u8]]) -> Place {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let mut prefix = Head::new();
        put_number(&mut prefix, len as u64);
        let chunk = self.room_for(prefix.len() + len);
        let at = chunk.len() as u32;
        chunk.extend_from_slice(&prefix);
        for part in parts {
            chunk.extend_from_slice(part);
        }
        Place { chunk: self.chunks.len() as u32 - 1, at }
    }

    /// The last chunk, or a new one if it has no such room left. The first one grows: most documents stay small.
    fn room_for(&mut self, need: usize) -> &mut Vec<u8> {
        let grows = |chunk: &Vec<u8>| self.chunks.len() == 1 && chunk.len() + need <= CHUNK_BYTES_MIN * 4;
        let fits = |chunk: &Vec<u8>| chunk.capacity() - chunk.len() >= need || grows(chunk);
        if !self.chunks.last().is_some_and(fits) {
            self.full_bytes += self.chunks.last().map_or(0, Vec::len);
            let usual = (self.full_bytes / CHUNK_PART).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
            self.chunks.push(Vec::with_capacity(need.max(usual)));
        }
        let last = self.chunks.len() - 1;
        &mut self.chunks[last]
    }

    /// What stands at a place, and where the next one does.
    fn entry(&self, place: Place) -> Result<(&[u8], Place), Damaged> {
        let chunk = self.chunks.get(place.chunk as usize).ok_or(Damaged)?;
        let mut rest = chunk.get(place.at as usize..).ok_or(Damaged)?;
        let len = usize::try_from(number(&mut rest)?).map_err(|_| Damaged)?;
        let (entry, behind) = rest.split_at_checked(len).ok_or(Damaged)?;
        let next = if behind.is_empty() {
            Place { chunk: place.chunk + 1, at: 0 }
        } else {
            Place { at: (chunk.len() - behind.len()) as u32, ..place }
        };
        Ok((entry, next))
    }

    /// Where the next one will stand that is written.
    pub(super) fn end(&self) -> Place {
        self.chunks.last().map_or(Place::default(), |last| Place {
            chunk: self.chunks.len() as u32 - 1,
            at: last.len() as u32,
        })
    }

    /// Tells of each that stands at `from` or behind it.
    pub(super) fn for_each_from(&self, from: Place, mut each: impl FnMut(Found)) -> Result<(), Damaged> {
        let mut place = from;
        // At the end of a chunk the next one may have been begun since.
        if self.chunks.get(place.chunk as usize).is_some_and(|chunk| chunk.len() == place.at as usize) {
            place = Place { chunk: place.chunk + 1, at: 0 };
        }
        while (place.chunk as usize) < self.chunks.len() {
            let (mut entry, next) = self.entry(place)?;
            let sid = session(&mut entry)?;
            let (time, span) = (number(&mut entry)?, number(&mut entry)?);
            each(Found { sid, last: time + span - 1, place });
            place = next;
        }
        Ok(())
    }

    /// Reads the record at a place.
    pub(super) fn read(&self, place: Place) -> Result<PatchRecord, Damaged> {
        let (mut rest, _) = self.entry(place)?;
        let rest = &mut rest;
        let (sid, time, span) = (session(rest)?, number(rest)?, number(rest)?);
        let (prev, count) = (time.wrapping_sub(number(rest)?), number(rest)?);
        let need = |rest: &mut &[u8]| {
            let sid = session(rest)?;
            Ok(Timestamp::new(sid, time.wrapping_sub(number(rest)?)))
        };
        let needs = (0..count).map(|_| need(rest)).collect::<Result<Needs, Damaged>>()?;
        let (proof_len, links) = (usize::try_from(number(rest)?).map_err(|_| Damaged)?, number(rest)?);
        let links = (0..links).map(|_| link(rest)).collect::<Result<_, Damaged>>()?;
        let (proof, patch) = rest.split_at_checked(proof_len).ok_or(Damaged)?;
        let (proof, patch) = (Bytes::copy_from_slice(proof), Bytes::copy_from_slice(patch));
        Ok(Envelope { id: Timestamp::new(sid, time), span, prev, needs, patch, proof, links }.into())
    }
}

fn put_session(out: &mut Head, sid: SessionId) {
    // Sessions are below 2^53.
    let [bytes @ .., _] = sid.get().to_le_bytes();
    out.extend_from_slice(&bytes);
}

fn session(rest: &mut &[u8]) -> Result<SessionId, Damaged> {
    let ([a, b, c, d, e, f, g], tail) = rest.split_first_chunk().ok_or(Damaged)?;
    *rest = tail;
    SessionId::new(u64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, 0])).map_err(|_| Damaged)
}

fn link(rest: &mut &[u8]) -> Result<Link, Damaged> {
    let (sid, last) = (session(rest)?, number(rest)?);
    let (hash, tail) = rest.split_first_chunk().ok_or(Damaged)?;
    *rest = tail;
    Ok(Link { last, sid, hash: NodeHash(*hash) })
}

/// LEB128.
#[inline]
fn put_number(out: &mut Head, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn number(rest: &mut &[u8]) -> Result<u64, Damaged> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, tail) = rest.split_first().ok_or(Damaged)?;
        *rest = tail;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(Damaged)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sid(number: u64) -> SessionId {
        SessionId::new(number).unwrap()
    }

    prop_compose! {
        fn records()(
            id in (0u64..1 << 53, 1u64..1 << 53), span in 1u64..1 << 40, prev: u64,
            needs in prop::collection::vec((0u64..1 << 53, any::<u64>()), 0..4),
            patch in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..60), prop::collection::vec(any::<u8>(), 700..900)
            ],
            proof in prop::collection::vec(any::<u8>(), 0..80),
            links in prop::collection::vec((0u64..1 << 53, any::<u64>(), any::<[u8; 32]>()), 0..4),
        ) -> PatchRecord {
            Envelope {
                id: Timestamp::new(sid(id.0), id.1), span, prev,
                needs: needs.into_iter().map(|(of, time)| Timestamp::new(sid(of), time)).collect(),
                patch: patch.into(), proof: proof.into(),
                links: links.into_iter().map(|(of, last, hash)| Link { last, sid: sid(of), hash: NodeHash(hash) }).collect(),
            }.into()
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_and_found(records in prop::collection::vec(records(), 0..20), middle in 0usize..20) {
            let mut log = Log::default();
            let mut places = Vec::new();
            let mut seen = Place::default();
            for (count, record) in records.iter().enumerate() {
                if count == middle {
                    seen = log.end();
                }
                places.push(log.push(record));
            }
            for (record, place) in records.iter().zip(&places) {
                prop_assert_eq!(&log.read(*place).unwrap(), record);
            }
            let mut found = Vec::new();
            log.for_each_from(seen, |Found { sid, last, place }| found.push((sid, last, place))).unwrap();
            let first = if middle < records.len() { middle } else { 0 };
            let expected: Vec<_> = records.iter().zip(&places).skip(first)
                .map(|(record, place)| (record.session(), record.last(), *place)).collect();
            prop_assert_eq!(found, expected);
            let mut copy = Log::default();
            for (record, place) in records.iter().zip(&places) {
                let there = copy.push_from(&log, *place).unwrap();
                prop_assert_eq!(&copy.read(there).unwrap(), record);
            }
        }
    }

    #[test]
    fn a_log_takes_little_more_than_its_bytes() {
        let mut log = Log::default();
        let patch = Bytes::from_static(&[7; 22]);
        for time in 1..=100_000 {
            let id = Timestamp::new(sid(0x0012_3456_789a_bc00), time);
            let needs = Needs::from_iter([id, id]);
            let (proof, links) = (Bytes::new(), Box::default());
            log.push(
                &Envelope { id, span: 1, prev: time - 1, needs, patch: patch.clone(), proof, links }.into(),
            );
        }
        let room: usize = log.chunks.iter().map(Vec::capacity).sum();
        assert!(room < 100_000 * 56, "{room} bytes for 100 000 keystrokes");
        let small: Vec<usize> = log.chunks.iter().map(Vec::capacity).take(2).collect();
        assert!(small[0] <= CHUNK_BYTES_MIN * 4 && small[1] <= CHUNK_BYTES_MIN * 4, "{small:?}");
    }
}
