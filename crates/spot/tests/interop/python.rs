//! A libzmq peer on strings: a Python process that does as it is told.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A Python process with pyzmq.
pub(crate) struct Python {
    process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

pub(crate) type Frames = Vec<Vec<u8>>;

impl Python {
    pub(crate) fn start() -> Self {
        let python = env::var("WEFT_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/peer.py");
        let process = Command::new(&python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut process = process.unwrap_or_else(|error| panic!("{python}: {error}. {HELP}"));
        let commands = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        let mut started = Self { process, commands, answers };
        let version = started.call("version", json!({}));
        println!("libzmq {version}");
        started
    }

    pub(crate) fn call(&mut self, command: &str, mut arguments: Value) -> Value {
        arguments["do"] = command.into();
        writeln!(self.commands, "{arguments}").unwrap_or_else(|error| panic!("{error}. {HELP}"));
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let mut answer: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("no answer. {HELP}"));
        assert!(answer.get("error").is_none(), "{command}: {answer}");
        answer["ok"].take()
    }

    /// Opens a socket; gives the endpoint that it is bound to, or connects to.
    pub(crate) fn open(&mut self, name: &str, kind: &str, place: (&str, &str), options: &Value) -> String {
        let mut arguments = json!({"name": name, "kind": kind, "options": options});
        arguments[place.0] = place.1.into();
        self.call("open_socket", arguments).as_str().unwrap().to_owned()
    }

    pub(crate) fn send(&mut self, name: &str, frames: &[Vec<u8>]) {
        let frames: Vec<_> = frames.iter().map(|frame| hex(frame)).collect();
        self.call("send", json!({"name": name, "frames": frames}));
    }

    /// The next message, while the node works on.
    pub(crate) fn receive(&mut self, name: &str) -> Frames {
        let timeout = PATIENCE.as_millis() as u64;
        let answer = self.call("receive", json!({"name": name, "timeout_ms": timeout}));
        let frames = answer.as_array().expect("a message in time");
        frames.iter().map(|frame| unhex(frame.as_str().unwrap())).collect()
    }
}

const HELP: &str = "This test needs Python with pyzmq: set WEFT_PYTHON to the Python of a virtual environment in which \
                    `pip install pyzmq` was run";

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}
