//! What peers can make a replica remember is bounded, however often they say it.

use std::time::Duration;

use crdt_core::{SessionId, StateVector};
use crdt_sync::{
    PeerId, SyncMessage,
    dag::Heads,
    session::{Input, Output, Session, SessionEvent, SessionOptions},
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
    let long = vector(0, options.sessions_max as u64);
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
