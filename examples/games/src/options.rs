//! The command line.

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf, time::Duration};

use axum::http::HeaderName;
use clap::Parser;
use eventsync::{
    EventCompactor, SnapshotPolicy,
    http::{Allowance, ClientAddress},
};

/// Games edited in several browsers at once.
///
/// Open the printed address in two windows: what you change in one appears in the other. Everything is kept in one
/// folder. The program can be killed at any moment; whatever it confirmed is there when it starts again.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
Examples:
  games                                    http://127.0.0.1:8080, data in ./weft-data
  games --listen 127.0.0.1:0               a free port, printed when ready
  games --data /var/lib/games --log warn   another folder, less to read
  games --store mongodb://db/games         in a MongoDB database, which several of these can share
  games --cache redis://127.0.0.1          games that were read are kept in Redis
  games --store mongodb://db/games --wake redis://cache
                                           and these wake each other by way of Redis
  games --listen 0.0.0.0:8080 --jwt-secret FILE
                                           for others too, who show a token
  games --jwt-secret FILE --make-token me  such a token; open the page with #token=… behind its address
  games --snapshot-age 10m --keep-events 1000 --keep-age 90d
                                           a shorter history, by number and age
  RUST_LOG=eventsync=debug games           more to read

Press ctrl-c, or send SIGTERM, to stop: requests under way are answered, clients are told to come back."
)]
pub(crate) struct Options {
    /// Address and port to serve on; port 0 takes a free one.
    ///
    /// One that other machines can reach needs `--jwt-secret` or `--jwks`, or `--open`.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,

    /// Folder for the games and their history; made if it is not there.
    #[arg(long, value_name = "DIR", default_value = "./weft-data")]
    pub(crate) data: PathBuf,

    /// Keep everything in this MongoDB database instead of a folder: a URI that names the database.
    ///
    /// Any number of these programs can share one database; what is written through one is seen by the clients of all.
    #[arg(long, value_name = "URI", conflicts_with = "data", value_parser = mongodb_uri)]
    pub(crate) store: Option<String>,

    /// What keeps games that were read, so that they are not read again: `memory`, `none`, or a `redis://` URI.
    ///
    /// In a folder it is `memory` if nothing is said. Over a database it is `none`: with a cache, what another program
    /// has written shows a moment later, when the database has told of it.
    #[arg(long, value_name = "CACHE", value_parser = cache)]
    pub(crate) cache: Option<Cache>,

    /// A Redis server over which the programs that share a database wake each other at each write.
    ///
    /// Without it each finds the others' writes by what the database tells, which takes a little longer, or by looking now
    /// and then where it tells nothing. Nothing is lost when Redis is away, and no game goes over it.
    #[arg(long, value_name = "URL", requires = "store", value_parser = redis_url)]
    pub(crate) wake: Option<String>,

    /// Keep a snapshot of a game when a change of it that is in none is this old: 30s, 10m, 12h or 7d.
    ///
    /// Every hundredth change brings one in any case. Who comes back after long starts from a snapshot.
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub(crate) snapshot_age: Option<Duration>,

    /// Let go of old changes, but for the last so many of each game.
    ///
    /// With --keep-age a change goes when it is neither among the last nor young enough. The game as it is stays, and so does
    /// the state that the changes that are left begin with; who was away for longer starts from that. It is looked at the
    /// start and every hour. Without either, all changes stay.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) keep_events: Option<u64>,

    /// Let go of changes that are older than this, but for the last --keep-events of each game: 30s, 10m, 12h or 90d.
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub(crate) keep_age: Option<Duration>,

    /// Let in only who shows a token that is signed with the secret in this file: a JSON Web Token, HS256.
    ///
    /// For development and small places: whoever has the secret can make tokens. At least 32 bytes.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["jwks", "open"])]
    pub(crate) jwt_secret: Option<PathBuf>,

    /// Let in only who shows a token that is signed with a key of this JSON Web Key Set: RS256, ES256, EdDSA and others.
    ///
    /// The file is read again at SIGHUP.
    #[arg(long, value_name = "FILE", conflicts_with = "open")]
    pub(crate) jwks: Option<PathBuf>,

    /// Whom tokens must be meant for (`aud`).
    #[arg(long, value_name = "NAME", default_value = "games")]
    pub(crate) audience: String,

    /// Print a token for somebody of this name with every right, for a day, and end. Needs `--jwt-secret`.
    #[arg(long, value_name = "NAME", requires = "jwt_secret")]
    pub(crate) make_token: Option<String>,

