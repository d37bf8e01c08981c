//! The program as a process, driven from its terminal: several meet over a real Redis server and over SPOT, one is killed
//! in the middle, the server too. What was confirmed is there everywhere in the end.

use std::{collections::BTreeSet, path::Path, process::Stdio, time::Duration};

use spot::conformance::RedisServer;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpListener,
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

/// How long a program may take to answer, and all of them to agree.
const PATIENCE: Duration = Duration::from_secs(60);

struct Notes {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    first: String,
}

impl Notes {
    async fn start(arguments: &[&str], folder: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_notes"))
            .args(arguments)
            .args(["--name", "test"])
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut notes = Self { child, input, output: BufReader::new(output).lines(), first: String::new() };
        notes.first = notes.line().await;
        notes.line().await;
        notes
    }

    async fn line(&mut self) -> String {
        let line = timeout(PATIENCE, self.output.next_line()).await.expect("an answer in time");
        line.unwrap().expect("the program runs")
    }

    /// Types a line; returns what is said to it.
    async fn ask(&mut self, line: &str) -> String {
        self.input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        loop {
            match self.line().await {
                line if line == "ok" => return answer.join("\n"),
                line if line.starts_with('·') => {}
                line => answer.push(line),
            }
        }
    }

    async fn add(&mut self, line: &str, confirmed: &mut BTreeSet<String>) {
        assert_eq!(self.ask(&format!("add {line}")).await, "");
        confirmed.insert(line.to_owned());
    }

    async fn text(&mut self) -> Vec<String> {
        let json: serde_json::Value = serde_json::from_str(&self.ask("json").await).unwrap();
        let mut lines: Vec<String> = json["text"].as_str().unwrap().lines().map(str::to_owned).collect();
        lines.retain(|line| !line.is_empty());
        lines
    }
}

