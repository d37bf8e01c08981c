//! ZMTP handshakes of all mechanisms and sides, with anybody's bytes: established or refused, never more.

#![no_main]

use std::sync::Arc;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use spot::cluster::{
    Credentials, CurveKeys, Security,
    zmtp::{DecoderLimits, Handshake, HandshakeOptions, Properties, SocketType},
};

fuzz_target!(|input: &[u8]| {
    let Some((which, bytes)) = input.split_first() else { return };
    let authenticate = Arc::new(|_: Credentials<'_>| Ok("ann".to_owned()));
    let (server, client) = (CurveKeys::from_secret([1; 32]), CurveKeys::from_secret([2; 32]));
    let (socket_type, security) = match which % 5 {
        0 => (SocketType::Router, Security::Null),
        1 => (SocketType::Router, Security::PlainServer(authenticate)),
        2 => {
            (SocketType::Dealer, Security::PlainClient { username: "ann".into(), password: "secret".into() })
        }
        3 => (SocketType::Router, Security::CurveServer { keys: server, authenticate }),
        _ => (SocketType::Dealer, Security::CurveClient { keys: client, server: server.public }),
    };
    let options = HandshakeOptions {
        socket_type,
        security,
        properties: Properties::default(),
        limits: DecoderLimits::STANDARD,
    };
    let mut machine = Handshake::new(options, &[9; 96]);
    let mut buffer = BytesMut::from(bytes);
    let _ = machine.handle_input(&mut buffer);
    assert!(buffer.len() <= bytes.len());
});
