//! What became durable here, told to those who follow the store.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crdt_core::{SessionId, StateVector};
use tokio::sync::watch;

/// How many of the last growths are remembered; who missed more looks at the store.
const LATELY_MAX: usize = 256;

/// Counts how often something became durable, and remembers what that was: a look at the store would cost as much as it has
/// sessions, at each patch.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) count: watch::Sender<u64>,
    /// The driver writes it, and whoever follows reads it. Held for a look, and while the count goes up.
    lately: Arc<Mutex<VecDeque<StateVector<SessionId>>>>,
}

impl Told {
    pub(super) fn new() -> Self {
        Self { count: watch::Sender::new(0), lately: Arc::default() }
    }

    fn lately(&self) -> MutexGuard<'_, VecDeque<StateVector<SessionId>>> {
        self.lately.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store has grown by this.
    pub(super) fn tell(&self, grown: StateVector<SessionId>) {
        let mut lately = self.lately();
        if self.count.receiver_count() == 0 {
            // Nobody follows, and most documents are idle: they hold nothing.
            lately.clear();
        } else {
            if lately.len() == LATELY_MAX {
                lately.pop_front();
            }
            lately.push_back(grown);
        }
        self.count.send_modify(|count| *count += 1);
    }

    /// A snapshot was put in place: there may be more than is told.
    pub(super) fn tell_all(&self) {
        let mut lately = self.lately();
        lately.clear();
        self.count.send_modify(|count| *count += 1);
    }

    /// By what the store has grown since there was that count, and the count of now; `None` if that is not known any more.
    pub(super) fn since(&self, before: u64) -> Option<(u64, StateVector<SessionId>)> {
        let lately = self.lately();
        let count = *self.count.borrow();
        let from = lately.len().checked_sub(usize::try_from(count.checked_sub(before)?).ok()?)?;
        let mut grown = StateVector::new();
        lately.range(from..).for_each(|growth| grown.merge(growth));
        Some((count, grown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_grown_lately_is_known() {
        let grown =
            |last: u64| -> StateVector<SessionId> { [(SessionId::USER_MIN, last)].into_iter().collect() };
        let told = Told::new();
        assert_eq!(told.since(0), Some((0, StateVector::new())));
        told.tell(grown(1));
        assert_eq!(told.since(0), None, "nobody followed");
        let _follower = told.count.subscribe();
        (2..=300).for_each(|last| told.tell(grown(last)));
        assert_eq!(told.since(300), Some((300, StateVector::new())));
        assert_eq!(told.since(298), Some((300, grown(300))));
        assert_eq!(told.since(44), Some((300, grown(300))));
        assert_eq!((told.since(43), told.since(301)), (None, None), "longer ago, or not yet");
        told.tell_all();
        assert_eq!((told.since(300), told.since(301)), (None, Some((301, StateVector::new()))));
    }
}
