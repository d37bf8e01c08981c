//! How each system sends and receives. All are lossless here, or they would measure how fast they drop; `zeromq` cannot be.

use std::time::{Duration, Instant};

use bytes::Bytes;
use spot::{
    SubscriptionOptions,
    cluster::{Arrival, Credentials, CurveKeys, Security, Spot, SpotOptions},
};

use crate::{Job, cpu, report};

pub const ALL: [&str; 5] = ["spot", "libzmq", "zeromq", "nats", "redis"];
const PATIENCE: Duration = Duration::from_secs(10);

pub fn can(system: &str, mode: &str) -> bool {
    match system {
        "zeromq" => mode == "rtt",
        "nats" | "redis" => mode == "pub",
        "libzmq" if mode == "curve" => std::env::var_os("WEFT_LIBZMQ").is_some(),
        _ => true,
    }
}

pub fn has_broker(system: &str) -> bool {
    system == "nats" || system == "redis"
}

pub fn run(role: &str, system: &str, mode: &str, job: &Job) {
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match (role, system) {
        ("send", "spot") => threads.block_on(async {
            tokio::spawn(spot_send(mode.to_owned(), job.size, job.count, job.port)).await.unwrap()
        }),
        ("recv", "spot") => threads.block_on(async {
            tokio::spawn(spot_recv(mode.to_owned(), job.size, job.count, job.port)).await.unwrap()
        }),
        ("send", system) if has_broker(system) => crate::brokers::send(system, job),
        ("recv", system) if has_broker(system) => crate::brokers::recv(system, job),
        ("send", "libzmq") if mode == "curve" => crate::sodium::send(job),
        ("recv", "libzmq") if mode == "curve" => crate::sodium::recv(job),
        ("send", "libzmq") => zmq_send(mode, job),
        ("recv", "libzmq") => zmq_recv(mode, job),
        ("send", _) => threads.block_on(zeromq_send(job)),
        _ => threads.block_on(zeromq_recv(job)),
    }
}

fn quantiles(mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |q: usize| times[times.len() * q / 100].as_micros();
    println!("received {} in {} us, cpu {} us", times.len(), at(50), at(99));
}

// ---- SPOT ----

pub fn keys() -> (CurveKeys, CurveKeys) {
    (CurveKeys::from_secret([1; 32]), CurveKeys::from_secret([2; 32]))
}

