//! Operations as strokes, in five columns.

use super::{HistoryCol, NativeError, REPEAT_MAX, column};
use crate::{
    PatchBuilder, SessionId, Timespan, Timestamp,
    codec::{
        Malformed,
        native::runs::{unzigzag, zigzag},
        room,
        wire::{Reader, put_vu57},
    },
    id::MAX_ID,
    patch::{Op, op},
    text::Wtf8,
};

/// One operation as patches spell it.
const OTHER: u8 = 0;
/// Insertions of one unit, each after the one before.
const TYPE: u8 = 1;
/// One insertion.
const INSERT: u8 = 2;
/// Deletions of one element, each before the one before.
const BACK: u8 = 3;
/// Deletions of one element, each behind the one before.
const FORTH: u8 = 4;
/// One deletion.
const DELETE: u8 = 5;

/// The element it starts at is not the one that was to be expected.
const ELSEWHERE: u8 = 8;
/// That element is of another session than the one before.
const OTHER_SESSION: u8 = 16;
/// The text, byte string or array is another one than before.
const OTHER_NODE: u8 = 32;

/// The element that a stroke is expected to start at, and the node that it is expected to change.
#[derive(Debug, Clone, Copy)]
struct Place {
    at: Timestamp,
    node: Timestamp,
}

impl Default for Place {
    fn default() -> Self {
        Self { at: Timestamp::ORIGIN, node: Timestamp::ORIGIN }
    }
}

const fn before(id: Timestamp) -> Timestamp {
    Timestamp::new(id.sid, id.time.saturating_sub(1))
}

struct Stroke {
    kind: u8,
    node: Timestamp,
    start: Timestamp,
    last: Timestamp,
    len: u64,
}

#[derive(Default)]
pub(super) struct StrokeWriter {
    sessions: Vec<u64>,
    kinds: Vec<u8>,
    lens: Vec<u8>,
    refs: Vec<u8>,
    text: Vec<u8>,
    others: Vec<u8>,
    open: Option<Stroke>,
    place: Place,
}

impl StrokeWriter {
    pub(super) fn new(sessions: Vec<u64>) -> Self {
        Self { sessions, ..Self::default() }
    }

    /// The number of a session; the system's is none of them, and comes behind.
    pub(super) fn session(&self, sid: SessionId) -> u32 {
        self.sessions.binary_search(&sid.get()).unwrap_or(self.sessions.len()) as u32
    }

    fn put_session(&mut self, sid: SessionId) {
        let session = self.session(sid);
        put_vu57(&mut self.refs, session.into());
    }

    pub(super) fn op(&mut self, id: Timestamp, op: &Op<'_>) {
        match *op {
            Op::InsStr { obj, after, text, units: 1 } => {
                self.text.extend_from_slice(text.as_bytes());
                match &mut self.open {
                    Some(stroke)
                        if stroke.kind == TYPE
                            && stroke.node == obj
                            && id.time > 0
                            && after == before(id) =>
                    {
                        stroke.len += 1;
                        stroke.last = id;
                    }
                    _ => self.open(TYPE, obj, after, id),
                }
            }
            Op::InsStr { obj, after, text, units } if units > 0 => {
                self.text.extend_from_slice(text.as_bytes());
                self.open(INSERT, obj, after, id.tick(units - 1));
                self.close(text.as_bytes().len() as u64);
            }
            // What deletes nothing is written as it is.
            Op::Del { obj, spans } if spans.len() > 0 && spans.into_iter().all(|span| span.span > 0) => {
                self.delete(obj, &spans.collect::<Vec<_>>());
            }
            _ => {
                self.flush();
                self.kinds.push(OTHER);
                op::put(&mut self.others, id.sid, op, |id| id);
            }
        }
    }

    fn delete(&mut self, node: Timestamp, spans: &[Timespan]) {
        if let &[Timespan { start, span: 1 }] = spans {
            if let Some(stroke) = &mut self.open
                && stroke.node == node
                && stroke.len < REPEAT_MAX
                && start.sid == stroke.start.sid
            {
                let (is_back, is_forth) = (start.time + 1 == stroke.last.time, start == stroke.last.tick(1));
                match stroke.kind {
                    BACK if is_back => {}
                    BACK | FORTH if is_forth && (stroke.kind == FORTH || stroke.len == 1) => {
                        stroke.kind = FORTH;
                    }
                    _ => return self.open(BACK, node, start, start),
                }
                stroke.len += 1;
                stroke.last = start;
                return;
            }
            return self.open(BACK, node, start, start);
        }
        let start = spans.first().map_or(node, |span| span.start);
        self.open(DELETE, node, start, start);
        self.close(spans.len() as u64);
        let mut next = start;
        for &Timespan { start, span } in spans {
            let other = start.sid != next.sid;
            let away = zigzag(start.time as i64 - next.time as i64);
            put_vu57(&mut self.refs, away << 1 | u64::from(other));
            if other {
                self.put_session(start.sid);
            }
            put_vu57(&mut self.lens, span);
            next = Timestamp::new(start.sid, start.time + span);
        }
    }

