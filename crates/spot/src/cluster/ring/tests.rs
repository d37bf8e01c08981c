//! Bounds, losses and promises of a ring.

use super::*;

fn ring(messages_max: usize, bytes_max: usize) -> Ring {
    Ring::new(SubscriptionOptions { messages_max, bytes_max })
}

fn push(ring: &mut Ring, payload: &'static [u8], fit: Fit) {
    ring.push(&Topic::new("t").unwrap(), &Bytes::from_static(payload), fit);
}

fn taken(ring: &mut Ring) -> Vec<String> {
    let mut all = Taken::default();
    ring.take(usize::MAX, &mut all);
    let text = |arrival| match arrival {
        Arrival::Message { payload, .. } => payload.escape_ascii().to_string(),
        Arrival::Lagged { missed } => format!("lagged {missed}"),
        Arrival::Gap { first, last, .. } => format!("gap {first} {last:?}"),
    };
    all.map(text).collect()
}

#[test]
fn lossy_messages_never_push_out_those_of_lossless_topics() {
    let mut ring = ring(2, 100);
    push(&mut ring, b"old", Fit::Lossy);
    push(&mut ring, b"kept", Fit::Lossless);
    push(&mut ring, b"new", Fit::Lossy);
    // `old` has to go, then nothing can.
    push(&mut ring, b"newer", Fit::Lossy);
    push(&mut ring, b"newest", Fit::Lossy);
    assert_eq!(taken(&mut ring), ["lagged 1", "kept", "new", "lagged 2"]);
}

#[test]
fn a_forced_message_pushes_out_the_oldest() {
    let mut ring = ring(2, 100);
    push(&mut ring, b"1", Fit::Lossless);
    push(&mut ring, b"2", Fit::Lossless);
    push(&mut ring, b"3", Fit::Forced);
    assert_eq!(taken(&mut ring), ["lagged 1", "2", "3"]);
}

#[test]
fn what_is_promised_never_exceeds_the_bounds() {
    let mut ring = ring(1000, 1 << 20);
    let mut promised = [Amount::default(); 10];
    for round in 0..100 {
        let which = round % promised.len();
        let after = ring.share(promised.len(), promised[which]);
        ring.promise(promised[which], after);
        promised[which] = after;
        // Every second owner sends a part of what it may.
        if round % 2 == 0 {
            push(&mut ring, &[0; 100], Fit::Lossless);
            let rest = Amount { messages: after.messages - 1, bytes: after.bytes - 100 };
            ring.promise(after, rest);
            promised[which] = rest;
        }
        let messages: u64 = promised.iter().map(|p| p.messages).sum();
        let bytes: u64 = promised.iter().map(|p| p.bytes).sum();
        assert!(messages + ring.len as u64 <= 1000, "round {round}: {messages}");
        assert!(bytes + ring.bytes as u64 <= 1 << 20, "round {round}: {bytes}");
    }
}

#[test]
fn an_owner_may_always_send_one_message_when_the_ring_is_half_empty() {
    let mut ring = ring(10, 1000);
    ring.promise(Amount::default(), Amount { messages: 10, bytes: 1000 });
    assert_eq!(ring.share(2, Amount::default()), Amount { messages: 1, bytes: 0 });
    for _ in 0..6 {
        push(&mut ring, b"x", Fit::Lossless);
    }
    assert_eq!(ring.share(2, Amount::default()), Amount::default());
}

#[test]
fn few_bytes_do_not_keep_a_large_buffer() {
    let buffer = Bytes::from(vec![7; 256 << 10]);
    let (mut sparse, mut dense) = (ring(10, 1 << 20), ring(10, 1 << 20));
    sparse.slack = SLACK_MAX;
    dense.slack = SLACK_MAX - (100 << 10);
    let topic = Topic::new("t").unwrap();
    sparse.push_within(&topic, &buffer, 100..164, Fit::Lossy, true);
    sparse.push_gap(&TopicPattern::Exact(topic.clone()), 1, None);
    sparse.push_within(&topic, &buffer, 200..201, Fit::Lossy, true);
    dense.push_within(&topic, &buffer, 0..200 << 10, Fit::Lossy, true);
    for ring in [&mut sparse, &mut dense] {
        ring.settle(buffer.len());
    }
    let within = |ring: &Ring| {
        let all = buffer.as_ptr_range();
        ring.queue
            .iter()
            .filter_map(|held| match held {
                Held::Run { body, .. } => Some(all.contains(&body.as_ptr())),
                _ => None,
            })
            .collect::<Vec<_>>()
    };
    assert_eq!((within(&sparse), within(&dense)), (vec![false, false], vec![true]));
    let sevens = "\\x07".repeat(64);
    assert_eq!(taken(&mut sparse), [sevens.as_str(), "gap 1 None", "\\x07"]);
}
