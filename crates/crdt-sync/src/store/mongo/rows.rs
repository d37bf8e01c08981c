//! Patches and state vectors as rows of a database.

use bytes::Bytes;
use crdt_core::{SessionId, StateVector, Timestamp};
use nodestorage::mongo::driver::bson::{Binary, Bson, Document as Bsons, doc, spec::BinarySubtype};

use super::PatchStoreError;
use crate::{
    Envelope, PatchRecord,
    dag::{Link, NodeHash},
};

/// Up to how many sessions are looked up in the head by name; of more all of it is read.
const FIELDS_MAX: usize = 1_000;

/// A patch of a document as a row.
pub(super) fn row(document: &str, record: &PatchRecord) -> Bsons {
    let times = |(sid, time): (SessionId, u64)| Bson::from(vec![count(sid.get()), count(time)]);
    let links = record.links.iter().map(|link| {
        Bson::from(doc! {"s": count(link.sid.get()), "t": count(link.last), "h": binary(&link.hash.0)})
    });
    doc! {
        "d": document, "s": count(record.session().get()), "t": count(record.last()),
        "prev": count(record.prev), "span": count(record.span),
        "needs": record.needs.iter().map(|needed| times((needed.sid, needed.time))).collect::<Vec<_>>(),
        "patch": binary(&record.patch), "proof": binary(&record.proof), "links": links.collect::<Vec<_>>(),
    }
}

pub(super) fn read(row: &Bsons) -> Result<PatchRecord, PatchStoreError> {
    let (session, last, span) = (sid(row, "s")?, number(row, "t")?, number(row, "span")?);
    let array = |name: &str| row.get_array(name).map_err(|_| corrupt(&format!("a patch has no {name}")));
    let needed = |needed: &Bson| {
        let pair = needed.as_array().filter(|pair| pair.len() == 2);
        let pair = pair.and_then(|pair| Some((pair[0].as_i64()?, pair[1].as_i64()?)));
        let (sid, time) = pair.ok_or_else(|| corrupt("a cause is no pair of numbers"))?;
        let time = u64::try_from(time).map_err(|_| corrupt("a cause has a time below 0"))?;
        Ok(Timestamp::new(session_of(sid)?, time))
    };
    let link = |link: &Bson| {
        let link = link.as_document().ok_or_else(|| corrupt("a link is no document"))?;
        let hash = blob(link, "h")?.as_ref().try_into().map_err(|_| corrupt("a hash has another length"))?;
        Ok(Link { last: number(link, "t")?, sid: sid(link, "s")?, hash: NodeHash(hash) })
    };
    let time = last.checked_sub(span).ok_or_else(|| corrupt("a patch is longer than its time"))? + 1;
    let envelope = Envelope {
        id: Timestamp::new(session, time),
        span,
        prev: number(row, "prev")?,
        needs: array("needs")?.iter().map(needed).collect::<Result<_, PatchStoreError>>()?,
        patch: blob(row, "patch")?,
        proof: blob(row, "proof")?,
        links: array("links")?.iter().map(link).collect::<Result<_, PatchStoreError>>()?,
    };
    Ok(envelope.into())
}

/// Of a head its numbers of these sessions, in `vector` or `contained`: a document may have tens of thousands, and an append
/// is of few.
pub(super) fn fields_of(name: &str, sessions: impl Iterator<Item = SessionId>) -> Bsons {
    let mut fields: Bsons = sessions.map(|sid| (format!("{name}.{}", sid.get()), Bson::Int32(1))).collect();
    if fields.len() > FIELDS_MAX {
        fields = doc! {name: 1};
    }
    fields.insert("snapshot", 1);
    fields
}

pub(super) fn fields(name: &str, vector: &StateVector<SessionId>) -> Bsons {
    vector.iter().map(|(sid, last)| (format!("{name}.{}", sid.get()), Bson::Int64(count(last)))).collect()
}

pub(super) fn vector(head: &Bsons, name: &str) -> Result<StateVector<SessionId>, PatchStoreError> {
    let entries = head.get_document(name).ok().into_iter().flatten();
    let entry = |(sid, _): (&String, &Bson), of: &Bsons| {
        let number_of_session = sid.parse().map_err(|_| corrupt("a session is no number"))?;
        Ok((session_of(number_of_session)?, number(of, sid)?))
    };
    let of = head.get_document(name).cloned().unwrap_or_default();
    entries.map(|pair| entry(pair, &of)).collect()
}

/// Times and sessions are below 2^53.
pub(super) fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn number_of(row: &Bsons, name: &str) -> Bson {
    row.get(name).cloned().unwrap_or(Bson::Null)
}

pub(super) fn number(row: &Bsons, name: &str) -> Result<u64, PatchStoreError> {
    let number = row.get(name).and_then(Bson::as_i64).and_then(|number| u64::try_from(number).ok());
    number.ok_or_else(|| corrupt(&format!("{name} is no count")))
}

pub(super) fn sid(row: &Bsons, name: &str) -> Result<SessionId, PatchStoreError> {
    SessionId::new(number(row, name)?).map_err(|_| corrupt("a session out of range"))
}

pub(super) fn session_of(number: i64) -> Result<SessionId, PatchStoreError> {
    let number = u64::try_from(number).ok().and_then(|number| SessionId::new(number).ok());
    number.ok_or_else(|| corrupt("a session out of range"))
}

pub(super) fn binary(bytes: &[u8]) -> Bson {
    Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: bytes.to_vec() })
}

pub(super) fn blob(row: &Bsons, name: &str) -> Result<Bytes, PatchStoreError> {
    let bytes = row.get_binary_generic(name).map_err(|_| corrupt(&format!("{name} is no binary data")))?;
    Ok(Bytes::copy_from_slice(bytes))
}

pub(super) fn corrupt(reason: &str) -> PatchStoreError {
    PatchStoreError::Corrupt { place: "the database".to_owned(), reason: reason.to_owned() }
}
