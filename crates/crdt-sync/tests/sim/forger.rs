//! A group in which patches are signed, and who attacks it: one without a key that is known, one who may only read, one who
//! repeats and changes what it has heard, and a writer who goes on in others' sessions.

use std::sync::Arc;

use bytes::Bytes;
use crdt_core::{PatchBuilder, SessionId};
use crdt_sync::{
    Guard, PatchRecord,
    crypto::{Access, Role, Signer},
};

use crate::world::Random;

/// How many replicas there are at the most: each has a key of its own.
pub(crate) const WRITERS: usize = 4;
/// Comes after those of the writers, is on the list, and may not write.
const READER: usize = WRITERS;
/// Is not on the list.
const STRANGER: usize = WRITERS + 1;

fn signer(number: usize) -> Signer {
    let mut secret = [7; 32];
    secret[0] = u8::try_from(number).unwrap();
    Signer::from_secret(&secret)
}

fn access(document: &str, number: usize) -> Access {
    let access = Access::new(document, Some(signer(number)));
    (0..WRITERS).for_each(|writer| access.allow(signer(writer).author(), Role::Write).unwrap());
    access.allow(signer(READER).author(), Role::Read).unwrap();
    access
}

/// What a replica starts with.
pub(crate) fn guard(number: usize) -> Arc<dyn Guard> {
    Arc::new(access("doc", number))
}

/// The same without one of the writers.
pub(crate) fn guard_without(writer: usize) -> fn(usize) -> Arc<dyn Guard> {
    fn without<const WRITER: usize>(number: usize) -> Arc<dyn Guard> {
        let access = Access::new("doc", Some(signer(number)));
        for writer in (0..WRITERS).filter(|writer| *writer != WRITER) {
            access.allow(signer(writer).author(), Role::Write).unwrap();
        }
        Arc::new(access)
    }
    [without::<0>, without::<1>, without::<2>, without::<3>][writer]
}

/// A patch by its author's own hand, signed by one of those: for itself each is right.
fn signed(number: usize, document: &str, record: PatchRecord) -> PatchRecord {
    // Whoever attacks has a list on which it may do everything.
    let own = Access::new(document, Some(signer(number)));
    own.allow(signer(number).author(), Role::Write).unwrap();
    own.prove(record).unwrap()
}

/// The patch that would come next after one of a session.
fn next(after: &PatchRecord, random: &mut Random) -> PatchRecord {
    let mut patch = PatchBuilder::new(after.session(), after.last() + 1 + random.below(3));
    patch.nop(1 + random.below(20));
    let patch = patch.finish().unwrap();
    PatchRecord::new(after.last(), Bytes::copy_from_slice(patch.as_bytes())).unwrap()
}

/// A patch that must be taken in nowhere, or was taken in already: made of one that the attacker has heard. `owner` is the
/// writer who made that one.
pub(crate) fn attack(random: &mut Random, heard: &PatchRecord, owner: usize) -> PatchRecord {
    let another_writer = (owner + 1 + random.below(WRITERS as u64 - 1) as usize) % WRITERS;
    match random.below(7) {
        0 => signed(STRANGER, "doc", next(heard, random)),
        1 => signed(READER, "doc", next(heard, random)),
        2 => signed(owner, "another", next(heard, random)),
        3 => next(heard, random),
        4 => heard.clone(),
        5 => {
            // The proof of one patch with another one.
            let mut changed = next(heard, random);
            changed.proof = heard.proof.clone();
            changed
        }
        _ => signed(another_writer, "doc", next(heard, random)),
    }
}

/// A page in which a writer who passes it on goes on in the sessions of others.
pub(crate) fn continued(
    random: &mut Random,
    passed_on_by: usize,
    records: Vec<PatchRecord>,
    owner: impl Fn(SessionId) -> usize,
) -> Vec<PatchRecord> {
    let mut page = Vec::with_capacity(records.len() * 2);
    for record in records {
        let goes_on = owner(record.session()) != passed_on_by && random.percent(70);
        let more = goes_on.then(|| signed(passed_on_by, "doc", next(&record, random)));
        page.push(record);
        page.extend(more);
    }
    page
}
