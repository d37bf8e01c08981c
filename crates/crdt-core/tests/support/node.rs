//! The real json-joy in Node, spoken to over stdio.

use std::{
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use crdt_core::{Value, codec::json};

pub struct JsonJoy {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl JsonJoy {
    pub fn start() -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/json-joy");
        let help = "run `cargo xtask test-all`, or `npm ci` in crates/crdt-core/tests/json-joy";
        assert!(folder.join("node_modules/json-joy").is_dir(), "json-joy is not installed: {help}");
        let node = std::env::var("WEFT_NODE").unwrap_or_else(|_| "node".to_owned());
        let mut child = Command::new(&node)
            .arg("driver.js")
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| {
                panic!("{node} did not start ({e}): install Node 20, or set WEFT_NODE; {help}")
            });
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdin, stdout }
    }

    /// Asks one thing. `request` is JSON.
    pub fn ask(&mut self, request: &str) -> Value {
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{request}").unwrap();
        stdin.flush().unwrap();
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        let answer = json::decode(line.as_bytes()).unwrap_or_else(|e| panic!("{e}: {line:?}"));
        if let Some(error) = answer.get("error") {
            panic!("json-joy threw {error:?} at {request}");
        }
        answer
    }
}

impl Drop for JsonJoy {
    fn drop(&mut self) {
        // It ends when its input does.
        self.stdin = None;
        let _ = self.child.wait();
    }
}
