//! What one address, and one principal, may cost: requests in time, and connections at once.

use std::{collections::HashMap, hash::Hash, num::NonZeroU32, sync::Arc, time::Duration};

use parking_lot::Mutex;

use crate::protocol::{Problem, ProblemType};

/// How many addresses, and how many principals, are told apart. Beyond it those that come anew share one allowance, so that
/// whoever has many addresses costs neither memory nor the place of those with an open connection, or with requests not
/// forgotten yet.
pub const GUESTS_MAX: usize = 65_536;

/// How often it is looked for those who have not come back, when there is no place for another.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// How long a WebSocket that has sent too much is not read. One that would have to wait longer is closed with
/// [`close::TOO_MANY`](crate::session::close::TOO_MANY). It is well below the ten seconds for which clients wait for an
/// answer before they give the connection up.
pub const PAUSE_MAX: Duration = Duration::from_secs(4);

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Requests per second in the long run; a message on a WebSocket is one too. A request beyond it is refused with
    /// `too-many`; a WebSocket is read more slowly.
    pub per_second: NonZeroU32,
    /// How many may come at once after a pause; on WebSockets half as many, so that they leave requests the other half.
    /// With more than those of eight seconds, requests alone can bring a WebSocket to wait for longer than [`PAUSE_MAX`].
    pub burst: NonZeroU32,
    /// WebSockets, streams and long polls at once; a further one is refused with `too-many`.
    pub connections: usize,
}

impl Allowance {
    /// 200 requests per second, a thousand at once, 256 connections: more than a house full of people needs.
    pub const STANDARD: Self = Self::new(NonZeroU32::new(200).unwrap(), 256);

    /// So many requests per second, those of five seconds at once, and so many connections.
    pub const fn new(per_second: NonZeroU32, connections: usize) -> Self {
        Self { per_second, burst: per_second.saturating_mul(NonZeroU32::new(5).unwrap()), connections }
    }

    /// What one request costs: the time after which it is forgotten.
    fn cost(self) -> Duration {
        Duration::from_secs(1) / self.per_second.get()
    }

    fn too_often(self, of: &str, wait: Duration) -> Problem {
        let limit = self.per_second.get();
        let detail = format!("more than {limit} requests per second of this {of}");
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
        Problem::new(ProblemType::TooMany, detail)
            .with("limit", limit)
            .with("unit", "requests per second")
            .with("retryAfterMs", wait_ms)
    }

    fn too_many(self, of: &str) -> Problem {
        let limit = self.connections;
        let detail = format!("all {limit} connections of this {of} are taken");
        Problem::new(ProblemType::TooMany, detail)
            .with("limit", limit)
            .with("unit", "connections")
            .with("retryAfterMs", 1000)
    }
}

/// Counts what each of many costs. `now` is the time since any fixed moment.
#[derive(Debug)]
pub(super) struct Limiter<K> {
    /// What is counted by: `address`, `principal`.
    of: &'static str,
    allowance: Allowance,
    guests_max: usize,
    /// Held for a look-up, and at most every [`SWEEP_EVERY`] for a walk through all.
    guests: Mutex<Guests<K>>,
}

#[derive(Debug)]
struct Guests<K> {
    known: HashMap<K, Guest>,
    /// All for whom there was no place.
    others: Guest,
    swept_at: Duration,
}

/// One of them. The bucket of tokens is kept as the moment at which it is full again.
#[derive(Debug, Default)]
struct Guest {
    full_at: Duration,
    connections: usize,
}

impl<K: Eq + Hash + Clone> Guests<K> {
    /// The row of a guest, and whether it has one of its own.
    fn get(&mut self, key: &K, max: usize, now: Duration) -> (&mut Guest, bool) {
        if self.known.len() >= max
            && !self.known.contains_key(key)
            && now.saturating_sub(self.swept_at) >= SWEEP_EVERY
        {
            self.swept_at = now;
            self.known.retain(|_, guest| guest.connections > 0 || guest.full_at > now);
        }
        if self.known.len() < max || self.known.contains_key(key) {
            (self.known.entry(key.clone()).or_default(), true)
        } else {
            (&mut self.others, false)
        }
    }
}

impl<K: Eq + Hash + Clone> Limiter<K> {
    pub(super) fn new(of: &'static str, allowance: Allowance, guests_max: usize) -> Self {
        let guests = Guests { known: HashMap::new(), others: Guest::default(), swept_at: Duration::ZERO };
        Self { of, allowance, guests_max, guests: Mutex::new(guests) }
    }

    /// Takes a request, or says why not.
    pub(super) fn admit(&self, key: &K, now: Duration) -> Result<(), Problem> {
        let cost = self.allowance.cost();
        let mut guests = self.guests.lock();
        let (guest, _) = guests.get(key, self.guests_max, now);
        let full_at = guest.full_at.max(now) + cost;
        match (full_at - now).checked_sub(cost * self.allowance.burst.get()) {
            None | Some(Duration::ZERO) => {
                guest.full_at = full_at;
                Ok(())
            }
            Some(wait) => Err(self.allowance.too_often(self.of, wait)),
        }
    }

    /// Takes what has come already, and says how long nothing more is to be taken; or that it is too long.
    ///
    /// It is until half a burst is there again. If sockets waited only for the next token to take it, there would never be
    /// one for a request.
    pub(super) fn charge(&self, key: &K, now: Duration) -> Result<Duration, Problem> {
        let cost = self.allowance.cost();
        let mut guests = self.guests.lock();
        let (guest, _) = guests.get(key, self.guests_max, now);
        guest.full_at = guest.full_at.max(now) + cost;
        let wait = (guest.full_at - now).saturating_sub(cost * (self.allowance.burst.get() / 2));
        if wait <= PAUSE_MAX { Ok(wait) } else { Err(self.allowance.too_often(self.of, wait)) }
    }

