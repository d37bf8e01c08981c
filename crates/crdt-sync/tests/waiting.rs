//! What must not be waited for, or forgotten, for ever.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use crdt_core::{PatchBuilder, SessionId, StateVector};
use crdt_sync::{
    PatchRecord, PeerId, SyncMessage, Want,
    dag::Heads,
    presence::{Presence, PresenceInput, PresenceMessage, PresenceOptions},
    session::{Input, Output, Session, SessionEvent, SessionOptions, TrickleOptions, WAIT_MAX, digest},
};

const OWN: SessionId = SessionId::USER_MIN;

fn sid(number: u64) -> SessionId {
    SessionId::new(OWN.get() + number).unwrap()
}

/// A patch of so many ticks, behind one that ended at `prev`.
fn patch(sid: SessionId, prev: u64, span: u64) -> PatchRecord {
    let mut patch = PatchBuilder::new(sid, prev + 1);
    patch.nop(span);
    PatchRecord::new(prev, Bytes::copy_from_slice(patch.finish().unwrap().as_bytes())).unwrap()
}

fn outputs(machine: &mut Session, now: Duration, input: Input) -> Vec<Output> {
    machine.handle_input(now, input);
    std::iter::from_fn(|| machine.poll_output()).collect()
}

/// Several claim the same place of a session, and come before what they follow: all are looked at when that has come, also
/// if those that come first are refused. (Found by the simulator: one that stayed had the replica ask its peers for ever.)
#[test]
fn what_is_refused_when_it_is_released_leaves_nothing_parked() {
    for rechecks_parked in [false, true] {
        let options = SessionOptions { rechecks_parked, ..SessionOptions::standard(OWN) };
        let mut machine = Session::new(options, StateVector::new(), Heads::new(), Duration::ZERO, 1);
        let now = Duration::from_millis(1);
        // They overlap with what comes, or stand in one place.
        for early in [patch(sid(1), 5, 3), patch(sid(1), 5, 4), patch(sid(1), 10, 2), patch(sid(1), 10, 3)] {
            outputs(&mut machine, now, Input::Heard(early));
        }
        assert_eq!(machine.status().parked, 4);
        let mut released = Vec::new();
        for record in [patch(sid(1), 0, 7), patch(sid(1), 7, 3)] {
            for output in outputs(&mut machine, now, Input::Heard(record)) {
                released.extend(match output {
                    Output::Released { record, .. } => Some(record.last()),
                    _ => None,
                });
            }
        }
        assert_eq!(machine.status().parked, 0);
        let expected: &[u64] = if rechecks_parked { &[8, 9, 12, 13] } else { &[] };
        assert_eq!(released, expected);
    }
}

/// A peer has other patches under the same times, and the question for those of the own session is lost. It is asked again
/// when it says so again, and not only after the minute for which it is not reported again.
#[test]
fn a_lost_question_about_the_own_session_is_asked_again() {
    let mut machine =
        Session::new(SessionOptions::standard(OWN), StateVector::new(), Heads::new(), Duration::ZERO, 1);
    let mut at = Duration::from_millis(1);
    outputs(&mut machine, at, Input::Local(patch(OWN, 0, 5)));
    outputs(&mut machine, at, Input::Stored);
    let vector = [(OWN, 5)].into_iter().collect();
    let differs = || Input::Message {
        from: PeerId::new("peer").unwrap(),
        message: SyncMessage::Digest { digest: digest(&vector), content: Some(7) },
    };
    let (mut asked, mut reported) = (Vec::new(), 0);
    while at < Duration::from_secs(50) {
        for output in outputs(&mut machine, at, differs()) {
            match output {
                Output::Send { message, .. } => {
                    if let SyncMessage::Request { want, .. } = *message {
                        assert_eq!(want, [Want { sid: OWN, after: 4, upto: 5 }]);
                        asked.push(at);
                    }
                }
                Output::Event(event) => {
                    reported += u32::from(matches!(*event, SessionEvent::Diverged { .. }));
                }
                _ => {}
            }
        }
        at += Duration::from_secs(1);
    }
    assert!((2..8).contains(&asked.len()), "{asked:?}");
    assert_eq!(reported, 1);
}

