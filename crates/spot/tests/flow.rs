//! What a node with real sockets does for peers that do not read, or that own the same.

#[path = "support/until.rs"]
mod until;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use spot::{
    SubscriptionOptions,
    cluster::{
        Arrival, Event, NodeId, PeerState, Policy, Security, Spot, SpotError, SpotOptions, TopicOptions,
        command::Command,
        zmtp::{Decoder, DecoderLimits, Encoder, Handshake, HandshakeOptions, Properties, SocketType},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use until::{PATIENCE, until};

const LEN: usize = 64 << 10;

fn options() -> SpotOptions {
    let mut options = SpotOptions::standard();
    options.node.reconnect_min = Duration::from_millis(20);
    options.node.reconnect_max = Duration::from_millis(200);
    options
}

fn bounds(messages_max: usize, bytes_max: usize) -> SubscriptionOptions {
    SubscriptionOptions { messages_max, bytes_max }
}

/// A founding peer that reads when it is told to.
struct Reader {
    stream: TcpStream,
    encoder: Encoder,
    decoder: Decoder,
    buffer: BytesMut,
}

impl Reader {
    async fn connect(at: &str, topic: &str) -> Self {
        let mut stream = TcpStream::connect(at.strip_prefix("tcp://").unwrap()).await.unwrap();
        let properties = Properties::default();
        let limits = DecoderLimits::STANDARD;
        let security = Security::Null;
        let options = HandshakeOptions { socket_type: SocketType::Dealer, security, properties, limits };
        let mut machine = Handshake::new(options, &[7; 96]);
        let mut buffer = BytesMut::new();
        let established = loop {
            let done = machine.handle_input(&mut buffer).unwrap();
            while let Some(output) = machine.poll_output() {
                stream.write_all(&output).await.unwrap();
            }
            match done {
                Some(established) => break established,
                None => assert!(stream.read_buf(&mut buffer).await.unwrap() > 0),
            }
        };
        let mut reader = Self { stream, encoder: established.encoder, decoder: established.decoder, buffer };
        reader.send(&Command::Subscribe { topic, resume: None }).await;
        reader
    }

    async fn send(&mut self, command: &Command<'_>) {
        let mut out = BytesMut::new();
        command.put(&mut out, false);
        self.stream.write_all(&self.encoder.encode(out.freeze())).await.unwrap();
    }

    /// The numbers of all messages until one that `ends`.
    async fn numbers_until(&mut self, ends: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut numbers = Vec::new();
        loop {
            let batch = self.decoder.decode(&mut self.buffer).unwrap();
            for frames in batch.messages() {
                if let (_, Command::Publish { data, .. }) = Command::decode(&batch, frames).unwrap() {
                    numbers.push(u32::from_le_bytes(data[..4].try_into().unwrap()));
                    if numbers.last().is_some_and(|number| ends(*number)) {
                        return numbers;
                    }
                }
            }
            let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.buffer));
            assert!(read.await.expect("a message in time").unwrap() > 0, "closed after {numbers:?}");
        }
    }
}

fn numbered(number: u32) -> Bytes {
    let mut bytes = vec![0; LEN];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes.into()
}

/// An owner with one subscriber that does not read, and little room for it.
async fn owner_and_reader(policy: Policy) -> (Spot, Reader) {
    let owner = Spot::new(options());
    owner.set_hwm(bounds(1000, 4 * LEN), bounds(1000, 1 << 20));
    owner.topic_create_with("t", TopicOptions { policy, replay: 0 }).unwrap();
    let at = owner.bind("tcp://127.0.0.1:0").await.unwrap();
    let reader = Reader::connect(&at, "t").await;
    until("the reader is subscribed", || owner.status().iter().any(|link| link.subscriptions == 1)).await;
    (owner, reader)
}

/// Publishes until `done`, which is asked after each message; how many there were.
async fn publish_until(owner: &Spot, mut done: impl FnMut(&Spot) -> bool) -> u32 {
    for number in 0..100_000 {
        owner.publish("t", numbered(number)).await.unwrap();
        let queued = owner.status().first().map_or(0, |link| link.queued_bytes);
        assert!(queued <= 4 * LEN + 4096, "{queued} bytes wait");
        if done(owner) {
            return number + 1;
        }
        tokio::task::yield_now().await;
    }
    panic!("the bound was never reached");
}

