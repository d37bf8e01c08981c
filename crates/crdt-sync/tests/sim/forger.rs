//! A group in which patches are signed, and who attacks it: one without a key that is known, one who may only read, one who
//! repeats and changes what it has heard, a writer who goes on in others' sessions, and one on the list who signs in others' names
//! that they have all that there is.

use std::sync::Arc;

use bytes::Bytes;
use crdt_core::{PatchBuilder, SessionId, StateVector};
use crdt_sync::{
    Gate, Guard, PatchRecord, PeerId, SyncMessage,
    crypto::{Access, Role, Signer},
};

use crate::{outsider::lowered, random::Random};

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

fn name(number: usize) -> PeerId {
    PeerId::new(if number < WRITERS { format!("node-{number}") } else { "reader".to_owned() }).unwrap()
}

/// What a replica starts with, where its list looks like that.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct List {
    /// Whether it binds names to keys. Where it does not they belong to the first that speaks under them.
    pub(crate) binds: bool,
    /// Whether nobody else is waited for.
    pub(crate) waits_for_bound: bool,
    /// Who is not on it any more.
    pub(crate) without: Option<usize>,
}

impl List {
    /// The guard of a writer, or of a replica without a key whose number comes after those of the writers in the group.
    pub(crate) fn guard(self, number: usize, writers: usize) -> Arc<dyn Guard> {
        Arc::new(self.access((number < writers || number == READER).then(|| signer(number)), writers))
    }

    /// Only names of the group are bound: all that are bound are waited for.
    fn access(self, signs: Option<Signer>, writers: usize) -> Access {
        let access = Access::new("doc", signs);
        let access = if self.waits_for_bound { access.waiting_for_bound_names() } else { access };
        for listed in (0..=READER).filter(|listed| self.without != Some(*listed)) {
            let role = if listed == READER { Role::Read } else { Role::Write };
            access.allow(signer(listed).author(), role).unwrap();
            if self.binds && listed < writers {
                access.bind(name(listed), signer(listed).author()).unwrap();
            }
        }
        access
    }

    /// What the one who may only read signs: where names are bound, that another one has all that there is; else it speaks for
    /// itself, and lacks something.
    pub(crate) fn lie(
        self,
        random: &mut Random,
        members: usize,
        all: StateVector<SessionId>,
    ) -> (PeerId, SyncMessage) {
        let (from, vector) = match self.binds {
            true => (name(random.below(members as u64) as usize), all),
            false => (name(READER), lowered(random, &all)),
        };
        let state = SyncMessage::State { vector, reply: random.percent(50) };
        let signed = Gate::new(Some(self.guard(READER, WRITERS))).send(&from, state);
        (from, signed)
    }
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
