//! What is signed: each use begins with a name of its own.

use bytes::{BufMut, Bytes};

use super::Access;
use crate::{PatchRecord, SnapshotHead, dag::NodeHash};

/// What is signed begins so, and names the use, so that no signature can be taken for another one.
const PATCH_CONTEXT: &[u8] = b"weft patch v1";
/// The same for a patch with links: what is signed is the hash of the node without its proof.
const NODE_CONTEXT: &[u8] = b"weft signed node v1";
const SNAPSHOT_CONTEXT: &[u8] = b"weft snapshot v1";
const PAGE_CONTEXT: &[u8] = b"weft page v1";
const WORD_CONTEXT: &[u8] = b"weft word v1";

impl Access {
    pub(super) fn patch_message(&self, record: &PatchRecord) -> Vec<u8> {
        if !record.links.is_empty() {
            let mut bare = record.clone();
            bare.proof = Bytes::new();
            let mut message = self.message(NODE_CONTEXT, NodeHash::LEN_BYTES);
            message.put_slice(&NodeHash::of(&bare).0);
            return message;
        }
        let mut message = self.message(PATCH_CONTEXT, record.patch.len() + 8);
        message.put_u64(record.prev);
        message.put_slice(&record.patch);
        message
    }

    pub(super) fn page_message(&self, records: &[PatchRecord]) -> Vec<u8> {
        let mut message = self.message(PAGE_CONTEXT, 8 + records.len() * NodeHash::LEN_BYTES);
        message.put_u64(records.len() as u64);
        records.iter().for_each(|record| message.put_slice(&NodeHash::of(record).0));
        message
    }

    pub(super) fn word_message(&self, word: &[u8]) -> Vec<u8> {
        let mut message = self.message(WORD_CONTEXT, word.len());
        message.put_slice(word);
        message
    }

    pub(super) fn snapshot_message(&self, head: &SnapshotHead, bytes: &[u8]) -> Vec<u8> {
        let mut message = self.message(SNAPSHOT_CONTEXT, bytes.len() + head.vector.len() * 16 + 8);
        message.put_u64(head.vector.len() as u64);
        for (sid, time) in head.vector.iter() {
            message.put_u64(sid.get());
            message.put_u64(time);
        }
        message.put_slice(bytes);
        message
    }

    fn message(&self, context: &[u8], room: usize) -> Vec<u8> {
        let mut message = Vec::with_capacity(context.len() + 8 + self.document.len() + room);
        message.put_slice(context);
        message.put_u64(self.document.len() as u64);
        message.put_slice(self.document.as_bytes());
        message
    }
}
