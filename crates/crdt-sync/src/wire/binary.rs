//! The binary encoding: two bytes beside the patch.

use std::collections::BTreeMap;

use bytes::Bytes;
use crdt_core::{
    SessionId, StateVector,
    codec::{
        Malformed,
        wire::{Reader, put_vu57},
    },
    id::MAX_ID,
};

use super::{NO_TIME, TAG_NODE, TAG_PATCH, TAG_PROVEN_PATCH, TAG_SYNC, WireError};
use crate::{
    PatchRecord, PeerId, SnapshotHead, SyncMessage, Want,
    dag::{LINKS_MAX, Link, NodeHash},
    reconcile::Symbol,
    store::StoreId,
};

const DIGEST: u8 = 1;
const STATE: u8 = 2;
const STATE_REPLY: u8 = 3;
const REQUEST: u8 = 4;
const PATCHES: u8 = 5;
const OFFER: u8 = 6;
const FETCH: u8 = 7;
const PART: u8 = 8;
const NODES: u8 = 9;
const HEADS: u8 = 10;
const WALK: u8 = 11;
const COMPARE: u8 = 12;
const SKETCH: u8 = 13;
const AHEAD: u8 = 14;
const REQUEST_PATCHES: u8 = 15;
const DIGEST_CONTENT: u8 = 16;
const VOUCHED: u8 = 17;
const SIGNED: u8 = 18;
const WELCOME: u8 = 19;
const WELCOME_TAKES_NOTHING: u8 = 20;

