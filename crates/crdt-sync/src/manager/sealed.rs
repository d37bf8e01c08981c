//! What stands in front of a document's snapshot: whose its sessions are, the heads of its nodes, and the number that stands
//! for the patches in it.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::owned;
use crate::{
    DocumentError,
    dag::{Heads, snapshot},
};

/// A snapshot with the number for its patches begins so; none of the others does.
const MAGIC: [u8; 8] = *b"\xffweftsum";

/// A snapshot, taken apart.
#[derive(Debug)]
pub struct Sealed {
    /// What a guard remembered; empty without one.
    pub owners: Bytes,
    /// None where the group does not use the DAG.
    pub heads: Heads,
    /// The sum of the [content](crate::session::content) of all patches in it, if it is known: a group that uses the DAG does
    /// not need it, and older snapshots do not have it.
    pub content: Option<u64>,
    /// The document's own.
    pub document: Bytes,
}

/// Takes a snapshot apart.
///
/// # Errors
/// If the bytes begin like one of these parts and are none.
pub fn open(bytes: &Bytes) -> Result<Sealed, DocumentError> {
    let (owners, rest) = owned::open(bytes)?;
    let (heads, rest) = snapshot::open(&rest)?;
    let Some(number) = rest.strip_prefix(&MAGIC) else {
        return Ok(Sealed { owners, heads, content: None, document: rest });
    };
    let cut = || DocumentError::Snapshot("cut off within the number for its patches".to_owned());
    let (number, _) = number.split_first_chunk::<8>().ok_or_else(cut)?;
    let content = Some(u64::from_be_bytes(*number));
    Ok(Sealed { owners, heads, content, document: rest.slice(MAGIC.len() + 8..) })
}

/// Puts the number for its patches in front of a document's snapshot, if it is known.
pub fn with_content(content: Option<u64>, document: Bytes) -> Bytes {
    let Some(content) = content else { return document };
    let mut out = BytesMut::with_capacity(MAGIC.len() + 8 + document.len());
    out.put_slice(&MAGIC);
    out.put_u64(content);
    out.put_slice(&document);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_come_back() {
        let document = Bytes::from_static(b"document");
        let numbered = with_content(Some(7), document.clone());
        let sealed = owned::seal(b"owners", snapshot::seal(&Heads::new(), &numbered));
        let opened = open(&sealed).unwrap();
        assert_eq!(
            (&opened.owners[..], opened.content, opened.document),
            (&b"owners"[..], Some(7), document)
        );
        for len in MAGIC.len()..MAGIC.len() + 8 {
            assert!(open(&numbered.slice(..len)).is_err(), "cut at {len}");
        }
    }

    #[test]
    fn a_snapshot_without_a_number_has_none() {
        let document = Bytes::from_static(b"document");
        assert_eq!(with_content(None, document.clone()), document);
        let opened = open(&document).unwrap();
        assert_eq!((opened.content, opened.document), (None, document));
    }
}
