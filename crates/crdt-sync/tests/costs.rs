//! What it costs to find out what two replicas differ in, by each way to synchronise: bytes on the wire, no clock.
//!
//! `--nocapture` prints the table of `docs/benchmarks-sync.md`.

use std::time::Duration;

use bytes::Bytes;
use crdt_core::{EncodingFormat, PatchBuilder, SessionId, StateVector};
use crdt_sync::{
    MemoryPatchStore, PatchRecord, PatchStore, PeerId, SyncMessage,
    dag::{Heads, Link, NodeHash, Walk},
    reconcile::{Progress, Reconciler, sketch},
    session::{Input, Output, Page, ReadWhat, Session, SessionOptions, SyncMode, WALK_PAGE_NODES_MAX},
    store::PatchPage,
    wire::encode_sync,
};
use futures_util::FutureExt as _;

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
        len(&SyncMessage::Digest { digest: 7, content: None })
    );
    assert!(heads(1) < 64 && heads(64) < 64 * 48);
}

/// Session ids of authors; those of the two replicas are others.
fn author(number: u64) -> SessionId {
    SessionId::new(SessionId::USER_MIN.get() + (number + 1) * 0x1_0000_0001).unwrap()
}

/// Patches of many authors in turn, each of whom has seen all before it.
struct History {
    records: Vec<PatchRecord>,
    vector: StateVector<SessionId>,
    heads: Heads,
}

impl History {
    fn of(count: u64, authors: u64) -> Self {
        let mut history = Self { records: Vec::new(), vector: StateVector::new(), heads: Heads::new() };
        history.go_on(count, authors);
        history
    }

    fn go_on(&mut self, count: u64, authors: u64) {
        for turn in 0..count {
            let sid = author(turn % authors);
            let mut patch = PatchBuilder::new(sid, self.records.len() as u64 + 1);
            patch.nop(1);
            let patch = Bytes::copy_from_slice(patch.finish().unwrap().as_bytes());
            let record = PatchRecord::new(self.vector.get(&sid), patch).unwrap();
            let record = record.with_links(self.heads.latest(sid)).unwrap();
            self.heads.add(&record);
            self.vector.advance(sid, record.last());
            self.records.push(record);
        }
    }
}

/// The production machine over a store in memory. What it would do with a document is of no interest here.
struct Node {
    id: PeerId,
    machine: Session,
    store: MemoryPatchStore,
    sent: Vec<SyncMessage>,
}

impl Node {
    fn new(number: u64, sync: SyncMode, history: &History) -> Self {
        let store = MemoryPatchStore::new();
        store.append_at_once(&history.records).unwrap().unwrap();
        let own = SessionId::new(SessionId::USER_MIN.get() + number).unwrap();
        let options = SessionOptions { sync, ..SessionOptions::standard(own) };
        let (vector, heads) = (history.vector.clone(), history.heads.clone());
        Self {
            id: PeerId::new(format!("node-{number}")).unwrap(),
            machine: Session::new(options, vector, heads, Duration::ZERO, number),
            store,
            sent: Vec::new(),
        }
    }

    fn input(&mut self, now: Duration, input: Input) {
        self.machine.handle_input(now, input);
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Store(record) => {
                    self.store.append_at_once(&[record]).unwrap().unwrap();
                    self.machine.handle_input(now, Input::Stored);
                }
                Output::Send { message, .. } => self.sent.push(*message),
                Output::Read { peer, id, what } => {
                    let page = self.read(*what);
                    self.machine.handle_input(now, Input::Page { peer, id, page });
                }
                _ => {}
            }
        }
    }

    fn read(&self, what: ReadWhat) -> Page {
        let page = |want: &[_], bytes_max| {
            self.store.page(want, bytes_max).now_or_never().expect("it never waits").unwrap()
        };
        let found = match what {
            ReadWhat::Patches { want, bytes_max, .. } => page(&want, bytes_max),
            ReadWhat::Walk { want, have, bytes_max } => {
                let mut walk = Walk::new(&want, have, bytes_max, WALK_PAGE_NODES_MAX);
                while let Some(want) = walk.next_read() {
                    walk.read(page(&[want], bytes_max));
                }
                walk.finish()
            }
            ReadWhat::Part { .. } => panic!("nobody offered a snapshot"),
        };
        let PatchPage::Records(records) = found else { panic!("nothing is compacted") };
        Page::Records(records)
    }
}

/// Lets a replica catch up that lacks the end of a history. Returns the bytes on the wire beside the patches
/// themselves, and how many times it asked for something.
fn catch_up(sync: SyncMode, behind: &History, ahead: &History) -> (usize, usize) {
    let (mut late, mut source) = (Node::new(1, sync, behind), Node::new(2, sync, ahead));
    let (mut now, mut bytes, mut asked) = (Duration::ZERO, 0, 0);
    // They hear of each other by their heartbeats, as replicas do that know each other for long.
    while late.machine.stored() != source.machine.stored() {
        assert!(now < Duration::from_secs(600), "no end of it");
        now = now.max(late.machine.wakes_at().min(source.machine.wakes_at()));
        late.input(now, Input::Tick);
        source.input(now, Input::Tick);
        while !late.sent.is_empty() || !source.sent.is_empty() {
            for message in std::mem::take(&mut late.sent) {
                bytes += len(&message);
                asked += usize::from(matches!(
                    message,
                    SyncMessage::Request { .. } | SyncMessage::Walk { .. } | SyncMessage::Compare { .. }
                ));
                source.input(now, Input::Message { from: late.id.clone(), message });
            }
            for message in std::mem::take(&mut source.sent) {
                bytes += len(&message);
                if let SyncMessage::Patches { records, .. } = &message {
                    bytes -= records.iter().map(|record| record.patch.len()).sum::<usize>();
                }
                late.input(now, Input::Message { from: source.id.clone(), message });
            }
        }
    }
    (bytes, asked)
}

#[test]
fn each_way_to_synchronise_is_cheaper_somewhere() {
    println!("| authors | patches behind | vectors | requests | DAG | requests |");
    println!("|---|---|---|---|---|---|");
    // With few authors the vector says it shortest, and where much is missing it is links that cost; with many authors, few of whom
    // have written since, it is the DAG's heads.
    for (authors, missing, writers, cheaper) in [
        (4, 1, 1, SyncMode::Vectors),
        (4, 100, 4, SyncMode::Dag),
        (4, 5000, 4, SyncMode::Vectors),
        (200, 1, 1, SyncMode::Dag),
        (2000, 1, 1, SyncMode::Dag),
        (2000, 100, 10, SyncMode::Dag),
        (2000, 5000, 2000, SyncMode::Vectors),
    ] {
        let behind = History::of(4000, authors);
        let mut ahead = History::of(4000, authors);
        ahead.go_on(missing, writers);
        let (vectors, asked) = catch_up(SyncMode::Vectors, &behind, &ahead);
        let (dag, walked) = catch_up(SyncMode::Dag, &behind, &ahead);
        println!("| {authors} | {missing} | {vectors} B | {asked} | {dag} B | {walked} |");
        let bound = 16_000 + 48 * missing as usize + 100 * writers as usize;
        assert!(vectors <= bound && dag <= bound, "{vectors} B, {dag} B");
        let found = if vectors < dag { SyncMode::Vectors } else { SyncMode::Dag };
        assert_eq!(found, cheaper, "{authors} authors, {missing} behind: {vectors} B and {dag} B");
    }
}
