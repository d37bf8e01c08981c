//! `spot`: look into a running cluster, and talk to it, from a terminal.

mod security;
mod table;
mod text;

use std::{
    collections::BTreeMap,
    io::{self, BufRead, IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use spot::{
    SubscriptionOptions,
    cluster::{
        Arrival, Endpoint, Event, Listening, PeerState, Policy, Right, Spot, SpotError, SpotOptions,
        TopicOptions,
    },
};
use tokio::sync::mpsc;

use security::SecurityArgs;
use table::Table;
use text::{column, printable, printable_bytes};

const EXAMPLES: &str = "\
Examples:
  spot bind tcp://127.0.0.1:5555 --topic news
  spot bind tcp://127.0.0.1:5556 --topic chat --add tcp://127.0.0.1:5555
  spot subscribe tcp://127.0.0.1:5555 news 'game:*'
  spot publish tcp://127.0.0.1:5556 news 'hello, all'
  tail -f log | spot publish tcp://127.0.0.1:5555 news
  spot topics tcp://127.0.0.1:5555 --long
  spot status tcp://127.0.0.1:5555
  spot bind 'tcp://*:5555' --advertise tcp://10.0.0.7:5555 --curve-secret key --topic news";

/// Look into a running SPOT cluster, and talk to it.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node that owns topics, until Ctrl-C.
    Bind {
        /// Where to listen, such as tcp://127.0.0.1:5555; port 0 chooses one.
        endpoint: String,
        /// A topic to own; may be given several times.
        #[arg(long = "topic", value_name = "TOPIC")]
        topics: Vec<String>,
        /// What the topics do when a subscriber is slow.
        #[arg(long, value_enum, default_value_t)]
        slow: Slow,
        /// How many of the latest messages of a topic a new subscriber gets first.
        #[arg(long, default_value_t = 0, value_name = "MESSAGES")]
        replay: usize,
        /// A node to connect to; may be given several times.
        #[arg(long = "add", value_name = "ENDPOINT")]
        add: Vec<String>,
        /// Where others reach it, such as tcp://10.0.0.7:5555; needed where it listens at all addresses. May be given several
        /// times.
        #[arg(long, value_name = "ENDPOINT")]
        advertise: Vec<String>,
        /// Listen on other addresses than the loopback although nobody has to show who they are.
        #[arg(long)]
        public: bool,
        #[command(flatten)]
        security: SecurityArgs,
    },
    /// Publish messages to a topic: those given, or else the lines of standard input.
    Publish {
        #[command(flatten)]
        cluster: Cluster,
        /// The topic.
        topic: String,
        /// What to publish.
        messages: Vec<String>,
    },
    /// Print what is published: one line per message, with its topic.
    Subscribe {
        #[command(flatten)]
        cluster: Cluster,
        /// Topics, or prefixes such as 'game:*'.
        #[arg(required = true)]
        patterns: Vec<String>,
        /// Stop after so many messages.
        #[arg(long)]
        count: Option<u64>,
        /// How many messages may wait here before their owners have to.
        #[arg(long, default_value_t = SHOWN.messages_max)]
        hwm: usize,
    },
    /// List the topics of the cluster.
    Topics {
        #[command(flatten)]
        cluster: Cluster,
        /// Show the node that owns each, too, and the epoch since when.
        #[arg(long, short)]
        long: bool,
    },
    /// Show peers, topics, rates and drops, until Ctrl-C.
    Status {
        #[command(flatten)]
        cluster: Cluster,
        /// Count the messages of these topics or prefixes, by subscribing to them.
        #[arg(long = "topics", alias = "count", value_name = "PATTERN", default_value = "*")]
        patterns: Vec<String>,
        /// Seconds between two looks.
        #[arg(long, default_value_t = 1.0, value_parser = seconds)]
        interval: f64,
        /// Look once, after one interval.
        #[arg(long)]
        once: bool,
    },
}

/// What happens to messages for which a subscriber has no room.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Slow {
    /// Publishers wait, for a second at most; then the subscriber is told what it missed.
    #[default]
    Wait,
    /// The new ones are dropped.
    DropNewest,
    /// The oldest ones are dropped.
    DropOldest,
    /// Only the latest is kept.
    Latest,
    /// The subscriber is disconnected.
    Disconnect,
}

