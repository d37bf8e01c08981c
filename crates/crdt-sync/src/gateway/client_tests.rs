//! The machine, fed with inputs; all outputs are compared.

use crdt_core::PatchBuilder;
use proptest::prelude::*;

use super::*;

const OPTIONS: ClientOptions =
    ClientOptions { missing_ticks_max: 100, sessions_max: 2, ..ClientOptions::STANDARD };

fn sid(number: u64) -> SessionId {
    SessionId::new(SessionId::USER_MIN.get() + number).unwrap()
}

fn id(name: &str) -> PeerId {
    PeerId::new(name).unwrap()
}

fn vector(entries: &[(u64, u64)]) -> StateVector<SessionId> {
    entries.iter().map(|(number, last)| (sid(*number), *last)).collect()
}

/// A patch of one tick.
fn patch(session: SessionId, time: u64, prev: u64) -> PatchRecord {
    let mut builder = PatchBuilder::new(session, time);
    builder.new_str();
    PatchRecord::new(prev, Bytes::copy_from_slice(builder.finish().unwrap().as_bytes())).unwrap()
}

fn outputs(machine: &mut ClientSession, input: ClientInput) -> Vec<ClientOutput> {
    machine.handle_input(input);
    std::iter::from_fn(|| machine.poll_output()).collect()
}

fn state(has: &[(u64, u64)]) -> ClientInput {
    state_in(EncodingFormat::Binary, has)
}

fn state_in(format: EncodingFormat, has: &[(u64, u64)]) -> ClientInput {
    let message = SyncMessage::State { vector: vector(has), reply: true };
    ClientInput::Frame(wire::encode_sync(format, &id("window"), &message).unwrap())
}

fn brings(record: &PatchRecord) -> ClientInput {
    ClientInput::Frame(wire::encode_patch(EncodingFormat::Binary, record).unwrap())
}

fn sent(message: &SyncMessage) -> ClientOutput {
    ClientOutput::Send(wire::encode_sync(EncodingFormat::Binary, &id("node"), message).unwrap())
}

const STORE: StoreId = StoreId::new(7).unwrap();

/// The first word: of so many sessions the store has something, and it lacks this of what the client has.
fn welcome(sessions: u64, lacks: &[(u64, u64, u64)]) -> ClientOutput {
    let lacks = lacks.iter().map(|&(number, after, upto)| Want { sid: sid(number), after, upto }).collect();
    sent(&SyncMessage::Welcome { store: Some(STORE), sessions, lacks, takes_back: true })
}

fn caught_up(stored: &[(u64, u64)]) -> ClientOutput {
    sent(&SyncMessage::Digest { digest: digest(&vector(stored)), content: None })
}

fn acknowledged(entries: &[(u64, u64)]) -> ClientOutput {
    sent(&SyncMessage::State { vector: vector(entries), reply: false })
}

fn machine(stored: &[(u64, u64)]) -> ClientSession {
    let mut machine = ClientSession::new(id("node"), OPTIONS).with_store(Some(STORE));
    assert_eq!(outputs(&mut machine, ClientInput::Stored(vector(stored))), []);
    machine
}

#[test]
fn a_client_gets_what_it_lacks_page_by_page_and_then_what_is_new() {
    for format in EncodingFormat::ALL {
        let mut machine = machine(&[(1, 9)]);
        let read = |after, upto| {
            let want = vec![Want { sid: sid(1), after, upto }];
            ClientOutput::Read { want, bytes_max: OPTIONS.page_bytes_max }
        };
        let (first, second, third) = (patch(sid(1), 8, 7), patch(sid(1), 9, 8), patch(sid(1), 12, 9));
        let page = |record: &PatchRecord| SyncMessage::Patches { id: 0, records: vec![record.clone()] };
        let answers = |record: &PatchRecord| ClientInput::Page(PatchPage::Records(vec![record.clone()]));

        assert_eq!(
            outputs(&mut machine, state_in(format, &[(1, 7)])),
            [ClientOutput::Join(id("window")), welcome(1, &[]), read(7, 9)]
        );
        assert_eq!(outputs(&mut machine, answers(&first)), [sent(&page(&first)), read(8, 9)]);
        assert_eq!(outputs(&mut machine, answers(&second)), [sent(&page(&second)), caught_up(&[(1, 9)])]);
        assert_eq!(outputs(&mut machine, ClientInput::Stored(vector(&[(1, 12)]))), [read(9, 12)]);
        assert_eq!(outputs(&mut machine, answers(&third)), [sent(&page(&third))]);
        assert_eq!(outputs(&mut machine, ClientInput::Stored(vector(&[(1, 12)]))), []);
    }
}

