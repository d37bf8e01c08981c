//! The client in Rust against the program: offline, over `kill -9` of the server, over restarts of its own. Each write
//! counts once, and all agree in the end.

mod support;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use crdt_core::ClientId;
use eventsync::{
    ConflictResolver,
    client::{ClientStatus, SyncClient, SyncClientOptions},
    protocol::PushOp,
    shelf::EmbeddedShelf,
};
use nodestorage::DocumentId;
use serde_json::{Value, json};
use support::{DEADLINE, Games};
use tokio::time::timeout;

const ROUNDS: usize = 8;
const WRITES: usize = 12;

fn go() -> DocumentId {
    DocumentId::new("go").unwrap()
}

async fn start(name: &str, address: &str, folder: &Path) -> SyncClient {
    let client = SyncClient::start(SyncClientOptions {
        url: format!("ws://{address}/sync"),
        client_id: ClientId::new(name).unwrap(),
        token: None,
        resolver: ConflictResolver::ThreeWayMerge,
        shelf: Arc::new(EmbeddedShelf::open(folder).unwrap()),
    });
    client.open(&go()).await.unwrap();
    client
}

fn set(field: &str, value: impl Into<Value>) -> PushOp {
    PushOp::Merge { patch: [(field.to_owned(), value.into())].into_iter().collect() }
}

async fn until(client: &SyncClient, what: &str, holds: impl Fn(&SyncClient) -> bool) {
    let mut changes = client.changes();
    let waiting = async {
        while !holds(client) {
            changes.changed().await.unwrap();
        }
    };
    if timeout(DEADLINE, waiting).await.is_err() {
        panic!("{what}: {} unsent, {}", client.unsent(), client.view(&go()).unwrap());
    }
}

