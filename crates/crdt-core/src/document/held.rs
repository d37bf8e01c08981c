//! Where a document's store lies: its own, or shared with its copies until one of them is edited.
//!
//! Reading goes through to the store in either case. Writing makes a shared store the document's own first: it is copied,
//! or just taken if the others are gone by then. So an edit of a document that shares nothing costs one comparison, and no
//! copy can be edited through another. A store that was loaded is made ready by its first edit in the same place, and one
//! that still lies in its snapshot is read by whoever looks at it first.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use smallvec::SmallVec;

use super::{sessions::Sessions, store::Store, unindexed::Rows, unread::Unread};
use crate::Value;

/// A store, and who else has it.
#[derive(Debug, Clone)]
pub(super) enum Held {
    Own(Box<Store>),
    /// Its own, as it was loaded: whoever changes it first has its [index](Store::index) made.
    Loaded(Box<Store>),
    Shared(Arc<Store>, Switches),
    /// As it lies in its snapshot, with all copies.
    Unread(Arc<Unread>, Switches),
}

/// The sessions that a copy was given to, one after the other, since it shares its store. The store itself is told when it is
/// the copy's own.
pub(super) type Switches = SmallVec<[Switch; 1]>;

/// A document went from one session to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Switch {
    /// The next one.
    to: u64,
    /// The last time that had been used by then.
    last: u64,
}

/// Who is given to more sessions than this without an edit gets a store of its own.
const SWITCHES_MAX: usize = 8;

impl Held {
    pub(super) fn new(store: Store) -> Self {
        Self::Own(Box::new(store))
    }

    pub(super) fn unread(unread: Unread) -> Self {
        Self::Unread(Arc::new(unread), Switches::new())
    }

    /// The store, which is nobody else's.
    pub(super) fn into_own(self) -> Store {
        match self {
            Self::Own(store) | Self::Loaded(store) => *store,
            Self::Shared(store, _) => Arc::unwrap_or_clone(store),
            Self::Unread(unread, _) => match Arc::try_unwrap(unread) {
                Ok(unread) => unread.into_store(),
                // The others need not read it again.
                Err(unread) => unread.store().clone(),
            },
        }
    }

    /// The view of the document, if its snapshot shows it.
    pub(super) fn view_unread(&self) -> Option<Value> {
        match self {
            Self::Unread(unread, _) => unread.view(),
            _ => None,
        }
    }

    /// All sessions, without reading a snapshot for that.
    #[inline]
    pub(super) fn sessions(&self) -> &Sessions {
        match self {
            Self::Unread(unread, _) => unread.sessions(),
            _ => &self.sessions,
        }
    }

    /// Bytes that it takes, roughly.
    pub(super) fn size_bytes(&self) -> usize {
        match self {
            Self::Unread(unread, _) => unread.size_bytes(),
            _ => Store::size_bytes(self),
        }
    }

    /// From now on copies have the same store.
    pub(super) fn share(&mut self) {
        if let Self::Own(store) | Self::Loaded(store) = self {
            let store = std::mem::take(store);
            *self = Self::Shared(Arc::new(*store), Switches::new());
        }
    }

    /// Leaves a store without an index until it is changed: its nodes stand in some rows.
    pub(super) fn wait(&mut self, rows: Rows) {
        if let Self::Own(store) = self {
            store.rows = Some(rows);
            *self = Self::Loaded(std::mem::take(store));
        }
    }

    #[inline]
    pub(super) const fn is_shared(&self) -> bool {
        matches!(self, Self::Shared(..) | Self::Unread(..))
    }

    /// The store, if it is nobody else's: for the fast ways, which leave everything unusual to others.
    #[inline(always)]
    pub(super) fn own(&mut self) -> Option<&mut Store> {
        match self {
            Self::Own(store) => {
                store.typing = None;
                Some(store)
            }
            Self::Loaded(_) | Self::Shared(..) | Self::Unread(..) => None,
        }
    }

    /// The store, if it is nobody else's, for who types on: it goes on to know [that](Store::typing).
    #[inline(always)]
    pub(super) fn typing(&mut self) -> Option<&mut Store> {
        match self {
            Self::Own(store) => Some(store),
            Self::Loaded(_) | Self::Shared(..) | Self::Unread(..) => None,
        }
    }

