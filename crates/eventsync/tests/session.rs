//! The session machine: messages and times in, all outputs compared.

use std::{sync::Arc, time::Duration};

use crdt_core::{ClientId, EncodingFormat};
use eventsync::{
    Event, EventPage, FeedItem, ProblemType, Resume, Scope,
    access::{Grant, Principal},
    broker::{Delivery, Presence},
    feed::{FeedInput, FeedOutput, Located},
    protocol::ServerMessage,
    service::Written,
    session::{
        HELD_BYTES_MAX, HELLO_MAX, PING_EVERY, PUSHES_MAX, QUESTIONS_MAX, Session, SessionInput,
        SessionOutput, close,
    },
};
use nodestorage::{Body, Change, Diff, DocumentId, Operation, Producer};
use proptest::prelude::*;
use serde_json::json;

fn id(id: &str) -> DocumentId {
    DocumentId::new(id).unwrap()
}

fn event(version: u64) -> Event {
    let body = |n: u64| json!({"n": n}).as_object().unwrap().clone();
    let before = (version > 1).then(|| body(version - 1));
    Event::new(Arc::new(Change {
        document_id: id("go"),
        version,
        position: version,
        operation: if version == 1 { Operation::Create } else { Operation::Update },
        diff: Diff::between(before.as_ref(), Some(&body(version)), version),
        timestamp_ms: 0,
        producer: Producer { client_id: ClientId::new("w").unwrap(), sequence: Some(version) },
        metadata: Body::new(),
    }))
}

struct Test {
    session: Session,
    now: Duration,
}

impl Test {
    fn new() -> Self {
        Self { session: Session::new(EncodingFormat::Json, None), now: Duration::ZERO }
    }

    fn hello(documents: serde_json::Value) -> Self {
        let mut test = Self::new();
        let outputs = test.text(json!({"type": "hello", "clientId": "c", "documents": documents}));
        assert!(matches!(&outputs[0], SessionOutput::Send(ServerMessage::Welcome { .. })));
        test
    }

    fn input(&mut self, input: SessionInput<'_>) -> Vec<SessionOutput> {
        self.session.handle_input(input, self.now, 0);
        std::iter::from_fn(|| self.session.poll_output()).collect()
    }

    fn text(&mut self, message: serde_json::Value) -> Vec<SessionOutput> {
        self.input(SessionInput::Text(&message.to_string()))
    }

    fn after(&mut self, time: Duration) -> Vec<SessionOutput> {
        self.now += time;
        self.input(SessionInput::Time)
    }
}

fn closes(outputs: &[SessionOutput], with: u16) {
    assert!(
        matches!(outputs.last(), Some(SessionOutput::Close { code, .. }) if *code == with),
        "{outputs:?}"
    );
}

#[test]
fn a_client_that_says_nothing_is_let_go() {
    let mut test = Test::new();
    assert_eq!(test.after(HELLO_MAX - Duration::from_millis(1)), []);
    closes(&test.after(Duration::from_millis(1)), close::HELLO_TIMEOUT);
    assert!(test.session.is_closed());
}

#[test]
fn a_client_that_misses_two_pings_is_let_go_and_any_sign_of_life_counts() {
    let mut test = Test::hello(json!({}));
    assert_eq!(test.after(PING_EVERY), [SessionOutput::Ping]);
    assert_eq!(test.after(PING_EVERY), [SessionOutput::Ping]);
    assert_eq!(test.input(SessionInput::Alive), []);
    assert_eq!(test.after(PING_EVERY), [SessionOutput::Ping]);
    assert_eq!(test.after(PING_EVERY), [SessionOutput::Ping]);
    closes(&test.after(PING_EVERY), close::AWAY);
}