#[test]
fn a_client_with_nothing_or_far_behind_gets_a_snapshot() {
    for (has, stored) in [(vec![], 9), (vec![(1, 7)], 200)] {
        let mut machine = machine(&[(1, stored)]);
        let asked = outputs(&mut machine, state(&has));
        assert_eq!(asked, [ClientOutput::Join(id("window")), welcome(1, &[]), ClientOutput::ReadSnapshot]);
        let bytes = Bytes::from(vec![7; OPTIONS.part_bytes_max + 5]);
        // It may contain more than the store had when it was asked for.
        let contained = vector(&[(1, stored + 1)]);
        let head = SnapshotHead::new(contained.clone(), &bytes);
        let part = |offset: usize, end: usize| {
            let bytes = bytes.slice(offset..end);
            sent(&SyncMessage::Part { id: 0, hash: head.hash, offset: offset as u64, bytes })
        };
        let sends = outputs(&mut machine, ClientInput::Snapshot { vector: contained, bytes: bytes.clone() });
        let all = [
            sent(&SyncMessage::Offer { id: 0, snapshot: head.clone() }),
            part(0, OPTIONS.part_bytes_max),
            part(OPTIONS.part_bytes_max, bytes.len()),
            caught_up(&[(1, stored + 1)]),
        ];
        assert_eq!(sends, all);
    }
}

/// A client that reads slowly costs a part at a time, and not the whole snapshot once more.
#[test]
fn the_parts_of_a_snapshot_are_made_one_by_one() {
    let mut machine = machine(&[(1, 9)]);
    outputs(&mut machine, state(&[]));
    let bytes = Bytes::from(vec![7; 10 * OPTIONS.part_bytes_max]);
    machine.handle_input(ClientInput::Snapshot { vector: vector(&[(1, 9)]), bytes });
    assert!(matches!(machine.poll_output(), Some(ClientOutput::Send(_))), "the offer");
    for part in 0..10 {
        assert_eq!(machine.outputs.len(), 0, "before part {part}");
        // What becomes durable meanwhile waits until the snapshot is there.
        machine.handle_input(ClientInput::Stored(vector(&[(1, 12)])));
        assert!(matches!(machine.poll_output(), Some(ClientOutput::Send(_))), "part {part}");
    }
    let want = vec![Want { sid: sid(1), after: 9, upto: 12 }];
    let read = ClientOutput::Read { want, bytes_max: OPTIONS.page_bytes_max };
    assert_eq!(machine.poll_output(), Some(read));
    assert_eq!(machine.poll_output(), None);
}

#[test]
fn what_is_left_in_a_snapshot_only_comes_as_one() {
    let mut machine = machine(&[(1, 9)]);
    outputs(&mut machine, state(&[(1, 7)]));
    let asked = outputs(&mut machine, ClientInput::Page(PatchPage::Compacted));
    assert_eq!(asked, [ClientOutput::ReadSnapshot]);
}

#[test]
fn a_patch_is_acknowledged_when_it_is_durable_and_again_when_it_is_repeated() {
    let mut machine = machine(&[(1, 5)]);
    let begin = [ClientOutput::Join(id("window")), welcome(1, &[]), caught_up(&[(1, 5)])];
    assert_eq!(outputs(&mut machine, state(&[(1, 5)])), begin);
    let (first, second) = (patch(sid(2), 6, 0), patch(sid(2), 7, 6));
    assert_eq!(outputs(&mut machine, brings(&first)), [ClientOutput::Relay(first.clone())]);
    assert_eq!(outputs(&mut machine, brings(&second)), [ClientOutput::Relay(second.clone())]);
    // Neither comes back to the client as news.
    assert_eq!(
        outputs(&mut machine, ClientInput::Stored(vector(&[(1, 5), (2, 6)]))),
        [acknowledged(&[(2, 6)])]
    );
    assert_eq!(
        outputs(&mut machine, ClientInput::Stored(vector(&[(1, 5), (2, 7)]))),
        [acknowledged(&[(2, 7)])]
    );
    assert_eq!(outputs(&mut machine, ClientInput::Stored(vector(&[(1, 5), (2, 7)]))), []);
    // The answer was lost, and it comes again.
    let again = outputs(&mut machine, brings(&second));
    assert_eq!(again, [ClientOutput::Relay(second), acknowledged(&[(2, 7)])]);
}

