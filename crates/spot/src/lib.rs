//! Publish and subscribe by topic: one trait, several transports.
//!
//! This crate knows no documents, patches or events.

pub mod pubsub;
pub mod topic;

mod fanout;
pub mod memory;
#[cfg(feature = "redis")]
pub mod redis;
mod ring;

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
