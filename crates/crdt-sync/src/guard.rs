//! Who may write: the seam. [`crypto::Access`](crate::crypto) is the implementation with signatures.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use crdt_core::{EncodingFormat, SessionId, StateVector};

use crate::{
    PatchRecord, PeerId, SharedError, SnapshotHead, SyncMessage,
    session::{Input, Refusal, Session, Standing},
    wire,
};

/// Tells the key of an author from those of all others; with [`crypto`](crate::crypto) they are its first eight bytes.
pub type SignerId = [u8; 8];

/// Decides whether patches and snapshots are what they claim to be, and makes the claim for this replica's own.
///
/// Without a guard everyone who reaches the channels may write. What it answers is its own error, and comes to whoever
/// watches in the [`Refusal`].
pub trait Guard: Send + Sync {
    /// Adds the proof to a patch of this replica, or says why it may not write.
    fn prove(&self, record: PatchRecord) -> Result<PatchRecord, SharedError>;

    /// Checks a patch of another replica.
    fn check(&self, record: &PatchRecord) -> Result<(), SharedError>;

    /// As [`check`](Self::check), of a patch in a session whose first patch has just come and was right, but has not been
    /// noted yet.
    fn check_after(&self, first: &PatchRecord, record: &PatchRecord) -> Result<(), SharedError> {
        let _ = first;
        self.check(record)
    }

    /// Decides about a patch that a client of this node made, which has no key: refused like any without a proof, unless the
    /// guard answers for the node's clients and adds the node's own proof.
    fn vouch(&self, record: PatchRecord) -> Result<PatchRecord, SharedError> {
        self.check(&record).map(|()| record)
    }

    /// Gives this replica's word for a page of patches that it has taken in, where some of them prove nothing any more to who
    /// lacks them: their authors may not write now. `None` if all prove themselves, or its word counts for nothing.
    fn vouch_page(&self, records: &[PatchRecord]) -> Option<Bytes> {
        let _ = records;
        None
    }

    /// Checks the word of a peer for a page of patches.
    fn check_page(&self, records: &[PatchRecord], proof: &[u8]) -> Result<(), SharedError> {
        let _ = proof;
        records.iter().try_for_each(|record| self.check(record))
    }

    /// As [`check`](Self::check), of a patch in a page for which somebody has given their word. `first` is the first patch of its
    /// session if that has just come and has not been noted yet.
    fn check_vouched(&self, first: Option<&PatchRecord>, record: &PatchRecord) -> Result<(), SharedError> {
        first.map_or_else(|| self.check(record), |first| self.check_after(first, record))
    }

    /// Whose key has signed a patch that was taken in: [rules](crate::conflict) may say that it decides. `None` if that is not
    /// known, or was never checked, as of a patch that came with a writer's word for it.
    fn signer(&self, record: &PatchRecord) -> Option<SignerId> {
        let _ = record;
        None
    }

    /// Whether this replica and its peers sign what they say that they have. Then only that counts for what may be folded.
    fn proves_words(&self) -> bool {
        false
    }

    /// Signs what this replica says that it has, its name in it; `None` if its word would count for nothing.
    fn prove_word(&self, message: &[u8]) -> Option<Bytes> {
        let _ = message;
        None
    }

    /// Checks what a peer says that it has. Returns a number that stands for who signed it, `None` if that is nobody in
    /// particular: then it is a word like any that is not signed. An error if somebody signed it who does not speak for `from`.
    fn check_word(&self, from: &PeerId, message: &[u8], proof: &[u8]) -> Result<Option<u64>, SharedError> {
        let _ = (from, message, proof);
        Ok(None)
    }

    /// Whether what was signed by `voice` in a peer's name still counts: not if another one speaks for it now.
    fn speaks_for(&self, voice: u64, peer: &PeerId) -> bool {
        let _ = (voice, peer);
        true
    }

    /// Whether somebody's signature tells who speaks under a peer's name. Then nobody is believed to have left under it
    /// without one.
    fn has_voice(&self, peer: &PeerId) -> bool {
        let _ = peer;
        false
    }