/// Waits until all show the same text, with each confirmed line in it once.
async fn agree(programs: &mut [Notes], confirmed: &BTreeSet<String>) {
    let mut last = Vec::new();
    let agreed = async {
        loop {
            last.clear();
            for program in &mut *programs {
                last.push(program.text().await);
            }
            let all: BTreeSet<String> = last[0].iter().cloned().collect();
            if last.iter().all(|text| *text == last[0]) && all.is_superset(confirmed) {
                assert_eq!(all.len(), last[0].len(), "a line came twice: {:?}", last[0]);
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    if timeout(PATIENCE, agreed).await.is_err() {
        panic!("no agreement on {confirmed:?}: {last:#?}");
    }
}

/// Waits until a program has found two others, and sees that it waits for nobody else: one that was killed comes back as itself.
async fn knows_two_others(program: &mut Notes) {
    let found = async { while !program.ask("peers").await.starts_with("2 other programs") {} };
    timeout(PATIENCE, found).await.expect("each finds the two others");
    let status = program.ask("status").await;
    assert!(status.starts_with("peers 2,"), "{status}");
}

/// Three programs write in turn, one is killed and comes back.
async fn write_with_one_killed(
    place: &str,
    more: &[&str],
    folders: &[tempfile::TempDir],
) -> (Vec<Notes>, BTreeSet<String>) {
    let arguments = [&["--doc", "shared list", "--pubsub", place, "--listen", "none"], more].concat();
    let mut programs = Vec::new();
    for folder in folders {
        programs.push(Notes::start(&arguments, folder.path()).await);
    }
    let mut confirmed = BTreeSet::new();
    for round in 0..5 {
        for (number, program) in programs.iter_mut().enumerate() {
            program.add(&format!("calm {number} {round}"), &mut confirmed).await;
        }
    }
    agree(&mut programs, &confirmed).await;
    programs[1].child.kill().await.unwrap();
    for round in 0..5 {
        programs[0].add(&format!("without 1, {round}"), &mut confirmed).await;
        programs[2].add(&format!("also without, {round}"), &mut confirmed).await;
    }
    programs[1] = Notes::start(&arguments, folders[1].path()).await;
    programs[1].add("back", &mut confirmed).await;
    agree(&mut programs, &confirmed).await;
    (programs, confirmed)
}

fn folders() -> Vec<tempfile::TempDir> {
    (0..3).map(|_| tempfile::tempdir().unwrap()).collect()
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn programs_meet_on_redis_and_lose_nothing_when_one_and_the_server_are_killed() {
    let mut server = RedisServer::start().await;
    let folders = folders();
    let (mut programs, mut confirmed) = write_with_one_killed(&server.url(), &[], &folders).await;
    // Silent, not gone: no connection ends, and nothing is answered.
    server.signal("STOP");
    for (number, program) in programs.iter_mut().enumerate() {
        program.add(&format!("unheard {number}"), &mut confirmed).await;
    }
    server.signal("CONT");
    agree(&mut programs, &confirmed).await;
    server.kill();
    for (number, program) in programs.iter_mut().enumerate() {
        program.add(&format!("serverless {number}"), &mut confirmed).await;
    }
    server.restart().await;
    agree(&mut programs, &confirmed).await;
    let found = async { while !programs[0].ask("peers").await.starts_with("2 other programs") {} };
    timeout(PATIENCE, found).await.expect("the others are found again");
    // All is on each disk: every one alone shows it.
    for (program, folder) in programs.into_iter().zip(&folders) {
        drop(program);
        let arguments = ["--doc", "shared list", "--listen", "none"];
        let mut alone = [Notes::start(&arguments, folder.path()).await];
        agree(&mut alone, &confirmed).await;
    }
}

#[tokio::test]
async fn programs_meet_each_other_over_spot_and_the_first_may_go() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let place = format!("spot://127.0.0.1:{port}");
    let folders = folders();
    let (mut programs, mut confirmed) = write_with_one_killed(&place, &[], &folders).await;
    // The one that listens at the meeting place dies: the others know each other, and a new one listens there.
    programs[0].child.kill().await.unwrap();
    programs[1].add("the first is gone", &mut confirmed).await;
    agree(&mut programs[1..], &confirmed).await;
    let arguments = ["--doc", "shared list", "--pubsub", &place, "--listen", "none"];
    programs[0] = Notes::start(&arguments, folders[0].path()).await;
    assert!(programs[0].first.contains(&format!("as tcp://127.0.0.1:{port}")), "{}", programs[0].first);
    programs[0].add("the first is back", &mut confirmed).await;
    agree(&mut programs, &confirmed).await;
    for program in &mut programs {
        knows_two_others(program).await;
    }
}

#[tokio::test]
async fn a_terminal_says_what_it_knows() {
    let folder = tempfile::tempdir().unwrap();
    let mut notes = Notes::start(&["--listen", "127.0.0.1:0", "--store", "memory"], folder.path()).await;
    assert!(notes.first.contains("http://127.0.0.1:") && notes.first.contains("nowhere"), "{}", notes.first);
    for (line, answer) in [
        ("title A list", ""),
        ("add milk\\nbread 😀", ""),
        ("ins 2:8 and jam", ""),
        ("show", "# A list\n1 | milk\n2 | bread 😀and jam"),
        ("replace 😀 => , butter", ""),
        ("replace , butter => !", ""),
        ("line 2", "bread !and jam"),
        ("replace !and => and", ""),
        ("del 1:1 2", ""),
        ("line 1", "lk"),
        ("line 1 eggs", ""),
        ("title", "A list"),
        ("json", "{\n  \"text\": \"eggs\\nbread and jam\\n\",\n  \"title\": \"A list\"\n}"),
        ("line 9", "! no line 9: the text has 3"),
        ("dance", "! no command `dance`; `help` lists them"),
        ("!99", "! no line 99; `history` lists them"),
        ("at 2:3", ""),
        ("who", "test (you)"),
    ] {
        assert_eq!(notes.ask(line).await, answer, "{line}");
    }
    assert!(notes.ask("status").await.contains("broadcast"));
    assert!(notes.ask("history").await.contains("1  title A list"));
    notes.input.write_all(b"quit\n").await.unwrap();
    assert!(timeout(PATIENCE, notes.child.wait()).await.unwrap().unwrap().success());
}

#[tokio::test]
async fn a_second_program_finds_a_folder_of_its_own_and_a_named_one_in_use_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let first = Notes::start(&["--listen", "none"], folder.path()).await;
    let second = Notes::start(&["--listen", "none"], folder.path()).await;
    assert!(first.first.ends_with("kept in weft-notes/1") && second.first.ends_with("kept in weft-notes/2"));
    let refused = Command::new(env!("CARGO_BIN_EXE_notes"))
        .args(["--store", "weft-notes/1", "--listen", "none"])
        .current_dir(folder.path())
        .output();
    let refused = refused.await.unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("in use by another program") && said.lines().count() == 1, "{said}");
}

#[tokio::test]
async fn the_page_is_served_when_nobody_types_and_sigterm_ends_it_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut notes = Notes::start(&["--listen", "127.0.0.1:0"], folder.path()).await;
    let address = notes.first.split("http://").nth(1).unwrap().split(',').next().unwrap().to_owned();
    drop(std::mem::replace(&mut notes.input, {
        // Standard input ends; the program must not.
        let mut other = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        other.stdin.take().unwrap()
    }));
    for _ in 0..3 {
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        stream.write_all(b"GET /api/note HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains(r#"{"doc":"demo","store":""#), "{answer}");
        assert!(answer.ends_with(r#"","text":"","title":""}"#), "{answer}");
    }
    let pid = notes.child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    assert!(timeout(PATIENCE, notes.child.wait()).await.unwrap().unwrap().success());
}

/// One is killed and comes back here, too. Who meets them with another key sees nothing and is seen by nobody.
#[tokio::test]
async fn programs_that_seal_and_go_by_the_dag_lose_nothing_and_tell_nobody_else() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let place = format!("spot://127.0.0.1:{port}");
    let folders = folders();
    let key = folders[0].path().join("text.key");
    let more = ["--dag", "--seal", key.to_str().unwrap()];
    let (mut programs, mut confirmed) = write_with_one_killed(&place, &more, &folders).await;

    let elsewhere = tempfile::tempdir().unwrap();
    let arguments =
        ["--doc", "shared list", "--pubsub", &place, "--listen", "none", "--dag", "--seal", "other.key"];
    let mut outsider = Notes::start(&arguments, elsewhere.path()).await;
    assert_eq!(outsider.ask("add from outside").await, "");
    programs[0].add("among us", &mut confirmed).await;
    agree(&mut programs, &confirmed).await;
    let text: BTreeSet<String> = programs[1].text().await.into_iter().collect();
    assert_eq!(text, confirmed, "nothing of the outsider");
    assert_eq!(outsider.text().await, ["from outside"]);
    assert_eq!(std::fs::read(&key).unwrap().len(), 65);
}

/// One is killed and comes back here, too. Who comes with another key, or with none, gets no connection.
#[tokio::test]
async fn programs_with_one_key_meet_over_spot_and_let_in_nobody_else() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let place = format!("spot://127.0.0.1:{port}");
    let folders = folders();
    let key = folders[0].path().join("spot.key");
    let more = ["--spot-key", key.to_str().unwrap()];
    let (mut programs, mut confirmed) = write_with_one_killed(&place, &more, &folders).await;

    let elsewhere = tempfile::tempdir().unwrap();
    let common = ["--doc", "shared list", "--pubsub", &place, "--listen", "none", "--store", "memory"];
    for more in [&["--spot-key", "other.key"][..], &[]] {
        let mut outsider = Notes::start(&[&common[..], more].concat(), elsewhere.path()).await;
        assert_eq!(outsider.ask("add from outside").await, "");
        programs[0].add(&format!("among us, {}", more.len()), &mut confirmed).await;
        agree(&mut programs, &confirmed).await;
        assert_eq!(outsider.text().await, ["from outside"]);
    }
    let mut insider = Notes::start(&[&common[..], &more[..]].concat(), elsewhere.path()).await;
    insider.add("from one more", &mut confirmed).await;
    programs.push(insider);
    agree(&mut programs, &confirmed).await;
    let text: BTreeSet<String> = programs[0].text().await.into_iter().collect();
    assert_eq!(text, confirmed, "nothing of the outsiders");
}

/// One that takes what two have signed, the other of them, and one whose key is on nobody's list.
#[tokio::test]
async fn with_keys_only_the_listed_can_write() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let place = format!("spot://127.0.0.1:{port}");
    let folders = folders();
    let common = ["--doc", "signed", "--pubsub", &place, "--listen", "none", "--key", "me.key"];
    // A first start makes the keys.
    let mut public = Vec::new();
    for folder in &folders {
        let alone = ["--store", "memory", "--listen", "none", "--key", "me.key"];
        drop(Notes::start(&alone, folder.path()).await);
        public.push(std::fs::read_to_string(folder.path().join("me.key.pub")).unwrap());
    }
    let mut programs = Vec::new();
    for (number, folder) in folders.iter().enumerate() {
        // The outsider trusts everybody, and nobody trusts it.
        let listed = if number == 2 { &public[..] } else { &public[..2] };
        std::fs::write(folder.path().join("writers"), listed.concat()).unwrap();
        let arguments = [&common[..], &["--writers", "writers"]].concat();
        programs.push(Notes::start(&arguments, folder.path()).await);
    }
    let mut confirmed = BTreeSet::new();
    programs[0].add("from the first", &mut confirmed).await;
    programs[1].add("from the second", &mut confirmed).await;
    agree(&mut programs, &confirmed).await;

    assert_eq!(programs[2].ask("add from the outsider").await, "");
    for program in &mut programs[..2] {
        timeout(PATIENCE, async {
            while program.ask("status").await.contains("not allowed 0") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .expect("it hears the outsider, and refuses");
    }
    programs[0].add("from the first again", &mut confirmed).await;
    agree(&mut programs[..2], &confirmed).await;
    for program in &mut programs[..2] {
        let text: BTreeSet<String> = program.text().await.into_iter().collect();
        assert_eq!(text, confirmed, "nothing of the outsider");
    }
}

/// Sends a request; returns the head of the answer.
async fn request(address: &str, host: &str, path: &str, headers: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut lines, mut head) = (BufReader::new(stream).lines(), String::new());
    while let Some(line) = timeout(PATIENCE, lines.next_line()).await.expect("an answer").unwrap() {
        if line.is_empty() {
            break;
        }
        head += &line;
        head.push('\n');
    }
    head
}

const SOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                      Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// The owner of a domain can let its name point here: to a browser its page is then of this very place.
#[tokio::test]
async fn without_a_token_a_page_of_a_public_name_reads_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let notes = Notes::start(&["--listen", "127.0.0.1:0", "--store", "memory"], folder.path()).await;
    let (_, page) = notes.first.split_once("http://").unwrap();
    let (address, _) = page.split_once(',').unwrap();
    let port = address.rsplit_once(':').unwrap().1;
    for (name, status) in
        [("127.0.0.1", ["200", "101"]), ("localhost", ["200", "101"]), ("evil.example", ["421"; 2])]
    {
        let host = format!("{name}:{port}");
        let head = request(address, &host, "/api/note", "Connection: close\r\n").await;
        assert!(head.starts_with(&format!("HTTP/1.1 {} ", status[0])), "{host}: {head}");
        let head = request(address, &host, "/socket", &format!("{SOCKET}Origin: http://{host}\r\n")).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {} ", status[1])), "{host}: {head}");
        let other = format!("{SOCKET}Origin: http://other.example\r\n");
        let head = request(address, &host, "/socket", &other).await;
        assert!(head.starts_with("HTTP/1.1 403 "), "{host}: {head}");
    }
}

#[tokio::test]
async fn with_a_token_only_those_who_know_it_read_and_write() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--listen", "127.0.0.1:0", "--store", "memory", "--token", "correct-horse"];
    let notes = Notes::start(&arguments, folder.path()).await;
    let (_, page) = notes.first.split_once("http://").unwrap();
    let (address, rest) = page.split_once('/').unwrap();
    assert!(rest.starts_with("?token=correct-horse"), "{rest}");
    let cookie = "Cookie: notes-token=correct-horse\r\n";
    let bearer = "Authorization: Bearer correct-horse\r\n";
    for (path, headers, status) in [
        ("/", String::new(), "200"),
        ("/?token=wrong-horse", String::new(), "403"),
        ("/?token=correct-horse", String::new(), "303"),
        ("/api/note", String::new(), "401"),
        ("/api/note", bearer.to_owned(), "200"),
        ("/socket", SOCKET.to_owned(), "401"),
        ("/socket", format!("{SOCKET}Cookie: notes-token=wrong-horse\r\n"), "401"),
        ("/socket", format!("{SOCKET}{cookie}"), "101"),
        ("/socket", format!("{SOCKET}{bearer}"), "101"),
    ] {
        let head = request(address, address, path, &headers).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {headers}: {head}");
        assert_eq!(head.contains("set-cookie: notes-token="), status == "303", "{head}");
    }
}
