//! Where a request comes from, and what may come from there.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::{ConnectInfo, FromRequestParts, Request, State},
    http::{Extensions, HeaderMap, HeaderName, request::Parts},
    middleware::Next,
    response::Response,
};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::{
    App, HttpOptions,
    door::Peer,
    limits::{GUESTS_MAX, Limiter, Place},
    output,
};
use crate::{
    access::Principal,
    protocol::{Problem, ProblemType},
    service::{RefusedBy, SyncService},
};

/// How it is known which address a request comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ClientAddress {
    /// It is that of the connection. Requests from this very machine are not limited by it: they are of its user, or of a
    /// proxy, and of whom that is nobody has said.
    #[default]
    Connection,
    /// A proxy writes it into this header, such as `x-forwarded-for` or `x-real-ip`; of a list the last one counts, which
    /// the nearest proxy has put there. Right only where nobody can come past the proxy: else everybody may say what
    /// they like. Without the header it is that of the connection. `forwarded` (RFC 7239) is not such a header: its entries
    /// are no bare addresses.
    Header(HeaderName),
}

impl ClientAddress {
    /// What requests are counted by; `None` for those that are not.
    fn of(&self, connection: Option<IpAddr>, headers: &HeaderMap) -> Option<IpAddr> {
        let named = match self {
            Self::Connection => None,
            Self::Header(name) => headers.get_all(name).iter().next_back(),
        };
        let named = named.and_then(|value| address(value.to_str().ok()?.rsplit(',').next()?.trim()));
        named.or(connection.filter(|address| !address.to_canonical().is_loopback())).map(network)
    }
}

/// An address, perhaps with a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()))
}

/// Whoever has one address of IPv6 has all of its network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

/// The address that a request is counted by, if it is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Origin(Option<IpAddr>);

impl<S: Send + Sync> FromRequestParts<S> for Origin {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().copied().unwrap_or_default())
    }
}

fn peer(extensions: &Extensions) -> Option<IpAddr> {
    let of_door = extensions.get().map(|ConnectInfo(Peer(address))| *address);
    let address = of_door.or_else(|| extensions.get().map(|ConnectInfo(address)| *address));
    address.map(|address: SocketAddr| address.ip())
}

/// Takes a request of its address's allowance before anything else is done for it.
pub(super) async fn count(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let from = app.options.client_address.of(peer(request.extensions()), request.headers());
    let origin = Origin(from);
    if let Err(problem) = app.limits.admit(origin) {
        tracing::debug!(?from, %problem, "refused");
        return output::problem(&problem);
    }
    request.extensions_mut().insert(origin);
    next.run(request).await
}

/// What everybody has cost, by address and by principal.
pub(super) struct Limits {
    addresses: Option<Arc<Limiter<IpAddr>>>,
    principals: Option<Arc<Limiter<Arc<str>>>>,
    started: Instant,
    /// Where refusals are counted.
    service: SyncService,
}

impl Limits {
    #[expect(clippy::disallowed_methods, reason = "the driver's clock, which the limiters are told")]
    pub(super) fn new(service: &SyncService, options: &HttpOptions) -> Self {
        let addresses = options.per_address.map(|of| Arc::new(Limiter::new("address", of, GUESTS_MAX)));
        let principals = options.per_principal.map(|of| Arc::new(Limiter::new("principal", of, GUESTS_MAX)));
        Self { addresses, principals, started: Instant::now(), service: service.clone() }
    }