    /// The replicas whose proven words decide about what is folded, if it is known which those are. `None` is whoever is there.
    fn members(&self) -> Option<BTreeSet<PeerId>> {
        None
    }

    /// Is told of every patch that is taken in, and of those that the store has at the start.
    fn note(&self, record: &PatchRecord);

    /// Adds the proof to a snapshot that is offered to a peer; `None` if this replica may not offer any.
    fn prove_snapshot(&self, head: SnapshotHead, bytes: &[u8]) -> Option<SnapshotHead>;

    /// Checks a snapshot of a peer.
    fn check_snapshot(&self, head: &SnapshotHead, bytes: &[u8]) -> Result<(), SharedError>;

    /// What has to be remembered of the sessions of a snapshot when their patches, and so their proofs, are gone: it is
    /// kept and sent within the snapshot.
    fn owners(&self, contained: &StateVector<SessionId>) -> Bytes;

    /// Checks what a peer's snapshot says of its sessions against what is known here.
    fn check_owners(&self, contained: &StateVector<SessionId>, owners: &[u8]) -> Result<(), SharedError>;

    /// Is told what a snapshot says of its sessions: of one that is taken over, and of the one that the store has at the
    /// start.
    fn note_owners(&self, owners: &[u8]);
}

/// How the driver of a [`Session`] asks its guard, if it has one: about each patch before it goes into the machine, in the
/// order in which they come.
///
/// A guard learns whose a session is when its first patch is taken in. What comes in the same turn, before the machine's
/// outputs are carried out, is compared with that patch itself: otherwise another author's could come right behind it.
#[derive(Default)]
pub struct Gate {
    guard: Option<Arc<dyn Guard>>,
    /// The first patches of sessions that came in this turn and that the machine takes: no more than one turn takes in.
    firsts: HashMap<SessionId, PatchRecord>,
}

impl Gate {
    /// A gate with somebody at it, or an open one.
    pub fn new(guard: Option<Arc<dyn Guard>>) -> Self {
        Self { guard, firsts: HashMap::new() }
    }

    /// Whether a patch of another replica may go into the machine.
    pub fn check(&mut self, machine: &Session, record: &PatchRecord) -> Result<(), SharedError> {
        let Some(guard) = &self.guard else { return Ok(()) };
        match self.firsts.get(&record.session()) {
            Some(first) => guard.check_after(first, record)?,
            None => guard.check(record)?,
        }
        self.remember(machine, record);
        Ok(())
    }

    /// What goes into the machine of a message of a peer: of a page what may be taken in, of what it says that it has whether that
    /// is proven. With it what may not, and why.
    pub fn receive(
        &mut self,
        machine: &Session,
        from: PeerId,
        message: SyncMessage,
    ) -> (Input, Vec<Refusal>) {
        let mut refused = Vec::new();
        let message = match message {
            SyncMessage::Patches { id, mut records } => {
                refused = self.check_page(machine, &mut records, None);
                SyncMessage::Patches { id, records }
            }
            SyncMessage::Vouched { id, mut records, proof } => {
                refused = self.check_page(machine, &mut records, Some(&proof));
                SyncMessage::Patches { id, records }
            }
            SyncMessage::Signed { message, proof } => match wire::decode_sync(&message) {
                Ok((name, word)) if name == from && is_word(&word) => {
                    match self.guard.as_ref().map(|guard| guard.check_word(&from, &message, &proof)) {
                        Some(Ok(Some(voice))) => {
                            return (Input::Proven { from, voice, message: word }, refused);
                        }
                        Some(Err(reason)) => {
                            refused.push(Refusal::WordNotAllowed { peer: from.clone(), reason });
                        }
                        Some(Ok(None)) | None => {}
                    }
                    // Anybody can say it; it is what it would be without the signature.
                    word
                }
                _ => SyncMessage::Signed { message, proof },
            },
            other => other,
        };
        (Input::Message { from, message }, refused)
    }

