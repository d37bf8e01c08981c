//! SPOT alone: what a connection and a topic cost in memory, and what a frozen subscriber costs the others.

use std::{
    io::{BufRead, BufReader, Write},
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use spot::{
    SubscriptionOptions,
    cluster::{Arrival, Policy, Spot, SpotOptions, TopicOptions},
};

use crate::{
    Job,
    measure::{Running, free_port},
};

const PATIENCE: Duration = Duration::from_secs(15);
/// Subscribed nodes, of which one may be frozen.
const SUBSCRIBERS: usize = 100;
/// Connections of the memory run; fewer than file handles that a process has by default.
const CONNECTIONS: usize = 400;
/// Those before them that are not counted: with them come the program's own pages, stacks and tables.
const CONNECTIONS_BEFORE: usize = 50;
const TOPICS: usize = 100_000;
/// Messages of the paced run, and the pause between two.
const PACED: usize = 2000;
const PACE: Duration = Duration::from_micros(1500);

pub fn run(role: &str, job: &Job) {
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    threads.block_on(async {
        match role {
            "owner" => memory_owner(job).await,
            "peers" => memory_peers(job).await,
            "send" => frozen_send(job).await,
            _ => frozen_recv(job).await,
        }
    });
}

fn at(job: &Job) -> String {
    format!("tcp://127.0.0.1:{}", job.port)
}

/// A node that connects to nobody of its own accord.
fn node() -> Spot {
    let mut options = SpotOptions::standard();
    options.node.gossip = false;
    Spot::new(options)
}

async fn reach(job: &Job) -> Spot {
    let node = node();
    // The first dial may come before the owner listens; the node keeps trying.
    let _ = node.cluster_add(&at(job)).await;
    node
}

async fn subscribed(node: &Spot, count: usize) {
    while node.status().iter().filter(|link| link.subscriptions > 0).count() < count {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn say(numbers: &[u128]) {
    let words: Vec<String> = numbers.iter().map(u128::to_string).collect();
    println!("{}", words.join(" "));
    std::io::stdout().flush().unwrap();
}

/// The next line of a process, as numbers.
fn told(from: &mut BufReader<std::process::ChildStdout>) -> Vec<f64> {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    line.split_whitespace().map(|word| word.parse().unwrap()).collect()
}

fn lines(of: &mut Running) -> BufReader<std::process::ChildStdout> {
    BufReader::new(of.0.stdout.take().unwrap())
}

// ---- memory ----

/// Resident memory of this process in bytes, without the pages of its program file.
fn resident() -> u128 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u128>().unwrap() * 1024
}

/// The topics' owner: says what it takes before and after connections, then before and after topics.
async fn memory_owner(job: &Job) {
    let node = node();
    node.topic_create("t").unwrap();
    node.bind(&at(job)).await.unwrap();
    connections_used(&node, CONNECTIONS_BEFORE).await;
    let before = resident();
    say(&[before]);
    connections_used(&node, CONNECTIONS_BEFORE + CONNECTIONS).await;
    let connections = resident() - before;
    // A node of its own: announcements to so many peers would be measured too.
    let alone = self::node();
    let before = resident();
    let began = Instant::now();
    for n in 0..TOPICS {
        alone.topic_create(&format!("sensor/{n:06}")).unwrap();
    }
    let created = began.elapsed();
    say(&[connections, resident() - before, created.as_nanos()]);
    tokio::time::sleep(PATIENCE).await;
}

/// Waits for so many subscribed connections, and for each to have been used.
async fn connections_used(node: &Spot, count: usize) {
    subscribed(node, count).await;
    for _ in 0..100 {
        node.publish("t", vec![7; 64]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    while node.status().iter().any(|link| link.queued_bytes > 0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Acknowledgements are on their way.
    tokio::time::sleep(Duration::from_millis(200)).await;
}

async fn memory_peers(job: &Job) {
    let mut nodes = Vec::new();
    for n in 0..CONNECTIONS_BEFORE + CONNECTIONS {
        if n == CONNECTIONS_BEFORE {
            // The starter says when.
            let line = || std::io::stdin().read_line(&mut String::new());
            tokio::task::spawn_blocking(line).await.unwrap().unwrap();
        }
        let node = reach(job).await;
        node.subscribe("t").unwrap();
        nodes.push(node);
    }
    tokio::time::sleep(Duration::from_secs(3600)).await;
}

pub fn memory() {
    let job = Job { mode: "memory".into(), size: 0, count: 0, receivers: 0, port: free_port() };
    let mut owner = Running::start("owner", "spot", &job);
    let mut peers = Running::start("peers", "spot", &job);
    let mut heard = lines(&mut owner);
    told(&mut heard);
    writeln!(peers.0.stdin.as_mut().unwrap()).unwrap();
    let [connections, topics, created] = told(&mut heard)[..] else { return };
    drop(peers);
    println!("memory: {:.0} B a connection ({CONNECTIONS}, each used)", connections / CONNECTIONS as f64);
    println!(
        "memory: {:.0} B a topic ({TOPICS}), created in {:.2} us each",
        topics / TOPICS as f64,
        created / TOPICS as f64 / 1000.0
    );
}

// ---- a frozen subscriber ----

fn clock() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()
}

/// Publishes first in a measured pace, with the time in each message, then as fast as it goes.
async fn frozen_send(job: &Job) {
    let node = node();
    let policy = Policy::Block { timeout: Duration::from_millis(100) };
    node.topic_create_with("t", TopicOptions { policy, replay: 0 }).unwrap();
    node.bind(&at(job)).await.unwrap();
    subscribed(&node, SUBSCRIBERS).await;
    say(&[0]);
    // The starter freezes one, or not, and says so.
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await.unwrap().unwrap();
    let mut queued_max = 0;
    let mut due = tokio::time::Instant::now();
    for n in 0..PACED + job.count {
        let mut payload = vec![0; job.size];
        payload[..16].copy_from_slice(&clock().to_le_bytes());
        node.publish("t", payload).await.unwrap();
        if n < PACED {
            due += PACE;
            tokio::time::sleep_until(due).await;
        }
        if n % 4096 == 0 {
            queued_max =
                node.status().iter().map(|link| link.queued_bytes).max().max(Some(queued_max)).unwrap();
        }
    }
    say(&[queued_max as u128]);
    tokio::time::sleep(Duration::from_secs(3600)).await;
}

/// As many subscribed nodes as the job says, in one process.
async fn frozen_recv(job: &Job) {
    let mut hearing = Vec::new();
    for _ in 0..job.receivers {
        let node = reach(job).await;
        let bounds = SubscriptionOptions { messages_max: 4096, bytes_max: 4 << 20 };
        let mut listening = node.listen(["t"], bounds).unwrap();
        listening.wait_live("t", PATIENCE).await.unwrap();
        let count = job.count;
        hearing.push(tokio::spawn(async move {
            let (mut received, mut began) = (0, Instant::now());
            let mut times = Vec::with_capacity(PACED);
            let mut arrivals = Vec::new();
            while received < PACED + count {
                listening.recv_many(256, &mut arrivals).await;
                for arrival in arrivals.drain(..) {
                    let Arrival::Message { payload, .. } = arrival else { panic!("{arrival:?}") };
                    if received < PACED {
                        let sent = u128::from_le_bytes(payload[..16].try_into().unwrap());
                        times.push(clock().saturating_sub(sent));
                        began = Instant::now();
                    }
                    received += 1;
                }
            }
            (times, began.elapsed(), node)
        }));
    }
    let (mut times, mut wall_max) = (Vec::new(), Duration::ZERO);
    let mut nodes = Vec::new();
    for heard in hearing {
        let (more, wall, node) = heard.await.unwrap();
        times.extend(more);
        wall_max = wall_max.max(wall);
        nodes.push(node);
    }
    times.sort_unstable();
    let quantile = |q: usize| times[times.len() * q / 100];
    say(&[wall_max.as_micros(), quantile(50) / 1000, quantile(99) / 1000]);
}

pub fn frozen(rounds: usize) {
    let mut all = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for freezes in [false, true] {
            let job = Job {
                mode: "frozen".into(),
                size: 64,
                count: 20_000,
                receivers: SUBSCRIBERS - 1,
                port: free_port(),
            };
            let mut sender = Running::start("send", "spot", &job);
            let mut heard = lines(&mut sender);
            let mut others = Running::start("recv", "spot", &job);
            let one = Running::start("recv", "spot", &Job { receivers: 1, ..job.clone() });
            told(&mut heard);
            if freezes {
                signal(&one, "STOP");
            }
            writeln!(sender.0.stdin.as_mut().unwrap()).unwrap();
            let figures = told(&mut lines(&mut others));
            let [wall, p50, p99] = figures[..] else { return };
            let queued = told(&mut heard)[0];
            signal(&one, "CONT");
            all[usize::from(freezes)].push((job.count as f64 * 99.0 / wall * 1000.0, p50, p99, queued));
        }
    }
    for (name, mut results) in ["100 subscribers", "100 subscribers, 1 frozen"].into_iter().zip(all) {
        results.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (rate, p50, p99, queued) = results[results.len() / 2];
        println!(
            "{name:30} others: {rate:.0} k deliveries/s; paced: p50 {p50:.0} us, p99 {p99:.0} us; at most {queued:.0} B waited"
        );
    }
}

fn signal(process: &Running, name: &str) {
    let done = Command::new("kill").args([&format!("-{name}"), &process.0.id().to_string()]).status();
    assert!(done.is_ok_and(|status| status.success()));
}