    /// Let everybody read and write who can reach the address, also from other machines.
    #[arg(long)]
    pub(crate) open: bool,

    /// How many requests and messages per second are taken from one address, and from one name of a token; five times as
    /// many at once after a pause. Of requests from this machine only names are counted.
    #[arg(long, value_name = "NUMBER", default_value_t = Allowance::STANDARD.per_second)]
    pub(crate) requests_per_second: NonZeroU32,

    /// How many sockets, streams and long polls one address, and one name, may have open.
    #[arg(long, value_name = "NUMBER", default_value_t = Allowance::STANDARD.connections,
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    pub(crate) connections_each: usize,

    /// Behind a proxy: the header in which it says whose request it passes on, such as `x-forwarded-for`.
    ///
    /// Only where nobody can come past the proxy, and it does not pass on what others have written there.
    #[arg(long, value_name = "HEADER", value_parser = header_of_addresses)]
    pub(crate) client_address: Option<HeaderName>,

    /// What to write to standard error: a level (error, warn, info, debug, trace) or a list like `info,eventsync=debug`.
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = "info")]
    pub(crate) log: String,
}

/// The name of a header that holds nothing but addresses. That of RFC 7239 names what they are, and is read by nobody here.
fn header_of_addresses(name: &str) -> Result<HeaderName, String> {
    let header = name.parse::<HeaderName>().map_err(|error| error.to_string())?;
    if header == axum::http::header::FORWARDED {
        return Err(
            "header forwarded (RFC 7239), expected one of bare addresses such as x-forwarded-for".to_owned()
        );
    }
    Ok(header)
}

/// What keeps games that were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cache {
    None,
    Memory,
    /// At this URI.
    Redis(String),
}

impl Options {
    /// When snapshots are made.
    pub(crate) fn snapshots(&self) -> SnapshotPolicy {
        SnapshotPolicy { age: self.snapshot_age, ..SnapshotPolicy::STANDARD }
    }

    /// What goes of the history; `None`: nothing does.
    pub(crate) fn compaction(&self) -> Option<EventCompactor> {
        match (self.keep_events, self.keep_age) {
            (None, None) => None,
            (keep, age) => Some(EventCompactor { keep: keep.unwrap_or(0), age }),
        }
    }

    /// What one address, or one name, may do.
    pub(crate) fn allowance(&self) -> Allowance {
        Allowance::new(self.requests_per_second, self.connections_each)
    }

    /// How it is known where a request comes from.
    pub(crate) fn client_address(&self) -> ClientAddress {
        self.client_address.clone().map_or(ClientAddress::Connection, ClientAddress::Header)
    }

    /// The cache that was asked for, or the one that is right for the store.
    pub(crate) fn cache(&self) -> Cache {
        match (&self.cache, &self.store) {
            (Some(cache), _) => cache.clone(),
            (None, None) => Cache::Memory,
            (None, Some(_)) => Cache::None,
        }
    }
}

