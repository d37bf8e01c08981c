//! Peers in a list on a Redis server.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use ::redis::{AsyncConnectionConfig, Client, FromRedisValue, RedisError, aio::MultiplexedConnection};
use async_trait::async_trait;
use tokio::{
    sync::Mutex,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior},
};

use super::{DiscoveryError, PeerChange, PeerDiscovery, PeerSet};
use crate::{PeerId, session::WAIT_MAX};

/// How peers are kept on the server.
#[derive(Debug, Clone)]
pub struct RedisPeerOptions {
    /// Stands in front of the list's keys.
    pub key_prefix: String,
    /// How often a replica renews its registration and reads the list.
    pub interval: Duration,
    /// After how long without renewal a replica is off the list. The others see it within one more interval.
    pub expiry: Duration,
    /// How long the server may take to answer.
    pub response_timeout: Duration,
}

impl RedisPeerOptions {
    /// Renewed every 2 s, gone after 6 s.
    pub fn standard() -> Self {
        Self {
            key_prefix: "weft:peers:".to_owned(),
            interval: Duration::from_secs(2),
            expiry: Duration::from_secs(6),
            response_timeout: Duration::from_secs(2),
        }
    }

    /// The same with waits that can be added to a time, also by the server.
    fn bounded(self) -> Self {
        Self {
            interval: self.interval.min(WAIT_MAX),
            expiry: self.expiry.min(WAIT_MAX),
            response_timeout: self.response_timeout.min(WAIT_MAX),
            ..self
        }
    }
}

/// Keeps this replica on a list of its group while it lives, by the server's clock: a dead one disappears by itself
/// after [`expiry`](RedisPeerOptions::expiry), at the latest one [`interval`](RedisPeerOptions::interval) later for the
/// others. While the server is away the last known list stands, and the replica registers again by itself; who was on it has as
/// long as a registration lasts to come back, too, as a server may have lost the list. A replica whose name
/// was taken by a later one goes on reading the list, and registers again when that one has gone.
pub struct RedisPeerDiscovery {
    registry: Arc<Registry>,
    // Held across coming and going, so that each happens once.
    renewing: Mutex<Option<Renewing>>,
}

struct Renewing(JoinHandle<()>);

impl Drop for Renewing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Registry {
    client: Client,
    own: PeerId,
    keys: [String; 3],
    /// Tells this registration from one of another replica with the same name.
    token: String,
    options: RedisPeerOptions,
    /// Made again after each failure; held across one exchange.
    connection: Mutex<Option<MultiplexedConnection>>,
    /// Until then nobody is taken off: the connection was lost, and with it perhaps the list. Held for a look.
    settles_at: std::sync::Mutex<Option<Instant>>,
    set: PeerSet,
    /// Who had said goodbye when the list was read last. Held for a look.
    left: std::sync::Mutex<BTreeSet<PeerId>>,
    name_taken: AtomicBool,
}

/// Renews a registration and reads the list, in one step. KEYS: names by the end of their registration, tokens by name, names
/// of those who said goodbye by when that is forgotten. ARGV: name, token, expiry in ms, "1" to register whoever holds the name.
/// Returns whether the name is its own, the list, and who said goodbye.
const RENEW: &str = r"
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
  redis.call('ZREM', KEYS[1], name)
  redis.call('HDEL', KEYS[2], name)
end
local holder = redis.call('HGET', KEYS[2], ARGV[1])
local own = not holder or holder == ARGV[2] or ARGV[4] == '1'
if own then
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
  redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
  -- The keys live as long as the longest registration, which may be another's.
  for _, key in ipairs({KEYS[1], KEYS[2]}) do
    if redis.call('PTTL', key) < tonumber(ARGV[3]) then
      redis.call('PEXPIRE', key, ARGV[3])
    end
  end
  redis.call('ZREM', KEYS[3], ARGV[1])
end
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
return {own and 1 or 0, redis.call('ZRANGE', KEYS[1], 0, -1), redis.call('ZRANGE', KEYS[3], 0, -1)}
";

/// Ends a registration unless another replica holds the name. The goodbye stays for ten times the expiry: who does not read the
/// list in that time takes it for one who is gone without a word.
const LEAVE: &str = r"
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
if redis.call('HGET', KEYS[2], ARGV[1]) == ARGV[2] then
  redis.call('HDEL', KEYS[2], ARGV[1])
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('ZADD', KEYS[3], now + 10 * ARGV[3], ARGV[1])
  redis.call('PEXPIRE', KEYS[3], 10 * ARGV[3])
end
";

impl RedisPeerDiscovery {
    /// Stands for `own` in `group` on a server such as `redis://localhost:6379`, from
    /// [`start`](PeerDiscovery::start) on.
    pub fn new(
        url: &str,
        group: &str,
        own: PeerId,
        options: RedisPeerOptions,
    ) -> Result<Self, DiscoveryError> {
        let prefix = &options.key_prefix;
        // One hash tag, so that all keys are on one node of a Redis cluster.
        let keys = ["expiry", "token", "left"].map(|key| format!("{prefix}{{{group}}}:{key}"));
        let registry = Registry {
            client: Client::open(url).map_err(failed)?,
            own,
            keys,
            token: format!("{:032x}", rand::random::<u128>()),
            options: options.bounded(),
            connection: Mutex::default(),
            settles_at: std::sync::Mutex::default(),
            set: PeerSet::new(),
            left: std::sync::Mutex::default(),
            name_taken: AtomicBool::new(false),
        };
        Ok(Self { registry: Arc::new(registry), renewing: Mutex::default() })
    }
}

