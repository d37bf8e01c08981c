//! Floods from somebody who shook hands and then went mad: memory stays bounded, and the others are served.

#[path = "support/peer.rs"]
mod peer;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use peer::shake_hands;
use spot::cluster::{
    Arrival, NodeId, Spot, SpotOptions,
    command::{Command, Hello},
    record::{DataHeader, Kind, put_define},
    zmtp::Encoder,
};
use tokio::io::AsyncWriteExt;

const PATIENCE: Duration = Duration::from_secs(20);
/// What a flood may cost the node, and this process that sends it.
const MEMORY_MAX: usize = 128 << 20;

/// Memory of this process that is in use; none where the system does not tell.
fn resident_bytes() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<usize>().ok()? << 10)
}

fn hello(n: u32) -> Command<'static> {
    let endpoints = vec![(NodeId(9), format!("tcp://127.0.0.1:{}", n % 1000 + 1))];
    Command::Hello(Hello { version: 2, node: NodeId(9), incarnation: 1, heartbeat_ms: 1000, endpoints })
}

fn define(n: u32) -> Command<'static> {
    let mut body = BytesMut::new();
    put_define(&mut body, n + 1, Kind::Open, 1, 1, &format!("flood/{n}"));
    body.extend_from_slice(DataHeader::new(n + 1, 1).as_bytes());
    body.extend_from_slice(b"x");
    Command::Batch(body.freeze())
}

/// One flood of at most `count` messages; whether the node closed the connection in the middle of it.
async fn flood(what: &str, count: u32, message: impl Fn(u32) -> Bytes) -> bool {
    let mut options = SpotOptions::standard();
    options.node.gossip_allow = Some(std::sync::Arc::new(|_: &str| false));
    let node = Spot::new(options);
    let at = node.bind("tcp://127.0.0.1:0").await.unwrap();
    for n in 0..100 {
        node.topic_create(&format!("topic {n}")).unwrap();
    }
    let honest = Spot::new(SpotOptions::standard());
    honest.cluster_add(&at).await.unwrap();
    honest.subscribe("topic 0").unwrap();
    honest.wait_live("topic 0", PATIENCE).await.unwrap();

    let before = resident_bytes();
    let mut stream = shake_hands(&at, true).await;
    let mut first = BytesMut::new();
    hello(0).put(&mut first, false);
    stream.write_all(&first).await.unwrap();
    let mut closed = false;
    for (heard, from) in (0..).zip((0..count).step_by(1000)) {
        let many: Vec<Bytes> = (from..from + 1000).map(&message).collect();
        // Who does not read is stopped by the node, or closed.
        match tokio::time::timeout(Duration::from_secs(2), stream.write_all(&many.concat())).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => closed = true,
            Err(_) => break,
        }
        node.publish("topic 0", u32::to_le_bytes(heard).to_vec()).await.unwrap();
        match honest.recv_timeout(PATIENCE).await.unwrap() {
            Arrival::Message { payload, .. } => assert_eq!(payload, u32::to_le_bytes(heard)[..], "{what}"),
            other => panic!("{what}: {other:?}"),
        }
        if let (Some(before), Some(now)) = (before, resident_bytes()) {
            let more = now.saturating_sub(before);
            assert!(more <= MEMORY_MAX, "{what}: {more} bytes after {from} messages");
        }
        if closed {
            break;
        }
    }
    // The node is its own master all the same.
    node.topic_create("one more").unwrap();
    let queued = node.status().iter().map(|link| link.queued_bytes).max().unwrap_or_default();
    assert!(queued < 10 << 20, "{what}: {queued} bytes wait");
    closed
}

fn wire(command: &Command<'_>) -> Bytes {
    let mut out = BytesMut::new();
    command.put(&mut out, false);
    out.freeze()
}

/// One after the other, so that each is measured alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_after_the_handshake_cost_bounded_memory_and_harm_nobody() {
    flood("PING", 500_000, |_| Encoder::ping(30)).await;
    assert!(flood("QUERY", 100_000, |_| wire(&Command::Query)).await, "who asks and does not read is closed");
    assert!(!flood("DEFINE", 150_000, |n| wire(&define(n))).await);
    assert!(!flood("HELLO", 20_000, |n| wire(&hello(n))).await);
}
