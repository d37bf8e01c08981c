//! The founding document's example, run as people run it: lines go in, and both nodes come to have the same list.

use std::{path::PathBuf, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

const PATIENCE: Duration = Duration::from_secs(20);

struct Example {
    _child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Example {
    fn start() -> Self {
        // `cargo test` builds the examples beside the tests.
        let deps = std::env::current_exe().unwrap();
        let folder = deps.parent().and_then(|deps| deps.parent()).expect("a folder of the build");
        let program: PathBuf = folder.join("examples").join("distributed_example");
        assert!(program.exists(), "build it first: cargo build -p crdt-sync --examples ({program:?})");
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the example starts");
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { _child: child, input, output: BufReader::new(output).lines() }
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(PATIENCE, self.output.next_line()).await.expect("a line in time");
        line.unwrap().expect("the example runs")
    }

    async fn types(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// Asks what each has until both have this.
    async fn both_have(&mut self, items: &str) {
        let agreed = async {
            loop {
                self.types("").await;
                let (alice, bob) = (self.line().await, self.line().await);
                if alice == format!("alice has {items}") && bob == format!("bob has {items}") {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, agreed).await.unwrap_or_else(|_| panic!("both have {items} in time"));
    }
}

#[tokio::test]
async fn both_nodes_of_the_founding_example_come_to_have_the_same_list() {
    let mut example = Example::start();
    assert_eq!(example.line().await, "Type an item, or nothing to see what each has. The nodes take turns.");
    example.types("bread").await;
    assert_eq!(example.line().await, "alice added bread");
    example.both_have(r#"["bread"]"#).await;
    example.types("milk").await;
    assert_eq!(example.line().await, "bob added milk");
    example.both_have(r#"["bread","milk"]"#).await;
}
