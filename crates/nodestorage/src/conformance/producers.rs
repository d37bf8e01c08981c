//! Producers that count their writes, and repeat them when they got no answer.

use super::*;
use crate::{Deleted, StorageError};

/// The answer to a repeat is the first answer, whatever happened since and whatever it asks for now.
pub async fn a_repeated_write_gets_the_first_answer(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    let game = || body(json!({"gold": 1}));
    games.find_one_and_upsert(&id("a"), game(), counted("p", 1)).await.unwrap();
    set(&games, "a", ("gold", json!(2)), counted("p", 2)).await;
    set(&games, "a", ("gold", json!(3)), counted("q", 1)).await;
    let now = games.find_one(&id("a")).await.unwrap();
    assert_eq!(now.as_ref().unwrap().version, 3);
    assert_eq!(
        games.find_one_and_upsert(&id("a"), game(), counted("p", 1)).await.unwrap(),
        Upserted::Repeated { version: 1, document: now.clone() }
    );
    assert_eq!(
        set(&games, "a", ("gold", json!(2)), counted("p", 2)).await,
        Edited::Repeated { version: 2, document: now.clone() }
    );
    assert_eq!(games.delete_one(&id("a"), counted("q", 1)).await.unwrap(), Deleted::Repeated { version: 3 });
    assert_eq!(games.find_one(&id("a")).await.unwrap(), now);
    assert_eq!(games.position().await.unwrap(), 3);
}

/// Also while the first answer's change is on its way to wherever the store keeps its history.
pub async fn a_write_repeated_at_once_gets_the_first_answer(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    for game in 0..12 {
        let game = format!("game {game}");
        for sequence in 1..=4 {
            let edit = body(json!({"gold": sequence}));
            if sequence == 1 {
                games.find_one_and_upsert(&id(&game), edit, counted("p", sequence)).await.unwrap();
            } else {
                set(&games, &game, ("gold", json!(sequence)), counted("p", sequence)).await;
            }
        }
        for sequence in [3, 2] {
            let repeated = set(&games, &game, ("gold", json!(0)), counted("p", sequence)).await;
            let answered = matches!(repeated, Edited::Repeated { version, .. } if version == sequence);
            assert!(answered, "{game}, sequence {sequence}: {repeated:?}");
        }
    }
}

/// "Unchanged", "existing" and "absent" are answers too.
pub async fn a_repeat_of_a_write_without_effect_has_no_effect(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    assert_eq!(games.delete_one(&id("a"), counted("p", 1)).await.unwrap(), Deleted::Absent);
    create(&games, "a", json!({"gold": 1})).await;
    assert_eq!(games.delete_one(&id("a"), counted("p", 1)).await.unwrap(), Deleted::Repeated { version: 0 });
    let unchanged = set(&games, "a", ("gold", json!(1)), counted("p", 2)).await;
    assert!(matches!(unchanged, Edited::Unchanged { .. }));
    set(&games, "a", ("gold", json!(5)), plain()).await;
    let repeated = set(&games, "a", ("gold", json!(1)), counted("p", 2)).await;
    assert!(matches!(repeated, Edited::Repeated { version: 1, document: Some(d) } if d.version == 2));
    let existing = games.find_one_and_upsert(&id("a"), Body::new(), counted("p", 3)).await.unwrap();
    assert!(matches!(existing, Upserted::Existing { .. }));
    let repeated = games.find_one_and_upsert(&id("a"), Body::new(), counted("p", 3)).await.unwrap();
    assert!(matches!(repeated, Upserted::Repeated { version: 2, .. }));
}

