//! Commands from a peer gone mad: the node refuses what makes no sense and goes on.

#![no_main]

use std::time::Duration;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use spot::cluster::{
    NodeId, NodeOptions, TopicOptions,
    command::{Command, Hello},
    node::{LinkInfo, Node, Role},
    zmtp::{Decoder, DecoderLimits},
};

fuzz_target!(|input: &[u8]| {
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
});
