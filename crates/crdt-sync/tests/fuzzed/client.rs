//! Frames of a client over its socket: each byte in front says how long the next one is. Whatever comes, the machine
//! answers it or closes, and asks the store for one thing at a time.

use bytes::Bytes;
use crdt_core::{SessionId, StateVector};
use crdt_sync::{
    PeerId,
    gateway::{ClientInput, ClientOptions, ClientOutput, ClientSession},
};

/// Looks at any bytes. Panics where something is wrong with us.
pub(crate) fn look_at(data: &[u8]) {
    let mut machine = ClientSession::new(PeerId::new("node").unwrap(), ClientOptions::STANDARD);
    let stored: StateVector<SessionId> = [(SessionId::USER_MIN, 9)].into_iter().collect();
    machine.handle_input(ClientInput::Stored(stored));
    let mut rest = data;
    let mut reading = 0;
    while let Some((&len, tail)) = rest.split_first() {
        let (frame, tail) = tail.split_at(usize::from(len).min(tail.len()));
        rest = tail;
        machine.handle_input(ClientInput::Frame(Bytes::copy_from_slice(frame)));
        while let Some(output) = machine.poll_output() {
            match output {
                ClientOutput::Close(_) => return,
                ClientOutput::Read { .. } | ClientOutput::ReadSnapshot => reading += 1,
                _ => {}
            }
        }
        assert!(reading <= 1, "the store is asked for one thing at a time");
    }
}
