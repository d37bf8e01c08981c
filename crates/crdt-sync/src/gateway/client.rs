//! The machine of one client's socket.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use crdt_core::{EncodingFormat, SessionId, StateVector};

use crate::{
    PatchRecord, PeerId, SnapshotHead, SyncMessage, Want,
    causal::CausalOrder,
    presence::{InvalidPresence, PresenceMessage},
    session::digest,
    store::{PatchPage, StoreId},
    wire::{self, WireError},
};

/// The bounds of a client's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientOptions {
    /// A page of patches, in bytes; at least one patch is in a page, however large it is. One page is made at a time,
    /// after the one before is written.
    pub page_bytes_max: usize,
    /// A part of a snapshot, in bytes. One part is made at a time, too.
    pub part_bytes_max: usize,
    /// A client that lacks more ticks than this gets a snapshot instead of patches.
    pub missing_ticks_max: u64,
    /// Sessions whose patches one socket may bring: its own, and those of windows that were closed too early. A patch
    /// of a further one ends the socket.
    pub sessions_max: usize,
    /// Sessions of which a client may say that it has something.
    pub has_max: usize,
    /// Entries of state vectors, of 16 bytes and a little more, that all sockets of a gateway hold together: two for each session of the
    /// document and each socket, most of the time. Above it newcomers are told to come again, and so is who says more than
    /// there is room for; where the document has grown meanwhile, those go of whom nothing was heard for the longest time.
    pub all_entries_max: usize,
    /// How long a client may take to say who it is; then its place is given away.
    pub hello_max: Duration,
}

impl ClientOptions {
    /// Fits people at browsers: pages of 64 KiB, a snapshot above 20 000 ticks, 256 sessions brought and as many known as a
    /// document may have, about 1 GiB of state vectors (1 024 sockets to a document of 32 768 sessions, 128 to one of
    /// 262 144), ten seconds to begin.
    pub const STANDARD: Self = Self {
        page_bytes_max: 64 << 10,
        part_bytes_max: 64 << 10,
        missing_ticks_max: 20_000,
        sessions_max: 256,
        has_max: 1 << 18,
        all_entries_max: 1 << 26,
        hello_max: Duration::from_secs(10),
    };
}

