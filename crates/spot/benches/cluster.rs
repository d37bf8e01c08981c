//! Two nodes on one wire, without sockets: what the machines themselves cost, by message.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use spot::{
    SubscriptionOptions, TopicPattern,
    cluster::{
        Arrival, NodeId, NodeOptions, TopicOptions,
        node::{LinkId, LinkInfo, Node, Publish, Role, SubId},
        ring::Taken,
        zmtp::{Decoder, DecoderLimits},
    },
};

const BATCH: usize = 1000;
const TOPICS: usize = 100_000;

/// An owner and a subscriber.
struct Pair {
    nodes: [Node; 2],
    links: [LinkId; 2],
    decoders: [Decoder; 2],
    buffers: [BytesMut; 2],
    sub: SubId,
}

impl Pair {
    fn new() -> Self {
        let mut nodes = [1, 2].map(|id| {
            let mut options = NodeOptions::standard(NodeId(id), 1);
            options.retained_bytes_max = 64 << 20;
            options.send_bytes_max = 64 << 20;
            Node::new(options)
        });
        let bounds = SubscriptionOptions { messages_max: 1 << 16, bytes_max: 64 << 20 };
        let sub = nodes[1].sub_open(bounds, false);
        let info = LinkInfo {
            role: Role::Accepted,
            name: "wire".into(),
            extended: true,
            pings: true,
            sealed: false,
            principal: String::new(),
            named: false,
            shown: false,
        };
        let links = nodes.each_mut().map(|node| node.link_up(info.clone()));
        let decoders = [(); 2].map(|()| Decoder::plain(DecoderLimits::STANDARD));
        let mut pair = Self { nodes, links, decoders, buffers: Default::default(), sub };
        pair.settle();
        pair
    }

    /// Carries all that waits, both ways, until nothing does.
    fn settle(&mut self) {
        loop {
            let mut moved = false;
            for from in 0..2 {
                let mut segments = Vec::new();
                while self.nodes[from].take_outbox(self.links[from], &mut segments) {}
                let to = 1 - from;
                for segment in segments {
                    moved = true;
                    self.buffers[to].extend_from_slice(&segment);
                }
                let batch = self.decoders[to].decode(&mut self.buffers[to]).expect("our own bytes are good");
                self.nodes[to].handle_batch(self.links[to], &batch);
                while self.nodes[from].poll_output().is_some() {}
            }
            if !moved {
                return;
            }
        }
    }

    fn subscribe(&mut self, pattern: &str) {
        self.nodes[1]
            .subscribe(self.sub, TopicPattern::new(pattern).expect("a pattern"))
            .expect("it is known");
        self.settle();
    }

    fn publish(&mut self, payload: &Bytes) {
        let done = self.nodes[0].publish("t", payload, false).expect("it is known");
        assert!(matches!(done, Publish::Done(report) if report.queued == 1), "{done:?}");
    }
}

fn messages(c: &mut Criterion) {
    for (name, len) in [("64 B", 64), ("1 KiB", 1 << 10), ("16 KiB", 16 << 10)] {
        let mut pair = Pair::new();
        pair.nodes[0].topic_create("t", TopicOptions::STANDARD).expect("it is new");
        pair.settle();
        pair.subscribe("t");
        let payload = Bytes::from(vec![7; len]);
        let mut arrivals = Vec::new();
        let mut group = c.benchmark_group("publish to subscribe");
        group.throughput(Throughput::Elements(BATCH as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for _ in 0..BATCH {
                    pair.publish(&payload);
                }
                pair.settle();
                arrivals.clear();
                let mut taken = Taken::default();
                pair.nodes[1].take(pair.sub, usize::MAX, &mut taken);
                arrivals.extend(taken);
                assert_eq!(arrivals.len(), BATCH);
                assert!(
                    matches!(arrivals.last(), Some(Arrival::Message { payload, .. }) if payload.len() == len)
                );
            });
        });
        group.finish();
        assert_eq!(pair.nodes.each_ref().map(|node| node.counters().dropped), [0, 0]);
    }
}

fn topics(c: &mut Criterion) {
    let names: Vec<String> = (0..TOPICS).map(|n| format!("sensor/{n:06}")).collect();
    let created = || {
        let mut pair = Pair::new();
        for name in &names {
            pair.nodes[0].topic_create(name, TopicOptions::STANDARD).expect("it is new");
        }
        pair
    };
    let told = || {
        let mut pair = created();
        pair.settle();
        assert_eq!(pair.nodes[1].list_topics().len(), TOPICS);
        pair
    };
    let mut group = c.benchmark_group("100 000 topics");
    group.sample_size(10).measurement_time(Duration::from_secs(4));
    group.bench_function("create", |bencher| bencher.iter_with_large_drop(created));
    group.bench_function("announce", |bencher| {
        bencher.iter_batched(
            created,
            |mut pair| {
                pair.settle();
                assert_eq!(pair.nodes[1].list_topics().len(), TOPICS);
                pair
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("sync", |bencher| {
        bencher.iter_batched(
            told,
            |mut pair| {
                let sync = pair.nodes[1].sync_begin();
                pair.settle();
                assert!(pair.nodes[1].is_synced(sync));
                assert_eq!(pair.nodes[1].sync_report(sync).answered.len(), 1);
                pair
            },
            BatchSize::PerIteration,
        );
    });
    let subscribe = |pair: &mut Pair, patterns: &[String]| {
        for pattern in patterns {
            let pattern = TopicPattern::new(pattern.as_str()).expect("a pattern");
            pair.nodes[1].subscribe(pair.sub, pattern).expect("it is known");
        }
    };
    let live = |mut pair: Pair, patterns: &[String]| {
        pair.settle();
        for pattern in patterns {
            assert!(
                pair.nodes[1].is_live(pair.sub, &TopicPattern::new(pattern.as_str()).expect("a pattern"))
            );
        }
        pair
    };
    for (name, patterns) in [("by name", &names[..]), ("by pattern", &["sensor/*".to_owned()])] {
        group.bench_function(format!("subscribe {name}"), |bencher| {
            bencher.iter_batched(
                told,
                |mut pair| {
                    subscribe(&mut pair, patterns);
                    pair
                },
                BatchSize::PerIteration,
            );
        });
        group.bench_function(format!("subscribe {name} until live"), |bencher| {
            bencher.iter_batched(
                told,
                |mut pair| {
                    subscribe(&mut pair, patterns);
                    live(pair, patterns)
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, messages, topics);
criterion_main!(benches);
