//! NATS and Redis through the client libraries that applications use: `async-nats` and `redis`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;

use crate::{Job, cpu, report};

const HOUR: Duration = Duration::from_secs(3600);

async fn nats(job: &Job) -> async_nats::Client {
    let options = async_nats::ConnectOptions::new().subscription_capacity(job.count + 1);
    options.connect(format!("nats://127.0.0.1:{}", job.port)).await.unwrap()
}

pub async fn nats_send(job: &Job) {
    let client = nats(job).await;
    let mut go = client.subscribe("go").await.unwrap();
    go.next().await.unwrap();
    let payload = Bytes::from(vec![7; job.size]);
    for _ in 0..job.count {
        client.publish("t", payload.clone()).await.unwrap();
    }
    client.flush().await.unwrap();
    println!("{}", cpu().as_micros());
    tokio::time::sleep(HOUR).await;
}

pub async fn nats_recv(job: &Job) {
    let client = nats(job).await;
    let mut messages = client.subscribe("t").await.unwrap();
    client.flush().await.unwrap();
    let asking = tokio::spawn(async move {
        // The sender may not listen yet.
        loop {
            client.publish("go", Bytes::new()).await.unwrap();
            client.flush().await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut began = None;
    for _ in 0..job.count {
        let message = messages.next().await.unwrap();
        began.get_or_insert_with(Instant::now);
        assert_eq!(message.payload.len(), job.size);
    }
    asking.abort();
    report(job.count, began.unwrap().elapsed());
}

fn redis(job: &Job) -> redis::Client {
    redis::Client::open(format!("redis://127.0.0.1:{}", job.port)).unwrap()
}

/// How many commands go at once: `redis` answers each one, so one by one would measure round trips.
const PIPELINE: usize = 256;

pub async fn redis_send(job: &Job) {
    let mut client = redis(job).get_multiplexed_async_connection().await.unwrap();
    loop {
        let subscribers: (String, usize) =
            redis::cmd("PUBSUB").arg("NUMSUB").arg("t").query_async(&mut client).await.unwrap();
        if subscribers.1 > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let payload = vec![7; job.size];
    let mut left = job.count;
    while left > 0 {
        let many = left.min(PIPELINE);
        left -= many;
        let mut pipeline = redis::pipe();
        for _ in 0..many {
            pipeline.publish("t", &payload).ignore();
        }
        pipeline.query_async::<()>(&mut client).await.unwrap();
    }
    println!("{}", cpu().as_micros());
    tokio::time::sleep(HOUR).await;
}

pub async fn redis_recv(job: &Job) {
    let mut subscriber = redis(job).get_async_pubsub().await.unwrap();
    subscriber.subscribe("t").await.unwrap();
    let mut messages = subscriber.into_on_message();
    let mut began = None;
    for _ in 0..job.count {
        let message = messages.next().await.unwrap();
        began.get_or_insert_with(Instant::now);
        assert_eq!(message.get_payload_bytes().len(), job.size);
    }
    report(job.count, began.unwrap().elapsed());
    std::process::exit(0);
}