    /// A message as it goes to peers from `own`: with this replica's word for a page in which patches do not prove themselves any
    /// more, and with its signature under what it says that it has.
    pub fn send(&self, own: &PeerId, message: SyncMessage) -> SyncMessage {
        let Some(guard) = &self.guard else { return message };
        match message {
            SyncMessage::Patches { id, records } => match guard.vouch_page(&records) {
                Some(proof) => SyncMessage::Vouched { id, records, proof },
                None => SyncMessage::Patches { id, records },
            },
            word if is_word(&word) && guard.proves_words() => {
                let bytes = wire::encode_sync(EncodingFormat::Binary, own, &word).ok();
                let proven = bytes.and_then(|bytes| Some((guard.prove_word(&bytes)?, bytes)));
                proven.map_or(word, |(proof, message)| SyncMessage::Signed { message, proof })
            }
            other => other,
        }
    }

    /// What `own` may fold: what all known peers, apart from `without`, have proven to have, and this replica has.
    ///
    /// Where it is known who the [members](Guard::members) are, nobody else is waited for, and all of them are, the absent ones
    /// too: not every discovery asks who says a goodbye, and a member that has left comes back. Who is no member has nothing folded
    /// that a member lacks, so that every member can bring it all that it has folded.
    pub fn stable(
        &self,
        machine: &Session,
        own: &PeerId,
        without: Option<&PeerId>,
    ) -> StateVector<SessionId> {
        let Some(guard) = &self.guard else { return machine.stable_by(without, |_, _| Standing::Counts) };
        let members = guard.members();
        if let Some(members) = &members {
            let mut awaited = members.iter().filter(|member| *member != own && without != Some(*member));
            if members.is_empty() || !awaited.all(|member| machine.knows(member)) {
                return StateVector::new();
            }
        }
        machine.stable_by(without, |peer, voice| match voice {
            _ if members.as_ref().is_some_and(|members| !members.contains(peer)) => Standing::Guest,
            Some(voice) if !guard.speaks_for(voice, peer) => Standing::Lapsed,
            _ => Standing::Counts,
        })
    }

    /// Leaves in a page what may go into the machine; `proof` is somebody's word for it, if there is one. Returns what may
    /// not, and why.
    fn check_page(
        &mut self,
        machine: &Session,
        records: &mut Vec<PatchRecord>,
        proof: Option<&[u8]>,
    ) -> Vec<Refusal> {
        let Some(guard) = self.guard.clone() else { return Vec::new() };
        let vouched = proof.is_some_and(|proof| guard.check_page(records, proof).is_ok());
        let mut refused = Vec::new();
        records.retain(|record| {
            let checked = if vouched {
                let first = self.firsts.get(&record.session());
                let checked = guard.check_vouched(first, record);
                checked.map(|()| self.remember(machine, record))
            } else {
                self.check(machine, record)
            };
            checked.map_err(|reason| refused.push(Refusal::NotAllowed { id: record.id, reason })).is_ok()
        });
        refused
    }

    /// As [`check`](Self::check), of a patch that a client of this node made.
    pub fn vouch(&mut self, machine: &Session, record: PatchRecord) -> Result<PatchRecord, SharedError> {
        let Some(guard) = &self.guard else { return Ok(record) };
        let record = guard.vouch(record)?;
        if let Some(first) = self.firsts.get(&record.session()) {
            guard.check_after(first, &record)?;
        }
        self.remember(machine, &record);
        Ok(record)
    }

    /// To be told at once of each patch that the machine gives to the store, and of those that are there at the start.
    pub fn note(&self, record: &PatchRecord) {
        self.guard.iter().for_each(|guard| guard.note(record));
    }

    /// To be told when all outputs have been carried out.
    pub fn turn_ends(&mut self) {
        self.firsts.clear();
    }

    fn remember(&mut self, machine: &Session, record: &PatchRecord) {
        if record.prev == 0 && machine.refusal(record).is_none() {
            self.firsts.entry(record.session()).or_insert_with(|| record.clone());
        }
    }
}

/// Whether a message says what its sender has.
const fn is_word(message: &SyncMessage) -> bool {
    matches!(message, SyncMessage::State { .. } | SyncMessage::Digest { .. } | SyncMessage::Heads { .. })
}
