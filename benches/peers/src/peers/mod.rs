//! What each system is asked to do, in the same words.

mod automerge;
mod cola;
mod diamond;
pub mod json_joy;
mod loro;
mod weft;
mod yrs;

pub use automerge::Automerge;
pub use cola::type_in_cola;
pub use diamond::Diamond;
pub use loro::Loro;
use serde_json::Value;
pub use weft::Weft;
pub use yrs::Yrs;

/// Deletes `del` UTF-16 units at `at`, then inserts `ins` there. What is inserted lives as long as the program, a trace's in
/// one piece: so nobody is measured at finding a piece of memory for each keystroke.
#[derive(Debug, Clone, Copy)]
pub struct Edit {
    pub at: usize,
    pub del: usize,
    pub ins: &'static str,
}

impl Edit {
    pub fn insert(at: usize, ins: impl Into<String>) -> Self {
        Self { at, del: 0, ins: ins.into().leak() }
    }
}

/// Takes each message as it is made: what it keeps of it, it copies.
pub type Sink<'s> = &'s mut dyn FnMut(&[u8]);

/// A collaborative text.
pub trait Peer: Sized {
    const NAME: &'static str;

    /// An empty document of a client.
    fn new(client: u64) -> Self;
    /// Makes edits, each a transaction of its own, and hands on a message for each if someone wants them.
    fn type_all(&mut self, edits: &[Edit], sink: Option<Sink<'_>>);
    fn apply(&mut self, message: &[u8]);
    fn text(&mut self) -> String;
    /// The document as bytes that a browser or another server can read, or the only ones there are.
    fn save(&mut self) -> Vec<u8>;
    fn load(bytes: &[u8], client: u64) -> Self;
}

/// A collaborative JSON document: beside the text a list and a map.
pub trait JsonPeer: Peer {
    /// Inserts values into the list in one transaction. Returns its message.
    fn list_insert(&mut self, at: usize, values: &[Value]) -> Vec<u8>;
    /// Sets keys of the map in one transaction. Returns its message.
    fn set_all(&mut self, entries: &[(String, Value)]) -> Vec<u8>;
    fn list_len(&mut self) -> usize;
    fn map_len(&mut self) -> usize;
    /// A plain value of the map, or of the map's record at the key.
    fn get(&mut self, key: &str, field: Option<&str>) -> Option<Value>;
    /// A field of a record in the list.
    fn record_field(&mut self, at: usize, field: &str) -> Option<Value>;
}
