//! The binary encoding: two bytes beside the patch.

use bytes::Bytes;
use crdt_core::{
    SessionId, StateVector,
    codec::wire::{Reader, put_vu57},
};

use super::{TAG_PATCH, TAG_PROVEN_PATCH, TAG_SYNC, WireError};
use crate::{PatchRecord, PeerId, SnapshotHead, SyncMessage, Want};

const DIGEST: u8 = 1;
const STATE: u8 = 2;
const STATE_REPLY: u8 = 3;
const REQUEST: u8 = 4;
const PATCHES: u8 = 5;
const OFFER: u8 = 6;
const FETCH: u8 = 7;
const PART: u8 = 8;

pub(super) fn patch(record: &PatchRecord) -> Bytes {
    let mut out = Vec::with_capacity(record.len_bytes());
    let gap = record.id.time - record.prev;
    if record.proof.is_empty() {
        out.push(TAG_PATCH);
        put_vu57(&mut out, gap);
    } else {
        out.push(TAG_PROVEN_PATCH);
        put_all(&mut out, &[gap, record.proof.len() as u64]);
        out.extend_from_slice(&record.proof);
    }
    out.extend_from_slice(&record.patch);
    out.into()
}

pub(super) fn read_patch(bytes: &Bytes) -> Result<PatchRecord, WireError> {
    let mut r = Reader::new(bytes);
    let tag = r.u8("a tag")?;
    let gap = r.vu57("the ticks since the session's previous patch")?;
    let proof = if tag == TAG_PROVEN_PATCH { read_blob(&mut r, bytes)? } else { Bytes::new() };
    Ok(PatchRecord::with_gap(gap, bytes.slice(r.offset()..))?.with_proof(proof)?)
}

pub(super) fn sync(from: &PeerId, message: &SyncMessage) -> Bytes {
    let mut out = vec![TAG_SYNC];
    put_vu57(&mut out, from.as_str().len() as u64);
    out.extend_from_slice(from.as_str().as_bytes());
    match message {
        SyncMessage::Digest { digest } => {
            out.push(DIGEST);
            out.extend_from_slice(&digest.to_be_bytes());
        }
        SyncMessage::State { vector, reply } => {
            out.push(if *reply { STATE_REPLY } else { STATE });
            put_vector(&mut out, vector);
        }
        SyncMessage::Request { id, want, bytes_max } => {
            out.push(REQUEST);
            put_all(&mut out, &[*id, *bytes_max, want.len() as u64]);
            for Want { sid, after, upto } in want {
                put_all(&mut out, &[sid.get(), *after, *upto]);
            }
        }
        SyncMessage::Patches { id, records } => {
            out.push(PATCHES);
            put_all(&mut out, &[*id, records.len() as u64]);
            for record in records {
                put_vu57(&mut out, record.id.time - record.prev);
                put_blob(&mut out, &record.proof);
                put_blob(&mut out, &record.patch);
            }
        }
        SyncMessage::Offer { id, snapshot } => {
            out.push(OFFER);
            put_vu57(&mut out, *id);
            put_vector(&mut out, &snapshot.vector);
            put_vu57(&mut out, snapshot.len_bytes);
            out.extend_from_slice(&snapshot.hash.to_be_bytes());
            put_blob(&mut out, &snapshot.proof);
        }
        SyncMessage::Fetch { id, hash, offset } => {
            out.push(FETCH);
            put_all(&mut out, &[*id, *offset]);
            out.extend_from_slice(&hash.to_be_bytes());
        }
        SyncMessage::Part { id, hash, offset, bytes } => {
            out.push(PART);
            put_all(&mut out, &[*id, *offset]);
            out.extend_from_slice(&hash.to_be_bytes());
            out.extend_from_slice(bytes);
        }
    }
    out.into()
}

