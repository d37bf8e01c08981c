//! SPOT, as an application uses it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use spot::{
    SubscriptionOptions,
    cluster::{Arrival, Credentials, CurveKeys, Security, Spot, SpotOptions},
};

use super::quantiles;
use crate::{Job, cpu, report};

const PATIENCE: Duration = Duration::from_secs(10);

pub fn keys() -> (CurveKeys, CurveKeys) {
    (CurveKeys::from_secret([1; 32]), CurveKeys::from_secret([2; 32]))
}

fn spot(mode: &str) -> Spot {
    let mut options = SpotOptions { founding_only: mode == "seed", ..SpotOptions::standard() };
    options.inbox = SubscriptionOptions { messages_max: 1 << 16, bytes_max: 64 << 20 };
    if mode == "curve" {
        let (server, client) = keys();
        options.client = Security::CurveClient { keys: client, server: server.public };
        let authenticate = std::sync::Arc::new(|_: Credentials<'_>| Ok("bench".to_owned()));
        options.server = Security::CurveServer { keys: server, authenticate };
    }
    Spot::new(options)
}

async fn reach(node: &Spot, port: u16) {
    let at = format!("tcp://127.0.0.1:{port}");
    node.cluster_add(&at).await.unwrap();
}

/// Plays a role in a task of its own, as servers do.
pub fn run(runtime: &tokio::runtime::Runtime, job: Job, sends: bool) {
    runtime.block_on(async {
        let role = if sends { tokio::spawn(send(job)) } else { tokio::spawn(recv(job)) };
        role.await.expect("a role that is played to its end");
    });
}

async fn send(job: Job) {
    let Job { mode, size, count, receivers, port } = job;
    let node = spot(&mode);
    let payload = Bytes::from(vec![7; size]);
    match &*mode {
        // To the owner, from a node that does not own the topic.
        "seed" => {
            reach(&node, port).await;
            for _ in 0..count {
                node.publish("t", payload.clone()).await.unwrap();
            }
        }
        "rtt" => {
            node.topic_create("ping").unwrap();
            node.bind(&format!("tcp://127.0.0.1:{port}")).await.unwrap();
            while node.status().iter().all(|link| link.topics == 0 || link.subscriptions == 0) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let mut pong = node.listen(["pong"], SubscriptionOptions::STANDARD).unwrap();
            pong.wait_live("pong", PATIENCE).await.unwrap();
            while let Some(Arrival::Message { payload, .. }) = pong.recv().await {
                node.publish("ping", payload).await.unwrap();
            }
            return;
        }
        _ => {
            node.topic_create("t").unwrap();
            node.bind(&format!("tcp://127.0.0.1:{port}")).await.unwrap();
            while node.status().iter().filter(|link| link.subscriptions > 0).count() < receivers {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            for _ in 0..count {
                node.publish("t", payload.clone()).await.unwrap();
            }
        }
    }
    while node.status().iter().any(|link| link.queued_bytes > 0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("{}", cpu().as_micros());
    // Until the receiver has everything and goes.
    while !node.status().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn recv(job: Job) {
    let Job { mode, size, count, port, .. } = job;
    let node = spot(&mode);
    let bounds = SubscriptionOptions { messages_max: 1 << 16, bytes_max: 64 << 20 };
    if mode == "seed" {
        node.topic_create("t").unwrap();
        node.bind(&format!("tcp://127.0.0.1:{port}")).await.unwrap();
    } else {
        if mode == "rtt" {
            node.topic_create("pong").unwrap();
        }
        reach(&node, port).await;
    }
    if mode == "rtt" {
        let mut ping = node.listen(["ping"], bounds).unwrap();
        ping.wait_live("ping", PATIENCE).await.unwrap();
        while node.status().iter().all(|link| link.subscriptions == 0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let payload = Bytes::from(vec![7; size]);
        let mut times = Vec::new();
        for i in 0..count + 1000 {
            let began = Instant::now();
            node.publish("pong", payload.clone()).await.unwrap();
            ping.recv().await.unwrap();
            if i >= 1000 {
                times.push(began.elapsed());
            }
        }
        return quantiles(times);
    }
    let mut listening = node.listen(["t"], bounds).unwrap();
    let (mut received, mut began) = (0, None);
    let mut arrivals = Vec::new();
    while received < count {
        listening.recv_many(1024, &mut arrivals).await;
        began.get_or_insert_with(Instant::now);
        for arrival in arrivals.drain(..) {
            match arrival {
                Arrival::Message { payload, .. } => assert_eq!(payload.len(), size),
                other => panic!("{other:?}"),
            }
            received += 1;
        }
    }
    report(received, began.unwrap().elapsed());
}