    /// A place for a connection, until it is dropped.
    pub(super) fn connect(self: &Arc<Self>, key: &K, now: Duration) -> Result<Place<K>, Problem> {
        let mut guests = self.guests.lock();
        let (guest, is_known) = guests.get(key, self.guests_max, now);
        if guest.connections >= self.allowance.connections {
            return Err(self.allowance.too_many(self.of));
        }
        guest.connections += 1;
        Ok(Place { limiter: Arc::clone(self), key: is_known.then(|| key.clone()) })
    }
}

/// A connection's place among those of its address or principal.
#[derive(Debug)]
pub(super) struct Place<K: Eq + Hash> {
    limiter: Arc<Limiter<K>>,
    /// `None` for one of those who share.
    key: Option<K>,
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut guests = self.limiter.guests.lock();
        let Guests { known, others, .. } = &mut *guests;
        // Who has a connection is not swept away.
        let guest = self.key.as_ref().map_or(Some(others), |key| known.get_mut(key));
        if let Some(guest) = guest {
            guest.connections -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limiter(per_second: u32, connections: usize, guests_max: usize) -> Arc<Limiter<u32>> {
        let allowance = Allowance::new(NonZeroU32::new(per_second).unwrap(), connections);
        Arc::new(Limiter::new("address", allowance, guests_max))
    }

    /// How many of a hundred are taken at a moment.
    fn taken(limiter: &Limiter<u32>, key: u32, now: Duration) -> usize {
        (0..100).filter(|_| limiter.admit(&key, now).is_ok()).count()
    }

    #[test]
    fn a_burst_is_taken_and_then_so_many_per_second() {
        let limiter = limiter(4, 1, 9);
        assert_eq!(taken(&limiter, 1, Duration::ZERO), 20);
        assert_eq!(taken(&limiter, 2, Duration::ZERO), 20, "another has its own");
        let refused = limiter.admit(&1, Duration::ZERO).unwrap_err();
        assert_eq!((refused.status, &refused.extra["retryAfterMs"]), (429, &250.into()));
        assert_eq!(refused.detail, "more than 4 requests per second of this address");
        for second in 1..9 {
            assert_eq!(taken(&limiter, 1, SECOND * second), 4, "second {second}");
        }
        assert_eq!(taken(&limiter, 1, SECOND * 1000), 20, "a pause gives no more than a burst");
    }

    #[test]
    fn what_comes_on_sockets_is_paid_for_by_waiting() {
        let limiter = limiter(4, 1, 9);
        for _ in 0..10 {
            assert_eq!(limiter.charge(&1, Duration::ZERO).unwrap(), Duration::ZERO);
        }
        // Several sockets of one guest wait one after the other.
        assert_eq!(limiter.charge(&1, Duration::ZERO).unwrap(), SECOND / 4);
        assert_eq!(limiter.charge(&1, Duration::ZERO).unwrap(), SECOND / 2);
        for _ in 2..16 {
            limiter.charge(&1, Duration::ZERO).unwrap();
        }
        assert!(limiter.admit(&1, Duration::ZERO).is_err());
        assert_eq!(limiter.charge(&1, Duration::ZERO).unwrap_err().extra["retryAfterMs"], 4_250);
        assert_eq!(limiter.charge(&1, SECOND * 60).unwrap(), Duration::ZERO);
    }

    #[test]
    fn a_socket_that_never_pauses_leaves_requests_their_half() {
        for burst in [1, 2, 3, 20] {
            let allowance =
                Allowance { burst: NonZeroU32::new(burst).unwrap(), ..Allowance::new(NonZeroU32::MIN, 1) };
            let limiter = Limiter::new("address", allowance, 9);
            let mut now = Duration::ZERO;
            for message in 0..3 * burst {
                now += limiter.charge(&1, now).unwrap();
                assert!(limiter.admit(&1, now).is_ok(), "burst {burst}, message {message}");
            }
        }
    }

    #[test]
    fn a_place_is_free_again_when_its_connection_is_gone() {
        let limiter = limiter(4, 2, 9);
        let connect = |key| limiter.connect(&key, Duration::ZERO);
        let (first, _second) = (connect(1).unwrap(), connect(1).unwrap());
        assert_eq!(connect(1).unwrap_err().detail, "all 2 connections of this address are taken");
        let _other = connect(2).unwrap();
        drop(first);
        let _third = connect(1).unwrap();
        assert!(connect(1).is_err());
    }

    #[test]
    fn those_beyond_the_bound_share_one_allowance() {
        let limiter = limiter(4, 2, 3);
        let start = SECOND * 60;
        let held = limiter.connect(&1, start).unwrap();
        for known in 2..=3 {
            assert_eq!(taken(&limiter, known, start), 20);
        }
        assert_eq!((4..90).map(|new| taken(&limiter, new, start)).sum::<usize>(), 20);
        let (one, _other) = (limiter.connect(&4, start).unwrap(), limiter.connect(&5, start).unwrap());
        assert!(limiter.connect(&6, start).is_err());
        drop(one);
        assert!(limiter.connect(&6, start).is_ok());
        assert_eq!(taken(&limiter, 1, start), 20, "who has a connection keeps its own");
        // Those who are quiet, and have no connection, make place.
        let later = start + SECOND * 9;
        assert_eq!((taken(&limiter, 7, later), taken(&limiter, 8, later)), (20, 20));
        assert_eq!(limiter.guests.lock().known.len(), 3);
        assert!(limiter.guests.lock().known.contains_key(&1));
        drop(held);
        assert_eq!(limiter.guests.lock().known[&1].connections, 0);
    }
}
