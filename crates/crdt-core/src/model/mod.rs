//! Editing a document by path and position, and the patches that come of it.

mod api;
mod change;
mod cursor;
mod diff;
mod error;
mod extension;
mod history;
pub mod json_patch;
mod path;
mod position;
mod rich;
pub mod schema;
mod sinks;
mod transaction;
mod undo;
mod written;

pub use api::Api;
pub use change::{Change, ChangePath, ChangeSet, Delta, Diff, KeyChange, Origin, PlaceChange};
pub use cursor::{ArrCursor, BinCursor, ConCursor, ObjCursor, StrCursor, ValCursor, VecCursor};
pub use error::EditError;
pub use extension::{CounterCursor, Extension, MultiValueCursor};
pub use history::{Authored, History, Part, Version};
pub use path::{Path, PathStep, Step};
pub use position::{RelativePosition, Selection, Side};
pub use rich::{
    Block, BlockStep, Expand, InvalidQuill, QuillEditor, QuillOp, RichTextCursor, Slice, Span, Stacking,
};
pub use schema::Schema;
pub use undo::{UndoOptions, Undone};

use std::{sync::Arc, time::Duration};

use api::{find_node, past_registers};
use change::Watch;
use cursor::uncut;
use sinks::Sinks;
use transaction::Spare;
use undo::Undo;
use written::Written;

use crate::{
    Patch, PatchBuilder, SessionId, StateVector, Timestamp, Value,
    document::{Applied, ApplyError, Compaction, Document, ReceiveError},
};

/// A document with the edits that have not been sent yet.
///
/// ```
/// use crdt_core::{Applied, Model, SessionId, Value};
/// use serde_json::json;
///
/// let mut alice = Model::new(SessionId::new(70_001).unwrap());
/// alice.api().root(&json!({"title": "Weft", "tags": ["crdt"]})).unwrap();
/// alice.api().str("/title").unwrap().ins(4, "!").unwrap();
/// alice.api().arr("/tags").unwrap().ins(1, ["sync"]).unwrap();
/// let patch = alice.flush().unwrap();
///
/// let mut bob = Model::new(SessionId::new(70_002).unwrap());
/// assert_eq!(bob.apply(&patch).unwrap(), Applied::Merged);
/// assert_eq!(bob.view(), Value::from(&json!({"tags": ["crdt", "sync"], "title": "Weft!"})));
/// ```
///
/// Every edit changes the document at once and is written to the open patch; [`flush`](Self::flush) ends that patch. The
/// operations are those that json-joy makes for the same edits.
#[derive(Debug, Clone)]
pub struct Model {
    doc: Written,
    patch: PatchBuilder,
    /// The last time of the session that was flushed; 0 for none.
    flushed: u64,
    /// Who watches; most do not, and then nothing is gathered.
    watch: Option<Box<Watch>>,
    undo: Option<Box<Undo>>,
    history: Option<Box<History>>,
    /// The time, if somebody has told it.
    now: Option<Duration>,
    /// What the edits that are being made are.
    origin: Origin,
    /// What transactions go back to.
    spare: Spare,
}

impl Model {
    /// An empty document, edited by a session. For one that is drawn at random ([`SessionId::from_random`]): those that are
    /// reserved mean the same to everyone, so two who edit as one of them break what they share. As
    /// [`SessionId::SYSTEM`] nobody edits; such a document is edited as [`SessionId::LOCAL`].
    pub fn new(session: SessionId) -> Self {
        Document::new(session).into()
    }

    /// The document.
    pub const fn document(&self) -> &Document {
        self.doc.document()
    }

    /// The document alone. Edits that were not flushed are in it, and in no patch.
    pub fn into_document(self) -> Document {
        self.doc.into_document()
    }