    fn open(&mut self, kind: u8, node: Timestamp, start: Timestamp, last: Timestamp) {
        self.flush();
        self.open = Some(Stroke { kind, node, start, last, len: 1 });
    }

    fn flush(&mut self) {
        if let Some(stroke) = &self.open {
            self.close(stroke.len);
        }
    }

    fn close(&mut self, len: u64) {
        let Some(stroke) = self.open.take() else { return };
        let (start, node) = (stroke.start, stroke.node);
        let mut kind = stroke.kind;
        if node != self.place.node {
            kind |= OTHER_NODE;
        }
        if start.sid != self.place.at.sid {
            kind |= OTHER_SESSION;
        }
        if start.time != self.place.at.time {
            kind |= ELSEWHERE;
        }
        self.kinds.push(kind);
        if kind & OTHER_NODE != 0 {
            self.put_session(node.sid);
            put_vu57(&mut self.refs, node.time);
        }
        if kind & OTHER_SESSION != 0 {
            self.put_session(start.sid);
        }
        if kind & ELSEWHERE != 0 {
            put_vu57(&mut self.refs, zigzag(start.time as i64 - self.place.at.time as i64));
        }
        put_vu57(&mut self.lens, len);
        self.place = Place { at: expected(stroke.kind, start, stroke.last), node };
    }

    pub(super) fn finish(mut self) -> [Vec<u8>; 5] {
        self.flush();
        [self.kinds, self.lens, self.refs, self.text, self.others]
    }
}

/// Where the next stroke is expected to start: behind what was inserted, or before what was deleted.
const fn expected(kind: u8, start: Timestamp, last: Timestamp) -> Timestamp {
    match kind {
        TYPE | INSERT => last,
        BACK => before(last),
        _ => before(start),
    }
}

pub(super) struct StrokeReader<'a> {
    sessions: &'a [SessionId],
    kinds: Reader<'a>,
    lens: Reader<'a>,
    refs: Reader<'a>,
    text: Reader<'a>,
    others: Reader<'a>,
    place: Place,
    kind: u8,
    start: Timestamp,
    next: Timestamp,
    /// Whether none of its operations was read yet.
    is_first: bool,
    left: u64,
}