/// A gap would mean that a write was lost on the way.
pub async fn a_gap_in_a_producers_sequence_is_refused(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    create(&games, "a", json!({})).await;
    let refused = games.delete_one(&id("a"), counted("p", 2)).await.unwrap_err();
    assert!(matches!(refused, StorageError::SequenceGap { last: 0, actual: 2 }), "{refused:?}");
    let refused = games.delete_one(&id("a"), counted("p", 0)).await.unwrap_err();
    assert!(matches!(refused, StorageError::SequenceGap { last: 0, actual: 0 }), "{refused:?}");
    assert!(games.find_one(&id("a")).await.unwrap().is_some());
}

/// An error leaves the sequence free for the next attempt.
pub async fn a_refused_write_uses_no_sequence(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    create(&games, "a", json!({"gold": 1})).await;
    let stale = EditOptions { expected_version: Some(9), ..counted("p", 1) };
    assert!(games.delete_one(&id("a"), stale).await.is_err());
    assert!(games.edit(&id("a"), |_| Err("no"), counted("p", 1)).await.is_err());
    assert!(games.edit(&id("b"), |_| Ok::<_, std::fmt::Error>(()), counted("p", 1)).await.is_err());
    let changed = set(&games, "a", ("gold", json!(2)), counted("p", 1)).await;
    assert!(matches!(changed, Edited::Changed { .. }));
}

/// The storage counts for those who do not.
pub async fn writes_of_an_uncounted_producer_are_numbered(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    create(&games, "a", json!({})).await;
    set(&games, "a", ("x", json!(1)), counted("p", 1)).await;
    increment(&games, "a").await;
    set(&games, "a", ("n", json!(1)), plain()).await; // changes nothing, takes no number
    increment(&games, "a").await;
    let changes = games.changes(&id("a"), 0, 9).await.unwrap().changes;
    let numbers: Vec<_> =
        changes.iter().map(|c| (c.producer.client_id.as_str(), c.producer.sequence.unwrap())).collect();
    assert_eq!(numbers, [("server", 1), ("p", 1), ("server", 2), ("server", 3)]);
}

/// The vector of a document.
pub async fn producers_lists_the_last_sequence_of_each(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    assert!(games.producers(&id("a")).await.unwrap().is_empty());
    create(&games, "a", json!({})).await;
    create(&games, "ab", json!({})).await;
    for (who, sequence) in [("p.1", 1), ("p.1", 2), ("p", 1), ("é", 1), ("p.1", 3)] {
        set(&games, "a", ("by", json!([who, sequence])), counted(who, sequence)).await;
    }
    let lasts = [("server", 1), ("p.1", 3), ("p", 1), ("é", 1)].map(|(who, last)| (client(who), last));
    let vector = crdt_core::StateVector::from_iter(lasts);
    assert_eq!(games.producers(&id("a")).await.unwrap(), vector);
    // Compaction forgets answers, never where a producer stands.
    games.remove_changes(&id("a"), 6).await.unwrap();
    assert_eq!(games.producers(&id("a")).await.unwrap(), vector);
    let repeated = set(&games, "a", ("by", json!(0)), counted("p.1", 1)).await;
    assert!(matches!(repeated, Edited::Repeated { version: 6, .. }), "{repeated:?}");
    let repeated = set(&games, "a", ("by", json!(0)), counted("p", 1)).await;
    assert!(matches!(repeated, Edited::Repeated { version: 4, .. }), "{repeated:?}");
}

/// A delete is remembered by its producer's sequence, also when the document has come back.
pub async fn answers_outlive_a_delete(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    create(&games, "a", json!({})).await;
    games.delete_one(&id("a"), counted("p", 1)).await.unwrap();
    create(&games, "a", json!({"again": true})).await;
    let repeated = games.delete_one(&id("a"), counted("p", 1)).await.unwrap();
    assert_eq!(repeated, Deleted::Repeated { version: 2 });
    assert!(games.find_one(&id("a")).await.unwrap().is_some());
    // Its next delete is another one.
    let deleted = games.delete_one(&id("a"), counted("p", 2)).await.unwrap();
    assert!(matches!(deleted, Deleted::Deleted { .. }));
}
