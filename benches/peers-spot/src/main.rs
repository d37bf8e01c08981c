//! SPOT side by side with other systems: two processes over TCP loopback, one publishes, one receives.
//!
//! `cargo run --release -- [rounds] [mode or all] [divisor]` runs all systems in turn, `rounds` times, with as many messages as
//! are planned divided by the divisor, and prints medians: thousand messages per
//! second received, CPU microseconds per message of both processes together, and round trip times. Every receiver checks
//! that what it counts is what was sent.

mod brokers;
mod sodium;
mod systems;

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
    time::Duration,
};

/// One thing to measure.
pub struct Job {
    pub size: usize,
    pub count: usize,
    pub port: u16,
}

/// CPU time of this process so far.
pub fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// What a receiver reports, on one line.
pub fn report(received: usize, wall: Duration) {
    println!("received {received} in {} us, cpu {} us", wall.as_micros(), cpu().as_micros());
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn measure(system: &str, mode: &str, size: usize, count: usize) -> Option<(f64, f64)> {
    let program = std::env::current_exe().unwrap();
    let port = free_port();
    let start = |role: &str| {
        let args =
            [role, system, mode, &size.to_string(), &count.to_string(), &port.to_string()].map(str::to_owned);
        Command::new(&program).args(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    };
    let broker = brokers::start(system, port);
    if broker.is_none() && systems::has_broker(system) {
        return None;
    }
    let mut sender = start("send");
    let receiver = start("recv");
    let output = receiver.wait_with_output().unwrap();
    if let Some(mut broker) = broker {
        let _ = broker.kill();
        let _ = broker.wait();
    }
    // The sender prints its CPU time when it has sent everything; some then wait to be ended.
    if systems::has_broker(system) || mode == "curve" || mode == "rtt" {
        std::thread::sleep(Duration::from_millis(200));
        let _ = sender.kill();
    }
    let sent = sender.wait_with_output().unwrap();
    let numbers = |bytes: &[u8]| -> Vec<f64> {
        String::from_utf8_lossy(bytes)
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|n| n.parse().ok())
            .collect()
    };
    let (received, sent) = (numbers(&output.stdout), numbers(&sent.stdout));
    let [n, wall, cpu] = received[..] else { return None };
    if mode == "rtt" {
        return Some((wall, cpu));
    }
    Some((n / wall * 1000.0, (cpu + sent.first().copied().unwrap_or(0.0)) / n))
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [role, system, mode, size, count, port] = &args[..] {
        let job =
            Job { size: size.parse().unwrap(), count: count.parse().unwrap(), port: port.parse().unwrap() };
        return systems::run(role, system, mode, &job);
    }
    let rounds: usize = args.first().map_or(3, |n| n.parse().unwrap());
    let only = args.get(1).filter(|only| *only != "all");
    let smaller: usize = args.get(2).map_or(1, |n| n.parse().unwrap());
    let plans = [
        ("publish 64 B", "pub", 64, 3_000_000),
        ("publish 1 KiB", "pub", 1024, 600_000),
        ("publish 16 KiB", "pub", 16 << 10, 80_000),
        ("seed PUBLISH, 3 frames, 64 B", "seed", 64, 3_000_000),
        ("CURVE 1 KiB", "curve", 1024, 200_000),
        ("round trip 64 B", "rtt", 64, 20_000),
    ];
    for (name, mode, size, count) in plans {
        let mut all: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
        for _ in 0..rounds {
            for system in systems::ALL {
                if only.is_none_or(|only| only == mode) && systems::can(system, mode) {
                    all.entry(system).or_default().extend(measure(system, mode, size, count / smaller));
                }
            }
        }
        for (system, mut results) in all {
            results.sort_by(|a, b| a.0.total_cmp(&b.0));
            match results.get(results.len() / 2) {
                Some((p50, p99)) if mode == "rtt" => {
                    println!("{name:30} {system:10} p50 {p50:6.0} us  p99 {p99:6.0} us")
                }
                Some((rate, cpu)) => {
                    println!("{name:30} {system:10} {rate:8.0} k/s  {cpu:5.2} us CPU per message")
                }
                None => println!("{name:30} {system:10} did not finish"),
            }
        }
    }
}
