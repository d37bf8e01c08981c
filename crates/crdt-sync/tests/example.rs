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
    fn start(arguments: &[&str]) -> Self {
        // `cargo test` builds the examples beside the tests.
        let deps = std::env::current_exe().unwrap();
        let folder = deps.parent().and_then(|deps| deps.parent()).expect("a folder of the build");
        let program: PathBuf = folder.join("examples").join("distributed_example");
        assert!(program.exists(), "build it first: cargo build -p crdt-sync --examples ({program:?})");
        let mut child = Command::new(program)
            .args(arguments)
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

    /// Asks what it has until it has this.
    async fn has(&mut self, name: &str, items: &str) {
        let wanted = format!("{name} has {items}");
        let seen = async {
            loop {
                self.types("").await;
                if self.line().await == wanted {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("{wanted} in time"));
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
    let mut example = Example::start(&[]);
    assert_eq!(example.line().await, "Type an item, or nothing to see what each has. The nodes take turns.");
    example.types("bread").await;
    assert_eq!(example.line().await, "alice added bread");
    example.both_have(r#"["bread"]"#).await;
    example.types("milk").await;
    assert_eq!(example.line().await, "bob added milk");
    example.both_have(r#"["bread","milk"]"#).await;
}

/// The same with a node in each of two programs, which meet on a Redis server. (It takes an example that is built with Redis.)
#[cfg(feature = "redis")]
#[tokio::test]
#[ignore = "needs redis-server"]
async fn nodes_in_two_programs_come_to_have_the_same_list_over_redis() {
    let server = spot::conformance::RedisServer::start().await;
    let url = server.url();
    let (mut alice, mut bob) = (Example::start(&[&url, "alice"]), Example::start(&[&url, "bob"]));
    for program in [&mut alice, &mut bob] {
        assert!(program.line().await.starts_with("Type an item"));
    }
    alice.types("bread").await;
    assert_eq!(alice.line().await, "alice added bread");
    bob.has("bob", r#"["bread"]"#).await;
    bob.types("milk").await;
    assert_eq!(bob.line().await, "bob added milk");
    alice.has("alice", r#"["bread","milk"]"#).await;
}
