//! The sessions that a document knows, and their nodes.

use hashbrown::HashMap;

use super::{sequence::Sids, time_index::TimeIndex};

/// The most sessions in one document.
pub(super) const SESSIONS_MAX: usize = (1 << 24) - 1;

/// A session's nodes and what has been seen of it.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) sid: u64,
    /// The last time seen of it; `None` if it was only named.
    pub(super) seen: Option<u64>,
    /// From the time of a node's id to the node.
    pub(super) nodes: TimeIndex,
}

/// All sessions of a document, in the order in which they were named first. The document's own is one of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Sessions {
    list: Vec<Session>,
    /// The id of each, side by side for the search.
    sids: Vec<u64>,
    /// Used from the [`LISTED`](Self::LISTED)th session on.
    by_sid: HashMap<u64, u32>,
    /// The peers in the order in which something of theirs was seen first.
    pub(super) peers: Vec<u32>,
    /// The document's own session.
    pub(super) own: u32,
    /// The last time at which the own session made something; 0 for none.
    pub(super) made: u64,
    /// The session that was asked for last.
    last: u32,
}

impl Sessions {
    /// So few are found by looking at each.
    const LISTED: usize = 8;

    #[inline]
    pub(super) fn get(&self, sid: u64) -> Option<u32> {
        if self.sids.get(self.last as usize) == Some(&sid) {
            return Some(self.last);
        }
        if self.sids.len() <= Self::LISTED {
            return self.sids.iter().position(|&at| at == sid).map(|at| at as u32);
        }
        self.by_sid.get(&sid).copied()
    }

    /// [`get`](Self::get), and remembers it for the next time.
    #[inline]
    pub(super) fn look_up(&mut self, sid: u64) -> Option<u32> {
        let found = self.get(sid)?;
        self.last = found;
        Some(found)
    }

    /// The place of a session, a new one if need be.
    pub(super) fn enter(&mut self, sid: u64) -> u32 {
        if let Some(at) = self.get(sid) {
            self.last = at;
            return at;
        }
        let at = self.list.len() as u32;
        self.sids.push(sid);
        self.list.push(Session { sid, seen: None, nodes: TimeIndex::default() });
        if self.list.len() > Self::LISTED {
            if self.by_sid.is_empty() {
                self.by_sid.extend(self.list.iter().zip(0..).map(|(session, at)| (session.sid, at)));
            }
            self.by_sid.insert(sid, at);
        }
        self.last = at;
        at
    }

    /// The public id of a session.
    #[inline]
    pub(super) fn sid_at(&self, session: u32) -> u64 {
        self.sids[session as usize]
    }

    pub(super) fn at(&self, session: u32) -> &Session {
        &self.list[session as usize]
    }

    pub(super) fn at_mut(&mut self, session: u32) -> &mut Session {
        &mut self.list[session as usize]
    }

    /// Notes the last time seen of another session.
    pub(super) fn observe(&mut self, session: u32, time: u64) {
        let entry = &mut self.list[session as usize];
        match &mut entry.seen {
            Some(seen) => *seen = time.max(*seen),
            seen => {
                *seen = Some(time);
                self.peers.push(session);
            }
        }
    }

    /// The document is edited by another session from now on; `last` is the last time that was used.
    pub(super) fn switch(&mut self, sid: u64, last: u64) {
        let before = self.own;
        self.own = self.enter(sid);
        if self.own != before {
            self.observe(before, last);
            self.made = self.at(self.own).seen.unwrap_or(0);
        }
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Session> {
        self.list.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }
}

impl Sids for Sessions {
    fn sid(&self, session: u32) -> u64 {
        self.sid_at(session)
    }
}