impl From<Slow> for Policy {
    fn from(slow: Slow) -> Self {
        match slow {
            Slow::Wait => TopicOptions::STANDARD.policy,
            Slow::DropNewest => Self::DropNewest,
            Slow::DropOldest => Self::DropOldest,
            Slow::Latest => Self::Conflate,
            Slow::Disconnect => Self::Disconnect,
        }
    }
}

/// Which nodes to connect to.
#[derive(Debug, Args)]
struct Cluster {
    /// A node, such as tcp://127.0.0.1:5555. The others are found through it if they tell where they are.
    #[arg(value_name = "NODE")]
    node: String,
    /// A further node; may be given several times.
    #[arg(long = "add", value_name = "ENDPOINT")]
    add: Vec<String>,
    /// How long to wait for a node, in seconds.
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    timeout: f64,
    #[command(flatten)]
    security: SecurityArgs,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds @ 0.01..=86_400.0) => Ok(seconds),
        Ok(_) => Err("not between 0.01 and 86400 seconds".to_owned()),
        Err(error) => Err(format!("{error}")),
    }
}

/// Why the program ends badly: one line for people.
type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(async {
            tokio::select! {
                result = run(cli.command) => result,
                _ = tokio::signal::ctrl_c() => Ok(()),
            }
        }),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if broken_pipe(&*error) => ExitCode::SUCCESS, // `spot subscribe … | head`
        Err(error) => {
            // The whole chain: what failed, and what the operating system said.
            let mut line = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                line = format!("{line}: {cause}");
                source = cause.source();
            }
            eprintln!("spot: {line}");
            ExitCode::FAILURE
        }
    }
}

fn broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Bind { endpoint, topics, slow, replay, add, advertise, public, security } => {
            let mut options = SpotOptions { public, ..SpotOptions::standard() };
            options.node.advertise = advertise;
            let each = TopicOptions { policy: slow.into(), replay };
            bind(&endpoint, (&topics, each), &add, options, &security).await
        }
        Command::Publish { cluster, topic, messages } => publish(&cluster, &topic, messages).await,
        Command::Subscribe { cluster, patterns, count, hwm } => {
            let bounds = SubscriptionOptions { messages_max: hwm.max(1), ..SHOWN };
            subscribe(&cluster, &patterns, count, bounds).await
        }
        Command::Topics { cluster, long } => topics(&cluster, long).await,
        Command::Status { cluster, patterns, interval, once } => {
            status(&cluster, &patterns, Duration::from_secs_f64(interval), once).await
        }
    }
}

/// How long nodes are waited for that others told of. One that is down must not hold up a look at the rest.
const OTHERS_TIMEOUT: Duration = Duration::from_secs(2);

impl Cluster {
    /// Connects to all nodes.
    async fn connect(&self) -> Result<Spot, Failure> {
        let client = self.security.client()?;
        let connect_timeout = Duration::from_secs_f64(self.timeout);
        let spot = Spot::new(SpotOptions { client, connect_timeout, ..SpotOptions::standard() });
        for node in [&self.node].into_iter().chain(&self.add) {
            spot.cluster_add(node).await?;
        }
        // Who was found through them, too.
        spot.cluster_settled(connect_timeout.min(OTHERS_TIMEOUT)).await;
        Ok(spot)
    }
}

