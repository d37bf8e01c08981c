//! Who may use the games: everybody on loopback, elsewhere those with a token, unless the operator says otherwise.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use eventsync::access::{Authorizer, Grant, JwtAuthorizer, JwtKeys, sign};

use crate::options::Options;

/// How long a token lasts that this program makes.
const TOKEN_SECONDS: u64 = 24 * 60 * 60;

/// What decides, and how it takes new keys.
pub(crate) struct Access {
    pub(crate) authorizer: Option<Arc<dyn Authorizer>>,
    keys: Option<Arc<JwtAuthorizer>>,
}

impl Access {
    /// As the options say. An error is one line for the user.
    pub(crate) fn new(options: &Options) -> Result<Self, String> {
        let keys = read_keys(options)?.map(|keys| Arc::new(JwtAuthorizer::new(keys, &*options.audience)));
        Ok(Self { authorizer: keys.clone().map(|keys| keys as _), keys })
    }

    /// Refuses to open to everybody what other machines can reach, unless that was asked for.
    pub(crate) fn check(&self, address: SocketAddr, options: &Options) -> Result<(), String> {
        if self.authorizer.is_some() || address.ip().is_loopback() || options.open {
            return Ok(());
        }
        Err(format!(
            "{address} can be reached from other machines: --jwt-secret or --jwks says who may use it, --open lets everybody"
        ))
    }

    /// Says loudly in the log that everybody is let in, if so.
    pub(crate) fn warn(&self, address: SocketAddr) {
        if self.authorizer.is_none() {
            tracing::warn!(%address, "NO AUTHENTICATION: whoever can reach this address can read and write all games");
        }
    }

    /// Reads the keys again. If they can't be read, the old ones stay.
    pub(crate) fn reload(&self, options: &Options) {
        let Some(authorizer) = &self.keys else { return };
        match read_keys(options) {
            Ok(Some(keys)) => {
                tracing::info!(?keys, "tokens are checked against these keys from now on");
                authorizer.set_keys(keys);
            }
            Ok(None) => {}
            Err(reason) => tracing::error!(reason, "the keys stay as they were"),
        }
    }
}

/// A token with every right, for who has the secret.
#[expect(clippy::disallowed_methods, reason = "the program's edge: a token ends by the wall clock")]
pub(crate) fn make_token(options: &Options, name: &str) -> Result<String, String> {
    let path = options.jwt_secret.as_deref().ok_or("--make-token needs --jwt-secret")?;
    let secret = read_secret(path)?;
    JwtKeys::secret(&secret).map_err(|e| format!("{}: {e}", path.display()))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Ok(sign(&secret, name, &options.audience, vec![Grant::everything()], now + TOKEN_SECONDS))
}

fn read_keys(options: &Options) -> Result<Option<JwtKeys>, String> {
    let (path, keys) = match (&options.jwt_secret, &options.jwks) {
        (Some(path), _) => (path, JwtKeys::secret(&read_secret(path)?)),
        (None, Some(path)) => (path, JwtKeys::set(&read(path)?)),
        (None, None) => return Ok(None),
    };
    keys.map(Some).map_err(|e| format!("{}: {e}", path.display()))
}

/// The secret of a file, without the line break that editors end it with.
fn read_secret(path: &Path) -> Result<Vec<u8>, String> {
    let mut secret = read(path)?;
    secret.truncate(secret.trim_ascii_end().len());
    Ok(secret)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|e| format!("can't read {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn keys_that_can_not_be_read_leave_the_old_ones() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        let write = |text: &str| fs::write(&file, text).unwrap();
        write("a secret that is long enough for a digest\n");
        let options = Options::parse_from(["games", "--jwt-secret", file.to_str().unwrap()]);
        let access = Access::new(&options).unwrap();
        let lets_in = |token: &str| access.keys.as_ref().unwrap().principal(token, 0).is_ok();
        let first = make_token(&options, "ann").unwrap();
        write("short");
        access.reload(&options);
        assert!(lets_in(&first) && make_token(&options, "ann").unwrap_err().contains("32"));
        write("another secret, that is long enough as well");
        let second = make_token(&options, "ann").unwrap();
        assert!(!lets_in(&second));
        access.reload(&options);
        assert!(lets_in(&second) && !lets_in(&first));
    }

    #[test]
    fn only_loopback_is_open_without_being_told() {
        let check = |address: &str, more: &[&str]| {
            let options = Options::parse_from([&["games"], more].concat());
            Access::new(&options).unwrap().check(address.parse().unwrap(), &options).is_ok()
        };
        assert!(check("127.0.0.1:1", &[]) && check("[::1]:1", &[]));
        assert!(!check("0.0.0.0:1", &[]) && !check("[::]:1", &[]) && !check("192.0.2.1:1", &[]));
        assert!(check("0.0.0.0:1", &["--open"]));
    }
}