    /// Whether both are the same store.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unread(one, _), Self::Unread(other, _)) => Arc::ptr_eq(one, other),
            (Self::Unread(..), _) | (_, Self::Unread(..)) => false,
            _ => std::ptr::eq::<Store>(&**self, &**other),
        }
    }

    /// The store, where it is not the document's own. Apart, so that all others pay for a comparison alone.
    #[cold]
    #[inline(never)]
    fn elsewhere(&self) -> &Store {
        match self {
            Self::Own(store) | Self::Loaded(store) => store,
            Self::Shared(store, _) => store,
            Self::Unread(unread, _) => unread.store(),
        }
    }

    #[cold]
    #[inline(never)]
    fn make_own(&mut self) -> &mut Store {
        if let Self::Loaded(store) = self {
            store.index();
            *self = Self::Own(std::mem::take(store));
        } else if self.is_shared() {
            let shared = std::mem::replace(self, Self::Own(Box::default()));
            let switches = SmallVec::<[Switch; 1]>::from_slice(shared.switches());
            let mut own = shared.into_own();
            for switch in switches {
                own.sessions.switch(switch.to, switch.last);
            }
            own.index();
            *self = Self::new(own);
        }
        &mut *self
    }

    /// Goes on as another session; `last` is the last time that was used.
    pub(super) fn switch(&mut self, sid: u64, last: u64) {
        match self {
            Self::Shared(_, switches) | Self::Unread(_, switches) if switches.len() < SWITCHES_MAX => {
                switches.push(Switch { to: sid, last });
            }
            Self::Loaded(store) => store.sessions.switch(sid, last),
            _ => self.sessions.switch(sid, last),
        }
    }

    #[inline]
    fn switches(&self) -> &[Switch] {
        match self {
            Self::Own(_) | Self::Loaded(_) => &[],
            Self::Shared(_, switches) | Self::Unread(_, switches) => switches,
        }
    }

    /// The session that the document is edited by.
    #[inline]
    pub(super) fn own_sid(&self) -> u64 {
        match self.switches().last() {
            Some(switch) => switch.to,
            None => self.sessions().sid_at(self.sessions().own),
        }
    }

    /// The last time at which that session made something; 0 for none.
    #[inline]
    pub(super) fn made(&self) -> u64 {
        match self.switches().last() {
            Some(switch) => self.seen_of_left(switch.to).unwrap_or(0),
            None => self.sessions().made,
        }
    }

    /// The last time seen of a session, the own one included, even if it made nothing.
    #[inline]
    pub(super) fn seen(&self, sid: u64) -> Option<u64> {
        if !self.switches().is_empty() {
            return self.seen_late(sid);
        }
        let sessions = self.sessions();
        sessions.seen_or_made(sessions.get(sid)?)
    }

    #[cold]
    fn seen_late(&self, sid: u64) -> Option<u64> {
        if sid == self.own_sid() { Some(self.made()) } else { self.seen_of_left(sid) }
    }

    fn seen_of_left(&self, sid: u64) -> Option<u64> {
        let sessions = self.sessions();
        sessions.get(sid).and_then(|at| sessions.seen_of_any(at))
    }

    /// The sessions that were left since the store is shared, with the last time that had been used by then.
    fn left(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let first = self.sessions().sid_at(self.sessions().own);
        let before = std::iter::once(first).chain(self.switches().iter().map(|switch| switch.to));
        before.zip(self.switches()).map(|(sid, switch)| (sid, switch.last))
    }

    /// The other sessions with the last time seen of each, in the order in which they were seen first or left. Of one that
    /// was left that is the last time that had been used by then.
    pub(super) fn peers(&self) -> Vec<(u64, u64)> {
        let (own, sessions) = (self.own_sid(), self.sessions());
        let mut sids: Vec<u64> = sessions.peers.iter().map(|&peer| sessions.sid_at(peer)).collect();
        for (sid, _) in self.left() {
            if !sids.contains(&sid) {
                sids.push(sid);
            }
        }
        let time = |sid| {
            let left = self.left().filter(|&(left, _)| left == sid).map(|(_, last)| last).max();
            let before = sessions.get(sid).and_then(|at| sessions.left_at(at));
            self.seen_of_left(sid).max(before).max(left).unwrap_or(0)
        };
        sids.into_iter().filter(|&sid| sid != own).map(|sid| (sid, time(sid))).collect()
    }

    /// All sessions in the order of their numbers, each with the last time seen of it; `None` for one that was only named.
    pub(super) fn all_seen(&self) -> impl ExactSizeIterator<Item = (u64, Option<u64>)> + '_ {
        // Who was given a shared store has made nothing since.
        let sessions = self.sessions();
        sessions.sids().enumerate().map(|(at, sid)| (sid, sessions.seen_of_any(at as u32)))
    }
}

impl Deref for Held {
    type Target = Store;

    #[inline(always)]
    fn deref(&self) -> &Store {
        match self {
            Self::Own(store) | Self::Loaded(store) => store,
            Self::Shared(..) | Self::Unread(..) => self.elsewhere(),
        }
    }
}

impl DerefMut for Held {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Store {
        match self {
            Self::Own(store) => {
                store.typing = None;
                store
            }
            Self::Loaded(_) | Self::Shared(..) | Self::Unread(..) => self.make_own(),
        }
    }
}
