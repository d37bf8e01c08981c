//! A snapshot from anyone, with whose the sessions are and the heads of the nodes in front: opened or refused, and what is
//! opened is wrapped and opened again the same.

use bytes::Bytes;
use crdt_core::{Document, SessionId};
use crdt_sync::{
    dag,
    manager::sealed::{self, Sealed},
};

/// Looks at any bytes. Panics where something is wrong with us. Returns the part that a guard looks at.
pub(crate) fn look_at(data: &[u8]) -> Bytes {
    let input = Bytes::copy_from_slice(data);
    let Ok(Sealed { owners, heads, content, document }) = sealed::open(&input) else { return input };
    let again = dag::snapshot::seal(&heads, &sealed::with_content(content, document.clone()));
    let again = sealed::open(&again).expect("what was opened is wrapped again");
    // A number behind no heads is found where it was; what only begins like one is part of no document.
    assert_eq!((again.heads, again.content, again.document), (heads, content, document.clone()));
    let _ = Document::from_native(&document, SessionId::LOCAL);
    owners
}