#[test]
fn a_document_is_subscribed_before_its_history_is_read() {
    let mut test = Test::new();
    let outputs = test.text(json!({"type": "hello", "clientId": "c", "documents": {"go": {"cursor": 1}}}));
    let scope = Scope::Document(id("go"));
    assert_eq!(outputs[1], SessionOutput::Subscribe(scope.clone()));
    assert_eq!(outputs[2], SessionOutput::Greet(id("go")));
    let SessionOutput::Ask { feed, question: FeedOutput::Locate(Resume::After(1)), .. } = outputs[3] else {
        panic!("{outputs:?}")
    };
    // An event that is committed before the history is read is in the history, and sent once.
    assert_eq!(test.input(SessionInput::Delivery(eventsync::broker::Delivery::Document(event(2)))), []);
    let located = FeedInput::Located(Located::After { cursor: 1, skip: None });
    let asked = test.input(SessionInput::Answer { feed, answer: Ok(located) });
    assert!(matches!(asked[..], [SessionOutput::Ask { question: FeedOutput::Read { after: 1, .. }, .. }]));
    let page = EventPage { events: vec![event(2), event(3)], cursor: 3, more: false, gap: false };
    let sent = test.input(SessionInput::Answer { feed, answer: Ok(FeedInput::Page(page)) });
    let item = |item| SessionOutput::Send(ServerMessage::Feed { scope: scope.clone(), item });
    assert_eq!(sent, [item(FeedItem::Events(vec![event(2), event(3)])), item(FeedItem::Live { cursor: 3 })]);
    assert_eq!(test.input(SessionInput::Delivery(eventsync::broker::Delivery::Document(event(3)))), []);
    let live = test.input(SessionInput::Delivery(eventsync::broker::Delivery::Document(event(4))));
    assert_eq!(live, [item(FeedItem::Events(vec![event(4)]))]);
}

#[test]
fn an_answer_to_a_feed_that_is_gone_is_nothing() {
    let mut test = Test::hello(json!({"go": {"cursor": 0}}));
    let gone = test.text(json!({"type": "unsubscribe", "documents": ["go"]}));
    assert_eq!(gone, [SessionOutput::Unsubscribe(Scope::Document(id("go")))]);
    let page = EventPage { events: vec![event(1)], cursor: 1, more: false, gap: false };
    assert_eq!(test.input(SessionInput::Answer { feed: 1, answer: Ok(FeedInput::Page(page)) }), []);
}

/// A mailbox that overflows throws presence away with the events, and no log has it.
#[test]
fn who_shows_something_is_compared_after_a_lag() {
    let mut test = Test::hello(json!({"go": {"cursor": 0}}));
    let shows = |name: &str, data: serde_json::Value| {
        Arc::new(Presence { document_id: id("go"), client_id: ClientId::new(name).unwrap(), data })
    };
    let sent = |presence: &Arc<Presence>| SessionOutput::Send(ServerMessage::Presence(Arc::clone(presence)));
    let (stays, goes, moves) = (shows("a", json!(1)), shows("b", json!(1)), shows("c", json!(1)));
    let shown = vec![Arc::clone(&stays), Arc::clone(&goes)];
    let greeted = test.input(SessionInput::Shown { document: id("go"), shown });
    assert_eq!(greeted, [sent(&stays), sent(&goes)]);
    assert_eq!(test.input(SessionInput::Delivery(Delivery::Presence(Arc::clone(&moves)))), [sent(&moves)]);

    let lagged = test.input(SessionInput::Delivery(Delivery::Lagged));
    assert!(lagged.contains(&SessionOutput::Greet(id("go"))), "{lagged:?}");
    let (moved, comes) = (shows("c", json!(2)), shows("d", json!(1)));
    let shown = vec![Arc::clone(&comes), stays, Arc::clone(&moved)];
    let told = test.input(SessionInput::Shown { document: id("go"), shown });
    assert_eq!(told, [sent(&shows("b", json!(null))), sent(&moved), sent(&comes)]);

    // What was asked before is nothing after.
    test.text(json!({"type": "unsubscribe", "documents": ["go"]}));
    assert_eq!(test.input(SessionInput::Shown { document: id("go"), shown: vec![comes] }), []);
}

#[test]
fn questions_wait_for_their_turn() {
    let documents: serde_json::Map<_, _> = (0..20).map(|n| (format!("d{n}"), json!({"cursor": 0}))).collect();
    let mut test = Test::new();
    let asks = |outputs: &[SessionOutput]| {
        outputs.iter().filter(|output| matches!(output, SessionOutput::Ask { .. })).count()
    };
    let outputs = test.text(json!({"type": "hello", "clientId": "c", "documents": documents}));
    assert_eq!(asks(&outputs), QUESTIONS_MAX);
    let located = FeedInput::Located(Located::After { cursor: 0, skip: None });
    assert_eq!(asks(&test.input(SessionInput::Answer { feed: 1, answer: Ok(located) })), 1);
}

