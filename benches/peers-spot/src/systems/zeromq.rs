//! `zeromq`, the crate. It drops when it is full, so only its round trips can be compared.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::quantiles;
use crate::Job;

pub async fn send(job: &Job) {
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

pub async fn recv(job: &Job) {
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
