//! Synchronisation by a Merkle DAG, after `go-ds-crdt`: the other way beside state vectors, chosen by
//! [`SyncMode::Dag`](crate::session::SyncMode).
//!
//! Each patch is a node named by the hash of its contents, and links to the nodes that its author knew last. Replicas
//! tell each other their [`Heads`], the few nodes that nothing follows, however many authors the document has. Who
//! lacks a head asks for it, and the answerer walks from there towards the beginning ([`Walk`]); nodes that came before
//! their parents wait, as patches before their causes always do. When a walk leads too deep, the two replicas
//! [`reconcile`](crate::reconcile) instead, and the rest is paged in from the oldest.
//!
//! What the DAG gives beyond that: two different patches at one place of a session are noticed whoever brings them, and
//! a replica's word about its heads stands for its whole history.
//!
//! Repair: a replica whose store is damaged finds by the hashes which nodes are not what they were ([`Damage`]), and has
//! its peers bring those again: [`SyncManager::repair`](crate::SyncManager::repair).
//!
//! The seam to the [session machine](crate::session) is small. A node is a [`PatchRecord`](crate::PatchRecord) with
//! links, which the machine treats like other causes; `session/heads.rs` says what to tell and what to ask for.

mod damage;
mod heads;
mod link;
pub mod snapshot;
mod walk;

pub use damage::Damage;
pub use heads::Heads;
pub use link::{Link, NodeHash};
pub use walk::Walk;

/// To how many nodes a node links at the most. Further heads stay heads until a later node follows them.
pub const LINKS_MAX: usize = 64;
