//! A JSON CRDT document: nodes with ids, and what operations do to them.
//!
//! [`Document`] takes patches from anyone in causal order and shows the same JSON to everyone who took the same ones.
//! To edit one, use [`Model`](crate::Model), which owns a document and makes the patches.
//!
//! Every node is sixteen bytes in one table and is found by its id through a bitmap of its session's times. Text,
//! bytes and arrays share one kind of sequence, of run-length chunks (`sequence`); what the chunks hold lies in arenas
//! (`content`). Nothing here allocates per character.

mod apply;
mod bulk;
mod check;
mod chunks;
mod compact;
mod content;
mod edit;
mod elements;
pub(crate) mod extension;
mod filling;
mod held;
mod keys;
mod keystroke;
mod links;
mod load;
mod locate;
mod node;
mod numbered;
mod observe;
mod places;
mod quick;
mod read;
mod release;
mod run;
mod sequence;
mod sessions;
mod setting;
mod store;
mod subtree;
mod survey;
mod taken;
mod time_index;
mod typing;
mod unindexed;
mod unread;
mod upkeep;
mod view;

pub use apply::{Applied, ApplyError, ReceiveError};
pub(crate) use bulk::{Bulk, NativeId};
pub(crate) use chunks::TextChunk;
pub use chunks::{Chunk, Chunks};
pub use compact::Compaction;
pub use load::{ChunkLoader, LoadError, Loader, NodeIx, SessionIx};
pub use locate::Located;
pub(crate) use locate::Piece;
pub use node::Kind;
pub(crate) use quick::{FindChunk, Found};
pub use read::{Child, ClockView, Content, Entries, NodeRef, Places};

pub(crate) use compact::Named;
pub(crate) use links::Links;
pub(crate) use observe::{Effect, Observer, Place, Removed};
pub(crate) use subtree::{Edited, Now, Renamed, Subtree};
pub(crate) use survey::{Survey, doubt};
pub(crate) use view::Shown;

use held::Held;
use store::Store;

use std::collections::HashSet;

use crate::{SessionId, StateVector, Timestamp};

/// A JSON document that many can edit at once.
///
/// # How to take in remote edits
/// [`apply`](Self::apply) takes a patch and tells whether it changed something, was known already, or names ids that
/// have not been seen: then the document is unchanged, and the caller keeps the patch until those have come.
///
/// # How to read
/// [`view`](Self::view) is the JSON value; [`root`](Self::root) walks the nodes with their ids.
///
/// # How to have many
/// A copy is as large as its original, unless that was [shared](Self::share) before: then it takes no memory until either
/// is edited.
#[derive(Debug, Clone)]
pub struct Document {
    store: Held,
    /// The next unused time.
    time: u64,
    order: Order,
    /// No patch of an earlier time can be taken in any more: what it would need may be gone. 0 for none.
    compacted_to: u64,
    /// The node that was edited last.
    target: u32,
}

/// Who numbers the operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Each session counts for itself, above all that it has seen.
    Logical,
    /// A server counts for all; there is one session, [`SessionId::SERVER`].
    Server,
}

impl Document {
    /// An empty document, edited by a session.
    pub fn new(session: SessionId) -> Self {
        Self::with(session, 1, Order::Logical)
    }

    /// An empty document whose operations a server numbers.
    pub fn new_server() -> Self {
        Self::with(SessionId::SERVER, 1, Order::Server)
    }

    fn with(session: SessionId, time: u64, order: Order) -> Self {
        let mut store = Store::new();
        store.sessions.own = store.sessions.enter(session.get());
        Self { store: Held::new(store), time: time.max(1), order, compacted_to: 0, target: node::NIL }
    }

    /// From now on copies and forks of this document share its memory, and are made in no time whatever its size. The first
    /// edit of one that still shares it copies it, as `clone` would have done otherwise; the last one keeps it.
    ///
    /// For templates that many documents begin with, for a state that is written or shown elsewhere while the document is
    /// edited on, for what may be taken back.
    ///
    /// ```
    /// use crdt_core::{Model, SessionId};
    ///
    /// let mut template = Model::new(SessionId::new(70_001).unwrap());
    /// template.api().root("warp")?;
    /// let mut template = template.into_document();
    /// template.share();
    /// let mut alice = Model::from(template.fork(SessionId::new(70_002).unwrap()));
    /// assert!(alice.document().shares_with(&template));
    /// alice.api().str("")?.ins(4, " and weft")?;
    /// assert!(!alice.document().shares_with(&template));
    /// assert_eq!(template.view(), "warp".into());
    /// # Ok::<_, crdt_core::model::EditError>(())
    /// ```
    pub fn share(&mut self) {
        self.store.share();
    }

