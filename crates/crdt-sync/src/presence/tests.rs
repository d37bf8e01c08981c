//! The machine, fed and watched.

use super::*;

const OPTIONS: PresenceOptions = PresenceOptions { others_max: 3, ..PresenceOptions::STANDARD };

fn id(name: &str) -> PeerId {
    PeerId::new(name).unwrap()
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn machine(name: &str, now: f64) -> Presence {
    Presence::new(OPTIONS, id(name), 1, seconds(now), 7)
}

fn outputs(machine: &mut Presence, now: f64, input: PresenceInput) -> Vec<PresenceOutput> {
    machine.handle_input(seconds(now), input);
    std::iter::from_fn(|| machine.poll_output()).collect()
}

fn says(peer: &str, run: u64, count: u64, shown: &'static str) -> PresenceInput {
    let shown = Bytes::from_static(shown.as_bytes());
    PresenceInput::Heard(PresenceMessage { peer: id(peer), run, count, here: true, hello: false, shown })
}

fn shows(peer: &str, shown: &'static str) -> PresenceOutput {
    PresenceOutput::Shows { peer: id(peer), shown: shown.into() }
}

fn sent<'a>(outputs: &'a [PresenceOutput]) -> Vec<&'a PresenceMessage> {
    let sent = |output: &'a PresenceOutput| match output {
        PresenceOutput::Send(message) => Some(message),
        _ => None,
    };
    outputs.iter().filter_map(sent).collect()
}

#[test]
fn who_has_gone_is_not_brought_back_by_an_older_word() {
    let mut a = machine("a", 0.0);
    outputs(&mut a, 0.0, PresenceInput::Tick);
    let goodbye = |peer: &str, count| {
        let shown = Bytes::new();
        PresenceInput::Heard(PresenceMessage {
            peer: id(peer),
            run: 1,
            count,
            here: false,
            hello: false,
            shown,
        })
    };
    outputs(&mut a, 1.0, says("b", 1, 1, "x"));
    assert_eq!(outputs(&mut a, 1.1, goodbye("b", 3)), [PresenceOutput::Left(id("b"))]);
    assert_eq!(outputs(&mut a, 1.2, says("b", 1, 2, "late")), []);
    // Also of one who was not seen here: it may have been there before.
    assert_eq!(outputs(&mut a, 1.2, goodbye("c", 2)), [PresenceOutput::Left(id("c"))]);
    assert_eq!(outputs(&mut a, 1.2, goodbye("c", 2)), []);
    assert_eq!(outputs(&mut a, 1.3, says("c", 1, 1, "late")), []);
    assert_eq!(a.counters().stale, 3);
    // Who comes again is there again, and so many and no more are remembered.
    assert_eq!(outputs(&mut a, 1.4, says("b", 2, 1, "back")), [shows("b", "back")]);
    let told = (0..10).map(|number| outputs(&mut a, 1.5, goodbye(&format!("d{number}"), 1)).len());
    assert!(told.sum::<usize>() < OPTIONS.others_max);
    assert_eq!(a.parted.len(), OPTIONS.others_max);
}

#[test]
fn whoever_is_silent_for_too_long_is_gone() {
    let mut a = machine("a", 0.0);
    outputs(&mut a, 0.0, PresenceInput::Tick);
    assert_eq!(outputs(&mut a, 1.0, says("b", 1, 1, "x")), [shows("b", "x")]);
    assert_eq!(outputs(&mut a, 2.0, says("b", 1, 2, "x")), []);
    assert!(outputs(&mut a, 16.9, PresenceInput::Tick).iter().all(|o| matches!(o, PresenceOutput::Send(_))));
    assert_eq!(outputs(&mut a, 17.0, PresenceInput::Tick), [PresenceOutput::Gone(id("b"))]);
}

#[test]
fn changes_are_sent_at_a_bounded_rate_and_the_last_wins() {
    let mut a = machine("a", 0.0);
    assert!(sent(&outputs(&mut a, 0.0, PresenceInput::Tick))[0].hello);
    let mut messages = Vec::new();
    for step in 0..1000 {
        let now = 1.0 + f64::from(step) / 1000.0;
        let shown = Bytes::from(step.to_string());
        messages.extend(outputs(&mut a, now, PresenceInput::Show(shown)));
    }
    messages.extend(outputs(&mut a, 2.1, PresenceInput::Tick));
    let messages = sent(&messages);
    assert!((15..=22).contains(&messages.len()), "{}", messages.len());
    assert_eq!(messages.last().unwrap().shown, "999");
    assert!(messages.iter().all(|message| !message.hello));
}

