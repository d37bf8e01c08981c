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
    current: watch::Sender<Option<BTreeSet<PeerId>>>,
    // Held across the wait for a change: there is one reader, the manager's task.
    reader: Mutex<Reader>,
}

#[derive(Debug)]
struct Reader {
    known: BTreeSet<PeerId>,
    current: watch::Receiver<Option<BTreeSet<PeerId>>>,
}

impl PeerSet {
    /// A set of nobody.
    pub fn new() -> Self {
        let (sender, receiver) = watch::channel(Some(BTreeSet::new()));
        Self { current: sender, reader: Mutex::new(Reader { known: BTreeSet::new(), current: receiver }) }
    }

    /// Says who is there. Returns whether the set is open.
    pub fn set(&self, peers: BTreeSet<PeerId>) -> bool {
        let mut open = false;
        self.current.send_if_modified(|current| {
            open = current.is_some();
            let changed = current.as_ref().is_some_and(|current| *current != peers);
            if changed {
                *current = Some(peers);
            }
            changed
        });
        open
    }

    /// Who is there, in the order of their names; `None` once closed.
    pub fn get(&self) -> Option<Vec<PeerId>> {
        self.current.borrow().as_ref().map(|peers| peers.iter().cloned().collect())
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
                let now = now.as_ref()?;
                let up = now.difference(known).next().cloned().map(PeerChange::Up);
                up.or_else(|| known.difference(now).next().cloned().map(PeerChange::Down))
            };
            match &change {
                Some(PeerChange::Up(peer)) => known.insert(peer.clone()),
                Some(PeerChange::Down(peer)) => known.remove(peer),
                None => {
                    current.changed().await.ok()?;
                    continue;
                }
            };
            return change;
        }
    }
}

impl Default for PeerSet {
    fn default() -> Self {
        Self::new()
    }
}
