//! Where the patches lie: one behind the other in the order in which they came, written as few bytes.
//!
//! A record as it goes through the machine takes some two hundred bytes of memory in several places, and keeps alive
//! what it came in. Kept by the hundred thousand that is most of what a replica holds, and a process with many replicas
//! spends its time in fetching it from far away. Written down, a keystroke takes three bytes more than its patch, next to the
//! one before it: what the patch says itself is read from it again by who asks for it.

use bytes::Bytes;
use crdt_core::{SessionId, Timestamp, codec::wire::Reader};

use crate::{
    Envelope, PatchRecord,
    dag::{Link, NodeHash},
    record,
};

/// A document begins with so little,
const CHUNK_BYTES_MIN: usize = 256;
/// and takes at most so much at once, apart from a larger patch.
const CHUNK_BYTES_MAX: usize = 64 << 10;
/// Sessions are below 2^53.
const SESSION_BYTES: usize = 7;
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

/// What stands before the patch, while it is put together: word by word, of which the first bytes count. What is too long
/// for this goes to the heap, all of it.
struct Head<const N: usize> {
    near: [u8; N],
    len: usize,
    far: Vec<u8>,
}

impl<const N: usize> Head<N> {
    const fn new() -> Self {
        Self { near: [0; N], len: 0, far: Vec::new() }
    }

    fn as_slice(&self) -> &[u8] {
        if self.far.is_empty() { &self.near[..self.len] } else { &self.far }
    }

    /// The first `len` bytes of a word.
    #[inline]
    fn put_word(&mut self, word: [u8; 8], len: usize) {
        if self.far.is_empty()
            && let Some(place) = self.near.get_mut(self.len..self.len + 8)
        {
            place.copy_from_slice(&word);
            self.len += len;
        } else {
            self.put_far(&word[..len]);
        }
    }

    #[cold]
    fn put_far(&mut self, bytes: &[u8]) {
        if self.far.is_empty() {
            self.far.extend_from_slice(&self.near[..self.len]);
        }
        self.far.extend_from_slice(bytes);
    }

    /// LEB128.
    #[inline]
    fn put_number(&mut self, mut number: u64) {
        let (mut word, mut len) = (0, 0);
        while number >= 0x80 && len < 7 {
            word |= (number & 0x7f | 0x80) << (8 * len);
            number >>= 7;
            len += 1;
        }
        if number < 0x80 {
            self.put_word((word | number << (8 * len)).to_le_bytes(), len + 1);
        } else {
            self.put_word(word.to_le_bytes(), len);
            self.put_number(number);
        }
    }
}

impl Log {
    /// Writes a record down.
    pub(super) fn push(&mut self, record: &PatchRecord) -> Place {
        let (gap, len) = (record.id.time.wrapping_sub(record.prev), record.patch.len());
        let is_near = record.span < 1 << 13 && gap < 1 << 28 && len < 1 << 13;
        if is_near && record.proof.is_empty() && record.links.is_empty() {
            return self.push_near(record.span, gap, &record.patch);
        }
        self.push_any(record)
    }

    /// What most records are, without proof and links: all that stands before the patch is one word.
    #[inline]
    fn push_near(&mut self, span: u64, gap: u64, patch: &[u8]) -> Place {
        let ((span, span_len), (gap, gap_len)) = (near(span << 1), near(gap));
        let head_len = span_len + gap_len;
        let (len, len_len) = near((head_len + patch.len()) as u64);
        let word = len | (span | gap << (8 * span_len)) << (8 * len_len);
        let chunk = self.room_for(size_of_val(&word) + patch.len());
        let at = chunk.len();
        chunk.extend_from_slice(&word.to_le_bytes());
        chunk.truncate(at + len_len + head_len);
        chunk.extend_from_slice(patch);
        Place { chunk: self.chunks.len() as u32 - 1, at: at as u32 }
    }

    #[inline(never)]
    fn push_any(&mut self, record: &PatchRecord) -> Place {
        let mut head = Head::<32>::new();
        let is_plain = record.proof.is_empty() && record.links.is_empty();
        head.put_number(record.span << 1 | u64::from(!is_plain));
        head.put_number(record.id.time.wrapping_sub(record.prev));
        if !is_plain {
            head.put_number(record.proof.len() as u64);
            head.put_number(record.links.len() as u64);
            for link in &record.links {
                head.put_word(link.sid.get().to_le_bytes(), SESSION_BYTES);
                head.put_number(link.last);
                head.put_far(&link.hash.0);
            }
        }
        self.push_parts([head.as_slice(), &record.proof, &record.patch])
    }

    /// Takes over what stands in another log, as it is.
    pub(super) fn push_from(&mut self, other: &Self, place: Place) -> Result<Place, Damaged> {
        Ok(self.push_parts([other.entry(place)?.0]))
    }

    fn push_parts<const N: usize>(&mut self, parts: [&[u8]; N]) -> Place {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let mut prefix = Head::<16>::new();
        prefix.put_number(len as u64);
        let chunk = self.room_for(prefix.len + len);
        let at = chunk.len() as u32;
        chunk.extend_from_slice(prefix.as_slice());
        for part in parts {
            chunk.extend_from_slice(part);
        }
        Place { chunk: self.chunks.len() as u32 - 1, at }
    }

    /// The last chunk, or a new one if it has no such room left.
    #[inline]
    fn room_for(&mut self, need: usize) -> &mut Vec<u8> {
        let fits = |chunk: &Vec<u8>| chunk.capacity() - chunk.len() >= need;
        if !self.chunks.last().is_some_and(fits) {
            self.make_room(need);
        }
        let last = self.chunks.len() - 1;
        &mut self.chunks[last]
    }

