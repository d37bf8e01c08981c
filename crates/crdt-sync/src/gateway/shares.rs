//! What the clients of a gateway hold together of state vectors, counted: each alone is bounded, and so is their number, and the
//! product of the two is more than a machine has.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// The shares of all clients.
#[derive(Default)]
pub(super) struct Shares {
    // Held for a look or a change; never across an await.
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    entries: usize,
    clients: HashMap<u64, Client>,
    /// Numbers clients and their words.
    next: u64,
}

struct Client {
    entries: usize,
    /// The number of its last word.
    heard: u64,
    let_go: Arc<Notify>,
}

/// What one client holds; given back when it is dropped.
pub(super) struct Share<'a> {
    shares: &'a Shares,
    entries_max: usize,
    number: u64,
    entries: usize,
    let_go: Arc<Notify>,
}

impl Shares {
    fn held(&self) -> MutexGuard<'_, Held> {
        // Each holder makes one short change; none can leave it half done.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many entries all hold.
    pub(super) fn entries(&self) -> usize {
        self.held().entries
    }

    /// The share of a newcomer that is going to hold so many; `None` if all would hold more than the bound then.
    pub(super) fn enter(&self, entries: usize, entries_max: usize) -> Option<Share<'_>> {
        let mut held = self.held();
        if held.entries.saturating_add(entries) > entries_max {
            return None;
        }
        held.entries += entries;
        held.next += 1;
        let (number, let_go) = (held.next, Arc::new(Notify::new()));
        held.clients.insert(number, Client { entries, heard: number, let_go: Arc::clone(&let_go) });
        Some(Share { shares: self, entries_max, number, entries, let_go })
    }
}

impl Share<'_> {
    /// The client said something, and holds so many now. Returns whether there is room for that: a client that has more to tell than
    /// there is room for makes nobody else go.
    pub(super) fn said(&mut self, entries: usize) -> bool {
        let grown = entries > self.entries;
        let mut held = self.shares.held();
        held.next += 1;
        let heard = held.next;
        let is_there = held.set(self.number, entries, Some(heard));
        self.entries = entries;
        is_there && !(grown && held.entries > self.entries_max)
    }

    /// What the store holds came, and the client holds so many now. If that is more than there is room for, those go of whom
    /// nothing was heard for the longest time.
    pub(super) fn follows(&mut self, entries: usize) {
        if entries == self.entries {
            return;
        }
        let mut held = self.shares.held();
        held.set(self.number, entries, None);
        self.entries = entries;
        while held.entries > self.entries_max {
            let Some(longest) = held.clients.iter().min_by_key(|(_, client)| client.heard) else { return };
            let number = *longest.0;
            held.remove(number);
        }
    }

    /// Waits until this client has to go.
    pub(super) async fn let_go(&self) {
        self.let_go.notified().await;
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.shares.held().remove(self.number);
    }
}

impl Held {
    /// Returns whether the client has not been let go.
    fn set(&mut self, number: u64, entries: usize, heard: Option<u64>) -> bool {
        let Some(client) = self.clients.get_mut(&number) else { return false };
        self.entries = self.entries - client.entries + entries;
        client.entries = entries;
        client.heard = heard.unwrap_or(client.heard);
        true
    }

    fn remove(&mut self, number: u64) {
        if let Some(client) = self.clients.remove(&number) {
            self.entries -= client.entries;
            client.let_go.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn who_was_heard_longest_ago_makes_room_for_what_the_store_has() {
        let shares = Shares::default();
        let enter = || shares.enter(20, 64);
        let (mut first, mut second, mut third) = (enter().unwrap(), enter().unwrap(), enter().unwrap());
        assert!(enter().is_none(), "it would be more than all may hold");
        assert!(first.said(20));
        // The store has grown, which each of them sees in its turn: one going is enough.
        for share in [&mut first, &mut second, &mut third] {
            share.follows(22);
        }
        let gone = |share: &Share<'_>| share.let_go().now_or_never().is_some();
        assert_eq!([gone(&first), gone(&second), gone(&third)], [false, true, false]);
        assert_eq!(shares.entries(), 44);
        // Who has been let go says nothing more that counts, and gives nothing back twice.
        assert!(!second.said(30));
        drop(second);
        assert_eq!(shares.entries(), 44);
        drop((first, third));
        assert_eq!((shares.entries(), shares.held().clients.len()), (0, 0));
    }

    #[test]
    fn who_has_too_much_to_tell_makes_nobody_else_go() {
        let shares = Shares::default();
        let (mut quiet, mut loud) = (shares.enter(20, 50).unwrap(), shares.enter(20, 50).unwrap());
        assert!(loud.said(30));
        assert!(!loud.said(31));
        drop(loud);
        quiet.follows(50);
        assert!(quiet.let_go().now_or_never().is_none());
        assert_eq!(shares.entries(), 50);
    }
}
