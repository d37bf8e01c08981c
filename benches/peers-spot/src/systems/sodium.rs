//! libzmq with CURVE: the one that the `zmq` crate builds has none, so a shared library that has it is loaded:
//! `WEFT_LIBZMQ=/usr/lib/x86_64-linux-gnu/libzmq.so.5`, or the one inside pyzmq's wheel.

use std::{
    ffi::{CString, c_char, c_int, c_void},
    time::Instant,
};

use libloading::{Library, Symbol};

use super::spot::keys;
use crate::{Job, cpu, report};

const PUB_SNDHWM: c_int = 23;
const RCVHWM: c_int = 24;
const SUBSCRIBE: c_int = 6;
const CURVE_SERVER: c_int = 47;
const CURVE_PUBLICKEY: c_int = 48;
const CURVE_SECRETKEY: c_int = 49;
const CURVE_SERVERKEY: c_int = 50;
const XPUB_NODROP: c_int = 69;
const SUB: c_int = 2;
const XPUB: c_int = 9;
const SNDMORE: c_int = 2;

struct Zmq {
    library: Library,
    socket: *mut c_void,
}

impl Zmq {
    fn open(kind: c_int) -> Self {
        let path = std::env::var("WEFT_LIBZMQ").expect("WEFT_LIBZMQ is the path of a libzmq that has CURVE");
        // SAFETY: libzmq's initialisers have no demands, and these are its documented C signatures.
        unsafe {
            let library = Library::new(path).unwrap();
            let ctx_new: Symbol<'_, unsafe extern "C" fn() -> *mut c_void> =
                library.get(b"zmq_ctx_new").unwrap();
            let socket: Symbol<'_, unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void> =
                library.get(b"zmq_socket").unwrap();
            let socket = socket(ctx_new(), kind);
            assert!(!socket.is_null());
            Self { library, socket }
        }
    }

    fn set(&self, option: c_int, value: &[u8]) {
        type Set = unsafe extern "C" fn(*mut c_void, c_int, *const c_void, usize) -> c_int;
        // SAFETY: as above; the value outlives the call.
        let done = unsafe {
            let set: Symbol<'_, Set> = self.library.get(b"zmq_setsockopt").unwrap();
            set(self.socket, option, value.as_ptr().cast(), value.len())
        };
        assert_eq!(done, 0, "option {option}: has this libzmq CURVE?");
    }

    fn at(&self, name: &[u8], port: u16) {
        let at = CString::new(format!("tcp://127.0.0.1:{port}")).unwrap();
        // SAFETY: as above.
        let done = unsafe {
            let at_fn: Symbol<'_, unsafe extern "C" fn(*mut c_void, *const c_char) -> c_int> =
                self.library.get(name).unwrap();
            at_fn(self.socket, at.as_ptr())
        };
        assert_eq!(done, 0);
    }
}

pub fn send(job: &Job) {
    let zmq = Zmq::open(XPUB);
    let (server, _) = keys();
    zmq.set(XPUB_NODROP, &1_i32.to_ne_bytes());
    zmq.set(PUB_SNDHWM, &100_000_i32.to_ne_bytes());
    zmq.set(CURVE_SERVER, &1_i32.to_ne_bytes());
    zmq.set(CURVE_SECRETKEY, &server.secret.0);
    zmq.at(b"zmq_bind", job.port);
    let payload = vec![7_u8; job.size];
    let mut sink = [0_u8; 64];
    type Send = unsafe extern "C" fn(*mut c_void, *const c_void, usize, c_int) -> c_int;
    type Recv = unsafe extern "C" fn(*mut c_void, *mut c_void, usize, c_int) -> c_int;
    // SAFETY: as above; buffers are as long as is said.
    unsafe {
        let send: Symbol<'_, Send> = zmq.library.get(b"zmq_send").unwrap();
        let recv: Symbol<'_, Recv> = zmq.library.get(b"zmq_recv").unwrap();
        assert!(recv(zmq.socket, sink.as_mut_ptr().cast(), sink.len(), 0) > 0, "the subscription");
        for _ in 0..job.count {
            send(zmq.socket, b"t".as_ptr().cast(), 1, SNDMORE);
            send(zmq.socket, payload.as_ptr().cast(), payload.len(), 0);
        }
    }
    // What is queued goes on in the background.
    println!("{}", cpu().as_micros());
    std::thread::sleep(std::time::Duration::from_secs(20));
}

pub fn recv(job: &Job) {
    let zmq = Zmq::open(SUB);
    let (server, client) = keys();
    zmq.set(RCVHWM, &100_000_i32.to_ne_bytes());
    zmq.set(SUBSCRIBE, b"t");
    zmq.set(CURVE_SERVERKEY, &server.public.0);
    zmq.set(CURVE_PUBLICKEY, &client.public.0);
    zmq.set(CURVE_SECRETKEY, &client.secret.0);
    zmq.at(b"zmq_connect", job.port);
    let mut buffer = vec![0_u8; job.size.max(64)];
    let mut began = None;
    type Recv = unsafe extern "C" fn(*mut c_void, *mut c_void, usize, c_int) -> c_int;
    // SAFETY: as above; the buffer is as long as is said.
    unsafe {
        let recv: Symbol<'_, Recv> = zmq.library.get(b"zmq_recv").unwrap();
        for _ in 0..job.count {
            assert_eq!(recv(zmq.socket, buffer.as_mut_ptr().cast(), buffer.len(), 0), 1);
            let len = recv(zmq.socket, buffer.as_mut_ptr().cast(), buffer.len(), 0);
            began.get_or_insert_with(Instant::now);
            assert_eq!(len as usize, job.size);
        }
    }
    report(job.count, began.unwrap().elapsed());
    std::process::exit(0);
}
