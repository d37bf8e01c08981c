//! Four processes, each with its own store on disk, meet on a real Redis server, and in a SPOT cluster over two networks.
//! One is killed, one is cut off, and what they meet at is killed too, in the middle of editing: nothing that was
//! acknowledged is lost, and all agree in the end.

use std::{collections::BTreeSet, env, process::Stdio, sync::Arc, time::Duration};

use crdt_core::{EncodingFormat, SessionId, Value};
use crdt_sync::{
    PeerDiscovery, PeerId, PubSubBroadcaster, PubSubSyncer, SharedModel, SyncManager,
    discovery::{PubSubPeerDiscovery, RedisPeerDiscovery, RedisPeerOptions},
    presence::PresenceOptions,
    session::{SessionOptions, TrickleOptions},
    store::EmbeddedPatchStores,
};
use serde_json::{Value as Json, json};
use spot::{
    PubSub, RedisOptions, RedisPubSub, Spot, SpotOptions, Topic,
    cluster::{SpotError, SpotPubSub},
    conformance::{DEADLINE, RedisServer},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines, copy_bidirectional},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::watch,
};

const PLACE: &str = "WEFT_TEST_REPLICA";

/// What a replica process does: reads commands, a line each, and answers with a line each.
async fn replica(place: &str) {
    let [number, url, folder] = place.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{place}") };
    let session = SessionId::from_random(rand::random());
    let own = PeerId::new(format!("node-{number}")).unwrap();
    let (pubsub, discovery) = match url.strip_prefix("spot://") {
        Some(nodes) => by_spot(nodes, own.clone()).await,
        None => by_redis(url, own.clone()).await,
    };
    let format = EncodingFormat::ALL[number.parse::<usize>().unwrap() % EncodingFormat::ALL.len()];
    let document = Arc::new(SharedModel::new(session));
    let (patches, sync) = (topic("patches"), topic("sync"));
    let broadcaster = PubSubBroadcaster::new(Arc::clone(&pubsub), patches, format).await.unwrap();
    let syncer = PubSubSyncer::new(pubsub, sync, own.clone(), format).await.unwrap();
    let stores = EmbeddedPatchStores::open(folder).await.unwrap();
    let store = stores.document("doc").await.unwrap();
    let manager = SyncManager::new(
        Arc::<SharedModel>::clone(&document) as _,
        Arc::new(broadcaster),
        Arc::new(syncer),
        discovery,
        Arc::new(store),
    )
    .with_options(SessionOptions {
        settle: Duration::from_millis(20),
        request_timeout: Duration::from_millis(500),
        distrust: Duration::from_secs(1),
        trickle: TrickleOptions {
            interval_min: Duration::from_millis(100),
            interval_max: Duration::from_secs(1),
            ..TrickleOptions::STANDARD
        },
        ..SessionOptions::standard(session)
    });
    manager.start(session.get()).await.unwrap();
    println!("ready");
    let mut commands = BufReader::new(tokio::io::stdin()).lines();
    while let Some(command) = commands.next_line().await.unwrap() {
        match command.split_once(' ') {
            Some(("edit", key)) => {
                let patch = document.edit(|model| model.api().obj("").unwrap().set([(key, 1)]));
                manager.apply_patch(&patch.unwrap().expect("an edit")).await.unwrap();
                println!("acknowledged {key}");
            }
            _ if command == "root" => {
                let patch = document.edit(|model| model.api().root(Value::from(&json!({}))));
                manager.apply_patch(&patch.unwrap().expect("an edit")).await.unwrap();
                println!("acknowledged root");
            }
            _ => println!("{}", Json::from(&document.view())),
        }
    }
    manager.stop().await;
}

type Meeting = (Arc<dyn PubSub>, Arc<dyn PeerDiscovery>);

fn topic(name: &str) -> Topic {
    Topic::new(format!("doc/{name}")).unwrap()
}

