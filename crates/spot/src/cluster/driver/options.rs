//! How a node with sockets behaves, and why a call on it failed.

use std::{io, time::Duration};

use super::InvalidEndpoint;
use crate::{
    SubscriptionOptions,
    cluster::{
        command::NodeId,
        node::{NodeOptions, PublishError, TopicError},
        zmtp::Security,
    },
    topic::InvalidTopic,
};

/// How a node with sockets behaves.
#[derive(Clone)]
pub struct SpotOptions {
    /// The machine's part. `id` and `incarnation` may be chosen by [`SpotOptions::standard`].
    pub node: NodeOptions,
    /// What peers that connect to us have to show.
    pub server: Security,
    /// What we show to peers that we connect to, unless they have their own. A password is shown to endpoints that gossip
    /// brought only where [`NodeOptions::gossip_allow`] says so.
    pub client: Security,
    /// Whether `bind` may take an address that other machines reach, although nobody has to show anything.
    pub public: bool,
    /// How long a connection may take until commands flow.
    pub handshake_timeout: Duration,
    /// Strangers that may shake hands at the same time; more wait.
    pub handshakes_max: usize,
    /// The largest message from a peer, lists of topics included; more closes the connection.
    pub message_len_max: usize,
    /// Bytes of messages that have not come to their ends, of all peers together; a connection that wants more is closed.
    pub unfinished_bytes_max: usize,
    /// How long [`Spot::publish`](super::Spot::publish) waits for the owner of a remote topic.
    pub publish_timeout: Duration,
    /// How long [`Spot::cluster_add`](super::Spot::cluster_add) waits.
    pub connect_timeout: Duration,
    /// What [`Spot::recv`](super::Spot::recv) may hold.
    pub inbox: SubscriptionOptions,
    /// Speak only the founding protocol, 0x01 to 0x05, with everybody.
    pub founding_only: bool,
}

impl SpotOptions {
    /// No security, hence loopback only; five seconds of patience.
    pub fn standard() -> Self {
        let mut id = [0; 16];
        // Without randomness the clock has to do; two nodes of the same id would take each other for themselves.
        let _ = getrandom::fill(&mut id);
        #[expect(
            clippy::disallowed_methods,
            reason = "the driver reads the clock; a later life has a later one"
        )]
        let since_epoch =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let incarnation = u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX);
        Self {
            node: NodeOptions::standard(NodeId(u128::from_le_bytes(id)), incarnation),
            server: Security::Null,
            client: Security::Null,
            public: false,
            handshake_timeout: Duration::from_secs(5),
            handshakes_max: 128,
            message_len_max: 64 << 20,
            unfinished_bytes_max: 256 << 20,
            publish_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            inbox: SubscriptionOptions { messages_max: 16 << 10, bytes_max: 16 << 20 },
            founding_only: false,
        }
    }
}

/// Why a call on a node failed; the founding error number in the doc.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpotError {
    /// EEXIST: a node has one bound endpoint.
    #[error("bound to {0} already")]
    AlreadyBound(String),
    /// EEXIST.
    #[error("{0} is in the cluster already")]
    AlreadyAdded(String),
    /// ENOENT.
    #[error("{0} is not in the cluster")]
    NotAdded(String),
    /// EHOSTUNREACH. The node keeps trying.
    #[error("{endpoint} is not reached after {timeout:?}: {reason}")]
    HostUnreachable {
        /// Whom.
        endpoint: String,
        /// How long it was tried.
        timeout: Duration,
        /// What happened last.
        reason: String,
    },
    /// EACCES.
    #[error(
        "{0} can be reached by other machines, and nobody has to show who they are: set security or `public`"
    )]
    Unsafe(String),
    /// EACCES: a peer does not let this node hear it, or has no room for one more pattern.
    #[error("{peer} does not let this node subscribe to `{what}`")]
    Refused {
        /// A topic or pattern.
        what: String,
        /// Which peer.
        peer: String,
    },
    /// EINVAL.
    #[error(transparent)]
    Endpoint(#[from] InvalidEndpoint),
    /// EINVAL.
    #[error(transparent)]
    Pattern(#[from] InvalidTopic),
    /// See [`TopicError`].
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// See [`PublishError`].
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// EAGAIN.
    #[error("a bound is reached; try again later")]
    WouldBlock,
    /// ETIMEDOUT.
    #[error("timed out after {0:?}")]
    Timeout(Duration),
    /// ETERM.
    #[error("the node is closed")]
    Closed,
    /// From the operating system.
    #[error("cannot bind {endpoint}")]
    Io {
        /// Where.
        endpoint: String,
        /// What happened.
        source: io::Error,
    },
}
