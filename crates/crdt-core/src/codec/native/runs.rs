//! How ids and chunks become small numbers: ids as runs, chunks as how far back the run is that they go on with.

use super::{Col, NativeError, column};
use crate::{
    codec::{
        Malformed,
        wire::{Reader, at_once, put_vu57},
    },
    document::NativeId,
};

/// Negative numbers between the positive ones: 0, -1, 1, -2, 2 ….
pub(super) const fn zigzag(n: i64) -> u64 {
    (n << 1 ^ n >> 63) as u64
}

pub(super) const fn unzigzag(n: u64) -> i64 {
    (n >> 1) as i64 ^ -((n & 1) as i64)
}

/// Writes ids that mostly follow each other.
#[derive(Default)]
pub(super) struct IdWriter {
    pub(super) out: Vec<u8>,
    /// The first id of the run, and its length.
    run: Option<(NativeId, u64)>,
    session: u32,
    expected: u64,
}

impl IdWriter {
    #[inline]
    pub(super) fn put(&mut self, id: NativeId) {
        if let Some((start, len)) = &mut self.run
            && start.session == id.session
            && start.time + *len == id.time
        {
            *len += 1;
            return;
        }
        self.end_run();
        self.run = Some((id, 1));
    }

    fn end_run(&mut self) {
        let Some((start, len)) = self.run.take() else { return };
        let other = start.session != self.session;
        put_vu57(&mut self.out, (len - 1) << 1 | u64::from(other));
        if other {
            put_vu57(&mut self.out, start.session.into());
        }
        put_vu57(&mut self.out, zigzag(start.time as i64 - self.expected as i64));
        self.session = start.session;
        self.expected = start.time + len;
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.end_run();
        self.out
    }
}

/// Reads ids: see [`IdWriter`].
pub(super) struct IdReader<'a> {
    r: Reader<'a>,
    /// For each session the last time that was seen.
    last: &'a [u64],
    next: NativeId,
    left: u64,
}

impl<'a> IdReader<'a> {
    pub(super) const fn new(bytes: &'a [u8], last: &'a [u64]) -> Self {
        Self { r: Reader::new(bytes), last, next: NativeId { session: 0, time: 0 }, left: 0 }
    }

    #[inline]
    pub(super) fn next(&mut self) -> Result<NativeId, NativeError> {
        if self.left == 0 {
            self.start_run().map_err(column(Col::Ids))?;
        }
        let id = self.next;
        self.next.time += 1;
        self.left -= 1;
        Ok(id)
    }

    /// The first of at most `max` ids that follow each other, and how many they are.
    #[inline]
    pub(super) fn next_run(&mut self, max: u64) -> Result<(NativeId, u64), NativeError> {
        if self.left == 0 && !self.start_near() {
            self.start_run().map_err(column(Col::Ids))?;
        }
        let (id, len) = (self.next, self.left.min(max));
        self.next.time += len;
        self.left -= len;
        Ok((id, len))
    }

    /// Up to which byte the column was read.
    pub(super) const fn offset(&self) -> usize {
        self.r.offset()
    }

    /// Starts a run of the same session if that needs no more than a word. Tells whether it did.
    #[inline]
    fn start_near(&mut self) -> bool {
        let rest = self.r.rest();
        let Some(&[head, ref word @ ..]) = rest.first_chunk::<9>() else { return false };
        let (Some((away, len)), Some(&seen)) =
            (at_once(u64::from_le_bytes(*word)), self.last.get(self.next.session as usize))
        else {
            return false;
        };
        let (time, count) = (self.next.time.wrapping_add_signed(unzigzag(away)), u64::from(head >> 1) + 1);
        // What is too much is refused where there is an error for it.
        if head & 0x81 != 0 || time > seen || count - 1 > seen - time {
            return false;
        }
        self.r.skip_to(&rest[1 + len as usize..]);
        (self.next.time, self.left) = (time, count);
        true
    }

    fn start_run(&mut self) -> Result<(), Malformed> {
        let head = self.r.vu57("a run of ids")?;
        if head & 1 != 0 {
            self.next.session = session(&mut self.r, self.last)?;
        }
        let time = self.next.time as i64 + unzigzag(self.r.vu57("a time")?);
        self.left = (head >> 1) + 1;
        self.next.time = within(&self.r, self.last, self.next.session, time, self.left)?;
        Ok(())
    }