#[tokio::test]
async fn drop_newest_keeps_what_waits_and_counts_what_goes() {
    let (owner, mut reader) = owner_and_reader(Policy::DropNewest).await;
    let published = publish_until(&owner, |owner| owner.counters().dropped >= 20).await;
    let dropped = owner.counters().dropped as u32;
    assert_eq!(owner.status()[0].dropped, u64::from(dropped));
    let first = reader.numbers_until(|number| number + 1 == published - dropped).await;
    // Nothing that was taken is lost, up to where the room ended.
    assert_eq!(first, (0..published - dropped).collect::<Vec<_>>());
    // With room again, it goes on.
    until("the room is free", || owner.status()[0].queued_bytes == 0).await;
    owner.publish("t", numbered(1_000_000)).await.unwrap();
    assert_eq!(reader.numbers_until(|number| number == 1_000_000).await, [1_000_000]);
}

#[tokio::test]
async fn drop_oldest_keeps_the_latest() {
    let mut small = options();
    small.node.retained_messages_max = 10;
    let owner = Spot::new(small);
    owner.set_hwm(bounds(1000, 4 * LEN), bounds(1000, 1 << 20));
    owner.topic_create_with("t", TopicOptions { policy: Policy::DropOldest, replay: 0 }).unwrap();
    let at = owner.bind("tcp://127.0.0.1:0").await.unwrap();
    let mut reader = Reader::connect(&at, "t").await;
    until("the reader is subscribed", || owner.status().iter().any(|link| link.subscriptions == 1)).await;
    // What waits beyond the outbox is lost only when newer messages come, so there has to be some more of them.
    let mut after_full = 0;
    let published = publish_until(&owner, |owner| {
        after_full += u32::from(owner.status()[0].queued_bytes > 3 * LEN);
        after_full > 50
    })
    .await;
    let numbers = reader.numbers_until(|number| number + 1 == published).await;
    let dropped = owner.counters().dropped as u32;
    assert!(dropped > 0);
    assert_eq!(numbers.len() as u32 + dropped, published);
    assert_eq!(numbers[numbers.len() - 10..], (published - 10..published).collect::<Vec<_>>());
}

#[tokio::test]
async fn conflate_keeps_only_the_latest() {
    let (owner, mut reader) = owner_and_reader(Policy::Conflate).await;
    let mut after_full = 0;
    let published = publish_until(&owner, |owner| {
        after_full += u32::from(owner.status()[0].queued_bytes > 3 * LEN);
        after_full > 50
    })
    .await;
    let numbers = reader.numbers_until(|number| number + 1 == published).await;
    let dropped = owner.counters().dropped as u32;
    assert_eq!(numbers.len() as u32 + dropped, published);
    // One hole, before the last: all between is gone.
    let holes: Vec<_> = numbers.windows(2).filter(|pair| pair[0] + 1 != pair[1]).collect();
    assert_eq!(holes, [&[published - dropped - 2, published - 1]]);
}

