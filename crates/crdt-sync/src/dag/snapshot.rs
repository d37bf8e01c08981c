//! A snapshot together with the heads of the nodes that it contains.

use bytes::{BufMut as _, Bytes, BytesMut};
use crdt_core::SessionId;

use super::{Heads, Link, NodeHash};
use crate::DocumentError;

/// A snapshot with heads begins so; no snapshot of a document does.
const MAGIC: [u8; 8] = *b"\xffweftdag";
const LINK_BYTES: usize = 8 + 8 + NodeHash::LEN_BYTES;

/// Puts the heads in front of a document's snapshot.
pub fn seal(heads: &Heads, document: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(MAGIC.len() + 4 + heads.len() * LINK_BYTES + document.len());
    out.put_slice(&MAGIC);
    out.put_u32(heads.len() as u32);
    for link in heads.iter() {
        out.put_u64(link.sid.get());
        out.put_u64(link.last);
        out.put_slice(&link.hash.0);
    }
    out.put_slice(document);
    out.freeze()
}

/// The heads and the document's snapshot. One that was made without a DAG has no heads.
///
/// # Errors
/// If the bytes begin like a snapshot with heads and are none.
pub fn open(snapshot: &Bytes) -> Result<(Heads, Bytes), DocumentError> {
    read(snapshot).ok_or_else(|| DocumentError::Snapshot("cut off or wrong within its heads".to_owned()))
}

fn read(snapshot: &Bytes) -> Option<(Heads, Bytes)> {
    let Some(rest) = snapshot.strip_prefix(&MAGIC) else { return Some((Heads::new(), snapshot.clone())) };
    let (count, rest) = rest.split_first_chunk::<4>()?;
    let count = u32::from_be_bytes(*count) as usize;
    let (links, _) = rest.split_at_checked(count.checked_mul(LINK_BYTES)?)?;
    let link = |bytes: &[u8]| {
        let (sid, rest) = bytes.split_first_chunk::<8>()?;
        let (last, hash) = rest.split_first_chunk::<8>()?;
        let sid = SessionId::new(u64::from_be_bytes(*sid)).ok()?;
        let last = Some(u64::from_be_bytes(*last)).filter(|last| *last > 0)?;
        Some(Link { last, sid, hash: NodeHash(hash.try_into().ok()?) })
    };
    let heads = links.chunks_exact(LINK_BYTES).map(link).collect::<Option<Heads>>()?;
    Some((heads, snapshot.slice(MAGIC.len() + 4 + count * LINK_BYTES..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_and_document_come_back() {
        let sid = |number| SessionId::new(70_000 + number).unwrap();
        let link = |number: u64| Link { last: number, sid: sid(number), hash: NodeHash([number as u8; 32]) };
        let heads: Heads = (1..5).map(link).collect();
        let sealed = seal(&heads, b"document");
        assert_eq!(open(&sealed).unwrap(), (heads, Bytes::from_static(b"document")));
        for len in MAGIC.len()..sealed.len() - b"document".len() {
            assert!(open(&sealed.slice(..len)).is_err(), "cut at {len}");
        }
    }

    #[test]
    fn a_head_at_no_time_is_refused() {
        let none = Link { last: 0, sid: SessionId::new(70_000).unwrap(), hash: NodeHash([1; 32]) };
        let sealed = seal(&[none].into_iter().collect(), b"document");
        assert!(open(&sealed).is_err());
    }

    #[test]
    fn a_snapshot_without_heads_has_none() {
        let plain = Bytes::from_static(b"document");
        assert_eq!(open(&plain).unwrap(), (Heads::new(), plain));
    }
}
