//! How stored patches are read with causes before effects, whatever their times say.
//!
//! Stores give patches in the order of (last time, session). Whoever keeps to Lamport's rule begins a patch above all that
//! it has seen, so that in this order causes come before effects. A writer who does not can name the first tick of a long
//! patch in one that ends before it. Nothing in the two tells that it is wrong, and who had the long one has taken both in.
//! So a reader that meets a patch whose cause is not there yet asks for the cause's session alone, until something can be
//! taken in. Patches do not wait for each other in a circle, or nobody would have them; so that takes as many questions as
//! there are sessions at the most.

use crdt_core::{SessionId, StateVector};

use crate::{PatchRecord, Want};

/// What a reader asks for next.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CausalOrder {
    /// Only this session: what comes first waits for it.
    only: Option<SessionId>,
    /// How many questions have brought nothing that can be taken in.
    in_vain: usize,
}

impl CausalOrder {
    /// What to ask for of what is missing.
    pub(crate) fn narrowed(&self, missing: &[Want]) -> Vec<Want> {
        let only = |want: &&Want| self.only.is_none_or(|only| only == want.sid);
        let narrowed: Vec<Want> = missing.iter().filter(only).copied().collect();
        if narrowed.is_empty() { missing.to_vec() } else { narrowed }
    }

    /// Something could be taken in.
    pub(crate) fn goes_on(&mut self) {
        *self = Self::default();
    }

    /// What came first waits for a session. Whether that can be asked for, of what is `missing`.
    pub(crate) fn waits(&mut self, on: SessionId, missing: &[Want]) -> bool {
        self.in_vain += 1;
        let there = self.in_vain <= missing.len() && missing.iter().any(|want| want.sid == on);
        self.only = there.then_some(on);
        if !there {
            self.in_vain = 0;
        }
        there
    }

    /// Leaves in a page what goes on top of `have`, and notes it there. If nothing does, and no question would help, the
    /// first one stays all the same: its causes are not among what is `missing`, and never come.
    pub(crate) fn keep_ready(
        &mut self,
        missing: &[Want],
        have: &mut StateVector<SessionId>,
        records: &mut Vec<PatchRecord>,
    ) {
        let mut first_waiting = None;
        records.retain(|record| {
            let ready = record.follows(have);
            if ready {
                have.advance(record.session(), record.last());
            } else if first_waiting.is_none() {
                first_waiting = Some(record.clone());
            }
            ready
        });
        if !records.is_empty() {
            return self.goes_on();
        }
        let Some(first) = first_waiting else { return };
        let on = first.causes().find(|(sid, time)| have.get(sid) < *time).map(|(sid, _)| sid);
        if !on.is_some_and(|on| self.waits(on, missing)) {
            have.advance(first.session(), first.last());
            records.push(first);
        }
    }
}
