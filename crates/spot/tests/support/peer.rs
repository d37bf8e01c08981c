//! A peer that a test plays by hand.

use bytes::{Bytes, BytesMut};
use spot::cluster::{
    Security,
    zmtp::{DecoderLimits, Handshake, HandshakeOptions, Properties, SocketType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Connects to a node and shakes hands, as a node of our kind if `extended` and as a founding peer if not. Whatever follows
/// is the test's to say.
pub(crate) async fn shake_hands(at: &str, extended: bool) -> TcpStream {
    let mut stream = TcpStream::connect(at.strip_prefix("tcp://").unwrap()).await.unwrap();
    let mut properties = Properties::default();
    if extended {
        properties.0.push(("X-Spot".to_owned(), Bytes::from_static(b"2")));
    }
    let limits = DecoderLimits::STANDARD;
    let options =
        HandshakeOptions { socket_type: SocketType::Dealer, security: Security::Null, properties, limits };
    let mut machine = Handshake::new(options, &[7; 96]);
    let mut buffer = BytesMut::new();
    loop {
        let done = machine.handle_input(&mut buffer).unwrap();
        while let Some(output) = machine.poll_output() {
            stream.write_all(&output).await.unwrap();
        }
        if done.is_some() {
            return stream;
        }
        assert!(stream.read_buf(&mut buffer).await.unwrap() > 0);
    }
}
