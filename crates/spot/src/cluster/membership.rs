//! The nodes that we were told to be connected to: how it stands with each, and when to try again.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    time::Duration,
};

use super::node::LinkId;

/// How it stands with a node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerState {
    /// A connection is being made.
    Connecting,
    /// Commands flow.
    Up,
    /// Nothing was heard for longer than a heartbeat.
    Suspect,
    /// No connection; the next attempt follows by itself.
    Down {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting => f.write_str("connecting"),
            Self::Up => f.write_str("up"),
            Self::Suspect => f.write_str("suspect"),
            Self::Down { reason } => write!(f, "down: {reason}"),
        }
    }
}

/// A node that we keep a connection to.
#[derive(Debug)]
pub struct Target {
    /// How it stands.
    pub state: PeerState,
    /// The connection.
    pub link: Option<LinkId>,
    /// When to try again.
    pub retry_at: Option<Duration>,
    /// Failures since it was up.
    pub failures: u32,
    /// Whether gossip brought it, so that it is forgotten when it stays away.
    pub gossiped: bool,
}

/// All of them, by endpoint.
#[derive(Debug, Default)]
pub struct Membership {
    /// In a fixed order, so that a simulation replays.
    pub targets: BTreeMap<String, Target>,
    /// Endpoints that were removed by name, the latest last; gossip does not bring them back.
    removed: VecDeque<String>,
}

/// Removed endpoints at most that gossip may not bring back; beyond, the one that was removed first is forgotten.
pub const REMOVED_MAX: usize = 1024;

/// Exponential from `min` to `max`, with full jitter: `chance` is any number.
pub fn backoff(min: Duration, max: Duration, failures: u32, chance: u64) -> Duration {
    let ceiling = min.saturating_mul(1 << failures.min(16)).min(max);
    let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX).max(1);
    min / 2 + Duration::from_nanos(chance % nanos)
}

impl Membership {
    /// Adds an endpoint to be dialed. False if it is known.
    pub fn add(&mut self, endpoint: &str, gossiped: bool, now: Duration) -> bool {
        let removed = self.removed.iter().position(|removed| removed == endpoint);
        match removed {
            Some(_) if gossiped => return false,
            Some(at) => drop(self.removed.remove(at)),
            None => {}
        }
        if let Some(target) = self.targets.get_mut(endpoint) {
            // Whom gossip brought may be added by name as well; then it stays.
            return !gossiped && std::mem::take(&mut target.gossiped);
        }
        let state = PeerState::Connecting;
        let target = Target { state, link: None, retry_at: Some(now), failures: 0, gossiped };
        self.targets.insert(endpoint.to_owned(), target);
        true
    }

    /// Removes an endpoint for good, until it is added by name again.
    pub fn remove(&mut self, endpoint: &str) -> Option<Target> {
        let target = self.targets.remove(endpoint)?;
        self.removed.push_back(endpoint.to_owned());
        if self.removed.len() > REMOVED_MAX {
            self.removed.pop_front();
        }
        Some(target)
    }

    /// The endpoints whose time to be dialed has come.
    pub fn due(&mut self, now: Duration) -> Vec<String> {
        let due = self.targets.iter_mut().filter(|(_, target)| target.retry_at.is_some_and(|at| at <= now));
        due.map(|(endpoint, target)| {
            target.retry_at = None;
            target.state = PeerState::Connecting;
            endpoint.clone()
        })
        .collect()
    }

    /// When the next one is due.
    pub fn next_due(&self) -> Option<Duration> {
        self.targets.values().filter_map(|target| target.retry_at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gossip_does_not_bring_back_what_was_removed() {
        let mut all = Membership::default();
        assert!(all.add("a", true, Duration::ZERO) && all.remove("a").is_some());
        assert!(!all.add("a", true, Duration::ZERO) && all.targets.is_empty());
        // By name it may come back, and then gossip may tell of it again.
        assert!(all.add("a", false, Duration::ZERO));
        assert!(all.targets.remove("a").is_some() && all.add("a", true, Duration::ZERO));
        for n in 0..=REMOVED_MAX {
            let endpoint = format!("many {n}");
            assert!(all.add(&endpoint, false, Duration::ZERO) && all.remove(&endpoint).is_some());
        }
        assert_eq!(all.removed.len(), REMOVED_MAX);
        assert!(all.add("many 0", true, Duration::ZERO), "it was removed longest ago");
    }

    #[test]
    fn backoff_doubles_up_to_its_bound() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(5));
        for failures in 0..40 {
            let longest = backoff(min, max, failures, u64::MAX);
            assert!(longest <= min / 2 + max, "{longest:?}");
            assert!(backoff(min, max, failures, 0) >= min / 2);
        }
    }
}