    pub(super) fn end(&self) -> Result<(), NativeError> {
        let more = || Malformed::Contradiction { at: self.r.offset(), what: "more ids than nodes" };
        let rest = if self.left == 0 { self.r.end() } else { Err(more()) };
        rest.map_err(column(Col::Ids))
    }
}

/// The number of a session in the clock.
fn session(r: &mut Reader<'_>, last: &[u64]) -> Result<u32, Malformed> {
    let number = r.vu57_up_to((last.len() as u64).saturating_sub(1), "number of a session")?;
    Ok(number as u32)
}

/// A time from which on so many have been seen.
fn within(r: &Reader<'_>, last: &[u64], session: u32, time: i64, len: u64) -> Result<u64, Malformed> {
    let seen = last.get(session as usize).copied().unwrap_or(0);
    match u64::try_from(time) {
        Ok(time) if time.saturating_add(len) <= seen.saturating_add(1) => Ok(time),
        _ => Err(Malformed::Contradiction { at: r.offset(), what: "an id above the clock" }),
    }
}

/// Consecutive ids of a session in a sequence, in the same state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) id: NativeId,
    pub(super) span: u64,
    pub(super) dead: bool,
}

impl Run {
    const fn end(&self) -> u64 {
        self.id.time + self.span
    }
}

/// How far back the run is looked for that another goes on with. What is further away is written in full.
const LOOK_BACK: usize = 32;

/// Writes the chunks of sequences as maximal runs.
///
/// Typing in the middle of a run cuts it, and the rest of the run follows behind what was typed. So a run mostly goes
/// on with one that ended shortly before, and what stands between them is nested: a stack of ends tells where a run
/// starts in a few bits.
#[derive(Default)]
pub(super) struct RunWriter {
    pub(super) moves: Vec<u8>,
    pub(super) spans: Vec<u8>,
    pub(super) starts: Vec<u8>,
    ends: Vec<NativeId>,
    expected: u64,
    session: u32,
    pending: Option<Run>,
    count: u64,
}

impl RunWriter {
    /// Starts a sequence.
    pub(super) fn begin(&mut self, node: NativeId) {
        self.ends.clear();
        self.expected = node.time + 1;
        self.session = node.session;
        self.count = 0;
    }

    pub(super) fn put(&mut self, run: Run) {
        if let Some(last) = &mut self.pending
            && last.id.session == run.id.session
            && last.end() == run.id.time
            && last.dead == run.dead
        {
            last.span += run.span;
            return;
        }
        self.flush();
        self.pending = Some(run);
    }

    /// Ends a sequence. Tells how many runs it has.
    pub(super) fn end(&mut self) -> u64 {
        self.flush();
        self.count
    }

    fn flush(&mut self) {
        let Some(run) = self.pending.take() else { return };
        self.count += 1;
        let back = self.ends.iter().rev().take(LOOK_BACK).position(|&end| end == run.id);
        let back = back.map_or(0, |back| back + 1);
        put_vu57(&mut self.moves, (back as u64) << 1 | u64::from(run.dead));
        if back == 0 {
            let other = run.id.session != self.session;
            let away = zigzag(run.id.time as i64 - self.expected as i64);
            put_vu57(&mut self.starts, away << 1 | u64::from(other));
            if other {
                put_vu57(&mut self.starts, run.id.session.into());
                self.session = run.id.session;
            }
        } else {
            self.ends.truncate(self.ends.len() - back);
        }
        put_vu57(&mut self.spans, run.span - 1);
        self.expected = run.end();
        self.ends.push(NativeId { session: run.id.session, time: run.end() });
    }
}

/// Reads runs: see [`RunWriter`].
pub(super) struct RunReader<'a> {
    moves: Reader<'a>,
    spans: Reader<'a>,
    starts: Reader<'a>,
    last: &'a [u64],
    /// The stack of ends, and above it places for more.
    ends: Vec<NativeId>,
    depth: usize,
    expected: u64,
    session: u32,
    visible: u64,
    rows: Vec<Run>,
}

/// So many runs are read in one go.
const ROWS: usize = 64;

impl<'a> RunReader<'a> {
    pub(super) const fn new(moves: &'a [u8], spans: &'a [u8], starts: &'a [u8], last: &'a [u64]) -> Self {
        Self {
            moves: Reader::new(moves),
            spans: Reader::new(spans),
            starts: Reader::new(starts),
            last,
            ends: Vec::new(),
            depth: 0,
            expected: 0,
            session: 0,
            visible: 0,
            rows: Vec::new(),
        }
    }

