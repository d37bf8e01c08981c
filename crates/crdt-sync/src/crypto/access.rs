//! Signed patches and the list of those who may sign.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::{BufMut, Bytes, BytesMut};
use crdt_core::{SessionId, StateVector, Timestamp};
use ed25519_dalek::{Signature, SigningKey, VerifyingKey};

use super::names::Names;
use crate::{Guard, PatchRecord, PeerId, SharedError, SignerId, SnapshotHead};

/// Of an author's key that many bytes stand in the proof.
const KEY_ID_BYTES: usize = size_of::<KeyId>();
/// They tell it from all others on the list.
pub(super) type KeyId = SignerId;
const SIGNATURE_BYTES: usize = 64;

/// The public key of an author (Ed25519, RFC 8032).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthorKey(VerifyingKey);

impl AuthorKey {
    /// Takes a key from its 32 bytes.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, AccessError> {
        match VerifyingKey::from_bytes(bytes) {
            Ok(key) if !key.is_weak() => Ok(Self(key)),
            _ => Err(AccessError::NotAKey),
        }
    }

    /// The 32 bytes.
    pub fn to_bytes(self) -> [u8; 32] {
        self.0.to_bytes()
    }

    fn id(self) -> KeyId {
        let mut id = [0; KEY_ID_BYTES];
        id.copy_from_slice(&self.to_bytes()[..KEY_ID_BYTES]);
        id
    }
}

/// What the holder of a key may do with a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Take part and see everything, but change nothing: its patches are refused.
    Read,
    /// Write patches, and offer snapshots.
    Write,
}

/// Signs the patches of one author.
pub struct Signer {
    key: SigningKey,
}

impl Signer {
    /// Takes the 32 secret bytes; the caller brings the randomness, once.
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        Self { key: SigningKey::from_bytes(secret) }
    }

    /// The key that goes on the allow-list.
    pub fn author(&self) -> AuthorKey {
        AuthorKey(self.key.verifying_key())
    }

    fn proof(&self, message: &[u8]) -> Bytes {
        use ed25519_dalek::Signer as _;
        let mut proof = BytesMut::with_capacity(KEY_ID_BYTES + SIGNATURE_BYTES);
        proof.put_slice(&self.author().id());
        proof.put_slice(&self.key.sign(message).to_bytes());
        proof.freeze()
    }
}

/// Who may do what with one document, and the key of this replica if it writes.
pub struct Access {
    /// In every signature, so that a patch of one document is not one of another.
    pub(super) document: Box<str>,
    signer: Option<Signer>,
    // Never held across an await: each call is one short look or change.
    list: RwLock<List>,
    /// Whether it signs for clients of this node that have no key.
    vouches: bool,
    /// Whether all replicas that are waited for are bound to keys.
    binds_all: bool,
}

#[derive(Default)]
struct List {
    authors: BTreeMap<KeyId, (AuthorKey, Role)>,
    /// Those who were on it: what they wrote before is checked all the same when it comes late.
    left: BTreeMap<KeyId, AuthorKey>,
    /// Whose session is whose: the first author of a session is the only one.
    sessions: BTreeMap<SessionId, KeyId>,
    /// Whose name is whose.
    names: Names,
}

/// Why a proof was refused. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// The bytes are no public key that can be trusted.
    #[error("not an Ed25519 public key")]
    NotAKey,
    /// Another key on the list begins with the same bytes.
    #[error("another key on the list has the same id")]
    SameId,
    /// The list is full.
    #[error("the list holds {} authors, its limit", Access::AUTHORS_MAX)]
    TooMany,
    /// There is no proof where one must be.
    #[error("{what} is not signed")]
    NotSigned {
        /// What.
        what: String,
    },
    /// The proof is not of the length of one.
    #[error("proof of {len_bytes} bytes: {} are expected", KEY_ID_BYTES + SIGNATURE_BYTES)]
    Length {
        /// Its length.
        len_bytes: usize,
    },
    /// The key is not on the list.
    #[error("the key of {what} is not on the list")]
    Unknown {
        /// Of what.
        what: String,
    },
    /// The key is on the list, and may not write.
    #[error("the author of {what} may not write")]
    ReadOnly {
        /// Of what.
        what: String,
    },
    /// The signature does not fit what it came with.
    #[error("the signature of {what} is wrong")]
    Forged {
        /// Of what.
        what: String,
    },
    /// What a snapshot says of whose its sessions are is cut off, names a session twice, or one that is none.
    #[error("whose the sessions are is not told for each session once")]
    Owners,
    /// Another author has written in this session.
    #[error("patch {0} is of a session that belongs to another author")]
    OtherAuthor(Timestamp),
    /// Another key speaks for the replica of that name, or this one speaks for others only.
    #[error("the key {key:016x} does not speak for {peer}")]
    OtherName {
        /// The name.
        peer: PeerId,
        /// The first 8 bytes of the key that signed.
        key: u64,
    },
    /// A snapshot does not say whose a session in it is, so that anyone could go on with it.
    #[error("the snapshot does not say whose session {0} is")]
    NoOwner(SessionId),
}

