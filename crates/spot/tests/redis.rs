//! `RedisPubSub` against a real server: the laws of the trait, and what happens when the server goes away.

use std::{sync::Arc, time::Duration};

use spot::{
    PubSub, PubSubError, Received, RedisOptions, RedisPubSub, Subscription, SubscriptionOptions, Topic,
    TopicPattern,
    conformance::{DEADLINE, Group, RedisServer},
};

fn options() -> RedisOptions {
    RedisOptions {
        key_prefix: r"we[f]t?*\:".to_owned(),
        payload_max: 2 << 20,
        backoff_max: Duration::from_millis(100),
        ping_interval: Duration::from_millis(200),
        response_timeout: Duration::from_millis(500),
        ..RedisOptions::standard()
    }
}

async fn connect(server: &RedisServer) -> RedisPubSub {
    RedisPubSub::connect(&server.url(), options()).await.unwrap()
}

async fn group(members: usize) -> Group {
    let server = RedisServer::start().await;
    let mut group = Group { members: Vec::new(), payload_max: 2 << 20, guard: Box::new(()) };
    for _ in 0..members {
        let patient = RedisOptions { response_timeout: Duration::from_secs(10), ..options() };
        group.members.push(Arc::new(RedisPubSub::connect(&server.url(), patient).await.unwrap()));
    }
    group.guard = Box::new(server);
    group
}