fn spot(mode: &str) -> Spot {
    let mut options = SpotOptions { founding_only: mode == "seed", ..SpotOptions::standard() };
    options.inbox = SubscriptionOptions { messages_max: 1 << 16, bytes_max: 64 << 20 };
    if mode == "curve" {
        let (server, client) = keys();
        options.client = Security::CurveClient { keys: client, server: server.public };
        let authenticate = std::sync::Arc::new(|_: Credentials<'_>| Ok("bench".to_owned()));
        options.server = Security::CurveServer { keys: server, authenticate };
    }
    Spot::new(options)
}

async fn reach(node: &Spot, port: u16) {
    let at = format!("tcp://127.0.0.1:{port}");
    node.cluster_add(&at).await.unwrap();
}

async fn spot_send(mode: String, size: usize, count: usize, port: u16) {
    let node = spot(&mode);
    let payload = Bytes::from(vec![7; size]);
    match &*mode {
        // To the owner, from a node that does not own the topic.
        "seed" => {
            reach(&node, port).await;
            for _ in 0..count {
                node.publish("t", payload.clone()).await.unwrap();
            }
        }
        "rtt" => {
            node.topic_create("ping").unwrap();
            node.bind(&format!("tcp://127.0.0.1:{port}")).await.unwrap();
            while node.status().iter().all(|link| link.topics == 0 || link.subscriptions == 0) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let mut pong = node.listen(["pong"], SubscriptionOptions::STANDARD).unwrap();
            pong.wait_live("pong", PATIENCE).await.unwrap();
            while let Some(Arrival::Message { payload, .. }) = pong.recv().await {
                node.publish("ping", payload).await.unwrap();
            }
            return;
        }
        _ => {
            node.topic_create("t").unwrap();
            node.bind(&format!("tcp://127.0.0.1:{port}")).await.unwrap();
            while node.status().iter().all(|link| link.subscriptions == 0) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            for _ in 0..count {
                node.publish("t", payload.clone()).await.unwrap();
            }
        }
    }
    while node.status().iter().any(|link| link.queued_bytes > 0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("{}", cpu().as_micros());
    // Until the receiver has everything and goes.
    while !node.status().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn spot_recv(mode: String, size: usize, count: usize, port: u16) {
    let node = spot(&mode);
    let bounds = SubscriptionOptions { messages_max: 1 << 16, bytes_max: 64 << 20 };
    if mode == "seed" {
        node.topic_create("t").unwrap();
        node.bind(&format!("tcp://127.0.0.1:{port}")).await.unwrap();
    } else {
        if mode == "rtt" {
            node.topic_create("pong").unwrap();
        }
        reach(&node, port).await;
    }
    if mode == "rtt" {
        let mut ping = node.listen(["ping"], bounds).unwrap();
        ping.wait_live("ping", PATIENCE).await.unwrap();
        while node.status().iter().all(|link| link.subscriptions == 0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let payload = Bytes::from(vec![7; size]);
        let mut times = Vec::new();
        for i in 0..count + 1000 {
            let began = Instant::now();
            node.publish("pong", payload.clone()).await.unwrap();
            ping.recv().await.unwrap();
            if i >= 1000 {
                times.push(began.elapsed());
            }
        }
        return quantiles(times);
    }
    let mut listening = node.listen(["t"], bounds).unwrap();
    let (mut received, mut began) = (0, None);
    let mut arrivals = Vec::new();
    while received < count {
        listening.recv_many(1024, &mut arrivals).await;
        began.get_or_insert_with(Instant::now);
        for arrival in arrivals.drain(..) {
            match arrival {
                Arrival::Message { payload, .. } => assert_eq!(payload.len(), size),
                other => panic!("{other:?}"),
            }
            received += 1;
        }
    }
    report(received, began.unwrap().elapsed());
}

// ---- libzmq ----

/// Makes a publisher wait at its high-water mark instead of dropping. The `zmq` crate has no name for this option.
fn set_nodrop(socket: &mut zmq::Socket) {
    let on: std::ffi::c_int = 1;
    let (option, len) = (zmq_sys::ZMQ_XPUB_NODROP as std::ffi::c_int, size_of_val(&on));
    // SAFETY: the pointer is that of a live socket, and the option is an int that outlives the call.
    let answer = unsafe { zmq_sys::zmq_setsockopt(socket.as_mut_ptr(), option, (&raw const on).cast(), len) };
    assert_eq!(answer, 0, "ZMQ_XPUB_NODROP was refused");
}

fn zmq_send(mode: &str, job: &Job) {
    let context = zmq::Context::new();
    let at = format!("tcp://127.0.0.1:{}", job.port);
    let payload = vec![7; job.size];
    let socket = match mode {
        "seed" | "rtt" => {
            let socket = context.socket(zmq::DEALER).unwrap();
            socket.connect(&at).unwrap();
            socket
        }
        _ => {
            let mut socket = context.socket(zmq::XPUB).unwrap();
            set_nodrop(&mut socket);
            socket.set_sndhwm(100_000).unwrap();
            socket.bind(&at).unwrap();
            // The subscription.
            socket.recv_bytes(0).unwrap();
            socket
        }
    };
    if mode == "rtt" {
        for i in 0.. {
            let frames = if i == 0 { vec![b"go".to_vec()] } else { socket.recv_multipart(0).unwrap() };
            socket.send_multipart(frames, 0).unwrap();
        }
    }
    for _ in 0..job.count {
        if mode == "seed" {
            socket.send(&[1_u8][..], zmq::SNDMORE).unwrap();
        }
        socket.send("t", zmq::SNDMORE).unwrap();
        socket.send(&payload, 0).unwrap();
    }
    // Lingers until all is sent.
    drop(socket);
    drop(context);
    println!("{}", cpu().as_micros());
}

fn zmq_recv(mode: &str, job: &Job) {
    let context = zmq::Context::new();
    let at = format!("tcp://127.0.0.1:{}", job.port);
    let router = mode == "seed" || mode == "rtt";
    let socket = if router {
        let socket = context.socket(zmq::ROUTER).unwrap();
        socket.bind(&at).unwrap();
        socket
    } else {
        let socket = context.socket(zmq::SUB).unwrap();
        socket.set_rcvhwm(100_000).unwrap();
        socket.set_subscribe(b"t").unwrap();
        socket.connect(&at).unwrap();
        socket
    };
    if mode == "rtt" {
        let id = socket.recv_multipart(0).unwrap().remove(0);
        let mut times = Vec::new();
        for i in 0..job.count + 1000 {
            let began = Instant::now();
            socket.send(&id, zmq::SNDMORE).unwrap();
            socket.send(vec![7; job.size], 0).unwrap();
            socket.recv_multipart(0).unwrap();
            if i >= 1000 {
                times.push(began.elapsed());
            }
        }
        quantiles(times);
        std::process::exit(0);
    }
    let mut began = None;
    let mut message = zmq::Message::new();
    for _ in 0..job.count {
        loop {
            socket.recv(&mut message, 0).unwrap();
            if !message.get_more() {
                break;
            }
        }
        began.get_or_insert_with(Instant::now);
        assert_eq!(message.len(), job.size);
    }
    report(job.count, began.unwrap().elapsed());
}

// ---- zeromq, the crate ----

async fn zeromq_send(job: &Job) {
    use zeromq::{Socket, SocketRecv, SocketSend};
    let mut socket = zeromq::DealerSocket::new();
    while socket.connect(&format!("tcp://127.0.0.1:{}", job.port)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    socket.send("go".into()).await.unwrap();
    while let Ok(message) = socket.recv().await {
        if socket.send(message).await.is_err() {
            return;
        }
    }
}

async fn zeromq_recv(job: &Job) {
    use zeromq::{Socket, SocketRecv, SocketSend};
    let mut socket = zeromq::RouterSocket::new();
    socket.bind(&format!("tcp://127.0.0.1:{}", job.port)).await.unwrap();
    let id = socket.recv().await.unwrap().get(0).unwrap().clone();
    let mut times = Vec::new();
    for i in 0..job.count + 1000 {
        let began = Instant::now();
        let mut message = zeromq::ZmqMessage::from(Bytes::from(vec![7; job.size]));
        message.push_front(id.clone());
        socket.send(message).await.unwrap();
        socket.recv().await.unwrap();
        if i >= 1000 {
            times.push(began.elapsed());
        }
    }
    quantiles(times);
    std::process::exit(0);
}