impl Access {
    /// How many authors a document may have; [`Access::allow`] refuses more.
    pub const AUTHORS_MAX: usize = 65_536;

    /// An empty list: nobody may write, not even the signer.
    pub fn new(document: impl Into<Box<str>>, signer: Option<Signer>) -> Self {
        Self { document: document.into(), signer, list: RwLock::default(), vouches: false, binds_all: false }
    }

    /// The same for a node that answers for its clients: what they make without a key, windows of a browser say, it signs
    /// with its own. Their sessions are its author's from then on, so that such a client can't go on at another node under
    /// the same session.
    #[must_use]
    pub fn vouching_for_clients(mut self) -> Self {
        self.vouches = true;
        self
    }

    /// The same for a group in which every replica that is to be waited for is [bound](Self::bind) by its name. Others take part and
    /// are not waited for: one without a key that only reads, say, or a name that somebody has made up. What is folded without
    /// them reaches them in a snapshot, and what they have written goes on top of that. All lists of the group say so, or none.
    ///
    /// One that is not bound folds what all bound ones have, whether they are there or not: take who has left for good from the list.
    #[must_use]
    pub fn waiting_for_bound_names(mut self) -> Self {
        self.binds_all = true;
        self
    }

    fn list(&self) -> RwLockReadGuard<'_, List> {
        self.list.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn list_mut(&self) -> RwLockWriteGuard<'_, List> {
        self.list.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Puts a key on the list, or gives it another role.
    pub fn allow(&self, author: AuthorKey, role: Role) -> Result<(), AccessError> {
        let List { authors, left, .. } = &mut *self.list_mut();
        let known = authors.get(&author.id()).map(|(key, _)| *key).or(left.get(&author.id()).copied());
        match known {
            Some(other) if other != author => return Err(AccessError::SameId),
            None if authors.len() + left.len() >= Self::AUTHORS_MAX => return Err(AccessError::TooMany),
            _ => {}
        }
        left.remove(&author.id());
        authors.insert(author.id(), (author, role));
        Ok(())
    }

    /// Takes a key from the list: what its holder sends from now on is refused.
    ///
    /// What it wrote before stays, and reaches those who lack it, newcomers too: in the pages of a writer who has taken it in,
    /// and gives its word for it. So what counts is when the writers are told, not when the patches come. A writer who has
    /// not been told yet takes in what the key signs, and what one writer has all get.
    pub fn revoke(&self, author: AuthorKey) {
        let List { authors, left, names, .. } = &mut *self.list_mut();
        if authors.remove(&author.id()).is_some() {
            left.insert(author.id(), author);
            names.leave(author.id());
        }
    }

    /// Binds a replica's name to a key: what the replica of that name says that it has counts only if this key signed it, also
    /// after a restart, and this key speaks for the names that it is bound to and no others. A name is bound to one key, the
    /// last one given; a key may have many names.
    ///
    /// Names that are bound to no key belong to the first key that signs something under them, for as long as this `Access`
    /// lives and the key is on the list: another one that comes before the right one takes its name. Where those on the list may
    /// not be trusted with that, bind all names.
    ///
    /// # Errors
    /// If the key is not on the list.
    pub fn bind(&self, peer: PeerId, author: AuthorKey) -> Result<(), AccessError> {
        let List { authors, names, .. } = &mut *self.list_mut();
        match authors.get(&author.id()) {
            Some((key, _)) if *key == author => {
                names.bind(peer, author.id());
                Ok(())
            }
            _ => Err(AccessError::Unknown { what: format!("the replica {peer}") }),
        }
    }

    #[tracing::instrument(level = "trace", skip_all, fields(id = %record.id))]
    fn sign(&self, mut record: PatchRecord) -> Result<PatchRecord, AccessError> {
        let what = || format!("patch {}", record.id);
        let signer = self.signer.as_ref().ok_or_else(|| AccessError::ReadOnly { what: what() })?;
        let proof = signer.proof(&self.patch_message(&record));
        record.proof = proof;
        self.check_patch(&record).map(|()| record)
    }

    fn check_patch(&self, record: &PatchRecord) -> Result<(), AccessError> {
        let what = || format!("patch {}", record.id);
        let author = self.verify(&record.proof, &self.patch_message(record), what)?;
        self.check_owner(record, author)
    }

