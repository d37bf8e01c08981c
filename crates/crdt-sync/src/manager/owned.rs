//! A snapshot together with whose the sessions in it are.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::DocumentError;

/// A snapshot with owners begins so; neither one of a document nor one with heads does.
const MAGIC: [u8; 8] = *b"\xffweftown";

/// Puts what a guard remembers of the sessions in front of a snapshot; nothing if it remembers nothing.
pub(crate) fn seal(owners: &[u8], snapshot: Bytes) -> Bytes {
    if owners.is_empty() {
        return snapshot;
    }
    let mut out = BytesMut::with_capacity(MAGIC.len() + 4 + owners.len() + snapshot.len());
    out.put_slice(&MAGIC);
    out.put_u32(owners.len() as u32);
    out.put_slice(owners);
    out.put_slice(&snapshot);
    out.freeze()
}

/// What a guard remembered, and the rest. A snapshot that was made without a guard has nothing of it.
///
/// # Errors
/// If the bytes begin like a snapshot with owners and are none.
pub(crate) fn open(snapshot: &Bytes) -> Result<(Bytes, Bytes), DocumentError> {
    let Some(rest) = snapshot.strip_prefix(&MAGIC) else { return Ok((Bytes::new(), snapshot.clone())) };
    let cut = || DocumentError::Snapshot("cut off within its owners".to_owned());
    let (len, rest) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
    let len = u32::from_be_bytes(*len) as usize;
    let start = MAGIC.len() + 4;
    if rest.len() < len {
        return Err(cut());
    }
    Ok((snapshot.slice(start..start + len), snapshot.slice(start + len..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_and_the_rest_come_back() {
        let rest = Bytes::from_static(b"document");
        let sealed = seal(b"owners", rest.clone());
        assert_eq!(open(&sealed).unwrap(), (Bytes::from_static(b"owners"), rest.clone()));
        assert_eq!(seal(b"", rest.clone()), rest);
        assert_eq!(open(&rest).unwrap(), (Bytes::new(), rest.clone()));
        for len in MAGIC.len()..sealed.len() - rest.len() {
            assert!(open(&sealed.slice(..len)).is_err(), "cut at {len}");
        }
    }
}