pub(super) fn read_sync(bytes: &Bytes) -> Result<(PeerId, SyncMessage), WireError> {
    let mut r = Reader::new(bytes);
    r.u8("a tag")?;
    let len = r.vu57("the length of a name")?;
    let name = r.take(len, "a name")?;
    let utf8 = |_| WireError::Field { field: "from", expected: "a name in UTF-8" };
    let from = PeerId::new(std::str::from_utf8(name).map_err(utf8)?)?;
    let message = match r.u8("a kind")? {
        DIGEST => SyncMessage::Digest { digest: r.big_endian(8, "a digest")? },
        kind @ (STATE | STATE_REPLY) => {
            SyncMessage::State { vector: read_vector(&mut r)?, reply: kind == STATE_REPLY }
        }
        REQUEST => {
            let (id, bytes_max) = (r.vu57("an id")?, r.vu57("a size")?);
            let want =
                read_list(&mut r, 3, |r| Ok(Want { sid: r.session()?, after: r.time()?, upto: r.time()? }))?;
            SyncMessage::Request { id, want, bytes_max }
        }
        PATCHES => {
            let id = r.vu57("an id")?;
            let records = read_list(&mut r, 3, |r| {
                let gap = r.vu57("ticks since the previous patch")?;
                let (proof, patch) = (read_blob(r, bytes)?, read_blob(r, bytes)?);
                Ok(PatchRecord::with_gap(gap, patch)?.with_proof(proof)?)
            })?;
            SyncMessage::Patches { id, records }
        }
        OFFER => {
            let (id, vector) = (r.vu57("an id")?, read_vector(&mut r)?);
            let (len_bytes, hash) = (r.vu57("a length")?, r.big_endian(8, "a hash")?);
            let proof = read_blob(&mut r, bytes)?;
            SyncMessage::Offer { id, snapshot: SnapshotHead { vector, len_bytes, hash, proof } }
        }
        FETCH => {
            let (id, offset) = (r.vu57("an id")?, r.vu57("an offset")?);
            SyncMessage::Fetch { id, offset, hash: r.big_endian(8, "a hash")? }
        }
        PART => {
            let (id, offset) = (r.vu57("an id")?, r.vu57("an offset")?);
            let hash = r.big_endian(8, "a hash")?;
            let start = r.offset();
            r.take((bytes.len() - start) as u64, "a part")?;
            SyncMessage::Part { id, hash, offset, bytes: bytes.slice(start..) }
        }
        kind => return Err(WireError::Kind(kind.to_string())),
    };
    r.end()?;
    Ok((from, message))
}

fn put_all(out: &mut Vec<u8>, numbers: &[u64]) {
    for number in numbers {
        put_vu57(out, *number);
    }
}

fn put_blob(out: &mut Vec<u8>, blob: &[u8]) {
    put_vu57(out, blob.len() as u64);
    out.extend_from_slice(blob);
}

/// A length and so many bytes, as a slice of what they came in.
fn read_blob(r: &mut Reader<'_>, whole: &Bytes) -> Result<Bytes, WireError> {
    let len = r.vu57("a length")?;
    let start = r.offset();
    r.take(len, "bytes")?;
    Ok(whole.slice(start..r.offset()))
}

fn put_vector(out: &mut Vec<u8>, vector: &StateVector<SessionId>) {
    put_vu57(out, vector.len() as u64);
    for (sid, time) in vector.iter() {
        put_all(out, &[sid.get(), time]);
    }
}

fn read_vector(r: &mut Reader<'_>) -> Result<StateVector<SessionId>, WireError> {
    let entries = read_list(r, 2, |r| Ok((r.session()?, r.time()?)))?;
    Ok(entries.into_iter().collect())
}

/// Reads a count and so many items, each of which takes at least `item_bytes_min` bytes: a count that can't be true is
/// refused by the first item that is not there, and never makes room for more than the bytes can hold.
fn read_list<'a, T>(
    r: &mut Reader<'a>,
    item_bytes_min: usize,
    mut item: impl FnMut(&mut Reader<'a>) -> Result<T, WireError>,
) -> Result<Vec<T>, WireError> {
    let count = r.vu57("a count")?;
    let room = r.left() / item_bytes_min;
    let mut items = Vec::with_capacity((count as usize).min(room));
    for _ in 0..count {
        items.push(item(r)?);
    }
    Ok(items)
}
