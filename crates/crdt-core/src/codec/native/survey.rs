//! A snapshot that lies there: looked through, so that it can be read at any time, and not read yet.

use std::{fmt, panic::AssertUnwindSafe};

use super::{
    Columns, NativeError,
    keys::KeyList,
    read::{Clock, Walk},
    runs::{Run, RunReader},
    sink::{self, Fault, Sink},
};
use crate::{
    Document, SessionId, Timestamp, Value,
    codec::{RawValue, wire::Reader},
    document::{Kind, LoadError, NativeId, Survey, doubt},
    text::Wtf8,
};

/// Bytes that stay as they are, whoever holds them.
pub(crate) type Stable = Box<dyn AsRef<[u8]> + Send + Sync>;

/// A snapshot that was looked through.
pub(crate) struct Snapshot {
    // They are only read.
    bytes: AssertUnwindSafe<Stable>,
    /// How many elements of each sequence can be seen.
    lens: Box<[u32]>,
}

impl Snapshot {
    pub(crate) const fn new(bytes: Stable, lens: Box<[u32]>) -> Self {
        Self { bytes: AssertUnwindSafe(bytes), lens }
    }

    /// The document that it holds.
    pub(crate) fn read(&self, session: SessionId) -> Result<Document, NativeError> {
        sink::load_again(&self.columns()?, session)
    }

    /// The JSON value of that document.
    pub(crate) fn view(&self) -> Option<Value> {
        let columns = self.columns().ok()?;
        sink::view_again(&columns, &self.lens).ok()
    }

    /// Bytes that it takes.
    pub(crate) fn size_bytes(&self) -> usize {
        self.bytes().len() + size_of_val(&*self.lens)
    }

    fn bytes(&self) -> &[u8] {
        let AssertUnwindSafe(bytes) = &self.bytes;
        (**bytes).as_ref()
    }

    fn columns(&self) -> Result<Columns<'_>, NativeError> {
        Columns::read_again(self.bytes())
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("len_bytes", &self.bytes().len()).finish_non_exhaustive()
    }
}

/// Looks through a snapshot. `None` if it has to be read to know whether it can be.
pub(super) fn survey(columns: &Columns<'_>, session: SessionId) -> Option<Survey> {
    if !columns.are_plain() {
        return None;
    }
    let clock = Clock::read(columns).ok()?;
    let keys = KeyList::read(columns).ok()?;
    if !Survey::has_room(columns.len_bytes(), keys.bytes.len()) {
        return None;
    }
    let mut survey = Survey::new(session, clock.order, &clock.sessions, clock.last.clone()).ok()?;
    survey.set_time(clock.time, clock.compacted_to);
    Walk::new(columns, &clock, keys.ends.len()).run(&mut survey, |_| ()).ok()?;
    survey.are_distinct().then_some(survey)
}

impl Sink for Survey {
    #[inline]
    fn con(&mut self, id: NativeId, _: RawValue<'_>) -> Result<(), LoadError> {
        self.node(id)
    }

    #[inline]
    fn cons(
        &mut self,
        _: Option<u32>,
        len: u64,
        next: impl FnMut(u64) -> Result<(NativeId, u64), Fault>,
        values: &mut Reader<'_>,
    ) -> Result<(), Fault> {
        self.cons(len, next, values)
    }

    fn con_id(&mut self, id: NativeId, _: Timestamp) -> Result<(), LoadError> {
        self.node(id)
    }

    fn none(&mut self) -> Result<(), LoadError> {
        Ok(())
    }

    fn missing(&mut self, _: Timestamp) -> Result<(), LoadError> {
        doubt()
    }

    fn again(&mut self, _: u64) -> Result<(), LoadError> {
        doubt()
    }

    #[inline]
    fn open(&mut self, id: NativeId, kind: Kind, _: usize) -> Result<(), LoadError> {
        self.open(id, kind)
    }

    fn key(&mut self, _: u32) {}

    fn close(&mut self) {
        self.close();
    }

    fn sequence(&mut self, id: NativeId, _: Kind) -> Result<(), LoadError> {
        self.node(id)
    }

    fn begin_runs(&mut self, room: usize, _: bool) {
        self.begin_runs(room);
    }

    fn read_runs(&mut self, len: u64, reader: &mut RunReader<'_>) -> Result<(), NativeError> {
        match self.taken() {
            Some(taken) => {
                taken.taking(|taking| {
                    reader.for_each(len, |Run { id, span, .. }| taking.take(id.session, id.time, span as u32))
                })?;
            }
            None => reader.for_each(len, |Run { id, span, .. }| self.run(id, span))?,
        }
        self.set_visible(reader.visible());
        Ok(())
    }

    fn runs(&mut self, runs: &[Run]) -> Result<(), LoadError> {
        runs.iter().for_each(|run| self.run(run.id, run.span));
        Ok(())
    }

    fn end_runs(&mut self) -> Result<(), LoadError> {
        self.end_runs()
    }

    fn elements(&mut self, _: usize) -> Result<(), LoadError> {
        Ok(())
    }

    fn text(&mut self, _: Wtf8<'_>, _: u64) -> Result<(), LoadError> {
        Ok(())
    }

    fn bytes(&mut self, _: &[u8]) -> Result<(), LoadError> {
        Ok(())
    }
}
