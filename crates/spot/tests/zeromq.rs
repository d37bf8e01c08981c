//! A node and the `zeromq` crate, an engine that shares no code with libzmq or with ours, in both roles.

use std::time::Duration;

use bytes::Bytes;
use spot::cluster::{Arrival, Spot, SpotOptions};
use zeromq::{DealerSocket, RouterSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

const PATIENCE: Duration = Duration::from_secs(20);

fn message(frames: &[&[u8]]) -> ZmqMessage {
    let frames: Vec<_> = frames.iter().map(|frame| Bytes::copy_from_slice(frame)).collect();
    ZmqMessage::try_from(frames).unwrap()
}

async fn receive(socket: &mut impl SocketRecv) -> Vec<Bytes> {
    let received = tokio::time::timeout(PATIENCE, socket.recv()).await.expect("a message in time");
    received.unwrap().into_vec()
}

/// The next message that is no QUERY: a node may ask at any time.
async fn answer(socket: &mut impl SocketRecv) -> Vec<Bytes> {
    loop {
        let frames = receive(socket).await;
        if frames.last().is_none_or(|last| last.as_ref() != [4]) {
            return frames;
        }
    }
}

async fn heard(node: &Spot) -> (String, Bytes) {
    match node.recv_timeout(PATIENCE).await.unwrap() {
        Arrival::Message { topic, payload } => (topic.to_string(), payload),
        other => panic!("a message was expected, not {other:?}"),
    }
}

#[tokio::test]
async fn a_zeromq_dealer_asks_publishes_and_listens() {
    let node = Spot::new(SpotOptions::standard());
    node.topic_create("game:score").unwrap();
    node.subscribe("game:score").unwrap();
    let endpoint = node.bind("tcp://127.0.0.1:0").await.unwrap();
    for delimiter in [false, true] {
        let mut dealer = DealerSocket::new();
        dealer.connect(&endpoint).await.unwrap();
        let around = |frames: &[&[u8]]| match delimiter {
            true => message(&[&[&b""[..]], frames].concat()),
            false => message(frames),
        };
        let unwrap = |mut frames: Vec<Bytes>| {
            if delimiter {
                assert_eq!(frames.remove(0), b""[..]);
            }
            frames
        };
        dealer.send(around(&[b"\x02", b"game:score"])).await.unwrap();
        dealer.send(around(&[b"\x04"])).await.unwrap();
        assert_eq!(unwrap(answer(&mut dealer).await), [&b"\x05"[..], &[1, 0, 0, 0], b"game:score"]);
        for len in [0, 1, 255, 256, 100_000] {
            let payload = vec![9; len];
            node.publish("game:score", payload.clone()).await.unwrap();
            assert_eq!(unwrap(answer(&mut dealer).await), [&b"\x01"[..], b"game:score", &payload]);
            assert_eq!(heard(&node).await, ("game:score".into(), payload.into()));
        }
        dealer.send(around(&[b"\x03", b"game:score"])).await.unwrap();
        for number in 0..100 {
            dealer.send(around(&[b"\x01", b"game:score", number.to_string().as_bytes()])).await.unwrap();
        }
        for number in 0..100 {
            assert_eq!(heard(&node).await, ("game:score".into(), number.to_string().into()));
        }
    }
}

#[tokio::test]
async fn a_zeromq_router_owns_a_topic() {
    let mut router = RouterSocket::new();
    let endpoint = router.bind("tcp://127.0.0.1:0").await.unwrap().to_string();
    let node = Spot::new(SpotOptions::standard());
    let adding = tokio::spawn({
        let node = node.clone();
        async move { node.cluster_add(&endpoint).await }
    });
    let query = receive(&mut router).await;
    let [id, command] = &query[..] else { panic!("{query:?}") };
    assert_eq!(command, &b"\x04"[..]);
    router.send(message(&[id, b"\x05", &[1, 0, 0, 0], b"chat"])).await.unwrap();
    adding.await.unwrap().unwrap();
    assert!(node.topic_exists("chat") && !node.topic_is_local("chat"));
    node.subscribe("chat").unwrap();
    assert_eq!(answer(&mut router).await, [&id[..], b"\x02", b"chat"]);
    router.send(message(&[id, b"\x01", b"chat", b"hello"])).await.unwrap();
    assert_eq!(heard(&node).await, ("chat".into(), "hello".into()));
    node.publish("chat", "hi").await.unwrap();
    assert_eq!(answer(&mut router).await, [&id[..], b"\x01", b"chat", b"hi"]);
}