/// A number and its unit.
fn age(text: &str) -> Result<Duration, String> {
    let wrong = || "a whole number and its unit, as in 30s, 10m, 12h or 90d".to_owned();
    let digits = text.len() - text.chars().next_back().map_or(0, char::len_utf8);
    let (number, unit) = text.split_at(digits);
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    // A sign would be taken too.
    let number = Some(number).filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    let number: u32 = number.and_then(|number| number.parse().ok()).ok_or_else(wrong)?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

fn cache(name: &str) -> Result<Cache, String> {
    match name {
        "none" => Ok(Cache::None),
        "memory" => Ok(Cache::Memory),
        uri if uri.starts_with("redis://") || uri.starts_with("rediss://") => {
            Ok(Cache::Redis(uri.to_owned()))
        }
        _ => Err("memory, none, or a URI that begins with redis://".to_owned()),
    }
}

fn mongodb_uri(uri: &str) -> Result<String, String> {
    if uri.starts_with("mongodb://") || uri.starts_with("mongodb+srv://") {
        Ok(uri.to_owned())
    } else {
        Err("a URI that begins with mongodb:// or mongodb+srv://".to_owned())
    }
}

fn redis_url(url: &str) -> Result<String, String> {
    if url.starts_with("redis://") {
        Ok(url.to_owned())
    } else {
        Err("a URL that begins with redis://".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let options = Options::parse_from(["games"]);
        assert_eq!(options.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(options.data, PathBuf::from("./weft-data"));
    }

    #[test]
    fn a_cache_is_named_or_the_one_that_is_right_for_the_store() {
        let cache = |more: &[&str]| {
            let options = Options::try_parse_from(["games"].iter().chain(more));
            options.map(|options| options.cache()).map_err(|error| error.to_string())
        };
        assert_eq!(cache(&[]), Ok(Cache::Memory));
        assert_eq!(cache(&["--store", "mongodb://db/games"]), Ok(Cache::None));
        assert_eq!(cache(&["--store", "mongodb://db/games", "--cache", "memory"]), Ok(Cache::Memory));
        assert_eq!(cache(&["--cache", "none"]), Ok(Cache::None));
        assert_eq!(cache(&["--cache", "redis://h:1"]), Ok(Cache::Redis("redis://h:1".to_owned())));
        assert!(cache(&["--cache", "moka"]).unwrap_err().contains("memory, none"));
    }

    #[test]
    fn a_history_is_kept_by_number_and_age() {
        let parse = |more: &[&str]| Options::try_parse_from(["games"].iter().chain(more));
        let kept = |more: &[&str]| parse(more).unwrap().compaction();
        let days = |days: u64| Some(Duration::from_secs(days * 86_400));
        assert_eq!(kept(&[]), None);
        assert_eq!(kept(&["--keep-events", "5"]), Some(EventCompactor { keep: 5, age: None }));
        assert_eq!(kept(&["--keep-age", "90d"]), Some(EventCompactor { keep: 0, age: days(90) }));
        let both = kept(&["--keep-age", "48h", "--keep-events", "5"]);
        assert_eq!(both, Some(EventCompactor { keep: 5, age: days(2) }));
        assert_eq!(parse(&[]).unwrap().snapshots(), SnapshotPolicy::STANDARD);
        let aged = parse(&["--snapshot-age", "2m"]).unwrap().snapshots();
        assert_eq!((aged.age, aged.every), (Some(Duration::from_secs(120)), SnapshotPolicy::STANDARD.every));
        for wrong in ["", "d", "5", "-5d", "+5d", "5 d", "1.5h", "5w", "5é", "4294967296s"] {
            let refused = parse(&[&format!("--keep-age={wrong}")]).unwrap_err().to_string();
            assert!(refused.contains("30s, 10m") || wrong.is_empty(), "{wrong}: {refused}");
        }
    }

    #[test]
    fn an_address_is_read_from_a_header_only_if_it_is_named() {
        let parse = |more: &[&str]| Options::try_parse_from([&["games"], more].concat());
        let plain = parse(&[]).unwrap();
        assert_eq!(plain.client_address(), ClientAddress::Connection);
        assert_eq!(plain.allowance(), Allowance::STANDARD);
        let named = parse(&["--client-address", "X-Real-IP", "--requests-per-second", "9"]).unwrap();
        assert_eq!(named.client_address(), ClientAddress::Header(HeaderName::from_static("x-real-ip")));
        assert_eq!((named.allowance().per_second.get(), named.allowance().burst.get()), (9, 45));
        assert!(parse(&["--client-address", "no header"]).is_err());
        let refused = parse(&["--client-address", "Forwarded"]).unwrap_err().to_string();
        assert!(refused.contains("expected one of bare addresses"), "{refused}");
        assert!(parse(&["--connections-each", "0"]).is_err());
        assert!(parse(&["--requests-per-second", "0"]).is_err());
    }

    #[test]
    fn who_is_let_in_is_said_in_one_way() {
        let parse = |more: &[&str]| Options::try_parse_from([&["games"], more].concat()).is_ok();
        assert!(
            parse(&["--jwt-secret", "s", "--make-token", "me"])
                && parse(&["--jwks", "k"])
                && parse(&["--open"])
        );
        assert!(!parse(&["--jwt-secret", "s", "--jwks", "k"]) && !parse(&["--jwks", "k", "--open"]));
        assert!(!parse(&["--make-token", "me"]));
    }

    #[test]
    fn only_programs_that_share_a_database_wake_each_other() {
        let parse = |arguments: &[&str]| Options::try_parse_from([&["games"], arguments].concat());
        let store = "mongodb://db/games";
        assert_eq!(
            parse(&["--store", store, "--wake", "redis://h"]).unwrap().wake.as_deref(),
            Some("redis://h")
        );
        assert!(parse(&["--wake", "redis://h"]).is_err());
        assert!(parse(&["--store", store, "--wake", "h"]).is_err());
    }
}
