//! Nodes in processes of their own, on networks of their own: stopped, killed, cut off.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use bytes::Bytes;
use spot::{
    SubscriptionOptions,
    cluster::{Arrival, Policy, Spot, SpotOptions, TopicOptions},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// A process that is killed when the test is over, and its lines.
struct Running {
    process: Child,
    lines: Receiver<String>,
    errors: Receiver<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn lines(from: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (said, heard) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if said.send(line).is_err() {
                return;
            }
        }
    });
    heard
}

fn start(mut command: Command) -> Running {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (process.stdout.take().unwrap(), process.stderr.take().unwrap());
    Running { process, lines: lines(out), errors: lines(err) }
}

/// The first line that says this; those before it are of no interest.
fn line(of: &Receiver<String>, says: &str) -> String {
    loop {
        let line = of.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("nothing said `{says}` in time"));
        if line.contains(says) {
            return line;
        }
    }
}

fn signal(process: &Child, name: &str) {
    let done = Command::new("kill").args([&format!("-{name}"), &process.id().to_string()]).status().unwrap();
    assert!(done.success());
}

/// One of a hundred subscribers is stopped in the middle. The others get everything, what waits for it is bounded, and when
/// it goes on it is told how much it has missed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_subscriber_among_a_hundred_harms_nobody() {
    const OTHERS: usize = 99;
    const MESSAGES: u32 = 3000;
    const QUEUED_MAX: usize = 64 << 10;
    let mut options = SpotOptions::standard();
    options.node.send_bytes_max = QUEUED_MAX;
    options.node.retained_bytes_max = 1 << 20;
    // It stays connected: who is taken for dead is in nobody's way.
    options.node.heartbeats_missed_max = 60;
    let owner = Spot::new(options);
    // The owner waits for its slowest once in this time. All nodes but one are in this process, on two threads: when the
    // machine has other work, one that is well may have its turn later than in the 200 ms that were here first.
    let policy = Policy::Block { timeout: Duration::from_secs(3) };
    owner.topic_create_with("t", TopicOptions { policy, replay: 0 }).unwrap();
    let at = owner.bind("tcp://127.0.0.1:0").await.unwrap();

    let mut frozen = Command::new(env!("CARGO_BIN_EXE_spot"));
    // The kernel takes far more for it than it wants: with a small window it is in the way at once.
    frozen.args(["subscribe", &at, "t", "--hwm", "64"]);
    let frozen = start(frozen);
    let mut others = Vec::new();
    for _ in 0..OTHERS {
        let mut options = SpotOptions::standard();
        options.node.gossip = false;
        let other = Spot::new(options);
        other.cluster_add(&at).await.unwrap();
        let bounds = SubscriptionOptions { messages_max: 256, bytes_max: 1 << 20 };
        let listening = other.listen(["t"], bounds).unwrap();
        listening.wait_live("t", PATIENCE).await.unwrap();
        others.push((other, listening));
    }
    let subscribed = async {
        while owner.status().iter().filter(|link| link.subscriptions == 1).count() <= OTHERS {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, subscribed).await.expect("all are subscribed");
    // Both sides of a hundred connections are here.
    let resident_before = resident_bytes();
    signal(&frozen.process, "STOP");

    let hearing: Vec<_> = others
        .into_iter()
        .map(|(other, mut listening)| {
            tokio::spawn(async move {
                for number in 0..MESSAGES {
                    match tokio::time::timeout(PATIENCE, listening.recv()).await.expect("a message in time") {
                        Some(Arrival::Message { payload, .. }) => {
                            assert_eq!(payload[..4], number.to_le_bytes());
                        }
                        other => panic!("message {number} was expected, not {other:?}"),
                    }
                }
                drop(other);
            })
        })
        .collect();
    let mut queued_max = 0;
    for number in 0..MESSAGES {
        let mut payload = vec![0; 1024];
        payload[..4].copy_from_slice(&number.to_le_bytes());
        owner.publish("t", Bytes::from(payload)).await.unwrap();
        if number % 16 == 0 {
            let queued = owner.status().iter().map(|link| link.queued_bytes).max();
            queued_max = queued_max.max(queued.unwrap_or_default());
        }
    }
    for heard in hearing {
        heard.await.unwrap();
    }
    // Its bytes, and the commands that tell it so.
    assert!(queued_max <= QUEUED_MAX + 4096, "{queued_max}");
    let dropped: Vec<u64> = owner.status().iter().map(|link| link.dropped).filter(|n| *n > 0).collect();
    let &[missed] = &dropped[..] else { panic!("one was in the way, not {dropped:?}") };
    assert!(missed > 1000, "it was hardly in the way: {missed}");
    if let (Some(before), Some(after)) = (resident_before, resident_bytes()) {
        // What the topic retains and an outbox for each; for each that listens here its queue, a read, and a megabyte of
        // buffers that a queue may keep alive.
        let bound = (1 << 20) + (OTHERS + 1) * QUEUED_MAX + OTHERS * ((256 << 10) + (256 << 10) + (1 << 20));
        assert!(after.saturating_sub(before) < bound, "{before} and then {after}");
    }

    signal(&frozen.process, "CONT");
    // `t: messages 65 to 70 are missing`, perhaps in parts, or when its queue is full `6 messages missed here`.
    let mut told = 0;
    while told < missed {
        let line = line(&frozen.errors, "miss");
        let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        told += match numbers[..] {
            [first, last] => last - first + 1,
            [count] => count,
            _ => panic!("{line}"),
        };
    }
    assert_eq!(told, missed);
    // It hears again what is published once its owner knows that it moves on.
    let heard = async {
        while !frozen.lines.try_iter().any(|line| line.starts_with("t after ")) {
            owner.publish("t", "after that").await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, heard).await.expect("it hears again");
}

/// Memory of this process that is in use; none where the system does not tell.
fn resident_bytes() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<usize>().ok()? << 10)
}

