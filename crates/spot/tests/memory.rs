//! `MemoryPubSub` against the laws of the trait, and under many threads.

use std::{sync::Arc, time::Duration};

use spot::{
    MemoryPubSub, Received, Subscription, SubscriptionOptions, Topic, TopicPattern, conformance::Group,
};

async fn group(members: usize) -> Group {
    let hub = MemoryPubSub::with_payload_max(2 << 20);
    let members = (0..members).map(|_| Arc::new(hub.clone()) as _).collect();
    Group { members, payload_max: 2 << 20, guard: Box::new(()) }
}

spot::conformance_tests!(group);

const DEADLINE: Duration = Duration::from_secs(60);

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

/// Reads to the end. Checks the account of each publisher: its numbers ascend, and over all publishers what was read
/// plus what was missed is what was published since the subscription.
async fn read_all(mut subscription: Subscription, publishers: usize, pause_every: u64) -> (u64, u64) {
    let mut last = vec![None; publishers];
    let (mut read, mut missed) = (0, 0);
    while let Some(next) = subscription.recv().await {
        match next {
            Received::Message(message) => {
                let bytes: [u8; 16] = message.payload[..].try_into().unwrap();
                let who = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
                let number = u64::from_le_bytes(bytes[8..].try_into().unwrap());
                assert!(last[who] < Some(number), "publisher {who}: {number} after {:?}", last[who]);
                last[who] = Some(number);
                read += 1;
                if pause_every > 0 && read % pause_every == 0 {
                    tokio::task::yield_now().await;
                }
            }
            Received::Lagged { missed: more } => missed += more,
            other => panic!("{other:?}"),
        }
    }
    (read, missed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn accounts_stay_exact_under_many_threads() {
    const PUBLISHERS: usize = 4;
    const COUNT: u64 = 20_000;
    let hub = MemoryPubSub::new();
    let readers: Vec<_> = [(4, 1), (64, 7), (1_000_000, 0)]
        .into_iter()
        .flat_map(|(messages_max, pause_every)| {
            ["load", "lo*"].map(|pattern| {
                let options = SubscriptionOptions { messages_max, bytes_max: usize::MAX };
                let subscription = hub.subscribe_now(TopicPattern::new(pattern).unwrap(), options).unwrap();
                (messages_max, tokio::spawn(read_all(subscription, PUBLISHERS, pause_every)))
            })
        })
        .collect();
    // Subscriptions come and go all the time next to those that are measured.
    let churn = {
        let hub = hub.clone();
        tokio::spawn(async move {
            let mut kept = std::collections::VecDeque::new();
            for round in 0..5_000 {
                let pattern = TopicPattern::new(["load", "l*", "other"][round % 3]).unwrap();
                kept.push_back(hub.subscribe_now(pattern, SubscriptionOptions::STANDARD).unwrap());
                if kept.len() > round % 7 {
                    kept.pop_front();
                }
                tokio::task::yield_now().await;
            }
        })
    };
    let publishers: Vec<_> = (0..PUBLISHERS as u64)
        .map(|who| {
            let hub = hub.clone();
            std::thread::spawn(move || {
                for number in 0..COUNT {
                    let payload = [who.to_le_bytes(), number.to_le_bytes()].concat();
                    hub.publish_now(&topic("load"), payload.into()).unwrap();
                }
            })
        })
        .collect();
    tokio::task::spawn_blocking(|| publishers.into_iter().for_each(|p| p.join().unwrap())).await.unwrap();
    churn.await.unwrap();
    drop(hub);
    for (messages_max, reader) in readers {
        let (read, missed) = tokio::time::timeout(DEADLINE, reader).await.unwrap().unwrap();
        assert_eq!(read + missed, PUBLISHERS as u64 * COUNT, "ring of {messages_max}");
        if messages_max == 1_000_000 {
            assert_eq!(missed, 0);
        }
    }
}

/// One message at a time goes back and forth between two threads: a single lost wake-up stops the game for ever. Every
/// second wait is given up once and begun again, so a stale waker would be found too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_wake_up_is_lost() {
    const ROUNDS: u32 = 50_000;
    let hub = MemoryPubSub::new();
    let play = |name: &'static str, other: &'static str, first: bool| {
        let hub = hub.clone();
        let mut subscription = hub.subscribe_now(topic(name).into(), SubscriptionOptions::STANDARD).unwrap();
        async move {
            if first {
                hub.publish_now(&topic(other), "0".into()).unwrap();
            }
            for round in 0..ROUNDS {
                let next = if round % 2 == 0 {
                    tokio::select! {
                        biased;
                        next = subscription.recv() => next,
                        () = tokio::task::yield_now() => subscription.recv().await,
                    }
                } else {
                    subscription.recv().await
                };
                assert!(matches!(next, Some(Received::Message(_))));
                hub.publish_now(&topic(other), round.to_string().into()).unwrap();
            }
        }
    };
    // Both subscribe before either plays, or the first message may find nobody.
    let (ping, pong) = (play("ping", "pong", true), play("pong", "ping", false));
    let (ping, pong) = (tokio::spawn(ping), tokio::spawn(pong));
    tokio::time::timeout(DEADLINE, async { tokio::try_join!(ping, pong) }).await.unwrap().unwrap();
}

/// A reader that always finds something lets the other tasks of its thread run.
#[tokio::test(flavor = "current_thread")]
async fn a_busy_reader_does_not_starve_its_neighbours() {
    let hub = MemoryPubSub::new();
    let mut subscription = hub.subscribe_now(topic("t").into(), SubscriptionOptions::STANDARD).unwrap();
    hub.publish_now(&topic("t"), "x".into()).unwrap();
    let flag = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let neighbour = Arc::clone(&flag);
    tokio::spawn(async move { neighbour.store(true, std::sync::atomic::Ordering::Relaxed) });
    let mut turns = 0;
    while !flag.load(std::sync::atomic::Ordering::Relaxed) {
        subscription.recv().await.unwrap();
        hub.publish_now(&topic("t"), "x".into()).unwrap();
        turns += 1;
        assert!(turns < 100_000, "the neighbour never ran");
    }
}
