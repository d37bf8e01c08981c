//! SPOT side by side with other systems: processes over TCP loopback, one publishes, the others receive.
//!
//! `cargo run --release -- [rounds] [modes or all] [divisor] [systems]` runs the systems in turn, `rounds` times, with as
//! many messages as are planned divided by the divisor, and prints medians: thousand messages per second received, CPU
//! microseconds per message of all processes together, a broker's too, and round trip times. Every receiver checks that
//! what it counts is what was sent. Modes and systems are words with commas between them.

mod alone;
mod measure;
mod systems;

use std::{collections::BTreeMap, time::Duration};

use measure::{Figures, measure};

/// One thing to measure.
#[derive(Debug, Clone)]
pub struct Job {
    pub mode: String,
    pub size: usize,
    pub count: usize,
    /// How many processes receive.
    pub receivers: usize,
    pub port: u16,
}

impl Job {
    fn from_args(args: &[String]) -> Option<(&str, &str, Self)> {
        let [role, system, mode, size, count, receivers, port] = args else { return None };
        let number = |text: &String| text.parse().expect("a number");
        let job = Self {
            mode: mode.clone(),
            size: number(size),
            count: number(count),
            receivers: number(receivers),
            port: port.parse().expect("a port"),
        };
        Some((role, system, job))
    }
}

/// CPU time of a process so far.
pub fn cpu_of(process: &str) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// CPU time of this process so far.
pub fn cpu() -> Duration {
    cpu_of("self")
}

/// What a receiver reports, on one line.
pub fn report(received: usize, wall: Duration) {
    println!("received {received} in {} us, cpu {} us", wall.as_micros(), cpu().as_micros());
}

/// What is measured: a name, a mode, bytes, messages, receivers.
const PLANS: [(&str, &str, usize, usize, usize); 10] = [
    ("publish 64 B", "pub", 64, 3_000_000, 1),
    ("publish 1 KiB", "pub", 1024, 600_000, 1),
    ("publish 16 KiB", "pub", 16 << 10, 60_000, 1),
    ("seed PUBLISH, 3 frames, 64 B", "seed", 64, 3_000_000, 1),
    ("CURVE 1 KiB", "curve", 1024, 400_000, 1),
    ("round trip 64 B", "rtt", 64, 20_000, 1),
    ("1 node, 64 B", "nodes", 64, 2_000_000, 1),
    ("2 nodes, 64 B", "nodes", 64, 1_200_000, 2),
    ("4 nodes, 64 B", "nodes", 64, 600_000, 4),
    ("8 nodes, 64 B", "nodes", 64, 300_000, 8),
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some((role, system, job)) = Job::from_args(&args) {
        return match &*job.mode {
            "memory" | "frozen" => alone::run(role, &job),
            _ => systems::run(role, system, &job),
        };
    }
    let rounds: usize = args.first().map_or(3, |n| n.parse().expect("rounds"));
    let named = |at: usize, word: &str| {
        args.get(at).is_none_or(|list| list == "all" || list.split(',').any(|named| named == word))
    };
    let divisor: usize = args.get(2).map_or(1, |n| n.parse().expect("a divisor"));
    for (name, mode, size, count, receivers) in PLANS {
        if !named(1, mode) {
            continue;
        }
        let mut all: BTreeMap<&str, Vec<Option<Figures>>> = BTreeMap::new();
        for _ in 0..rounds {
            for system in systems::ALL {
                if named(3, system) && systems::can(system, mode) {
                    let job = Job { mode: mode.to_owned(), size, count: count / divisor, receivers, port: 0 };
                    all.entry(system).or_default().push(measure(system, &job));
                }
            }
        }
        for (system, results) in all {
            let lost = results.iter().filter(|figures| figures.is_none()).count();
            let mut results: Vec<Figures> = results.into_iter().flatten().collect();
            results.sort_by(|a, b| a.0.total_cmp(&b.0));
            match results.get(results.len() / 2) {
                Some((p50, p99)) if mode == "rtt" => {
                    print!("{name:30} {system:14} p50 {p50:6.0} us  p99 {p99:6.0} us")
                }
                Some((rate, cpu)) => {
                    print!("{name:30} {system:14} {rate:8.0} k/s  {cpu:5.2} us CPU per message")
                }
                None => print!("{name:30} {system:14}"),
            }
            println!(
                "{}",
                if lost > 0 { format!("  {lost} of {rounds} did not finish") } else { String::new() }
            );
        }
    }
    if named(1, "memory") {
        alone::memory();
    }
    if named(1, "frozen") {
        alone::frozen(rounds);
    }
}
