//! What the store holds, followed once for all clients: read the first time, and told by the manager from then on.

use std::{
    collections::VecDeque,
    future::Future,
    sync::atomic::{AtomicU64, Ordering},
};

use crdt_core::{SessionId, StateVector};
use tokio::sync::{Mutex, MutexGuard};

use super::client::ClientInput;
use crate::{PatchStoreError, SharedError, SyncError};

/// How many of the last growths are remembered, for clients that were busy; who missed more compares everything.
const GROWTHS_MAX: u64 = 64;

/// What the store holds, and how that has grown: found once for all clients, which may be a thousand, as the sessions may be
/// ten thousand.
#[derive(Default)]
pub(super) struct Growths {
    // Held while the store is asked: by whichever client sees first that it has grown, for all of them.
    stored: Mutex<Stored>,
    /// How many looks at the store have failed: whoever waited for one of them hears of it, instead of trying the same for as
    /// long, one after the other.
    failures: AtomicU64,
}

#[derive(Default)]
struct Stored {
    /// The manager's count when it was looked at; `None` before the first time.
    count: Option<u64>,
    vector: StateVector<SessionId>,
    /// The number of the next growth.
    next: u64,
    growths: VecDeque<StateVector<SessionId>>,
    /// Why the last look failed, if it did.
    failed: Option<SharedError>,
}

impl Growths {
    /// What the store holds now that the manager counts so many; and where the growths go on from there. `told` says what came
    /// since another count, and that of now; where it does not know, `read` asks the store.
    pub(super) async fn at<Reading: Future<Output = Result<StateVector<SessionId>, PatchStoreError>>>(
        &self,
        count: u64,
        told: impl FnOnce(u64) -> Option<(u64, StateVector<SessionId>)>,
        read: impl FnOnce() -> Reading,
    ) -> Result<(StateVector<SessionId>, u64), SyncError> {
        let stored = self.look(count, told, read).await?;
        Ok((stored.vector.clone(), stored.next))
    }

    /// What a client has to be told that has seen the growths before `seen`.
    pub(super) async fn since<Reading: Future<Output = Result<StateVector<SessionId>, PatchStoreError>>>(
        &self,
        count: u64,
        told: impl FnOnce(u64) -> Option<(u64, StateVector<SessionId>)>,
        read: impl FnOnce() -> Reading,
        seen: &mut u64,
    ) -> Result<ClientInput, SyncError> {
        Ok(self.look(count, told, read).await?.since(seen))
    }

    async fn look<Reading: Future<Output = Result<StateVector<SessionId>, PatchStoreError>>>(
        &self,
        count: u64,
        told: impl FnOnce(u64) -> Option<(u64, StateVector<SessionId>)>,
        read: impl FnOnce() -> Reading,
    ) -> Result<MutexGuard<'_, Stored>, SyncError> {
        let before = self.failures.load(Ordering::Relaxed);
        let mut stored = self.stored.lock().await;
        if stored.count.is_some_and(|looked| looked >= count) {
            return Ok(stored);
        }
        if let Some((count, grown)) = stored.count.and_then(told) {
            stored.rise(grown, count);
            return Ok(stored);
        }
        if let Some(error) = &stored.failed
            && self.failures.load(Ordering::Relaxed) != before
        {
            return Err(PatchStoreError::Backend(error.clone()).into());
        }
        match read().await {
            Ok(vector) => stored.grow(vector, count),
            Err(error) => {
                stored.failed = Some(SharedError::new(error.to_string()));
                self.failures.fetch_add(1, Ordering::Relaxed);
                return Err(error.into());
            }
        }
        Ok(stored)
    }
}

impl Stored {
    /// The store has been read.
    fn grow(&mut self, vector: StateVector<SessionId>, count: u64) {
        let grown = self.vector.missing_from(&vector).map(|(sid, _, last)| (*sid, last)).collect();
        self.vector = vector;
        self.note(grown, count);
    }

    /// It is told what came.
    fn rise(&mut self, grown: StateVector<SessionId>, count: u64) {
        let is_news = |(sid, last): &(&SessionId, u64)| self.vector.get(*sid) < *last;
        let grown: StateVector<SessionId> =
            grown.iter().filter(is_news).map(|(sid, last)| (*sid, last)).collect();
        for (sid, last) in grown.iter() {
            self.vector.advance(*sid, last);
        }
        self.note(grown, count);
    }

    fn note(&mut self, grown: StateVector<SessionId>, count: u64) {
        if self.growths.len() as u64 == GROWTHS_MAX {
            self.growths.pop_front();
        }
        self.growths.push_back(grown);
        self.next += 1;
        (self.count, self.failed) = (Some(count), None);
    }

