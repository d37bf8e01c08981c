//! The terminal tool, as a person would use it: processes of its own that talk over loopback.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Output, Stdio},
};

/// A process that is killed when the test is over.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spot(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spot"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    spot(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Starts a node; gives what stands behind these words in its first lines.
fn bind<const N: usize>(arguments: &[&str], words: [&str; N]) -> (Running, [String; N]) {
    bind_at("tcp://127.0.0.1:0", arguments, words)
}

fn bind_at<const N: usize>(endpoint: &str, arguments: &[&str], words: [&str; N]) -> (Running, [String; N]) {
    let arguments = [&["bind", endpoint], arguments].concat();
    let mut node = Running(spot(&arguments).stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(node.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let found = words.map(|word| {
        let line = lines.by_ref().find(|line| line.starts_with(word)).expect(word);
        line[word.len()..].trim().to_owned()
    });
    // Somebody has to read what else it says, or it would stop.
    std::thread::spawn(move || lines.for_each(drop));
    (node, found)
}

#[test]
fn a_node_is_published_to_and_listened_to() {
    let (_node, [at]) = bind(&["--topic", "game:score", "--topic", "chat"], ["bound to "]);
    let listed = run(&["topics", &at]);
    assert_eq!(text(&listed.stdout), "chat\ngame:score\n");

    let arguments = ["subscribe", &at, "game:*", "--count", "3"];
    let mut listener = spot(&arguments);
    let listener = listener.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A node says who is subscribed through its status only; here the publisher repeats until the listener has enough.
    let mut listener = Running(listener);
    let mut round = 0;
    while listener.0.try_wait().unwrap().is_none() {
        let published = run(&["publish", &at, "game:score", &format!("{round}:0")]);
        assert!(published.status.success(), "{}", text(&published.stderr));
        round += 1;
        assert!(round < 500, "the listener hears nothing");
    }
    let mut heard = BufReader::new(listener.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let first = heard.next().unwrap();
    let first: u32 = first.strip_prefix("game:score ").unwrap().strip_suffix(":0").unwrap().parse().unwrap();
    for number in first + 1..first + 3 {
        assert_eq!(heard.next().unwrap(), format!("game:score {number}:0"));
    }
}

#[test]
fn a_node_that_was_killed_and_started_again_is_listened_to_again() {
    let (mut node, [at]) = bind(&["--topic", "t"], ["bound to "]);
    let mut listener = spot(&["subscribe", &at, "t"]);
    let mut listener = Running(listener.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let (said, heard) = std::sync::mpsc::channel();
    let lines = BufReader::new(listener.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    std::thread::spawn(move || lines.for_each(|line| said.send(line).unwrap_or_default()));
    for round in 0..3 {
        // Published again and again, until the listener is there: at first, or again.
        let heard_in_this_round = (0..500).any(|number| {
            let message = format!("round {round} number {number}");
            assert!(run(&["publish", &at, "t", &message]).status.success());
            heard.try_iter().any(|line| line.starts_with(&format!("t round {round} ")))
        });
        assert!(heard_in_this_round, "round {round}");
        node.0.kill().unwrap(); // -9
        node.0.wait().unwrap();
        (node, _) = bind_at(&at, &["--topic", "t"], ["bound to "]);
    }
}

#[test]
fn lines_of_standard_input_are_published() {
    let (_node, [at]) = bind(&["--topic", "log"], ["bound to "]);
    let mut listener = spot(&["subscribe", &at, "log", "--count", "4"]);
    let mut listener = Running(listener.stdout(Stdio::piped()).spawn().unwrap());
    let mut rounds = 0;
    while listener.0.try_wait().unwrap().is_none() {
        let mut publisher = spot(&["publish", &at, "log"]).stdin(Stdio::piped()).spawn().unwrap();
        let mut input = publisher.stdin.take().unwrap();
        writeln!(input, "one\ntwo").unwrap();
        drop(input);
        assert!(publisher.wait().unwrap().success());
        rounds += 1;
        assert!(rounds < 500, "the listener hears nothing");
    }
    let heard: Vec<_> =
        BufReader::new(listener.0.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    // It may have come in the middle of a round.
    let begins = usize::from(heard[0] == "log two");
    assert_eq!(heard, ["log one", "log two", "log one", "log two", "log one"][begins..begins + 4]);
}

/// Document 004's two nodes, whichever is started first; through either one the topics of both are seen.
#[test]
fn two_nodes_that_are_started_in_any_order_find_each_other() {
    let (first, [at_first]) = bind(&["--topic", "one"], ["bound to "]);
    drop(first);
    let (_second, [at_second, _]) =
        bind(&["--topic", "two", "--add", &at_first], ["bound to ", &format!("{at_first} is not reached")]);
    let (_first, _) = bind_at(&at_first, &["--topic", "one"], ["bound to "]);
    for at in [&at_first, &at_second] {
        // The second dials again after a pause, of some seconds at the most.
        let all = (0..2000).any(|_| text(&run(&["topics", at]).stdout) == "one\ntwo\n");
        assert!(all, "{at}: {}", text(&run(&["topics", at, "--long"]).stdout));
    }
    let long = text(&run(&["topics", &at_first, "--long"]).stdout);
    let owners: Vec<_> = long.lines().skip(1).map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    assert!(owners.len() == 2 && owners[0] != owners[1], "{long}");
}

#[test]
fn a_node_says_where_it_is_reached_when_it_listens_everywhere() {
    let (seed, [at]) = bind_at("tcp://0.0.0.0:0", &["--public", "--topic", "one"], ["bound to "]);
    let at = at.replace("0.0.0.0", "127.0.0.1");
    drop(seed);
    let (_seed, _) = bind_at(
        &at.replace("127.0.0.1", "0.0.0.0"),
        &["--public", "--advertise", &at, "--topic", "one"],
        ["bound to "],
    );
    // Known to the second, who was told by the first, is what the first advertises.
    let (_second, [at_second, _]) = bind(&["--add", &at, "--topic", "two"], ["bound to ", "connected to "]);
    let both = (0..200).any(|_| text(&run(&["topics", &at_second]).stdout) == "one\ntwo\n");
    assert!(both, "{}", text(&run(&["topics", &at_second]).stdout));
}

#[test]
fn status_shows_peers_and_topics() {
    let (_node, [at]) = bind(&["--topic", "a", "--topic", "b"], ["bound to "]);
    let shown = run(&["status", &at, "--once", "--interval", "0.1"]);
    let shown = text(&shown.stdout);
    assert!(shown.contains(&at) && shown.contains(" up "), "{shown}");
    assert!(shown.contains("all 2 topics"), "{shown}");
    for column in ["QUEUED", "DROPPED", "PUBLISHED/s", "DELIVERED/s", "MESSAGES/s", "MISSED"] {
        assert!(shown.contains(column), "{column}: {shown}");
    }
}

/// The screens that `spot status` writes, as lists of words.
fn screens(status: &mut Running) -> impl Iterator<Item = Vec<Vec<String>>> {
    let words = |line: String| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let mut lines = BufReader::new(status.0.stdout.take().unwrap()).lines().map(Result::unwrap).map(words);
    std::iter::from_fn(move || {
        // A screen's last line is the sum of its topics.
        let mut screen = Vec::new();
        for line in lines.by_ref() {
            let ends = line.first().is_some_and(|word| word == "all");
            screen.push(line);
            if ends {
                return Some(screen);
            }
        }
        None
    })
}

#[test]
fn status_counts_what_is_published_and_what_is_dropped() {
    let (_node, [at]) = bind(
        &["--topic", "news", "--topic", "lossy", "--slow", "drop-newest", "--replay", "1"],
        ["bound to "],
    );
    let mut status = spot(&["status", &at, "--interval", "0.1"]);
    let mut status = Running(status.stdout(Stdio::piped()).spawn().unwrap());
    let mut screens = screens(&mut status).take(1000);
    // It is subscribed when it shows its first screen. Each message is in the rate of one interval.
    let rate = |screen: &[Vec<String>], topic: &str| -> f64 {
        screen.iter().find(|row| row.first().is_some_and(|word| word == topic)).unwrap()[1].parse().unwrap()
    };
    assert_eq!(rate(&screens.next().unwrap(), "news"), 0.0);
    let words: Vec<String> = (0..50).map(|number| format!("message-{number}")).collect();
    let published = spot(&["publish", &at, "news"]).args(&words).status().unwrap();
    assert!(published.success());
    let mut counted = 0.0;
    while counted < 49.9 {
        counted += rate(&screens.next().expect("all that was published is counted in time"), "news") * 0.1;
    }
    assert!((counted - 50.0).abs() < 0.1, "{counted}");

    // A listener that has heard something, the last of what was published before it came, and is frozen then.
    assert!(run(&["publish", &at, "lossy", "first"]).status.success());
    let mut listener = spot(&["subscribe", &at, "lossy"]);
    let mut listener = Running(listener.stdout(Stdio::piped()).spawn().unwrap());
    let mut heard = BufReader::new(listener.0.stdout.take().unwrap()).lines();
    assert_eq!(heard.next().unwrap().unwrap(), "lossy first");
    let frozen = Command::new("kill").args(["-STOP", &listener.0.id().to_string()]).status().unwrap();
    assert!(frozen.success());
    let mut publisher = spot(&["publish", &at, "lossy"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = publisher.stdin.take().unwrap();
    let lines = ("x".repeat(64 << 10) + "\n").repeat(32);
    let dropped = screens.find_map(|screen| {
        // Until the buffers on the way to the frozen one are full.
        input.write_all(lines.as_bytes()).unwrap();
        // A node's number, and where it is reached; at the end DROPPED, GAPS, REFUSED, HEARTBEAT.
        // It is not shown when its answer came too late for this screen.
        let row = screen.iter().find(|row| row.get(1).is_some_and(|word| word == &at))?;
        let [.., dropped, _, _, heartbeat] = &row[..] else { panic!("{row:?}") };
        assert_eq!(heartbeat, "1.0s");
        Some(dropped.parse::<u64>().unwrap()).filter(|dropped| *dropped > 0)
    });
    assert!(dropped.is_some(), "nothing is dropped for who does not listen");
    drop(input);
    assert!(publisher.wait().unwrap().success());
}

#[test]
fn curve_and_plain_are_asked_for_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "07".repeat(32)).unwrap();
    let secret_z85 = folder.path().join("secret.z85");
    // A pair that ZeroMQ's documentation shows.
    std::fs::write(&secret_z85, "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs\n").unwrap();
    let z85 = ["--topic", "t", "--curve-secret", secret_z85.to_str().unwrap()];
    let (_node, [at, key]) = bind(&z85, ["bound to ", "public key "]);
    assert_eq!(key, "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID");
    assert_eq!(text(&run(&["topics", &at, "--curve-server", &key]).stdout), "t\n");
    let secret = secret.to_str().unwrap();
    let (_node, [at, key]) = bind(&["--topic", "t", "--curve-secret", secret], ["bound to ", "public key "]);
    assert_eq!(text(&run(&["topics", &at, "--curve-server", &key]).stdout), "t\n");
    let refused = run(&["topics", &at, "--timeout", "0.5"]);
    assert!(!refused.status.success());

    let (_node, [at]) = bind(&["--topic", "t", "--plain", "ann:secret"], ["bound to "]);
    assert_eq!(text(&run(&["topics", &at, "--plain", "ann:secret"]).stdout), "t\n");
    assert!(!run(&["topics", &at, "--plain", "ann:wrong", "--timeout", "0.5"]).status.success());
}

#[test]
fn names_of_others_do_not_steer_a_terminal() {
    let names = ["뉴스:서울", "two\nlines", "red\x1b[31m"];
    let arguments = names.map(|name| ["--topic", name]).concat();
    let (_node, [at]) = bind(&arguments, ["bound to "]);
    let listed = text(&run(&["topics", &at]).stdout);
    assert_eq!(listed, "red\\u{1b}[31m\ntwo\\nlines\n뉴스:서울\n");
    let shown = text(&run(&["status", &at, "--once", "--interval", "0.1"]).stdout);
    let long = text(&run(&["topics", &at, "--long"]).stdout);
    for shown in [shown, long] {
        assert!(shown.contains("two\\nlines ") && !shown.contains('\x1b'), "{shown}");
        assert!(shown.contains("뉴스:서울                        "), "{shown}");
    }
}

/// Document 004's two nodes, each of which connects to the other; one key for both.
#[test]
fn nodes_that_share_a_key_need_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "09".repeat(32)).unwrap();
    let secret = secret.to_str().unwrap();
    let (_first, [at, key]) =
        bind(&["--curve-secret", secret, "--topic", "one"], ["bound to ", "public key "]);
    let second = ["--curve-secret", secret, "--topic", "two", "--add", &at];
    let (_second, [at_second, _]) = bind(&second, ["bound to ", "connected to "]);
    for (at, shown) in [(&at, ["--curve-server", &key]), (&at_second, ["--curve-secret", secret])] {
        let both = (0..200).any(|_| text(&run(&["topics", at, shown[0], shown[1]]).stdout) == "one\ntwo\n");
        assert!(both, "{}", text(&run(&["topics", at, shown[0], shown[1]]).stdout));
    }
}

#[test]
fn what_goes_wrong_is_one_line_and_a_non_zero_exit() {
    let check = |arguments: &[&str], expect: &str| {
        let failed = run(arguments);
        let said = text(&failed.stderr);
        assert!(!failed.status.success());
        assert!(said.starts_with("spot: ") && said.lines().count() == 1 && said.contains(expect), "{said}");
    };
    check(&["topics", "tcp://127.0.0.1:1", "--timeout", "0.2"], "is not reached after");
    check(&["topics", "nonsense"], "nonsense");
    check(&["bind", "tcp://0.0.0.0:0"], "say --public");
    check(&["bind", "tcp://127.0.0.1:0", "--topic", "a*"], "`*`");
    check(&["bind", "tcp://127.0.0.1:0", "--curve-secret", "/nowhere/secret"], "/nowhere/secret");
    check(&["topics", "tcp://127.0.0.1:1", "--curve-server", "short"], "40 characters");
    let (_node, [at]) = bind(&[], ["bound to "]);
    check(&["publish", &at, "unknown", "x"], "`unknown` is not known");
    check(&["bind", &at], "cannot bind");
}