    /// The document in json-joy's binary form, as [`Document::to_binary`] writes it; written once, and again only when
    /// something has changed since. For a server that sends it to one newcomer after another: until the next edit, each
    /// after the first costs a count.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use crdt_core::{Model, SessionId};
    ///
    /// let mut model = Model::new(SessionId::new(70_001).unwrap());
    /// model.api().root("warp")?;
    /// let first = model.snapshot();
    /// assert!(Arc::ptr_eq(&first, &model.snapshot()));
    ///
    /// model.api().str("")?.ins(4, " and weft")?;
    /// assert_eq!(model.snapshot()[..], model.document().to_binary());
    /// assert_ne!(first, model.snapshot());
    /// # Ok::<_, crdt_core::model::EditError>(())
    /// ```
    ///
    /// Edits that were not flushed are in it. The bytes take their length in memory until the next change or
    /// [`shrink`](Self::shrink); copies of the model have the same ones. Who writes only now and then, or after each
    /// edit, calls `to_binary`, which keeps nothing and copies nothing.
    pub fn snapshot(&self) -> Arc<[u8]> {
        self.doc.bytes()
    }

    /// The document as a JSON value.
    pub fn view(&self) -> Value {
        self.doc.view()
    }

    /// Takes in a patch of another session: [`Document::apply`].
    ///
    /// # Errors
    /// [`ApplyError`]; then nothing has changed.
    pub fn apply(&mut self, patch: &Patch) -> Result<Applied, ApplyError> {
        let applied = self.apply_watched(patch.as_ref())?;
        if applied == Applied::Merged && self.history.is_some() {
            self.remember(patch);
        }
        Ok(applied)
    }

    fn apply_watched(&mut self, patch: crate::PatchRef<'_>) -> Result<Applied, ApplyError> {
        self.follow(patch.as_bytes().len());
        // Undo goes by ids: it need not know what others do.
        if self.watch.is_none() {
            let applied = self.doc.apply(|doc| doc.apply_ref(patch));
            self.follow_patch(patch, &applied);
            return applied;
        }
        let mut sinks = Sinks { watch: self.watch.as_deref_mut(), undo: None };
        // A patch that was sent while it was open can come again with more in it.
        let start = self.doc.first_unseen(patch);
        sinks.begin(&self.doc, Origin::Remote, start, Some(patch.next_time()));
        let applied = self.doc.apply(|doc| doc.apply_observed(patch, &mut sinks));
        sinks.close(&self.doc);
        self.follow_patch(patch, &applied);
        applied
    }

    /// Begins to gather what changes, for [`poll_changes`](Self::poll_changes). Takes a walk over the whole document
    /// once; then every edit costs a little more than unwatched.
    ///
    /// ```
    /// use crdt_core::{Model, SessionId, Value, model::{Delta, Diff, Origin}};
    /// use serde_json::json;
    ///
    /// let mut model = Model::new(SessionId::new(70_001).unwrap());
    /// model.api().root(&json!({"title": "Warp", "tags": []}))?;
    /// model.watch();
    ///
    /// model.api().str("/title")?.ins(4, " and weft")?;
    /// let set = model.poll_changes().unwrap();
    /// assert_eq!(set.origin, Origin::Local);
    /// assert_eq!(set.changes[0].path.to_string(), "/title");
    /// assert_eq!(set.changes[0].diff, Diff::Text(vec![Delta::Retain(4), Delta::Insert(" and weft".into())]));
    /// # Ok::<_, crdt_core::model::EditError>(())
    /// ```
    pub fn watch(&mut self) {
        if self.watch.is_none() {
            self.watch = Some(Box::new(Watch::of(&self.doc)));
        }
    }

    /// Stops gathering what changes, and forgets what was not fetched.
    pub fn unwatch(&mut self) {
        self.watch = None;
    }

    /// The oldest changes that have not been fetched; `None` if there are none, or if nobody [watches](Self::watch).
    ///
    /// Call it until there are none, after each edit or patch or now and then.
    pub fn poll_changes(&mut self) -> Option<ChangeSet> {
        self.watch.as_deref_mut()?.poll(&self.doc)
    }

    /// The most sets of changes that wait. If more come, all that wait are dropped, and the next one that is fetched is
    /// the whole view.
    pub const SETS_MAX: usize = change::SETS_MAX;

    /// The most bytes that the values in them take, roughly, and as much again in the set that is being gathered: that of one
    /// patch, or of the edits since the last one that was fetched or flushed. With more it is as with too many.
    pub const CHANGE_BYTES_MAX: usize = change::BYTES_MAX;

