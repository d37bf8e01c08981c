//! What the fuzz targets of this crate do with bytes, and the tests that replay their corpora.

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use spot::cluster::{
    Credentials, CurveKeys, NodeId, NodeOptions, Security, TopicOptions,
    command::{Command, Hello},
    node::{LinkInfo, Node, Role},
    zmtp::{Decoder, DecoderLimits, Handshake, HandshakeOptions, Properties, SocketType},
};

/// A target's name behind `spot_`, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 3] = [("command", command), ("decoder", decoder), ("handshake", handshake)];

/// Commands from a peer gone mad: the node refuses what makes no sense and goes on.
pub fn command(input: &[u8]) {
    let mut node = Node::new(NodeOptions::standard(NodeId(1), 1));
    node.topic_create("t", TopicOptions::STANDARD).expect("a good name");
    // So that hand-overs are for us.
    node.topic_create_partitioned("p", 2, TopicOptions::STANDARD).expect("a good name");
    let link = node.link_up(LinkInfo {
        role: Role::Accepted,
        name: "fuzz".into(),
        extended: true,
        pings: true,
        sealed: false,
        principal: String::new(),
        named: false,
        shown: false,
    });
    let mut bytes = BytesMut::new();
    let hello =
        Hello { version: 2, node: NodeId(2), incarnation: 1, heartbeat_ms: 1000, endpoints: Vec::new() };
    Command::Hello(hello).put(&mut bytes, false);
    bytes.extend_from_slice(input);
    if let Ok(batch) = Decoder::plain(DecoderLimits::STANDARD).decode(&mut bytes) {
        node.handle_batch(link, &batch);
    }
    node.advance(Duration::from_secs(1));
    let mut out = Vec::new();
    while node.take_outbox(link, &mut out) {}
    node.link_closed(link, "over");
}

/// ZMTP traffic, from anyone: frames are cut the same however the bytes come in pieces.
pub fn decoder(input: &[u8]) {
    let Some((cut, bytes)) = input.split_first() else { return };
    let limits = DecoderLimits { message_len_max: 1 << 12, frames_max: 16 };
    let mut whole = Decoder::plain(limits);
    let mut buffer = BytesMut::from(bytes);
    let at_once = whole.decode(&mut buffer).map(|batch| batch.frames.len());
    if let Ok(batch) = Decoder::plain(limits).decode(&mut BytesMut::from(bytes)) {
        for frames in batch.messages() {
            let _ = Command::decode(&batch, frames);
        }
    }
    let mut pieces = Decoder::plain(limits);
    let mut buffer = BytesMut::new();
    let mut frames = Ok(0);
    for piece in bytes.chunks(usize::from(*cut).max(1)) {
        buffer.extend_from_slice(piece);
        match pieces.decode(&mut buffer) {
            Ok(batch) => frames = frames.map(|n| n + batch.frames.len()),
            Err(error) => {
                frames = Err(error);
                break;
            }
        }
    }
    assert_eq!(at_once, frames);
}

/// Handshakes of all mechanisms and sides, with anybody's bytes: established or refused, never more.
pub fn handshake(input: &[u8]) {
    let Some((which, bytes)) = input.split_first() else { return };
    let authenticate = Arc::new(|_: Credentials<'_>| Ok("ann".to_owned()));
    let (server, client) = (CurveKeys::from_secret([1; 32]), CurveKeys::from_secret([2; 32]));
    let (socket_type, security) = match which % 5 {
        0 => (SocketType::Router, Security::Null),
        1 => (SocketType::Router, Security::PlainServer(authenticate)),
        2 => {
            (SocketType::Dealer, Security::PlainClient { username: "ann".into(), password: "secret".into() })
        }
        3 => (SocketType::Router, Security::CurveServer { keys: server, authenticate }),
        _ => (SocketType::Dealer, Security::CurveClient { keys: client, server: server.public }),
    };
    let options = HandshakeOptions {
        socket_type,
        security,
        properties: Properties::default(),
        limits: DecoderLimits::STANDARD,
    };
    let mut machine = Handshake::new(options, &[9; 96]);
    let mut buffer = BytesMut::from(bytes);
    let _ = machine.handle_input(&mut buffer);
    assert!(buffer.len() <= bytes.len());
}
