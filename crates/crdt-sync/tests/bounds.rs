//! What peers can make a replica remember is bounded, however often they say it.

use std::time::Duration;

use bytes::Bytes;
use crdt_core::{PatchBuilder, SessionId, StateVector, Timestamp, Value};
use crdt_sync::{
    PatchRecord, PeerId, SnapshotHead, SyncMessage, Want,
    dag::{Heads, Link},
    session::{Input, Output, Refusal, Session, SessionEvent, SessionOptions, SyncMode, digest},
};

const OWN: SessionId = SessionId::USER_MIN;

fn vector(from: u64, count: u64) -> StateVector<SessionId> {
    let sid = |number| SessionId::new(SessionId::USER_MIN.get() + 1 + number).unwrap();
    (from..from + count).map(|number| (sid(number), 5)).collect()
}

fn session(options: SessionOptions) -> Session {
    Session::new(options, StateVector::new(), Heads::new(), Duration::ZERO, 1)
}

fn says(session: &mut Session, from: &str, message: SyncMessage) -> Vec<Output> {
    let from = PeerId::new(from).unwrap();
    session.handle_input(Duration::ZERO, Input::Message { from, message });
    std::iter::from_fn(|| session.poll_output()).collect()
}

/// Each message is short enough; all of them together are not.
#[test]
fn a_peer_that_is_ahead_in_ever_more_sessions_is_left_alone() {
    let mut session = session(SessionOptions { sessions_max: 2500, ..SessionOptions::standard(OWN) });
    for part in 0..2 {
        says(&mut session, "liar", SyncMessage::Ahead { vector: vector(part * 1000, 1000) });
        assert_eq!(session.status().peer_entries as u64, (part + 1) * 1000);
    }
    let outputs = says(&mut session, "liar", SyncMessage::Ahead { vector: vector(2000, 1000) });
    let why = outputs.iter().find_map(|output| match output {
        Output::Event(event) => match **event {
            SessionEvent::Unhelpful { why, .. } => Some(why),
            _ => None,
        },
        _ => None,
    });
    assert_eq!(why, Some("said that it has more sessions than a document may have"));
    assert_eq!(session.status().peer_entries, 0);
    assert!(session.peer_statuses(Duration::ZERO)[0].distrusted);
}

#[test]
fn the_words_of_all_peers_together_are_bounded() {
    let options = SessionOptions::standard(OWN);
    let mut session = session(options);
    let long = vector(0, 1 << 16);
    for peer in 0..20 {
        says(
            &mut session,
            &format!("peer-{peer}"),
            SyncMessage::State { vector: long.clone(), reply: false },
        );
        assert!(session.status().peer_entries <= 1 << 20, "{:?}", session.status());
    }
    assert_eq!(session.status().peers, 20);
    assert!(session.status().peer_entries > 1 << 19, "no more is forgotten than must be");
}

/// Times go to 2^53, and their sum beyond 2^64: that is what a few words of anybody come to.
#[test]
fn a_status_of_words_that_can_not_be_added_up_says_the_most() {
    let mut session = session(SessionOptions::standard(OWN));
    let all: StateVector<SessionId> = vector(0, 2049).iter().map(|(sid, _)| (*sid, (1 << 53) - 1)).collect();
    says(&mut session, "liar", SyncMessage::State { vector: all, reply: false });
    assert_eq!(session.status().lag_ticks, u64::MAX);
    assert_eq!(session.peer_statuses(Duration::ZERO)[0].ahead_ticks, u64::MAX);
}

fn patch(session: SessionId) -> PatchRecord {
    let mut patch = PatchBuilder::new(session, 1);
    patch.nop(1);
    PatchRecord::new(0, Bytes::copy_from_slice(patch.finish().unwrap().as_bytes())).unwrap()
}