    fn since(&self, seen: &mut u64) -> ClientInput {
        let missed = self.next - std::mem::replace(seen, self.next);
        let Some(from) = (self.growths.len() as u64).checked_sub(missed) else {
            return ClientInput::Stored(self.vector.clone());
        };
        let mut grown = StateVector::new();
        self.growths.range(from as usize..).for_each(|growth| grown.merge(growth));
        ClientInput::Grown(grown)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use crdt_core::PatchBuilder;
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::{MemoryPatchStore, PatchRecord, PatchStore as _};

    const fn no_word(_: u64) -> Option<(u64, StateVector<SessionId>)> {
        None
    }

    /// At each patch a look at the store would cost as much as it has sessions.
    #[tokio::test]
    async fn the_store_is_read_once_where_the_manager_tells_what_came() {
        let sid = |number| SessionId::new(SessionId::USER_MIN.get() + number).unwrap();
        let one = |number, last| -> StateVector<SessionId> { [(sid(number), last)].into_iter().collect() };
        let (growths, read) = (Growths::default(), || async { Ok(one(1, 5)) });
        let never = || async { panic!("it is told") };
        let (mut vector, mut seen) = growths.at(3, no_word, read).await.unwrap();
        // What was read already is told once more.
        let told = |since| (since == 3).then(|| (4, one(1, 5)));
        let news = growths.since(4, told, never, &mut seen).await.unwrap();
        assert!(matches!(news, ClientInput::Grown(new) if new.is_empty()));
        let told = |since| (since == 4).then(|| (6, one(2, 7)));
        let news = growths.since(5, told, never, &mut seen).await.unwrap();
        assert!(matches!(news, ClientInput::Grown(new) if new == one(2, 7)));
        vector.merge(&one(2, 7));
        assert_eq!(growths.at(6, |_| panic!("it has been"), never).await.unwrap().0, vector);
    }

    /// A store that does not answer lets a thousand windows wait for as long as one.
    #[tokio::test(start_paused = true)]
    async fn one_failing_look_is_waited_for_by_all_together() {
        #[expect(clippy::disallowed_methods, reason = "it is paused: this is how long was waited")]
        let (growths, began) = (Growths::default(), Instant::now());
        let slow = |answer: Result<(), &'static str>| async move {
            sleep(Duration::from_secs(5)).await;
            answer.map(|()| StateVector::new()).map_err(|why| PatchStoreError::Backend(SharedError::new(why)))
        };
        let clients = (0..20).map(|_| growths.at(1, no_word, || slow(Err("no answer"))));
        for heard in futures_util::future::join_all(clients).await {
            assert!(heard.unwrap_err().to_string().contains("no answer"));
        }
        assert_eq!(began.elapsed(), Duration::from_secs(5));
        // Whoever comes after that asks anew, and so does who comes after an answer.
        assert!(
            growths
                .at(1, no_word, || slow(Err("still none")))
                .await
                .unwrap_err()
                .to_string()
                .contains("still none")
        );
        growths.at(1, no_word, || slow(Ok(()))).await.unwrap();
        growths.at(1, no_word, || async { panic!("it is known") }).await.unwrap();
        assert_eq!(began.elapsed(), Duration::from_secs(15));
    }

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
        let stored = Growths::default();
        let read = || store.vector();
        append(1, 1).await;
        let (vector, mut quick) = stored.at(0, no_word, read).await.unwrap();
        assert_eq!(vector, grown(&[(1, 1)]));
        let mut slow = quick;
        for count in 1..=3 {
            append(2, count).await;
            let news = stored.since(count, no_word, read, &mut quick).await.unwrap();
            assert!(matches!(news, ClientInput::Grown(new) if new == grown(&[(2, count)])));
        }
        let news = stored.since(3, no_word, read, &mut slow).await.unwrap();
        assert!(matches!(news, ClientInput::Grown(new) if new == grown(&[(2, 3)])));
        let news = stored.since(3, no_word, read, &mut slow).await.unwrap();
        assert!(matches!(news, ClientInput::Grown(new) if new.is_empty()));
        for count in 4..=3 + GROWTHS_MAX + 1 {
            append(3, count - 3).await;
            stored.since(count, no_word, read, &mut quick).await.unwrap();
        }
        assert_eq!(stored.stored.lock().await.growths.len() as u64, GROWTHS_MAX);
        let news = stored.since(0, no_word, read, &mut slow).await.unwrap();
        let all = grown(&[(1, 1), (2, 3), (3, GROWTHS_MAX + 1)]);
        assert!(matches!(news, ClientInput::Stored(new) if new == all));
    }
}
