//! What a peer can do to keep a replica from the others, and does not get.

use std::time::Duration;

use bytes::Bytes;
use crdt_core::{Model, SessionId, StateVector};
use crdt_sync::{
    PatchRecord, PeerId, SnapshotHead, SyncMessage,
    dag::Heads,
    reconcile::sketch,
    session::{Input, Output, Refusal, Session, SessionEvent, SessionOptions},
};

const OWN: SessionId = SessionId::USER_MIN;

fn sid(number: u64) -> SessionId {
    SessionId::new(OWN.get() + number).unwrap()
}

fn peer(name: &str) -> PeerId {
    PeerId::new(name).unwrap()
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn session(stored: StateVector<SessionId>) -> Session {
    Session::new(SessionOptions::standard(OWN), stored, Heads::new(), Duration::ZERO, 1)
}

fn outputs(session: &mut Session, now: Duration, input: Input) -> Vec<Output> {
    session.handle_input(now, input);
    std::iter::from_fn(|| session.poll_output()).collect()
}

fn says(session: &mut Session, now: Duration, from: &str, message: SyncMessage) -> Vec<Output> {
    outputs(session, now, Input::Message { from: peer(from), message })
}

/// The last request in what is to be sent: to whom, and what.
fn asked(outputs: &[Output]) -> Option<(PeerId, SyncMessage)> {
    outputs.iter().rev().find_map(|output| match output {
        Output::Send { to: Some(to), message } => Some((to.clone(), (**message).clone())),
        _ => None,
    })
}

fn unhelpful(outputs: &[Output]) -> Option<&'static str> {
    outputs.iter().find_map(|output| match output {
        Output::Event(event) => match **event {
            SessionEvent::Unhelpful { why, .. } => Some(why),
            _ => None,
        },
        _ => None,
    })
}

/// The first patch of a session.
fn patch(session: SessionId) -> PatchRecord {
    let mut model = Model::new(session);
    model.api().root(1).unwrap();
    PatchRecord::new(0, Bytes::copy_from_slice(model.flush().unwrap().as_bytes())).unwrap()
}

#[test]
fn edits_are_refused_once_the_own_session_is_known_to_be_used_elsewhere() {
    let mut machine = session(StateVector::new());
    let own = patch(OWN);
    assert_eq!(machine.local_refusal(&own), None);
    let heard = outputs(&mut machine, Duration::ZERO, Input::Heard(own.clone()));
    let refused = SessionEvent::Refused(Refusal::SessionUsedTwice(own.id));
    assert!(heard.contains(&Output::Event(refused.into())), "{heard:?}");
    assert_eq!(machine.local_refusal(&own), Some(Refusal::SessionUsedTwice(own.id)));
    let local = outputs(&mut machine, Duration::ZERO, Input::Local(own));
    assert!(!local.iter().any(|output| matches!(output, Output::Store(_))), "{local:?}");
    // What others write under other sessions goes on.
    let theirs = outputs(&mut machine, Duration::ZERO, Input::Heard(patch(sid(1))));
    assert!(matches!(theirs[0], Output::Store(_)), "{theirs:?}");
}

/// Brings a machine to fetch a snapshot of `len_bytes` from the peer that offers it.
fn fetching(machine: &mut Session, now: Duration, from: &str, len_bytes: u64) -> u64 {
    let vector: StateVector<SessionId> = [(sid(1), 5)].into_iter().collect();
    let state = SyncMessage::State { vector: vector.clone(), reply: false };
    let request = asked(&says(machine, now, from, state));
    let Some((_, SyncMessage::Request { id, .. })) = request else { panic!("{request:?}") };
    let snapshot = SnapshotHead { vector, len_bytes, hash: 7, proof: Bytes::new() };
    let fetch = asked(&says(machine, now, from, SyncMessage::Offer { id, snapshot }));
    let Some((_, SyncMessage::Fetch { id, offset: 0, .. })) = fetch else { panic!("{fetch:?}") };
    id
}