    /// Starts a sequence.
    pub(super) fn begin(&mut self, node: NativeId) {
        self.depth = 0;
        self.expected = node.time + 1;
        self.session = node.session;
        self.visible = 0;
    }

    /// How many elements of the runs that were read can be seen.
    pub(super) const fn visible(&self) -> u64 {
        self.visible
    }

    /// At most so many runs can come.
    pub(super) fn left(&self) -> usize {
        self.moves.left().min(self.spans.left())
    }

    /// Up to which byte the column of moves was read.
    pub(super) const fn offset(&self) -> usize {
        self.moves.offset()
    }

    /// The runs that come next: one or more, and at most so many, which is one at least.
    pub(super) fn next(&mut self, max: u64) -> Result<&[Run], NativeError> {
        let max = usize::try_from(max).unwrap_or(ROWS).min(ROWS);
        let mut rows = std::mem::take(&mut self.rows);
        rows.clear();
        let read = self.read_each(max, &mut |run| rows.push(run));
        self.rows = rows;
        read.map(|()| &*self.rows)
    }

    /// Hands on the runs that come next, so many.
    #[inline]
    pub(super) fn for_each(&mut self, len: u64, mut take: impl FnMut(Run)) -> Result<(), NativeError> {
        let mut left = len;
        while left > 0 {
            let max = usize::try_from(left).unwrap_or(ROWS).min(ROWS);
            self.read_each(max, &mut take)?;
            left -= max as u64;
        }
        Ok(())
    }

    #[inline(always)]
    fn read_each(&mut self, max: usize, take: &mut impl FnMut(Run)) -> Result<(), NativeError> {
        let mut left = max;
        loop {
            left -= self.read_near(left, take);
            if left == 0 {
                return Ok(());
            }
            take(self.next_far()?);
            left -= 1;
        }
    }

    /// Reads at most so many runs, as long as the head and the length of each take a byte and its start a word, which is
    /// nearly always so. It stops before one that takes more, and before what is wrong: there is an error for it elsewhere.
    /// Tells how many it has read.
    #[inline(always)]
    fn read_near(&mut self, max: usize, take: &mut impl FnMut(Run)) -> usize {
        // One more for who reads the next one, from further away.
        if self.ends.len() <= self.depth + max {
            self.ends.resize(2 * self.depth + ROWS + 1, NativeId { session: 0, time: 0 });
        }
        let Self { ends, last, .. } = self;
        let (moves, spans, mut starts) = (self.moves.rest(), self.spans.rest(), self.starts.rest());
        let max = max.min(moves.len()).min(spans.len());
        let (mut depth, mut expected, mut session) = (self.depth, self.expected, self.session);
        let (mut read, mut visible) = (0, 0);
        for (&head, &more) in moves[..max].iter().zip(&spans[..max]) {
            if head | more >= 0x80 {
                break;
            }
            // Further back than there are ends is nowhere.
            let at = depth.wrapping_sub(usize::from(head >> 1));
            let (Some(end), more) = (ends.get_mut(at), u64::from(more)) else { break };
            let id = if head < 2 {
                let Some((id, behind)) = start_near(starts, expected, session) else { break };
                let Some(&seen) = last.get(id.session as usize) else { break };
                if id.time > seen || more > seen - id.time {
                    break;
                }
                (starts, session) = (behind, id.session);
                id
            } else {
                // It is seen, up to the time before.
                let id = *end;
                let Some(&seen) = last.get(id.session as usize) else { break };
                if id.time + more > seen {
                    break;
                }
                id
            };
            let (span, dead) = (more + 1, head & 1 != 0);
            (depth, expected) = (at + 1, id.time + span);
            *end = NativeId { session: id.session, time: expected };
            visible += if dead { 0 } else { span };
            read += 1;
            take(Run { id, span, dead });
        }
        self.moves.skip(read);
        self.spans.skip(read);
        self.starts.skip_to(starts);
        (self.depth, self.expected, self.session) = (depth, expected, session);
        self.visible = self.visible.saturating_add(visible);
        read
    }