    /// Begins a chunk. The first one grows: most documents stay small.
    #[cold]
    fn make_room(&mut self, need: usize) {
        if let [first] = &mut self.chunks[..]
            && first.len() + need <= CHUNK_BYTES_MIN * 4
        {
            return first.reserve(need);
        }
        self.full_bytes += self.chunks.last().map_or(0, Vec::len);
        let usual = (self.full_bytes / CHUNK_PART).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
        self.chunks.push(Vec::with_capacity(need.max(usual)));
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
            let (entry, next) = self.entry(place)?;
            let Kept { span, patch, .. } = Kept::read(entry)?;
            let Timestamp { sid, time } = patch_id(patch)?;
            each(Found { sid, last: time + span - 1, place });
            place = next;
        }
        Ok(())
    }

    /// Reads the record at a place.
    pub(super) fn read(&self, place: Place) -> Result<PatchRecord, Damaged> {
        let Kept { span, gap, proof, links, patch } = Kept::read(self.entry(place)?.0)?;
        let (id, _, needs) = record::facts(patch).map_err(|_| Damaged)?;
        let (proof, patch) = (Bytes::copy_from_slice(proof), Bytes::copy_from_slice(patch));
        Ok(Envelope { id, span, prev: id.time.wrapping_sub(gap), needs, patch, proof, links }.into())
    }
}

/// What stands at a place.
struct Kept<'a> {
    span: u64,
    /// The ticks since the session's previous patch.
    gap: u64,
    proof: &'a [u8],
    links: Box<[Link]>,
    patch: &'a [u8],
}

impl<'a> Kept<'a> {
    fn read(entry: &'a [u8]) -> Result<Self, Damaged> {
        let mut entry = entry;
        let rest = &mut entry;
        let (first, gap) = (number(rest)?, number(rest)?);
        let span = first >> 1;
        if first & 1 == 0 {
            return Ok(Self { span, gap, proof: &[], links: Box::default(), patch: rest });
        }
        let (proof_len, links) = (usize::try_from(number(rest)?).map_err(|_| Damaged)?, number(rest)?);
        let links = (0..links).map(|_| link(rest)).collect::<Result<_, Damaged>>()?;
        let (proof, patch) = rest.split_at_checked(proof_len).ok_or(Damaged)?;
        Ok(Self { span, gap, proof, links, patch })
    }
}

/// A number below 2^28 in LEB128, as a word, and how many bytes of it count.
#[inline]
const fn near(number: u64) -> (u64, usize) {
    let low = number & 0x7f;
    if number < 1 << 7 {
        (low, 1)
    } else if number < 1 << 14 {
        (low | 0x80 | number >> 7 << 8, 2)
    } else if number < 1 << 21 {
        (low | 0x80 | (number >> 7 & 0x7f | 0x80) << 8 | number >> 14 << 16, 3)
    } else {
        (
            low | 0x80
                | (number >> 7 & 0x7f | 0x80) << 8
                | (number >> 14 & 0x7f | 0x80) << 16
                | number >> 21 << 24,
            4,
        )
    }
}

/// What a patch begins with.
fn patch_id(patch: &[u8]) -> Result<Timestamp, Damaged> {
    let mut r = Reader::new(patch);
    let id = r.session().and_then(|sid| Ok(Timestamp::new(sid, r.time()?)));
    id.map_err(|_| Damaged)
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
    use crdt_core::PatchBuilder;
    use proptest::prelude::*;

    use super::*;
    use crate::record::Needs;

    prop_compose! {
        fn records()(
            sid in 1u64..1 << 53, time in 1u64..1 << 52, prev: u64,
            foreign in prop::collection::vec((1u64..1 << 53, 1u64..1 << 52), 1..4),
            text in prop_oneof!["[a-z가]{1,20}", "[a-z]{700,900}"],
            proof in prop::collection::vec(any::<u8>(), 0..80),
            links in prop::collection::vec((0u64..1 << 53, any::<u64>(), any::<[u8; 32]>()), 0..4),
            plain: bool,
        ) -> PatchRecord {
            let session = SessionId::new(sid).unwrap();
            let mut patch = PatchBuilder::new(session, time);
            for (of, at) in foreign {
                let at = Timestamp::new(SessionId::new(of).unwrap(), at);
                patch.ins_str(at, at, &*text);
            }
            let patch = Bytes::copy_from_slice(patch.finish().unwrap().as_bytes());
            let (id, span, needs) = record::facts(&patch).unwrap();
            let links = links.into_iter().map(|(of, last, hash)| Link { last, sid: SessionId::new(of).unwrap(), hash: NodeHash(hash) });
            let (proof, links) = if plain { (Bytes::new(), Box::default()) } else { (proof.into(), links.collect()) };
            Envelope { id, span, prev, needs, patch, proof, links }.into()
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
        let (sid, patch) = (SessionId::new(0x0012_3456_789a_bc00).unwrap(), Bytes::from_static(&[7; 22]));
        for time in 1..=100_000 {
            let id = Timestamp::new(sid, time);
            let needs = Needs::from_iter([id, id]);
            let (proof, links) = (Bytes::new(), Box::default());
            log.push(
                &Envelope { id, span: 1, prev: time - 1, needs, patch: patch.clone(), proof, links }.into(),
            );
        }
        let room: usize = log.chunks.iter().map(Vec::capacity).sum();
        assert!(room < 100_000 * 28, "{room} bytes for 100 000 keystrokes");
        let small: Vec<usize> = log.chunks.iter().map(Vec::capacity).take(2).collect();
        assert!(small[0] <= CHUNK_BYTES_MIN * 4 && small[1] <= CHUNK_BYTES_MIN * 4, "{small:?}");
    }
}
