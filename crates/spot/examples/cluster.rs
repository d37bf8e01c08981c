//! The two-node and three-node set-ups of the founding document, in one process over TCP.
//!
//! `cargo run -p spot --example cluster`

use std::time::Duration;

use spot::{
    Spot, SpotOptions,
    cluster::{Arrival, SpotError},
};

const PATIENCE: Duration = Duration::from_secs(5);

async fn node(topics: &[&str]) -> Result<(Spot, String), SpotError> {
    let node = Spot::new(SpotOptions::standard());
    let endpoint = node.bind("tcp://127.0.0.1:*").await?;
    for topic in topics {
        node.topic_create(topic)?;
    }
    Ok((node, endpoint))
}

fn show(name: &str, node: &Spot) {
    println!("{name} knows:");
    for info in node.list_topics() {
        println!("  {} ({:?})", info.topic, info.origin);
    }
}

async fn next(name: &str, node: &Spot) -> Result<String, SpotError> {
    let said = match node.recv_timeout(PATIENCE).await? {
        Arrival::Message { topic, payload } => {
            format!("{name} received on {topic}: {}", payload.escape_ascii())
        }
        // Never silently: here nothing is lost, but a program has to know what it would do.
        lost => format!("{name} has missed something: {lost:?}"),
    };
    println!("{said}");
    Ok(said)
}

pub(crate) async fn two_nodes() -> Result<Vec<String>, SpotError> {
    let (a, at_a) = node(&["game:player1", "game:score"]).await?;
    let (b, at_b) = node(&["chat:room1", "chat:lobby"]).await?;
    a.cluster_add(&at_b).await?;
    b.cluster_add(&at_a).await?;
    for answer in a.cluster_sync(PATIENCE).await?.answered {
        println!("A is synchronised with {}, which owns {} topics", answer.peer, answer.topics);
    }
    show("A", &a);
    show("B", &b);

    a.subscribe("chat:room1")?;
    a.wait_live("chat:room1", PATIENCE).await?;
    b.publish("chat:room1", "hello from the owner").await?;
    let first = next("A", &a).await?;
    a.publish("chat:room1", "hello through the owner").await?;
    Ok(vec![first, next("A", &a).await?])
}

pub(crate) async fn three_nodes() -> Result<Vec<String>, SpotError> {
    let all = [("A", node(&["a"]).await?), ("B", node(&["b"]).await?), ("C", node(&["c"]).await?)];
    for (_, (node, own)) in &all {
        for (_, (_, other)) in all.iter().filter(|(_, (_, other))| other != own) {
            node.cluster_add(other).await?;
        }
        node.cluster_sync(PATIENCE).await?;
    }
    let [(_, (a, _)), (_, (b, _)), (_, (c, _))] = &all;
    show("A", a);
    for node in [a, b] {
        node.subscribe("c")?;
        node.wait_live("c", PATIENCE).await?;
    }
    let report = c.publish("c", "hello to all").await?;
    println!("C's message is on its way to {} nodes", report.queued);
    Ok(vec![next("A", a).await?, next("B", b).await?])
}

#[tokio::main]
async fn main() -> Result<(), SpotError> {
    two_nodes().await?;
    three_nodes().await?;
    Ok(())
}
