//! Bytes from strangers and from peers gone mad: no panic, no more memory than they are worth, and no harm to others.

use std::{sync::LazyLock, time::Duration};

use bytes::BytesMut;
use proptest::prelude::*;
use spot::{
    SubscriptionOptions, TopicPattern,
    cluster::{
        Arrival, Credentials, CurveKeys, NodeId, NodeOptions, Security, Spot, SpotOptions, TopicOptions,
        command::{Before, Command, Handover, Hello, Resume},
        node::{LinkInfo, Node, Role},
        record::{DataHeader, Kind, put_define},
        ring::Taken,
        zmtp::{
            Decoder, DecoderLimits, Encoder, Established, Handshake, HandshakeOptions, Properties, SocketType,
        },
    },
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PATIENCE: Duration = Duration::from_secs(10);

/// Made once: keys and handshakes of CURVE are slow without optimisation.
static SECURITIES: LazyLock<Vec<(Security, Security)>> = LazyLock::new(make_securities);
static TRANSCRIPTS: LazyLock<[[Vec<u8>; 2]; 3]> =
    LazyLock::new(|| [0, 1, 2].map(|which| shake(which, 1000).1));

fn securities() -> Vec<(Security, Security)> {
    SECURITIES.clone()
}

fn make_securities() -> Vec<(Security, Security)> {
    let check = std::sync::Arc::new(|_: Credentials<'_>| Ok("ann".to_owned()));
    let (server, client) = (CurveKeys::from_secret([1; 32]), CurveKeys::from_secret([2; 32]));
    vec![
        (Security::Null, Security::Null),
        (
            Security::PlainServer(check.clone()),
            Security::PlainClient { username: "ann".into(), password: "secret".into() },
        ),
        (
            Security::CurveServer { keys: server.clone(), authenticate: check },
            Security::CurveClient { keys: client, server: server.public },
        ),
    ]
}

fn handshake(security: Security, socket_type: SocketType) -> Handshake {
    let options = HandshakeOptions {
        socket_type,
        security,
        properties: Properties::default(),
        limits: DecoderLimits { message_len_max: 1 << 16, frames_max: 64 },
    };
    Handshake::new(options, &[9; 96])
}

/// Both sides to the end; what each sent.
fn shake(which: usize, chunk: usize) -> ([Established; 2], [Vec<u8>; 2]) {
    let (server, client) = securities().swap_remove(which);
    let mut sides = [handshake(client, SocketType::Dealer), handshake(server, SocketType::Router)];
    let mut buffers = [BytesMut::new(), BytesMut::new()];
    let mut sent = [Vec::new(), Vec::new()];
    let mut done = [None, None];
    for _ in 0..100 {
        for side in 0..2 {
            while let Some(output) = sides[side].poll_output() {
                sent[side].extend_from_slice(&output);
                for piece in output.chunks(chunk) {
                    buffers[1 - side].extend_from_slice(piece);
                    if done[1 - side].is_none() {
                        done[1 - side] = sides[1 - side].handle_input(&mut buffers[1 - side]).unwrap();
                    }
                }
            }
        }
    }
    (done.map(Option::unwrap), sent)
}

#[test]
fn handshakes_succeed_however_their_bytes_are_cut() {
    for which in 0..3 {
        for chunk in [1, 7, 1000] {
            let ([mut client, mut server], _) = shake(which, chunk);
            let mut message = BytesMut::new();
            Command::Query.put(&mut message, false);
            let mut wire = BytesMut::from(&client.encoder.encode(message.freeze())[..]);
            let batch = server.decoder.decode(&mut wire).unwrap();
            assert_eq!(Command::decode(&batch, &batch.frames), Ok((false, Command::Query)));
            let mut ping = BytesMut::from(&server.encoder.encode(Encoder::ping(30))[..]);
            client.decoder.decode(&mut ping).unwrap();
            assert!(client.decoder.take_replies().is_some());
        }
    }
}

/// Captured once and read by eye; a change of any byte is a change of the protocol.
#[test]
fn transcripts_are_golden() {
    let (_, [client, server]) = shake(0, 1000);
    assert_eq!(client[64..], *b"\x04\x29\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\0");
    assert_eq!(server[64..], *b"\x04\x29\x05READY\x0bSocket-Type\0\0\0\x06ROUTER\x08Identity\0\0\0\0");
    let (_, [client, server]) = shake(1, 1000);
    assert!(
        client[64..].starts_with(b"\x04\x11\x05HELLO\x03ann\x06secret\x04\x2c\x08INITIATE\x0bSocket-Type")
    );
    assert!(server[64..].starts_with(b"\x04\x08\x07WELCOME\x04\x29\x05READY"));
    let (_, [client, server]) = shake(2, 1000);
    // HELLO of 200 bytes, WELCOME of 168, as in RFC 26.
    assert!(client[64..].starts_with(b"\x04\xc8\x05HELLO\x01\x00"));
    assert!(
        client[64 + 202..].starts_with(b"\x06\x00\x00\x00\x00\x00\x00\x01\x24\x08INITIATE"),
        "{:x?}",
        &client[266..290]
    );
    assert!(server[64..].starts_with(b"\x04\xa8\x07WELCOME"));
    assert!(server[64 + 170..].starts_with(b"\x04\x41\x05READY"), "{:x?}", &server[234..250]);
}

fn node_with_link() -> (Node, usize) {
    let mut node = Node::new(NodeOptions::standard(NodeId(1), 1));
    node.topic_create("t", TopicOptions::STANDARD).unwrap();
    let info = LinkInfo {
        role: Role::Accepted,
        name: "test".into(),
        extended: true,
        pings: true,
        sealed: false,
        principal: String::new(),
        named: false,
        shown: false,
    };
    let link = node.link_up(info);
    let hello =
        Hello { version: 2, node: NodeId(2), incarnation: 1, heartbeat_ms: 1000, endpoints: Vec::new() };
    let mut bytes = BytesMut::new();
    Command::Hello(hello).put(&mut bytes, false);
    let batch = Decoder::plain(DecoderLimits::STANDARD).decode(&mut bytes).unwrap();
    node.handle_batch(link, &batch);
    (node, link)
}

fn valid_commands() -> Vec<u8> {
    let mut out = BytesMut::new();
    let resume =
        Some(Resume { open: false, owner: NodeId(1), epoch: 1, have: 0, window: 9, window_bytes: 900 });
    let commands = [
        Command::Announce { topic: "u", epoch: 3 },
        Command::Subscribe { topic: "t", resume },
        Command::Query,
        Command::QueryResp { topics: vec!["u", "v"], epochs: vec![3, 4] },
        Command::SubAck { topic: "u", epoch: 3, next: 1, lossless: true, continues: false },
        Command::Credit { topic: "t", up: false, acked: 0, limit: 5, limit_bytes: 500 },
        Command::Gap { topic: "u", first: 1, last: 2 },
        Command::Publish { topic: "t", data: "x".into() },
        Command::Batch(
            vec![0, 2, 1, 7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, b't', 2, 1, b'x'].into(),
        ),
        Command::Unsubscribe { topic: "t", open: false },
    ];
    for command in commands {
        command.put(&mut out, false);
    }
    out.to_vec()
}

#[test]
fn valid_commands_are_all_followed() {
    let (mut node, link) = node_with_link();
    let mut bytes = BytesMut::from(&valid_commands()[..]);
    let batch = Decoder::plain(DecoderLimits::STANDARD).decode(&mut bytes).unwrap();
    node.handle_batch(link, &batch);
    // Nobody here subscribed to `u`, so its SUB_ACK and GAP mean nothing.
    assert_eq!(node.counters().refused, 2);
    assert_eq!(node.counters().received, 2);
}

/// What an owner says to a node that hears its topic and is a member of it: all that changes numbers.
fn words_of_an_owner() -> Vec<u8> {
    let handover = Handover {
        epoch: 9,
        from_epoch: 7,
        first: 1,
        publishers: vec![(NodeId(1), 1, 3), (NodeId(3), 1, 4)],
        subscribers: vec![(NodeId(3), 1), (NodeId(1), 2)],
        before: vec![Before { node: NodeId(5), epoch: 6 }, Before { node: NodeId(2), epoch: 5 }],
        doubts: vec![2, 3],
        messages: vec!["one".into(), "two".into()],
    };
    let mut stream = vec![0, 2, 0];
    stream.extend(7_u64.to_le_bytes());
    stream.extend(1_u64.to_le_bytes());
    stream.extend(b"\x03p#0\x02\x01x\x02\x01y");
    let mut out = BytesMut::new();
    let commands = [
        Command::Announce { topic: "p#0", epoch: 7 },
        Command::SubAck { topic: "p#0", epoch: 7, next: 1, lossless: true, continues: false },
        Command::Batch(stream.into()),
        Command::Gap { topic: "p#0", first: 3, last: 4 },
        Command::GoesOn { topic: "p#0", epoch: 7, doubt: 5 },
        Command::NotTaken { topic: "p#0", epoch: 8 },
        Command::Credit { topic: "p#0", up: true, acked: 0, limit: 5, limit_bytes: 500 },
        Command::Status,
        Command::Handover { topic: "p#0", handover },
        Command::Remove { topic: "p#0", epoch: 7 },
    ];
    for command in commands {
        command.put(&mut out, false);
    }
    out.to_vec()
}

fn member_that_listens() -> (Node, usize) {
    let (mut node, link) = node_with_link();
    let sub = node.sub_open(SubscriptionOptions::STANDARD, false);
    node.subscribe(sub, TopicPattern::new("p#*").unwrap()).unwrap();
    // It waits for the answer of its peer before it claims anything, so the peer may own what it wants.
    node.topic_create_partitioned("p", 1, TopicOptions::STANDARD).unwrap();
    (node, link)
}

#[test]
fn an_owner_hands_over_and_the_next_one_goes_on() {
    let (mut node, link) = member_that_listens();
    let mut bytes = BytesMut::from(&words_of_an_owner()[..]);
    let batch = Decoder::plain(DecoderLimits::STANDARD).decode(&mut bytes).unwrap();
    node.handle_batch(link, &batch);
    // There was no uplink to give credit for, and nothing was offered that would not be taken.
    assert_eq!(node.counters().refused, 2);
    assert_eq!(node.topic_owner("p#0"), Some((9, Some(NodeId(1)))));
}

/// A topic that waits for its subscribers is sent within what they have room for. An owner that does not care is held to it.
#[test]
fn an_owner_that_sends_more_than_it_was_told_to_fills_no_more_than_the_bounds() {
    let (mut node, link) = node_with_link();
    let sub = node.sub_open(SubscriptionOptions { messages_max: 100, bytes_max: 10_000 }, false);
    node.subscribe(sub, TopicPattern::new("u").unwrap()).unwrap();
    let check = |node: &mut Node, first: u64, count: usize, len: usize, taken: &[usize]| {
        let mut stream = BytesMut::new();
        put_define(&mut stream, 2, Kind::Message, 3, first, "u");
        for _ in 0..count {
            stream.extend_from_slice(DataHeader::new(2, len).as_bytes());
            stream.extend_from_slice(&vec![7; len]);
        }
        let mut bytes = BytesMut::new();
        if first == 1 {
            Command::Announce { topic: "u", epoch: 3 }.put(&mut bytes, false);
            let (epoch, next, lossless, continues) = (3, 1, true, false);
            Command::SubAck { topic: "u", epoch, next, lossless, continues }.put(&mut bytes, false);
        }
        Command::Batch(stream.freeze()).put(&mut bytes, false);
        let batch = Decoder::plain(DecoderLimits::STANDARD).decode(&mut bytes).unwrap();
        node.handle_batch(link, &batch);
        let mut all = Taken::default();
        node.take(sub, usize::MAX, &mut all);
        let counts: Vec<usize> = all.fold(vec![0, 0], |counts, arrival| match arrival {
            Arrival::Message { .. } => vec![counts[0] + 1, counts[1]],
            Arrival::Lagged { missed } => vec![counts[0], counts[1] + missed as usize],
            other => panic!("{other:?}"),
        });
        assert_eq!(counts, taken, "{count} of {len} bytes");
    };
    // Too many, then too large; in the end what it may send all the same: one beyond the bytes.
    check(&mut node, 1, 10_000, 0, &[100, 9_900]);
    check(&mut node, 10_001, 50, 1_000, &[10, 40]);
    check(&mut node, 10_051, 1, 20_000, &[1, 0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn mutated_words_of_an_owner_never_harm_a_node(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let (mut node, link) = member_that_listens();
        let mut bytes = words_of_an_owner();
        for (at, flip) in flips {
            let len = bytes.len();
            bytes[at.index(len)] ^= flip;
        }
        let mut buffer = BytesMut::from(&bytes[..]);
        if let Ok(batch) = Decoder::plain(DecoderLimits::STANDARD).decode(&mut buffer) {
            node.handle_batch(link, &batch);
        }
        let _ = node.publish("p#0", &"z".into(), false);
        node.advance(Duration::from_secs(1));
        let mut out = Vec::new();
        while node.take_outbox(link, &mut out) {}
        node.link_closed(link, "over");
    }

    #[test]
    fn arbitrary_bytes_never_harm_a_handshake(bytes: Vec<u8>, which in 0..3_usize, server: bool) {
        let (s, c) = securities().swap_remove(which);
        let mut machine = if server { handshake(s, SocketType::Router) } else { handshake(c, SocketType::Dealer) };
        let mut buffer = BytesMut::from(&bytes[..]);
        let _ = machine.handle_input(&mut buffer);
        prop_assert!(buffer.len() <= bytes.len());
    }

    #[test]
    fn mutated_handshakes_never_panic(which in 0..3_usize, side in 0..2_usize, at: prop::sample::Index, flip in 1..=255_u8) {
        let mut sent = TRANSCRIPTS[which].clone();
        let len = sent[side].len();
        sent[side][at.index(len)] ^= flip;
        let (s, c) = securities().swap_remove(which);
        let mut machine = if side == 0 { handshake(s, SocketType::Router) } else { handshake(c, SocketType::Dealer) };
        let mut buffer = BytesMut::from(&sent[side][..]);
        let _ = machine.handle_input(&mut buffer);
    }

    #[test]
    fn arbitrary_frames_never_harm_a_decoder_however_they_are_cut(bytes: Vec<u8>, cut in 1..64_usize) {
        let limits = DecoderLimits { message_len_max: 1 << 12, frames_max: 16 };
        let (mut whole, mut pieces) = (Decoder::plain(limits), Decoder::plain(limits));
        let mut buffer = BytesMut::from(&bytes[..]);
        let at_once = whole.decode(&mut buffer).map(|batch| batch.messages().map(|m| m.iter().map(|f| batch.body(f).to_vec()).collect()).collect());
        let mut buffer = BytesMut::new();
        let mut all: Result<Vec<Vec<Vec<u8>>>, _> = Ok(Vec::new());
        for piece in bytes.chunks(cut) {
            buffer.extend_from_slice(piece);
            match (pieces.decode(&mut buffer), &mut all) {
                (Ok(batch), Ok(all)) => all.extend(batch.messages().map(|m| m.iter().map(|f| batch.body(f).to_vec()).collect::<Vec<_>>())),
                (Err(error), all) => { *all = Err(error); break }
                _ => {}
            }
        }
        prop_assert_eq!(at_once, all);
    }

    #[test]
    fn mutated_commands_never_harm_a_node(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let (mut node, link) = node_with_link();
        let mut bytes = valid_commands();
        for (at, flip) in flips {
            let len = bytes.len();
            bytes[at.index(len)] ^= flip;
        }
        let mut buffer = BytesMut::from(&bytes[..]);
        if let Ok(batch) = Decoder::plain(DecoderLimits::STANDARD).decode(&mut buffer) {
            node.handle_batch(link, &batch);
        }
        node.advance(Duration::from_secs(1));
        let mut out = Vec::new();
        while node.take_outbox(link, &mut out) {}
        node.link_closed(link, "over");
    }
}

/// Found by the fuzzer: the sum of the header's length and this one once went around.
#[test]
fn a_frame_of_two_to_the_64_bytes_is_too_large() {
    let limits = DecoderLimits { message_len_max: 1 << 12, frames_max: 16 };
    for behind in [0, 300] {
        let mut bytes = vec![0x02];
        bytes.extend([0xff; 8]);
        bytes.resize(bytes.len() + behind, 0);
        assert_eq!(Decoder::plain(limits).bytes_wanted(&bytes), 1 << 12);
        let error = Decoder::plain(limits).decode(&mut BytesMut::from(&bytes[..])).map(drop).unwrap_err();
        assert!(error.to_string().contains("4096"), "{error}");
    }
}

#[tokio::test]
async fn strangers_that_dawdle_or_flood_do_no_harm() {
    let mut options = SpotOptions::standard();
    options.handshake_timeout = Duration::from_millis(300);
    options.handshakes_max = 8;
    let node = Spot::new(options);
    let at = node.bind("tcp://127.0.0.1:0").await.unwrap();
    node.topic_create("t").unwrap();
    let address = at.strip_prefix("tcp://").unwrap().to_owned();
    let mut slow = Vec::new();
    for i in 0..24 {
        let mut stranger = tokio::net::TcpStream::connect(&address).await.unwrap();
        match i % 3 {
            // Says nothing.
            0 => {}
            // A byte, and no more.
            1 => stranger.write_all(&[0xff]).await.unwrap(),
            // Claims a frame of 2⁶³ bytes.
            _ => {
                let mut bytes = vec![0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 1];
                bytes.extend(b"NULL");
                bytes.resize(64, 0);
                bytes.extend([6, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
                stranger.write_all(&bytes).await.unwrap();
            }
        }
        slow.push(stranger);
    }
    // An honest node comes in all the same: at the latest when the strangers' time is over.
    let other = Spot::new(SpotOptions::standard());
    other.cluster_add(&at).await.unwrap();
    other.subscribe("t").unwrap();
    other.wait_live("t", PATIENCE).await.unwrap();
    node.publish("t", "hello").await.unwrap();
    assert!(matches!(other.recv_timeout(PATIENCE).await.unwrap(), Arrival::Message { .. }));
    for mut stranger in slow {
        let mut rest = Vec::new();
        // All are closed, by us.
        let _ =
            tokio::time::timeout(PATIENCE, stranger.read_to_end(&mut rest)).await.expect("it was not closed");
        assert!(rest.len() < 256, "{}", rest.len());
    }
    assert_eq!(node.status().len(), 1);
}