    #[inline]
    const fn is_observed(&self) -> bool {
        self.watch.is_some() || self.undo.is_some()
    }

    /// Tells the time, from any fixed start on, to what wants to know it: the steps of [undo](Self::enable_undo), the
    /// [history](Self::keep_history).
    pub fn set_now(&mut self, now: Duration) {
        self.now = Some(now);
        self.set_undo_now(now);
    }

    /// Drops tombstones that nobody can refer to any more: [`Document::compact`]. Edits that were not flushed are ahead of
    /// what everyone has reached. A kept history is left whole: [`History::compact`].
    pub fn compact(&mut self, stable: &StateVector) -> Compaction {
        let (own, last) = (self.doc.session(), self.patch.next_id().time - 1);
        let is_behind = || self.doc.state_vector().missing_from(stable).next().is_some();
        if self.has_edits() && stable.get(&own) >= last && !is_behind() {
            return Compaction::Ahead { extra: Timestamp::new(own, last) };
        }
        let compaction = self.doc.compact(stable);
        if let Compaction::Done { .. } = compaction {
            self.follow_document();
        }
        compaction
    }

    /// [`apply`](Self::apply) for borrowed bytes.
    ///
    /// # Errors
    /// [`ApplyError`]; then nothing has changed.
    pub fn apply_ref(&mut self, patch: crate::PatchRef<'_>) -> Result<Applied, ApplyError> {
        if self.history.is_some() {
            return self.apply(&patch.to_patch());
        }
        self.apply_watched(patch)
    }

    /// Reads a patch of anyone and [applies](Self::apply) it: [`Document::apply_bytes`], the fastest way for bytes as they
    /// come from a peer. Who watches or keeps a history pays for that as with `apply`.
    ///
    /// # Errors
    /// [`ReceiveError`]; then nothing has changed.
    pub fn apply_bytes(&mut self, bytes: &[u8]) -> Result<Applied, ReceiveError> {
        if self.watch.is_none() && self.history.is_none() && self.spare.is_none() {
            return self.doc.apply(|doc| doc.apply_bytes(bytes));
        }
        Ok(self.apply(&Patch::decode(bytes)?)?)
    }

    /// Ends the open patch and returns it; `None` if there were no edits, and within a
    /// [transaction](Self::transaction), whose edits may yet be taken back.
    pub fn flush(&mut self) -> Option<Patch> {
        if self.in_transaction() {
            return None;
        }
        self.end_edits();
        let patch = self.patch.take();
        self.follow_flush();
        if self.history.is_some()
            && let Some(patch) = &patch
        {
            self.remember(patch);
        }
        patch
    }

    /// [Ends](Self::flush) the open patch and appends its binary form to a buffer. Returns how many bytes that took, 0 if
    /// there was nothing to be ended. For who sends many small patches: it takes no allocation of its own.
    #[inline]
    pub fn flush_into(&mut self, out: &mut Vec<u8>) -> usize {
        if self.history.is_some() || self.spare.is_some() {
            let patch = self.flush();
            let bytes = patch.as_ref().map_or(&[][..], Patch::as_bytes);
            out.extend_from_slice(bytes);
            return bytes.len();
        }
        self.end_edits();
        self.patch.take_into(out)
    }

    #[inline]
    fn end_edits(&mut self) {
        self.follow(0);
        if self.has_edits() {
            self.flushed = self.patch.next_id().time - 1;
        }
        if let Some(watch) = &mut self.watch {
            watch.close(&self.doc);
        }
        if let Some(undo) = &mut self.undo {
            undo.flushed();
        }
    }

    /// The edits that were not flushed, as the patch that [`flush`](Self::flush) would give; they stay open.
    pub fn open_patch(&self) -> Option<Patch> {
        self.patch.clone().finish()
    }

    /// About how many bytes that patch takes: those of its operations.
    pub const fn open_len_bytes(&self) -> usize {
        self.patch.body_len()
    }

    /// Whether there are edits that were not flushed.
    pub const fn has_edits(&self) -> bool {
        !self.patch.is_empty()
    }

