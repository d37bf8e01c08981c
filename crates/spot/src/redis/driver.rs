//! The task that keeps one connection to Redis, and what happens on it.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use ::redis::{
    AsyncConnectionConfig, Client, ErrorKind, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind,
    RedisError, RedisResult, Value, aio::MultiplexedConnection,
};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::MissedTickBehavior,
};

use super::{Link, RedisOptions, Shared, Subscribe, failure};
use crate::{Message, PubSubError, TopicPattern};

/// Patterns in one SUBSCRIBE or UNSUBSCRIBE; more need several.
const BATCH_MAX: usize = 512;

/// The client of an address, set to RESP3.
pub(super) fn client(url: &str) -> Result<Client, PubSubError> {
    let info = url.into_connection_info().map_err(|error| failure(&error, Duration::ZERO))?;
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    Client::open(info.set_redis_settings(settings)).map_err(|error| failure(&error, Duration::ZERO))
}

/// One connection, from its making to its end.
pub(super) struct Line {
    connection: MultiplexedConnection,
    inlet: Arc<Inlet>,
}

/// Where a connection's pushes come in. Runs on the connection's own task.
struct Inlet {
    shared: Arc<Shared>,
    state: Mutex<InletState>,
    /// Told when the connection is lost.
    lost: Notify,
}

struct InletState {
    /// Cleared when the driver gives the connection up, so that a late message of it can't come behind those of its
    /// successor. Held during each delivery.
    open: bool,
    /// Patterns that were live on the connection before, until they are live again.
    resuming: HashSet<TopicPattern>,
    /// What happened to the connection before.
    reason: String,
}

/// Makes a connection. Each pattern of `resuming` is told of a gap at the moment when it is live again.
pub(super) async fn connect(
    client: &Client,
    shared: &Arc<Shared>,
    resuming: HashSet<TopicPattern>,
    reason: String,
) -> Result<Line, PubSubError> {
    let inlet = Arc::new(Inlet {
        shared: Arc::clone(shared),
        state: Mutex::new(InletState { open: true, resuming, reason }),
        lost: Notify::new(),
    });
    let options = &shared.options;
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(options.connect_timeout))
        .set_response_timeout(Some(options.response_timeout))
        .set_push_sender({
            let inlet = Arc::clone(&inlet);
            move |push: PushInfo| {
                inlet.take(push);
                Ok::<(), ::redis::aio::SendError>(())
            }
        });
    let connection = client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .map_err(|error| failure(&error, options.connect_timeout))?;
    Ok(Line { connection, inlet })
}

impl Inlet {
    fn take(&self, push: PushInfo) {
        let mut state = self.state.lock();
        if !state.open {
            return;
        }
        let channels = &self.shared.channels;
        match (push.kind, &push.data[..]) {
            (PushKind::Message, [Value::BulkString(channel), ..]) => {
                if let Ok(topic) = channels.topic(channel) {
                    self.deliver(&TopicPattern::Exact(topic), push.data);
                }
            }
            (PushKind::PMessage, [Value::BulkString(glob), ..]) => {
                if let Some(pattern) = channels.pattern(glob) {
                    self.deliver(&pattern, push.data);
                }
            }
            // The answer to SUBSCRIBE stands in the stream before the first message that comes of it.
            (PushKind::Subscribe, [Value::BulkString(channel), ..]) => {
                if let Ok(topic) = channels.topic(channel) {
                    self.resumed(&mut state, &TopicPattern::Exact(topic));
                }
            }
            (PushKind::PSubscribe, [Value::BulkString(glob), ..]) => {
                if let Some(pattern) = channels.pattern(glob) {
                    self.resumed(&mut state, &pattern);
                }
            }
            (PushKind::Disconnection, _) => self.lost.notify_one(),
            _ => {}
        }
    }

    /// Takes the channel and the payload off the end of a push.
    fn deliver(&self, pattern: &TopicPattern, mut push: Vec<Value>) {
        let (Some(Value::BulkString(payload)), Some(Value::BulkString(channel))) = (push.pop(), push.pop())
        else {
            return;
        };
        match self.shared.channels.topic(&channel) {
            Ok(topic) => {
                self.shared.fanout.deliver(pattern, &Message { topic, payload: payload.into() });
            }
            Err(_) => {
                self.shared.refused.fetch_add(1, Relaxed);
            }
        }
    }

    fn resumed(&self, state: &mut InletState, pattern: &TopicPattern) {
        if state.resuming.remove(pattern) {
            self.shared.fanout.gap(pattern, &state.reason);
        }
    }
}