async fn bind(
    endpoint: &str,
    (topics, each): (&[String], TopicOptions),
    add: &[String],
    options: SpotOptions,
    security: &SecurityArgs,
) -> Result<(), Failure> {
    for endpoint in &options.node.advertise {
        let _: Endpoint = endpoint.parse()?;
    }
    let (server, public_key) = security.server()?;
    let client = security.client()?;
    let spot = Spot::new(SpotOptions { server, client, ..options });
    for topic in topics {
        spot.topic_create_with(topic, each)?;
    }
    let mut events = spot.events();
    let bound = spot.bind(endpoint).await.map_err(|error| match error {
        SpotError::Unsafe(endpoint) => format!(
            "{endpoint} can be reached by other machines, and nobody has to show who they are: say --public, or set \
             --curve-secret or --plain"
        )
        .into(),
        error => Failure::from(error),
    })?;
    println!("bound to {bound}");
    if let Some(key) = public_key {
        println!("public key {key}");
    }
    for node in add {
        match spot.cluster_add(node).await {
            Ok(()) => println!("connected to {node}"),
            // Nodes may be started in any order.
            Err(error @ SpotError::HostUnreachable { .. }) => {
                println!("{error}; it is tried again and again");
            }
            Err(error) => return Err(error.into()),
        }
    }
    // Peers that are down, and why: a peer that stays away is not news each time it is dialed.
    let mut down: BTreeMap<String, PeerState> = BTreeMap::new();
    loop {
        match events.recv().await {
            Ok(Event::Peer { endpoint, state: state @ PeerState::Down { .. } }) => {
                if down.get(&endpoint) != Some(&state) {
                    println!("peer {endpoint}: {state}");
                    down.insert(endpoint, state);
                    if down.len() > DOWN_MAX {
                        down.pop_first();
                    }
                }
            }
            Ok(Event::Peer { endpoint, state }) => {
                println!("peer {endpoint}: {state}");
                down.remove(&endpoint);
            }
            Ok(Event::OwnerLost { topic, epoch }) => {
                println!("topic {}: another node owns it, epoch {epoch}", printable(topic.as_str()));
            }
            Ok(Event::Refused { topic, peer, right }) => {
                println!("topic {}: {peer} does not let this node {}", printable(&topic), verb(right));
            }
            Ok(Event::Undelivered { topic, messages }) => {
                println!("topic {}: {messages} messages did not reach its owner", printable(topic.as_str()));
            }
            Ok(Event::Dropped { topic, peer, messages }) => {
                let topic = printable(topic.as_str());
                println!("topic {topic}: {messages} messages dropped for {peer}, which is too slow");
            }
            Ok(other) => println!("{other:?}"),
            Err(tokio::sync::broadcast::error::RecvError::Lagged(missed)) => {
                println!("{missed} events were not shown");
            }
            Err(_) => return Ok(()),
        }
    }
}

/// Peers at most that are remembered as being down; beyond, one may be told of twice.
const DOWN_MAX: usize = 1024;

fn verb(right: Right) -> &'static str {
    match right {
        Right::Publish => "publish to it",
        Right::Subscribe => "subscribe to it",
        Right::Own => "own it",
    }
}

/// Lines of standard input that wait to be published; the reader waits when there are more.
const LINES_MAX: usize = 1024;

