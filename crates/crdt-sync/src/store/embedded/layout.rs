//! How patches and snapshots lie in the database: `docs/formats/patch-store.md`.

use bytes::Bytes;
use crdt_core::{SessionId, StateVector, Timestamp};

use crate::{
    Envelope, PatchRecord,
    dag::{Link, NodeHash},
    store::StoreId,
};

/// The number of this layout; a database with a higher one is refused.
pub(super) const VERSION: u32 = 1;

/// The number that a database gives to a document's name.
pub(super) type DocumentNumber = u32;

/// Stored bytes that are not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Damage {
    #[error("checksum does not match")]
    Checksum,
    #[error("shorter or longer than its contents")]
    Length,
    #[error("id or time out of range")]
    Range,
}

/// In the table of names: where the number of the layout stands.
pub(super) const VERSION_KEY: &[u8] = &[0];

/// In the table of names: where a document's number stands.
pub(super) fn name_key(name: &str) -> Vec<u8> {
    [&[1], name.as_bytes()].concat()
}

/// The document that a key of the table of names is for; `None` for [`VERSION_KEY`].
pub(super) fn name(key: &[u8]) -> Result<Option<&str>, Damage> {
    match key {
        [0] => Ok(None),
        [1, name @ ..] => std::str::from_utf8(name).map(Some).map_err(|_| Damage::Range),
        _ => Err(Damage::Range),
    }
}

pub(super) fn record_key(document: DocumentNumber, sid: SessionId, last: u64) -> [u8; 20] {
    let mut key = [0; 20];
    key[..4].copy_from_slice(&document.to_be_bytes());
    key[4..12].copy_from_slice(&sid.get().to_be_bytes());
    key[12..].copy_from_slice(&last.to_be_bytes());
    key
}

pub(super) fn record_key_parts(key: &[u8]) -> Result<(SessionId, u64), Damage> {
    let (rest, last) = key.split_last_chunk().ok_or(Damage::Length)?;
    let (document, sid) = rest.split_last_chunk().ok_or(Damage::Length)?;
    if document.len() != size_of::<DocumentNumber>() {
        return Err(Damage::Length);
    }
    let sid = SessionId::new(u64::from_be_bytes(*sid)).map_err(|_| Damage::Range)?;
    Ok((sid, u64::from_be_bytes(*last)))
}

/// The value of a patch. Its key is part of the checksum, so that a record can't stand at another's place.
pub(super) fn write_record(key: &[u8], record: &PatchRecord) -> Vec<u8> {
    let mut value = Vec::with_capacity(record.len_bytes() + record.needs.len() * 8);
    value.extend_from_slice(&[0; 4]);
    write_number(&mut value, record.span);
    write_number(&mut value, record.prev);
    write_number(&mut value, record.needs.len() as u64);
    for needed in &record.needs {
        write_number(&mut value, needed.sid.get());
        write_number(&mut value, needed.time);
    }
    write_number(&mut value, record.proof.len() as u64);
    value.extend_from_slice(&record.proof);
    write_number(&mut value, record.links.len() as u64);
    for link in &record.links {
        write_number(&mut value, link.sid.get());
        write_number(&mut value, link.last);
        value.extend_from_slice(&link.hash.0);
    }
    value.extend_from_slice(&record.patch);
    seal(key, &mut value);
    value
}

pub(super) fn read_record(key: &[u8], value: &[u8]) -> Result<PatchRecord, Damage> {
    let (sid, last) = record_key_parts(key)?;
    let mut rest = unseal(key, value)?;
    let (span, prev, needed) = (read_number(&mut rest)?, read_number(&mut rest)?, read_number(&mut rest)?);
    // Each takes two bytes at least.
    if needed > rest.len() as u64 / 2 {
        return Err(Damage::Length);
    }
    let needs = (0..needed)
        .map(|_| {
            let sid = SessionId::new(read_number(&mut rest)?).map_err(|_| Damage::Range)?;
            Ok(Timestamp::new(sid, read_number(&mut rest)?))
        })
        .collect::<Result<_, _>>()?;
    let proof_len = usize::try_from(read_number(&mut rest)?).map_err(|_| Damage::Length)?;
    let (proof, mut rest) = rest.split_at_checked(proof_len).ok_or(Damage::Length)?;
    let links = read_links(&mut rest)?;
    let (proof, patch) = (Bytes::copy_from_slice(proof), Bytes::copy_from_slice(rest));
    let time = last.checked_sub(span).and_then(|before| before.checked_add(1)).ok_or(Damage::Range)?;
    Ok(Envelope { id: Timestamp::new(sid, time), span, prev, needs, patch, proof, links }.into())
}

