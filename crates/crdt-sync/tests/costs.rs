//! What it costs to find out what two replicas differ in, by each way to synchronise: bytes on the wire, no clock.
//!
//! `--nocapture` prints the table of `docs/benchmarks-sync.md`.

use crdt_core::{EncodingFormat, SessionId, StateVector};
use crdt_sync::{
    PeerId, SyncMessage,
    dag::{Link, NodeHash},
    reconcile::{Progress, Reconciler, sketch},
    wire::encode_sync,
};

/// Session ids as they are drawn: anywhere in 53 bits.
fn vector(authors: u64) -> StateVector<SessionId> {
    let sid =
        |author: u64| SessionId::USER_MIN.get() + author.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (1 << 52);
    (1..=authors).map(|author| (SessionId::new(sid(author)).unwrap(), 1_000_000 + author)).collect()
}

fn len(message: &SyncMessage) -> usize {
    let from = PeerId::new("node-7").unwrap();
    encode_sync(EncodingFormat::Binary, &from, message).unwrap().len()
}

/// Both state vectors, sent whole.
fn states(a: &StateVector<SessionId>, b: &StateVector<SessionId>) -> usize {
    let state = |vector: &StateVector<SessionId>, reply| SyncMessage::State { vector: vector.clone(), reply };
    len(&state(a, true)) + len(&state(b, false))
}

/// Coded symbols by doubling until they suffice, as the session asks for them. Returns bytes and round trips.
fn sketches(a: &StateVector<SessionId>, b: &StateVector<SessionId>) -> (usize, usize) {
    let mut reconciler = Reconciler::new(a.clone(), 7);
    let (mut bytes, mut rounds) = (0, 0);
    loop {
        let (from, count) = (reconciler.taken(), reconciler.taken().clamp(32, 4096));
        let symbols = sketch(b, 7, from, count);
        bytes += len(&SyncMessage::Compare { id: 1, salt: 7, from: from as u64, count: count as u64 });
        let progress = reconciler.take(&symbols).unwrap();
        bytes += len(&SyncMessage::Sketch { id: 1, digest: 7, entries: b.len() as u64, symbols });
        rounds += 1;
        if let Progress::Done(difference) = progress {
            assert_eq!(difference.theirs, *b);
            return (bytes, rounds);
        }
    }
}

#[test]
fn a_comparison_costs_what_differs_and_not_what_is_common() {
    println!("| authors | differ | both vectors | sketches | round trips |");
    println!("|---|---|---|---|---|");
    for (authors, differ) in
        [(4, 1), (100, 1), (1000, 1), (1000, 100), (50_000, 1), (50_000, 100), (50_000, 5000)]
    {
        let a = vector(authors);
        let b: StateVector<SessionId> = a
            .iter()
            .enumerate()
            .map(|(at, (sid, last))| (*sid, last + u64::from((at as u64) < differ)))
            .collect();
        let whole = states(&a, &b);
        let (coded, rounds) = sketches(&a, &b);
        println!("| {authors} | {differ} | {whole} B | {coded} B | {rounds} |");
        assert!(coded <= 1200 + 250 * differ as usize, "{coded} B for {differ}");
        assert!(rounds <= 12, "{rounds} round trips");
        if authors >= 1000 {
            assert!(coded < whole);
        }
    }
}

/// The heartbeat of the DAG names what is missing, however many authors there are, as long as the ends are few.
#[test]
fn heads_cost_what_their_number_is() {
    let heads = |count: u64| {
        let heads = (0..count).map(|at| Link {
            last: 1_000_000 + at,
            sid: SessionId::new(SessionId::USER_MIN.get() + (at << 40)).unwrap(),
            hash: NodeHash([at as u8; NodeHash::LEN_BYTES]),
        });
        len(&SyncMessage::Heads { heads: heads.collect(), digest: 7 })
    };
    println!(
        "heads: 1 {} B, 8 {} B, 64 {} B; digest {} B",
        heads(1),
        heads(8),
        heads(64),
        len(&SyncMessage::Digest { digest: 7 })
    );
    assert!(heads(1) < 64 && heads(64) < 64 * 48);
}