    /// Whether two documents are [shared](Self::share) copies of which neither was edited since.
    pub fn shares_with(&self, other: &Self) -> bool {
        self.store.is_same(&other.store)
    }

    /// A copy that another session edits, [one](Self::fresh_session) that nobody else edits as. It has seen what this one has seen, this one's own edits included.
    ///
    /// It copies the memory of the document too, unless that is [shared](Self::share).
    pub fn fork(&self, session: SessionId) -> Self {
        let mut fork = self.clone();
        fork.set_session(session);
        fork
    }

    /// A session that this document has not heard of, for who edits it next: drawn by 64 random bits as
    /// [`SessionId::from_random`] does, and if it is one of this document's after all, the next one that is not. Two that edit
    /// as one session break what they share, and among millions of sessions of one document two are the same by chance some
    /// day.
    ///
    /// ```
    /// use crdt_core::{Model, SessionId};
    ///
    /// let alice = Model::new(SessionId::from_random(1 << 60));
    /// let bob = alice.fork(alice.document().fresh_session(1 << 60));
    /// assert_ne!(bob.document().session(), alice.document().session());
    /// ```
    pub fn fresh_session(&self, bits: u64) -> SessionId {
        let store = &*self.store;
        let named = |node| store.con_id(node).map(|id| id.sid.get());
        // A constant can be the id of what has yet to come.
        let named: HashSet<u64> = (0..store.nodes.len() as u32).filter_map(named).collect();
        let is_known = |sid| store.sessions.get(sid).is_some() || named.contains(&sid);
        let mut session = SessionId::from_random(bits);
        while is_known(session.get()) {
            session = SessionId::new(session.get() + 1).unwrap_or(SessionId::USER_MIN);
        }
        session
    }

    /// Goes on as another session.
    pub fn set_session(&mut self, session: SessionId) {
        if self.session() != session {
            self.store.switch(session.get(), self.time - 1);
        }
    }

    /// The session whose edits the next ones are.
    pub fn session(&self) -> SessionId {
        SessionId::new(self.store.own_sid()).unwrap_or(SessionId::SYSTEM)
    }

    /// The next unused time.
    pub const fn time(&self) -> u64 {
        self.time
    }

    /// Who numbers the operations.
    pub const fn order(&self) -> Order {
        self.order
    }

    /// The last time at which the session that edits it made something; 0 for none.
    pub(crate) fn made(&self) -> u64 {
        self.store.made()
    }

    /// The id that the next operation gets.
    pub fn next_id(&self) -> Timestamp {
        Timestamp::new(self.session(), self.time)
    }

    /// What has been seen: for each session its last time, its own included if it has made anything.
    pub fn state_vector(&self) -> StateVector {
        let sessions = self.sessions_seen();
        sessions.filter_map(|(sid, seen)| Some((SessionId::new(sid).ok()?, seen?))).collect()
    }

    /// The peers of json-joy's clock: the other sessions with the last time seen of each, in the order in which they were seen
    /// first. A session that was [left](Self::set_session) counts as seen up to the time at which it was, whether or not it
    /// had made that much; what it made is in the [state vector](Self::state_vector).
    pub fn peers(&self) -> impl ExactSizeIterator<Item = Timestamp> + '_ {
        let peers = self.store.peers().into_iter();
        peers.map(|(sid, time)| Timestamp::new(SessionId::new(sid).unwrap_or(SessionId::SYSTEM), time))
    }

    /// All sessions in the order of their numbers, each with the last time seen of it; `None` for one that was only named.
    pub(crate) fn sessions_seen(&self) -> impl ExactSizeIterator<Item = (u64, Option<u64>)> + '_ {
        self.store.all_seen()
    }

    /// The time up to which tombstones have been dropped; 0 for none.
    pub const fn compacted_to(&self) -> u64 {
        self.compacted_to
    }

    /// How many nodes it has, those that nothing refers to included.
    pub fn node_count(&self) -> usize {
        self.store.nodes.len() - self.store.free_len() - self.store.ghosts_len()
    }

    /// Whether something refers to a node that was removed elsewhere.
    pub(crate) fn has_ghosts(&self) -> bool {
        self.store.ghosts_len() > 0
    }

    /// Bytes of memory that it takes, roughly. What copies [share](Self::share) counts in full for each.
    pub fn size_bytes(&self) -> usize {
        size_of::<Self>() + self.store.size_bytes()
    }
}
