//! The topics of a node, and of others.

use std::time::Duration;

use super::{Spot, SpotError};
use crate::cluster::{
    node::{PublishError, TopicError, TopicInfo, TopicOptions, TopicOrigin},
    partition::{partition_name, partition_of},
};

impl Spot {
    /// Creates a topic that this node owns: lossless, no replay.
    pub fn topic_create(&self, id: &str) -> Result<(), SpotError> {
        self.topic_create_with(id, TopicOptions::STANDARD)
    }

    /// Creates a topic that this node owns.
    pub fn topic_create_with(&self, id: &str, options: TopicOptions) -> Result<(), SpotError> {
        Ok(self.shared().with_open(|node| node.topic_create(id, options))??)
    }

    /// Removes a topic that this node owns.
    pub fn topic_destroy(&self, id: &str) -> Result<(), SpotError> {
        Ok(self.shared().with_open(|node| node.topic_destroy(id))??)
    }

    /// Becomes a member of a topic in `count` partitions: topics `id#0`, `id#1` and so on, spread over its members, that
    /// move when members come and go. All members name the same count.
    pub fn topic_create_partitioned(&self, id: &str, count: u32) -> Result<(), SpotError> {
        self.topic_create_partitioned_with(id, count, TopicOptions::STANDARD)
    }

    /// As [`topic_create_partitioned`](Self::topic_create_partitioned); the options are those of each partition.
    pub fn topic_create_partitioned_with(
        &self,
        id: &str,
        count: u32,
        options: TopicOptions,
    ) -> Result<(), SpotError> {
        Ok(self.shared().with_open(|node| node.topic_create_partitioned(id, count, options))??)
    }

    /// Is a member no more. Returns when all that this node owned of the topic has moved, or ended with its last member.
    pub async fn topic_destroy_partitioned(&self, id: &str, timeout: Duration) -> Result<(), SpotError> {
        let shared = self.shared();
        shared.with_open(|node| node.topic_destroy_partitioned(id))??;
        let left = shared.wait(timeout, |node| (!node.is_member(id)).then_some(())).await;
        left.ok_or(SpotError::Timeout(timeout))
    }

    /// The partition that a key belongs to: all messages of a key come in order.
    pub fn partition_of(&self, id: &str, key: &[u8]) -> Result<String, SpotError> {
        let count = self.shared().with(|node| node.partition_count(id));
        let count = count.ok_or_else(|| PublishError::NotFound(id.to_owned()))?;
        Ok(partition_name(id, partition_of(key, count)))
    }

    /// Sends what is published to a topic to the node at an endpoint of the cluster, and subscribes there, whoever is known
    /// to own it: for peers that do not tell their topics.
    pub fn topic_route(&self, id: &str, endpoint: &str) -> Result<(), SpotError> {
        self.shared().with_open(|node| node.topic_route(id, endpoint))?.map_err(|error| match error {
            TopicError::NotAdded(endpoint) => SpotError::NotAdded(endpoint),
            other => other.into(),
        })
    }

    /// Ends a route. False if there was none.
    pub fn topic_unroute(&self, id: &str) -> bool {
        self.shared().with(|node| node.topic_unroute(id))
    }

    /// All topics, by name.
    pub fn list_topics(&self) -> Vec<TopicInfo> {
        let mut all = self.shared().with(|node| node.list_topics());
        all.sort_by(|a, b| a.topic.cmp(&b.topic));
        all
    }

    /// Whether anybody known owns the topic.
    pub fn topic_exists(&self, id: &str) -> bool {
        self.shared().with(|node| node.topic_origin(id)).is_some()
    }

    /// Whether this node created the topic.
    pub fn topic_is_local(&self, id: &str) -> bool {
        self.shared().with(|node| node.topic_origin(id)) == Some(TopicOrigin::Local)
    }
}
