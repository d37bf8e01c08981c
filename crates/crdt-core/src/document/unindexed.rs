//! Where the nodes of a native snapshot are, as long as nobody has changed the document.
//!
//! A snapshot tells its nodes in rows: side by side, with ids that follow each other. Who reads a document goes from node to
//! node and asks for none by its id, so the index of all ids is made when something is changed first. Until then a few
//! questions are answered from the rows, sorted.

use std::sync::OnceLock;

use super::{
    sequence::Id,
    sessions::Sessions,
    time_index::{TimeIndex, UNITS_PER_PAGE},
};

/// Nodes side by side whose ids follow each other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub(super) id: Id,
    pub(super) len: u32,
    pub(super) node: u32,
}

impl Row {
    const fn key(&self) -> (u32, u64) {
        (self.id.session, self.id.time)
    }
}

/// The rows of a snapshot, no id in more than one.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    rows: Vec<Row>,
    /// By session and time; made when a node is asked for by its id.
    sorted: OnceLock<Box<[Row]>>,
}

impl Rows {
    /// Fewer rows are put into the index at once.
    pub(super) const MIN: usize = 64;

    pub(super) const fn new(rows: Vec<Row>) -> Self {
        Self { rows, sorted: OnceLock::new() }
    }

    /// All rows by session and time.
    pub(super) fn sorted(&self) -> &[Row] {
        self.sorted.get_or_init(|| {
            let mut rows: Box<[Row]> = self.rows.as_slice().into();
            rows.sort_unstable_by_key(Row::key);
            rows
        })
    }

    /// The node with an id.
    pub(super) fn find(&self, id: Id) -> Option<u32> {
        let rows = self.sorted();
        let at = rows.partition_point(|row| row.key() <= (id.session, id.time)).checked_sub(1)?;
        let Row { id: first, len, node } = rows[at];
        // The last row that does not begin behind it: one of the same session, if there is one that may have it.
        let ticks = (first.session == id.session).then(|| id.time - first.time)?;
        (ticks < len.into()).then(|| node + ticks as u32)
    }

    /// Makes the index.
    pub(super) fn index(&self, sessions: &mut Sessions) {
        let made = index(&self.rows, sessions);
        debug_assert!(made.is_ok(), "ids are compared before rows are kept");
    }

    pub(super) fn size_bytes(&self) -> usize {
        (self.rows.capacity() + self.sorted.get().map_or(0, |rows| rows.len())) * size_of::<Row>()
    }
}

/// Makes the index from ids to nodes, session by session.
///
/// # Errors
/// The first session that has an id twice.
pub(super) fn index(rows: &[Row], sessions: &mut Sessions) -> Result<(), u32> {
    // For each session how many nodes it has, and the range of their times.
    let mut ranges = vec![(0usize, u64::MAX, 0u64); sessions.len()];
    for &Row { id, len, .. } in rows {
        let (count, min, max) = &mut ranges[id.session as usize];
        *count += len as usize;
        (*min, *max) = (id.time.min(*min), (id.time + u64::from(len) - 1).max(*max));
    }
    for (&(count, min, max), session) in ranges.iter().zip(0..).filter(|((count, ..), _)| *count > 0) {
        // A page for each node at most.
        sessions.at_mut(session).nodes = TimeIndex::with_range(min, max + 1, count * UNITS_PER_PAGE);
    }
    for &Row { id, len, .. } in rows {
        sessions.at_mut(id.session).nodes.mark_run(id.time, len);
    }
    for (&(count, ..), session) in ranges.iter().zip(0..).filter(|((count, ..), _)| *count > 0) {
        if sessions.at(session).nodes.marked() != count {
            return Err(session);
        }
        sessions.at_mut(session).nodes.lay_out();
    }
    for &Row { id, len, node } in rows {
        sessions.at_mut(id.session).nodes.fill_run(id.time, node, len);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_and_the_index_that_is_made_of_them_find_the_same(
            gaps in prop::collection::vec((0..3u32, 1..40u64, 1..70u32), 0..80).prop_shuffle(),
            asked in prop::collection::vec((0..4u32, 0..3000u64), 0..40),
        ) {
            let (mut next, mut sessions) = ([0; 3], Sessions::default());
            (0..4).for_each(|sid| _ = sessions.enter(70_000 + sid));
            let mut rows: Vec<Row> = gaps
                .into_iter()
                .map(|(session, gap, len)| {
                    let id = Id::new(session, next[session as usize] + gap);
                    next[session as usize] = id.time + u64::from(len);
                    Row { id, len, node: 0 }
                })
                .collect();
            // Their nodes stand in another order than their ids.
            rows.reverse();
            let mut all = BTreeMap::new();
            for row in &mut rows {
                row.node = all.len() as u32;
                (0..row.len).for_each(|at| _ = all.insert((row.id.session, row.id.time + u64::from(at)), row.node + at));
            }
            let rows = Rows::new(rows);
            rows.index(&mut sessions);
            let asked = asked.into_iter().chain(all.keys().copied());
            for (session, time) in asked {
                let expected = all.get(&(session, time)).copied();
                prop_assert_eq!(rows.find(Id::new(session, time)), expected);
                prop_assert_eq!(sessions.at(session).nodes.get(time), expected);
            }
        }
    }
}
