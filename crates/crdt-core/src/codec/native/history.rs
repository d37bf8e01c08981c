//! A history as columns: the document that it starts with, and the patches since as strokes.
//!
//! A stroke is what an editor does in one go: typing on, deleting backwards or forwards, each key an operation; or one
//! operation of another kind. Strokes do not care where patches end; that is a column of its own, and mostly a run.

mod strokes;

use strokes::{StrokeReader, StrokeWriter};

use super::{
    Col, Columns, NativeError, Packing, SnapshotKind, frame,
    runs::{unzigzag, zigzag},
    sink,
    weigh::{self, Allowance},
    write,
};
use crate::{
    Patch, PatchBuilder, SessionId, Timestamp,
    codec::{
        Log, Malformed, cbor, room,
        wire::{Reader, put_vu57},
    },
    id::MAX_ID,
};

/// The columns behind those of the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HistoryCol {
    Sessions,
    Patches,
    Metas,
    Strokes,
    Lens,
    Refs,
    Text,
    Others,
}

impl HistoryCol {
    const COUNT: usize = 8;

    const fn name(self) -> &'static str {
        NAMES[self as usize]
    }
}

/// The names of the columns.
pub(super) const NAMES: [&str; HistoryCol::COUNT] =
    ["sessions", "patches", "metas", "strokes", "lens", "refs", "inserted", "others"];

fn column(column: HistoryCol) -> impl Fn(Malformed) -> NativeError {
    move |source| NativeError::Column { column: column.name(), start: 0, source }
}

/// How often something that takes no bytes of its own is repeated at most: a patch like the one before, a deletion
/// next to the one before. More is written as another repetition.
const REPEAT_MAX: u64 = 64;

impl Log {
    /// The history as a native snapshot: the document it starts with and all patches since, in the order of their ids.
    /// A history whose start has been moved on is a *shallow* snapshot: a state, and what happened since.
    pub fn to_native(&self, packing: Packing) -> Vec<u8> {
        let start = write::columns(self.start());
        // The smallest of those that a reader takes; the last is never too small.
        let ways = [(packing, REPEAT_MAX), (Packing::Plain, REPEAT_MAX), (Packing::Plain, 1)];
        let mut bytes = Vec::new();
        for (packing, repeat_max) in ways {
            let mut columns = start.clone();
            columns.extend(Writer::columns(self.patches(), repeat_max));
            bytes = frame::write(SnapshotKind::History, &columns, packing);
            if self.is_fair(&columns, bytes.len()) {
                break;
            }
        }
        bytes
    }

    /// Whether columns may be read when they have been written into so many bytes.
    fn is_fair(&self, columns: &[Vec<u8>], len_bytes: usize) -> bool {
        let mut allowance = Allowance::of(len_bytes);
        weigh::is_fair(SnapshotKind::History, columns, len_bytes)
            && self.patches().all(|patch| allowance.patch(patch.ops().len() as u64).is_ok())
    }

    /// Reads [`to_native`](Self::to_native) from anyone. The document at its start goes on as `session`.
    ///
    /// # Errors
    /// [`NativeError`]
    pub fn from_native(bytes: &[u8], session: SessionId) -> Result<Self, NativeError> {
        let columns = Columns::read(bytes)?;
        if columns.kind != SnapshotKind::History {
            return Err(NativeError::Kind { found: "a document", expected: "a history" });
        }
        super::expect_columns(&columns, Col::COUNT + HistoryCol::COUNT)?;
        let read = || {
            weigh::check(&columns)?;
            let mut log = Self::new(sink::load(&columns, session)?);
            read_patches(&columns, bytes.len(), &mut log)?;
            Ok(log)
        };
        read().map_err(|error| columns.placed(error))
    }
}

/// The columns of a history behind those of its start, whether or not a reader takes them.
#[cfg(test)]
pub(super) fn columns(log: &Log) -> [Vec<u8>; HistoryCol::COUNT] {
    Writer::columns(log.patches(), REPEAT_MAX)
}

#[derive(Default)]
struct Writer {
    patches: Vec<u8>,
    metas: Vec<u8>,
    strokes: StrokeWriter,
    expected: u64,
    session: u32,
    /// A patch with nothing to say but how many operations it has, and how often that is so.
    run: Option<(u64, u64)>,
    repeat_max: u64,
}

impl Writer {
    fn columns<'p>(
        patches: impl Iterator<Item = &'p Patch> + Clone,
        repeat_max: u64,
    ) -> [Vec<u8>; HistoryCol::COUNT] {
        let sessions = sessions(patches.clone());
        let mut list = Vec::new();
        put_vu57(&mut list, sessions.len() as u64);
        let mut before = 0;
        for &sid in &sessions {
            put_vu57(&mut list, sid - before);
            before = sid;
        }
        let mut writer = Self { strokes: StrokeWriter::new(sessions), repeat_max, ..Self::default() };
        patches.for_each(|patch| writer.patch(patch));
        writer.end_run();
        let Self { patches, metas, strokes, .. } = writer;
        let [kinds, lens, refs, text, others] = strokes.finish();
        [list, patches, metas, kinds, lens, refs, text, others]
    }

    fn patch(&mut self, patch: &Patch) {
        let id = patch.id();
        let session = self.strokes.session(id.sid);
        let (other, gap, meta) = (session != self.session, id.time != self.expected, patch.meta());
        let count = (patch.ops().len() as u64 - 1) << 3;
        let flags = u64::from(other) | u64::from(gap) << 1 | u64::from(meta.is_some()) << 2;
        if flags == 0 {
            match &mut self.run {
                Some((head, len)) if *head == count && *len < self.repeat_max => *len += 1,
                _ => {
                    self.end_run();
                    self.run = Some((count, 1));
                }
            }
        } else {
            self.end_run();
            put_vu57(&mut self.patches, count | flags);
            if other {
                put_vu57(&mut self.patches, session.into());
                self.session = session;
            }
            if gap {
                put_vu57(&mut self.patches, zigzag(id.time as i64 - self.expected as i64));
            }
            self.metas.extend_from_slice(meta.map_or(&[], |meta| meta.as_bytes()));
        }
        self.expected = patch.next_time();
        for (id, op) in patch.ops() {
            self.strokes.op(id, &op);
        }
    }

    fn end_run(&mut self) {
        if let Some((head, len)) = self.run.take() {
            put_vu57(&mut self.patches, head);
            put_vu57(&mut self.patches, len - 1);
        }
    }
}

