//! Snapshots that come slowly, from one or from several.

use super::*;

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
    // It would not get there with the longest time either, so it does not get more.
    assert_eq!(took, [seconds(5.0); 3]);
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

/// Twelve rounds with a peer that sends a snapshot too slowly, and after each what is done then. Returns how long it could
/// keep the machine from asking others each time.
fn rounds_of_a_slow_peer(
    machine: &mut Session,
    mut then: impl FnMut(&mut Session, Duration, u64),
) -> Vec<Duration> {
    let mut start = Duration::ZERO;
    (0..12)
        .map(|round| {
            let id = fetching(machine, start, "slow", 100 << 20);
            let took = trickle(machine, start, id, 3 << 10, seconds(2.9));
            start += took;
            then(machine, start, round);
            // Until it is asked again.
            start += seconds(60.0);
            outputs(machine, start, Input::Tick);
            took
        })
        .collect()
}

#[test]
fn a_peer_that_is_too_slow_gets_more_time_only_while_nobody_brings_anything() {
    // One whose line is slow gets twice the time at the next try, up to a bound.
    let mut alone = session(StateVector::new());
    let took = rounds_of_a_slow_peer(&mut alone, |_, _, _| {});
    assert_eq!(took[..5], [5.8, 8.7, 14.5, 26.1, 49.3].map(seconds));
    assert_eq!(took[5..], [seconds(49.3); 7]);

    // Where another one serves pages, it never keeps that one waiting for longer than the first time.
    let mut machine = session(StateVector::new());
    let took = rounds_of_a_slow_peer(&mut machine, |machine, now, round| {
        let record = patch(sid(10 + round));
        let vector = [(record.session(), record.last())].into_iter().collect();
        let request = asked(&says(machine, now, "honest", SyncMessage::State { vector, reply: false }));
        let Some((to, SyncMessage::Request { id, .. })) = request else { panic!("{request:?}") };
        assert_eq!(to, peer("honest"));
        let taken = says(machine, now, "honest", SyncMessage::Patches { id, records: vec![record.clone()] });
        assert!(taken.contains(&Output::Store(record)), "{taken:?}");
        outputs(machine, now, Input::Stored);
    });
    assert_eq!(took, [seconds(5.8); 12]);
}

/// A peer that offers a snapshot of its own, how much of it it sends at a time, and how long that takes it.
struct Sender {
    name: &'static str,
    part: u64,
    pause: Duration,
}

const SILENT: Duration = Duration::MAX;

/// How a machine came to a snapshot that several have.
#[derive(Debug, Default)]
struct Race {
    winner: &'static str,
    took: Duration,
    /// When each sender was asked for the first time.
    first_asked: BTreeMap<&'static str, Duration>,
    /// How often each was asked for a snapshot from its start.
    begun: BTreeMap<&'static str, usize>,
}

/// What a sender does with a message: its answer, and when that comes.
fn answer(
    sender: &Sender,
    hash: u64,
    len_bytes: u64,
    message: &SyncMessage,
) -> Option<(Duration, SyncMessage)> {
    match *message {
        _ if sender.pause == SILENT => None,
        SyncMessage::Request { id, .. } => {
            let vector = [(sid(1), 5)].into_iter().collect();
            let snapshot = SnapshotHead { vector, len_bytes, hash, proof: Bytes::new() };
            Some((Duration::ZERO, SyncMessage::Offer { id, snapshot }))
        }
        SyncMessage::Fetch { id, hash, offset } => {
            let bytes = Bytes::from(vec![0; sender.part.min(len_bytes - offset) as usize]);
            Some((sender.pause, SyncMessage::Part { id, hash, offset, bytes }))
        }
        _ => None,
    }
}

