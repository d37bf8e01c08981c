//! The client's side: machines without IO for what it has, what it shows and what it still has to send; and, with the
//! feature `client`, the driver that runs them over the network.

mod conflict;
#[cfg(feature = "client")]
mod connection;
#[cfg(feature = "client")]
mod driver;
mod record;
mod state_manager;

pub use conflict::{Conflict, ConflictResolver, Resolution, three_way_merge};
#[cfg(feature = "client")]
pub use driver::{ClientError, ClientEvent, ClientStatus, SyncClient, SyncClientOptions};
pub use record::ClientRecord;
pub use state_manager::{Applied, Pending, StateManager};