/// Runs until the transport is closed.
pub(super) async fn run(
    client: Client,
    first: Line,
    shared: Arc<Shared>,
    mut commands: mpsc::Receiver<Subscribe>,
) {
    let mut closed = shared.link.subscribe();
    let work = async {
        let mut wanted = Wanted::default();
        let (mut line, mut backoff) = (first, Backoff::new(&shared.options));
        loop {
            #[expect(clippy::disallowed_methods, reason = "the driver is where the clock is read")]
            let since = tokio::time::Instant::now();
            let reason = serve(&shared, line, &mut wanted, &mut commands).await;
            shared.set_link(Link::Down(reason.clone()));
            if since.elapsed() >= shared.options.backoff_max {
                backoff = Backoff::new(&shared.options);
            } else {
                // A server that takes connections and ends them at once is away as well.
                backoff.pause().await;
            }
            line = reconnect(&client, &shared, &wanted.live, &reason, &mut backoff).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = until_closed(&mut closed) => {}
    }
}

async fn until_closed(link: &mut watch::Receiver<Link>) {
    // An error means that the sender is gone, which is as closed as can be.
    let _ = link.wait_for(|link| matches!(link, Link::Closed)).await;
}

impl Shared {
    /// Closed is for ever.
    fn set_link(&self, new: Link) {
        self.link.send_if_modified(|link| {
            let open = !matches!(link, Link::Closed);
            if open {
                *link = new;
            }
            open
        });
    }
}

/// Pauses between tries, each up to twice as long as the one before.
struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    fn new(options: &RedisOptions) -> Self {
        Self { next: options.backoff_min, max: options.backoff_max }
    }

    /// Full jitter: after a restart of the server its clients come back spread out.
    async fn pause(&mut self) {
        tokio::time::sleep(self.next.mul_f64(rand::random())).await;
        self.next = (self.next * 2).min(self.max);
    }
}

async fn reconnect(
    client: &Client,
    shared: &Arc<Shared>,
    live: &HashSet<TopicPattern>,
    reason: &str,
    backoff: &mut Backoff,
) -> Line {
    loop {
        match connect(client, shared, live.clone(), reason.to_owned()).await {
            Ok(line) => return line,
            Err(error) => shared.set_link(Link::Down(format!("{reason}; reconnect: {error}"))),
        }
        backoff.pause().await;
    }
}

/// What the driver was asked to subscribe to.
#[derive(Default)]
struct Wanted {
    /// What Redis has confirmed, on this connection or on the one that was lost.
    live: HashSet<TopicPattern>,
    /// What was live and what Redis has refused since. It is asked again with each ping, at most [`BATCH_MAX`] at a time: rights
    /// that come back cut no connection.
    refused: Vec<TopicPattern>,
    /// Callers who wait for an answer, at most [`BATCH_MAX`].
    waiting: Vec<Subscribe>,
}

/// Works on a connection until it is lost; returns why.
async fn serve(
    shared: &Arc<Shared>,
    mut line: Line,
    wanted: &mut Wanted,
    commands: &mut mpsc::Receiver<Subscribe>,
) -> String {
    let end = converse(shared, &mut line, wanted, commands).await;
    line.inlet.state.lock().open = false;
    // The next connection tries everything.
    wanted.live.extend(wanted.refused.drain(..));
    match end {
        Ok(()) => "connection lost".to_owned(),
        Err(error) => format!("connection lost: {error}"),
    }
}

async fn converse(
    shared: &Arc<Shared>,
    line: &mut Line,
    wanted: &mut Wanted,
    commands: &mut mpsc::Receiver<Subscribe>,
) -> RedisResult<()> {
    let again: Vec<_> = wanted.live.iter().filter(|pattern| shared.fanout.wants(pattern)).cloned().collect();
    line.resume(shared, wanted, again).await?;
    wanted.waiting.retain(|command| !command.live.is_closed()); // Those whose callers still wait.
    line.make_live(shared, wanted).await?;
    shared.set_link(Link::Up(line.connection.clone()));

    let mut ping = tokio::time::interval(shared.options.ping_interval);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick comes at once.
    ping.tick().await;
    loop {
        tokio::select! {
            () = line.inlet.lost.notified() => return Ok(()),
            _ = ping.tick() => {
                match ::redis::cmd("PING").query_async::<()>(&mut line.connection).await {
                    // It is there, though it is loading or does not let this user ask.
                    Err(error) if !is_refusal(&error) => return Err(error),
                    _ => {}
                }
                line.retry(shared, wanted).await?;
            }
            () = shared.left_some.notified() => {
                let mut left: Vec<_> = shared.left.lock().drain().collect();
                // Somebody may have come back in the meantime; then it simply stays.
                left.retain(|pattern| !shared.fanout.wants(pattern) && wanted.live.remove(pattern));
                line.change(shared, Change::Unsubscribe, &left).await?;
            }
            // None are left when the transport was dropped; it is about to be closed.
            1.. = commands.recv_many(&mut wanted.waiting, BATCH_MAX) => line.make_live(shared, wanted).await?,
        }
    }
}

#[derive(Clone, Copy)]
enum Change {
    Subscribe,
    Unsubscribe,
}

/// Whether the server has answered, and said no.
fn is_refusal(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(_))
}

