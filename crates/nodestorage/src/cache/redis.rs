//! A cache in Redis, shared by all processes in front of one store.

use std::time::Duration;

use ::redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, RedisError, aio::MultiplexedConnection};
use async_trait::async_trait;
use tokio::sync::Mutex;

use super::{Cache, CacheError, Cached, Lookup, frame};
use crate::DocumentId;

/// Keeps an entry unless the one that is there has a higher version, or the same and says more. What is no entry of ours
/// is replaced.
const PUT: &str = r"
local head = redis.call('GETRANGE', KEYS[1], 0, #ARGV[2] + 8)
if #head == #ARGV[2] + 9 and string.sub(head, 1, #ARGV[2]) == ARGV[2] then
  local held, new = string.sub(head, #ARGV[2] + 2), ARGV[3]
  -- Byte by byte, as Lua compares texts by the rules of some language.
  for i = 1, 8 do
    local h, n = string.byte(held, i), string.byte(new, i)
    if h > n then return 0 end
    if h < n then break end
    if i == 8 and ARGV[4] == '1' then return 0 end
  end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[5])
return 1
";

/// Takes an entry away unless it has become another meanwhile.
const DISCARD: &str = r"
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('UNLINK', KEYS[1]) end
return 0
";

/// How many keys are looked at in one step when the cache is emptied.
const CLEAR_STEP: usize = 1_000;

/// How a cache in Redis is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisCacheOptions {
    /// What all keys begin with: one for each store.
    pub prefix: String,
    /// How long Redis may take for an answer before it counts as gone. Readers wait so long once, and then go past it.
    pub timeout: Duration,
}

impl Default for RedisCacheOptions {
    /// Half a second.
    fn default() -> Self {
        Self { prefix: "weft".to_owned(), timeout: Duration::from_millis(500) }
    }
}

#[derive(Default)]
struct Connection {
    open: Option<MultiplexedConnection>,
    /// Counted up by each that is opened.
    number: u64,
}

/// Keeps entries in Redis, as [`frame`] has them. It connects when it is first used, and anew after an error.
pub struct RedisCache {
    client: Client,
    /// What the keys of this collection begin with.
    prefix: String,
    timeout: Duration,
    connection: Mutex<Connection>,
}

impl RedisCache {
    /// The cache of a collection in the Redis at an address such as `redis://host:port`.
    pub fn new(url: &str, collection: &str, options: RedisCacheOptions) -> Result<Self, CacheError> {
        let client = Client::open(url).map_err(|e| CacheError(format!("{url}: {e}")))?;
        let prefix = format!("{}:{collection}:", options.prefix);
        Ok(Self { client, prefix, timeout: options.timeout, connection: Mutex::default() })
    }

    fn key(&self, id: &DocumentId) -> String {
        format!("{}{id}", self.prefix)
    }

    /// The connection, and its number.
    async fn connection(&self) -> Result<(MultiplexedConnection, u64), RedisError> {
        let mut connection = self.connection.lock().await;
        if let Some(open) = &connection.open {
            return Ok((open.clone(), connection.number));
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout));
        let new = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        connection.number += 1;
        Ok((connection.open.insert(new).clone(), connection.number))
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, CacheError> {
        let failed = |error: RedisError| CacheError(error.to_string());
        let (mut open, number) = self.connection().await.map_err(failed)?;
        match command.query_async(&mut open).await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                let mut connection = self.connection.lock().await;
                // The next one connects anew, unless somebody has already.
                if connection.number == number {
                    connection.open = None;
                }
                Err(failed(error))
            }
        }
    }
}

#[async_trait]
impl Cache for RedisCache {
    async fn get(&self, id: &DocumentId) -> Result<Lookup, CacheError> {
        let mut get = ::redis::cmd("GETRANGE");
        // Unlike GET, it takes any length, and nothing is told from empty: an empty entry is none.
        get.arg(self.key(id)).arg(0).arg(-1);
        let bytes: Vec<u8> = self.ask(&get).await?;
        if bytes.is_empty() {
            return Ok(Lookup::Nothing);
        }
        match frame::decode(id, &bytes) {
            Ok(entry) => Ok(Lookup::Found(entry)),
            Err(error) => {
                // By its head it may pass for a version to come, which nothing would take the place of.
                let mut discard = ::redis::cmd("EVAL");
                discard.arg(DISCARD).arg(1).arg(self.key(id)).arg(bytes);
                self.ask::<u8>(&discard).await?;
                Ok(Lookup::Poisoned(error.to_string()))
            }
        }
    }

    async fn put(&self, id: &DocumentId, entry: Cached, ttl: Duration) -> Result<bool, CacheError> {
        let says_less = matches!(entry, Cached::Changed { .. });
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).clamp(1, i64::MAX as u64);
        let mut put = ::redis::cmd("EVAL");
        put.arg(PUT).arg(1).arg(self.key(id)).arg(frame::encode(id, &entry)).arg(&frame::MAGIC[..]);
        put.arg(&entry.version().to_be_bytes()[..]).arg(u8::from(says_less)).arg(ttl_ms);
        self.ask::<u8>(&put).await.map(|kept| kept == 1)
    }

    async fn remove(&self, id: &DocumentId) -> Result<(), CacheError> {
        let mut remove = ::redis::cmd("UNLINK");
        remove.arg(self.key(id));
        self.ask(&remove).await
    }

    async fn clear(&self) -> Result<(), CacheError> {
        let mut pattern = String::new();
        for c in self.prefix.chars() {
            if r"*?[]^\".contains(c) {
                pattern.push('\\');
            }
            pattern.push(c);
        }
        pattern.push('*');
        let mut cursor = 0u64;
        loop {
            let mut scan = ::redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(CLEAR_STEP);
            let (next, keys): (u64, Vec<Vec<u8>>) = self.ask(&scan).await?;
            if !keys.is_empty() {
                let mut remove = ::redis::cmd("UNLINK");
                remove.arg(keys);
                let _: u64 = self.ask(&remove).await?;
            }
            match next {
                0 => return Ok(()),
                next => cursor = next,
            }
        }
    }
}