impl<'a> StrokeReader<'a> {
    pub(super) fn new(sessions: &'a [SessionId], columns: [&'a [u8]; 5]) -> Self {
        let [kinds, lens, refs, text, others] = columns.map(Reader::new);
        let (start, next) = (Timestamp::ORIGIN, Timestamp::ORIGIN);
        Self {
            sessions,
            kinds,
            lens,
            refs,
            text,
            others,
            place: Place::default(),
            kind: OTHER,
            start,
            next,
            is_first: true,
            left: 0,
        }
    }

    /// Adds the next operation to a patch.
    pub(super) fn op(&mut self, patch: &mut PatchBuilder) -> Result<(), NativeError> {
        let id = patch.next_id();
        if self.left == 0 {
            let kind = self.kinds.u8("a stroke").map_err(column(HistoryCol::Strokes))?;
            if kind == OTHER {
                let op =
                    op::read::<false>(&mut self.others, id.sid, false).map_err(column(HistoryCol::Others))?;
                if !self.others.canonical {
                    return Err(column(HistoryCol::Others)(Malformed::NotCanonical));
                }
                patch.push(&op);
                return Ok(());
            }
            self.stroke(kind)?;
        }
        match self.kind {
            TYPE => {
                let text = unit(&mut self.text).map_err(column(HistoryCol::Text))?;
                let after = if self.is_first { self.start } else { before(id) };
                patch.push(&Op::InsStr { obj: self.place.node, after, text, units: 1 });
                (self.is_first, self.place.at) = (false, id);
                self.left -= 1;
            }
            INSERT => {
                let text = self.text.text(self.left).map_err(column(HistoryCol::Text))?;
                self.left = 0;
                let units = text.units() as u64;
                patch.push(&Op::InsStr { obj: self.place.node, after: self.start, text, units });
                self.place.at = id.tick(units.max(1) - 1);
            }
            DELETE => {
                let spans = self.spans()?;
                patch.del(self.place.node, &spans);
                self.place.at = before(self.start);
            }
            _ => {
                patch.del(self.place.node, &[Timespan { start: self.next, span: 1 }]);
                let at = if self.kind == BACK { self.next } else { self.start };
                self.place.at = before(at);
                self.next = if self.kind == BACK { before(self.next) } else { self.next.tick(1) };
                self.left -= 1;
            }
        }
        Ok(())
    }

    /// Reads what a stroke says before its first operation.
    fn stroke(&mut self, kind: u8) -> Result<(), NativeError> {
        let refs = column(HistoryCol::Refs);
        self.kind = kind & 7;
        if !(TYPE..=DELETE).contains(&self.kind) || kind >= 64 {
            let wrong = self.kinds.unexpected(kind, "a stroke: a kind from 0 to 5 with flags from 8 to 56");
            return Err(column(HistoryCol::Strokes)(wrong));
        }
        if kind & OTHER_NODE != 0 {
            let sid = self.session().map_err(&refs)?;
            self.place.node = Timestamp::new(sid, self.refs.time().map_err(&refs)?);
        }
        let mut start = self.place.at;
        if kind & OTHER_SESSION != 0 {
            start.sid = self.session().map_err(&refs)?;
        }
        if kind & ELSEWHERE != 0 {
            start.time = self.away(start.time).map_err(&refs)?;
        }
        (self.start, self.next, self.is_first) = (start, start, true);
        let max = match self.kind {
            BACK => REPEAT_MAX.min(start.time + 1),
            FORTH => REPEAT_MAX.min(MAX_ID - start.time.min(MAX_ID)),
            TYPE => self.text.left() as u64,
            _ => u64::MAX,
        };
        let len = self.lens.vu57_up_to(max, "length of a stroke").map_err(column(HistoryCol::Lens))?;
        if len == 0 {
            let what = "a stroke of no operations";
            return Err(column(HistoryCol::Lens)(Malformed::Contradiction { at: self.lens.offset(), what }));
        }
        self.left = len;
        Ok(())
    }

    fn spans(&mut self) -> Result<Vec<Timespan>, NativeError> {
        let count = std::mem::take(&mut self.left);
        let mut spans = Vec::with_capacity(room(count, self.refs.left()));
        let mut next = self.start;
        for _ in 0..count {
            let head = self.refs.vu57("a span").map_err(column(HistoryCol::Refs))?;
            if head & 1 != 0 {
                next.sid = self.session().map_err(column(HistoryCol::Refs))?;
            }
            let time = next.time as i64 + unzigzag(head >> 1);
            let time = u64::try_from(time).ok().filter(|&time| time <= MAX_ID);
            let what = "a time out of range";
            let wrong = Malformed::Contradiction { at: self.refs.offset(), what };
            let start = Timestamp::new(next.sid, time.ok_or(wrong).map_err(column(HistoryCol::Refs))?);
            let room = MAX_ID - start.time + 1;
            let span = self.lens.vu57_up_to(room, "length of a span").map_err(column(HistoryCol::Lens))?;
            spans.push(Timespan { start, span });
            next.time = start.time + span;
        }
        Ok(spans)
    }

    fn away(&mut self, from: u64) -> Result<u64, Malformed> {
        let time = from as i64 + unzigzag(self.refs.vu57("a time")?);
        let time = u64::try_from(time).ok().filter(|&time| time <= MAX_ID);
        time.ok_or(Malformed::Contradiction { at: self.refs.offset(), what: "a time out of range" })
    }

    /// A session by its number; behind the last comes the system's.
    fn session(&mut self) -> Result<SessionId, Malformed> {
        let at = self.refs.vu57_up_to(self.sessions.len() as u64, "number of a session")?;
        let known = usize::try_from(at).ok().and_then(|at| self.sessions.get(at));
        Ok(known.copied().unwrap_or(SessionId::SYSTEM))
    }

    pub(super) fn end(&self) -> Result<(), NativeError> {
        let rest = [
            (HistoryCol::Strokes, &self.kinds),
            (HistoryCol::Lens, &self.lens),
            (HistoryCol::Refs, &self.refs),
            (HistoryCol::Text, &self.text),
            (HistoryCol::Others, &self.others),
        ];
        if self.left > 0 {
            let what = "a stroke that is longer than the patches";
            let at = self.kinds.offset();
            return Err(column(HistoryCol::Strokes)(Malformed::Contradiction { at, what }));
        }
        rest.into_iter().try_for_each(|(at, reader)| reader.end().map_err(column(at)))
    }
}

/// Reads text of one UTF-16 unit.
fn unit<'a>(r: &mut Reader<'a>) -> Result<Wtf8<'a>, Malformed> {
    let len = match r.peek() {
        Some(0xc0..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        Some(lead @ 0x80..) => return Err(r.unexpected(lead, "text of one UTF-16 unit")),
        _ => 1,
    };
    r.text(len)
}