/// A session beyond the bound is refused by all others, so its first edit is not taken as if nothing were wrong.
#[test]
fn a_newcomer_to_a_document_that_is_full_is_told() {
    let bound = |sessions_max| SessionOptions { sessions_max, ..SessionOptions::standard(OWN) };
    let start = |sessions_max, count| {
        Session::new(bound(sessions_max), vector(0, count), Heads::new(), Duration::ZERO, 1)
    };
    let (own, client) = (patch(OWN), patch(SessionId::new(OWN.get() + 1_000_000).unwrap()));
    let full = |limit| Some(Refusal::TooManySessions { limit });
    let session = start(3, 3);
    assert_eq!(session.local_refusal(&own), full(3));
    assert_eq!(session.client_refusal(&client), full(3));
    assert_eq!((session.status().sessions, start(3, 2).local_refusal(&own)), (3, None));
    // Those who come at the same time are still taken by each other: not all of the room is given to newcomers of one's own.
    let session = start(640, 630);
    assert_eq!((session.local_refusal(&own), session.client_refusal(&client)), (full(640), full(640)));
    assert_eq!(session.refusal(&client), None);
    assert_eq!(start(640, 629).local_refusal(&own), None);
    // Who has written before goes on.
    let mut stored = vector(0, 2);
    stored.advance(OWN, 1);
    let mut session = Session::new(bound(3), stored, Heads::new(), Duration::ZERO, 1);
    let mut next = PatchBuilder::new(OWN, 9);
    next.nop(1);
    let next = Bytes::copy_from_slice(next.finish().unwrap().as_bytes());
    assert_eq!(session.local_refusal(&PatchRecord::new(1, next).unwrap()), None);
    session.handle_input(Duration::ZERO, Input::Heard(client));
    assert_eq!(session.counters().refused, 1);
}

/// Sessions that are folded whole are numbers in a vector: only what has patches to be looked for is bounded so low.
#[test]
fn who_is_folded_whole_makes_room_for_newcomers() {
    let start = |unfolded_sessions_max| {
        let options = SessionOptions { unfolded_sessions_max, ..SessionOptions::standard(OWN) };
        Session::new(options, vector(0, 4), Heads::new(), Duration::ZERO, 1)
    };
    let client = |number| patch(SessionId::new(OWN.get() + 1000 + number).unwrap());
    let full = Some(Refusal::TooManyUnfoldedSessions { limit: 4 });
    let mut session = start(4).with_folded(vector(0, 1));
    assert_eq!((session.status().unfolded_sessions, session.client_refusal(&client(1))), (3, None));
    session.handle_input(Duration::ZERO, Input::Heard(client(1)));
    assert_eq!(session.status().unfolded_sessions, 4);
    assert_eq!(
        (session.client_refusal(&client(2)), session.local_refusal(&patch(OWN))),
        (full.clone(), full)
    );
    session.handle_input(Duration::ZERO, Input::Heard(client(2)));
    assert_eq!((session.status().sessions, session.counters().refused), (5, 1));
    // Who goes on after it was folded goes on, and counts again: once.
    for time in [6, 7] {
        let mut next = PatchBuilder::new(SessionId::new(OWN.get() + 1).unwrap(), time);
        next.nop(1);
        let next = Bytes::copy_from_slice(next.finish().unwrap().as_bytes());
        session.handle_input(Duration::ZERO, Input::Heard(PatchRecord::new(time - 1, next).unwrap()));
        assert_eq!((session.status().unfolded_sessions, session.counters().refused), (5, 1));
    }
    let all = session.stored().clone();
    session.handle_input(Duration::ZERO, Input::Folded(all));
    // What came and is not durable yet is not folded.
    assert_eq!(session.status().unfolded_sessions, 2);
    assert_eq!(session.client_refusal(&client(2)), None);
}