/// Three peers say that they have less of the own session, while one of them is asked for the last patch that it has. The
/// others are asked when they speak again, and not only after a minute: one may be the only one that can still show it.
#[test]
fn each_peer_is_asked_for_its_last_patch_of_the_own_session() {
    let mut machine =
        Session::new(SessionOptions::standard(OWN), StateVector::new(), Heads::new(), Duration::ZERO, 1);
    let mut at = Duration::from_millis(1);
    for record in [patch(OWN, 0, 5), patch(OWN, 5, 4)] {
        outputs(&mut machine, at, Input::Local(record));
        outputs(&mut machine, at, Input::Stored);
    }
    let say = |name: &str, message| Input::Message { from: PeerId::new(name).unwrap(), message };
    let mut asked = BTreeSet::new();
    while at < Duration::from_secs(20) {
        let mut questions = Vec::new();
        for name in ["a", "b", "c"] {
            let vector = [(OWN, 7)].into_iter().collect();
            let state = say(name, SyncMessage::State { vector, reply: true });
            questions.extend(outputs(&mut machine, at, state).into_iter().filter_map(question));
        }
        // They have folded it.
        while let Some((peer, id, want)) = questions.pop() {
            assert_eq!(want, [Want { sid: OWN, after: 6, upto: 7 }]);
            let nothing = say(&peer, SyncMessage::Patches { id, records: Vec::new() });
            questions.extend(outputs(&mut machine, at, nothing).into_iter().filter_map(question));
            asked.insert(peer);
        }
        at += Duration::from_secs(1);
    }
    assert_eq!(asked.into_iter().collect::<Vec<_>>(), ["a", "b", "c"]);
}

/// "Never" is an option too: no time is found to be added to it that overflows.
#[test]
fn options_may_say_never() {
    let never = Duration::MAX;
    let options = SessionOptions {
        absent_max: never,
        request_timeout: never,
        settle: never,
        distrust: never,
        trickle: TrickleOptions { interval_min: never, interval_max: never, redundancy: 1 },
        ..SessionOptions::standard(OWN)
    };
    let now = Duration::from_secs(1);
    let mut machine = Session::new(options, StateVector::new(), Heads::new(), now, 1);
    let from = PeerId::new("ahead").unwrap();
    outputs(&mut machine, now, Input::PeerUp(from.clone()));
    outputs(&mut machine, now, Input::Heard(patch(sid(1), 5, 3)));
    let message = SyncMessage::State { vector: [(sid(1), 8)].into_iter().collect(), reply: false };
    outputs(&mut machine, now, Input::Message { from: from.clone(), message });
    outputs(&mut machine, now, Input::Gap);
    outputs(&mut machine, now, Input::PeerDown(from));
    let wakes_at = machine.wakes_at();
    assert!(wakes_at > now && wakes_at <= now + WAIT_MAX);
    outputs(&mut machine, wakes_at, Input::Tick);

    let options = PresenceOptions {
        interval: never,
        expiry: never,
        pause_min: never,
        greeting_max: never,
        ..PresenceOptions::STANDARD
    };
    let mut machine = Presence::new(options, PeerId::new("here").unwrap(), 1, now, 7);
    let message = PresenceMessage {
        peer: PeerId::new("there").unwrap(),
        run: 1,
        count: 1,
        here: true,
        hello: true,
        shown: Bytes::new(),
    };
    for input in [PresenceInput::Tick, PresenceInput::Heard(message), PresenceInput::Gap] {
        machine.handle_input(now, input);
    }
    assert!(machine.wakes_at() <= now + WAIT_MAX * 2);
}

fn question(output: Output) -> Option<(String, u64, Vec<Want>)> {
    let Output::Send { to: Some(peer), message } = output else { return None };
    let SyncMessage::Request { id, want, .. } = *message else { return None };
    Some((peer.to_string(), id, want))
}
