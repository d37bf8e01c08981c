//! ZMTP traffic, from anyone: frames are cut the same however the bytes come in pieces.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use spot::cluster::{
    command::Command,
    zmtp::{Decoder, DecoderLimits},
};

fuzz_target!(|input: &[u8]| {
    let Some((cut, bytes)) = input.split_first() else { return };
    let limits = DecoderLimits { message_len_max: 1 << 12, frames_max: 16 };
    let mut whole = Decoder::plain(limits);
    let mut buffer = BytesMut::from(bytes);
    let at_once = whole.decode(&mut buffer).map(|batch| batch.frames.len());
    if let Ok(batch) = Decoder::plain(limits).decode(&mut BytesMut::from(bytes)) {
        for frames in batch.messages() {
            let _ = Command::decode(&batch, frames);
        }
    }
    let mut pieces = Decoder::plain(limits);
    let mut buffer = BytesMut::new();
    let mut frames = Ok(0);
    for piece in bytes.chunks(usize::from(*cut).max(1)) {
        buffer.extend_from_slice(piece);
        match pieces.decode(&mut buffer) {
            Ok(batch) => frames = frames.map(|n| n + batch.frames.len()),
            Err(error) => {
                frames = Err(error);
                break;
            }
        }
    }
    assert_eq!(at_once, frames);
});