/// Who is at the bound asks for newcomers and gets them; who sent them is not to blame, and has more that is wanted.
#[test]
fn who_sends_a_newcomer_for_whom_there_is_no_room_is_not_distrusted() {
    let options = SessionOptions { unfolded_sessions_max: 4, ..SessionOptions::standard(OWN) };
    let mut session = Session::new(options, vector(0, 4), Heads::new(), Duration::ZERO, 1);
    let known = SessionId::new(OWN.get() + 1).unwrap();
    let newcomer = SessionId::new(OWN.get() + 1000).unwrap();
    let next = |prev, names: Option<Timestamp>| {
        let mut patch = PatchBuilder::new(known, prev + 1);
        if let Some(named) = names {
            patch.ins_str(named, named, "x");
        }
        patch.nop(1);
        PatchRecord::new(prev, Bytes::copy_from_slice(patch.finish().unwrap().as_bytes())).unwrap()
    };
    let asked = |outputs: &[Output]| -> Vec<(u64, Vec<Want>)> {
        let requests = outputs.iter().filter_map(|output| match output {
            Output::Send { message, .. } => match &**message {
                SyncMessage::Request { id, want, .. } => Some((*id, want.clone())),
                _ => None,
            },
            Output::Event(event) => match &**event {
                SessionEvent::Unhelpful { why, .. } => panic!("{why}"),
                _ => None,
            },
            _ => None,
        });
        requests.collect()
    };
    let (second, third) = (next(5, None), next(6, Some(Timestamp::new(newcomer, 1))));
    let has: StateVector<SessionId> =
        [(known, third.last()), (newcomer, patch(newcomer).last())].into_iter().collect();
    let requests = asked(&says(&mut session, "peer", SyncMessage::State { vector: has, reply: false }));
    assert_eq!(requests.len(), 1);
    // The page is as long as the peer likes.
    let page = SyncMessage::Patches { id: requests[0].0, records: vec![patch(newcomer)] };
    let requests = asked(&says(&mut session, "peer", page));
    let (id, want) = requests.into_iter().next().expect("it goes on with what there is room for");
    assert_eq!(want, [Want { sid: known, after: 5, upto: third.last() }]);
    let requests = asked(&says(&mut session, "peer", SyncMessage::Patches { id, records: vec![second] }));
    let (id, want) = requests.into_iter().next().expect("the next page");
    assert_eq!(want, [Want { sid: known, after: 6, upto: third.last() }]);
    // What follows the newcomer waits with it: it is not asked for again and again.
    let records = vec![third];
    assert_eq!(asked(&says(&mut session, "peer", SyncMessage::Patches { id, records: records.clone() })), []);
    assert!(!session.peer_statuses(Duration::ZERO)[0].distrusted);
    // As soon as there is room, all of it is.
    let folded = session.stored().clone();
    session.handle_input(Duration::ZERO, Input::Folded(folded));
    let outputs: Vec<Output> = std::iter::from_fn(|| session.poll_output()).collect();
    let (id, want) = asked(&outputs).into_iter().next().expect("the newcomer too");
    assert!(want.iter().any(|want| want.sid == newcomer), "{want:?}");
    let records = [vec![patch(newcomer)], records].concat();
    says(&mut session, "peer", SyncMessage::Patches { id, records });
    assert_eq!((session.status().lag_ticks, session.status().parked), (0, 0));
}

/// In a group that uses the DAG too, what follows a newcomer waits with it: no walk is made for it again and again. The same
/// of one that can never be taken in.
#[test]
fn what_a_walk_brought_and_was_refused_is_not_walked_to_at_once_again() {
    let (known, newcomer) =
        (SessionId::new(OWN.get() + 1).unwrap(), SessionId::new(OWN.get() + 1000).unwrap());
    let mut other = PatchBuilder::new(known, 3);
    other.nop(9);
    let other = Bytes::copy_from_slice(other.finish().unwrap().as_bytes());
    for refused in [patch(newcomer), PatchRecord::new(2, other).unwrap()] {
        let options =
            SessionOptions { sync: SyncMode::Dag, unfolded_sessions_max: 4, ..SessionOptions::standard(OWN) };
        let mut session = Session::new(options, vector(0, 4), Heads::new(), Duration::ZERO, 1);
        let mut follows = PatchBuilder::new(SessionId::new(OWN.get() + 2).unwrap(), 20);
        follows.nop(1);
        let follows = Bytes::copy_from_slice(follows.finish().unwrap().as_bytes());
        let follows = PatchRecord::new(5, follows).unwrap().with_links([Link::to(&refused)].into()).unwrap();
        let heads = SyncMessage::Heads { heads: vec![Link::to(&follows)], digest: 1 };
        let mut now = Duration::ZERO;
        let (mut said, mut walks, mut distrusted) = (Some(heads.clone()), Vec::new(), 0);
        // The peer says twice what it has.
        for again in [true, false] {
            while let Some(message) = said.take() {
                session.handle_input(now, Input::Message { from: PeerId::new("peer").unwrap(), message });
                for _ in 0..8 {
                    while let Some(output) = session.poll_output() {
                        match output {
                            Output::Send { message, .. } => {
                                if let SyncMessage::Walk { id, want, .. } = &*message {
                                    walks.push(want.clone());
                                    assert!(walks.len() < 8, "{walks:?}");
                                    let records = vec![refused.clone(), follows.clone()];
                                    said = Some(SyncMessage::Patches { id: *id, records });
                                }
                            }
                            Output::Event(event) => {
                                distrusted += u64::from(matches!(*event, SessionEvent::Unhelpful { .. }));
                            }
                            _ => {}
                        }
                    }
                    if said.is_some() {
                        break;
                    }
                    now += Duration::from_millis(100);
                    session.handle_input(now, Input::Tick);
                }
            }
            said = again.then(|| heads.clone());
        }
        assert_eq!((session.status().parked, distrusted), (1, 0));
        assert_eq!(walks[0], [Link::to(&follows)]);
        // Another one may come in the place of one that is forked, so each word of the peer is followed.
        assert_eq!(walks.len() == 1, refused.session() == newcomer, "{walks:?}");
    }
}

