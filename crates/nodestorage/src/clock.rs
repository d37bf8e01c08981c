//! The time that changes carry.

use std::{sync::Arc, time::UNIX_EPOCH};

/// Tells the time in milliseconds since 1970 UTC. A storage makes it monotonic: when the clock goes back, its changes
/// keep the latest time that was ever recorded.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The clock of this machine.
pub fn system() -> Clock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the driver's clock; storages take it as a parameter"
    )]
    Arc::new(|| std::time::SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis() as u64))
}