async fn by_redis(url: &str, own: PeerId) -> Meeting {
    let quick = RedisOptions {
        backoff_max: Duration::from_millis(200),
        ping_interval: Duration::from_millis(500),
        response_timeout: Duration::from_millis(1000),
        ..RedisOptions::standard()
    };
    let pubsub = RedisPubSub::connect(url, quick).await.unwrap();
    let options = RedisPeerOptions {
        interval: Duration::from_millis(200),
        expiry: Duration::from_secs(1),
        ..RedisPeerOptions::standard()
    };
    let discovery = RedisPeerDiscovery::new(url, "doc", own, options).unwrap();
    (Arc::new(pubsub), Arc::new(discovery))
}

/// Is the first of the nodes and knows the others.
async fn by_spot(nodes: &str, own: PeerId) -> Meeting {
    let spot = Spot::new(SpotOptions {
        public: true,
        connect_timeout: Duration::from_millis(100),
        ..SpotOptions::standard()
    });
    let (at, others) = nodes.split_once(',').unwrap();
    spot.bind(at).await.unwrap();
    for other in others.split(',').filter(|other| *other != at) {
        match spot.cluster_add(other).await {
            // Whoever is not there yet is dialled again and again.
            Ok(()) | Err(SpotError::HostUnreachable { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    let pubsub: Arc<dyn PubSub> = Arc::new(SpotPubSub::new(spot));
    let options = PresenceOptions {
        interval: Duration::from_millis(200),
        expiry: Duration::from_secs(1),
        ..PresenceOptions::STANDARD
    };
    let discovery = PubSubPeerDiscovery::new(Arc::clone(&pubsub), topic("presence"), own, options);
    (pubsub, Arc::new(discovery))
}

/// A replica process, as the test sees it.
struct Process {
    child: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Process {
    async fn start(number: usize, place: &Place, folder: &std::path::Path) -> Self {
        let arguments = format!("{number} {} {}", place.url, folder.display());
        let name = "acknowledged_edits_survive_a_killed_process_a_cut_and_a_killed_server";
        let program = env::current_exe().unwrap();
        let mut command = match &place.network {
            None => Command::new(program),
            Some(network) => {
                // It does not fork, so that what is killed is the replica.
                let mut command = Command::new("ip");
                command.args(["netns", "exec", network]).arg(program);
                command
            }
        };
        let mut child = command
            .args(["--exact", name, "--nocapture", "--include-ignored"])
            .env(PLACE, arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let commands = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut process = Self { child, commands, answers };
        while !process.answer().await.ends_with("ready") {}
        process
    }

    async fn answer(&mut self) -> String {
        let line = tokio::time::timeout(DEADLINE, self.answers.next_line()).await.expect("an answer in time");
        line.unwrap().expect("the replica runs")
    }

    async fn ask(&mut self, command: &str) -> String {
        self.commands.write_all(format!("{command}\n").as_bytes()).await.unwrap();
        self.answer().await
    }

    async fn edit(&mut self, key: &str, acknowledged: &mut BTreeSet<String>) {
        assert_eq!(self.ask(&format!("edit {key}")).await, format!("acknowledged {key}"));
        acknowledged.insert(key.to_owned());
    }

    async fn view(&mut self) -> Json {
        serde_json::from_str(&self.ask("view").await).unwrap()
    }

    /// `kill -9` while edits are under way. Those that were acknowledged until then count.
    async fn kill_while_editing(&mut self, prefix: &str, acknowledged: &mut BTreeSet<String>) {
        for index in 0..200 {
            self.commands.write_all(format!("edit {prefix}{index}\n").as_bytes()).await.unwrap();
        }
        for _ in 0..20 {
            acknowledged.insert(self.answer().await.strip_prefix("acknowledged ").unwrap().to_owned());
        }
        self.child.kill().await.unwrap();
        while let Ok(Some(line)) = self.answers.next_line().await {
            acknowledged.extend(line.strip_prefix("acknowledged ").map(str::to_owned));
        }
    }
}

/// Stands between a process and the server, and can be cut: silently, so that neither is told.
struct Cable {
    port: u16,
    whole: watch::Sender<bool>,
}

impl Cable {
    async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (whole, watched) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut watched = watched.clone();
                tokio::spawn(async move {
                    let mut far = None;
                    if *watched.borrow_and_update() {
                        let Ok(there) = TcpStream::connect(("127.0.0.1", server)).await else { return };
                        tokio::select! {
                            _ = copy_bidirectional(&mut near, far.insert(there)) => return,
                            _ = watched.wait_for(|whole| !whole) => {}
                        }
                    }
                    // Both ends stay open, and neither hears anything: not even that there is nobody.
                    let _ = watched.wait_for(|whole| *whole).await;
                    drop((near, far));
                });
            }
        });
        Self { port, whole }
    }
}

/// Where a process is to be.
struct Place {
    /// Where it meets the others: a Redis server, or `spot://` and the nodes, its own first.
    url: String,
    /// The network that it is in, if it has one of its own.
    network: Option<String>,
}

/// Edits everywhere, while the last process is cut off and the second is killed.
async fn edit_through_a_cut_and_a_kill(
    places: &[Place; 4],
    folders: &[TempDir; 4],
    cut: impl FnOnce(),
) -> (Vec<Process>, BTreeSet<String>) {
    let mut processes = Vec::new();
    for number in 0..4 {
        processes.push(Process::start(number, &places[number], folders[number].path()).await);
    }
    assert_eq!(processes[0].ask("root").await, "acknowledged root");
    for process in &mut processes {
        agree(std::slice::from_mut(process), &BTreeSet::new()).await;
    }
    let mut acknowledged = BTreeSet::new();
    edit_all(&mut processes, "calm", &mut acknowledged).await;
    cut();
    edit_all(&mut processes, "cut", &mut acknowledged).await;
    processes[1].kill_while_editing("killed", &mut acknowledged).await;
    for index in [0, 2, 3] {
        edit_all(&mut processes[index..=index], &format!("without1-{index}-"), &mut acknowledged).await;
    }
    processes[1] = Process::start(1, &places[1], folders[1].path()).await;
    edit_all(&mut processes, "back", &mut acknowledged).await;
    (processes, acknowledged)
}

/// All of it is on each disk: every one alone shows it.
async fn each_disk_shows_all(
    mut processes: Vec<Process>,
    places: &[Place; 4],
    folders: &[TempDir; 4],
    acknowledged: &BTreeSet<String>,
) {
    for process in &mut processes {
        process.child.kill().await.unwrap();
    }
    drop(processes);
    for number in 0..4 {
        let mut alone = [Process::start(number, &places[number], folders[number].path()).await];
        agree(&mut alone, acknowledged).await;
        alone[0].child.kill().await.unwrap();
    }
}

fn folders() -> [TempDir; 4] {
    std::array::from_fn(|_| tempfile::tempdir().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs redis-server"]
async fn acknowledged_edits_survive_a_killed_process_a_cut_and_a_killed_server() {
    if let Ok(place) = env::var(PLACE) {
        return replica(&place).await;
    }
    let mut server = RedisServer::start().await;
    let port = server.url().rsplit(':').next().unwrap().parse().unwrap();
    let cable = Cable::to(port).await;
    let places: [Place; 4] = std::array::from_fn(|number| Place {
        url: if number == 3 { format!("redis://127.0.0.1:{}", cable.port) } else { server.url() },
        network: None,
    });
    let folders = folders();
    let cut = || cable.whole.send_modify(|whole| *whole = false);
    let (mut processes, mut acknowledged) = edit_through_a_cut_and_a_kill(&places, &folders, cut).await;
    server.kill();
    edit_all(&mut processes, "serverless", &mut acknowledged).await;
    server.restart().await;
    edit_all(&mut processes, "served", &mut acknowledged).await;
    cable.whole.send_replace(true);
    agree(&mut processes, &acknowledged).await;
    assert!(acknowledged.len() >= 5 * 4 * 20);
    each_disk_shows_all(processes, &places, &folders, &acknowledged).await;
}

/// Two networks of this machine with a link between them that can be cut at both ends, so that neither is told.
struct Networks {
    names: [String; 2],
}

impl Networks {
    const ADDRESSES: [&str; 2] = ["10.78.0.1", "10.78.0.2"];

    fn new() -> Self {
        let names = ["a", "b"].map(|side| format!("weft-sync-{}-{side}", std::process::id()));
        let networks = Self { names };
        let [a, b] = &networks.names;
        ip(&["netns", "add", a]);
        ip(&["netns", "add", b]);
        ip(&["link", "add", "cable", "netns", a, "type", "veth", "peer", "name", "cable", "netns", b]);
        for (name, address) in networks.names.iter().zip(Self::ADDRESSES) {
            ip(&["-n", name, "address", "add", &format!("{address}/24"), "dev", "cable"]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
        }
        networks.set("up");
        networks
    }

    fn set(&self, state: &str) {
        for name in &self.names {
            ip(&["-n", name, "link", "set", "cable", state]);
        }
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = std::process::Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

fn ip(arguments: &[&str]) {
    let done = std::process::Command::new("ip").args(arguments).output();
    let done = done.expect("this test needs `ip` (Debian: apt install iproute2)");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "ip {arguments:?}: {said}. This test needs to be root on Linux");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs network namespaces"]
async fn acknowledged_edits_survive_a_killed_node_and_a_cut_in_a_spot_cluster() {
    let networks = Networks::new();
    let side = |number: usize| usize::from(number == 3);
    let node = |number: usize| format!("tcp://{}:{}", Networks::ADDRESSES[side(number)], 7400 + number);
    let places: [Place; 4] = std::array::from_fn(|number| {
        // Each knows the first two: the others are told of.
        let known: Vec<String> = [number, 0, 1].map(node).into();
        Place {
            url: format!("spot://{}", known.join(",")),
            network: Some(networks.names[side(number)].clone()),
        }
    });
    let folders = folders();
    let cut = || networks.set("down");
    let (mut processes, mut acknowledged) = edit_through_a_cut_and_a_kill(&places, &folders, cut).await;
    // The one that all know is killed too, and is another when the cut one can reach it again.
    processes[0].kill_while_editing("first", &mut acknowledged).await;
    edit_all(&mut processes[1..], "without0", &mut acknowledged).await;
    networks.set("up");
    processes[0] = Process::start(0, &places[0], folders[0].path()).await;
    edit_all(&mut processes, "mended", &mut acknowledged).await;
    agree(&mut processes, &acknowledged).await;
    assert!(acknowledged.len() >= 5 * 4 * 20);
    each_disk_shows_all(processes, &places, &folders, &acknowledged).await;
}

async fn edit_all(processes: &mut [Process], prefix: &str, acknowledged: &mut BTreeSet<String>) {
    for index in 0..20 {
        for (number, process) in processes.iter_mut().enumerate() {
            process.edit(&format!("{prefix}{number}-{index}"), acknowledged).await;
        }
    }
}

/// Waits until all show the same, with everything that was acknowledged in it.
async fn agree(processes: &mut [Process], acknowledged: &BTreeSet<String>) {
    let mut missing = Vec::new();
    let agreed = async {
        loop {
            let mut views = Vec::new();
            for process in &mut *processes {
                views.push(process.view().await);
            }
            missing = views
                .iter()
                .map(|view| match view {
                    Json::Object(view) => acknowledged.iter().filter(|key| !view.contains_key(*key)).count(),
                    _ => usize::MAX,
                })
                .collect();
            if missing.iter().all(|missing| *missing == 0) && views.windows(2).all(|pair| pair[0] == pair[1])
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(3 * DEADLINE, agreed).await.is_err() {
        panic!("no agreement; of {} edits each lacks {missing:?}", acknowledged.len());
    }
}
