//! A JSON document that many can edit at once, and the identifiers, clocks and encodings that all Weft crates speak.
//!
//! ```
//! use crdt_core::{Applied, Model, SessionId, Value};
//! use serde_json::json;
//!
//! // Alice writes a note and sends it.
//! let mut alice = Model::new(SessionId::new(70_001).unwrap());
//! alice.api().root(&json!({"text": "warp"}))?;
//! let note = alice.flush().unwrap();
//! let mut bob = Model::new(SessionId::new(70_002).unwrap());
//! assert_eq!(bob.apply(&note)?, Applied::Merged);
//!
//! // Both edit at once, then each gets the other's patch.
//! alice.api().str("/text")?.ins(4, " and weft")?;
//! bob.api().str("/text")?.ins(0, "The ")?;
//! let (from_alice, from_bob) = (alice.flush().unwrap(), bob.flush().unwrap());
//! assert_eq!(alice.apply(&from_bob)?, Applied::Merged);
//! assert_eq!(bob.apply(&from_alice)?, Applied::Merged);
//!
//! assert_eq!(alice.view(), Value::from(&json!({"text": "The warp and weft"})));
//! assert_eq!(alice.view(), bob.view());
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! What else a [`Model`] does, each with an example where the link leads:
//!
//! | for | take |
//! |---|---|
//! | an editor that shows what others do | [`Model::watch`]: what changed, where, by whom, before and after |
//! | cursors, comments, selections | [`model::RelativePosition`]: beside an element, whatever is edited |
//! | undo and redo | [`Model::enable_undo`]: one's own edits, those of others stay |
//! | time travel, who wrote what | [`Model::keep_history`], [`Model::blame`] |
//! | several edits or none | [`Model::transaction`] |
//! | rich text, Quill | [`model::RichTextCursor`]: marks by the rules of Peritext; [`model::QuillEditor`], told what others do |
//! | one newcomer after another | [`Model::snapshot`]: written once, kept until the next change |
//! | counters, registers that keep all | [`model::CounterCursor`], [`model::MultiValueCursor`] |
//! | default contents | [`model::schema`]: the same first patch on every replica |
//! | a form, a file saved elsewhere | [`model::Api::update`]: few edits to a target; [`Model::apply_json_patch`] |
//! | who is here, with what selected | [`presence`]: beside the document |
//! | a part of the view | [`Model::view_at`] |
//! | a state that is shown first and edited later | [`Document::open_native`]: read when it must be |
//! | thousands of documents in memory | [`Document::share`], [`Document::to_native`] |
//!
//! Whole programs are in `examples/`: a to-do list with undo and presence (`todo`), a server of rich texts for the Quill
//! editor (`quill`), and one of ten thousand documents (`many_documents`).
//!
//! This crate knows no IO, no wall clock, no randomness and no threads: each is a parameter.

pub mod clock;
pub mod encoding;
pub mod id;
pub mod text;
pub mod value;

pub mod patch;

pub mod codec;

pub mod document;

pub mod model;

pub mod presence;

pub use clock::StateVector;
pub use document::{Applied, ApplyError, Document};
pub use encoding::{DecodeError, EncodeError, EncodingFormat, UnknownEncoding};
pub use id::{ClientId, InvalidId, SessionId, Timespan, Timestamp};
pub use model::Model;
pub use patch::{Patch, PatchBuilder, PatchRef};
pub use text::{Key, Text, Wtf8};
pub use value::Value;