#[test]
fn pushes_of_one_document_go_one_after_the_other_and_fill_up() {
    let mut test = Test::hello(json!({}));
    let push = |document: &str, count: usize| json!({"type": "push", "documentId": document, "clientSeq": count, "op": "delete"});
    let writes = |outputs: &[SessionOutput]| {
        outputs.iter().filter(|output| matches!(output, SessionOutput::Write { .. })).count()
    };
    assert_eq!(writes(&test.text(push("a", 1))), 1);
    assert_eq!(writes(&test.text(push("a", 2))), 0);
    assert_eq!(writes(&test.text(push("b", 1))), 1);
    for count in 3..PUSHES_MAX {
        assert!(test.session.wants_frames());
        test.text(push("a", count));
    }
    assert!(!test.session.wants_frames(), "full");
    let written = Written { version: 1, document: None, created: false, changed: true, repeated: false };
    let answered = SessionInput::Written { document: id("a"), client_seq: Some(1), result: Ok(written) };
    let outputs = test.input(answered);
    assert!(matches!(outputs[0], SessionOutput::Send(ServerMessage::Pushed { client_seq: Some(1), .. })));
    assert!(matches!(&outputs[1], SessionOutput::Write { push, .. } if push.client_seq == Some(2)));
    assert!(test.session.wants_frames());
}

/// Sixty-four pushes may be as many megabytes.
#[test]
fn no_more_is_read_while_large_pushes_are_under_way() {
    let mut test = Test::hello(json!({}));
    let text = "x".repeat(1 << 20);
    let push = |count: u64| {
        let state = json!({"text": text});
        json!({"type": "push", "documentId": "a", "clientSeq": count, "op": "replace", "state": state})
    };
    let mut count = 0;
    while test.session.wants_frames() {
        count += 1;
        test.text(push(count));
        assert!(count < PUSHES_MAX as u64, "many megabytes are held");
    }
    assert!((HELD_BYTES_MAX..HELD_BYTES_MAX + (2 << 20)).contains(&(count as usize * text.len())), "{count}");
    for answered in 1..=count {
        let written = Written { version: 1, document: None, created: false, changed: true, repeated: false };
        let client_seq = Some(answered);
        let outputs =
            test.input(SessionInput::Written { document: id("a"), client_seq, result: Ok(written) });
        let next = outputs.iter().find_map(|output| match output {
            SessionOutput::Write { push, .. } => push.client_seq,
            _ => None,
        });
        assert_eq!(next, (answered < count).then_some(answered + 1));
        assert!(test.session.wants_frames());
    }
}

/// The same for what many readers say that they have.
#[test]
fn no_more_is_read_while_large_vectors_are_under_way() {
    let mut test = Test::hello(json!({}));
    let vector: serde_json::Map<_, _> =
        (0..1000).map(|n| (format!("{n:0>100}"), serde_json::Value::from(1))).collect();
    let mut feeds = 0;
    while test.session.wants_frames() {
        let documents = json!({ format!("d{feeds}"): {"stateVector": vector} });
        test.text(json!({"type": "subscribe", "documents": documents}));
        feeds += 1;
        assert!(feeds < 200, "many megabytes are held");
    }
    // One that is live has let go of it, and so has one that is followed no more.
    test.text(json!({"type": "unsubscribe", "documents": ["d9"]}));
    assert!(test.session.wants_frames());
    let again = json!({"d9": {"stateVector": vector}});
    test.text(json!({"type": "subscribe", "documents": again}));
    assert!(!test.session.wants_frames());
    let located = FeedInput::Located(Located::After { cursor: 0, skip: None });
    let page = || EventPage { events: vec![], cursor: 0, more: false, gap: false };
    test.input(SessionInput::Answer { feed: 1, answer: Ok(located) });
    assert!(!test.session.wants_frames());
    test.input(SessionInput::Answer { feed: 1, answer: Ok(FeedInput::Page(page())) });
    assert!(test.session.wants_frames());
}

