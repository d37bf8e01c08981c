//! One message to 1, 100 and 1 000 subscribers in process, read by all of them.

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use spot::{MemoryPubSub, Received, SubscriptionOptions, Topic};

fn fanout(c: &mut Criterion) {
    let mut group = c.benchmark_group("memory_fanout");
    for subscribers in [1, 100, 1_000] {
        let (hub, topic) = (MemoryPubSub::new(), Topic::new("t").unwrap());
        let subscribe = |_| hub.subscribe_now(topic.clone().into(), SubscriptionOptions::STANDARD).unwrap();
        let mut readers: Vec<_> = (0..subscribers).map(subscribe).collect();
        let payload = Bytes::from(vec![7; 64]);
        group.throughput(Throughput::Elements(subscribers));
        group.bench_function(BenchmarkId::from_parameter(subscribers), |b| {
            b.iter(|| {
                let published = hub.publish_now(&topic, payload.clone()).unwrap();
                assert_eq!(published.delivered as u64, subscribers);
                for reader in &mut readers {
                    assert!(matches!(reader.try_recv(), Some(Received::Message(_))));
                }
            });
        });
    }
}

criterion_group!(benches, fanout);
criterion_main!(benches);
