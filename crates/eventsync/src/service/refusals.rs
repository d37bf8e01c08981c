//! How often somebody was refused who asked for more than there is for one.

use std::sync::atomic::{AtomicU64, Ordering};

/// Which limit refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusedBy {
    /// The requests of one address, or its messages on WebSockets.
    AddressRequests,
    /// The connections of one address.
    AddressConnections,
    /// The requests of one principal, or its messages on WebSockets.
    PrincipalRequests,
    /// The connections of one principal.
    PrincipalConnections,
    /// The connections of all.
    Connections,
}

impl RefusedBy {
    /// Each, with its name in the metrics.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::AddressRequests, "address-requests"),
        (Self::AddressConnections, "address-connections"),
        (Self::PrincipalRequests, "principal-requests"),
        (Self::PrincipalConnections, "principal-connections"),
        (Self::Connections, "connections"),
    ];
}

/// How often each limit refused, since the service was started.
#[derive(Debug, Default)]
pub struct Refusals([AtomicU64; RefusedBy::ALL.len()]);

impl Refusals {
    /// How often one limit did.
    pub fn of(&self, by: RefusedBy) -> u64 {
        self.place(by).load(Ordering::Relaxed)
    }

    /// Counts one.
    pub fn count(&self, by: RefusedBy) {
        self.place(by).fetch_add(1, Ordering::Relaxed);
    }

    fn place(&self, by: RefusedBy) -> &AtomicU64 {
        let place = RefusedBy::ALL.iter().position(|(other, _)| *other == by);
        &self.0[place.expect("all of them are in the table")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_has_a_count_of_its_own() {
        let refusals = Refusals::default();
        for (times, (by, _)) in RefusedBy::ALL.into_iter().enumerate() {
            (0..times).for_each(|_| refusals.count(by));
        }
        let counts = RefusedBy::ALL.map(|(by, _)| refusals.of(by));
        assert_eq!(counts, [0, 1, 2, 3, 4]);
    }
}
