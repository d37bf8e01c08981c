//! json-joy in Node, whose rows are in `json-joy.js`.

use std::{
    cell::RefCell,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde_json::{Value, json};

/// json-joy in Node, asked over stdio to do a row and to say how long it took.
pub struct JsonJoy {
    /// Stopped when this is dropped.
    node: Child,
    pipes: RefCell<(ChildStdin, BufReader<ChildStdout>)>,
}

impl JsonJoy {
    /// Starts it where `WEFT_JSON_JOY` says.
    pub fn start(traces: &str) -> Option<Self> {
        let Some(folder) = std::env::var_os("WEFT_JSON_JOY") else {
            eprintln!("json-joy is left out: WEFT_JSON_JOY does not name its folder");
            return None;
        };
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/peers/json-joy.js");
        let mut node = Command::new("node")
            .arg("--expose-gc")
            .arg(script)
            .arg(traces)
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node can be started");
        let pipes = (node.stdin.take().expect("a pipe"), BufReader::new(node.stdout.take().expect("a pipe")));
        Some(Self { node, pipes: RefCell::new(pipes) })
    }

    /// Milliseconds that a row took, or what else it measures.
    pub fn run(&self, row: &str) -> f64 {
        let (stdin, stdout) = &mut *self.pipes.borrow_mut();
        writeln!(stdin, "{}", json!({"row": row})).expect("node listens");
        let mut line = String::new();
        stdout.read_line(&mut line).expect("node answers");
        let answer: Value =
            serde_json::from_str(&line).unwrap_or_else(|_| panic!("{row}: node said {line:?}"));
        answer["value"].as_f64().unwrap_or_else(|| panic!("{row}: {answer}"))
    }
}

impl Drop for JsonJoy {
    fn drop(&mut self) {
        let _ = self.node.kill();
        let _ = self.node.wait();
    }
}
