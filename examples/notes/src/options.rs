//! The command line.

use std::path::PathBuf;

use clap::Parser;

use crate::place::Place;

/// One text edited by many at once, in terminals and browsers.
///
/// Each program is a replica: it holds the whole text, keeps it in a folder, and goes on when it is cut off. Type `help`
/// when it runs.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
Examples:
  notes                                     a page on http://127.0.0.1:8090, and a terminal, of one program
  notes --pubsub redis://127.0.0.1/         several programs meet on a Redis server
  notes --pubsub spot://127.0.0.1:7400      several programs meet each other: the first one there listens
  notes --doc shopping --name Ann           another text, and who you are
  notes --listen 0.0.0.0:8090 --token …     others may open the page who know the token
  notes --key me.key --writers friends      takes only what these have signed
  notes --pubsub spot://… --spot-key k.key  nobody without this file gets a connection
  notes --seal text.key                     nobody without this file reads what goes between programs
  notes --store memory --listen none        keeps nothing, serves no page

Leave with `quit`, ctrl-c or SIGTERM. Where standard input has ended, the page is still served."
)]
pub(crate) struct Options {
    /// The text: all who name the same one, at the same place, edit it together.
    #[arg(long, value_name = "NAME", default_value = "demo", value_parser = document_name)]
    pub(crate) doc: String,

    /// Where replicas meet: memory, redis://HOST:PORT/DB or spot://HOST:PORT[,HOST:PORT…].
    #[arg(long, value_name = "PLACE", default_value = "memory")]
    pub(crate) pubsub: Place,

    /// Who you are to the others.
    #[arg(long, value_name = "NAME", env = "USER", default_value = "terminal")]
    pub(crate) name: String,

    /// Where to keep the text: a folder, or memory. Without it, the first folder of ./weft-notes that no other program
    /// uses.
    #[arg(long, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,

    /// Address and port of the page, or none. Without it 127.0.0.1:8090, or a free port if that is taken.
    ///
    /// Without --token whoever can reach this address can read and write.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<String>,

    /// What a window has to know: the address that is printed carries it, and the browser keeps it. Programs send
    /// `Authorization: Bearer TOKEN`. Others see on the command line what stands there, so NOTES_TOKEN is the better place.
    #[arg(long, value_name = "TOKEN", env = "NOTES_TOKEN", hide_env_values = true, value_parser = token)]
    pub(crate) token: Option<String>,

    /// Signs what is written here with the key in this file (64 hexadecimal digits), and takes from others only what is
    /// signed by one of --writers. A file that is not there is made, with FILE.pub beside it for the others' lists.
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,

    /// The public keys of those who may write, one a line; what stands behind a key is a remark.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) writers: Option<PathBuf>,

    /// Seals all that goes between programs with the key in this file (64 hexadecimal digits), so that who meets at the same
    /// place without it can neither read nor write. A file that is not there is made; give it to all who edit this text.
    #[arg(long, value_name = "FILE")]
    pub(crate) seal: Option<PathBuf>,

    /// Over spot://, talks only to programs that have the key in this file (64 hexadecimal digits), encrypted by CURVE; then they
    /// may be on several machines. A file that is not there is made; give it to all who meet there.
    #[arg(long, value_name = "FILE")]
    pub(crate) spot_key: Option<PathBuf>,

    /// Finds out what is missing by the heads of a Merkle DAG instead of by state vectors. All programs of a text do the same.
    #[arg(long)]
    pub(crate) dag: bool,

    /// What to write to standard error: a level (error, warn, info, debug, trace) or a list like `warn,crdt_sync=debug`.
    /// What the others are away for is in `status`.
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = "error,notes=warn")]
    pub(crate) log: String,
}

/// The longest name of a text in bytes: it is part of topics.
const DOC_BYTES_MAX: usize = 128;

/// The shortest token that is taken.
const TOKEN_BYTES_MIN: usize = 8;

fn token(token: &str) -> Result<String, String> {
    let plain = token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
    match token.len() {
        len if len < TOKEN_BYTES_MIN => {
            Err(format!("a token of {len} bytes, at least {TOKEN_BYTES_MIN} are expected"))
        }
        _ if !plain => Err("expected letters, digits and -._~, which can stand in an address".to_owned()),
        _ => Ok(token.to_owned()),
    }
}

fn document_name(name: &str) -> Result<String, String> {
    match name {
        "" => Err("a text needs a name".to_owned()),
        _ if name.len() > DOC_BYTES_MAX => {
            Err(format!("a name of {} bytes, at most {DOC_BYTES_MAX} are allowed", name.len()))
        }
        _ if name.contains('*') || name.chars().any(char::is_control) => {
            Err("a name must not contain `*` or control characters".to_owned())
        }
        _ => Ok(name.to_owned()),
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
    fn a_name_that_can_not_be_part_of_a_topic_is_refused() {
        for bad in ["", "a*", "a\nb", &"x".repeat(129)] {
            assert!(Options::try_parse_from(["notes", "--doc", bad]).is_err(), "{bad:?}");
        }
        assert_eq!(Options::parse_from(["notes"]).doc, "demo");
        for bad in ["short", "with space", "with;semicolon", "with&more"] {
            assert!(Options::try_parse_from(["notes", "--token", bad]).is_err(), "{bad:?}");
        }
    }
}
