//! State managers against the service: offline, online, conflicts, a server that stalls or goes back to its backup. All
//! agree in the end, and each write counts once.

mod held;
mod reported;
mod world;

use std::collections::BTreeSet;

use eventsync::ConflictResolver;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use world::{Client, Luck, Server, come_to_rest, counted, go, names};

/// What a run is about.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    /// Nobody minds the others: every single write is there in the end.
    Free,
    /// All write on what they see only; the resolver decides.
    Contested,
    /// One writes on what it sees, with nobody to conflict with; the others watch.
    Alone,
}

fn resolver(number: u64) -> ConflictResolver {
    match number % 4 {
        0 => ConflictResolver::ServerWins,
        1 => ConflictResolver::ClientWins,
        2 => ConflictResolver::ThreeWayMerge,
        _ => ConflictResolver::LastWriterWins,
    }
}

fn write(client: &mut Client, kind: Kind, rng: &mut StdRng, now: u64, owed: &mut BTreeSet<String>) {
    let guarded = kind != Kind::Free;
    if rng.random_bool(0.1) {
        // Changes nothing, and is counted all the same.
        client.merge(json!({"name": "Go"}), guarded, now);
    } else if kind == Kind::Contested {
        client.counter += 1;
        let (id, counter) = (client.id.as_str().to_owned(), client.counter);
        client.merge(json!({ id.as_str(): counter, "last": id }), guarded, now);
        assert_eq!(client.manager.view()["last"].as_str().is_some(), client.manager.version() > 0);
    } else {
        owed.insert(client.append(guarded, now));
    }
}

async fn run(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let resolver = resolver(seed);
    let kind = [Kind::Contested, Kind::Free, Kind::Alone][seed as usize % 3];
    let mut server = Server::start().await;
    let mut clients: Vec<Client> = (0..3).map(|n| Client::new(&format!("c.{n}"))).collect();
    // The names that must be in the log in the end.
    let mut owed = BTreeSet::new();
    for step in 0..200 {
        let number = rng.random_range(0..clients.len());
        let client = &mut clients[number];
        match rng.random_range(0..100) {
            // Alone is who writes on what it has seen.
            0..25 if kind != Kind::Alone || (number == 0 && client.manager.version() > 0) => {
                write(client, kind, &mut rng, step, &mut owed);
            }
            0..50 => _ = client.listen(),
            50..72 => {
                let luck = [Luck::Answered, Luck::Answered, Luck::Answered, Luck::Lost, Luck::Stalled];
                client.talk(&mut server, &resolver, luck[rng.random_range(0..luck.len())]).await;
            }
            72..80 => client.disconnect(),
            80..88 => {
                client.disconnect();
                client.connect(&server);
            }
            88..94 => server.recover(rng.random_bool(0.8)).await,
            94..97 => client.restart(),
            97 if kind != Kind::Alone => {
                // What it had not sent goes with its memory; what is on its way arrives first or never.
                let unsent = client.unsent();
                owed.retain(|name| !unsent.contains(name));
                server.recover_all().await;
                client.forget();
            }
            98 if kind != Kind::Alone => {
                let backup = rng.random_range(1..=server.taken.len());
                let mut safe: BTreeSet<_> =
                    server.taken[..backup].iter().flat_map(|(_, push, _)| names(&push.op)).collect();
                safe.extend(clients.iter().flat_map(Client::unsent));
                owed.retain(|name| safe.contains(name));
                server.restore(backup).await;
                // All hear of it before anybody writes.
                for client in &mut clients {
                    client.disconnect();
                    client.connect(&server);
                    client.catch_up().await;
                }
            }
            _ => {}
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
    for client in &clients {
        assert_eq!(client.manager.version(), latest.version);
        assert_eq!(client.manager.pending().count(), 0);
        assert_eq!(client.manager.view(), latest.value(), "the view is the store's");
        assert_eq!(*client.manager.state_vector(), latest.state_vector);
        assert!(kind == Kind::Contested || client.conflicts == 0, "nobody was faster");
    }
    let counted = counted(&latest.value());
    let missing: Vec<_> = owed.iter().filter(|name| !counted.contains_key(*name)).collect();
    assert!(missing.is_empty(), "every write counts: {missing:?} of {owed:?}");
    assert!(counted.values().all(|count| *count == 1), "each write counts once: {counted:?}");
    server.service.close().await.unwrap();
}

#[test]
fn clients_agree_in_the_end_and_each_write_counts_once() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if let Ok(seed) = std::env::var("WEFT_SEED") {
        return runtime().block_on(run(seed.parse().expect("WEFT_SEED is a number")));
    }
    for seed in 0..240 {
        if let Err(panic) = std::panic::catch_unwind(|| runtime().block_on(run(seed))) {
            eprintln!("failed with WEFT_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
