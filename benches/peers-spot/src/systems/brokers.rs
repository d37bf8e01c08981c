//! The brokers; and NATS and Redis spoken by hand: less work than any client library does, so they look as good as they can.

use std::{
    io::{BufRead, BufReader, BufWriter, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{Job, cpu, report};

/// The broker itself, for one measurement. `None` for systems without one, or if it is not installed.
pub fn start(system: &str, port: u16) -> Option<Child> {
    let port = port.to_string();
    let mut command = match system {
        "nats" | "nats-by-hand" => {
            let mut command = Command::new("nats-server");
            command.args(["-a", "127.0.0.1", "-p", &port]);
            command
        }
        "redis" | "redis-by-hand" => {
            let mut command = Command::new("redis-server");
            command.args(["--port", &port, "--save", "", "--appendonly", "no"]);
            // Lossless: it does not give up a slow subscriber.
            command.args(["--client-output-buffer-limit", "pubsub 0 0 0"]);
            command
        }
        _ => return None,
    };
    let broker = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
    while TcpStream::connect(("127.0.0.1", port.parse().unwrap())).is_err() {
        std::thread::sleep(Duration::from_millis(10));
    }
    Some(broker)
}

fn connect(system: &str, port: u16) -> (BufReader<TcpStream>, BufWriter<TcpStream>) {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut reader = BufReader::with_capacity(256 << 10, stream.try_clone().unwrap());
    let mut writer = BufWriter::with_capacity(64 << 10, stream);
    if system == "nats-by-hand" {
        writer.write_all(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\nPING\r\n").unwrap();
        writer.flush().unwrap();
        until(&mut reader, "PONG");
    }
    (reader, writer)
}

fn until(reader: &mut BufReader<TcpStream>, word: &str) {
    let mut line = String::new();
    while !line.starts_with(word) {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0, "closed before {word}");
    }
}

/// A message on the way in, as the broker sends it: what stands before the payload.
fn head(system: &str, size: usize) -> Vec<u8> {
    match system {
        "nats-by-hand" => format!("MSG t 1 {size}\r\n").into_bytes(),
        _ => format!("*3\r\n$7\r\nmessage\r\n$1\r\nt\r\n${size}\r\n").into_bytes(),
    }
}

pub fn send(system: &str, job: &Job) {
    let (mut reader, mut writer) = connect(system, job.port);
    // The receiver is there.
    if system == "nats-by-hand" {
        writer.write_all(b"SUB go 2\r\n").unwrap();
        writer.flush().unwrap();
        until(&mut reader, "MSG go");
    } else {
        loop {
            writer.write_all(b"*3\r\n$6\r\nPUBSUB\r\n$6\r\nNUMSUB\r\n$1\r\nt\r\n").unwrap();
            writer.flush().unwrap();
            let mut lines = [(); 4].map(|()| String::new());
            for line in &mut lines {
                reader.read_line(line).unwrap();
            }
            if lines[3].trim() != ":0" {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let payload = vec![7; job.size];
    let mut message = match system {
        "nats-by-hand" => format!("PUB t {}\r\n", job.size).into_bytes(),
        _ => format!("*3\r\n$7\r\nPUBLISH\r\n$1\r\nt\r\n${}\r\n", job.size).into_bytes(),
    };
    message.extend(payload);
    message.extend(b"\r\n");
    // What it answers has to be read, or it stops; NATS answers to PING only.
    std::thread::spawn(move || {
        let mut sink = [0; 64 << 10];
        while reader.read(&mut sink).is_ok_and(|n| n > 0) {}
    });
    for _ in 0..job.count {
        writer.write_all(&message).unwrap();
    }
    writer.flush().unwrap();
    println!("{}", cpu().as_micros());
    // Until the broker is stopped: a connection that is closed with unread answers is reset.
    std::thread::sleep(Duration::from_secs(3600));
}

pub fn recv(system: &str, job: &Job) {
    let (mut reader, mut writer) = connect(system, job.port);
    if system == "nats-by-hand" {
        writer.write_all(b"SUB t 1\r\nPING\r\n").unwrap();
        writer.flush().unwrap();
        until(&mut reader, "PONG");
        std::thread::spawn(move || {
            // The sender may not listen yet.
            while writer.write_all(b"PUB go 0\r\n\r\n").and_then(|()| writer.flush()).is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
    } else {
        writer.write_all(b"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nt\r\n").unwrap();
        writer.flush().unwrap();
        until(&mut reader, ":1");
    }
    let head = head(system, job.size);
    let mut message = vec![0; head.len() + job.size + 2];
    let mut began = None;
    for _ in 0..job.count {
        // Between messages NATS asks now and then whether we are there; for as long as this takes it needs no answer.
        let (word, rest) = message.split_at_mut(6);
        reader.read_exact(word).unwrap();
        while word == b"PING\r\n" {
            reader.read_exact(word).unwrap();
        }
        reader.read_exact(rest).unwrap();
        began.get_or_insert_with(Instant::now);
        assert_eq!(message[..head.len()], head);
    }
    report(job.count, began.unwrap().elapsed());
    std::process::exit(0);
}