fn read_links(rest: &mut &[u8]) -> Result<Box<[Link]>, Damage> {
    let count = read_number(rest)?;
    if count > (rest.len() / NodeHash::LEN_BYTES) as u64 {
        return Err(Damage::Length);
    }
    let link = |_| {
        let sid = SessionId::new(read_number(rest)?).map_err(|_| Damage::Range)?;
        let last = read_number(rest)?;
        let (hash, tail) = rest.split_first_chunk().ok_or(Damage::Length)?;
        *rest = tail;
        Ok(Link { last, sid, hash: NodeHash(*hash) })
    };
    (0..count).map(link).collect()
}

pub(super) fn write_snapshot(key: &[u8], vector: &StateVector<SessionId>, snapshot: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(snapshot.len() + vector.len() * 16 + 16);
    value.extend_from_slice(&[0; 4]);
    write_number(&mut value, vector.len() as u64);
    for (sid, last) in vector.iter() {
        write_number(&mut value, sid.get());
        write_number(&mut value, last);
    }
    value.extend_from_slice(snapshot);
    seal(key, &mut value);
    value
}

pub(super) fn read_snapshot(key: &[u8], value: &[u8]) -> Result<(StateVector<SessionId>, Bytes), Damage> {
    let mut rest = unseal(key, value)?;
    let entries = read_number(&mut rest)?;
    if entries > rest.len() as u64 / 2 {
        return Err(Damage::Length);
    }
    let vector = (0..entries)
        .map(|_| {
            let sid = SessionId::new(read_number(&mut rest)?).map_err(|_| Damage::Range)?;
            Ok((sid, read_number(&mut rest)?))
        })
        .collect::<Result<_, _>>()?;
    Ok((vector, Bytes::copy_from_slice(rest)))
}

/// A value of the table of notes.
pub(super) fn write_note(key: &[u8], note: &[u8]) -> Vec<u8> {
    let mut value = [&[0; 4], note].concat();
    seal(key, &mut value);
    value
}

pub(super) fn read_note(key: &[u8], value: &[u8]) -> Result<Bytes, Damage> {
    unseal(key, value).map(Bytes::copy_from_slice)
}

/// A value of the table of names.
pub(super) fn write_name(key: &[u8], number: u32) -> Vec<u8> {
    let mut value = vec![0; 4];
    value.extend_from_slice(&number.to_be_bytes());
    seal(key, &mut value);
    value
}

pub(super) fn read_name(key: &[u8], value: &[u8]) -> Result<u32, Damage> {
    Ok(u32::from_be_bytes(unseal(key, value)?.try_into().map_err(|_| Damage::Length)?))
}

/// In the table of batches: where the number of the last one stands.
pub(super) const BATCH_KEY: &[u8] = &[0];

pub(super) fn write_batch(number: u64) -> Vec<u8> {
    let mut value = vec![0; 4];
    value.extend_from_slice(&number.to_be_bytes());
    seal(BATCH_KEY, &mut value);
    value
}

pub(super) fn read_batch(key: &[u8], value: &[u8]) -> Result<u64, Damage> {
    Ok(u64::from_be_bytes(unseal(key, value)?.try_into().map_err(|_| Damage::Length)?))
}

/// In the table of the folder: where its id stands.
pub(super) const FOLDER_KEY: &[u8] = &[0];

pub(super) fn write_folder(id: StoreId) -> Vec<u8> {
    let mut value = vec![0; 4];
    value.extend_from_slice(&id.get().to_be_bytes());
    seal(FOLDER_KEY, &mut value);
    value
}

pub(super) fn read_folder(key: &[u8], value: &[u8]) -> Result<StoreId, Damage> {
    let number = unseal(key, value)?.try_into().map_err(|_| Damage::Length)?;
    StoreId::new(u64::from_be_bytes(number)).ok_or(Damage::Range)
}

fn checksum(key: &[u8], contents: &[u8]) -> [u8; 4] {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&(key.len() as u32).to_be_bytes());
    crc.update(key);
    crc.update(contents);
    crc.finalize().to_be_bytes()
}

pub(super) fn seal(key: &[u8], value: &mut [u8]) {
    let sum = checksum(key, &value[4..]);
    value[..4].copy_from_slice(&sum);
}

