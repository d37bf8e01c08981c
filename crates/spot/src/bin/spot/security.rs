//! What nodes show each other, from the command line.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use spot::cluster::{Credentials, CurveKeys, CurvePublic, CurveSecret, Security};

use super::Failure;

/// How nodes show who they are; without any of these, they do not.
#[derive(Debug, Args)]
pub(super) struct SecurityArgs {
    /// PLAIN: the user and password to show, or for `bind` also to ask for. They travel in the clear.
    #[arg(long, value_name = "USER:PASSWORD", conflicts_with_all = ["curve_server", "curve_secret"])]
    plain: Option<String>,
    /// CURVE: the public key of the nodes to connect to, 40 characters of Z85. With a secret key and without this, the one
    /// that belongs to it: nodes that share a key need no more.
    #[arg(long, value_name = "KEY")]
    curve_server: Option<String>,
    /// CURVE: a file with the own secret key, 40 characters of Z85 or 64 hexadecimal digits. Needed by `bind`; others draw
    /// a new one.
    #[arg(long, value_name = "FILE")]
    curve_secret: Option<PathBuf>,
    /// CURVE: for `bind`, a public key that is let in; may be given several times. Without it, every key is.
    #[arg(long = "curve-allow", value_name = "KEY", requires = "curve_secret")]
    curve_allow: Vec<String>,
}

impl SecurityArgs {
    /// What to show to nodes that we connect to.
    pub(super) fn client(&self) -> Result<Security, Failure> {
        if let Some(plain) = &self.plain {
            let (username, password) = split(plain)?;
            return Ok(Security::PlainClient { username, password });
        }
        if self.curve_server.is_none() && self.curve_secret.is_none() {
            return Ok(Security::Null);
        }
        let keys = self.keys()?;
        let server = self.curve_server.as_deref().map_or(Ok(keys.public), public)?;
        Ok(Security::CurveClient { keys, server })
    }

    /// What to ask of nodes that connect to us, and the public key that they have to know.
    pub(super) fn server(&self) -> Result<(Security, Option<String>), Failure> {
        if let Some(plain) = &self.plain {
            let expected = split(plain)?;
            let authenticate = Arc::new(move |credentials: Credentials<'_>| match credentials {
                Credentials::Plain { username, password }
                    if (username, password) == (&*expected.0, &*expected.1) =>
                {
                    Ok(username.to_owned())
                }
                _ => Err("unknown user or wrong password".to_owned()),
            });
            return Ok((Security::PlainServer(authenticate), None));
        }
        if self.curve_secret.is_none() {
            return Ok((Security::Null, None));
        }
        let keys = self.keys()?;
        let allowed = self.curve_allow.iter().map(|key| public(key)).collect::<Result<Vec<_>, _>>()?;
        let authenticate = Arc::new(move |credentials: Credentials<'_>| match credentials {
            Credentials::Curve(key) if allowed.is_empty() || allowed.contains(&key) => Ok(key.to_z85()),
            _ => Err("key not allowed".to_owned()),
        });
        let public_key = keys.public.to_z85();
        Ok((Security::CurveServer { keys, authenticate }, Some(public_key)))
    }

    fn keys(&self) -> Result<CurveKeys, Failure> {
        let mut secret = [0; 32];
        match &self.curve_secret {
            None => getrandom::fill(&mut secret)?,
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
                let text = text.trim();
                if let Some(keys) = CurveSecret::from_z85(text) {
                    return Ok(CurveKeys::from_secret(keys.0));
                }
                let wrong = || {
                    format!(
                        "{}: a secret key is 40 characters of Z85 or 64 hexadecimal digits",
                        path.display()
                    )
                };
                if text.len() != 64 || !text.is_ascii() {
                    return Err(wrong().into());
                }
                for (byte, digits) in secret.iter_mut().zip(text.as_bytes().chunks(2)) {
                    let digits = std::str::from_utf8(digits)?;
                    *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
                }
            }
        }
        Ok(CurveKeys::from_secret(secret))
    }
}

fn split(plain: &str) -> Result<(String, String), Failure> {
    let (user, password) = plain.split_once(':').ok_or("--plain: expected USER:PASSWORD")?;
    Ok((user.to_owned(), password.to_owned()))
}

fn public(key: &str) -> Result<CurvePublic, Failure> {
    CurvePublic::from_z85(key).ok_or_else(|| format!("`{key}`: a public key is 40 characters of Z85").into())
}