/// Lets a machine that hears of several senders at the same time, in this order, go on until it has a snapshot.
fn race(senders: &[Sender], len_bytes: u64) -> (Race, Session) {
    let mut machine = session(StateVector::new());
    let (mut race, mut now, mut answers) = (Race::default(), Duration::ZERO, BTreeMap::new());
    for (at, sender) in senders.iter().enumerate() {
        let vector = [(sid(1), 5)].into_iter().collect();
        answers.insert((now, at as u64), (sender.name, SyncMessage::State { vector, reply: false }));
    }
    let mut number = senders.len() as u64;
    loop {
        let wakes_at = machine.wakes_at().max(now);
        let outputs = match answers.first_entry() {
            Some(next) if next.key().0 <= wakes_at => {
                let ((at, _), (from, message)) = next.remove_entry();
                now = at;
                says(&mut machine, now, from, message)
            }
            _ => {
                now = wakes_at;
                outputs(&mut machine, now, Input::Tick)
            }
        };
        assert!(now < seconds(3600.0), "nothing is here after an hour: {race:?}");
        for output in outputs {
            match output {
                Output::Install { head, .. } => {
                    race.winner = senders[head.hash as usize].name;
                    race.took = now;
                    return (race, machine);
                }
                Output::Send { to: Some(to), message } => {
                    let hash = senders.iter().position(|sender| peer(sender.name) == to).expect("a sender");
                    let sender = &senders[hash];
                    race.first_asked.entry(sender.name).or_insert(now);
                    if let SyncMessage::Fetch { offset: 0, .. } = *message {
                        *race.begun.entry(sender.name).or_default() += 1;
                    }
                    if let Some((pause, message)) = answer(sender, hash as u64, len_bytes, &message) {
                        answers.insert((now + pause, number), (sender.name, message));
                        number += 1;
                    }
                }
                _ => {}
            }
        }
    }
}

#[test]
fn a_snapshot_at_the_least_pace_holds_nobody_up_for_longer_than_a_turn() {
    let slow = Sender { name: "slow", part: 65 << 10, pause: seconds(2.9) };
    let quick = Sender { name: "quick", part: 256 << 10, pause: seconds(1.0) };
    let (race, machine) = race(&[slow, quick], 100 << 20);
    // Alone the quick one takes 400 s, and the slow one 76 minutes.
    assert_eq!((race.winner, race.begun["quick"]), ("quick", 1), "{race:?}");
    assert!(race.first_asked["quick"] < seconds(33.0), "{race:?}");
    assert!(race.took < seconds(440.0), "{race:?}");
    // First the slow one's, then the quick one's in its place.
    assert_eq!(machine.counters().long, 2);
}

#[test]
fn a_long_snapshot_goes_on_while_others_are_asked_and_bring_nothing() {
    let only = Sender { name: "only", part: 128 << 10, pause: seconds(2.0) };
    let silent = ["a", "b", "c"].map(|name| Sender { name, part: 0, pause: SILENT });
    let senders: Vec<Sender> = [only].into_iter().chain(silent).collect();
    let (race, _) = race(&senders, 20 << 20);
    assert_eq!((race.winner, race.begun["only"]), ("only", 1), "{race:?}");
    // Its 160 parts of two seconds, and nothing for those who do not answer.
    assert_eq!(race.took, seconds(320.0), "{race:?}");
    assert!(race.first_asked["c"] < seconds(60.0), "{race:?}");
}

#[test]
fn a_long_snapshot_is_put_in_place_when_the_pull_is_free() {
    // Both are slow; the rival has the pull when the long one ends, and is given up for it.
    let long = Sender { name: "long", part: 256 << 10, pause: seconds(2.9) };
    let rival = Sender { name: "rival", part: 65 << 10, pause: seconds(2.5) };
    let (race, mut machine) = race(&[long, rival], 13 * (256 << 10));
    assert_eq!(race.winner, "long", "{race:?}");
    assert_eq!(race.took, seconds(39.4), "{race:?}");
    let vector = [(sid(1), 5)].into_iter().collect();
    outputs(&mut machine, race.took, Input::Installed { vector, heads: Heads::new(), content: Some(0) });
    assert!(!machine.status().pulling);
}
