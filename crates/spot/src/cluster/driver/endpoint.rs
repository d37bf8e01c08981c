//! Where nodes are: `tcp://host:port`, `ipc://path`, `inproc://name`.

use std::{fmt, path::PathBuf, str::FromStr};

/// An address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// Between machines: host (a name, an address, or `*` for all) and port.
    Tcp(String, u16),
    /// Between processes of a machine.
    Ipc(PathBuf),
    /// Within a process.
    Inproc(String),
}

/// What an endpoint should look like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("endpoint `{0}`: expected tcp://host:port, ipc://path or inproc://name")]
pub struct InvalidEndpoint(pub String);

impl Endpoint {
    /// Whether it stands for all addresses of a machine: a place to listen at, but none to be reached at by others.
    pub fn is_everywhere(&self) -> bool {
        let Self::Tcp(host, _) = self else { return false };
        host == "*" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_unspecified())
    }
}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let bad = || InvalidEndpoint(text.to_owned());
        let (scheme, rest) = text.split_once("://").filter(|(_, rest)| !rest.is_empty()).ok_or_else(bad)?;
        match scheme {
            "tcp" => {
                let (host, port) = rest.rsplit_once(':').ok_or_else(bad)?;
                let port = if port == "*" { 0 } else { port.parse().map_err(|_| bad())? };
                let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
                if host.is_empty() {
                    return Err(bad());
                }
                Ok(Self::Tcp(host.to_owned(), port))
            }
            "ipc" => Ok(Self::Ipc(rest.into())),
            "inproc" => Ok(Self::Inproc(rest.to_owned())),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "tcp://{host}:{port}"),
            Self::Ipc(path) => write!(f, "ipc://{}", path.display()),
            Self::Inproc(name) => write!(f, "inproc://{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_addresses_are_none_to_be_reached_at() {
        let everywhere = |text: &str| text.parse::<Endpoint>().unwrap().is_everywhere();
        assert!(["tcp://*:1", "tcp://0.0.0.0:1", "tcp://[::]:1"].iter().all(|text| everywhere(text)));
        let others = ["tcp://127.0.0.1:1", "tcp://[::1]:1", "tcp://host:1", "ipc:///*", "inproc://*"];
        assert!(!others.iter().any(|text| everywhere(text)));
    }

    #[test]
    fn endpoints_are_read_as_written() {
        for text in ["tcp://127.0.0.1:5555", "tcp://[::1]:5555", "tcp://*:5555", "ipc:///tmp/x", "inproc://x"]
        {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for text in ["", "tcp://", "tcp://host", "tcp://host:x", "udp://host:1", "tcp://:1"] {
            assert_eq!(text.parse::<Endpoint>(), Err(InvalidEndpoint(text.into())));
        }
    }
}
