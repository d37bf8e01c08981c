//! Writes that can't go: kept beside the others until the user sends them again or drops them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Pending, Stage, StateManager};
use crate::{
    client::three_way_merge,
    protocol::{Problem, PushOp},
    service::apply_locally,
};

/// A write that can't go: the server refuses it, or it is too large for the way there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldWrite {
    /// Tells it from others of the document.
    pub id: u64,
    /// What was written, and on what.
    pub write: Pending,
    /// Why it can't go.
    pub problem: Problem,
    /// Whether it may have been stored all the same, by an earlier attempt; a fence finds out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_open: bool,
}

impl StateManager {
    /// How many writes of a document are held. Beyond them the oldest falls away; each was told when it was refused.
    pub const HELD_WRITES_MAX: usize = 10;
    /// How many bytes they have at most, with what they were made on, by [`Pending::len_bytes`]. Beyond them the oldest fall
    /// away as well; the last one stays, however large it is.
    pub const HELD_BYTES_MAX: usize = 64 << 20;

    /// The writes that can't go, oldest first. The view is without them.
    pub fn held(&self) -> impl ExactSizeIterator<Item = &HeldWrite> {
        self.held.iter()
    }

    /// What was polled last does not get through, as it is too large. `left`: it was sent on this connection, so that it may
    /// have got through all the same. Gives what it is held as.
    pub fn on_too_large(&mut self, problem: Problem, left: bool) -> Option<u64> {
        let Stage::Sent { again } = self.stage else { return None };
        self.stage = Stage::Waiting;
        self.hold_oldest(problem, left || again)
    }

    /// Lets go of a held write. `false` if there is no such one.
    pub fn drop_held(&mut self, id: u64) -> bool {
        let before = self.held.len();
        self.held.retain(|held| held.id != id);
        self.held.len() < before
    }

    /// Writes anew what was held, onto what the document is now; its values stand where they clash. `false` if there is no
    /// such one, or if it is not known yet whether it was stored.
    pub fn send_held(&mut self, id: u64, now_ms: u64) -> bool {
        let Some(held) = self.held.iter().find(|held| held.id == id && !held.is_open) else { return false };
        let Pending { op, base, base_version, .. } = held.write.clone();
        self.drop_held(id);
        let view = self.view();
        let mut then = view.clone();
        apply_locally(&op, &mut then);
        if base_version.is_none() && then != view {
            self.write(op, false, now_ms);
            return true;
        }
        // It was made on something else, or does not fit here any more.
        let mut mine = base.clone();
        apply_locally(&op, &mut mine);
        let merged = three_way_merge(&base, &view, &mine);
        if merged != view {
            let op = match merged {
                Value::Object(state) => PushOp::Replace { state },
                _ => PushOp::Delete,
            };
            self.write(op, true, now_ms);
        }
        true
    }

    /// The oldest write can't go: it leaves the view and is held, and those behind it go on.
    ///
    /// Where it is `open`, nobody has decided about its number: an attempt may have been stored, or be stored still. A later
    /// write under that number could then be taken for the repeat of this one, and be lost. So a fence takes the number
    /// first: a write that changes nothing, small enough for any way.
    pub(super) fn hold_oldest(&mut self, problem: Problem, open: bool) -> Option<u64> {
        if self.fence {
            return None;
        }
        let write = self.pending.pop_front()?;
        // Not of those that are left: who was told of one that is gone would drop another.
        let id = self.held_last.saturating_add(1);
        self.held_last = id;
        self.held.push_back(HeldWrite { id, write, problem, is_open: open });
        let mut bytes: usize = self.held.iter().map(|held| held.write.len_bytes()).sum();
        while self.held.len() > Self::HELD_WRITES_MAX || bytes > Self::HELD_BYTES_MAX && self.held.len() > 1 {
            bytes -= self.held.pop_front().map_or(0, |oldest| oldest.write.len_bytes());
        }
        (self.sent, self.fence, self.undecided) = (open, open, 0);
        Some(id)
    }

    /// What changes nothing, whatever else was written meanwhile.
    pub(super) fn fence_op(&self) -> (Option<u64>, PushOp) {
        match &self.confirmed {
            Value::Null => (Some(0), PushOp::Delete),
            _ => (None, PushOp::Merge { patch: serde_json::Map::new() }),
        }
    }

    /// The number of the held write belongs to none of its attempts: it was not stored and never will be.
    pub(super) fn close_held(&mut self) {
        self.fence = false;
        for held in &mut self.held {
            held.is_open = false;
        }
    }

    /// The number of the held write belongs to one of its attempts: it is held no more. `None` if it was dropped.
    pub(super) fn take_open(&mut self) -> Option<Pending> {
        self.fence = false;
        let at = self.held.iter().position(|held| held.is_open)?;
        self.held.remove(at).map(|held| held.write)
    }
}

#[cfg(test)]
mod tests {
    use crdt_core::ClientId;
    use nodestorage::DocumentId;
    use serde_json::json;

    use super::*;
    use crate::protocol::ProblemType;

    fn manager() -> StateManager {
        StateManager::new(DocumentId::new("d").unwrap(), ClientId::new("me").unwrap())
    }

    fn hold(manager: &mut StateManager, len: usize) {
        let state = json!({ "text": "x".repeat(len) }).as_object().unwrap().clone();
        manager.write(PushOp::Replace { state }, false, 0);
        assert!(manager.poll_push().is_some());
        let held = manager.on_too_large(Problem::new(ProblemType::TooLarge, "it is too large"), false);
        assert!(held.is_some());
    }

    #[test]
    fn the_oldest_that_are_held_give_way_to_more_bytes_than_may_be() {
        let mut manager = manager();
        let ids = |manager: &StateManager| manager.held().map(|held| held.id).collect::<Vec<_>>();
        let third = StateManager::HELD_BYTES_MAX / 3;
        for _ in 0..3 {
            hold(&mut manager, third - 100);
        }
        assert_eq!(ids(&manager), [1, 2, 3]);
        hold(&mut manager, 1000);
        assert_eq!(ids(&manager), [2, 3, 4]);
        hold(&mut manager, 2 * third);
        assert_eq!(ids(&manager), [4, 5]);
        // Somebody wrote it, and is told of it: it is not lost at once.
        hold(&mut manager, StateManager::HELD_BYTES_MAX + 1);
        assert_eq!(ids(&manager), [6]);
    }

    #[test]
    fn no_two_writes_are_held_under_one_id() {
        let mut manager = manager();
        hold(&mut manager, 1);
        assert!(manager.drop_held(1));
        hold(&mut manager, 2);
        assert!(!manager.drop_held(1), "who was told of the first one has this one left");
        assert!(manager.drop_held(2));
        let mut manager = StateManager::restore(ClientId::new("me").unwrap(), manager.to_record());
        hold(&mut manager, 3);
        assert_eq!(manager.held().map(|held| held.id).collect::<Vec<_>>(), [3]);
        // A record from before they were counted.
        let record = crate::client::ClientRecord { held_last: 0, ..manager.to_record() };
        let mut manager = StateManager::restore(ClientId::new("me").unwrap(), record);
        hold(&mut manager, 4);
        assert_eq!(manager.held().map(|held| held.id).collect::<Vec<_>>(), [3, 4]);
    }
}