    fn check_owner(&self, record: &PatchRecord, author: KeyId) -> Result<(), AccessError> {
        match self.list().sessions.get(&record.session()) {
            Some(owner) if *owner != author => Err(AccessError::OtherAuthor(record.id)),
            _ => Ok(()),
        }
    }

    /// A patch that a writer has given its word for. Of those who may write the signature counts as ever, so that nobody
    /// gives a word for them; of others it has to be right if the key is known.
    fn check_vouched_patch(&self, record: &PatchRecord) -> Result<(), AccessError> {
        let (id, signature) = split_proof(&record.proof, || format!("patch {}", record.id))?;
        let (author, left) = {
            let list = self.list();
            (list.authors.get(id).copied(), list.left.get(id).copied())
        };
        let known = match author {
            Some((_, Role::Write)) => return self.check_patch(record),
            Some((key, Role::Read)) => Some(key),
            None => left,
        };
        let message = self.patch_message(record);
        if known.is_some_and(|AuthorKey(key)| key.verify_strict(&message, &signature).is_err()) {
            return Err(AccessError::Forged { what: format!("patch {}", record.id) });
        }
        self.check_owner(record, *id)
    }

    /// Whether a patch proves itself: its author may write.
    fn is_by_writer(&self, record: &PatchRecord) -> bool {
        let list = self.list();
        let author = key_id(record).and_then(|id| list.authors.get(id));
        author.is_some_and(|(_, role)| *role == Role::Write)
    }

    fn verify(&self, proof: &[u8], message: &[u8], what: impl Fn() -> String) -> Result<KeyId, AccessError> {
        self.verify_as(Role::Write, proof, message, what)
    }

    /// Whose proof it is, if that key has at least that role.
    #[tracing::instrument(name = "verify", level = "trace", skip_all)]
    fn verify_as(
        &self,
        least: Role,
        proof: &[u8],
        message: &[u8],
        what: impl Fn() -> String,
    ) -> Result<KeyId, AccessError> {
        let (id, signature) = split_proof(proof, &what)?;
        let author = self.list().authors.get(id).copied();
        let Some((AuthorKey(key), role)) = author else { return Err(AccessError::Unknown { what: what() }) };
        if role < least {
            return Err(AccessError::ReadOnly { what: what() });
        }
        // Strict: one message has one signature that fits, so that a relay can't make another one of it.
        match key.verify_strict(message, &signature) {
            Ok(()) => Ok(*id),
            Err(_) => Err(AccessError::Forged { what: what() }),
        }
    }
}

/// A proof's key and signature.
fn split_proof(proof: &[u8], what: impl Fn() -> String) -> Result<(&KeyId, Signature), AccessError> {
    if proof.is_empty() {
        return Err(AccessError::NotSigned { what: what() });
    }
    let wrong_length = AccessError::Length { len_bytes: proof.len() };
    let (id, signature) = proof.split_first_chunk::<KEY_ID_BYTES>().ok_or(wrong_length.clone())?;
    let signature = <&[u8; SIGNATURE_BYTES]>::try_from(signature).map_err(|_| wrong_length)?;
    Ok((id, Signature::from_bytes(signature)))
}

/// Whose proof a patch carries.
fn key_id(record: &PatchRecord) -> Option<&KeyId> {
    record.proof.split_first_chunk().map(|(id, _)| id)
}

impl From<AccessError> for SharedError {
    fn from(error: AccessError) -> Self {
        Self::new(error)
    }
}

impl Guard for Access {
    fn prove(&self, record: PatchRecord) -> Result<PatchRecord, SharedError> {
        Ok(self.sign(record)?)
    }

    fn check(&self, record: &PatchRecord) -> Result<(), SharedError> {
        Ok(self.check_patch(record)?)
    }

    fn check_after(&self, first: &PatchRecord, record: &PatchRecord) -> Result<(), SharedError> {
        self.check_patch(record)?;
        if key_id(first) == key_id(record) { Ok(()) } else { Err(AccessError::OtherAuthor(record.id).into()) }
    }

    fn vouch(&self, record: PatchRecord) -> Result<PatchRecord, SharedError> {
        if self.vouches && record.proof.is_empty() {
            return self.prove(record);
        }
        self.check(&record).map(|()| record)
    }

    fn vouch_page(&self, records: &[PatchRecord]) -> Option<Bytes> {
        let signer = self.signer.as_ref()?;
        let writes = matches!(self.list().authors.get(&signer.author().id()), Some((_, Role::Write)));
        if !writes || records.iter().all(|record| self.is_by_writer(record)) {
            return None;
        }
        Some(signer.proof(&self.page_message(records)))
    }

    fn check_page(&self, records: &[PatchRecord], proof: &[u8]) -> Result<(), SharedError> {
        let verified = self.verify(proof, &self.page_message(records), || "a page".to_owned());
        Ok(verified.map(drop)?)
    }

