//! The sessions that a document knows, and their nodes.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use smallvec::SmallVec;

use super::{sequence::Sids, time_index::TimeIndex};

/// The most sessions in one document.
pub(super) const SESSIONS_MAX: usize = (1 << 24) - 1;

/// What a session made.
#[derive(Debug, Clone, Default)]
pub(super) struct Session {
    /// From the time of a node's id to the node.
    pub(super) nodes: TimeIndex,
}

/// Who a session is and what has been seen of it: what every patch asks for, four to a line of memory.
#[derive(Debug, Clone, Copy)]
struct Row {
    sid: u64,
    /// [`UNSEEN`](Self::UNSEEN) if it was only named.
    seen: u64,
}

impl Row {
    /// No time is so large.
    const UNSEEN: u64 = u64::MAX;

    fn seen(self) -> Option<u64> {
        (self.seen != Self::UNSEEN).then_some(self.seen)
    }
}

/// All sessions of a document, in the order in which they were named first. The document's own is one of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Sessions {
    rows: Vec<Row>,
    list: Vec<Session>,
    /// From an id to the session's place. Used from the [`LISTED`](Self::LISTED)th session on.
    by_sid: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// The peers in the order in which something of theirs was seen first, or in which they were left.
    pub(super) peers: Vec<u32>,
    /// The sessions that were the own one, with the last time that was used when they were left, by whomever: one in each
    /// document that was forked, which then needs no memory of its own.
    left: SmallVec<[(u32, u64); 1]>,
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
        if self.rows.get(self.last as usize).is_some_and(|row| row.sid == sid) {
            return Some(self.last);
        }
        if self.rows.len() <= Self::LISTED {
            return self.rows.iter().position(|row| row.sid == sid).map(|at| at as u32);
        }
        let hash = self.hasher.hash_one(sid);
        self.by_sid.find(hash, |&at| self.rows[at as usize].sid == sid).copied()
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
        let at = self.rows.len() as u32;
        self.rows.push(Row { sid, seen: Row::UNSEEN });
        self.list.push(Session::default());
        if self.rows.len() > Self::LISTED {
            let Self { rows, by_sid, hasher, .. } = self;
            let hash = |&at: &u32| hasher.hash_one(rows[at as usize].sid);
            // All that were found by looking at each come with the first one that is not.
            let from = if by_sid.is_empty() { 0 } else { at };
            (from..=at).for_each(|at| _ = by_sid.insert_unique(hash(&at), at, hash));
        }
        self.last = at;
        at
    }

    /// The public id of a session.
    #[inline]
    pub(super) fn sid_at(&self, session: u32) -> u64 {
        self.rows[session as usize].sid
    }

    pub(super) fn at(&self, session: u32) -> &Session {
        &self.list[session as usize]
    }

    pub(super) fn at_mut(&mut self, session: u32) -> &mut Session {
        &mut self.list[session as usize]
    }

    /// The last time seen of a session; `None` if it was only named. (Of the own one [`made`](Self::made) tells.)
    #[inline]
    pub(super) fn seen(&self, session: u32) -> Option<u64> {
        self.rows[session as usize].seen()
    }

    /// The last time seen of a session, the own one included, even if it made nothing.
    #[inline]
    pub(super) fn seen_or_made(&self, session: u32) -> Option<u64> {
        if session == self.own { Some(self.made) } else { self.seen(session) }
    }

    /// The last time seen of a session, the own one included if it made something.
    pub(super) fn seen_of_any(&self, session: u32) -> Option<u64> {
        let made = Some(self.made).filter(|&made| session == self.own && made > 0);
        made.max(self.seen(session))
    }

    /// Notes the last time seen of a session of which something was seen before.
    #[inline]
    pub(super) fn go_on(&mut self, session: u32, time: u64) {
        self.rows[session as usize].seen = time;
    }

    /// Notes the last time seen of another session.
    pub(super) fn observe(&mut self, session: u32, time: u64) {
        let row = &mut self.rows[session as usize];
        if let Some(seen) = row.seen() {
            row.seen = time.max(seen);
        } else {
            row.seen = time;
            if self.left_at(session).is_none() {
                self.peers.push(session);
            }
        }
    }

    /// Takes back what was noted of other sessions.
    pub(super) fn forget(&mut self, sessions: &[u32]) {
        sessions.iter().for_each(|&session| self.rows[session as usize].seen = Row::UNSEEN);
        let Self { rows, peers, .. } = self;
        peers.retain(|&peer| rows[peer as usize].seen().is_some());
    }

    /// The document is edited by another session from now on; `last` is the last time that was used. Of the one before, no
    /// more was seen than it made.
    pub(super) fn switch(&mut self, sid: u64, last: u64) {
        let (before, made) = (self.own, self.made);
        self.own = self.enter(sid);
        if self.own == before {
            return;
        }
        if made > 0 {
            self.observe(before, made);
        }
        match self.left.iter_mut().find(|left| left.0 == before) {
            Some(left) => left.1 = left.1.max(last),
            None => {
                if self.seen(before).is_none() {
                    self.peers.push(before);
                }
                self.left.push((before, last));
            }
        }
        self.made = self.seen(self.own).unwrap_or(0);
    }

    /// The last time that was used when a session was left.
    pub(super) fn left_at(&self, session: u32) -> Option<u64> {
        self.left.iter().find(|left| left.0 == session).map(|left| left.1)
    }

    /// All sessions.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Session> {
        self.list.iter()
    }

    /// The ids of all sessions.
    pub(super) fn sids(&self) -> impl ExactSizeIterator<Item = u64> + '_ {
        self.rows.iter().map(|row| row.sid)
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether each session is there once and is found, and the clock is above what was seen.
    pub(super) fn check(&self, time: u64) -> Result<(), String> {
        if self.rows.len() != self.list.len() || self.own as usize >= self.rows.len() {
            return Err("a session without a row".to_owned());
        }
        for (at, row) in (0..).zip(&self.rows) {
            if self.get(row.sid) != Some(at) {
                return Err(format!("session {} is there twice or not found", row.sid));
            }
            if self.seen_of_any(at).is_some_and(|seen| seen >= time) {
                return Err(format!("what was seen of {} is above the clock", row.sid));
            }
        }
        let mut peers: Vec<u32> = self.peers.clone();
        peers.sort_unstable();
        if !peers.is_sorted_by(|a, b| a < b) || peers.last().is_some_and(|&at| at as usize >= self.rows.len())
        {
            return Err("a peer that is there twice or is no session".to_owned());
        }
        Ok(())
    }

    /// Bytes that they take, roughly.
    pub(super) fn size_bytes(&self) -> usize {
        let nodes: usize = self.list.iter().map(|session| session.nodes.size_bytes()).sum();
        let left = if self.left.spilled() { self.left.len() * size_of::<(u32, u64)>() } else { 0 };
        self.list.len() * (size_of::<Row>() + size_of::<Session>()) + left + nodes
    }
}

impl Sids for Sessions {
    fn sid(&self, session: u32) -> u64 {
        self.sid_at(session)
    }
}
