//! What the channels to other replicas have in common.

/// What comes from a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Heard<T> {
    /// The next message.
    Message(T),
    /// Something was lost, or may have been.
    Gap {
        /// What is known of it.
        reason: String,
    },
    /// Bytes came that are no message; they were thrown away.
    Malformed {
        /// What is wrong with them.
        reason: String,
    },
}

/// Why something could not be sent. It is not sent again: whoever lacks it asks for it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The transport said no.
    #[error(transparent)]
    PubSub(#[from] spot::PubSubError),
    /// The name that a channel was to have is no topic.
    #[error(transparent)]
    Topic(#[from] spot::InvalidTopic),
    /// It can't be written in the channel's encoding.
    #[error("could not write the message: {0}")]
    Encode(#[from] crate::wire::EncodeError),
}
