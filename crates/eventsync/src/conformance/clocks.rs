//! What documents contain, remembered.

use std::sync::Arc;

use super::{Stores, id, vector, write};
use crate::{
    DefaultVectorClockManager, DocumentClock, Event, PageLimit, PersistentVectorClockManager,
    VectorClockManager, shelf::Shelf,
};

type Persistent = PersistentVectorClockManager<Arc<dyn Shelf>>;

async fn written(stores: &Stores, count: u64) -> Vec<Event> {
    for n in 1..=count {
        write(&*stores.storage, "go", "p.1", n).await;
    }
    stores.events().events_after(&id("go"), 0, PageLimit::STANDARD).await.unwrap().events
}

fn clock(version: u64) -> DocumentClock {
    DocumentClock { version, vector: vector(&[("p.1", version)]), timestamp: Some(version) }
}

/// The clock at an event.
fn at(event: &Event) -> DocumentClock {
    DocumentClock { timestamp: Some(event.timestamp()), ..clock(event.sequence_num()) }
}

/// One that comes twice, or before its turn, is left alone.
pub async fn a_clock_counts_only_the_next_event(stores: Stores) {
    let events = written(&stores, 3).await;
    let managers: [&dyn VectorClockManager; 2] =
        [&DefaultVectorClockManager::new(), &Persistent::new(Arc::clone(&stores.shelf))];
    for clocks in managers {
        assert_eq!(clocks.get_vector_clock(&id("go")).await.unwrap(), DocumentClock::default());
        for (event, version) in [(2, 0), (0, 1), (2, 1), (0, 1), (1, 2), (2, 3)] {
            clocks.update_vector_clock(&events[event]).await.unwrap();
            assert_eq!(clocks.get_vector_clock(&id("go")).await.unwrap().version, version);
        }
        assert_eq!(clocks.get_vector_clock(&id("go")).await.unwrap(), at(&events[2]));
        clocks.learn(&id("go"), &clock(2)).await.unwrap();
        assert_eq!(clocks.get_vector_clock(&id("go")).await.unwrap(), at(&events[2]));
        clocks.learn(&id("go"), &clock(9)).await.unwrap();
        assert_eq!(clocks.get_vector_clock(&id("go")).await.unwrap(), clock(9));
    }
}

/// Written every so many events; the next manager goes on from there.
pub async fn a_clock_outlives_its_manager(stores: Stores) {
    let every = Persistent::WRITTEN_EVERY;
    let events = written(&stores, every + 3).await;
    let clocks = Persistent::new(Arc::clone(&stores.shelf));
    for event in &events {
        clocks.update_vector_clock(event).await.unwrap();
    }
    let next = Persistent::new(Arc::clone(&stores.other));
    let (kept, last) = (&events[usize::try_from(every).unwrap() - 1], events.last().unwrap());
    assert_eq!(next.get_vector_clock(&id("go")).await.unwrap(), at(kept));
    for event in &events {
        next.update_vector_clock(event).await.unwrap();
    }
    assert_eq!(next.get_vector_clock(&id("go")).await.unwrap(), at(last));
    assert_eq!(next.get_vector_clock(&id("other")).await.unwrap(), DocumentClock::default());
}

/// A process that lags writes its clock after one that is ahead.
pub async fn a_written_clock_never_goes_back(stores: Stores) {
    let every = Persistent::WRITTEN_EVERY;
    let [behind, ahead] = stores.handles().map(Persistent::new);
    behind.learn(&id("go"), &clock(1)).await.unwrap();
    ahead.learn(&id("go"), &clock(3 * every)).await.unwrap();
    behind.learn(&id("go"), &clock(2 * every)).await.unwrap();
    let next = Persistent::new(stores.shelf);
    assert_eq!(next.get_vector_clock(&id("go")).await.unwrap(), clock(3 * every));
}
