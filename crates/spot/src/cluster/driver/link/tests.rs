//! What waits for a peer, and what does not.

use super::*;

#[tokio::test]
async fn answers_to_who_does_not_read_are_left_out_beyond_their_bound() {
    let (ours, _theirs) = tokio::net::UnixStream::pair().expect("a pair of sockets");
    let io = LinkIo::new(Stream::Unix(ours).into_halves().1, Encoder::plain());
    let ping = Encoder::ping(30);
    for _ in 0..100_000 {
        io.control(&ping);
    }
    let waiting = io.write.lock().control.len();
    assert!((CONTROL_LEN_MAX - ping.len()..=CONTROL_LEN_MAX).contains(&waiting), "{waiting}");
}

/// A publisher has taken what to write to, and is stopped; when it goes on, the number is another connection's.
#[tokio::test]
async fn who_writes_late_takes_nothing_from_the_next_connection_of_the_number() {
    let node = super::super::Spot::new(super::super::SpotOptions::standard());
    let shared = node.shared();
    let info = || LinkInfo {
        role: Role::Accepted,
        name: "test".to_owned(),
        extended: true,
        pings: true,
        sealed: false,
        principal: String::new(),
        named: false,
        shown: false,
    };
    let (ours, theirs) = tokio::net::UnixStream::pair().expect("a pair of sockets");
    let late = Arc::new(LinkIo::new(Stream::Unix(ours).into_halves().1, Encoder::plain()));
    // Who has just written leaves it to a task, and here there is none.
    tokio::time::sleep(IDLE * 2).await;
    let id = shared.link_up(info(), &late).expect("the node is not closed");
    theirs.readable().await.expect("its HELLO comes");
    while theirs.try_read(&mut [0; 64]).is_ok() {}
    shared.link_closed(id, "lost");
    let next = shared.inner.lock().node.link_up(info());
    assert_eq!(next, id, "the number is used again");
    tokio::time::sleep(IDLE * 2).await;
    late.write_now(shared, id);
    assert!(theirs.try_read(&mut [0; 64]).is_err(), "the HELLO for the next one went to the last");
    assert!(shared.with(|node| node.take_outbox(id, &mut Vec::new())), "it still waits for its own");
}