    #[cold]
    fn next_far(&mut self) -> Result<Run, NativeError> {
        let head = self.moves.vu57("the head of a run").map_err(column(Col::Moves))?;
        let (back, dead) = (head >> 1, head & 1 != 0);
        let span = self.spans.vu57("the length of a run").map_err(column(Col::Spans))? + 1;
        let (id, at) = if back == 0 {
            (self.start(span).map_err(column(Col::Starts))?, self.depth)
        } else {
            let at = usize::try_from(back).ok().and_then(|back| self.depth.checked_sub(back));
            let Some(at) = at else {
                let what = "a run that goes on with one before the first";
                let source = Malformed::Contradiction { at: self.moves.offset(), what };
                return Err(column(Col::Moves)(source));
            };
            let id = self.ends[at];
            let checked = within(&self.spans, self.last, id.session, id.time as i64, span);
            checked.map_err(column(Col::Spans))?;
            (id, at)
        };
        self.expected = id.time + span;
        // There is a place for one more, since some were looked for nearby.
        self.ends[at] = NativeId { session: id.session, time: self.expected };
        self.depth = at + 1;
        self.visible = self.visible.saturating_add(if dead { 0 } else { span });
        Ok(Run { id, span, dead })
    }

    fn start(&mut self, span: u64) -> Result<NativeId, Malformed> {
        let head = self.starts.vu57("the start of a run")?;
        if head & 1 != 0 {
            self.session = session(&mut self.starts, self.last)?;
        }
        let time = self.expected as i64 + unzigzag(head >> 1);
        let time = within(&self.starts, self.last, self.session, time, span)?;
        Ok(NativeId { session: self.session, time })
    }

    pub(super) fn end(&self) -> Result<(), NativeError> {
        self.moves.end().map_err(column(Col::Moves))?;
        self.spans.end().map_err(column(Col::Spans))?;
        self.starts.end().map_err(column(Col::Starts))
    }
}

/// The start of a run and what is behind it, if it takes no more than a word.
#[inline(always)]
fn start_near(starts: &[u8], expected: u64, session: u32) -> Option<(NativeId, &[u8])> {
    let word = u64::from_le_bytes(*starts.first_chunk()?);
    let (start, len) = at_once(word)?;
    // A session whose number is small stands in the byte behind.
    let (other, behind) = (start & 1, (word >> (8 * len)) as u8);
    if other != 0 && behind >= 0x80 {
        return None;
    }
    let session = if other != 0 { behind.into() } else { session };
    let time = expected.wrapping_add_signed(unzigzag(start >> 1));
    Some((NativeId { session, time }, starts.get(len as usize + other as usize..)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn signs_come_back(n: i64) {
            prop_assert_eq!(unzigzag(zigzag(n)), n);
        }

        #[test]
        fn ids_come_back(ids in prop::collection::vec((0..3u32, 1..40u64), 0..60)) {
            let ids: Vec<_> = ids.into_iter().map(|(session, time)| NativeId { session, time }).collect();
            let mut writer = IdWriter::default();
            ids.iter().for_each(|&id| writer.put(id));
            let bytes = writer.finish();
            let mut reader = IdReader::new(&bytes, &[40; 3]);
            for &id in &ids {
                prop_assert_eq!(reader.next().unwrap(), id);
            }
            prop_assert!(reader.end().is_ok());
        }

        #[test]
        fn runs_come_back_joined(runs in prop::collection::vec((0..2u32, 1..60u64, 1..4u64, any::<bool>()), 0..60)) {
            let mut writer = RunWriter::default();
            let mut joined: Vec<Run> = Vec::new();
            let node = NativeId { session: 1, time: 7 };
            writer.begin(node);
            for (session, time, span, dead) in runs {
                let run = Run { id: NativeId { session, time }, span, dead };
                writer.put(run);
                match joined.last_mut() {
                    Some(last) if last.id.session == session && last.end() == time && last.dead == dead => last.span += span,
                    _ => joined.push(run),
                }
            }
            prop_assert_eq!(writer.end(), joined.len() as u64);
            let mut reader = RunReader::new(&writer.moves, &writer.spans, &writer.starts, &[64; 2]);
            reader.begin(node);
            let mut read = Vec::new();
            while read.len() < joined.len() {
                read.extend_from_slice(reader.next((joined.len() - read.len()) as u64).unwrap());
            }
            prop_assert_eq!(read, joined);
            prop_assert!(reader.end().is_ok());
        }
    }
}
