//! Ways that are too narrow for some writes, now and then: each write is stored once or held, never both and never neither.

use std::collections::BTreeSet;

use eventsync::{ConflictResolver, StateManager};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::world::{Client, Luck, Server, come_to_rest, counted, go, names};

fn held(client: &Client) -> Vec<(u64, bool, String)> {
    let held = client.manager.held();
    held.map(|held| (held.id, held.is_open, names(&held.write.op).concat())).collect()
}

/// Gives how many were held in the end.
async fn run(seed: u64) -> usize {
    let mut rng = StdRng::seed_from_u64(seed);
    let resolver = ConflictResolver::ClientWins;
    let mut server = Server::start().await;
    let mut clients: Vec<Client> = (0..2).map(|n| Client::new(&format!("c.{n}"))).collect();
    let (mut owed, mut dropped) = (BTreeSet::new(), BTreeSet::new());
    for step in 0..300 {
        let client = &mut clients[rng.random_range(0..2)];
        match rng.random_range(0..100) {
            // Somebody who has the document in view.
            0..20 if client.manager.version() > 0 => _ = owed.insert(client.append(false, step)),
            0..45 => _ = client.listen(),
            45..75 => {
                let narrow = client.manager.held().len() < StateManager::HELD_WRITES_MAX;
                let luck = match rng.random_range(0..10) {
                    0 => Luck::Lost,
                    1 => Luck::Stalled,
                    2 | 3 if narrow => Luck::TooLarge { stalls: rng.random_bool(0.5) },
                    _ => Luck::Answered,
                };
                client.talk(&mut server, &resolver, luck).await;
            }
            75..88 => {
                client.disconnect();
                client.connect(&server);
            }
            88..93 => server.recover(rng.random_bool(0.7)).await,
            93..96 => client.restart(),
            _ => {
                let held = held(client);
                if held.is_empty() {
                    continue;
                }
                let (id, is_open, name) = held[rng.random_range(0..held.len())].clone();
                if rng.random_bool(0.5) {
                    assert_eq!(
                        client.manager.send_held(id, step),
                        !is_open,
                        "once it is known that it is not stored"
                    );
                } else {
                    assert!(client.manager.drop_held(id));
                    owed.remove(&name);
                    // An attempt that was let go of may have got through.
                    dropped.insert(name);
                }
            }
        }
        tokio::task::yield_now().await;
    }
    server.recover_all().await;
    for client in &mut clients {
        client.disconnect();
        client.connect(&server);
    }
    come_to_rest(&mut clients, &mut server, &resolver).await;
    let latest = server.service.latest(&go()).await.unwrap();
    let counted = counted(&latest.value());
    let held: Vec<_> = clients.iter().flat_map(held).collect();
    for name in &owed {
        let is_held = held.iter().filter(|(.., held)| held == name).count();
        assert_eq!(counted.get(name).copied().unwrap_or(0) + is_held, 1, "{name}: held {is_held} times");
    }
    assert!(counted.keys().all(|name| owed.contains(name) || dropped.contains(name)), "{counted:?}");
    assert!(counted.values().all(|count| *count == 1), "{counted:?}");
    for client in &clients {
        assert_eq!((client.manager.unsent(), client.manager.view()), (0, latest.value()));
        assert!(client.manager.held().all(|held| !held.is_open));
    }
    server.service.close().await.unwrap();
    held.len()
}

#[test]
fn on_ways_that_are_too_narrow_each_write_is_stored_once_or_held() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut held = 0;
    for seed in 0..150 {
        match std::panic::catch_unwind(|| runtime().block_on(run(seed))) {
            Ok(count) => held += count,
            Err(panic) => {
                eprintln!("failed with seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(held > 100, "something was held: {held}");
}