impl Line {
    /// Subscribes again to what was live, after a reconnect. Who is refused now is told that nothing comes any more.
    async fn resume(
        &mut self,
        shared: &Shared,
        wanted: &mut Wanted,
        patterns: Vec<TopicPattern>,
    ) -> RedisResult<()> {
        wanted.live = patterns.iter().cloned().collect();
        for (pattern, error) in self.subscribe(shared, &patterns).await? {
            shared.fanout.gap(&pattern, &format!("not subscribed again: {error}"));
            wanted.live.remove(&pattern);
            wanted.refused.push(pattern);
        }
        Ok(())
    }

    /// Asks again for what was refused. Who gets it is told of a gap.
    async fn retry(&mut self, shared: &Shared, wanted: &mut Wanted) -> RedisResult<()> {
        wanted.refused.retain(|pattern| shared.fanout.wants(pattern));
        let again: Vec<_> = wanted.refused.drain(..wanted.refused.len().min(BATCH_MAX)).collect();
        wanted.live.extend(again.iter().cloned());
        self.expect(&again);
        for (pattern, _) in self.subscribe(shared, &again).await? {
            wanted.live.remove(&pattern);
            wanted.refused.push(pattern);
        }
        Ok(())
    }

    /// Lets those who had lost these patterns know when they are live again.
    fn expect(&self, patterns: &[TopicPattern]) {
        if !patterns.is_empty() {
            let mut state = self.inlet.state.lock();
            state.resuming.extend(patterns.iter().cloned());
            "the server had refused it".clone_into(&mut state.reason);
        }
    }

    /// Subscribes for all who wait and tells them. When the connection breaks they go on waiting for the next one.
    async fn make_live(&mut self, shared: &Shared, wanted: &mut Wanted) -> RedisResult<()> {
        let Wanted { live, refused, waiting } = wanted;
        // Who has given up was perhaps counted out already, and nobody would unsubscribe what is made live for it.
        waiting.retain(|command| !command.live.is_closed());
        let new: HashSet<_> = waiting.iter().map(|command| &command.pattern).cloned().collect();
        let new: Vec<_> = new.into_iter().filter(|pattern| !live.contains(pattern)).collect();
        let lost: Vec<_> = refused.extract_if(.., |pattern| new.contains(pattern)).collect();
        self.expect(&lost);
        let answers = self.subscribe(shared, &new).await;
        if answers.is_err() {
            refused.extend(lost);
            return answers.map(drop);
        }
        live.extend(new.iter().cloned());
        for (pattern, error) in answers? {
            live.remove(&pattern);
            for command in waiting.extract_if(.., |command| command.pattern == pattern) {
                let error = failure(&error, shared.options.response_timeout);
                let _ = command.live.send(Err(error)); // Or the caller gave up.
            }
            if lost.contains(&pattern) {
                refused.push(pattern);
            }
        }
        for command in waiting.drain(..) {
            let _ = command.live.send(Ok(())); // Or the caller gave up.
        }
        // The same for those who have given up while this was under way.
        let unwanted = |pattern: &TopicPattern| !shared.fanout.wants(pattern) && live.remove(pattern);
        let left: Vec<_> = new.into_iter().filter(unwanted).collect();
        self.change(shared, Change::Unsubscribe, &left).await
    }

    /// Subscribes; returns what the server has refused. It refuses a whole command for one channel, and the others must
    /// not suffer for it.
    async fn subscribe(
        &mut self,
        shared: &Shared,
        patterns: &[TopicPattern],
    ) -> RedisResult<Vec<(TopicPattern, RedisError)>> {
        let mut refused = Vec::new();
        match self.change(shared, Change::Subscribe, patterns).await {
            Ok(()) => return Ok(refused),
            Err(error) if is_refusal(&error) => {}
            Err(error) => return Err(error),
        }
        for pattern in patterns {
            match self.change(shared, Change::Subscribe, std::slice::from_ref(pattern)).await {
                Ok(()) => {}
                Err(error) if is_refusal(&error) => refused.push((pattern.clone(), error)),
                Err(error) => return Err(error),
            }
        }
        Ok(refused)
    }

    /// Subscribes to or unsubscribes from many patterns; returns when Redis has confirmed all.
    async fn change(
        &mut self,
        shared: &Shared,
        change: Change,
        patterns: &[TopicPattern],
    ) -> RedisResult<()> {
        let (mut exact, mut globs) = (Vec::new(), Vec::new());
        for pattern in patterns {
            match pattern {
                TopicPattern::Exact(topic) => exact.push(shared.channels.channel(topic)),
                TopicPattern::Prefix(prefix) => globs.push(shared.channels.glob(prefix)),
            }
        }
        for batch in exact.chunks(BATCH_MAX) {
            match change {
                Change::Subscribe => self.connection.subscribe(batch).await?,
                Change::Unsubscribe => self.connection.unsubscribe(batch).await?,
            }
        }
        for batch in globs.chunks(BATCH_MAX) {
            match change {
                Change::Subscribe => self.connection.psubscribe(batch).await?,
                Change::Unsubscribe => self.connection.punsubscribe(batch).await?,
            }
        }
        Ok(())
    }
}
