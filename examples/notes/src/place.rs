//! Where replicas meet.

use std::{io, str::FromStr, sync::Arc};

use spot::{
    MemoryPubSub, PubSub, RedisOptions, RedisPubSub, Spot, SpotOptions,
    cluster::{Credentials, CurveKeys, Security, SpotError, SpotPubSub},
};

/// What `--pubsub` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// Within this program: the terminal and the windows of its page.
    Memory,
    /// A Redis server, with its address.
    Redis(String),
    /// A cluster of such programs: the addresses at which some of them can be found.
    Spot(Vec<String>),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(place: &str) -> Result<Self, String> {
        if place == "memory" {
            return Ok(Self::Memory);
        }
        if place.starts_with("rediss://") {
            return Err("rediss:// is not supported, as no TLS is built in: take redis:// over a tunnel or a private network"
                .to_owned());
        }
        if place.starts_with("redis://") {
            return Ok(Self::Redis(place.to_owned()));
        }
        let Some(list) = place.strip_prefix("spot://") else {
            return Err(
                "expected memory, redis://HOST[:PORT]/[DB] or spot://HOST:PORT[,HOST:PORT…]".to_owned()
            );
        };
        let endpoint = |address: &str| match address.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => {
                Ok(format!("tcp://{address}"))
            }
            _ => Err(format!("expected HOST:PORT, not {address:?}")),
        };
        list.trim_end_matches('/').split(',').map(endpoint).collect::<Result<_, _>>().map(Self::Spot)
    }
}

/// A place that was reached, and a sentence about it.
pub(crate) struct Met {
    pub(crate) pubsub: Arc<dyn PubSub>,
    pub(crate) how: String,
}

impl Place {
    /// Goes there; over spot:// with a key to those who have the same one. An error is one line for the user.
    pub(crate) async fn meet(&self, key: Option<CurveKeys>) -> Result<Met, String> {
        match self {
            Self::Memory | Self::Redis(_) if key.is_some() => {
                Err("--spot-key is for programs that meet over spot://".to_owned())
            }
            Self::Memory => {
                Ok(Met { pubsub: Arc::new(MemoryPubSub::new()), how: "within this program".to_owned() })
            }
            Self::Redis(url) => {
                let connected = RedisPubSub::connect(url, RedisOptions::standard()).await;
                let shown = without_password(url);
                let pubsub = connected.map_err(|error| format!("can't meet at {shown}: {error}"))?;
                Ok(Met { pubsub: Arc::new(pubsub), how: format!("at {shown}") })
            }
            Self::Spot(endpoints) => {
                let (spot, own) = join(endpoints, key).await.map_err(|error| match error {
                    SpotError::Unsafe(endpoint) => format!(
                        "can't meet at {endpoint}: it is on another machine, and over spot:// nobody has to show who \
                         they are, so programs of one machine meet there only; several machines meet with --spot-key, \
                         or over redis://"
                    ),
                    error => {
                        let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
                        format!("can't join the cluster: {error}{}", source.unwrap_or_default())
                    }
                })?;
                Ok(Met { pubsub: Arc::new(SpotPubSub::new(spot)), how: format!("in a cluster, as {own}") })
            }
        }
    }
}

/// An address as it may be shown: what is printed ends in logs and in the scroll-back of terminals.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    // A password that should have been escaped can hold a `/`, and is shown by the very error that says so: no look for the
    // authority's end, then. Where a path has an `@`, more is left out than need be.
    let shown = rest.rsplit_once('@').map_or(rest, |(_, shown)| shown);
    format!("{scheme}://{shown}")
}

/// Takes the first of the addresses that is free here, or else any port, and connects to the others: they tell of the
/// rest. The same command line works for the first program and the last.
async fn join(endpoints: &[String], key: Option<CurveKeys>) -> Result<(Spot, String), SpotError> {
    let (server, client) = key.map_or((Security::Null, Security::Null), shared);
    let spot = Spot::new(SpotOptions { server, client, ..SpotOptions::standard() });
    let mut own = None;
    for endpoint in endpoints {
        match spot.bind(endpoint).await {
            Ok(bound) => {
                own = Some(bound);
                break;
            }
            // Another program is there, or the address is another machine's: that is whom to ask.
            Err(SpotError::Io { source, .. })
                if [io::ErrorKind::AddrInUse, io::ErrorKind::AddrNotAvailable].contains(&source.kind()) => {}
            Err(error) => return Err(error),
        }
    }
    let own = match own {
        Some(own) => own,
        None => spot.bind("tcp://127.0.0.1:*").await?,
    };
    for endpoint in endpoints.iter().filter(|endpoint| **endpoint != own) {
        match spot.cluster_add(endpoint).await {
            // Whoever is not there yet is dialled again and again.
            Ok(()) | Err(SpotError::HostUnreachable { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((spot, own))
}

/// What is asked of those who come, and shown to those who are dialed, by programs with one key: whoever has it is one of them,
/// wherever gossip leads.
fn shared(keys: CurveKeys) -> (Security, Security) {
    let public = keys.public;
    let authenticate = Arc::new(move |credentials: Credentials<'_>| match credentials {
        Credentials::Curve(shown) if shown == public => Ok("notes".to_owned()),
        _ => Err("not the key of this text".to_owned()),
    });
    let server = Security::CurveServer { keys: keys.clone(), authenticate };
    (server, Security::CurveClient { keys, server: public })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_place_on_another_machine_is_refused_with_what_to_do() {
        let place: Place = "spot://192.0.2.1:7400".parse().unwrap();
        let error = place.meet(None).await.err().expect("refused");
        assert!(error.contains("192.0.2.1:7400") && error.contains("redis://"), "{error}");
        let key = Some(CurveKeys::from_secret([1; 32]));
        let error = Place::Memory.meet(key).await.err().expect("refused");
        assert!(error.contains("spot://"), "{error}");
    }

    #[tokio::test]
    async fn a_password_is_not_printed() {
        for (url, shown) in [
            ("redis://ann:secret@127.0.0.1:1/2", "redis://127.0.0.1:1/2"),
            ("redis://:sec@ret@127.0.0.1:1", "redis://127.0.0.1:1"),
            ("redis://ann:sec/r?e#t@127.0.0.1:1", "redis://127.0.0.1:1"),
            ("redis://127.0.0.1:1/", "redis://127.0.0.1:1/"),
        ] {
            assert_eq!(without_password(url), shown);
            let error = Place::Redis(url.to_owned()).meet(None).await.err().expect("nobody is there");
            assert!(error.contains(shown) && !error.contains("sec"), "{error}");
        }
    }

    #[test]
    fn places_are_read_or_refused_with_what_is_expected() {
        assert_eq!("memory".parse(), Ok(Place::Memory));
        assert_eq!("redis://h:1/2".parse(), Ok(Place::Redis("redis://h:1/2".to_owned())));
        let both = ["tcp://a:1".to_owned(), "tcp://[::1]:2".to_owned()];
        assert_eq!("spot://a:1,[::1]:2".parse(), Ok(Place::Spot(both.to_vec())));
        for (bad, why) in [
            ("mem", "expected memory"),
            ("spot://", "HOST:PORT"),
            ("spot://a:0", "\"a:0\""),
            ("rediss://a", "TLS"),
        ] {
            let error = bad.parse::<Place>().unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