/// Some may wait in the mailbox of who follows the document no more.
#[test]
fn presence_on_what_is_not_followed_is_told_to_nobody() {
    let mut test = Test::hello(json!({"go": {"cursor": 0}}));
    let client_id = ClientId::new("ann").unwrap();
    let shown = Arc::new(Presence { document_id: id("go"), client_id, data: json!(1) });
    let delivery = || SessionInput::Delivery(Delivery::Presence(Arc::clone(&shown)));
    assert_eq!(test.input(delivery()).len(), 1);
    test.text(json!({"type": "unsubscribe", "documents": ["go"]}));
    assert_eq!(test.input(delivery()), []);
    // And nothing of it is left when the document is followed again: what is shown then is told.
    test.text(json!({"type": "subscribe", "documents": {"go": {"cursor": 0}}}));
    let told = test.input(SessionInput::Shown { document: id("go"), shown: vec![] });
    assert_eq!(told, []);
}

#[test]
fn who_finds_no_room_to_show_itself_is_told() {
    let mut test = Test::hello(json!({"go": {"cursor": 0}}));
    test.text(json!({"type": "presence", "documentId": "go", "data": {"at": 3}}));
    let told = test.input(SessionInput::NotShown(id("go")));
    let [SessionOutput::Send(ServerMessage::Error { problem, document_id })] = &told[..] else {
        panic!("{told:?}")
    };
    assert!(problem.is(ProblemType::TooMany) && *document_id == Some(id("go")), "{problem}");
}

#[test]
fn a_goodbye_waits_for_the_answers_that_are_under_way() {
    let mut test = Test::hello(json!({}));
    test.text(json!({"type": "push", "documentId": "a", "clientSeq": 1, "op": "delete"}));
    let drain = SessionInput::Drain { reconnect_after: Duration::from_millis(500) };
    let outputs = test.input(drain);
    assert_eq!(outputs, [SessionOutput::Send(ServerMessage::Drain { reconnect_after_ms: 500 })]);
    assert!(!test.session.wants_frames());
    let written = Written { version: 1, document: None, created: false, changed: true, repeated: false };
    let answered = SessionInput::Written { document: id("a"), client_seq: Some(1), result: Ok(written) };
    closes(&test.input(answered), close::RESTART);
}

#[test]
fn the_reason_of_a_close_fits_into_its_frame() {
    let mut test = Test::new();
    let name = "é".repeat(200);
    let outputs = test.text(json!({"type": name}));
    let Some(SessionOutput::Close { reason, .. }) = outputs.last() else { panic!("{outputs:?}") };
    assert!(reason.len() <= 123);
}

const VALID: &[&str] = &[
    r#"{"type":"hello","clientId":"c","documents":{"go":{"cursor":3},"b":{"stateVector":{"x":1}}},"collection":{}}"#,
    r#"{"type":"subscribe","documents":{"go":{}},"collection":{"cursor":7}}"#,
    r#"{"type":"unsubscribe","documents":["go"],"collection":true}"#,
    r#"{"type":"push","documentId":"go","clientSeq":1,"baseVersion":0,"op":"create","state":{"name":"x"}}"#,
    r#"{"type":"push","documentId":"go","op":"patch","patch":[{"op":"add","path":"/a","value":1}]}"#,
    r#"{"type":"presence","documentId":"go","data":{"at":3}}"#,
    r#"{"type":"ack","documentId":"go","cursor":0}"#,
    r#"{"type":"ping","id":1}"#,
];

proptest! {
    /// Bytes from outside make outputs or a close, and nothing else.
    #[test]
    fn arbitrary_bytes_never_panic(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..4)) {
        let mut packed = Test { session: Session::new(EncodingFormat::MessagePack, None), now: Duration::ZERO };
        let mut text = Test::new();
        for frame in frames {
            packed.input(SessionInput::Binary(&frame));
            text.input(SessionInput::Text(&String::from_utf8_lossy(&frame)));
        }
    }

    #[test]
    fn mutated_messages_never_panic(
        which in prop::collection::vec((0..VALID.len(), any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..6)
    ) {
        let mut packed = Test { session: Session::new(EncodingFormat::MessagePack, None), now: Duration::ZERO };
        let mut text = Test::new();
        for (message, at, byte, mutate) in which {
            let mut bytes = VALID[message].as_bytes().to_vec();
            let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            let mut binary = rmp_serde::to_vec_named(&value).unwrap();
            if mutate {
                let (a, b) = (at.index(bytes.len()), at.index(binary.len()));
                bytes[a] = byte;
                binary[b] = byte;
            }
            packed.input(SessionInput::Binary(&binary));
            text.input(SessionInput::Text(&String::from_utf8_lossy(&bytes)));
        }
    }
}

