//! What the store holds, followed once for all clients.

use std::collections::VecDeque;

use crdt_core::{SessionId, StateVector};

use super::client::ClientInput;
use crate::{PatchStore, SyncError};

/// How many of the last growths are remembered, for clients that were busy; who missed more compares everything.
const GROWTHS_MAX: u64 = 64;

/// What the store holds, and how that has grown: found once for all clients, which may be a thousand, as the sessions may be
/// ten thousand.
#[derive(Default)]
pub(super) struct Stored {
    /// The manager's count when it was looked at; `None` before the first time.
    count: Option<u64>,
    vector: StateVector<SessionId>,
    /// The number of the next growth.
    next: u64,
    growths: VecDeque<StateVector<SessionId>>,
}

impl Stored {
    /// What the store holds now that the manager counts so many; and where the growths go on from there.
    pub(super) async fn at(
        &mut self,
        store: &dyn PatchStore,
        count: u64,
    ) -> Result<(&StateVector<SessionId>, u64), SyncError> {
        if self.count.is_none_or(|looked| looked < count) {
            let vector = store.vector().await?;
            let grown = self.vector.missing_from(&vector).map(|(sid, _, last)| (*sid, last)).collect();
            if self.growths.len() as u64 == GROWTHS_MAX {
                self.growths.pop_front();
            }
            self.growths.push_back(grown);
            self.next += 1;
            (self.vector, self.count) = (vector, Some(count));
        }
        Ok((&self.vector, self.next))
    }

    /// What a client has to be told that has seen the growths before `seen`.
    pub(super) async fn since(
        &mut self,
        store: &dyn PatchStore,
        count: u64,
        seen: &mut u64,
    ) -> Result<ClientInput, SyncError> {
        let (_, next) = self.at(store, count).await?;
        let missed = next - std::mem::replace(seen, next);
        let Some(from) = (self.growths.len() as u64).checked_sub(missed) else {
            return Ok(ClientInput::Stored(self.vector.clone()));
        };
        let mut grown = StateVector::new();
        self.growths.range(from as usize..).for_each(|growth| grown.merge(growth));
        Ok(ClientInput::Grown(grown))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use crdt_core::PatchBuilder;

    use super::*;
    use crate::{MemoryPatchStore, PatchRecord};

    #[tokio::test]
    async fn growths_are_found_once_and_told_to_each_who_missed_them() {
        let store = MemoryPatchStore::new();
        let sid = |number| SessionId::new(SessionId::USER_MIN.get() + number).unwrap();
        let append = async |session: u64, time: u64| {
            let mut builder = PatchBuilder::new(sid(session), time);
            builder.new_str();
            let patch = Bytes::copy_from_slice(builder.finish().unwrap().as_bytes());
            store.append(&[PatchRecord::new(time - 1, patch).unwrap()]).await.unwrap();
        };
        let grown = |entries: &[(u64, u64)]| -> StateVector<SessionId> {
            entries.iter().map(|(number, last)| (sid(*number), *last)).collect()
        };
        let mut stored = Stored::default();
        append(1, 1).await;
        let (vector, mut quick) = stored.at(&store, 0).await.unwrap();
        assert_eq!(*vector, grown(&[(1, 1)]));
        let mut slow = quick;
        for count in 1..=3 {
            append(2, count).await;
            let news = stored.since(&store, count, &mut quick).await.unwrap();
            assert!(matches!(news, ClientInput::Grown(new) if new == grown(&[(2, count)])));
        }
        let news = stored.since(&store, 3, &mut slow).await.unwrap();
        assert!(matches!(news, ClientInput::Grown(new) if new == grown(&[(2, 3)])));
        let news = stored.since(&store, 3, &mut slow).await.unwrap();
        assert!(matches!(news, ClientInput::Grown(new) if new.is_empty()));
        for count in 4..=3 + GROWTHS_MAX + 1 {
            append(3, count - 3).await;
            stored.since(&store, count, &mut quick).await.unwrap();
        }
        assert_eq!(stored.growths.len() as u64, GROWTHS_MAX);
        let news = stored.since(&store, 0, &mut slow).await.unwrap();
        let all = grown(&[(1, 1), (2, 3), (3, GROWTHS_MAX + 1)]);
        assert!(matches!(news, ClientInput::Stored(new) if new == all));
    }
}
