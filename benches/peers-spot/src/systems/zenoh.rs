//! Zenoh between two peers, its subscriber a callback: its fastest way. Lossless: it waits when it is congested.

use std::{
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use zenoh::{Config, Session, qos::CongestionControl};

use crate::{Job, cpu, report};

async fn session(place: &str, port: u16) -> Session {
    let mut config = Config::default();
    for (key, value) in [
        ("mode", "\"peer\"".to_owned()),
        (place, format!("[\"tcp/127.0.0.1:{port}\"]")),
        (if place == "listen/endpoints" { "connect/endpoints" } else { "listen/endpoints" }, "[]".to_owned()),
        ("scouting/multicast/enabled", "false".to_owned()),
        ("scouting/gossip/enabled", "false".to_owned()),
    ] {
        config.insert_json5(key, &value).unwrap();
    }
    zenoh::open(config).await.unwrap()
}

pub async fn send(job: &Job) {
    let session = session("listen/endpoints", job.port).await;
    let publisher =
        session.declare_publisher("t").congestion_control(CongestionControl::Block).await.unwrap();
    while !publisher.matching_status().await.unwrap().matching() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let payload = zenoh::bytes::ZBytes::from(vec![7; job.size]);
    for _ in 0..job.count {
        publisher.put(payload.clone()).await.unwrap();
    }
    println!("{}", cpu().as_micros());
    // Until the receiver has everything and the process is ended.
    tokio::time::sleep(Duration::from_secs(3600)).await;
}

pub async fn recv(job: &Job) {
    let session = loop_until_open(job.port).await;
    let (done, all) = mpsc::channel();
    let done = Mutex::new(done);
    let (received, began) = (AtomicUsize::new(0), OnceLock::new());
    let (size, count) = (job.size, job.count);
    let _subscriber = session
        .declare_subscriber("t")
        .callback(move |sample| {
            let began: &Instant = began.get_or_init(Instant::now);
            assert_eq!(sample.payload().len(), size);
            if received.fetch_add(1, Ordering::Relaxed) + 1 == count {
                done.lock().unwrap().send(began.elapsed()).unwrap();
            }
        })
        .await
        .unwrap();
    let wall = tokio::task::spawn_blocking(move || all.recv().unwrap()).await.unwrap();
    report(count, wall);
    std::process::exit(0);
}

async fn loop_until_open(port: u16) -> Session {
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    session("connect/endpoints", port).await
}