/// The same vector is held once, however many say that they have it: by a number that anybody hears, and may say under any name.
#[test]
fn who_has_the_same_as_this_replica_costs_nothing_more() {
    let stored = vector(0, 5_000);
    let options = SessionOptions::standard(OWN);
    let mut session = Session::new(options, stored.clone(), Heads::new(), Duration::ZERO, 1);
    for peer in 0..40 {
        let message = match peer % 2 {
            0 => SyncMessage::Digest { digest: digest(&stored), content: None },
            _ => SyncMessage::State { vector: stored.clone(), reply: false },
        };
        says(&mut session, &format!("peer-{peer}"), message);
    }
    assert_eq!((session.status().peers, session.status().peer_entries), (40, 5_000));
    // So all are known to have all, and it may be folded.
    assert_eq!(session.stable(), stored);
}

/// A client sends a patch once, and takes the answer for a promise.
#[test]
fn what_a_client_brought_is_not_shed_and_not_pushed_out() {
    let options = SessionOptions { storing_max: 1, parked_max: 1, ..SessionOptions::standard(OWN) };
    let mut session = session(options);
    let sid = |number| SessionId::new(OWN.get() + number).unwrap();
    for number in 1..4 {
        session.handle_input(Duration::ZERO, Input::Relayed(patch(sid(number))));
    }
    let stored = std::iter::from_fn(|| session.poll_output()).filter(|out| matches!(out, Output::Store(_)));
    assert_eq!((stored.count(), session.counters().shed), (3, 0));
    // One that waits needs a place, and if there is none the client is to be told.
    let waits = |number| {
        let mut patch = PatchBuilder::new(sid(number), 9);
        patch.nop(1);
        PatchRecord::new(5, Bytes::copy_from_slice(patch.finish().unwrap().as_bytes())).unwrap()
    };
    assert!(session.has_room_for(&waits(7)));
    session.handle_input(Duration::ZERO, Input::Relayed(waits(7)));
    assert!(!session.has_room_for(&waits(8)));
    assert!(session.has_room_for(&patch(sid(9))));
    // What peers send can be asked for again, and goes first, whichever is further ahead.
    let nearer = {
        let mut patch = PatchBuilder::new(sid(8), 7);
        patch.nop(1);
        PatchRecord::new(5, Bytes::copy_from_slice(patch.finish().unwrap().as_bytes())).unwrap()
    };
    session.handle_input(Duration::ZERO, Input::Heard(nearer));
    assert_eq!((session.status().parked, session.counters().parked_dropped), (1, 1));
    // When its cause comes it is stored, and sent to all as it would have been at once.
    let mut cause = PatchBuilder::new(sid(7), 1);
    cause.nop(5);
    let cause = Bytes::copy_from_slice(cause.finish().unwrap().as_bytes());
    for _ in 0..3 {
        session.handle_input(Duration::ZERO, Input::Stored);
    }
    session.handle_input(Duration::ZERO, Input::Heard(PatchRecord::new(0, cause).unwrap()));
    session.handle_input(Duration::ZERO, Input::Stored);
    session.handle_input(Duration::ZERO, Input::Stored);
    let sent = std::iter::from_fn(|| session.poll_output());
    let sent: Vec<Timestamp> = sent
        .filter_map(|output| match output {
            Output::Broadcast(record) => Some(record.id),
            _ => None,
        })
        .collect();
    assert!(sent.contains(&Timestamp::new(sid(7), 9)), "{sent:?}");
}