/// Answers each request for a part after a pause with so many bytes, until the machine has enough of it. Returns how long
/// that was.
fn trickle(machine: &mut Session, start: Duration, mut id: u64, part: usize, pause: Duration) -> Duration {
    let (mut now, mut offset) = (start, 0);
    loop {
        now += pause;
        let bytes = Bytes::from(vec![0; part]);
        let outputs = says(machine, now, "slow", SyncMessage::Part { id, hash: 7, offset, bytes });
        offset += part as u64;
        match asked(&outputs) {
            Some((_, SyncMessage::Fetch { id: next, .. })) => id = next,
            _ => {
                assert_eq!(unhelpful(&outputs), Some("sends a snapshot too slowly"), "{outputs:?}");
                return now - start;
            }
        }
        assert!(now - start < seconds(3600.0), "it has no end");
    }
}

#[test]
fn a_snapshot_that_comes_byte_by_byte_does_not_keep_others_from_being_asked() {
    let mut machine = session(StateVector::new());
    let len_bytes = 100 << 20;
    let mut start = Duration::ZERO;
    let mut took = Vec::new();
    for _ in 0..3 {
        let id = fetching(&mut machine, start, "slow", len_bytes);
        took.push(trickle(&mut machine, start, id, 1, seconds(2.5)));
        start += took[took.len() - 1] + seconds(60.0);
        machine.handle_input(start, Input::Tick);
        while machine.poll_output().is_some() {}
    }
    // One whose line is slow gets twice the time at the next try.
    assert_eq!(took, [seconds(5.0), seconds(7.5), seconds(12.5)]);
    // Who is quick enough may take as long as the snapshot is long.
    let id = fetching(&mut machine, start, "quick", len_bytes);
    let (mut now, mut id) = (start, id);
    for part in 0..400u64 {
        now += seconds(2.9);
        let (offset, bytes) = (part * (256 << 10), Bytes::from(vec![0; 256 << 10]));
        let outputs = says(&mut machine, now, "quick", SyncMessage::Part { id, hash: 7, offset, bytes });
        match asked(&outputs) {
            Some((_, SyncMessage::Fetch { id: next, .. })) => id = next,
            _ => {
                assert_eq!(part, 399);
                assert!(outputs.iter().any(|output| matches!(output, Output::Install { .. })), "{outputs:?}");
            }
        }
    }
}

#[test]
fn symbols_one_by_one_are_no_answer() {
    let many: StateVector<SessionId> = (1..1000).map(|number| (sid(number), 5)).collect();
    let mut machine = session(many);
    let mut first = outputs(&mut machine, Duration::ZERO, Input::PeerUp(peer("few")));
    first.extend(outputs(&mut machine, seconds(0.5), Input::Tick));
    let compare = asked(&first);
    let Some((_, SyncMessage::Compare { id, salt, from: 0, count })) = compare else { panic!("{compare:?}") };
    let theirs: StateVector<SessionId> = (1..1000).map(|number| (sid(number), 6)).collect();
    let symbols = sketch(&theirs, salt, 0, count as usize - 1);
    let outputs =
        says(&mut machine, seconds(0.6), "few", SyncMessage::Sketch { id, digest: 1, entries: 999, symbols });
    assert_eq!(unhelpful(&outputs), Some("sent fewer symbols than it was asked for, or more"));
}

#[test]
fn who_is_not_found_and_says_nothing_is_forgotten() {
    let all: StateVector<SessionId> = [(sid(1), 5)].into_iter().collect();
    let mut machine = session(all.clone());
    machine.handle_input(Duration::ZERO, Input::PeerUp(peer("found")));
    machine.handle_input(Duration::ZERO, Input::PeerUp(peer("left")));
    for name in ["found", "left"] {
        says(&mut machine, seconds(1.0), name, SyncMessage::State { vector: all.clone(), reply: false });
    }
    assert_eq!(machine.stable(), all);
    // It leaves, and what it said last comes after that; somebody makes up a name.
    machine.handle_input(seconds(2.0), Input::PeerDown(peer("left")));
    for name in ["left", "made up"] {
        says(&mut machine, seconds(2.1), name, SyncMessage::Digest { digest: 3 });
    }
    assert_eq!((machine.stable().len(), machine.status().peers), (0, 3), "they may lack everything");
    for second in 3..120 {
        outputs(&mut machine, seconds(f64::from(second)), Input::Tick);
    }
    assert_eq!((machine.stable(), machine.status().peers), (all, 1));
}
