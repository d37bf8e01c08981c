//! ZMTP 3.1, the transport of ZeroMQ, as machines without IO.
//!
//! A connection begins as a [`Handshake`]: it is fed bytes, gives bytes back, and ends as [`Established`], a pair of an
//! [`Encoder`] and a [`Decoder`] that do not know each other, so that a writer and a reader need no common lock.

pub mod command;
pub mod curve;
pub mod decoder;
pub mod frame;
pub mod greeting;
pub mod handshake;

pub use command::{Command, Properties};
pub use curve::{CurveKeys, CurvePublic, CurveSecret};
pub use decoder::{Batch, Decoder, DecoderLimits, Encoder, Frame};
pub use handshake::{
    Authenticate, Credentials, Established, Handshake, HandshakeOptions, Security, SocketType,
};

/// Why a connection cannot go on. Whatever the peer sent, this is the worst that happens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ZmtpError {
    /// It does not begin like ZMTP.
    #[error("no ZMTP signature: expected ff … 7f, found {first:02x} … {tenth:02x}")]
    Signature {
        /// The first byte.
        first: u8,
        /// The tenth byte, or 0 when it had not come yet.
        tenth: u8,
    },
    /// An older protocol.
    #[error("ZMTP {major}.x: 3.0 or later is needed")]
    Version {
        /// The peer's major version.
        major: u8,
    },
    /// The two sides are set up for different security mechanisms.
    #[error("the peer's security mechanism is {theirs}, and ours is {ours}")]
    Mechanism {
        /// Ours.
        ours: &'static str,
        /// The peer's, as far as it is printable.
        theirs: String,
    },
    /// Frame flags that no version defines.
    #[error("frame flags {flags:#04x}: only more, long and command (0x07) are defined")]
    Flags {
        /// The byte.
        flags: u8,
    },
    /// A frame or a message that is too large.
    #[error("{what} of {len} bytes: at most {max} are allowed")]
    TooLarge {
        /// What was too large.
        what: &'static str,
        /// Its length in bytes.
        len: u64,
        /// The bound.
        max: u64,
    },
    /// Too many frames in a message.
    #[error("message of more than {max} frames")]
    TooManyFrames {
        /// The bound.
        max: usize,
    },
    /// A command that does not belong here, or is malformed.
    #[error("malformed {what}: {expected} expected")]
    Malformed {
        /// Which part.
        what: &'static str,
        /// What should have been there.
        expected: &'static str,
    },
    /// The peer's socket cannot talk to ours.
    #[error("socket type {theirs} does not go with {ours}")]
    SocketType {
        /// Ours.
        ours: &'static str,
        /// The peer's.
        theirs: String,
    },
    /// The peer was not let in.
    #[error("not authenticated: {reason}")]
    Denied {
        /// What was wrong, as it is told to the peer too.
        reason: String,
    },
    /// The peer did not let us in.
    #[error("refused by the peer: {reason}")]
    Refused {
        /// The peer's words.
        reason: String,
    },
    /// Something that should have opened with the agreed keys did not.
    #[error("{what} does not decrypt: the keys differ, or it was tampered with")]
    Crypto {
        /// Which part.
        what: &'static str,
    },
}
