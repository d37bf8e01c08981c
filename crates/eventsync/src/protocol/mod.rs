//! What server and clients say to each other: `docs/formats/eventsync-wire.md` in types.

mod frame;
mod message;
mod problem;

pub use frame::{FrameError, depth, read};
pub use message::{
    ClientMessage, CollectionResume, Current, DocumentResume, Limits, Push, PushOp, ServerMessage,
};
pub use problem::{Problem, ProblemType};

/// The deepest nesting of objects and arrays in a message or body.
pub const DEPTH_MAX: usize = 64;

/// The largest message or body in bytes.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// The WebSocket subprotocol with JSON in text frames.
pub const SUBPROTOCOL_JSON: &str = "eventsync.v1.json";

/// The WebSocket subprotocol with MessagePack in binary frames.
pub const SUBPROTOCOL_MESSAGE_PACK: &str = "eventsync.v1.msgpack";