#[tokio::test]
async fn disconnect_closes_the_slow_and_the_others_go_on() {
    let (owner, mut reader) = owner_and_reader(Policy::Disconnect).await;
    let other = Spot::new(options());
    other.cluster_add(&owner.endpoint().unwrap()).await.unwrap();
    other.subscribe("t").unwrap();
    other.wait_live("t", PATIENCE).await.unwrap();
    let hearing = tokio::spawn({
        let other = other.clone();
        async move {
            let mut count = 0_u32;
            loop {
                match other.recv_timeout(PATIENCE).await.unwrap() {
                    Arrival::Message { payload, .. } => {
                        let number = u32::from_le_bytes(payload[..4].try_into().unwrap());
                        if number == u32::MAX {
                            return count;
                        }
                        assert_eq!(number, count);
                        count += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    });
    let mut published = 0;
    while owner.status().len() == 2 {
        owner.publish("t", numbered(published)).await.unwrap();
        published += 1;
        // The one that reads has its time.
        let slow = |links: &[spot::cluster::LinkStatus]| {
            links.iter().filter(|link| link.node.is_some()).any(|link| link.queued_bytes > 0)
        };
        until("the other one has read", || !slow(&owner.status())).await;
    }
    owner.publish("t", numbered(u32::MAX)).await.unwrap();
    assert_eq!(hearing.await.unwrap(), published);
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, reader.stream.read_to_end(&mut rest)).await.expect("closed");
}

#[tokio::test]
async fn block_waits_then_takes_the_place_of_who_is_in_the_way() {
    let mut small = options();
    small.node.retained_bytes_max = 8 * LEN;
    let owner = Spot::new(small);
    owner.set_hwm(bounds(1000, 4 * LEN), bounds(1000, 1 << 20));
    let policy = Policy::Block { timeout: Duration::from_millis(100) };
    owner.topic_create_with("t", TopicOptions { policy, replay: 0 }).unwrap();
    let at = owner.bind("tcp://127.0.0.1:0").await.unwrap();
    let mut reader = Reader::connect(&at, "t").await;
    until("the reader is subscribed", || owner.status().iter().any(|link| link.subscriptions == 1)).await;
    let mut events = owner.events();
    let mut published = 0;
    while owner.try_publish("t", numbered(published)).is_ok() {
        published += 1;
        tokio::task::yield_now().await;
    }
    assert!(matches!(owner.try_publish("t", numbered(published)), Err(SpotError::WouldBlock)));
    // Waits for the timeout, and then is taken.
    owner.publish("t", numbered(published)).await.unwrap();
    let lost = loop {
        match tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().unwrap() {
            Event::Dropped { topic, messages, .. } if topic.as_str() == "t" => break messages,
            _ => {}
        }
    };
    assert_eq!(owner.counters().dropped, lost + 1, "what was taken away, and the message that it was for");
    let last = published - lost as u32 - 1;
    assert_eq!(reader.numbers_until(|number| number == last).await, (0..=last).collect::<Vec<_>>());
}

#[tokio::test]
async fn set_hwm_bounds_what_a_node_holds_for_its_own_reader() {
    let (owner, other) = (Spot::new(options()), Spot::new(options()));
    let at = owner.bind("tcp://127.0.0.1:0").await.unwrap();
    owner.topic_create_with("t", TopicOptions { policy: Policy::DropNewest, replay: 0 }).unwrap();
    other.set_hwm(bounds(1 << 16, 4 << 20), bounds(10, 1 << 20));
    other.cluster_add(&at).await.unwrap();
    other.subscribe("t").unwrap();
    other.wait_live("t", PATIENCE).await.unwrap();
    for number in 0..100_u32 {
        owner.publish("t", number.to_le_bytes().to_vec()).await.unwrap();
    }
    until("all has come", || other.counters().received == 100).await;
    assert_eq!(other.try_recv(), Some(Arrival::Lagged { missed: 90 }));
    for number in 90..100_u32 {
        assert!(
            matches!(other.try_recv(), Some(Arrival::Message { payload, .. }) if payload == number.to_le_bytes()[..])
        );
    }
    assert_eq!((other.try_recv(), other.counters().dropped), (None, 90));
}

#[tokio::test]
async fn of_two_owners_the_later_one_is_followed_and_the_other_is_told() {
    let named = |id: u128, incarnation: u64| {
        let mut options = options();
        (options.node.id, options.node.incarnation) = (NodeId(id), incarnation);
        Spot::new(options)
    };
    let (early, late, reader) = (named(1, 100), named(2, 200), named(3, 300));
    let at_early = early.bind("tcp://127.0.0.1:0").await.unwrap();
    let at_late = late.bind("tcp://127.0.0.1:0").await.unwrap();
    early.topic_create("t").unwrap();
    late.topic_create("t").unwrap();
    let mut events = early.events();
    reader.cluster_add(&at_early).await.unwrap();
    reader.subscribe("t").unwrap();
    reader.wait_live("t", PATIENCE).await.unwrap();
    reader.cluster_add(&at_late).await.unwrap();
    // They learn of each other, too.
    early.cluster_add(&at_late).await.ok();
    let lost = loop {
        let event = tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
        if let Event::OwnerLost { topic, epoch } = event {
            break (topic.to_string(), epoch);
        }
    };
    assert_eq!(lost, ("t".to_owned(), 200));
    reader.wait_live("t", PATIENCE).await.unwrap();
    // Whoever of the three publishes, it comes from the later one, and once.
    late.publish("t", "1").await.unwrap();
    let payloads = async || loop {
        match reader.recv_timeout(PATIENCE).await.unwrap() {
            Arrival::Message { payload, .. } => return payload,
            Arrival::Gap { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(payloads().await, "1");
    early.publish("t", "2").await.unwrap();
    assert_eq!(payloads().await, "2");
    reader.publish("t", "3").await.unwrap();
    assert_eq!(payloads().await, "3");
    assert_eq!(reader.try_recv(), None);
    // When it goes, the early one is there again, under another epoch: what the late one published it has not.
    late.topic_destroy("t").unwrap();
    until("it is known", || reader.list_topics().iter().any(|info| info.epoch == 101)).await;
    reader.wait_live("t", PATIENCE).await.unwrap();
    early.publish("t", "4").await.unwrap();
    assert_eq!(payloads().await, "4");
}

#[tokio::test]
async fn nodes_tell_each_other_what_they_count() {
    let (a, b) = (Spot::new(options()), Spot::new(options()));
    let at = b.bind("tcp://127.0.0.1:0").await.unwrap();
    b.topic_create("t").unwrap();
    a.cluster_add(&at).await.unwrap();
    a.subscribe("t").unwrap();
    a.wait_live("t", PATIENCE).await.unwrap();
    for _ in 0..5 {
        b.publish("t", "x").await.unwrap();
    }
    until("all has come", || a.counters().received == 5).await;
    let peers = a.peers(PATIENCE).await;
    let [peer] = &peers[..] else { panic!("{peers:?}") };
    assert_eq!((peer.node, peer.topics, peer.links, peer.queued_bytes), (b.id(), 1, 1, 0));
    assert_eq!((peer.counters.published, peer.counters.sent, peer.counters.refused), (5, 5, 0));
    assert_eq!(b.peers(PATIENCE).await[0].counters.received, 5);
}

#[tokio::test]
async fn a_peer_that_is_cut_off_in_silence_is_noticed_and_named() {
    let mut quick = options();
    quick.node.heartbeat = Duration::from_millis(50);
    let owner = Spot::new(quick);
    owner.topic_create("t").unwrap();
    let at = owner.bind("tcp://127.0.0.1:0").await.unwrap();
    let mut events = owner.events();
    // Answers no PING: it reads nothing, and its connection stays open.
    let reader = Reader::connect(&at, "t").await;
    let from = format!("tcp://{}", reader.stream.local_addr().unwrap());
    let mut states = Vec::new();
    while !matches!(states.last(), Some(PeerState::Down { .. })) {
        let event = tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
        if let Event::Peer { endpoint, state } = event {
            assert_eq!(endpoint, from);
            states.push(state);
        }
    }
    assert_eq!(states[..2], [PeerState::Up, PeerState::Suspect]);
    let down = states[2].to_string();
    assert!(down.starts_with("down: nothing heard for 0."), "{down}");
    until("it is given up", || owner.status().is_empty()).await;
}

/// A founding peer knows no windows. Where the topic is lossless it is not read from until there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founding_publisher_waits_for_a_slow_reader_and_loses_nothing() {
    const MESSAGES: u32 = 50_000;
    let mut owner_options = options();
    // Room for a small part of what comes; what one read brings has to fit.
    owner_options.node.retained_messages_max = 8000;
    let owner = Spot::new(owner_options);
    let policy = Policy::Block { timeout: PATIENCE };
    owner.topic_create_with("t", TopicOptions { policy, replay: 0 }).unwrap();
    let at = owner.bind("tcp://127.0.0.1:0").await.unwrap();
    let mut slow = owner.listen(["t"], bounds(100, 1 << 20)).unwrap();
    let publisher = Spot::new(SpotOptions { founding_only: true, ..options() });
    publisher.cluster_add(&at).await.unwrap();
    let publishing = tokio::spawn(async move {
        for number in 0..MESSAGES {
            let mut payload = vec![0; 64];
            payload[..4].copy_from_slice(&number.to_le_bytes());
            publisher.publish("t", payload).await.unwrap();
        }
        publisher
    });
    for number in 0..MESSAGES {
        match tokio::time::timeout(PATIENCE, slow.recv()).await.expect("a message in time") {
            Some(Arrival::Message { payload, .. }) => assert_eq!(payload[..4], number.to_le_bytes()),
            other => panic!("message {number} was expected, not {other:?}"),
        }
    }
    let publisher = publishing.await.unwrap();
    assert_eq!(owner.counters().dropped, 0);
    // It still listens to it.
    publisher.publish("t", "again").await.unwrap();
    assert!(matches!(slow.recv().await, Some(Arrival::Message { payload, .. }) if payload == "again"));
}

/// After the topic's patience its connection is read again, whoever is in the way.
#[tokio::test]
async fn a_founding_publisher_is_not_held_for_longer_than_publishers_wait() {
    let mut owner_options = options();
    owner_options.node.heartbeat = Duration::from_millis(100);
    owner_options.node.retained_messages_max = 10;
    let owner = Spot::new(owner_options);
    let policy = Policy::Block { timeout: Duration::from_millis(50) };
    owner.topic_create_with("t", TopicOptions { policy, replay: 0 }).unwrap();
    let at = owner.bind("tcp://127.0.0.1:0").await.unwrap();
    // Nobody ever reads it.
    let _stuck = owner.listen(["t"], bounds(10, 1 << 20)).unwrap();
    let publisher = Spot::new(SpotOptions { founding_only: true, ..options() });
    publisher.cluster_add(&at).await.unwrap();
    for _ in 0..1000 {
        publisher.publish("t", "x").await.unwrap();
    }
    until("what is beyond the bounds is dropped", || owner.counters().dropped > 0).await;
    publisher.cluster_sync(PATIENCE).await.expect("it is answered");
}

/// The last messages, for each bound that there is on them.
#[tokio::test]
async fn replay_ends_at_its_bounds() {
    let lossless = Policy::Block { timeout: PATIENCE };
    // Policy, replay, published, bytes of each, bytes that a topic may keep, and the first that comes.
    let cases = [
        (lossless, 0, 10, 8, 1 << 20, 10),
        (lossless, 1, 10, 8, 1 << 20, 9),
        (lossless, 10, 10, 8, 1 << 20, 0),
        (lossless, 11, 10, 8, 1 << 20, 0),
        (lossless, usize::MAX, 1000, 8, 1 << 20, 0),
        (Policy::DropOldest, 3, 10, 8, 1 << 20, 7),
        (Policy::DropNewest, 3, 10, 8, 1 << 20, 7),
        (Policy::Conflate, 3, 10, 8, 1 << 20, 7),
        // Fewer, where so many bytes may not be kept.
        (Policy::DropOldest, 100, 100, 1000, 10_000, 90),
    ];
    for (policy, replay, published, len, bytes_max, first) in cases {
        let case = format!("{policy:?}, replay {replay}, {published} published");
        let mut owner_options = options();
        owner_options.node.retained_bytes_max = bytes_max;
        let owner = Spot::new(owner_options);
        owner.topic_create_with("t", TopicOptions { policy, replay }).unwrap();
        let at = owner.bind("tcp://127.0.0.1:0").await.unwrap();
        let message = |number: u32| {
            let mut payload = vec![0; len];
            payload[..4].copy_from_slice(&number.to_le_bytes());
            payload
        };
        for number in 0..published {
            owner.publish("t", message(number)).await.unwrap();
        }
        // One at home, one elsewhere; neither has room for all at once.
        let elsewhere = Spot::new(options());
        elsewhere.cluster_add(&at).await.unwrap();
        let small = if lossless == policy { 16 } else { 1 << 10 };
        let mut late = elsewhere.listen(["t"], bounds(small, 1 << 20)).unwrap();
        late.wait_live("t", PATIENCE).await.unwrap();
        let mut home = owner.listen(["t"], bounds(1 << 10, 1 << 20)).unwrap();
        owner.publish("t", message(published)).await.unwrap();
        for number in first..=published {
            for listening in [&mut late, &mut home] {
                match tokio::time::timeout(PATIENCE, listening.recv()).await.expect(&case) {
                    Some(Arrival::Message { payload, .. }) => {
                        assert_eq!(payload[..4], number.to_le_bytes(), "{case}");
                    }
                    other => panic!("{case}: {number} was expected, not {other:?}"),
                }
            }
        }
        assert!(late.try_recv().is_none() && home.try_recv().is_none(), "{case}");
    }
}
