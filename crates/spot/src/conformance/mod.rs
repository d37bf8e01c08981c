//! The laws of [`PubSub`] as tests that every transport has to pass.
//!
//! ```text
//! async fn group(members: usize) -> Group { … }
//! spot::conformance_tests!(group, #[ignore = "needs redis-server"]);
//! ```

#[cfg(feature = "redis")]
mod redis_server;

use std::{any::Any, collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{Message, PubSub, PubSubError, Received, Subscription, SubscriptionOptions, Topic, TopicPattern};

#[cfg(feature = "redis")]
pub use redis_server::RedisServer;

/// How long anything may take before a law counts as broken. Long, because a loaded machine breaks no law.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// One of a group's transports.
pub type Member = Arc<dyn PubSub>;

/// Connected transports, as if in so many processes.
pub struct Group {
    /// What is published with one of them comes to the subscribers of all.
    pub members: Vec<Member>,
    /// The largest payload; one byte more is [`PubSubError::TooLarge`].
    pub payload_max: usize,
    /// Kept until the test is over: a server, for instance.
    pub guard: Box<dyn Any + Send>,
}

/// Makes one test per law. Takes an async function from a number of members to a [`Group`], then attributes for the
/// tests. The calling crate needs tokio with `macros` and `rt-multi-thread`.
#[macro_export]
macro_rules! conformance_tests {
    ($group:path $(, #[$attr:meta])*) => {
        $crate::conformance_tests!(@each $group; ($(#[$attr])*);
            subscription_is_live_on_return,
            publisher_order_is_kept_and_nothing_comes_twice,
            every_subscriber_gets_its_own_copy,
            patterns_match_whole_prefixes,
            overlapping_subscriptions_each_get_one_copy,
            glob_characters_are_only_characters,
            lag_is_counted_exactly_and_in_its_place,
            slow_subscriber_slows_nobody,
            dropped_subscription_takes_no_more,
            cancelled_recv_loses_nothing,
            payloads_of_every_size_come_whole,
            too_large_payload_is_refused,
            close_ends_subscriptions_after_what_they_hold,
            nobody_there_is_no_error,
        );
    };
    (@each $group:path; $attrs:tt; $($law:ident),* $(,)?) => {
        $( $crate::conformance_tests!(@one $group; $attrs; $law); )*
    };
    (@one $group:path; ($($attr:tt)*); $law:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        $($attr)*
        async fn $law() {
            $crate::conformance::$law($group(2).await).await;
        }
    };
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let result = tokio::time::timeout(DEADLINE, future).await;
    result.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"))
}

fn topic(name: &str) -> Topic {
    Topic::new(name).expect("the suite's topics are good")
}

async fn subscribe(member: &Member, pattern: &str) -> Subscription {
    subscribe_with(member, pattern, SubscriptionOptions::STANDARD).await
}

async fn subscribe_with(member: &Member, pattern: &str, options: SubscriptionOptions) -> Subscription {
    let pattern = TopicPattern::new(pattern).expect("the suite's patterns are good");
    soon("subscribe", member.subscribe(pattern, options)).await.expect("subscribe")
}

async fn publish(member: &Member, name: &str, payload: impl Into<Bytes>) {
    soon("publish", member.publish(&topic(name), payload.into())).await.expect("publish");
}

async fn message(subscription: &mut Subscription) -> Message {
    match soon("a message", subscription.recv()).await {
        Some(Received::Message(message)) => message,
        other => panic!("expected a message, got {other:?}"),
    }
}

async fn expect(subscription: &mut Subscription, name: &str, payload: impl Into<Bytes>) {
    assert_eq!(message(subscription).await, Message { topic: topic(name), payload: payload.into() });
}

/// Publisher and subscriber in the same process, and in two.
fn pairs(group: &Group) -> [(&Member, &Member); 3] {
    let [a, b, ..] = &group.members[..] else { panic!("a group has two members") };
    [(a, a), (a, b), (b, a)]
}

/// A message published after `subscribe` has returned comes, without any pause in between.
pub async fn subscription_is_live_on_return(group: Group) {
    for round in 0..20 {
        for (from, to) in pairs(&group) {
            let name = format!("live/{round}");
            let mut subscription = subscribe(to, &name).await;
            publish(from, &name, "now").await;
            expect(&mut subscription, &name, "now").await;
        }
    }
}

/// Two publishers to two topics: each topic shows each publisher's messages in order, none twice, none missing.
pub async fn publisher_order_is_kept_and_nothing_comes_twice(group: Group) {
    const COUNT: u32 = 300;
    let options = SubscriptionOptions { messages_max: 4 * COUNT as usize, bytes_max: 1 << 20 };
    for (_, to) in pairs(&group) {
        let mut subscription = subscribe_with(to, "order/*", options).await;
        let publishers = group.members.iter().take(2).enumerate().map(|(who, member)| {
            let member = Arc::clone(member);
            tokio::spawn(async move {
                for number in 0..COUNT {
                    for name in ["order/x", "order/y"] {
                        publish(&member, name, format!("{who} {number}")).await;
                    }
                }
            })
        });
        let publishers: Vec<_> = publishers.collect();
        let mut next = BTreeMap::new();
        for _ in 0..4 * COUNT {
            let message = message(&mut subscription).await;
            let text = String::from_utf8(message.payload.to_vec()).expect("sent as text");
            let (who, number) = text.split_once(' ').expect("sent as two words");
            let expected = next.entry((message.topic, who.to_owned())).or_insert(0);
            assert_eq!(number, expected.to_string());
            *expected += 1;
        }
        for publisher in publishers {
            publisher.await.expect("publisher");
        }
        publish(to, "order/end", "end").await;
        expect(&mut subscription, "order/end", "end").await;
    }
}

/// Ten subscriptions to one topic in each process.
pub async fn every_subscriber_gets_its_own_copy(group: Group) {
    let mut subscriptions = Vec::new();
    for member in &group.members {
        for _ in 0..10 {
            subscriptions.push(subscribe(member, "copy").await);
        }
    }
    for number in 0..10 {
        publish(&group.members[number % 2], "copy", number.to_string()).await;
        for subscription in &mut subscriptions {
            expect(subscription, "copy", number.to_string()).await;
        }
    }
}

/// A prefix matches what starts with it, itself included; an exact topic only itself.
pub async fn patterns_match_whole_prefixes(group: Group) {
    for (from, to) in pairs(&group) {
        let mut prefix = subscribe(to, "game:*").await;
        let mut exact = subscribe(to, "game:").await;
        let mut all = subscribe(to, "*").await;
        for name in ["game", "game:", "game:a", "gamf:", "game:a:b", "é"] {
            publish(from, name, name.to_owned()).await;
            expect(&mut all, name, name.to_owned()).await;
        }
        for name in ["game:", "game:a", "game:a:b"] {
            expect(&mut prefix, name, name.to_owned()).await;
        }
        expect(&mut exact, "game:", "game:").await;
        publish(from, "game:", "end").await;
        expect(&mut prefix, "game:", "end").await;
        expect(&mut exact, "game:", "end").await;
    }
}

/// Subscriptions of one process that match the same topic by different patterns don't multiply its messages.
pub async fn overlapping_subscriptions_each_get_one_copy(group: Group) {
    for (from, to) in pairs(&group) {
        let mut subscriptions = Vec::new();
        for pattern in ["over/a", "over/a", "over/*", "over/a*", "*"] {
            subscriptions.push(subscribe(to, pattern).await);
        }
        for number in 0..5 {
            publish(from, "over/a", number.to_string()).await;
        }
        for subscription in &mut subscriptions {
            for number in 0..5 {
                expect(subscription, "over/a", number.to_string()).await;
            }
        }
    }
}

/// What other systems take for a wildcard is an ordinary character here.
pub async fn glob_characters_are_only_characters(group: Group) {
    for (from, to) in pairs(&group) {
        for prefix in ["g[ab]", "g?", "g\\", "g[^a]", "g #+>"] {
            let mut subscription = subscribe(to, &format!("{prefix}*")).await;
            for name in ["ga", "gb", "gxx", "g"] {
                publish(from, name, "wrong").await;
            }
            let name = format!("{prefix}!");
            publish(from, &name, "right").await;
            expect(&mut subscription, &name, "right").await;
        }
    }
}

/// A reader that stopped learns how many messages it missed, at the place where they are missing.
pub async fn lag_is_counted_exactly_and_in_its_place(group: Group) {
    const COUNT: u64 = 200;
    for (from, to) in pairs(&group) {
        for options in [
            SubscriptionOptions { messages_max: 7, bytes_max: 1 << 20 },
            SubscriptionOptions { messages_max: 1000, bytes_max: 100 },
        ] {
            let mut slow = subscribe_with(to, "lag", options).await;
            let mut witness = subscribe(to, "lag").await;
            for number in 0..COUNT {
                publish(from, "lag", format!("{number:010}")).await;
            }
            for number in 0..COUNT {
                expect(&mut witness, "lag", format!("{number:010}")).await;
            }
            let (mut accounted, mut lagged) = (0, 0);
            while accounted < COUNT {
                match soon("the rest of the messages", slow.recv()).await {
                    Some(Received::Message(message)) => {
                        assert_eq!(message.payload, format!("{accounted:010}"));
                        accounted += 1;
                    }
                    Some(Received::Lagged { missed }) => {
                        accounted += missed;
                        lagged += missed;
                    }
                    other => panic!("expected messages or lag, got {other:?}"),
                }
            }
            assert!(lagged >= COUNT - 11, "the bounds do not bound: only {lagged} of {COUNT} were dropped");
            assert_eq!(accounted, COUNT);
        }
    }
}

/// A subscription that nobody reads neither stops publishers nor other readers.
pub async fn slow_subscriber_slows_nobody(group: Group) {
    const COUNT: usize = 2_000;
    for (from, to) in pairs(&group) {
        let options = SubscriptionOptions { messages_max: 2, bytes_max: 1 << 20 };
        let _frozen = subscribe_with(to, "slow", options).await;
        let options = SubscriptionOptions { messages_max: COUNT, bytes_max: 8 << 20 };
        let mut healthy = subscribe_with(to, "slow", options).await;
        for number in 0..COUNT {
            publish(from, "slow", number.to_string()).await;
        }
        for number in 0..COUNT {
            expect(&mut healthy, "slow", number.to_string()).await;
        }
    }
}

/// After a drop the next subscription starts empty, and the others go on.
pub async fn dropped_subscription_takes_no_more(group: Group) {
    for (from, to) in pairs(&group) {
        let mut stays = subscribe(to, "drop").await;
        for round in 0..10 {
            let gone = subscribe(to, "drop").await;
            publish(from, "drop", format!("{round} before")).await;
            expect(&mut stays, "drop", format!("{round} before")).await;
            drop(gone);
            publish(from, "drop", format!("{round} after")).await;
            expect(&mut stays, "drop", format!("{round} after")).await;
        }
        drop(stays);
        publish(from, "drop", "into the void").await;
        let mut new = subscribe(to, "drop").await;
        publish(from, "drop", "new").await;
        let first = message(&mut new).await;
        // A broker may still be on its way with what was published just before; it must not come twice or wrong.
        if first.payload == "into the void" {
            expect(&mut new, "drop", "new").await;
        } else {
            assert_eq!(first.payload, "new");
        }
    }
}

/// Giving up on `recv` at any moment loses no message.
pub async fn cancelled_recv_loses_nothing(group: Group) {
    const COUNT: usize = 500;
    for (from, to) in pairs(&group) {
        let mut subscription = subscribe(to, "cancel").await;
        let from = Arc::clone(from);
        let publisher = tokio::spawn(async move {
            for number in 0..COUNT {
                publish(&from, "cancel", number.to_string()).await;
            }
        });
        let mut received = 0;
        while received < COUNT {
            let next = soon("a message, sooner or later", async {
                loop {
                    tokio::select! {
                        biased;
                        next = subscription.recv() => return next,
                        () = tokio::task::yield_now() => {}
                    }
                }
            });
            match next.await {
                Some(Received::Message(message)) => assert_eq!(message.payload, received.to_string()),
                other => panic!("expected message {received}, got {other:?}"),
            }
            received += 1;
        }
        publisher.await.expect("publisher");
    }
}

/// Empty, small, larger than any buffer on the way, and bytes of every value.
pub async fn payloads_of_every_size_come_whole(group: Group) {
    for (from, to) in pairs(&group) {
        let mut subscription = subscribe(to, "size").await;
        for len in [0, 1, 2, 255, 256, 4095, 4096, 65_537, (1 << 20) + 1] {
            let payload: Vec<u8> = (0..len.min(group.payload_max)).map(|i| (i % 251) as u8).collect();
            publish(from, "size", payload.clone()).await;
            expect(&mut subscription, "size", payload).await;
        }
        let every_byte: Vec<u8> = (0..=255).collect();
        publish(from, "size", every_byte.clone()).await;
        expect(&mut subscription, "size", every_byte).await;
    }
}

/// One byte above the bound is an error that names both numbers, and the next message goes through.
pub async fn too_large_payload_is_refused(group: Group) {
    let max = group.payload_max;
    for (from, to) in pairs(&group) {
        let mut subscription = subscribe(to, "large").await;
        let refused = from.publish(&topic("large"), vec![0; max + 1].into()).await;
        assert!(
            matches!(refused, Err(PubSubError::TooLarge { len, max: bound }) if len == max + 1 && bound == max),
            "expected a refusal, got {refused:?}"
        );
        publish(from, "large", "small").await;
        expect(&mut subscription, "large", "small").await;
    }
}

/// A reader gets what was there when the transport was closed, then the end; nothing else works any more.
pub async fn close_ends_subscriptions_after_what_they_hold(group: Group) {
    let (from, to) = (&group.members[0], &group.members[1]);
    let mut reader = subscribe(to, "close").await;
    let mut witness = subscribe(to, "close").await;
    publish(from, "close", "first").await;
    publish(from, "close", "last").await;
    expect(&mut witness, "close", "first").await;
    expect(&mut witness, "close", "last").await;
    expect(&mut reader, "close", "first").await;
    let mut waiting = subscribe(to, "silence").await;
    let waits = tokio::spawn(async move { waiting.recv().await });

    soon("close", to.close()).await;
    assert_eq!(soon("the end of a waiting subscription", waits).await.expect("task"), None);
    assert_eq!(soon("the end", witness.recv()).await, None);
    // Handed to the witness a moment earlier, so it may or may not have been in this queue.
    match soon("the last message or the end", reader.recv()).await {
        Some(Received::Message(message)) => {
            assert_eq!(message.payload, "last");
            assert_eq!(soon("the end", reader.recv()).await, None);
        }
        other => assert_eq!(other, None),
    }
    assert_eq!(reader.try_recv(), None);

    let refused = soon("publish", to.publish(&topic("close"), "late".into())).await;
    assert!(matches!(refused, Err(PubSubError::Closed)), "got {refused:?}");
    let pattern = TopicPattern::from(topic("close"));
    let refused = soon("subscribe", to.subscribe(pattern, SubscriptionOptions::STANDARD)).await;
    assert!(matches!(refused, Err(PubSubError::Closed)));
    soon("close again", to.close()).await;
}

/// Publishing without subscribers works and costs nothing.
pub async fn nobody_there_is_no_error(group: Group) {
    for (from, _) in pairs(&group) {
        publish(from, "nobody", "hello").await;
    }
}
