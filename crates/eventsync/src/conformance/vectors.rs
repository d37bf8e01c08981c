//! What clients have.

use std::sync::Arc;

use super::{Stores, client, id, vector, write};
use crate::{store::PageLimit, vectors::StateVectorManager};

fn managers(stores: &Stores) -> [Arc<StateVectorManager>; 2] {
    stores.handles().map(|shelf| Arc::new(StateVectorManager::new(shelf, stores.events())))
}

/// What comes late and says less takes nothing away.
pub async fn a_state_vector_only_grows(stores: Stores) {
    let [vectors, other] = managers(&stores);
    let (go, tab) = (id("go"), client("tab.1"));
    assert_eq!(vectors.get(&go, &tab).await.unwrap(), None);
    assert_eq!(vectors.register(&go, &tab, 3).await.unwrap().cursor, 0);
    vectors.update(&go, &tab, &vector(&[("p.1", 4), ("q", 2)]), 6, 5).await.unwrap();
    let kept = other.update(&go, &tab, &vector(&[("p.1", 3), ("r", 1)]), 2, 4).await.unwrap();
    assert_eq!(kept.vector_clock, vector(&[("p.1", 4), ("q", 2), ("r", 1)]));
    assert_eq!((kept.cursor, kept.last_updated), (6, 5));
    let kept = other.register(&go, &tab, 9).await.unwrap();
    assert_eq!((kept.cursor, kept.last_updated), (6, 9));
    assert_eq!(vectors.get(&go, &tab).await.unwrap(), Some(kept));
}

/// Two processes hear of one client at once, each of another part of what it has.
pub async fn a_state_vector_never_goes_back_under_two_processes(stores: Stores) {
    const TASKS: u64 = 8;
    const EACH: u64 = 12;
    let managers = managers(&stores);
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let vectors = Arc::clone(&managers[task as usize % 2]);
        tasks.spawn(async move {
            let (go, tab, name) = (id("go"), client("tab"), format!("p{task}"));
            for n in 1..=EACH {
                let before = vectors.get(&go, &tab).await.unwrap();
                let said = vector(&[(&name, n)]);
                let after = vectors.update(&go, &tab, &said, task + n * TASKS, n).await.unwrap();
                let Some(before) = before else { continue };
                assert!(after.vector_clock.contains(&before.vector_clock), "{before:?} became {after:?}");
                assert!(after.cursor >= before.cursor && after.last_updated >= before.last_updated);
            }
        });
    }
    tasks.join_all().await;
    let state = managers[1].get(&id("go"), &client("tab")).await.unwrap().unwrap();
    let said: Vec<_> = (0..TASKS).map(|task| (client(&format!("p{task}")), EACH)).collect();
    assert_eq!(state.vector_clock, said.into_iter().collect(), "what one process was told is lost");
    assert_eq!((state.cursor, state.last_updated), (TASKS - 1 + EACH * TASKS, EACH));
}

/// A stranger misses everything; a client only what it has not said.
pub async fn a_client_that_is_forgotten_is_a_stranger(stores: Stores) {
    for n in 1..=9 {
        write(&*stores.storage, "go", "p.1", n).await;
    }
    let [vectors, other] = managers(&stores);
    let (go, tab) = (id("go"), client("tab.1"));
    let missing = async |of: &StateVectorManager| {
        let page = of.missing_events(&go, &tab, PageLimit::STANDARD).await.unwrap();
        page.events.iter().map(|event| event.sequence_num()).collect::<Vec<_>>()
    };
    assert!(missing(&vectors).await.into_iter().eq(1..=9));
    vectors.update(&go, &tab, &vector(&[("p.1", 5)]), 2, 1).await.unwrap();
    assert_eq!(missing(&other).await, [6, 7, 8, 9]);
    vectors.update(&id("go 2"), &tab, &vector(&[]), 0, 1).await.unwrap();
    vectors.register(&go, &client("tab"), 1).await.unwrap();
    let clients = other.clients(&go, 9).await.unwrap();
    assert!(clients.iter().map(|state| state.client_id.as_str()).eq(["tab", "tab.1"]));
    assert_eq!(other.clients(&go, 1).await.unwrap().len(), 1);
    other.unregister(&go, &tab).await.unwrap();
    other.unregister(&go, &tab).await.unwrap();
    assert_eq!(vectors.get(&go, &tab).await.unwrap(), None);
    assert!(missing(&vectors).await.into_iter().eq(1..=9));
}

/// Counted with every so many newcomers, and never is it the newcomer itself that goes.
pub async fn a_document_forgets_the_client_that_was_silent_longest(stores: Stores) {
    let [vectors, _] = managers(&stores);
    let max = StateVectorManager::CLIENTS_PER_DOCUMENT_MAX as u64;
    let every = u64::from(StateVectorManager::COUNTED_EVERY);
    let register = async |number: u64, now_ms| {
        vectors.register(&id("go"), &client(&format!("c{number}")), now_ms).await.unwrap();
    };
    let count = async || vectors.clients(&id("go"), 9 * max as usize).await.unwrap().len() as u64;
    let all = (0..max).map(|number| register(number, if number == 7 { 1 } else { 100 + number }));
    futures_util::future::join_all(all).await;
    assert_eq!(count().await, max);
    for number in max..max + every {
        register(number, 0).await;
    }
    let left = count().await;
    assert!((max..max + every).contains(&left), "{left} are remembered");
    assert_eq!(vectors.get(&id("go"), &client("c7")).await.unwrap(), None);
    for number in max + every..max + 3 * every {
        register(number, 9_999).await;
    }
    assert!(count().await < max + every);
    let last = client(&format!("c{}", max + 3 * every - 1));
    assert!(vectors.get(&id("go"), &last).await.unwrap().is_some());
}
