//! Publish and subscribe by topic: one trait, several transports.
//!
//! ```
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use spot::{MemoryPubSub, PubSub, Received, SubscriptionOptions, Topic, TopicPattern};
//!
//! let bus = MemoryPubSub::new();
//! // Live when this returns: nothing that is published from now on is missed.
//! let mut moves = bus.subscribe(TopicPattern::new("game:*")?, SubscriptionOptions::STANDARD).await?;
//! bus.publish(&Topic::new("game:chess")?, "e2e4".into()).await?;
//!
//! match moves.recv().await {
//!     Some(Received::Message(message)) => assert_eq!(&message.payload[..], b"e2e4"),
//!     // A reader that is too slow is told how much it missed.
//!     other => panic!("{other:?}"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! This crate knows no documents, patches or events.

pub mod topic;
pub mod pubsub;
mod ring;
mod fanout;
pub mod memory;
#[cfg(feature = "redis")]
pub mod redis;
pub mod cluster;
#[cfg(feature = "conformance")]
pub mod conformance;

pub use cluster::{Spot, SpotOptions, SpotPubSub};
pub use memory::MemoryPubSub;
pub use pubsub::{
    Delivery, Message, PubSub, PubSubError, Published, Received, Subscription, SubscriptionOptions,
};
#[cfg(feature = "redis")]
pub use redis::{RedisOptions, RedisPubSub};
pub use topic::{InvalidTopic, Topic, TopicPattern};
