//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::Parser;

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
  RUST_LOG=eventsync=debug games           more to read

Press ctrl-c, or send SIGTERM, to stop: requests under way are answered, clients are told to come back."
)]
pub(crate) struct Options {
    /// Address and port to serve on; port 0 takes a free one.
    ///
    /// There is no authentication: whoever can reach this address can read and write.
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

    /// What to write to standard error: a level (error, warn, info, debug, trace) or a list like `info,eventsync=debug`.
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = "info")]
    pub(crate) log: String,
}

fn mongodb_uri(uri: &str) -> Result<String, String> {
    if uri.starts_with("mongodb://") || uri.starts_with("mongodb+srv://") {
        Ok(uri.to_owned())
    } else {
        Err("a URI that begins with mongodb:// or mongodb+srv://".to_owned())
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
}
