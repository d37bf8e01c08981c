//! Publish and subscribe by topic: one trait, several transports.
//!
//! This crate knows no documents, patches or events.

pub mod pubsub;
pub mod topic;

pub use pubsub::{
    Delivery, Message, PubSub, PubSubError, Published, Received, Subscription, SubscriptionOptions,
};
pub use topic::{InvalidTopic, Topic, TopicPattern};
