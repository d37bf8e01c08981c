//! The key that this program signs with, and those of whom it takes patches.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use crdt_sync::crypto::{Access, AuthorKey, Keyring, Role, SealedPubSub, SealingKey, Signer};
use spot::{PubSub, cluster::CurveKeys};

use crate::options::Options;

/// Who may write, as `--key` and `--writers` say; `None` without them: then everybody may. An error is one line for the
/// user.
pub(crate) fn access(options: &Options) -> Result<Option<Arc<Access>>, String> {
    let Some(path) = &options.key else { return Ok(None) };
    let signer = Signer::from_secret(&signing_secret(path)?);
    let own = signer.author();
    // The windows of this program's page have no keys: this program answers for them.
    let access = Access::new(options.doc.as_str(), Some(signer)).vouching_for_clients();
    let allow =
        |key, of: &Path| access.allow(key, Role::Write).map_err(|error| format!("{}: {error}", of.display()));
    allow(own, path)?;
    if let Some(list) = &options.writers {
        for key in writers(list)? {
            allow(key, list)?;
        }
    }
    Ok(Some(Arc::new(access)))
}

/// By whose key this program signs, if it does.
pub(crate) fn author(options: &Options) -> Result<Option<AuthorKey>, String> {
    let secret = options.key.as_ref().map(|path| signing_secret(path)).transpose()?;
    Ok(secret.map(|secret| Signer::from_secret(&secret).author()))
}

/// What goes over a channel, sealed as `--seal` says. An error is one line for the user.
pub(crate) fn sealed(options: &Options, pubsub: Arc<dyn PubSub>) -> Result<Arc<dyn PubSub>, String> {
    let Some(path) = &options.seal else { return Ok(pubsub) };
    let ring = Keyring::new(SealingKey::new(SEALING_KEY, &secret(path, |_| Ok(()))?));
    Ok(Arc::new(SealedPubSub::new(pubsub, ring, rand::random())))
}

/// What programs of a cluster show each other, as `--spot-key` says: all have the same.
pub(crate) fn cluster(options: &Options) -> Result<Option<CurveKeys>, String> {
    let secret = options.spot_key.as_ref().map(|path| secret(path, |_| Ok(())));
    Ok(secret.transpose()?.map(CurveKeys::from_secret))
}

/// There is one key, which never changes: whoever wants another one makes another text.
const SEALING_KEY: u32 = 1;

/// Reads the key, or makes one; then `made` does what else is to be done.
fn secret(path: &Path, made: impl FnOnce(&[u8; 32]) -> io::Result<()>) -> Result<[u8; 32], String> {
    let failed = |error: io::Error| format!("can't use the key {}: {error}", path.display());
    match fs::read_to_string(path) {
        Ok(text) => bytes(text.trim())
            .ok_or_else(|| format!("can't use the key {}: expected 64 hexadecimal digits", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let secret: [u8; 32] = rand::random();
            let options = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).to_owned();
            let written = options.open(path).and_then(|mut file| {
                writeln!(file, "{}", digits(&secret))?;
                file.sync_all()
            });
            written.map_err(failed)?;
            made(&secret).map_err(failed)?;
            Ok(secret)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Reads the key that this program signs with. One that is made has its public key beside it.
fn signing_secret(path: &Path) -> Result<[u8; 32], String> {
    secret(path, |secret| {
        let public = digits(&Signer::from_secret(secret).author().to_bytes());
        fs::write(public_path(path), format!("{public}\n"))
    })
}

fn public_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

/// The keys of a list.
fn writers(path: &Path) -> Result<Vec<AuthorKey>, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("can't read {}: {error}", path.display()))?;
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty() && !line.starts_with('#'));
    let key = |(line, number): (&str, usize)| {
        let word = line.split_whitespace().next().unwrap_or_default();
        let key = bytes(word).and_then(|bytes| AuthorKey::from_bytes(&bytes).ok());
        key.ok_or_else(|| {
            format!("line {number} of {}: expected a public key of 64 hexadecimal digits", path.display())
        })
    };
    lines.map(key).collect()
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(digits: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if digits.len() != 64 || !digits.is_ascii() {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&digits[at..at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("me.key");
        let first = signing_secret(&path).unwrap();
        assert_eq!(signing_secret(&path).unwrap(), first);
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600, "nobody else reads it");
        let listed = writers(&folder.path().join("me.key.pub")).unwrap();
        assert_eq!(listed, [Signer::from_secret(&first).author()]);

        fs::write(&path, "no key").unwrap();
        assert!(signing_secret(&path).unwrap_err().contains("64 hexadecimal digits"));
        let list = folder.path().join("list");
        fs::write(&list, "# friends\n\nzz not a key\n").unwrap();
        assert!(writers(&list).unwrap_err().starts_with("line 3 of"));
    }
}
