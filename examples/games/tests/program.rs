//! The program as its user meets it: how it starts, why it does not, and how it stops.

mod support;

use std::{fs, process::Output};

use serde_json::{Value, json};
use spot::conformance::RedisServer;
use support::{DEADLINE, Games, command};
use tokio::time::timeout;

/// Runs it to its end, which must be a failure told in one line that holds all of these words.
async fn fails(arguments: &[&str], words: &[&str]) {
    let Output { status, stderr, .. } =
        timeout(DEADLINE, command(arguments).output()).await.expect("it ends").unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert!(!status.success(), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "one line: {said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {said:?}");
    }
}

async fn stop(mut games: Games) {
    let pid = games.child.id().unwrap().to_string();
    tokio::process::Command::new("kill").args(["-TERM", &pid]).status().await.unwrap();
    let status = timeout(DEADLINE, games.child.wait()).await.expect("it stops").unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn a_taken_port_is_said_in_one_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fails(&["--listen", &address, "--data", data.to_str().unwrap()], &["games:", &address, "--listen"]).await;
    assert!(!data.exists(), "the folder is not touched");
}

#[tokio::test]
async fn an_address_that_others_can_reach_is_not_opened_to_everybody_by_chance() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let everywhere = ["--listen", "0.0.0.0:0", "--data", data.to_str().unwrap()];
    fails(&everywhere, &["games:", "--jwt-secret", "--jwks", "--open"]).await;
    assert!(!data.exists(), "the folder is not touched");
    let short = folder.path().join("short");
    fs::write(&short, "guess me\n").unwrap();
    let with_short = [&everywhere[..], &["--jwt-secret", short.to_str().unwrap()]].concat();
    fails(&with_short, &["a secret of 8 bytes", "32"]).await;
    let with_none = [&everywhere[..], &["--jwks", "/nowhere"]].concat();
    fails(&with_none, &["can't read /nowhere"]).await;
}

#[tokio::test]
async fn keys_are_read_again_at_sighup() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    let write = |text: &str| fs::write(&secret, text).unwrap();
    let token = async || {
        let made = command(&["--jwt-secret", secret.to_str().unwrap(), "--make-token", "ann"]);
        let Output { stdout, .. } = { made }.output().await.unwrap();
        ("Authorization", format!("Bearer {}", String::from_utf8(stdout).unwrap().trim()))
    };
    write("the first secret of all, which is long enough");
    let games =
        Games::start_with(&folder.path().join("data"), &["--jwt-secret", secret.to_str().unwrap()]).await;
    let status = async |headers: &[(&str, String)]| {
        games.client().request("GET", "/api/games", headers, &Value::Null).await.unwrap().0
    };
    let pid = games.child.id().unwrap().to_string();
    let first = token().await;
    assert_eq!((status(&[]).await, status(std::slice::from_ref(&first)).await), (401, 200));

    write("the second secret, which is just as long as that");
    let second = token().await;
    assert_eq!(status(std::slice::from_ref(&second)).await, 401);
    tokio::process::Command::new("kill").args(["-HUP", &pid]).status().await.unwrap();
    let taken = async { while status(std::slice::from_ref(&second)).await != 200 {} };
    timeout(DEADLINE, taken).await.expect("the new secret is taken");
    assert_eq!(status(&[first]).await, 401, "the old one is out of use");
    stop(games).await;
}

#[tokio::test]
async fn a_folder_that_is_none_is_said_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "a file").unwrap();
    let data = file.join("data");
    let data = data.to_str().unwrap();
    fails(&["--listen", "127.0.0.1:0", "--data", data], &["games:", data]).await;
}

#[tokio::test]
async fn a_store_in_use_is_said_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let games = Games::start(folder.path()).await;
    let data = folder.path().to_str().unwrap();
    fails(&["--listen", "127.0.0.1:0", "--data", data], &["games:", data]).await;
    stop(games).await;
}

#[tokio::test]
async fn a_broken_store_is_said_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let games = Games::start(folder.path()).await;
    for number in 0..20 {
        let body = json!({"name": format!("game {number}")});
        games.client().request("POST", "/api/games", &[], &body).await.unwrap();
    }
    games.kill().await;
    // Somebody emptied every file of the engine that holds something.
    let mut folders = vec![folder.path().join("documents")];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.metadata().unwrap().len() > 0 {
                fs::write(&path, b"").unwrap();
            }
        }
    }
    let data = folder.path().to_str().unwrap();
    fails(&["--listen", "127.0.0.1:0", "--data", data], &["games:", data]).await;
}

#[tokio::test]
async fn a_wrong_filter_is_said_in_one_line() {
    fails(&["--log", "info,=="], &["games:", "--log"]).await;
}

#[tokio::test]
async fn help_explains_every_option() {
    let Output { status, stdout, .. } = command(&["--help"]).output().await.unwrap();
    let help = String::from_utf8(stdout).unwrap();
    assert!(status.success());
    for word in [
        "--listen",
        "--data",
        "--keep-events",
        "--keep-age",
        "--snapshot-age",
        "--log",
        "RUST_LOG",
        "./weft-data",
        "127.0.0.1:8080",
        "ctrl-c",
    ] {
        assert!(help.contains(word), "{word:?} is not in the help:\n{help}");
    }
}

