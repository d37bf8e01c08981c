//! What a peer can do to keep a replica from the others, and does not get.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use crdt_core::{Model, SessionId, StateVector, Timestamp};
use crdt_sync::{
    PatchRecord, PeerId, SnapshotHead, SyncMessage,
    dag::{Heads, Link, NodeHash},
    reconcile::sketch,
    session::{
        Input, Output, Refusal, Session, SessionEvent, SessionOptions, SyncMode, TrickleOptions, digest,
    },
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

/// A replica in a group that uses the DAG, with its first patch and the one after it.
fn in_a_dag() -> (Session, Model, PatchRecord, PatchRecord) {
    let options = SessionOptions { sync: SyncMode::Dag, ..SessionOptions::standard(OWN) };
    let mut machine = Session::new(options, StateVector::new(), Heads::new(), Duration::ZERO, 1);
    let mut model = Model::new(OWN);
    let mut edit = |prev, value: i64| {
        model.api().root(value).unwrap();
        PatchRecord::new(prev, Bytes::copy_from_slice(model.flush().unwrap().as_bytes())).unwrap()
    };
    let first = edit(0, 1);
    let second = edit(first.last(), 2);
    outputs(&mut machine, Duration::ZERO, Input::Local(first.clone()));
    outputs(&mut machine, Duration::ZERO, Input::Stored);
    let mut theirs = Model::new(sid(1));
    let _ = theirs.apply_bytes(&first.patch).unwrap();
    (machine, theirs, first, second)
}

/// The wrong hash is told, and the replica goes on: whoever named it did not have to prove anything.
fn is_told_and_goes_on(machine: &mut Session, told: &[Output], first: &PatchRecord, second: PatchRecord) {
    let refused = SessionEvent::Refused(Refusal::SessionUsedTwice(Timestamp::new(OWN, first.last())));
    assert!(told.contains(&Output::Event(refused.into())), "{told:?}");
    let second = second.clone().with_links(machine.links(second.id.time)).unwrap();
    assert_eq!(machine.local_refusal(&second), None);
    let local = outputs(machine, Duration::ZERO, Input::Local(second));
    assert!(local.iter().any(|output| matches!(output, Output::Store(_))), "{local:?}");
}

#[test]
fn heads_with_a_wrong_hash_do_not_stop_the_edits_of_the_session_they_name() {
    let (mut machine, _, first, second) = in_a_dag();
    let wrong = Link { sid: OWN, last: first.last(), hash: NodeHash([7; 32]) };
    let heads = SyncMessage::Heads { heads: vec![wrong], digest: 1 };
    let told = says(&mut machine, Duration::ZERO, "reader", heads);
    is_told_and_goes_on(&mut machine, &told, &first, second);
}

#[test]
fn a_patch_that_follows_a_wrong_hash_does_not_stop_the_edits_of_the_session_it_names() {
    let (mut machine, mut theirs, first, second) = in_a_dag();
    theirs.api().root(3).unwrap();
    let patch = Bytes::copy_from_slice(theirs.flush().unwrap().as_bytes());
    let wrong = Link { sid: OWN, last: first.last(), hash: NodeHash([7; 32]) };
    let record = PatchRecord::new(0, patch).unwrap().with_links([wrong].into()).unwrap();
    outputs(&mut machine, Duration::ZERO, Input::Heard(record));
    let told = outputs(&mut machine, Duration::ZERO, Input::Stored);
    is_told_and_goes_on(&mut machine, &told, &first, second);
}

/// What it said counts for nothing once it failed us; what it says afterwards counts again, also if that is the same.
#[test]
fn who_failed_us_and_says_again_that_it_has_the_same_holds_nothing_back() {
    let stored: StateVector<SessionId> = [(sid(1), 5)].into_iter().collect();
    let mut machine = session(stored.clone());
    let same = SyncMessage::Digest { digest: digest(&stored), content: None };
    says(&mut machine, Duration::ZERO, "peer", same.clone());
    assert_eq!(machine.stable(), stored);
    let more = SyncMessage::State { vector: [(sid(1), 9)].into_iter().collect(), reply: false };
    says(&mut machine, Duration::ZERO, "peer", more);
    outputs(&mut machine, seconds(4.0), Input::Tick);
    assert_eq!(machine.stable().get(&sid(1)), 0, "it did not send what it said it had");
    says(&mut machine, seconds(5.0), "peer", same);
    assert_eq!(machine.stable(), stored);
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
    machine.handle_input(seconds(2.0), Input::PeerLeft(peer("left")));
    for name in ["left", "made up"] {
        says(&mut machine, seconds(2.1), name, SyncMessage::Digest { digest: 3, content: None });
    }
    assert_eq!((machine.stable().len(), machine.status().peers), (0, 3), "they may lack everything");
    for second in 3..180 {
        outputs(&mut machine, seconds(f64::from(second)), Input::Tick);
    }
    assert_eq!((machine.stable(), machine.status().peers), (all, 1));
}

#[test]
fn made_up_names_do_not_put_out_a_peer_that_discovery_names() {
    let options = SessionOptions { peers_max: 3, ..SessionOptions::standard(OWN) };
    let mut machine = Session::new(options, StateVector::new(), Heads::new(), Duration::ZERO, 1);
    for name in ["first", "second"] {
        machine.handle_input(Duration::ZERO, Input::PeerUp(peer(name)));
    }
    for number in 0..10 {
        says(
            &mut machine,
            seconds(1.0),
            &format!("made up {number}"),
            SyncMessage::Digest { digest: 3, content: None },
        );
    }
    let known: Vec<PeerId> = machine.peer_statuses(seconds(1.0)).into_iter().map(|peer| peer.id).collect();
    assert_eq!(known, ["first", "made up 9", "second"].map(peer));
}

/// What an absent peer lacks is kept for it, and a place in the table is no reason to fold it without a word.
#[test]
fn an_absent_peer_goes_for_one_that_is_found_only_and_that_is_told() {
    let options = SessionOptions { peers_max: 3, ..SessionOptions::standard(OWN) };
    let mut machine = Session::new(options, StateVector::new(), Heads::new(), Duration::ZERO, 1);
    for (at, name) in ["first", "second", "third"].into_iter().enumerate() {
        machine.handle_input(seconds(at as f64), Input::PeerUp(peer(name)));
    }
    for name in ["second", "third"] {
        outputs(&mut machine, seconds(3.0), Input::PeerDown(peer(name)));
    }
    let names = |machine: &Session| -> Vec<PeerId> {
        machine.peer_statuses(seconds(4.0)).into_iter().map(|peer| peer.id).collect()
    };
    let digest = || SyncMessage::Digest { digest: 3, content: None };
    let dropped = machine.counters().requests_dropped;
    assert_eq!(says(&mut machine, seconds(4.0), "made up", digest()), []);
    let state = SyncMessage::State { vector: StateVector::new(), reply: true };
    assert_eq!(says(&mut machine, seconds(4.0), "made up", state), []);
    assert_eq!(names(&machine), ["first", "second", "third"].map(peer));
    assert_eq!(machine.counters().requests_dropped - dropped, 2, "it is counted");

    let told = outputs(&mut machine, seconds(4.0), Input::PeerUp(peer("fourth")));
    let forgotten = |output: &Output| match output {
        Output::Event(event) => match &**event {
            SessionEvent::Forgotten { peer } => Some(peer.clone()),
            _ => None,
        },
        _ => None,
    };
    let told: Vec<PeerId> = told.iter().filter_map(forgotten).collect();
    assert_eq!(told, [peer("second")], "of those who are gone the one heard longest ago");
    assert_eq!(names(&machine), ["first", "fourth", "third"].map(peer));
    assert_eq!(machine.counters().forgotten, 1);
}

#[test]
fn strangers_are_remembered_for_longer_where_replicas_seldom_speak() {
    let trickle = TrickleOptions { interval_max: seconds(300.0), ..TrickleOptions::STANDARD };
    let options = SessionOptions { trickle, ..SessionOptions::standard(OWN) };
    let mut machine = Session::new(options, StateVector::new(), Heads::new(), Duration::ZERO, 1);
    says(&mut machine, Duration::ZERO, "stranger", SyncMessage::Digest { digest: 3, content: None });
    outputs(&mut machine, seconds(1199.0), Input::Tick);
    assert_eq!(machine.status().peers, 1, "it may have said nothing because others had said the same");
    outputs(&mut machine, seconds(1210.0), Input::Tick);
    assert_eq!(machine.status().peers, 0);
}

fn states(outputs: &[Output]) -> Vec<PeerId> {
    let state = |output: &Output| match output {
        Output::Send { to: Some(to), message } if matches!(**message, SyncMessage::State { .. }) => {
            Some(to.clone())
        }
        _ => None,
    };
    outputs.iter().filter_map(state).collect()
}

/// A question of ten bytes brings a vector of a megabyte: not under as many names as anybody likes.
#[test]
fn made_up_names_are_told_no_more_than_so_much() {
    let stored: StateVector<SessionId> = (1..=40_000).map(|number| (sid(number), 1)).collect();
    let mut machine = session(stored);
    machine.handle_input(Duration::ZERO, Input::PeerUp(peer("found")));
    let ask = || SyncMessage::State { vector: StateVector::new(), reply: true };
    let mut told = Vec::new();
    for name in ["made up 1", "made up 2", "made up 3", "found"] {
        told.extend(states(&says(&mut machine, seconds(1.0), name, ask())));
    }
    assert_eq!(told, ["made up 1", "found"].map(peer));
    let later = says(&mut machine, seconds(1.3), "made up 2", ask());
    assert_eq!(states(&later), ["made up 2"].map(peer));
}

/// What it has is not known while it is distrusted; its word that it has the same counts as before when it says it again.
#[test]
fn a_peer_that_says_the_same_again_after_it_was_distrusted_is_believed() {
    let all: StateVector<SessionId> = [(sid(1), 5)].into_iter().collect();
    let mut machine = session(all.clone());
    machine.handle_input(Duration::ZERO, Input::PeerUp(peer("a")));
    let same = SyncMessage::Digest { digest: crdt_sync::session::digest(&all), content: None };
    says(&mut machine, seconds(1.0), "a", same.clone());
    assert_eq!(machine.stable(), all);
    let more = [(sid(1), 9)].into_iter().collect();
    let sent = says(&mut machine, seconds(2.0), "a", SyncMessage::State { vector: more, reply: false });
    assert!(matches!(asked(&sent), Some((_, SyncMessage::Request { .. }))), "{sent:?}");
    let late = outputs(&mut machine, seconds(6.0), Input::Tick);
    assert_eq!(unhelpful(&late), Some("did not answer in time"));
    assert!(machine.stable().is_empty());
    says(&mut machine, seconds(7.0), "a", same);
    assert_eq!(machine.stable(), all);
}

/// A walk may be answered by the snapshot that could not be taken over.
#[test]
fn who_could_not_take_a_snapshot_over_asks_for_patches_also_in_a_group_that_uses_the_dag() {
    let (mut machine, ..) = in_a_dag();
    let heads = |last| vec![Link { last, sid: sid(2), hash: NodeHash([7; 32]) }];
    let asks = |machine: &mut Session, at: f64, last: u64| {
        let heads = SyncMessage::Heads { heads: heads(last), digest: last };
        says(machine, seconds(at), "a", heads);
        asked(&outputs(machine, seconds(at + 0.5), Input::Tick)).expect("it is asked").1
    };
    outputs(&mut machine, seconds(1.0), Input::InstallFailed);
    let asked = asks(&mut machine, 2.0, 100);
    assert!(matches!(asked, SyncMessage::State { reply: true, .. }), "{asked:?}");
    let asked = asks(&mut machine, 62.0, 101);
    assert!(matches!(asked, SyncMessage::Walk { .. }), "{asked:?}");
}

#[path = "hostile/slow.rs"]
mod slow;