/// The store was emptied, put back or exchanged: what the client has is asked for, taken in as any patch, and acknowledged.
#[test]
fn a_client_that_has_more_than_the_store_is_told_what_is_missing() {
    let mut machine = machine(&[(1, 5), (2, 3)]);
    let begin = outputs(&mut machine, state(&[(1, 5), (2, 7), (3, 9)]));
    let lacks = [(2, 3, 7), (3, 0, 9)];
    assert_eq!(begin, [ClientOutput::Join(id("window")), welcome(2, &lacks), caught_up(&[(1, 5), (2, 3)])]);
    let back = patch(sid(2), 7, 3);
    let taken = outputs(&mut machine, brings(&back));
    assert_eq!(taken, [ClientOutput::Relay(back), acknowledged(&[(2, 3)])]);
    let stored = ClientInput::Stored(vector(&[(1, 5), (2, 7)]));
    assert_eq!(outputs(&mut machine, stored), [acknowledged(&[(2, 7)])]);
}

#[test]
fn presence_goes_both_ways() {
    let mut machine = machine(&[]);
    outputs(&mut machine, state(&[]));
    let message = |peer: &str, count, here, shown: &'static str| {
        let shown = Bytes::from_static(shown.as_bytes());
        PresenceMessage { peer: id(peer), run: 0, count, here, hello: false, shown }.encode()
    };
    let own = ClientInput::Frame(message("window", 1, true, "at 3"));
    assert_eq!(outputs(&mut machine, own), [ClientOutput::Show("at 3".into())]);
    let others = |list: &[(&str, &'static str)]| {
        ClientInput::Others(list.iter().map(|(peer, shown)| (id(peer), Bytes::from(*shown))).collect())
    };
    let told = |peer, count, here, shown| ClientOutput::Send(message(peer, count, here, shown));
    let first = outputs(&mut machine, others(&[("a", "1"), ("b", "1"), ("window", "me")]));
    assert_eq!(first, [told("a", 1, true, "1"), told("b", 2, true, "1")]);
    let then = outputs(&mut machine, others(&[("b", "2")]));
    assert_eq!(then, [told("a", 3, false, ""), told("b", 4, true, "2")]);
    let goodbye = ClientInput::Frame(message("window", 2, false, ""));
    assert_eq!(outputs(&mut machine, goodbye), [ClientOutput::Close(None)]);
}

#[test]
fn whoever_breaks_the_rules_is_told_which() {
    #[track_caller]
    fn check(inputs: &[ClientInput], expect: &str) {
        let mut machine = ClientSession::new(id("node"), OPTIONS);
        let last = inputs.iter().flat_map(|input| outputs(&mut machine, input.clone())).last();
        let Some(ClientOutput::Close(Some(trouble))) = last else { panic!("{last:?}") };
        assert!(trouble.to_string().contains(expect), "{trouble}");
    }
    let frame = |bytes: &'static [u8]| ClientInput::Frame(Bytes::from_static(bytes));
    check(&[frame(b"")], "an empty message");
    check(&[frame(b"\x09")], "can't begin with byte 0x09");
    check(&[brings(&patch(sid(1), 1, 0))], "a patch before the client's state");
    let long: Vec<_> = (0..=OPTIONS.has_max as u64).map(|number| (number, 1)).collect();
    check(&[state(&long)], "a state of 262145 sessions: at most 262144 are taken");
    check(&[state(&[]), brings(&patch(SessionId::GLOBAL, 1, 0))], "session 2 is reserved");
    check(&[state(&[]), frame(b"\x03\x01")], "ends within its run");
    let crowd: Vec<_> = (1..=3).map(|number| brings(&patch(sid(number), 1, 0))).collect();
    check(&[&[state(&[])], &crowd[..]].concat(), "more than 2 sessions");
    let digest = wire::encode_sync(
        EncodingFormat::Json,
        &id("window"),
        &SyncMessage::Digest { digest: 7, content: None },
    );
    check(&[ClientInput::Frame(digest.unwrap())], "a client sends its state, patches and presence");
    let stranger = SyncMessage::State { vector: vector(&[]), reply: true };
    let stranger = wire::encode_sync(EncodingFormat::Binary, &id("stranger"), &stranger).unwrap();
    check(&[state(&[]), ClientInput::Frame(stranger)], "another name than before");
    let hole = [
        ClientInput::Stored(vector(&[(1, 9)])),
        state(&[(1, 7)]),
        ClientInput::Page(PatchPage::Records(vec![])),
    ];
    check(&hole, "lacks patches that it says it has");
}

