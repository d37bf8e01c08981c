//! The SPOT cluster: nodes that share their topics without a broker.
//!
//! [`zmtp`] and [`command`] are the wire; [`node`] is the machine that knows topics, owners, interest and peers; [`driver`]
//! gives it sockets, tasks and a clock, and is what an application uses: [`Spot`]. Only the driver does IO.

pub mod zmtp;

pub mod command;
pub mod record;

pub mod log;
pub mod outbox;
pub mod ring;

pub mod membership;
pub mod partition;
pub mod node;

pub mod driver;
pub mod pubsub;

pub use command::NodeId;
pub use driver::{Endpoint, Listening, Spot, SpotError, SpotOptions};
pub use membership::PeerState;
pub use node::{
    Counters, Event, LinkStatus, NodeOptions, PeerStatus, Policy, PublishError, Report, Right, Rights,
    TopicError, TopicInfo, TopicOptions, TopicOrigin,
};
pub use pubsub::SpotPubSub;
pub use ring::Arrival;
pub use zmtp::{Authenticate, Credentials, CurveKeys, CurvePublic, CurveSecret, Security};
