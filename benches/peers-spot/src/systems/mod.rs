//! How each system sends and receives. All are lossless here, or they would measure how fast they drop; `zeromq` cannot be.

pub mod brokers;
mod clients;
mod libzmq;
mod sodium;
pub mod spot;
mod zenoh;
mod zeromq;

use std::time::Duration;

use crate::Job;

/// `spot` is an application on one thread, `spot-threads` one on a runtime of two; the others are on what is their best.
///
/// `nats` and `redis` through the client libraries that applications use, and spoken by hand: less work than any library
/// does, so that those rows show the broker at its best.
pub const ALL: [&str; 9] =
    ["spot", "spot-threads", "libzmq", "zeromq", "zenoh", "nats", "nats-by-hand", "redis", "redis-by-hand"];

/// What a system is measured at.
pub fn can(system: &str, mode: &str) -> bool {
    match system {
        "spot" | "spot-threads" => true,
        "libzmq" if mode == "curve" => std::env::var_os("WEFT_LIBZMQ").is_some(),
        "libzmq" => matches!(mode, "pub" | "seed" | "rtt" | "nodes"),
        "zeromq" => mode == "rtt",
        _ => mode == "pub",
    }
}

/// Whether a third process stands between.
pub fn has_broker(system: &str) -> bool {
    system.starts_with("nats") || system.starts_with("redis")
}

/// Plays a role, in a process of its own.
pub fn run(role: &str, system: &str, job: &Job) {
    let thread = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let threads =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let sends = role == "send";
    match system {
        "spot" => spot::run(&thread(), job.clone(), sends),
        "spot-threads" => spot::run(&threads(), job.clone(), sends),
        "libzmq" if sends && job.mode == "curve" => sodium::send(job),
        "libzmq" if job.mode == "curve" => sodium::recv(job),
        "libzmq" if sends => libzmq::send(job),
        "libzmq" => libzmq::recv(job),
        "zeromq" if sends => threads().block_on(zeromq::send(job)),
        "zeromq" => threads().block_on(zeromq::recv(job)),
        "zenoh" if sends => threads().block_on(zenoh::send(job)),
        "zenoh" => threads().block_on(zenoh::recv(job)),
        "nats" if sends => thread().block_on(clients::nats_send(job)),
        "nats" => thread().block_on(clients::nats_recv(job)),
        "redis" if sends => threads().block_on(clients::redis_send(job)),
        "redis" => threads().block_on(clients::redis_recv(job)),
        _ if sends => brokers::send(system, job),
        _ => brokers::recv(system, job),
    }
}

/// Reports round trips.
fn quantiles(mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |q: usize| times[times.len() * q / 100].as_micros();
    println!("received {} in {} us, cpu {} us", times.len(), at(50), at(99));
}
