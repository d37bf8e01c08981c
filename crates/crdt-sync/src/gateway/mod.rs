//! Clients that are no peers: a browser that holds a replica, and reaches the others through one node.
//!
//! The client speaks the [sync wire](crate::wire) over a socket, in any encoding; json-joy reads what is in it. It says
//! what it has, gets what it lacks (a snapshot in json-joy's binary form if that is cheaper, else patches), then
//! everything that becomes durable on the node, and its own patches are acknowledged once they are. Presence goes over
//! the same socket. `docs/formats/sync-wire.md` has the order of messages.
//!
//! There is one sequence and no hand-over from history to live: the node always sends what the store has and the client
//! has not, and what is new is only a hint to look. [`ClientSession`] is the machine without IO, one for each socket;
//! [`Gateway`] runs them.

mod client;
mod driver;
mod follower;
mod growth;
mod shares;

pub use client::{ClientInput, ClientOptions, ClientOutput, ClientSession, ClientTrouble};
pub use driver::{ClientSocket, Gateway, Parting};
