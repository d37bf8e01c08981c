//! Where each session's patches stand in the log, entered when somebody asks.

use crdt_core::{SessionId, StateVector};
use hashbrown::HashMap;

use super::log::{Damaged, Found, Log, Place};
use crate::Want;

/// The patches of each session, in the order of their times, up to a place in the log.
#[derive(Debug, Default)]
pub(super) struct Index {
    rows: HashMap<SessionId, Vec<Row>>,
    read: Place,
}

/// One patch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub(super) last: u64,
    pub(super) place: Place,
}

impl Index {
    /// Enters what was written since.
    pub(super) fn read_on(&mut self, log: &Log) -> Result<(), Damaged> {
        let rows = &mut self.rows;
        log.for_each_from(self.read, |Found { sid, last, place }| {
            rows.entry(sid).or_default().push(Row { last, place });
        })?;
        self.read = log.end();
        Ok(())
    }

    /// What was written since has been entered by other means.
    pub(super) fn skip_to_end(&mut self, log: &Log) {
        self.read = log.end();
    }

    /// Enters a patch in its place, or in the place of the one that is there.
    pub(super) fn put(&mut self, sid: SessionId, row: Row) {
        let rows = self.rows.entry(sid).or_default();
        let at = rows.partition_point(|kept| kept.last < row.last);
        match rows.get_mut(at).filter(|kept| kept.last == row.last) {
            Some(kept) => *kept = row,
            None => rows.insert(at, row),
        }
    }

    /// The patches of a session that end after `want.after` and not after `want.upto`.
    pub(super) fn range(&self, want: &Want) -> &[Row] {
        let Some(rows) = self.rows.get(&want.sid) else { return &[] };
        let upto = |time: u64| rows.partition_point(|row| row.last <= time);
        rows.get(upto(want.after)..upto(want.upto)).unwrap_or_default()
    }

    /// Keeps only what `vector` does not contain, each at the place that `moved` gives it.
    pub(super) fn keep_after(
        &mut self,
        vector: &StateVector<SessionId>,
        mut moved: impl FnMut(Place) -> Result<Place, Damaged>,
    ) -> Result<(), Damaged> {
        for (sid, rows) in &mut self.rows {
            let contained = vector.get(sid);
            rows.retain(|row| row.last > contained);
            rows.shrink_to_fit();
            for row in rows {
                row.place = moved(row.place)?;
            }
        }
        self.rows.retain(|_, rows| !rows.is_empty());
        Ok(())
    }
}
