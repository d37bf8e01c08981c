//! Coded symbols from anyone, 32 bytes each: their difference comes out, or they are refused, in a bounded time.

use crdt_core::{SessionId, StateVector, id::MAX_ID};
use crdt_sync::reconcile::{Progress, Reconciler, Symbol, sketch};

/// Looks at any bytes. Panics where something is wrong with us. The first byte says how many symbols are true before the
/// others are mixed in.
pub(crate) fn look_at(data: &[u8]) {
    const SALT: u64 = 7;
    let entry = |number: u64, last| (SessionId::new(SessionId::USER_MIN.get() + number).unwrap(), last);
    let own: StateVector<SessionId> = (0..9).map(|number| entry(number, 5)).collect();
    let theirs: StateVector<SessionId> = (3..12).map(|number| entry(number, 4 + number % 3)).collect();
    let mut reconciler = Reconciler::new(own.clone(), SALT);
    let Some((&honest, rest)) = data.split_first() else { return };
    let mut symbols = sketch(&theirs, SALT, 0, usize::from(honest % 64));
    symbols.extend(rest.chunks_exact(32).map(|bytes| {
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        Symbol { sid: number(0), last: number(8), check: number(16), count: number(24) as i64 }
    }));
    for page in symbols.chunks(5) {
        match reconciler.take(page) {
            Err(_) => return,
            Ok(Progress::More) => {}
            Ok(Progress::Done(difference)) => {
                // Whatever they are, they are told as what a peer could have.
                for (sid, last) in difference.theirs.iter() {
                    assert!((1..=MAX_ID).contains(&last) && sid.get() <= MAX_ID);
                }
                assert!(difference.ours_ahead.iter().all(|(sid, last)| own.get(sid) == last));
                return;
            }
        }
    }
}