fn unseal<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8], Damage> {
    let (sum, contents) = value.split_first_chunk::<4>().ok_or(Damage::Length)?;
    if *sum == checksum(key, contents) { Ok(contents) } else { Err(Damage::Checksum) }
}

/// LEB128.
fn write_number(value: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        value.push(number as u8 | 0x80);
        number >>= 7;
    }
    value.push(number as u8);
}

fn read_number(rest: &mut &[u8]) -> Result<u64, Damage> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, tail) = rest.split_first().ok_or(Damage::Length)?;
        *rest = tail;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return Err(Damage::Range);
        }
        number |= bits << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(Damage::Range)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> PatchRecord {
        let needed = Timestamp::new(SessionId::new(70_000).unwrap(), 300);
        Envelope {
            id: Timestamp::new(SessionId::new(70_001).unwrap(), 301),
            span: 2,
            prev: 7,
            needs: std::iter::once(needed).collect(),
            patch: Bytes::from_static(b"patch"),
            proof: Bytes::from_static(b"sig"),
            links: Box::default(),
        }
        .into()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_layout_is_what_the_format_document_shows() {
        let record = record();
        let key = record_key(1, record.session(), record.last());
        assert_eq!(hex(&key), "000000010000000000011171000000000000012e");
        assert_eq!(hex(&write_record(&key, &record)[4..]), "020701f0a204ac0203736967007061746368");
        let link = Link { last: 300, sid: SessionId::new(70_000).unwrap(), hash: NodeHash([0xab; 32]) };
        let mut linked = record.clone();
        linked.links = Box::new([link]);
        let written = hex(&write_record(&key, &linked)[4..]);
        assert_eq!(written, format!("020701f0a204ac020373696701f0a204ac02{}7061746368", "ab".repeat(32)));
        let vector = StateVector::from_iter([(record.session(), 302)]);
        assert_eq!(hex(&write_snapshot(&[0, 0, 0, 1], &vector, b"doc")[4..]), "01f1a204ae02646f63");
        let id = StoreId::new(0x0102_0304_0506_0708).unwrap();
        let folder = write_folder(id);
        assert_eq!(hex(&folder[4..]), "0102030405060708");
        assert_eq!(read_folder(FOLDER_KEY, &folder), Ok(id));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            sid in 0u64..1 << 53, last in 1u64..1 << 53, span in 1u64..100, prev: u64,
            needs in prop::collection::vec((0u64..1 << 53, any::<u64>()), 0..4),
            patch in prop::collection::vec(any::<u8>(), 0..50),
            proof in prop::collection::vec(any::<u8>(), 0..9),
            links in prop::collection::vec((0u64..1 << 53, any::<u64>(), any::<[u8; 32]>()), 0..4),
        ) {
            let sid = SessionId::new(sid).unwrap();
            let span = span.min(last);
            let timestamp = |(sid, time)| Timestamp::new(SessionId::new(sid).unwrap(), time);
            let link = |(sid, last, hash)| Link { last, sid: SessionId::new(sid).unwrap(), hash: NodeHash(hash) };
            let record: PatchRecord = Envelope {
                id: Timestamp::new(sid, last - span + 1), span, prev,
                needs: needs.into_iter().map(timestamp).collect(), patch: patch.into(), proof: proof.into(),
                links: links.into_iter().map(link).collect(),
            }.into();
            let key = record_key(9, sid, last);
            prop_assert_eq!(read_record(&key, &write_record(&key, &record)), Ok(record));
        }

        #[test]
        fn a_changed_bit_is_noticed(byte in 0usize..17, bit in 0u32..8) {
            let record = record();
            let key = record_key(1, record.session(), record.last());
            let mut value = write_record(&key, &record);
            value[byte] ^= 1 << bit;
            prop_assert_eq!(read_record(&key, &value), Err(Damage::Checksum));
            let other = record_key(2, record.session(), record.last());
            value[byte] ^= 1 << bit;
            prop_assert_eq!(read_record(&other, &value), Err(Damage::Checksum));
        }

        #[test]
        fn any_bytes_with_a_good_checksum_are_refused_or_read(contents in prop::collection::vec(any::<u8>(), 0..40)) {
            let key = record_key(1, SessionId::new(5).unwrap(), 9);
            let mut value = [vec![0; 4], contents].concat();
            seal(&key, &mut value);
            let _ = read_record(&key, &value);
            let _ = read_snapshot(&key, &value);
        }
    }
}