    fn check_vouched(&self, first: Option<&PatchRecord>, record: &PatchRecord) -> Result<(), SharedError> {
        self.check_vouched_patch(record)?;
        match first {
            Some(first) if key_id(first) != key_id(record) => Err(AccessError::OtherAuthor(record.id).into()),
            _ => Ok(()),
        }
    }

    fn signer(&self, record: &PatchRecord) -> Option<SignerId> {
        // Of a key that is on no list nobody has checked the signature.
        let list = self.list();
        let id = key_id(record)?;
        (list.authors.contains_key(id) || list.left.contains_key(id)).then_some(*id)
    }

    fn proves_words(&self) -> bool {
        true
    }

    fn prove_word(&self, message: &[u8]) -> Option<Bytes> {
        let signer = self.signer.as_ref()?;
        Some(signer.proof(&self.word_message(message)))
    }

    fn check_word(&self, from: &PeerId, message: &[u8], proof: &[u8]) -> Result<Option<u64>, SharedError> {
        let message = self.word_message(message);
        // Whose key is on no list says what anybody can say.
        let Ok(key) = self.verify_as(Role::Read, proof, &message, || "what a peer has".to_owned()) else {
            return Ok(None);
        };
        let voice = u64::from_be_bytes(key);
        if self.list_mut().names.speaks(from, key) {
            return Ok(Some(voice));
        }
        Err(AccessError::OtherName { peer: from.clone(), key: voice }.into())
    }

    fn members(&self) -> Option<BTreeSet<PeerId>> {
        let List { authors, names, .. } = &*self.list();
        let listed = names.bound().filter(|(_, key)| authors.contains_key(*key));
        self.binds_all.then(|| listed.map(|(peer, _)| peer.clone()).collect())
    }

    fn speaks_for(&self, voice: u64, peer: &PeerId) -> bool {
        self.list().names.owner(peer) == Some(voice.to_be_bytes())
    }

    fn has_voice(&self, peer: &PeerId) -> bool {
        self.list().names.owner(peer).is_some()
    }

    fn note(&self, record: &PatchRecord) {
        if let Some(id) = key_id(record) {
            self.list_mut().sessions.entry(record.session()).or_insert(*id);
        }
    }

    fn prove_snapshot(&self, head: SnapshotHead, bytes: &[u8]) -> Option<SnapshotHead> {
        let proof = self.signer.as_ref()?.proof(&self.snapshot_message(&head, bytes));
        Some(SnapshotHead { proof, ..head })
    }

    fn check_snapshot(&self, head: &SnapshotHead, bytes: &[u8]) -> Result<(), SharedError> {
        let verified =
            self.verify(&head.proof, &self.snapshot_message(head, bytes), || "a snapshot".to_owned());
        Ok(verified.map(drop)?)
    }

    fn owners(&self, contained: &StateVector<SessionId>) -> Bytes {
        let list = self.list();
        let mut out = BytesMut::with_capacity(contained.len() * OWNER_BYTES);
        for (sid, _) in contained.iter() {
            if let Some(owner) = list.sessions.get(sid) {
                out.put_u64(sid.get());
                out.put_slice(owner);
            }
        }
        out.freeze()
    }

    fn check_owners(&self, contained: &StateVector<SessionId>, owners: &[u8]) -> Result<(), SharedError> {
        let said: BTreeMap<SessionId, KeyId> = read_owners(owners).collect();
        // Who reads one entry here must not read another one when it is noted.
        if said.len() * OWNER_BYTES != owners.len() {
            return Err(AccessError::Owners.into());
        }
        let list = self.list();
        for (sid, last) in contained.iter() {
            match (said.get(sid), list.sessions.get(sid)) {
                (None, _) => return Err(AccessError::NoOwner(*sid).into()),
                (Some(said), Some(known)) if said != known => {
                    return Err(AccessError::OtherAuthor(Timestamp::new(*sid, last)).into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn note_owners(&self, owners: &[u8]) {
        let mut list = self.list_mut();
        for (sid, owner) in read_owners(owners) {
            list.sessions.entry(sid).or_insert(owner);
        }
    }
}

/// A session, and the id of its author's key.
const OWNER_BYTES: usize = 8 + KEY_ID_BYTES;

fn read_owners(owners: &[u8]) -> impl Iterator<Item = (SessionId, KeyId)> {
    owners.chunks_exact(OWNER_BYTES).filter_map(|entry| {
        let (sid, owner) = entry.split_first_chunk::<8>()?;
        Some((SessionId::new(u64::from_be_bytes(*sid)).ok()?, owner.try_into().ok()?))
    })
}