impl Registry {
    /// A connection that breaks is made anew once: a server that was started again has cut those it had, and what the
    /// scripts do they may do twice.
    async fn run<T: FromRedisValue>(&self, script: &str, force: bool) -> Result<T, RedisError> {
        match self.ask(script, force).await {
            Err(error) if error.is_connection_dropped() => {
                self.unsettle();
                self.ask(script, force).await
            }
            answer => answer,
        }
    }

    async fn ask<T: FromRedisValue>(&self, script: &str, force: bool) -> Result<T, RedisError> {
        let mut held = self.connection.lock().await;
        let mut connection = match held.take() {
            Some(connection) => connection,
            None => {
                let patience = Some(self.options.response_timeout);
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(patience)
                    .set_response_timeout(patience);
                self.client.get_multiplexed_async_connection_with_config(&config).await?
            }
        };
        let mut command = ::redis::cmd("EVAL");
        command.arg(script).arg(3).arg(&self.keys).arg(self.own.as_str()).arg(&self.token);
        command.arg(self.options.expiry.as_millis() as u64).arg(u8::from(force));
        let answer = command.query_async(&mut connection).await?;
        *held = Some(connection); // Only after an answer: a connection that failed is not used again.
        Ok(answer)
    }

    /// Renews the registration and takes over the list, also when another has the name. `force` takes it from whoever that is.
    #[tracing::instrument(name = "register", level = "debug", skip_all, fields(own = %self.own))]
    async fn renew(&self, force: bool) -> Result<(), DiscoveryError> {
        let renewed = self.run(RENEW, force).await.inspect_err(|_| self.unsettle());
        let (is_own, names, left): (bool, Vec<Vec<u8>>, Vec<Vec<u8>>) = renewed.map_err(failed)?;
        let was_taken = self.name_taken.swap(!is_own, Relaxed);
        if was_taken == is_own {
            let own = &self.own;
            if is_own {
                tracing::info!(%own, "registered again");
            } else {
                tracing::warn!(%own, "another replica has this name; it is seen in place of this one");
            }
        }
        // What is no name was written by somebody else.
        let id =
            |name: Vec<u8>| PeerId::new(String::from_utf8(name).ok()?).ok().filter(|peer| *peer != self.own);
        let mut peers: BTreeSet<PeerId> = names.into_iter().filter_map(id).collect();
        // A goodbye stands on the list for a while, and is said once.
        let left: BTreeSet<PeerId> =
            left.into_iter().filter_map(id).filter(|peer| !peers.contains(peer)).collect();
        let before =
            std::mem::replace(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner), left.clone());
        left.difference(&before).for_each(|peer| self.set.leave(peer));
        if self.unsettled() {
            peers.extend(self.set.get().into_iter().flatten());
        }
        self.set.set(peers);
        Ok(())
    }

    fn settles_at(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.settles_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The list may be gone: whoever renews within the time of a registration is on it again by then.
    #[expect(clippy::disallowed_methods, reason = "a driver knows when the registry was lost")]
    fn unsettle(&self) {
        *self.settles_at() = Some(Instant::now() + self.options.expiry);
    }

    #[expect(clippy::disallowed_methods, reason = "a driver knows when the registry was lost")]
    fn unsettled(&self) -> bool {
        let mut settles_at = self.settles_at();
        let unsettled = settles_at.is_some_and(|at| Instant::now() < at);
        if !unsettled {
            *settles_at = None;
        }
        unsettled
    }

    /// `force` until it has been registered once.
    async fn keep_renewing(&self, mut force: bool) {
        let mut ticks = tokio::time::interval(self.options.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await; // The first one is at once, and `start` has just registered.
        loop {
            ticks.tick().await;
            match self.renew(force).await {
                Ok(()) => force = false,
                Err(error) => tracing::warn!(%error, "registration was not renewed; trying again"),
            }
        }
    }
}

fn failed(error: RedisError) -> DiscoveryError {
    DiscoveryError::Registry(error.to_string())
}

#[async_trait]
impl PeerDiscovery for RedisPeerDiscovery {
    async fn start(&self) -> Result<(), DiscoveryError> {
        self.registry.set.get().ok_or(DiscoveryError::Closed)?;
        let mut renewing = self.renewing.lock().await;
        // It may have been closed while this waited.
        self.registry.set.get().ok_or(DiscoveryError::Closed)?;
        if renewing.is_none() {
            // A replica that starts again after a crash finds its old registration: the later one wins.
            let registered = self.registry.renew(true).await;
            if let Err(error) = &registered {
                // The others are heard on the channels all the same, so it is no reason to stay away.
                tracing::warn!(%error, "not registered yet; trying again");
            }
            let (registry, force) = (Arc::clone(&self.registry), registered.is_err());
            *renewing = Some(Renewing(tokio::spawn(async move { registry.keep_renewing(force).await })));
        }
        Ok(())
    }

    async fn peers(&self) -> Result<Vec<PeerId>, DiscoveryError> {
        if self.registry.name_taken.load(Relaxed) {
            return Err(DiscoveryError::NameTaken(self.registry.own.clone()));
        }
        self.registry.set.get().ok_or(DiscoveryError::Closed)
    }

    async fn next(&self) -> Option<PeerChange> {
        self.registry.set.next().await
    }

    async fn close(&self) {
        self.registry.set.close();
        if self.renewing.lock().await.take().is_some()
            && let Err(error) = self.registry.run::<()>(LEAVE, false).await
        {
            tracing::debug!(%error, "registration was not ended; it expires");
        }
    }
}