async fn publish(cluster: &Cluster, topic: &str, messages: Vec<String>) -> Result<(), Failure> {
    let spot = cluster.connect().await?;
    if messages.is_empty() {
        let (lines, mut input) = mpsc::channel(LINES_MAX);
        // Reading standard input blocks, and can't be stopped: a thread that is left behind at the end.
        std::thread::spawn(move || {
            for line in io::stdin().lock().split(b'\n') {
                if lines.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        while let Some(line) = input.recv().await {
            spot.publish(topic, line?).await?;
        }
    } else {
        for message in messages {
            spot.publish(topic, message).await?;
        }
    }
    // What was published is on its way: the answer to a question asked now comes after it has arrived.
    spot.cluster_sync(Duration::from_secs_f64(cluster.timeout)).await?;
    Ok(())
}

/// How long a look at the cluster waits for what its nodes count.
const PEERS_TIMEOUT: Duration = Duration::from_secs(1);
/// Fits a terminal that stops for a moment.
const SHOWN: SubscriptionOptions = SubscriptionOptions { messages_max: 1 << 16, bytes_max: 64 << 20 };

async fn listen(
    spot: &Spot,
    patterns: &[String],
    bounds: SubscriptionOptions,
    timeout: Duration,
) -> Result<Listening, Failure> {
    let listening = spot.listen(patterns.iter().map(String::as_str), bounds)?;
    for pattern in patterns {
        match listening.wait_live(pattern, timeout).await {
            Ok(()) => {}
            Err(SpotError::Timeout(_)) => eprintln!("spot: nobody owns {pattern} yet; waiting for it"),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(listening)
}

async fn subscribe(
    cluster: &Cluster,
    patterns: &[String],
    count: Option<u64>,
    bounds: SubscriptionOptions,
) -> Result<(), Failure> {
    let spot = cluster.connect().await?;
    let mut listening = listen(&spot, patterns, bounds, Duration::from_secs(1)).await?;
    let mut left = count.unwrap_or(u64::MAX);
    let mut out = io::stdout();
    let to_people = out.is_terminal();
    while left > 0 {
        match listening.recv().await {
            None => break,
            Some(Arrival::Message { topic, payload }) => {
                // Other programs get the payload as it is.
                let shown = if to_people { printable_bytes(&payload).into() } else { payload };
                let line = [printable(topic.as_str()).as_bytes(), b" ", &shown, b"\n"].concat();
                out.write_all(&line).and_then(|()| out.flush())?;
                left -= 1;
            }
            Some(Arrival::Lagged { missed }) => eprintln!("spot: {missed} messages missed here: too slow"),
            Some(Arrival::Gap { topic, first, last: Some(last) }) => {
                eprintln!("spot: {}: messages {first} to {last} are missing", printable(&topic.to_string()));
            }
            Some(Arrival::Gap { topic, .. }) => {
                eprintln!("spot: {}: messages may be missing", printable(&topic.to_string()));
            }
            Some(other) => eprintln!("spot: {other:?}"),
        }
    }
    Ok(())
}

async fn topics(cluster: &Cluster, long: bool) -> Result<(), Failure> {
    let spot = cluster.connect().await?;
    let mut out = io::stdout();
    if long {
        writeln!(out, "{:<32} {:<10} {:>18}", "TOPIC", "OWNER", "EPOCH")?;
    }
    for info in spot.list_topics() {
        match (long, info.owner) {
            (false, _) => writeln!(out, "{}", printable(info.topic.as_str()))?,
            (true, Some(owner)) => {
                writeln!(out, "{} {owner:<10} {:>18}", column(info.topic.as_str(), 32), info.epoch)?;
            }
            (true, None) => {
                writeln!(out, "{} {:<10} {:>18}", column(info.topic.as_str(), 32), "-", info.epoch)?;
            }
        }
    }
    Ok(())
}

async fn status(
    cluster: &Cluster,
    patterns: &[String],
    interval: Duration,
    once: bool,
) -> Result<(), Failure> {
    let spot = cluster.connect().await?;
    let mut listening = listen(&spot, patterns, SHOWN, Duration::from_secs(1)).await?;
    let mut table = Table::default();
    let mut ticks = tokio::time::interval(interval);
    ticks.tick().await; // The first one is at once.
    let mut out = io::stdout();
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let mut screen = Vec::new();
                if out.is_terminal() && !once {
                    screen.extend_from_slice(b"\x1b[H\x1b[2J"); // Home, and clear.
                }
                let nodes = spot.peers(interval.min(PEERS_TIMEOUT)).await;
                table.write(&mut screen, &spot.status(), &nodes, &spot.list_topics(), interval)?;
                out.write_all(&screen).and_then(|()| out.flush())?;
                if once {
                    return Ok(());
                }
            }
            arrival = listening.recv() => match arrival {
                Some(arrival) => table.count(&arrival),
                None => return Ok(()),
            },
        }
    }
}