spot::conformance_tests!(group, #[ignore = "needs redis-server"]);

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

async fn subscribe(hub: &RedisPubSub, pattern: &str) -> Subscription {
    hub.subscribe(TopicPattern::new(pattern).unwrap(), SubscriptionOptions::STANDARD).await.unwrap()
}

async fn next(subscription: &mut Subscription) -> Received {
    tokio::time::timeout(DEADLINE, subscription.recv()).await.expect("something comes").expect("open")
}

/// Publishes again and again until the server is back.
async fn publish(hub: &RedisPubSub, name: &str, payload: &str) {
    let until_sent = async {
        while let Err(error) = hub.publish(&topic(name), payload.to_owned().into()).await {
            assert!(matches!(error, PubSubError::Disconnected(_) | PubSubError::Timeout(_)), "{error}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, until_sent).await.expect("the server comes back");
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, holds).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

fn text(received: Received) -> String {
    match received {
        Received::Message(message) => String::from_utf8(message.payload.to_vec()).unwrap(),
        other => panic!("expected a message, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs redis-server"]
async fn every_subscription_is_live_again_after_a_crash_of_the_server_and_told_of_the_gap() {
    let mut server = RedisServer::start().await;
    let hub = connect(&server).await;
    let mut subscriptions = Vec::new();
    for number in 0..600 {
        subscriptions.push(subscribe(&hub, &format!("t{number}")).await);
    }
    for pattern in ["t*", "*", "t1"] {
        subscriptions.push(subscribe(&hub, pattern).await);
    }
    for round in 0..3 {
        server.kill();
        until("the loss is noticed", || !hub.is_connected()).await;
        let refused = hub.publish(&topic("t1"), "lost".into()).await;
        assert!(matches!(refused, Err(PubSubError::Disconnected(_))), "{refused:?}");
        server.restart().await;
        until("the server is found again", || hub.is_connected()).await;
        // Connected means that everybody is live again.
        for number in 0..600 {
            publish(&hub, &format!("t{number}"), &round.to_string()).await;
        }
        for subscription in &mut subscriptions[..600] {
            assert!(matches!(next(subscription).await, Received::Gap { .. }));
            assert_eq!(text(next(subscription).await), round.to_string());
            assert_eq!(subscription.try_recv(), None);
        }
        for subscription in &mut subscriptions[600..602] {
            assert!(matches!(next(subscription).await, Received::Gap { .. }));
            for _ in 0..600 {
                assert_eq!(text(next(subscription).await), round.to_string());
            }
        }
        assert!(matches!(next(&mut subscriptions[602]).await, Received::Gap { .. }));
        assert_eq!(text(next(&mut subscriptions[602]).await), round.to_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs redis-server"]
async fn nothing_is_missing_without_a_gap_and_nothing_comes_twice() {
    let mut server = RedisServer::start().await;
    let (publisher, hub) = (connect(&server).await, connect(&server).await);
    let options = SubscriptionOptions { messages_max: 1 << 20, bytes_max: 1 << 30 };
    let mut subscription = hub.subscribe(topic("load").into(), options).await.unwrap();
    let load = tokio::spawn(async move {
        let mut number = 0u32;
        let mut failed = Vec::new();
        loop {
            match publisher.publish(&topic("load"), number.to_string().into()).await {
                Ok(_) => {}
                Err(PubSubError::Closed) => break,
                Err(_) => {
                    failed.push(number);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
            number += 1;
            if number > 100_000 || failed.len() > 20_000 {
                break;
            }
        }
        failed
    });
    let (mut last, mut gaps, mut kills) = (None::<u32>, 0, 0);
    let mut holes_allowed = false;
    let mut since_gap = 0;
    while gaps < 5 || since_gap < 200 {
        match next(&mut subscription).await {
            Received::Message(message) => {
                let number: u32 = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
                if let Some(last) = last {
                    assert!(number > last, "{number} after {last}");
                    assert!(number == last + 1 || holes_allowed, "{number} after {last} without a gap");
                }
                // The publisher's own connection may come back a little after ours: its failed numbers are not ours
                // to report, and it stops failing before it succeeds.
                holes_allowed = false;
                last = Some(number);
                since_gap += 1;
            }
            Received::Gap { .. } => {
                gaps += 1;
                since_gap = 0;
                holes_allowed = true;
            }
            other => panic!("{other:?}"),
        }
        if since_gap == 200 && kills < 5 {
            kills += 1;
            server.kill();
            server.restart().await;
        }
    }
    assert_eq!((gaps, kills), (5, 5));
    load.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs redis-server"]
async fn a_frozen_server_is_noticed_and_its_late_answers_are_not_mixed_in() {
    let server = RedisServer::start().await;
    let hub = connect(&server).await;
    let mut subscription = subscribe(&hub, "t").await;
    server.signal("STOP");
    until("the silence is noticed", || !hub.is_connected()).await;
    server.signal("CONT");
    publish(&hub, "t", "back").await;
    assert!(matches!(next(&mut subscription).await, Received::Gap { .. }));
    assert_eq!(text(next(&mut subscription).await), "back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs redis-server"]
async fn subscribe_waits_for_a_server_that_is_away_and_is_then_live() {
    let mut server = RedisServer::start().await;
    let hub = connect(&server).await;
    server.kill();
    until("the loss is noticed", || !hub.is_connected()).await;
    let waiting = {
        let hub = hub.clone();
        tokio::spawn(async move { subscribe(&hub, "t").await })
    };
    server.restart().await;
    let mut subscription = tokio::time::timeout(DEADLINE, waiting).await.unwrap().unwrap();
    publish(&hub, "t", "hello").await;
    assert_eq!(text(next(&mut subscription).await), "hello");

    server.kill();
    let impatient = RedisOptions { subscribe_timeout: Duration::from_millis(50), ..options() };
    server.restart().await;
    let hub = RedisPubSub::connect(&server.url(), impatient).await.unwrap();
    server.kill();
    until("the loss is noticed", || !hub.is_connected()).await;
    let refused = hub.subscribe(topic("t").into(), SubscriptionOptions::STANDARD).await;
    assert!(matches!(refused, Err(PubSubError::Timeout(_))));
    hub.close().await;
    assert!(matches!(hub.publish(&topic("t"), "late".into()).await, Err(PubSubError::Closed)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs redis-server"]
async fn redis_is_told_when_the_last_subscription_of_a_pattern_goes() {
    let server = RedisServer::start().await;
    let hub = connect(&server).await;
    let (one, two) = (subscribe(&hub, "t").await, subscribe(&hub, "t").await);
    let delivered = async || hub.publish(&topic("t"), "x".into()).await.unwrap().delivered;
    assert_eq!(delivered().await, 1);
    drop(one);
    assert_eq!(delivered().await, 1);
    drop(two);
    let told = async {
        while delivered().await > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, told).await.expect("redis forgets the channel");
}

/// Callers that gave up while the server was away leave nothing behind when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs redis-server"]
async fn nothing_is_subscribed_for_who_gave_up() {
    const COUNT: usize = 100;
    let mut server = RedisServer::start().await;
    let impatient = RedisOptions { subscribe_timeout: Duration::from_millis(50), ..options() };
    let hub = RedisPubSub::connect(&server.url(), impatient).await.unwrap();
    let patient = connect(&server).await;
    server.kill();
    until("the loss is noticed", || !hub.is_connected()).await;
    let topics: Vec<_> = (0..COUNT).map(|number| topic(&format!("given-up-{number}"))).collect();
    let calls = topics.iter().map(|topic| hub.subscribe(topic.clone().into(), SubscriptionOptions::STANDARD));
    for given_up in calls.collect::<Vec<_>>() {
        assert!(matches!(given_up.await, Err(PubSubError::Timeout(_))));
    }
    server.restart().await;
    publish(&patient, "any", "the server is back").await;
    until("the connection is back", || hub.is_connected()).await;
    let nobody_listens = async {
        for topic in &topics {
            while patient.publish(topic, "x".into()).await.unwrap().delivered > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    tokio::time::timeout(DEADLINE, nobody_listens).await.expect("what nobody waits for is not subscribed");
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn groups_with_different_prefixes_share_a_server() {
    let server = RedisServer::start().await;
    let ours = connect(&server).await;
    let other = RedisOptions { key_prefix: "weft??:".to_owned(), ..options() };
    let other = RedisPubSub::connect(&server.url(), other).await.unwrap();
    let mut all = subscribe(&other, "*").await;
    publish(&ours, "t", "ours").await;
    publish(&other, "t", "theirs").await;
    assert_eq!(text(next(&mut all).await), "theirs");
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_refused_subscription_does_not_take_others_with_it() {
    let server = RedisServer::start().await;
    let (url, _admin) = user(&server, &["&weft:free*"]).await;
    let hub = RedisPubSub::connect(&url, RedisOptions::standard()).await.unwrap();
    let try_subscribe = |name: &str| hub.subscribe(topic(name).into(), SubscriptionOptions::STANDARD);
    let (free, secret, free_too) =
        tokio::join!(try_subscribe("free"), try_subscribe("secret"), try_subscribe("free2"));
    assert!(matches!(secret, Err(PubSubError::Refused(_))));
    let refused = hub.publish(&topic("secret"), "x".into()).await;
    assert!(matches!(refused, Err(PubSubError::Refused(_))), "{refused:?}");
    for (name, subscription) in [("free", free), ("free2", free_too)] {
        publish(&hub, name, name).await;
        assert_eq!(text(next(&mut subscription.unwrap()).await), name);
    }
}

/// A user of the server who may do so much, and the administrator's connection.
async fn user(server: &RedisServer, may: &[&str]) -> (String, redis::aio::MultiplexedConnection) {
    let client = redis::Client::open(server.url()).unwrap();
    let mut admin = client.get_multiplexed_async_connection().await.unwrap();
    let acl = [&["SETUSER", "bob", "on", ">secret", "+@all", "resetchannels"], may].concat();
    redis::cmd("ACL").arg(&acl).query_async::<()>(&mut admin).await.unwrap();
    (server.url().replace("redis://", "redis://bob:secret@"), admin)
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_server_that_refuses_to_be_pinged_is_not_away() {
    let server = RedisServer::start().await;
    let (url, mut admin) = user(&server, &["-ping", "&weft:*"]).await;
    let quick = RedisOptions { ping_interval: Duration::from_millis(5), ..RedisOptions::standard() };
    let hub = RedisPubSub::connect(&url, quick).await.unwrap();
    let mut free = subscribe(&hub, "free").await;
    let refused = async {
        loop {
            let stats: String = redis::cmd("INFO").arg("commandstats").query_async(&mut admin).await.unwrap();
            let ping = stats.lines().find(|line| line.starts_with("cmdstat_ping:"));
            let pings = ping.and_then(|line| line.split("rejected_calls=").nth(1)?.split(',').next());
            if pings.is_some_and(|count| count.parse::<u32>().unwrap() >= 5) {
                break;
            }
        }
    };
    tokio::time::timeout(DEADLINE, refused).await.expect("it is pinged");
    publish(&hub, "free", "there").await;
    assert_eq!(text(next(&mut free).await), "there");
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn what_is_refused_after_a_reconnect_does_not_keep_the_others_away() {
    let server = RedisServer::start().await;
    let (url, mut admin) = user(&server, &["&weft:free", "&weft:secret"]).await;
    let hub = RedisPubSub::connect(&url, RedisOptions::standard()).await.unwrap();
    let (mut free, mut secret) = (subscribe(&hub, "free").await, subscribe(&hub, "secret").await);
    // Redis ends the connections of those who listen to what they may not hear any more.
    let acl = ["SETUSER", "bob", "resetchannels", "&weft:free"];
    redis::cmd("ACL").arg(&acl).query_async::<()>(&mut admin).await.unwrap();
    let Received::Gap { reason, .. } = next(&mut secret).await else { panic!("nothing was published") };
    assert!(reason.contains("not subscribed again"), "{reason}");
    assert!(matches!(next(&mut free).await, Received::Gap { .. }));
    publish(&hub, "free", "there").await;
    assert_eq!(text(next(&mut free).await), "there");
}

/// Rights that come back end no connection, so nothing but asking tells.
#[tokio::test]
#[ignore = "needs redis-server"]
async fn what_was_refused_is_live_again_when_the_server_lets_it() {
    for asked_by in ["a ping", "a new subscriber"] {
        let server = RedisServer::start().await;
        let (url, mut admin) = user(&server, &["&weft:free", "&weft:secret"]).await;
        let ping_interval = Duration::from_millis(if asked_by == "a ping" { 5 } else { 1_000_000 });
        let hub = RedisPubSub::connect(&url, RedisOptions { ping_interval, ..RedisOptions::standard() });
        let hub = hub.await.unwrap();
        let mut secret = subscribe(&hub, "secret").await;
        for (channels, reason) in [(&[][..], "not subscribed again"), (&["&weft:secret"], "had refused it")] {
            let acl = [&["SETUSER", "bob", "resetchannels", "&weft:free"], channels].concat();
            redis::cmd("ACL").arg(&acl).query_async::<()>(&mut admin).await.unwrap();
            let late = match (asked_by, channels) {
                ("a new subscriber", [_]) => Some(subscribe(&hub, "secret").await),
                _ => None,
            };
            let Received::Gap { reason: told, .. } = next(&mut secret).await else { panic!("a message") };
            assert!(told.contains(reason), "{told}");
            if let Some(mut late) = late {
                assert!(matches!(next(&mut late).await, Received::Gap { .. }));
                publish(&hub, "secret", "there").await;
                assert_eq!(text(next(&mut late).await), "there");
            } else if !channels.is_empty() {
                publish(&hub, "secret", "there").await;
            }
        }
        assert_eq!(text(next(&mut secret).await), "there");
    }
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn what_is_no_topic_is_refused_and_counted() {
    let server = RedisServer::start().await;
    let hub = connect(&server).await;
    let mut all = subscribe(&hub, "*").await;
    let client = redis::Client::open(server.url()).unwrap();
    let mut stranger = client.get_multiplexed_async_connection().await.unwrap();
    let prefix = options().key_prefix;
    for channel in [format!("{prefix}a*b"), prefix.clone(), format!("{prefix}{}", "x".repeat(256))] {
        redis::cmd("PUBLISH").arg(channel).arg("bad").query_async::<()>(&mut stranger).await.unwrap();
    }
    publish(&hub, "t", "good").await;
    assert_eq!(text(next(&mut all).await), "good");
    assert_eq!(hub.refused(), 3);
}

#[tokio::test]
async fn nobody_there_is_an_error_that_says_so() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = RedisPubSub::connect(&format!("redis://{free}"), options()).await;
    assert!(matches!(refused, Err(PubSubError::Disconnected(_))));
    let refused = RedisPubSub::connect("http://nonsense", options()).await;
    assert!(matches!(refused, Err(PubSubError::Refused(_))));
}