#[test]
fn a_guarded_session_does_nothing_before_it_is_known() {
    let mut test = Test { session: Session::new(EncodingFormat::Json, None).guarded(), now: Duration::ZERO };
    let asked =
        test.text(json!({"type": "hello", "clientId": "ann/c", "token": "t", "documents": {"go": {}}}));
    assert_eq!(asked, [SessionOutput::Authorize { token: Some("t".into()) }]);
    assert!(!test.session.wants_frames(), "what comes meanwhile stays where it is");
    let ann = Principal::new("ann", vec![Grant::everything()], Some(60_000)).unwrap();
    let outputs = test.input(SessionInput::Authorized(Ok(ann)));
    assert!(matches!(
        &outputs[0],
        SessionOutput::Send(ServerMessage::Welcome { expires_at: Some(60_000), .. })
    ));
    assert_eq!(outputs[1], SessionOutput::Subscribe(Scope::Document(id("go"))));
    assert!(test.session.wants_frames());
    // The pings of a minute are answered; at its end the token is.
    for _ in 0..2 {
        assert_eq!(test.after(PING_EVERY), [SessionOutput::Ping]);
        test.input(SessionInput::Alive);
    }
    assert_eq!(test.session.deadline(), Duration::from_secs(60));
    closes(&test.after(Duration::from_secs(10)), close::NOT_AUTHENTICATED);
}

#[test]
fn a_session_that_nobody_answers_for_is_let_go() {
    let mut test = Test { session: Session::new(EncodingFormat::Json, None).guarded(), now: Duration::ZERO };
    test.text(json!({"type": "hello", "clientId": "ann/c", "token": "t"}));
    closes(&test.after(HELLO_MAX), close::HELLO_TIMEOUT);
    assert_eq!(test.input(SessionInput::Authorized(Ok(Principal::anyone()))), []);
}

#[test]
fn a_token_without_presence_takes_back_what_was_shown() {
    let mut test = Test { session: Session::new(EncodingFormat::Json, None).guarded(), now: Duration::ZERO };
    test.text(json!({"type": "hello", "clientId": "ann/c", "token": "t", "documents": {"go": {}}}));
    let ann = |rights: serde_json::Value| {
        let grant = json!({"documents": "*", "rights": rights});
        Ok(Principal::new("ann", vec![serde_json::from_value(grant).unwrap()], None).unwrap())
    };
    test.input(SessionInput::Authorized(ann(json!(["read", "presence"]))));
    let shown = test.text(json!({"type": "presence", "documentId": "go", "data": {"at": 3}}));
    assert!(matches!(&shown[..], [SessionOutput::Show { data: Some(_), .. }]), "{shown:?}");
    test.text(json!({"type": "authenticate", "token": "u"}));
    let outputs = test.input(SessionInput::Authorized(ann(json!(["read"]))));
    let client = ClientId::new("ann/c").unwrap();
    let taken_back = SessionOutput::Show { client, document: id("go"), data: None };
    assert_eq!(outputs[1..], [taken_back]);
}

#[test]
fn one_new_token_is_looked_at_at_a_time() {
    let mut test = Test { session: Session::new(EncodingFormat::Json, None).guarded(), now: Duration::ZERO };
    test.text(json!({"type": "hello", "clientId": "ann/c", "token": "t"}));
    let ann = || Ok(Principal::new("ann", vec![], None).unwrap());
    test.input(SessionInput::Authorized(ann()));
    let renew = |test: &mut Test| test.text(json!({"type": "authenticate", "token": "u"}));
    assert_eq!(renew(&mut test), [SessionOutput::Authorize { token: Some("u".into()) }]);
    let authenticated = SessionOutput::Send(ServerMessage::Authenticated { expires_at: None });
    assert_eq!(test.input(SessionInput::Authorized(ann())), [authenticated]);
    renew(&mut test);
    closes(&renew(&mut test), close::POLICY);
}