async fn is(client: &SyncClient, wanted: ClientStatus) {
    let mut status = client.status();
    timeout(DEADLINE, status.wait_for(|status| *status == wanted)).await.expect("in time").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_write_counts_once_over_dead_servers_and_restarted_clients() {
    let (data, folders) =
        (tempfile::tempdir().unwrap(), [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]);
    let mut games = Games::start(data.path()).await;
    // The program comes back on another port each time; so this is where the clients go.
    let cable = Cable::lay(&games.address).await;
    let made = games.client().request("PUT", "/api/games/go", &[], &json!({"name": "Go"})).await;
    assert_eq!(made.unwrap().0, 201);
    let names = ["ann", "bo"];
    let mut clients = Vec::new();
    for (name, folder) in names.iter().zip(&folders) {
        let client = start(name, &cable.address, folder.path()).await;
        // A merge shows in a document that is there.
        until(&client, "it hears of the document", |client| !client.view(&go()).unwrap().is_null()).await;
        clients.push(client);
    }
    let mut written = [0_usize; 2];
    for round in 0..ROUNDS {
        for step in 0..WRITES {
            for (number, client) in clients.iter().enumerate() {
                written[number] += 1;
                client.write(&go(), set(names[number], written[number]), false).await.unwrap();
                // It shows at once, whatever the server does.
                assert_eq!(client.view(&go()).unwrap()[names[number]], json!(written[number]));
            }
            if step == WRITES / 2 {
                games.kill().await;
                games = Games::start(data.path()).await;
                cable.lead_to(&games.address);
            }
        }
        // One of them restarts: with what it kept, without a word before.
        let number = round % 2;
        drop(clients.remove(number));
        clients.insert(number, restart(names[number], &cable.address, folders[number].path()).await);
    }
    for client in &clients {
        until(client, "all is sent", |client| client.unsent() == 0).await;
    }
    let expect = json!({"name": "Go", "ann": written[0], "bo": written[1]});
    for client in &clients {
        until(client, "both agree", |client| client.view(&go()).unwrap() == expect).await;
    }
    let mut counted: BTreeMap<String, u64> = BTreeMap::new();
    let mut after = 0;
    loop {
        let page = games.client().get(&format!("/api/events/go?after={after}")).await;
        for event in page["events"].as_array().unwrap() {
            after += 1;
            assert_eq!(event["sequenceNum"], after);
            let writer = event["clientId"].as_str().unwrap().to_owned();
            let count = counted.entry(writer).or_default();
            *count += 1;
            if let Some(sequence) = event["clientSeq"].as_u64() {
                assert_eq!(sequence, *count, "{event}");
            }
        }
        if page.get("next").is_none() {
            break;
        }
    }
    assert_eq!((counted["ann"], counted["bo"]), (written[0] as u64, written[1] as u64));
}

/// Its folder is free once the one before is gone.
async fn restart(name: &str, address: &str, folder: &Path) -> SyncClient {
    let free = async {
        while EmbeddedShelf::open(folder).is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, free).await.expect("the folder is free in time");
    start(name, address, folder).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_offline_is_sent_later_and_conflicts_are_decided() {
    let (data, folder, other) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let games = Games::start(data.path()).await;
    let cable = Cable::lay(&games.address).await;
    let ann = start("ann", &cable.address, folder.path()).await;
    is(&ann, ClientStatus::Live).await;
    ann.write(
        &go(),
        PushOp::Create { state: json!({"name": "Go", "gold": 1}).as_object().unwrap().clone() },
        true,
    )
    .await
    .unwrap();
    until(&ann, "made", |client| client.unsent() == 0 && client.version(&go()).unwrap() == 1).await;

    cable.cut();
    is(&ann, ClientStatus::Offline).await;
    let gold = |gold: u64| PushOp::Replace {
        state: json!({"name": "Go", "gold": gold}).as_object().unwrap().clone(),
    };
    ann.write(&go(), gold(5), true).await.unwrap();
    // It is closed offline, and another run sends what it left.
    ann.close().await.unwrap();
    let bo = start("bo", &games.address, other.path()).await;
    until(&bo, "seen", |client| client.version(&go()).unwrap() == 1).await;
    bo.write(&go(), set("level", 7), false).await.unwrap();
    until(&bo, "sent", |client| client.unsent() == 0).await;
    let ann = restart("ann", &cable.address, folder.path()).await;
    assert_eq!((ann.unsent(), &ann.view(&go()).unwrap()["gold"]), (1, &json!(5)));
    cable.lead_to(&games.address);
    let both = json!({"name": "Go", "gold": 5, "level": 7});
    for client in [&ann, &bo] {
        until(client, "joined", |client| client.unsent() == 0 && client.view(&go()).unwrap() == both).await;
    }
    // What breaks the application's rules is refused, said, and shows no more.
    let mut events = ann.events();
    ann.write(&go(), set("name", ""), false).await.unwrap();
    until(&ann, "refused", |client| client.unsent() == 0).await;
    let refused = async {
        loop {
            if let eventsync::client::ClientEvent::Refused { problem, .. } = events.recv().await.unwrap() {
                return problem;
            }
        }
    };
    let problem = timeout(DEADLINE, refused).await.unwrap();
    assert!(problem.detail.contains("must not be empty"), "{problem:?}");
    assert_eq!(ann.view(&go()).unwrap(), both);
}

/// All of a folder, as an operator copies it while nothing runs.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_was_put_back_and_written_on_is_noticed_and_unsent_edits_are_kept() {
    let (place, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (data, backup) = (place.path().join("data"), place.path().join("backup"));
    let mut games = Games::start(&data).await;
    let cable = Cable::lay(&games.address).await;
    let made = games.client().request("PUT", "/api/games/go", &[], &json!({"name": "Go"})).await;
    assert_eq!(made.unwrap().0, 201);
    let ann = start("ann", &cable.address, folder.path()).await;
    until(&ann, "it hears of the document", |client| !client.view(&go()).unwrap().is_null()).await;
    ann.write(&go(), set("kept", 1), false).await.unwrap();
    let has = |version| move |client: &SyncClient| client.version(&go()).unwrap() == version;
    until(&ann, "kept", has(2)).await;
    games.kill().await;
    copy(&data, &backup);
    games = Games::start(&data).await;
    cable.lead_to(&games.address);
    for number in 1..=3 {
        ann.write(&go(), set("lost", number), false).await.unwrap();
    }
    until(&ann, "all is here", has(5)).await;
    cable.cut();
    is(&ann, ClientStatus::Offline).await;
    ann.write(&go(), set("unsent", 7), false).await.unwrap();

    games.kill().await;
    std::fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    games = Games::start(&data).await;
    for number in 1..=6 {
        let body = json!({"since": number});
        let written = games.client().request("PATCH", "/api/games/go", &[], &body).await.unwrap();
        assert_eq!(written.1["version"], 2 + number, "{written:?}");
    }
    cable.lead_to(&games.address);
    let expect = json!({"name": "Go", "kept": 1, "since": 6, "unsent": 7});
    until(&ann, "the state of the backup, and what was unsent", |client| {
        client.unsent() == 0 && client.version(&go()).unwrap() == 9 && client.view(&go()).unwrap() == expect
    })
    .await;
    assert_eq!(games.client().get("/api/games/go").await["state"], expect);
}

/// A way to the server that can be cut and led elsewhere.
struct Cable {
    address: String,
    to: tokio::sync::watch::Sender<Option<String>>,
}

impl Cable {
    async fn lay(to: &str) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (to, watched) = tokio::sync::watch::channel(Some(to.to_owned()));
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut watched = watched.clone();
                tokio::spawn(async move {
                    let Some(place) = watched.borrow_and_update().clone() else { return };
                    let Ok(mut far) = tokio::net::TcpStream::connect(&place).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = watched.changed() => {}
                    }
                });
            }
        });
        Self { address, to }
    }

    fn cut(&self) {
        self.to.send_replace(None);
    }

    fn lead_to(&self, address: &str) {
        self.to.send_replace(Some(address.to_owned()));
    }
}