pub(super) fn patch(record: &PatchRecord) -> Bytes {
    let mut out = Vec::with_capacity(record.len_bytes());
    let gap = record.id.time - record.prev;
    if !record.links.is_empty() {
        out.push(TAG_NODE);
        put_vu57(&mut out, gap);
        put_blob(&mut out, &record.proof);
        put_list(&mut out, &record.links, put_link);
    } else if record.proof.is_empty() {
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
    if tag == TAG_PATCH {
        return Ok(PatchRecord::with_gap(gap, bytes.slice(r.offset()..))?);
    }
    let proof = read_blob(&mut r, bytes)?;
    let links = if tag == TAG_NODE { read_list(&mut r, LINK_BYTES_MIN, read_link)? } else { Vec::new() };
    Ok(PatchRecord::with_gap(gap, bytes.slice(r.offset()..))?.with_proof(proof)?.with_links(links.into())?)
}

pub(super) fn sync(from: &PeerId, message: &SyncMessage) -> Bytes {
    let mut out = vec![TAG_SYNC];
    put_vu57(&mut out, from.as_str().len() as u64);
    out.extend_from_slice(from.as_str().as_bytes());
    match message {
        SyncMessage::Digest { digest, content } => {
            out.push(if content.is_some() { DIGEST_CONTENT } else { DIGEST });
            out.extend_from_slice(&digest.to_be_bytes());
            content.iter().for_each(|content| out.extend_from_slice(&content.to_be_bytes()));
        }
        SyncMessage::State { vector, reply } => {
            out.push(if *reply { STATE_REPLY } else { STATE });
            put_vector(&mut out, vector);
        }
        SyncMessage::Request { id, want, bytes_max, offers } => {
            out.push(if *offers { REQUEST } else { REQUEST_PATCHES });
            put_all(&mut out, &[*id, *bytes_max]);
            put_list(&mut out, want, put_want);
        }
        SyncMessage::Patches { id, records } if records.iter().any(|record| !record.links.is_empty()) => {
            out.push(NODES);
            put_vu57(&mut out, *id);
            put_nodes(&mut out, records);
        }
        SyncMessage::Patches { id, records } => {
            out.push(PATCHES);
            put_vu57(&mut out, *id);
            put_list(&mut out, records, |out, record| {
                put_vu57(out, record.id.time - record.prev);
                put_blob(out, &record.proof);
                put_blob(out, &record.patch);
            });
        }
        SyncMessage::Vouched { id, records, proof } => {
            out.push(VOUCHED);
            put_vu57(&mut out, *id);
            put_blob(&mut out, proof);
            put_nodes(&mut out, records);
        }
        SyncMessage::Signed { message, proof } => {
            out.push(SIGNED);
            put_blob(&mut out, proof);
            out.extend_from_slice(message);
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
        SyncMessage::Heads { heads, digest } => {
            out.push(HEADS);
            out.extend_from_slice(&digest.to_be_bytes());
            put_list(&mut out, heads, put_link);
        }
        SyncMessage::Walk { id, want, have, bytes_max } => {
            out.push(WALK);
            put_all(&mut out, &[*id, *bytes_max]);
            put_list(&mut out, want, put_link);
            put_vector(&mut out, have);
        }
        SyncMessage::Compare { id, salt, from, count } => {
            out.push(COMPARE);
            put_all(&mut out, &[*id, *from, *count]);
            out.extend_from_slice(&salt.to_be_bytes());
        }
        SyncMessage::Sketch { id, digest, entries, symbols } => {
            out.push(SKETCH);
            put_all(&mut out, &[*id, *entries]);
            out.extend_from_slice(&digest.to_be_bytes());
            put_list(&mut out, symbols, |out, symbol| {
                put_all(out, &[symbol.sid, symbol.last, symbol.count.unsigned_abs()]);
                out.extend_from_slice(&symbol.check.to_be_bytes());
            });
        }
        SyncMessage::Ahead { vector } => {
            out.push(AHEAD);
            put_vector(&mut out, vector);
        }
        SyncMessage::Welcome { store, sessions, lacks, takes_back } => {
            out.push(if *takes_back { WELCOME } else { WELCOME_TAKES_NOTHING });
            out.extend_from_slice(&store.map_or(0, StoreId::get).to_be_bytes());
            put_vu57(&mut out, *sessions);
            put_list(&mut out, lacks, put_want);
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
        DIGEST => SyncMessage::Digest { digest: r.big_endian(8, "a digest")?, content: None },
        DIGEST_CONTENT => SyncMessage::Digest {
            digest: r.big_endian(8, "a digest")?,
            content: Some(r.big_endian(8, "a number for the patches")?),
        },
        kind @ (STATE | STATE_REPLY) => {
            SyncMessage::State { vector: read_vector(&mut r)?, reply: kind == STATE_REPLY }
        }
        kind @ (REQUEST | REQUEST_PATCHES) => {
            let (id, bytes_max) = (number(&mut r, "an id")?, number(&mut r, "a size")?);
            let want = read_list(&mut r, 3, read_want)?;
            SyncMessage::Request { id, want, bytes_max, offers: kind == REQUEST }
        }
        PATCHES => {
            let id = number(&mut r, "an id")?;
            let records = read_list(&mut r, 3, |r| {
                let gap = r.vu57("ticks since the previous patch")?;
                let (proof, patch) = (read_blob(r, bytes)?, read_blob(r, bytes)?);
                Ok(PatchRecord::with_gap(gap, patch)?.with_proof(proof)?)
            })?;
            SyncMessage::Patches { id, records }
        }
        NODES => SyncMessage::Patches { id: number(&mut r, "an id")?, records: read_nodes(&mut r, bytes)? },
        VOUCHED => {
            let (id, proof) = (number(&mut r, "an id")?, read_blob(&mut r, bytes)?);
            SyncMessage::Vouched { id, proof, records: read_nodes(&mut r, bytes)? }
        }
        SIGNED => {
            let proof = read_blob(&mut r, bytes)?;
            SyncMessage::Signed { proof, message: rest(&mut r, bytes)? }
        }
        HEADS => {
            let digest = r.big_endian(8, "a digest")?;
            SyncMessage::Heads { digest, heads: read_list(&mut r, LINK_BYTES_MIN, read_link)? }
        }
        WALK => {
            let (id, bytes_max) = (number(&mut r, "an id")?, number(&mut r, "a size")?);
            let want = read_list(&mut r, LINK_BYTES_MIN, read_link)?;
            SyncMessage::Walk { id, want, have: read_vector(&mut r)?, bytes_max }
        }
        COMPARE => {
            let (id, from, count) =
                (number(&mut r, "an id")?, number(&mut r, "an index")?, number(&mut r, "a count")?);
            SyncMessage::Compare { id, salt: r.big_endian(8, "a salt")?, from, count }
        }
        SKETCH => {
            let (id, entries) = (number(&mut r, "an id")?, number(&mut r, "a count")?);
            let digest = r.big_endian(8, "a digest")?;
            let symbols = read_list(&mut r, 11, |r| {
                let (sid, last) = (r.vu57_up_to(MAX_ID, "sessions")?, r.vu57_up_to(MAX_ID, "times")?);
                let count = r.vu57_up_to(MAX_ID, "a count")? as i64;
                Ok(Symbol { sid, last, count, check: r.big_endian(8, "a check")? })
            })?;
            SyncMessage::Sketch { id, digest, entries, symbols }
        }
        AHEAD => SyncMessage::Ahead { vector: read_vector(&mut r)? },
        kind @ (WELCOME | WELCOME_TAKES_NOTHING) => SyncMessage::Welcome {
            store: StoreId::new(r.big_endian(8, "the id of a store")?),
            sessions: number(&mut r, "a count")?,
            lacks: read_list(&mut r, 3, read_want)?,
            takes_back: kind == WELCOME,
        },
        OFFER => {
            let (id, vector) = (number(&mut r, "an id")?, read_vector(&mut r)?);
            let (len_bytes, hash) = (number(&mut r, "a length")?, r.big_endian(8, "a hash")?);
            let proof = read_blob(&mut r, bytes)?;
            SyncMessage::Offer { id, snapshot: SnapshotHead { vector, len_bytes, hash, proof } }
        }
        FETCH => {
            let (id, offset) = (number(&mut r, "an id")?, number(&mut r, "an offset")?);
            SyncMessage::Fetch { id, offset, hash: r.big_endian(8, "a hash")? }
        }
        PART => {
            let (id, offset) = (number(&mut r, "an id")?, number(&mut r, "an offset")?);
            let hash = r.big_endian(8, "a hash")?;
            SyncMessage::Part { id, hash, offset, bytes: rest(&mut r, bytes)? }
        }
        kind => return Err(WireError::Kind(kind.to_string())),
    };
    r.end()?;
    Ok((from, message))
}

/// A number that the other formats have too: one more could be read here and be written in none of them.
fn number(r: &mut Reader<'_>, what: &'static str) -> Result<u64, Malformed> {
    r.vu57_up_to(MAX_ID, what)
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

/// All that is left, as a slice of what it came in.
fn rest(r: &mut Reader<'_>, whole: &Bytes) -> Result<Bytes, WireError> {
    let start = r.offset();
    r.take((whole.len() - start) as u64, "a part")?;
    Ok(whole.slice(start..))
}

fn put_list<T>(out: &mut Vec<u8>, items: &[T], mut put: impl FnMut(&mut Vec<u8>, &T)) {
    put_vu57(out, items.len() as u64);
    items.iter().for_each(|item| put(out, item));
}

/// A session, a time and a hash.
const LINK_BYTES_MIN: usize = 2 + NodeHash::LEN_BYTES;

fn put_link(out: &mut Vec<u8>, link: &Link) {
    put_all(out, &[link.sid.get(), link.last]);
    out.extend_from_slice(&link.hash.0);
}

fn read_link(r: &mut Reader<'_>) -> Result<Link, WireError> {
    let (sid, last) = (r.session()?, r.time()?);
    if last == 0 {
        return Err(NO_TIME);
    }
    let mut hash = [0; NodeHash::LEN_BYTES];
    hash.copy_from_slice(r.take(NodeHash::LEN_BYTES as u64, "a hash")?);
    Ok(Link { last, sid, hash: NodeHash(hash) })
}

/// Patches with links. A link to a node of the same page is how many places back that stands, so a chain costs one byte
/// a node; 0 and the link itself is one to a node elsewhere.
fn put_nodes(out: &mut Vec<u8>, records: &[PatchRecord]) {
    let mut places = BTreeMap::new();
    let mut place = 0u64;
    put_list(out, records, |out, record| {
        put_vu57(out, record.id.time - record.prev);
        put_blob(out, &record.proof);
        put_list(out, &record.links, |out, link| match places.get(link) {
            Some(there) => put_vu57(out, place - there),
            None => {
                out.push(0);
                put_link(out, link);
            }
        });
        put_blob(out, &record.patch);
        places.insert(Link::to(record), place);
        place += 1;
    });
}

fn read_nodes(r: &mut Reader<'_>, whole: &Bytes) -> Result<Vec<PatchRecord>, WireError> {
    let mut before: Vec<Link> = Vec::new();
    let no_place = WireError::Field { field: "links", expected: "places of earlier nodes of the page" };
    read_list(r, 4, |r| {
        let gap = r.vu57("ticks since the previous patch")?;
        let proof = read_blob(r, whole)?;
        // Each may be one byte and stand for a whole link, so the bytes alone are no bound.
        let count = r.vu57("a count of links")?;
        if count > LINKS_MAX as u64 {
            return Err(WireError::Field { field: "links", expected: "at most 64" });
        }
        let mut links = Vec::with_capacity(count as usize);
        for _ in 0..count {
            links.push(match r.vu57("a place")? {
                0 => read_link(r)?,
                back => *usize::try_from(back)
                    .ok()
                    .and_then(|back| before.len().checked_sub(back))
                    .and_then(|place| before.get(place))
                    .ok_or_else(|| no_place.clone())?,
            });
        }
        let patch = read_blob(r, whole)?;
        let record = PatchRecord::with_gap(gap, patch)?.with_proof(proof)?.with_links(links.into())?;
        before.push(Link::to(&record));
        Ok(record)
    })
}

fn put_want(out: &mut Vec<u8>, want: &Want) {
    put_all(out, &[want.sid.get(), want.after, want.upto]);
}

fn read_want(r: &mut Reader<'_>) -> Result<Want, WireError> {
    Ok(Want { sid: r.session()?, after: r.time()?, upto: r.time()? })
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