/// What happened.
#[derive(Debug, Clone)]
pub enum ClientInput {
    /// A message came over the socket.
    Frame(Bytes),
    /// The store holds this now.
    Stored(StateVector<SessionId>),
    /// The store holds this now of these sessions, and of all others what it held before.
    Grown(StateVector<SessionId>),
    /// The answer to [`ClientOutput::Read`].
    Page(PatchPage),
    /// The answer to [`ClientOutput::ReadSnapshot`]: a document in json-joy's binary form, and what it contains.
    Snapshot {
        /// What it contains.
        vector: StateVector<SessionId>,
        /// The document.
        bytes: Bytes,
    },
    /// Who is present now, and what each shows.
    Others(BTreeMap<PeerId, Bytes>),
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientOutput {
    /// Write it to the socket, and wait until it is written.
    Send(Bytes),
    /// Hand it to the node.
    Relay(PatchRecord),
    /// Read a page from the store.
    Read {
        /// Of these.
        want: Vec<Want>,
        /// At most so much.
        bytes_max: usize,
    },
    /// Make a snapshot of what the store holds.
    ReadSnapshot,
    /// The client has said who it is: let it be present.
    Join(PeerId),
    /// Show this for it.
    Show(Bytes),
    /// It goes, or is not understood: close the socket.
    Close(Option<ClientTrouble>),
}

/// Why a client is not served any longer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientTrouble {
    /// A message that is none.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A presence message that is none.
    #[error(transparent)]
    Presence(#[from] InvalidPresence),
    /// A message that clients do not send, or not yet.
    #[error("unexpected message: {0}")]
    Unexpected(&'static str),
    /// A patch of a session that is reserved for what all replicas agree on.
    #[error("session {0} is reserved: clients take one from {min} on", min = SessionId::USER_MIN)]
    Reserved(SessionId),
    /// The store holds less than it says: no hole is sent.
    #[error("the store lacks patches that it says it has")]
    Hole,
    /// It says that it has something of too many sessions.
    #[error("a state of {len} sessions: at most {max} are taken")]
    State {
        /// How many.
        len: usize,
        /// How many are taken.
        max: usize,
    },
    /// Patches of too many sessions.
    #[error("patches of more than {0} sessions over one socket")]
    Sessions(usize),
}

/// See the [module](super).
#[derive(Debug)]
pub struct ClientSession {
    options: ClientOptions,
    node: PeerId,
    store: Option<StoreId>,
    /// Whether clients bring back what of theirs the store lacks.
    takes_back: bool,
    /// Who the client is; `None` until it has said what it has.
    client: Option<PeerId>,
    /// What the client has, or has been sent.
    has: StateVector<SessionId>,
    /// What the store holds.
    stored: StateVector<SessionId>,
    /// Where that may be more than the client has: at each patch few of thousands of sessions are looked at.
    ahead: BTreeMap<SessionId, u64>,
    /// The last time of each session that the client sent and was not told to be durable.
    owed: StateVector<SessionId>,
    /// All sessions that it sent patches of.
    brought: StateVector<SessionId>,
    /// Whether an answer of the store is awaited, or being sent.
    reading: bool,
    /// A client drops for ever what comes before its causes.
    order: CausalOrder,
    /// Whether the client shall be told when it has everything.
    tell_caught_up: bool,
    shown: BTreeMap<PeerId, Bytes>,
    presence_count: u64,
    outputs: VecDeque<ClientOutput>,
    /// The snapshot that is being sent; the parts are made as they are asked for.
    sending: Option<Sending>,
}

#[derive(Debug)]
struct Sending {
    hash: u64,
    bytes: Bytes,
    offset: usize,
}

/// The first byte of a presence message. Signed patches begin so on their own channel; over a socket they come in pages.
const TAG_PRESENCE: u8 = 3;
const TAG_SYNC: u8 = 2;

impl ClientSession {
    /// The machine of a socket to `node`.
    pub fn new(node: PeerId, options: ClientOptions) -> Self {
        Self {
            options,
            node,
            store: None,
            takes_back: true,
            client: None,
            has: StateVector::new(),
            stored: StateVector::new(),
            ahead: BTreeMap::new(),
            owed: StateVector::new(),
            brought: StateVector::new(),
            reading: false,
            order: CausalOrder::default(),
            tell_caught_up: false,
            shown: BTreeMap::new(),
            presence_count: 0,
            outputs: VecDeque::new(),
            sending: None,
        }
    }

    /// The same with the id of the node's store, which clients are told.
    #[must_use]
    pub fn with_store(mut self, store: Option<StoreId>) -> Self {
        self.store = store;
        self
    }

    /// The same in a group whose patches carry what clients do not keep: proofs, or links. What clients brought back would be
    /// other patches than the peers have under the same times, so it is the peers that bring what the store lacks.
    #[must_use]
    pub fn without_what_was_lost(mut self) -> Self {
        self.takes_back = false;
        self
    }

    /// Takes in what happened. What the store holds has to be known before the first frame is taken in.
    pub fn handle_input(&mut self, input: ClientInput) {
        match input {
            ClientInput::Frame(bytes) => {
                if let Err(trouble) = self.frame(&bytes) {
                    self.outputs.push_back(ClientOutput::Close(Some(trouble)));
                }
            }
            ClientInput::Stored(vector) => {
                self.stored = vector;
                self.compare();
                self.acknowledge();
            }
            ClientInput::Grown(grown) => {
                self.stored.merge(&grown);
                self.ahead.extend(grown.iter().map(|(sid, last)| (*sid, last)));
                self.acknowledge();
            }
            ClientInput::Page(page) => self.page(page),
            ClientInput::Snapshot { vector, bytes } => self.snapshot(&vector, bytes),
            ClientInput::Others(others) => self.others(others),
        }
        self.send_missing();
    }

    /// The next thing to do, until there is none.
    pub fn poll_output(&mut self) -> Option<ClientOutput> {
        if self.outputs.is_empty() {
            self.send_part();
        }
        self.outputs.pop_front()
    }

    /// How many entries of state vectors it holds, or is going to hold when the client has everything.
    pub fn entries(&self) -> usize {
        let of_client = (self.has.len() + self.ahead.len()).max(self.stored.len());
        self.stored.len() + of_client + self.owed.len() + self.brought.len()
    }

    /// Whether the client has said who it is.
    pub fn has_joined(&self) -> bool {
        self.client.is_some()
    }

    fn frame(&mut self, bytes: &Bytes) -> Result<(), ClientTrouble> {
        match bytes.first() {
            Some(&TAG_PRESENCE) => self.presence(bytes),
            Some(&TAG_SYNC) => self.sync(bytes),
            // A map with a kind: only the kind tells.
            Some(b'{' | 0x80..=0x8f) => match wire::decode_patch(bytes) {
                Ok(record) => self.patch(record),
                Err(WireError::Kind(_)) => self.sync(bytes),
                Err(error) => Err(error.into()),
            },
            _ => self.patch(wire::decode_patch(bytes)?),
        }
    }

    fn sync(&mut self, bytes: &Bytes) -> Result<(), ClientTrouble> {
        match wire::decode_sync(bytes)? {
            (from, SyncMessage::State { vector, .. }) => {
                let (len, max) = (vector.len(), self.options.has_max);
                if len > max {
                    return Err(ClientTrouble::State { len, max });
                }
                match &self.client {
                    None => self.outputs.push_back(ClientOutput::Join(from.clone())),
                    Some(client) if *client == from => {}
                    Some(_) => return Err(ClientTrouble::Unexpected("another name than before")),
                }
                self.client = Some(from);
                // What was acknowledged and is gone has to come back, or whatever follows it waits for ever.
                let lacks = Want::missing(&self.stored, &vector);
                let (store, sessions, takes_back) = (self.store, self.stored.len() as u64, self.takes_back);
                self.send(&SyncMessage::Welcome { store, sessions, lacks, takes_back });
                self.has = vector;
                self.compare();
                self.tell_caught_up = true;
                Ok(())
            }
            (_, SyncMessage::Patches { records, .. }) => {
                records.into_iter().try_for_each(|record| self.patch(record))
            }
            _ => Err(ClientTrouble::Unexpected("a client sends its state, patches and presence")),
        }
    }

    fn patch(&mut self, record: PatchRecord) -> Result<(), ClientTrouble> {
        if self.client.is_none() {
            return Err(ClientTrouble::Unexpected("a patch before the client's state"));
        }
        let (sid, last) = (record.session(), record.last());
        if sid < SessionId::USER_MIN {
            return Err(ClientTrouble::Reserved(sid));
        }
        self.brought.advance(sid, last);
        if self.brought.len() > self.options.sessions_max {
            return Err(ClientTrouble::Sessions(self.options.sessions_max));
        }
        self.has.advance(sid, last);
        self.owed.advance(sid, last);
        self.outputs.push_back(ClientOutput::Relay(record));
        // It may be a repeat of one that is stored, and then nothing changes there.
        self.acknowledge();
        Ok(())
    }

    fn presence(&mut self, bytes: &Bytes) -> Result<(), ClientTrouble> {
        let message = PresenceMessage::decode(bytes)?;
        if self.client.as_ref() != Some(&message.peer) {
            return Err(ClientTrouble::Unexpected("presence under another name than the state's"));
        }
        if message.here {
            self.outputs.push_back(ClientOutput::Show(message.shown));
        } else {
            self.outputs.push_back(ClientOutput::Close(None));
        }
        Ok(())
    }

    /// Looks through all sessions for those where the store has more.
    fn compare(&mut self) {
        self.ahead = self.has.missing_from(&self.stored).map(|(sid, _, last)| (*sid, last)).collect();
    }

    /// What the client lacks.
    fn missing(&mut self) -> Vec<Want> {
        let has = &self.has;
        self.ahead.retain(|sid, last| has.get(sid) < *last);
        self.ahead.iter().map(|(sid, upto)| Want { sid: *sid, after: has.get(sid), upto: *upto }).collect()
    }

    /// Tells the client which of its patches are durable.
    fn acknowledge(&mut self) {
        let stored = &self.stored;
        let durable =
            |(sid, owed): (&SessionId, u64)| (stored.get(sid) > 0).then(|| (*sid, owed.min(stored.get(sid))));
        let vector: StateVector<SessionId> = self.owed.iter().filter_map(durable).collect();
        if vector.is_empty() {
            return;
        }
        let owed = self.owed.iter().filter(|(sid, last)| vector.get(sid) < *last);
        self.owed = owed.map(|(sid, last)| (*sid, last)).collect();
        self.send(&SyncMessage::State { vector, reply: false });
    }

    /// Asks for the next page of what the client lacks, or tells it that it lacks nothing.
    fn send_missing(&mut self) {
        if self.client.is_none() || self.reading {
            return;
        }
        let want = self.missing();
        if want.is_empty() {
            if std::mem::take(&mut self.tell_caught_up) {
                self.send(&SyncMessage::Digest { digest: digest(&self.stored), content: None });
            }
            return;
        }
        self.reading = true;
        let ticks = want.iter().fold(0_u64, |sum, want| sum.saturating_add(want.upto - want.after));
        let bytes_max = self.options.page_bytes_max;
        self.outputs.push_back(if self.has.is_empty() || ticks > self.options.missing_ticks_max {
            ClientOutput::ReadSnapshot
        } else {
            ClientOutput::Read { want: self.order.narrowed(&want), bytes_max }
        });
    }

    fn page(&mut self, page: PatchPage) {
        self.reading = false;
        match page {
            PatchPage::Records(records) if records.is_empty() => {
                self.reading = true;
                self.outputs.push_back(ClientOutput::Close(Some(ClientTrouble::Hole)));
            }
            PatchPage::Records(mut records) => {
                let missing = self.missing();
                self.order.keep_ready(&missing, &mut self.has, &mut records);
                // Of no use to a client, which has one source only.
                for record in records.iter_mut().filter(|record| !record.links.is_empty()) {
                    record.links = Box::default();
                }
                if !records.is_empty() {
                    self.send(&SyncMessage::Patches { id: 0, records });
                }
            }
            PatchPage::Compacted => {
                self.reading = true;
                self.outputs.push_back(ClientOutput::ReadSnapshot);
            }
        }
    }

    fn snapshot(&mut self, vector: &StateVector<SessionId>, bytes: Bytes) {
        // What the client lacks is neither among the patches nor in the snapshot: the same one again would not bring it.
        if self.has.contains(vector) {
            self.outputs.push_back(ClientOutput::Close(Some(ClientTrouble::Hole)));
            return;
        }
        let head = SnapshotHead::new(vector.clone(), &bytes);
        self.has.merge(vector);
        self.stored.merge(vector);
        self.compare();
        self.sending = Some(Sending { hash: head.hash, bytes, offset: 0 });
        self.send(&SyncMessage::Offer { id: 0, snapshot: head });
    }

    /// Makes the next part of the snapshot. What else the client lacks comes after the last one.
    fn send_part(&mut self) {
        let Some(Sending { hash, bytes, offset }) = self.sending.take() else { return };
        let end = (offset + self.options.part_bytes_max).min(bytes.len());
        if offset < end {
            let part = bytes.slice(offset..end);
            self.send(&SyncMessage::Part { id: 0, hash, offset: offset as u64, bytes: part });
        }
        if end < bytes.len() {
            self.sending = Some(Sending { hash, bytes, offset: end });
        } else {
            self.reading = false;
            self.send_missing();
        }
    }

    fn others(&mut self, mut others: BTreeMap<PeerId, Bytes>) {
        let shown = std::mem::take(&mut self.shown);
        others.retain(|peer, _| Some(peer) != self.client.as_ref());
        for peer in shown.keys().filter(|peer| !others.contains_key(*peer)) {
            self.show(peer, None);
        }
        for (peer, news) in others.iter().filter(|(peer, news)| shown.get(*peer) != Some(*news)) {
            self.show(peer, Some(news));
        }
        self.shown = others;
    }

    fn show(&mut self, peer: &PeerId, shown: Option<&Bytes>) {
        self.presence_count += 1;
        let message = PresenceMessage {
            peer: peer.clone(),
            run: 0,
            count: self.presence_count,
            here: shown.is_some(),
            hello: false,
            shown: shown.cloned().unwrap_or_default(),
        };
        self.outputs.push_back(ClientOutput::Send(message.encode()));
    }

    fn send(&mut self, message: &SyncMessage) {
        match wire::encode_sync(EncodingFormat::Binary, &self.node, message) {
            Ok(bytes) => self.outputs.push_back(ClientOutput::Send(bytes)),
            // The binary form holds every message.
            Err(error) => tracing::error!(%error, "could not write a message to a client"),
        }
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
