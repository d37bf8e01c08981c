//! Losses that a reader of the code found, each as it would have happened.

use eventsync::ConflictResolver;
use serde_json::json;

use crate::world::{Client, Luck, Server, come_to_rest, go};

const RESOLVER: ConflictResolver = ConflictResolver::ServerWins;

async fn begin() -> (Server, Client) {
    let (server, mut client) = (Server::start().await, Client::new("c.0"));
    client.connect(&server);
    client.catch_up().await;
    (server, client)
}

/// Lets everything arrive, and checks that the log holds so many names, each at its place.
async fn ends_with(mut server: Server, mut client: Client, names: u64) {
    come_to_rest(std::slice::from_mut(&mut client), &mut server, &RESOLVER).await;
    let latest = server.service.latest(&go()).await.unwrap().value();
    let expect: Vec<String> = (1..=names).map(|n| format!("c.0:{n}")).collect();
    assert_eq!(latest["log"], json!(expect));
    assert_eq!(client.manager.view(), latest);
    assert_eq!((client.manager.unsent(), client.manager.pending().len(), client.conflicts), (0, 0, 0));
    server.service.close().await.unwrap();
}

#[tokio::test]
async fn a_write_that_stalled_keeps_its_number_from_the_next_one() {
    for heard_first in [false, true] {
        let (mut server, mut client) = begin().await;
        client.append(false, 1);
        client.talk(&mut server, &RESOLVER, Luck::Stalled).await;
        client.append(false, 2);
        server.recover(true).await;
        if heard_first {
            client.catch_up().await;
        }
        ends_with(server, client, 2).await;
    }
}

#[tokio::test]
async fn what_waits_is_sent_to_a_server_that_was_set_back_under_its_numbers() {
    let (mut server, mut client) = begin().await;
    let backup = server.taken.len();
    for now in 0..3 {
        client.merge(json!({ "n": now }), false, now);
    }
    come_to_rest(std::slice::from_mut(&mut client), &mut server, &RESOLVER).await;
    client.disconnect();
    for now in 3..6 {
        client.append(false, now);
    }
    server.restore(backup).await;
    client.restart();
    client.connect(&server);
    client.catch_up().await;
    ends_with(server, client, 3).await;
}

#[tokio::test]
async fn a_server_that_was_set_back_and_wrote_past_what_it_lost_is_followed_from_its_state() {
    for (lost, written, restarts) in [(3, 5, false), (3, 3, false), (1, 2, true), (4, 4, true)] {
        let (mut server, mut client) = begin().await;
        let backup = server.taken.len();
        for now in 0..lost {
            client.append(false, now);
        }
        come_to_rest(std::slice::from_mut(&mut client), &mut server, &RESOLVER).await;
        client.disconnect();
        // Kept over all of it.
        let unsent = [client.append(false, 10), client.append(false, 11)];
        server.restore(backup).await;
        let mut other = Client::new("c.1");
        other.connect(&server);
        other.catch_up().await;
        for now in 0..written {
            other.append(false, now);
        }
        come_to_rest(std::slice::from_mut(&mut other), &mut server, &RESOLVER).await;
        if restarts {
            client.restart();
        }
        let mut both = [client, other];
        both[0].connect(&server);
        come_to_rest(&mut both, &mut server, &RESOLVER).await;
        let latest = server.service.latest(&go()).await.unwrap().value();
        let others = (1..=written).map(|n| format!("c.1:{n}"));
        let expect: Vec<String> = others.chain(unsent).collect();
        assert_eq!(latest["log"], json!(expect), "{lost} lost, {written} written");
        for client in &both {
            assert_eq!((client.manager.view(), client.manager.pending().len()), (latest.clone(), 0));
        }
        server.service.close().await.unwrap();
    }
}

#[tokio::test]
async fn an_answered_write_whose_event_was_not_here_yet_outlives_the_backup() {
    let (mut server, mut client) = begin().await;
    let backup = server.taken.len();
    client.append(false, 1);
    client.talk(&mut server, &RESOLVER, Luck::Answered).await;
    assert_eq!(client.manager.unsent(), 0);
    client.disconnect();
    server.restore(backup).await;
    client.connect(&server);
    client.catch_up().await;
    ends_with(server, client, 1).await;
}

#[tokio::test]
async fn a_client_without_memory_goes_on_behind_its_earlier_life() {
    for answer in [Luck::Answered, Luck::Lost, Luck::Stalled] {
        let (mut server, mut client) = begin().await;
        client.append(false, 1);
        client.append(false, 2);
        // A number without an event.
        client.merge(json!({"name": "Go"}), false, 3);
        come_to_rest(std::slice::from_mut(&mut client), &mut server, &RESOLVER).await;
        client.forget();
        // Before it has heard anything.
        client.append(false, 4);
        client.connect(&server);
        client.catch_up().await;
        client.talk(&mut server, &RESOLVER, answer).await;
        client.disconnect();
        client.connect(&server);
        client.catch_up().await;
        client.append(false, 5);
        ends_with(server, client, 4).await;
    }
}

#[tokio::test]
async fn own_writes_on_one_state_do_not_break_each_others_guards() {
    for answer in [Luck::Answered, Luck::Lost] {
        let (mut server, mut client) = begin().await;
        client.disconnect();
        for now in 0..3 {
            client.append(true, now);
        }
        client.connect(&server);
        client.catch_up().await;
        // Answered or not, the event comes first.
        client.talk(&mut server, &RESOLVER, answer).await;
        client.connect(&server);
        client.catch_up().await;
        ends_with(server, client, 3).await;
    }
}

#[tokio::test]
async fn a_write_between_an_answer_and_its_event_has_seen_what_was_answered() {
    let (mut server, mut client) = begin().await;
    client.append(true, 1);
    client.talk(&mut server, &RESOLVER, Luck::Answered).await;
    client.append(true, 2);
    ends_with(server, client, 2).await;
}

#[tokio::test]
async fn a_guard_still_holds_against_others_between_own_writes() {
    let (mut server, mut client) = begin().await;
    client.append(false, 1);
    client.append(true, 2);
    let mut other = Client::new("c.1");
    other.connect(&server);
    other.catch_up().await;
    other.merge(json!({"other": 1}), false, 3);
    other.talk(&mut server, &RESOLVER, Luck::Answered).await;
    come_to_rest(std::slice::from_mut(&mut client), &mut server, &RESOLVER).await;
    // The first did not mind; the second was written on a document without the other's change.
    assert_eq!(client.conflicts, 1);
    assert_eq!(client.manager.view()["log"], json!(["c.0:1"]));
    server.service.close().await.unwrap();
}