#[tokio::test]
async fn a_stop_lets_clients_go_and_a_start_is_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let games = Games::start(folder.path()).await;
    let client = games.client();
    client.request("PUT", "/api/games/go", &[], &json!({"name": "Go"})).await.unwrap();
    client.request("POST", "/api/sync/go", &[], &json!({"clientId": "tab", "cursor": 1})).await.unwrap();
    client.request("POST", "/api/snapshots/go", &[], &Value::Null).await.unwrap();
    let mut socket = client.socket("tab", json!({"documents": {"go": {}}})).await.unwrap();
    let stopping = tokio::spawn(stop(games));
    let (messages, code) = socket.until_closed().await;
    assert_eq!(code, Some(1012));
    assert!(messages.iter().any(|message| message["type"] == "drain"), "{messages:?}");
    stopping.await.unwrap();

    let games = Games::start(folder.path()).await;
    let client = games.client();
    assert_eq!(client.get("/api/games/go").await["state"], json!({"name": "Go"}));
    assert_eq!(client.get("/api/snapshots/go").await["items"][0]["version"], 1);
    assert_eq!(client.get("/api/state-vectors/go").await["clients"][0]["clientId"], "tab");
    stop(games).await;
}

/// Asks until an answer is as it should be.
async fn until(games: &Games, path: &str, holds: impl Fn(u16, &Value) -> bool) -> Value {
    let client = games.client();
    let asked = async {
        loop {
            let (status, body) = client.request("GET", path, &[], &Value::Null).await.unwrap();
            if holds(status, &body) {
                return body;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, asked).await.unwrap_or_else(|_| panic!("{path} stays as it was"))
}

#[tokio::test]
async fn the_history_gets_shorter_as_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let games = Games::start(folder.path()).await;
    let client = games.client();
    for path in ["/api/games/go", "/api/games/gone"] {
        for gold in 0..6 {
            client.request("PUT", path, &[], &json!({"name": "Go", "gold": gold})).await.unwrap();
        }
    }
    client.request("DELETE", "/api/games/gone", &[], &Value::Null).await.unwrap();
    stop(games).await;

    // Nothing is a day old: all stays, and only what follows gets a snapshot for its age.
    let options = ["--keep-events", "2", "--keep-age", "1d", "--snapshot-age", "1s"];
    let games = Games::start_with(folder.path(), &options).await;
    games.client().request("PUT", "/api/games/go", &[], &json!({"name": "Go", "gold": 6})).await.unwrap();
    until(&games, "/api/snapshots/go", |_, body| body["items"][0]["version"] == 7).await;
    assert_eq!(games.client().get("/api/events/go?after=0").await["events"].as_array().unwrap().len(), 7);
    stop(games).await;

    // By number alone, at the start. A game that was deleted has a history too.
    let games = Games::start_with(folder.path(), &["--keep-events", "2"]).await;
    for (path, oldest) in [("/api/events/go?after=0", 6), ("/api/events/gone?after=0", 6)] {
        let gone = until(&games, path, |status, _| status == 410).await;
        assert_eq!(gone["oldest"], oldest, "{gone}");
    }
    let left = games.client().get("/api/events/go?after=5").await;
    assert_eq!(left["events"].as_array().unwrap().len(), 2, "{left}");
    assert_eq!(games.client().get("/api/games/go").await["state"]["gold"], 6);
    stop(games).await;
}

#[tokio::test]
async fn the_page_and_the_client_are_part_of_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let games = Games::start(folder.path()).await;
    for (path, kind) in [
        ("/", "text/html"),
        ("/web/app.js", "text/javascript"),
        ("/client/index.js", "text/javascript"),
        ("/sw.js", "text/javascript"),
    ] {
        let (status, headers, body) = games.client().file(path).await;
        assert_eq!(status, 200, "{path}");
        assert!(headers.contains(&format!("content-type: {kind}")), "{path}: {headers}");
        assert!(
            headers.contains("content-security-policy: default-src 'none'; script-src 'self'"),
            "{path}: {headers}"
        );
        assert!(!body.is_empty());
    }
    let (status, _, _) = games.client().file("/web/../Cargo.toml").await;
    assert_eq!(status, 404);
    stop(games).await;
}

/// Ids and versions of one installation are those of another: only the store's own name tells their games apart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs redis-server"]
async fn two_installations_over_one_redis_keep_their_games_apart() {
    let redis = RedisServer::start().await;
    let url = redis.url();
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let cached = ["--cache", url.as_str()];
    let mut programs = Vec::new();
    for folder in &folders {
        programs.push(Games::start_with(folder.path(), &cached).await);
    }
    for (program, name) in programs.iter().zip(["ours", "theirs"]) {
        for n in 0..5 {
            let game = json!({"name": name, "n": n});
            let (status, body) = program.client().request("PUT", "/api/games/go", &[], &game).await.unwrap();
            assert!(status == 200 || status == 201, "{status}: {body}");
        }
    }
    for _ in 0..5 {
        for (program, name) in programs.iter().zip(["ours", "theirs"]) {
            assert_eq!(program.client().get("/api/games/go").await["state"], json!({"name": name, "n": 4}));
        }
    }
    // The name stays with the folder.
    stop(programs.remove(0)).await;
    let again = Games::start_with(folders[0].path(), &cached).await;
    assert_eq!(again.client().get("/api/games/go").await["state"]["name"], "ours");
}