/// Two networks, a cable between them. Whoever runs it has to be root.
struct Cable {
    name: String,
}

impl Cable {
    fn new(name: &str) -> Self {
        let name = format!("weft-{name}-{}", std::process::id());
        let cable = Self { name };
        let (a, b) = (cable.network('a'), cable.network('b'));
        for network in [&a, &b] {
            ip(&["netns", "add", network]);
        }
        ip(&["link", "add", "cable", "netns", &a, "type", "veth", "peer", "name", "cable", "netns", &b]);
        for (network, address) in [(&a, "10.77.0.1/24"), (&b, "10.77.0.2/24")] {
            ip(&["-n", network, "address", "add", address, "dev", "cable"]);
            ip(&["-n", network, "link", "set", "lo", "up"]);
        }
        cable.set("up");
        cable
    }

    fn network(&self, side: char) -> String {
        format!("{}-{side}", self.name)
    }

    /// Cut at both ends, so that neither side is told anything.
    fn set(&self, state: &str) {
        for side in ['a', 'b'] {
            ip(&["-n", &self.network(side), "link", "set", "cable", state]);
        }
    }

    fn spot(&self, side: char, arguments: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.network(side), env!("CARGO_BIN_EXE_spot")]).args(arguments);
        command
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for side in ['a', 'b'] {
            let _ = Command::new("ip").args(["netns", "delete", &self.network(side)]).status();
        }
    }
}

fn ip(arguments: &[&str]) {
    let done = Command::new("ip").args(arguments).output();
    let Output { status, stderr, .. } = done.expect("this test needs `ip` (Debian: apt install iproute2)");
    let said = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "ip {arguments:?}: {said}. This test needs to be root on Linux");
}

const AT: &str = "tcp://10.77.0.1:5555";

fn owner(cable: &Cable) -> Running {
    let owner = start(cable.spot('a', &["bind", AT, "--topic", "t", "--public"]));
    line(&owner.lines, "bound to");
    owner
}

/// Publishes at the owner's side of the cable.
fn publish(cable: &Cable, message: &str) {
    let done = cable.spot('a', &["publish", AT, "t", message]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Publishes until the subscriber hears something of it.
fn publish_until_heard(cable: &Cable, subscriber: &Running, word: &str) {
    let heard = (0..200).any(|number| {
        publish(cable, &format!("{word} {number}"));
        subscriber.lines.try_iter().any(|line| line.starts_with(&format!("t {word} ")))
    });
    assert!(heard, "{word}: the subscriber hears nothing");
}

#[test]
#[ignore = "needs network namespaces"]
fn a_cut_cable_is_noticed_and_after_it_is_mended_nothing_is_missing() {
    let cable = Cable::new("cut");
    let owner = owner(&cable);
    let subscriber = start(cable.spot('b', &["subscribe", AT, "t"]));
    publish_until_heard(&cable, &subscriber, "before");
    cable.set("down");
    // Published while nobody can hear it, before and after that is noticed.
    publish(&cable, "cut 0");
    line(&owner.lines, "suspect");
    publish(&cable, "cut 1");
    cable.set("up");
    for number in 0..2 {
        line(&subscriber.lines, &format!("t cut {number}"));
    }
    publish(&cable, "after");
    line(&subscriber.lines, "t after");
    // A lossless topic keeps what its subscribers miss for a while.
    assert_eq!(subscriber.errors.try_iter().filter(|line| line.contains("missing")).count(), 0);
}

#[test]
#[ignore = "needs network namespaces"]
fn a_killed_owner_that_is_back_on_its_port_is_subscribed_again_and_the_gap_is_told() {
    let cable = Cable::new("kill");
    let mut first = owner(&cable);
    let subscriber = start(cable.spot('b', &["subscribe", AT, "t"]));
    publish_until_heard(&cable, &subscriber, "first");
    // The process below `ip netns exec` is the node itself: it does not fork.
    first.process.kill().unwrap(); // -9
    first.process.wait().unwrap();
    let _second = owner(&cable);
    line(&subscriber.errors, "messages may be missing");
    publish_until_heard(&cable, &subscriber, "second");
}

#[test]
#[ignore = "needs network namespaces"]
fn an_owner_that_is_killed_behind_a_cut_cable_is_found_again() {
    let cable = Cable::new("both");
    let mut first = owner(&cable);
    let subscriber = start(cable.spot('b', &["subscribe", AT, "t"]));
    publish_until_heard(&cable, &subscriber, "first");
    cable.set("down");
    first.process.kill().unwrap();
    first.process.wait().unwrap();
    let _second = owner(&cable);
    cable.set("up");
    line(&subscriber.errors, "messages may be missing");
    publish_until_heard(&cable, &subscriber, "second");
}