/// Patches that wait are bounded in bytes too, and one that is far above all times would use up the clock of everybody.
#[test]
fn what_waits_takes_so_many_bytes_and_is_so_far_ahead_at_the_most() {
    let long = |number: u64, time| {
        let mut patch = PatchBuilder::new(SessionId::new(OWN.get() + number).unwrap(), time);
        patch.json(&Value::from("x".repeat(1000)));
        PatchRecord::new(5, Bytes::copy_from_slice(patch.finish().unwrap().as_bytes())).unwrap()
    };
    let options = SessionOptions { parked_bytes_max: 2500, ..SessionOptions::standard(OWN) };
    let mut session = session(options);
    for number in 1..=3 {
        session.handle_input(Duration::ZERO, Input::Heard(long(number, 100 * number)));
        assert!(session.status().parked_bytes <= 2500, "{:?}", session.status());
    }
    assert_eq!((session.status().parked, session.counters().parked_dropped), (2, 1));

    let options = SessionOptions { ticks_ahead_max: 3000, ..SessionOptions::standard(OWN) };
    let session = self::session(options);
    let within = long(1, 1500);
    assert_eq!(session.refusal(&within), None);
    let beyond = long(1, 2500);
    let refused = Refusal::TooFarAhead { id: beyond.id, latest: 0, limit: 3000 };
    assert_eq!(session.refusal(&beyond), Some(refused));
}

/// It is refused before any of it is fetched, and patches are asked for instead.
#[test]
fn a_snapshot_that_is_too_large_is_not_fetched() {
    let options = SessionOptions { snapshot_bytes_max: 1000, ..SessionOptions::standard(OWN) };
    for (len_bytes, is_fetched) in [(1000, true), (1001, false)] {
        let mut session = session(options);
        let asked = says(&mut session, "peer", SyncMessage::State { vector: vector(0, 1), reply: false });
        let id = asked.iter().find_map(|output| match output {
            Output::Send { message, .. } => match **message {
                SyncMessage::Request { id, .. } => Some(id),
                _ => None,
            },
            _ => None,
        });
        let snapshot = SnapshotHead { vector: vector(0, 1), len_bytes, hash: 7, proof: Bytes::new() };
        let told = says(&mut session, "peer", SyncMessage::Offer { id: id.unwrap(), snapshot });
        let fetches = told.iter().any(|output| {
            matches!(output, Output::Send { message, .. } if matches!(**message, SyncMessage::Fetch { .. }))
        });
        let refused =
            Output::Event(SessionEvent::Refused(Refusal::SnapshotTooLarge { len_bytes, limit: 1000 }).into());
        assert_eq!((fetches, told.contains(&refused)), (is_fetched, !is_fetched), "{told:?}");
    }
}

/// As many wants as a document may have sessions, and all of them of one: each would cost the store what a session costs.
#[test]
fn a_request_names_each_session_once() {
    let mut session = session(SessionOptions::standard(OWN));
    let want = |number: u64| {
        let sid = SessionId::new(SessionId::USER_MIN.get() + number).unwrap();
        Want { sid, after: 0, upto: 9 }
    };
    let mut asks = |want: Vec<Want>| {
        let request = SyncMessage::Request { id: 1, want, bytes_max: 1 << 20, offers: true };
        let outputs = says(&mut session, "stranger", request);
        outputs.iter().any(|output| matches!(output, Output::Read { .. }))
    };
    assert!(!asks(vec![want(7); 1 << 16]), "repeated");
    assert!(!asks(vec![want(2), want(1)]), "not in order");
    assert!(asks(vec![want(1), want(2), want(7)]));
    assert_eq!(session.counters().requests_dropped, 2);
}