proptest! {
    /// What has grown says as much as all of it.
    #[test]
    fn growths_are_as_good_as_whole_vectors(
        has in prop::collection::btree_map(0_u64..6, 1_u64..20, 0..6),
        steps in prop::collection::vec((0_u64..6, 1_u64..30, any::<bool>()), 1..20),
    ) {
        let has: Vec<(u64, u64)> = has.into_iter().collect();
        let (mut whole, mut grown) = (machine(&[(1, 5)]), machine(&[(1, 5)]));
        let mut stored = vector(&[(1, 5)]);
        prop_assert_eq!(outputs(&mut whole, state(&has)), outputs(&mut grown, state(&has)));
        for (number, last, answers) in steps {
            if answers {
                let page = || ClientInput::Page(PatchPage::Records(vec![patch(sid(number), last, last - 1)]));
                prop_assert_eq!(outputs(&mut whole, page()), outputs(&mut grown, page()));
                continue;
            }
            let last = last.max(stored.get(&sid(number)));
            stored.advance(sid(number), last);
            let told = outputs(&mut whole, ClientInput::Stored(stored.clone()));
            prop_assert_eq!(told, outputs(&mut grown, ClientInput::Grown(vector(&[(number, last)]))));
        }
    }

    #[test]
    fn any_frames_are_understood_or_refused(frames in prop::collection::vec(
        (prop::sample::select(vec![1_u8, 2, 3, b'{', 0x83, 9]), prop::collection::vec(any::<u8>(), 0..80)), 0..8)
    ) {
        let mut machine = ClientSession::new(id("node"), OPTIONS);
        outputs(&mut machine, ClientInput::Stored(vector(&[(1, 9)])));
        outputs(&mut machine, state(&[(1, 9)]));
        for (tag, mut bytes) in frames {
            bytes.insert(0, tag);
            outputs(&mut machine, ClientInput::Frame(bytes.into()));
        }
    }
}

/// A store that lacks patches below its vector has nothing more to give, however often it is asked.
#[test]
fn the_same_snapshot_is_not_sent_again_and_again() {
    let mut machine = machine(&[(1, 10 * OPTIONS.missing_ticks_max)]);
    let begin = [ClientOutput::Join(id("window")), welcome(1, &[]), ClientOutput::ReadSnapshot];
    assert_eq!(outputs(&mut machine, state(&[])), begin);
    let snapshot =
        || ClientInput::Snapshot { vector: vector(&[(1, 10)]), bytes: Bytes::from_static(b"some") };
    let first = outputs(&mut machine, snapshot());
    assert_eq!(first.last(), Some(&ClientOutput::ReadSnapshot), "{first:?}");
    assert_eq!(outputs(&mut machine, snapshot()), [ClientOutput::Close(Some(ClientTrouble::Hole))]);
}

/// It would come back without the proofs and links that it had, as other patches than those of the peers. Who is not told that
/// it is gone builds on it for ever.
#[test]
fn where_patches_are_more_than_their_bytes_a_client_is_told_that_others_bring_what_was_lost() {
    let mut machine = machine(&[(1, 5)]).without_what_was_lost();
    let lacks = vec![Want { sid: sid(1), after: 5, upto: 9 }];
    let welcome = SyncMessage::Welcome { store: Some(STORE), sessions: 1, lacks, takes_back: false };
    assert!(outputs(&mut machine, state(&[(1, 9)])).contains(&sent(&welcome)));
}
