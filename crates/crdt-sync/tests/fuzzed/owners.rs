//! Whose the sessions of a snapshot are, by anyone's word: believed or refused, and what is believed goes on to be.

use crdt_core::{SessionId, StateVector};
use crdt_sync::{Guard as _, crypto::Access};

/// Looks at any bytes. Panics where something is wrong with us.
pub(crate) fn look_at(owners: &[u8]) {
    let guard = Access::new("doc", None);
    let contained: StateVector<SessionId> = [(SessionId::USER_MIN, 9)].into_iter().collect();
    if guard.check_owners(&contained, owners).is_ok() {
        guard.note_owners(owners);
        guard.check_owners(&contained, owners).expect("what was believed goes on to be");
    }
}