/// All sessions that patches are of or name in strokes.
fn sessions<'p>(patches: impl Iterator<Item = &'p Patch>) -> Vec<u64> {
    let mut sessions = Vec::new();
    for patch in patches {
        sessions.push(patch.id().sid.get());
        patch.as_ref().for_each_foreign(|span| sessions.push(span.start.sid.get()));
        if sessions.len() > 1 << 16 {
            sessions.sort_unstable();
            sessions.dedup();
        }
    }
    sessions.sort_unstable();
    sessions.dedup();
    sessions
}

fn read_sessions(bytes: &[u8]) -> Result<Vec<SessionId>, Malformed> {
    let r = &mut Reader::new(bytes);
    let count = r.vu57("a count of sessions")?;
    let mut sessions = Vec::with_capacity(room(count, r.left()));
    let mut sid = 0;
    for _ in 0..count {
        let more = r.vu57_up_to(MAX_ID - sid, "session id")?;
        if more == 0 {
            return Err(Malformed::Contradiction {
                at: r.offset(),
                what: "the system's session, or one twice",
            });
        }
        sid += more;
        sessions.push(SessionId::new(sid).unwrap_or(SessionId::SYSTEM));
    }
    r.end()?;
    Ok(sessions)
}

fn read_patches(columns: &Columns<'_>, len_bytes: usize, log: &mut Log) -> Result<(), NativeError> {
    let get = |column: HistoryCol| columns.get(Col::COUNT + column as usize);
    let sessions = read_sessions(get(HistoryCol::Sessions)).map_err(column(HistoryCol::Sessions))?;
    let mut strokes = StrokeReader::new(
        &sessions,
        [HistoryCol::Strokes, HistoryCol::Lens, HistoryCol::Refs, HistoryCol::Text, HistoryCol::Others]
            .map(get),
    );
    let (mut r, mut metas) = (Reader::new(get(HistoryCol::Patches)), Reader::new(get(HistoryCol::Metas)));
    let (mut id, mut last) = (Timestamp::ORIGIN, None);
    let mut allowance = Allowance::of(len_bytes);
    while r.left() > 0 {
        let head = Head::read(&mut r, &sessions, &mut id).map_err(column(HistoryCol::Patches))?;
        for _ in 0..head.repeat {
            let mut builder = PatchBuilder::new(id.sid, id.time);
            if head.meta {
                let meta = cbor::read(&mut metas).map_err(column(HistoryCol::Metas))?;
                builder.set_meta(&meta);
            }
            allowance.patch(head.ops).map_err(|source| {
                let (column, at) = (HistoryCol::Patches.name(), r.offset());
                NativeError::Impossible { column, start: 0, at, source }
            })?;
            for _ in 0..head.ops {
                strokes.op(&mut builder)?;
            }
            let patch = builder.finish_checked().map_err(column(HistoryCol::Patches))?;
            if last >= Some(patch.id()) {
                let what = "a patch that does not come after the one before it";
                return Err(column(HistoryCol::Patches)(Malformed::Contradiction { at: r.offset(), what }));
            }
            last = Some(patch.id());
            id.time = patch.next_time();
            log.push(patch);
        }
    }
    metas.end().map_err(column(HistoryCol::Metas))?;
    strokes.end()
}

/// What is said of a patch, or of several that are alike.
struct Head {
    ops: u64,
    meta: bool,
    repeat: u64,
}

impl Head {
    /// Reads a head; `id` becomes that of the patch.
    fn read(r: &mut Reader<'_>, sessions: &[SessionId], id: &mut Timestamp) -> Result<Self, Malformed> {
        let head = r.vu57("a patch")?;
        if head & 1 != 0 || id.sid == SessionId::SYSTEM {
            let at = if head & 1 != 0 { r.vu57("number of a session")? } else { 0 };
            let known = usize::try_from(at).ok().and_then(|at| sessions.get(at));
            let what = "a session that is not listed";
            id.sid = *known.ok_or(Malformed::Contradiction { at: r.offset(), what })?;
        }
        if head & 2 != 0 {
            let time = id.time as i64 + unzigzag(r.vu57("a time")?);
            let time = u64::try_from(time).ok().filter(|&time| time <= MAX_ID);
            id.time = time.ok_or(Malformed::Contradiction { at: r.offset(), what: "a time out of range" })?;
        }
        let repeat = if head & 7 == 0 { r.vu57_up_to(REPEAT_MAX - 1, "number of patches")? + 1 } else { 1 };
        Ok(Self { ops: (head >> 3) + 1, meta: head & 4 != 0, repeat })
    }
}