    fn counted<T>(&self, by: RefusedBy, answer: Result<T, Problem>) -> Result<T, Problem> {
        answer.inspect_err(|_| self.service.refusals().count(by))
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn admit(&self, Origin(origin): Origin) -> Result<(), Problem> {
        match (&self.addresses, origin) {
            (Some(limiter), Some(address)) => {
                self.counted(RefusedBy::AddressRequests, limiter.admit(&address, self.now()))
            }
            _ => Ok(()),
        }
    }

    /// Takes a request of a principal's allowance.
    pub(super) fn admit_principal(&self, principal: &Principal) -> Result<(), Problem> {
        match (&self.principals, principal.shared_name()) {
            (Some(limiter), Some(name)) => {
                self.counted(RefusedBy::PrincipalRequests, limiter.admit(name, self.now()))
            }
            _ => Ok(()),
        }
    }

    /// Takes a message that has come on a WebSocket, and says how long no more is to be read.
    pub(super) fn charge(
        &self,
        Origin(origin): Origin,
        principal: Option<&Principal>,
    ) -> Result<Duration, Problem> {
        let by_address = match (&self.addresses, origin) {
            (Some(limiter), Some(address)) => {
                self.counted(RefusedBy::AddressRequests, limiter.charge(&address, self.now()))?
            }
            _ => Duration::ZERO,
        };
        let by_name = match (&self.principals, principal.and_then(Principal::shared_name)) {
            (Some(limiter), Some(name)) => {
                self.counted(RefusedBy::PrincipalRequests, limiter.charge(name, self.now()))?
            }
            _ => Duration::ZERO,
        };
        Ok(by_address.max(by_name))
    }

    /// A place among the connections of a principal.
    pub(super) fn connect(&self, principal: &Principal) -> Result<Option<Place<Arc<str>>>, Problem> {
        match (&self.principals, principal.shared_name()) {
            (Some(limiter), Some(name)) => {
                self.counted(RefusedBy::PrincipalConnections, limiter.connect(name, self.now())).map(Some)
            }
            _ => Ok(None),
        }
    }
}

/// The places that a connection takes which stays: a WebSocket, a stream, a long poll.
pub(super) struct Room {
    _of_all: OwnedSemaphorePermit,
    _of_address: Option<Place<IpAddr>>,
    _of_principal: Option<Place<Arc<str>>>,
}

impl Room {
    /// Room for one more. Of a WebSocket the principal is not known yet.
    pub(super) fn take(
        app: &App,
        Origin(origin): Origin,
        principal: Option<&Principal>,
    ) -> Result<Self, Problem> {
        if app.service.draining().is_cancelled() {
            let problem = Problem::new(ProblemType::Unavailable, "the server goes down");
            return Err(problem.with("retryAfterMs", app.options.reconnect_after.as_millis() as u64));
        }
        let limits = &app.limits;
        let of_address = match (&limits.addresses, origin) {
            (Some(limiter), Some(address)) => {
                let place = limiter.connect(&address, limits.now());
                Some(limits.counted(RefusedBy::AddressConnections, place)?)
            }
            _ => None,
        };
        let of_principal = principal.map(|principal| limits.connect(principal)).transpose()?.flatten();
        let limit = app.options.connections_max;
        let of_all = Arc::clone(&app.connections).try_acquire_owned().map_err(|_| {
            Problem::new(ProblemType::TooMany, format!("all {limit} connections are taken"))
                .with("limit", limit)
                .with("retryAfterMs", 1000)
        });
        let of_all = limits.counted(RefusedBy::Connections, of_all)?;
        Ok(Self { _of_all: of_all, _of_address: of_address, _of_principal: of_principal })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_only_read_from_the_header_that_was_named() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-for", "198.51.100.1, 192.0.2.7:4711"),
            ("x-real-ip", "2001:db8:1:2:3:4:5:6"),
            ("x-mapped", "::ffff:192.0.2.9"),
            ("x-broken", "for=192.0.2.1"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        let from = |peer: &str| Some(peer.parse().unwrap());
        let of = |how: &ClientAddress, peer| how.of(from(peer), &headers).map(|ip| ip.to_string());
        let named = |name: &str| ClientAddress::Header(name.parse().unwrap());
        assert_eq!(of(&ClientAddress::Connection, "192.0.2.1"), Some("192.0.2.1".to_owned()));
        for near in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(of(&ClientAddress::Connection, near), None, "{near}");
        }
        for (name, expected) in [
            ("x-forwarded-for", "192.0.2.7"),
            ("x-real-ip", "2001:db8:1:2::"),
            ("x-mapped", "192.0.2.9"),
            ("x-broken", "192.0.2.1"),
            ("x-absent", "192.0.2.1"),
        ] {
            assert_eq!(of(&named(name), "192.0.2.1").as_deref(), Some(expected), "{name}");
        }
        assert_eq!(of(&named("x-absent"), "127.0.0.1"), None);
        assert_eq!(address("[2001:db8::1]:80"), address("[2001:db8::1]"));
    }
}
