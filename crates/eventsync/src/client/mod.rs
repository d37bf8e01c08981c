//! The client's side: machines without IO for what it has, what it shows and what it still has to send; and, with the
//! feature `client`, the driver that runs them over the network.

mod conflict;
#[cfg(feature = "client")]
mod connection;
mod record;
#[cfg(feature = "client")]
mod shared;
mod state_manager;
#[cfg(feature = "client")]
mod sync_client;
#[cfg(feature = "client")]
mod talk;

pub use conflict::{Conflict, ConflictResolver, Resolution, three_way_merge};
pub use record::ClientRecord;
pub use state_manager::{Applied, HeldWrite, Pending, Rejected, StateManager};
#[cfg(feature = "client")]
pub use sync_client::{ClientError, ClientEvent, ClientStatus, SyncClient, SyncClientOptions};
