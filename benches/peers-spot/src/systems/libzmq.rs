//! libzmq itself, told not to drop.

use std::time::Instant;

use super::quantiles;
use crate::{Job, cpu, report};

/// Switches on what the `zmq` crate has no name for: that a publisher waits at its high-water mark instead of dropping,
/// for one.
fn set_option(socket: &mut zmq::Socket, option: u32) {
    let on: std::ffi::c_int = 1;
    let (option, len) = (option as std::ffi::c_int, size_of_val(&on));
    // SAFETY: the pointer is that of a live socket, and the option is an int that outlives the call.
    let answer = unsafe { zmq_sys::zmq_setsockopt(socket.as_mut_ptr(), option, (&raw const on).cast(), len) };
    assert_eq!(answer, 0, "option {option} was refused");
}

pub fn send(job: &Job) {
    let mode = &*job.mode;
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
            set_option(&mut socket, zmq_sys::ZMQ_XPUB_NODROP);
            set_option(&mut socket, zmq_sys::ZMQ_XPUB_VERBOSE);
            socket.set_sndhwm(100_000).unwrap();
            socket.bind(&at).unwrap();
            // The subscriptions; XPUB tells of each only if it is verbose.
            for _ in 0..job.receivers {
                socket.recv_bytes(0).unwrap();
            }
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

pub fn recv(job: &Job) {
    let mode = &*job.mode;
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