    /// Goes on with another state of the same document, one that contains all that this one does: with a snapshot of a peer
    /// that is far ahead, say. It is edited under the session that it was edited under before. [Flush](Self::flush) first:
    /// edits that were not flushed go.
    ///
    /// Who [watches](Self::watch) is told the whole view next, as after too many changes. What can be
    /// [undone](Self::enable_undo) stays, since it goes by ids. A [history](Self::keep_history) begins anew: the patches
    /// between the two states are not known.
    ///
    /// # Errors
    /// [`EditError::Behind`] if the document lacks something that was flushed here or has come; then nothing has changed. A
    /// document that was read from one of json-joy's forms may lack sessions of which nothing is left in it.
    pub fn replace_document(&mut self, mut document: Document) -> Result<(), EditError> {
        let own = self.doc.session();
        let needed = self.doc.state_vector();
        let sent = |session: SessionId, seen: u64| {
            if session == own && self.has_edits() { self.flushed } else { seen }
        };
        let needed: StateVector =
            needed.iter().map(|(&session, seen)| (session, sent(session, seen))).collect();
        if let Some((&session, _, seen)) = document.state_vector().missing_from(&needed).next() {
            return Err(EditError::Behind { missing: Timestamp::new(session, seen) });
        }
        document.set_session(own);
        self.flushed = document.made();
        self.patch = PatchBuilder::new(document.session(), document.time());
        self.doc = Written::new(document);
        self.follow_document();
        if let Some(watch) = &mut self.watch {
            watch.replaced(&self.doc);
        }
        if self.history.is_some() {
            self.begin_history();
        }
        Ok(())
    }

    /// From now on copies and forks of this model share the document's memory until they are edited:
    /// [`Document::share`].
    pub fn share(&mut self) {
        self.doc.share();
    }

    /// A copy that another session edits. Open edits are in it, but stay with this one to be sent. [`share`](Self::share) first if there will be many.
    pub fn fork(&self, session: SessionId) -> Self {
        self.doc.fork(session).into()
    }

    /// Writes operations to the patch and runs them.
    pub(crate) fn write<R>(&mut self, build: impl FnOnce(&mut PatchBuilder) -> R) -> Result<R, EditError> {
        let mark = self.patch.mark();
        self.patch.skip_to(self.doc.time());
        let skipped = self.patch.len_since(mark);
        let result = build(&mut self.patch);
        let len = self.patch.len_since(mark);
        if len == skipped {
            // Time that nothing has used is not told to others.
            self.patch.truncate(mark);
            return Ok(result);
        }
        if let Err(error) = uncut(&mut self.patch).and_then(|()| self.room(len)) {
            self.patch.truncate(mark);
            return Err(error);
        }
        if self.is_observed() {
            let start = self.patch.id_since(mark);
            let ops = self.patch.ops_since(mark);
            let undo = self.undo.as_deref_mut().map(|undo| (undo, self.origin));
            let mut sinks = Sinks { watch: self.watch.as_deref_mut(), undo };
            sinks.begin(&self.doc, self.origin, start, None);
            self.doc.edit_ops_observed(ops, &mut sinks);
        } else {
            self.doc.edit_ops(self.patch.ops_since(mark));
        }
        self.doc.tidy();
        Ok(result)
    }

    /// Whether an edit of about so many bytes can be made.
    #[inline]
    fn room(&self, bytes: usize) -> Result<(), EditError> {
        let max = crate::id::MAX_ID;
        if self.patch.next_id().time.max(self.doc.time()) >= max - bytes as u64 {
            return Err(EditError::Clock { max });
        }
        self.doc.admit_own(bytes as u64)?;
        Ok(())
    }
}

impl From<Document> for Model {
    fn from(mut doc: Document) -> Self {
        if doc.session() == SessionId::SYSTEM {
            doc.set_session(SessionId::LOCAL);
        }
        let patch = PatchBuilder::new(doc.session(), doc.time());
        Self {
            flushed: doc.made(),
            doc: Written::new(doc),
            patch,
            watch: None,
            undo: None,
            history: None,
            now: None,
            origin: Origin::Local,
            spare: Spare::default(),
        }
    }
}