#[test]
fn what_is_shown_again_is_repeated_once_per_interval_only() {
    let mut a = machine("a", 0.0);
    let mut count = 0;
    for step in 0..1000 {
        count += sent(&outputs(&mut a, f64::from(step) / 10.0, PresenceInput::Show("same".into()))).len();
    }
    assert!((20..=28).contains(&count), "{count} in 100 s");
}

#[test]
fn newcomers_are_greeted_soon_and_once() {
    let mut a = machine("a", 0.0);
    let mut b = machine("b", 1.0);
    outputs(&mut a, 0.0, PresenceInput::Tick);
    let hello = outputs(&mut b, 1.0, PresenceInput::Tick);
    let hello = PresenceInput::Heard(sent(&hello)[0].clone());
    assert_eq!(outputs(&mut a, 1.0, hello), [shows("b", "")]);
    assert!(a.wakes_at() <= seconds(1.0) + OPTIONS.greeting_max);
    let greeting = outputs(&mut a, 1.5, PresenceInput::Tick);
    assert!(!sent(&greeting)[0].hello);
    let heard = PresenceInput::Heard(sent(&greeting)[0].clone());
    assert_eq!(outputs(&mut b, 1.5, heard), [shows("a", "")]);
    assert!(b.wakes_at() > seconds(4.0));
}

#[test]
fn old_words_do_not_come_back_and_a_later_run_wins() {
    let mut a = machine("a", 0.0);
    outputs(&mut a, 0.0, PresenceInput::Tick);
    assert_eq!(outputs(&mut a, 0.1, says("b", 5, 2, "new")), [shows("b", "new")]);
    assert_eq!(outputs(&mut a, 0.2, says("b", 5, 1, "old")), []);
    assert_eq!(outputs(&mut a, 0.3, says("b", 4, 9, "older")), []);
    assert_eq!(outputs(&mut a, 0.4, says("b", 6, 1, "restarted")), [shows("b", "restarted")]);
    assert_eq!(a.counters().stale, 2);
}

#[test]
fn a_name_used_twice_is_noticed_by_the_earlier_one() {
    let mut a = machine("a", 0.0);
    outputs(&mut a, 0.0, PresenceInput::Tick);
    assert_eq!(outputs(&mut a, 0.1, says("a", 1, 1, "own echo")), []);
    assert_eq!(outputs(&mut a, 0.2, says("a", 2, 1, "other")), [PresenceOutput::NameTaken]);
    assert_eq!(outputs(&mut a, 0.3, says("a", 2, 2, "other")), []);
}

#[test]
fn a_crowd_costs_no_more_than_its_bound() {
    let mut a = machine("a", 0.0);
    outputs(&mut a, 0.0, PresenceInput::Tick);
    for name in ["b", "c", "d", "e", "f"] {
        outputs(&mut a, 0.1, says(name, 1, 1, ""));
    }
    assert_eq!((a.others.len(), a.expiries.len(), a.counters().crowded_out), (3, 3, 2));
    let left =
        PresenceMessage { peer: id("b"), run: 1, count: 2, here: false, hello: false, shown: Bytes::new() };
    assert_eq!(outputs(&mut a, 0.2, PresenceInput::Heard(left)), [PresenceOutput::Left(id("b"))]);
    assert_eq!(outputs(&mut a, 0.3, says("e", 1, 2, "")), [shows("e", "")]);
    let large = vec![0; OPTIONS.shown_bytes_max + 1].into();
    let message = PresenceMessage { peer: id("c"), run: 1, count: 9, here: true, hello: false, shown: large };
    assert_eq!(outputs(&mut a, 0.4, PresenceInput::Heard(message)), []);
    assert_eq!(a.counters().too_large, 1);
}

#[test]
fn leaving_is_said_once_and_is_the_last_word() {
    let mut a = machine("a", 0.0);
    outputs(&mut a, 0.0, PresenceInput::Tick);
    let left = outputs(&mut a, 1.0, PresenceInput::Leave);
    assert!(!sent(&left)[0].here);
    assert_eq!(outputs(&mut a, 2.0, PresenceInput::Leave), []);
    assert_eq!(outputs(&mut a, 100.0, PresenceInput::Tick), []);
}
