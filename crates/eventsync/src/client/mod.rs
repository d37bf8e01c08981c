//! The client's side as machines without IO: what it has, what it shows, what it still has to send.

mod conflict;
mod state_manager;

pub use conflict::{Conflict, ConflictResolver, Resolution, three_way_merge};
pub use state_manager::{Applied, Pending, StateManager};
