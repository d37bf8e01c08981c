//! A set of peers that tells one reader how it changes.

use std::collections::BTreeSet;

use tokio::sync::{Mutex, watch};

use super::PeerChange;
use crate::PeerId;

/// What implementations of [`PeerDiscovery`](super::PeerDiscovery) keep: who is there, and what of it the reader knows.
///
/// There is no queue of changes: a reader that is slow gets the difference to what it knows, however much has happened
/// in between.
#[derive(Debug)]
pub struct PeerSet {
    /// `None` once closed.
    current: watch::Sender<Option<Current>>,
    // Held across the wait for a change: there is one reader, the manager's task.
    reader: Mutex<Reader>,
}

#[derive(Debug, Default)]
struct Current {
    here: BTreeSet<PeerId>,
    /// Who said goodbye, until the reader has been told.
    left: BTreeSet<PeerId>,
}

#[derive(Debug)]
struct Reader {
    known: BTreeSet<PeerId>,
    current: watch::Receiver<Option<Current>>,
}

impl PeerSet {
    /// A set of nobody.
    pub fn new() -> Self {
        let (sender, receiver) = watch::channel(Some(Current::default()));
        Self { current: sender, reader: Mutex::new(Reader { known: BTreeSet::new(), current: receiver }) }
    }

    /// Says who is there. Returns whether the set is open.
    pub fn set(&self, peers: BTreeSet<PeerId>) -> bool {
        let mut open = false;
        self.current.send_if_modified(|current| {
            open = current.is_some();
            let Some(current) = current.as_mut().filter(|current| current.here != peers) else {
                return false;
            };
            current.left.retain(|peer| !peers.contains(peer));
            current.here = peers;
            true
        });
        open
    }

    /// Says that somebody is there no longer, and has said goodbye. The reader is told also of one that was never there: it may have
    /// been before this set was.
    pub fn leave(&self, peer: &PeerId) {
        self.current.send_if_modified(|current| {
            let Some(current) = current else { return false };
            current.here.remove(peer);
            current.left.insert(peer.clone())
        });
    }

    /// Who is there, in the order of their names; `None` once closed.
    pub fn get(&self) -> Option<Vec<PeerId>> {
        self.current.borrow().as_ref().map(|current| current.here.iter().cloned().collect())
    }

    /// Ends [`next`](Self::next).
    pub fn close(&self) {
        self.current.send_replace(None);
    }

    /// Waits until someone comes or goes. Cancel-safe.
    pub async fn next(&self) -> Option<PeerChange> {
        let Reader { known, current } = &mut *self.reader.lock().await;
        loop {
            let change = {
                let now = current.borrow_and_update();
                let Current { here, left } = now.as_ref()?;
                let up = here.difference(known).next().cloned().map(PeerChange::Up);
                let gone = |peer: &PeerId| match left.contains(peer) {
                    true => PeerChange::Left(peer.clone()),
                    false => PeerChange::Down(peer.clone()),
                };
                let unseen = || left.difference(here).next().cloned().map(PeerChange::Left);
                up.or_else(|| known.difference(here).next().map(gone)).or_else(unseen)
            };
            match &change {
                Some(PeerChange::Up(peer)) => known.insert(peer.clone()),
                Some(PeerChange::Down(peer)) => known.remove(peer),
                Some(PeerChange::Left(peer)) => {
                    self.forget_left(peer);
                    known.remove(peer)
                }
                None => {
                    current.changed().await.ok()?;
                    continue;
                }
            };
            return change;
        }
    }

    /// The reader is told that this one has left.
    fn forget_left(&self, peer: &PeerId) {
        self.current.send_if_modified(|current| {
            if let Some(current) = current {
                current.left.remove(peer);
            }
            false
        });
    }
}

impl Default for PeerSet {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn who_says_goodbye_has_left_and_who_is_only_gone_is_down() {
        let (set, id) = (PeerSet::new(), |name: &str| PeerId::new(name).unwrap());
        set.set(["a", "b", "c"].map(id).into());
        let mut told = Vec::new();
        let read = |told: &mut Vec<_>| {
            while let Some(change) = set.next().now_or_never() {
                told.push(change.unwrap());
            }
        };
        read(&mut told);
        told.clear();
        set.leave(&id("a"));
        set.leave(&id("never seen"));
        set.set([id("c")].into());
        read(&mut told);
        let left = |name: &str| PeerChange::Left(id(name));
        assert_eq!(told, [left("a"), PeerChange::Down(id("b")), left("never seen")]);
        // A goodbye holds for one going.
        told.clear();
        set.set(["a", "c"].map(id).into());
        read(&mut told);
        set.set([id("c")].into());
        read(&mut told);
        assert_eq!(told, [PeerChange::Up(id("a")), PeerChange::Down(id("a"))]);
        assert!(set.current.borrow().as_ref().unwrap().left.is_empty());
    }
}
