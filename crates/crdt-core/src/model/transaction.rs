//! Several edits or none.
//!
//! What a transaction goes back to is a second document, the spare, which stands where the transaction began. It is copied
//! once and then *follows*: the edits and patches since are done to it too, so that the next transaction costs what was
//! edited since the last one and not another copy. Who edits much and begins no transaction loses it again.

use super::{Model, Origin, change::Rewind, undo::Undo, written::Written};
use crate::{
    Document, PatchRef,
    document::{Applied, ApplyError},
    patch::Mark,
};

/// A transaction that follows others may find the spare if what was done since takes less than this part of the document's
/// memory: from there on a copy is cheaper.
const FOLLOWS_PART: usize = 16;

/// The spare document of a model, if it has one. A copied model has none.
#[derive(Debug, Default)]
pub(super) struct Spare(Option<Box<Following>>);

#[derive(Debug)]
struct Following {
    document: Document,
    /// Up to here the operations of the open patch are in it.
    mark: Mark,
    /// How many transactions we are within.
    depth: usize,
    /// For how many bytes of operations it still follows.
    bytes_left: usize,
    /// For how many it follows after each transaction.
    bytes_max: usize,
    /// How often the document was replaced by another within transactions.
    replaced: u32,
}

impl Spare {
    #[inline]
    pub(super) const fn is_none(&self) -> bool {
        self.0.is_none()
    }

    #[inline]
    pub(super) const fn is_some(&self) -> bool {
        self.0.is_some()
    }
}

impl Clone for Spare {
    fn clone(&self) -> Self {
        Self(None)
    }
}

/// What a transaction goes back to besides the document.
struct Before {
    mark: Mark,
    /// [`Following::replaced`]: marks of a patch before that mean nothing.
    replaced: u32,
    watch: Option<Rewind>,
    undo: Option<Box<Undo>>,
    has_history: bool,
    origin: Origin,
    /// Whether it is a step of its own that can be undone.
    is_step: bool,
}

/// A transaction that has begun. It is taken back if nobody says otherwise, so also when the edits panic.
struct Begun<'m> {
    model: &'m mut Model,
    before: Option<Before>,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if let Some(before) = self.before.take() {
            self.model.roll_back(before);
        }
    }
}

impl Model {
    /// Makes several edits or none: if `edit` fails or panics, the document and the open patch are as they were, and so are
    /// the steps that can be undone. The ids of what was made are given again to what is made next.
    ///
    /// ```
    /// use crdt_core::{Model, SessionId, Value, model::EditError};
    /// use serde_json::json;
    ///
    /// let mut model = Model::new(SessionId::new(70_001).unwrap());
    /// model.api().root(&json!({"from": 10, "to": 0}))?;
    /// let failed: Result<(), EditError> = model.transaction(|model| {
    ///     model.api().obj("")?.set([("from", 5)])?;
    ///     model.api().obj("/account")?.set([("to", 5)])
    /// });
    /// assert!(failed.is_err());
    /// assert_eq!(model.view(), Value::from(&json!({"from": 10, "to": 0})));
    /// # Ok::<_, EditError>(())
    /// ```
    ///
    /// Within a transaction nothing is [flushed](Self::flush): what may yet be taken back must not have been sent. Nor must
    /// a [fork](Self::fork) or snapshot made within it be used if it fails: it keeps what is taken back. What is
    /// [applied](Self::apply) within it stays whatever becomes of it: patches of others are never taken back. Transactions
    /// within each other go back one by one.
    ///
    /// The first one copies the document; the next ones cost what was edited since, and the copy is kept for them until
    /// one fails, much is edited without any, or [`shrink`](Self::shrink) gives it back.
    ///
    /// # Errors
    /// What `edit` returns.
    pub fn transaction<T, E>(&mut self, edit: impl FnOnce(&mut Self) -> Result<T, E>) -> Result<T, E> {
        self.run(true, edit)
    }

    /// A [transaction](Self::transaction) that is no step of its own in a model that keeps [undo](Self::enable_undo): what it
    /// edits becomes part of a step just as without it, by the pauses between edits or the flushes. For a layer that makes
    /// every edit all or nothing, however small.
    ///
    /// # Errors
    /// What `edit` returns; then the model is as it was, what can be undone too.
    pub fn attempt<T, E>(&mut self, edit: impl FnOnce(&mut Self) -> Result<T, E>) -> Result<T, E> {
        self.run(false, edit)
    }

    fn run<T, E>(&mut self, is_step: bool, edit: impl FnOnce(&mut Self) -> Result<T, E>) -> Result<T, E> {
        let before = Some(self.begin(is_step));
        let mut begun = Begun { model: self, before };
        let done = edit(begun.model)?;
        begun.before = None;
        begun.model.commit(is_step);
        Ok(done)
    }

    /// Gives back memory that is held for speed only: the copy of the document that [transactions](Self::transaction) go
    /// back to, and the bytes of the last [snapshot](Self::snapshot).
    pub fn shrink(&mut self) {
        self.doc.give_up();
        if !self.in_transaction() {
            self.spare = Spare(None);
        }
    }

    /// Whether what is edited may yet be taken back.
    #[inline]
    pub(super) fn in_transaction(&self) -> bool {
        self.spare.0.as_ref().is_some_and(|spare| spare.depth > 0)
    }

    fn begin(&mut self, is_step: bool) -> Before {
        if let Some(undo) = self.undo.as_mut().filter(|_| is_step) {
            undo.enter();
        }
        if !self.in_transaction() {
            self.follow(0);
        }
        let mark = self.patch.mark();
        let doc = &mut self.doc;
        let spare = self.spare.0.get_or_insert_with(|| {
            // The first edit copies it. There may be none.
            let (document, bytes_max) = (doc.share(), doc.size_bytes() / FOLLOWS_PART);
            Box::new(Following { document, mark, depth: 0, bytes_left: 0, bytes_max, replaced: 0 })
        });
        spare.depth += 1;
        spare.bytes_left = spare.bytes_max;
        Before {
            mark,
            replaced: spare.replaced,
            watch: self.watch.as_ref().map(|watch| watch.rewind()),
            undo: self.undo.clone(),
            has_history: self.history.is_some(),
            origin: self.origin,
            is_step,
        }
    }

    fn commit(&mut self, is_step: bool) {
        if let Some(undo) = self.undo.as_mut().filter(|_| is_step) {
            undo.leave();
        }
        if let Some(spare) = &mut self.spare.0 {
            spare.depth = spare.depth.saturating_sub(1);
        }
    }

    fn roll_back(&mut self, before: Before) {
        // Otherwise another model was put into the place of this one: there is nothing to go back to.
        let Some(mut spare) = self.spare.0.take_if(|spare| spare.depth > 0) else { return };
        self.patch.truncate(if before.replaced == spare.replaced { before.mark } else { spare.mark });
        spare.depth -= 1;
        if spare.depth == 0 {
            self.doc = Written::new(spare.document);
        } else {
            spare.document.share();
            self.doc = Written::new(spare.document.clone());
            self.doc.edit_ops(self.patch.ops_since(spare.mark));
            self.spare = Spare(Some(spare));
        }
        self.undo = before.undo;
        if let Some(undo) = self.undo.as_mut().filter(|_| before.is_step) {
            undo.leave();
        }
        if let Some(now) = self.now {
            self.set_undo_now(now);
        }
        self.origin = before.origin;
        if !before.has_history {
            self.history = None;
        }
        if let Some(watch) = &mut self.watch {
            watch.rewound(&self.doc, before.watch);
        }
    }

    /// Does the open edits to the spare too, if there is one, and whatever else takes so many bytes.
    #[inline]
    pub(super) fn follow(&mut self, more: usize) {
        if self.spare.0.is_some() {
            self.follow_on(more);
        }
    }

    #[cold]
    fn follow_on(&mut self, more: usize) {
        let Some(spare) = self.spare.0.as_mut().filter(|spare| spare.depth == 0) else { return };
        let bytes = self.patch.len_since(spare.mark) + more;
        if bytes > spare.bytes_left {
            self.spare = Spare(None);
            return;
        }
        spare.bytes_left -= bytes;
        spare.document.edit_ops(self.patch.ops_since(spare.mark));
        spare.document.tidy();
        spare.mark = self.patch.mark();
    }

    /// A patch was taken in: the spare takes it in too. Within a transaction it thereby stays, whatever becomes of that.
    #[inline]
    pub(super) fn follow_patch(&mut self, patch: PatchRef<'_>, applied: &Result<Applied, ApplyError>) {
        if let (Some(spare), Ok(Applied::Merged)) = (&mut self.spare.0, applied) {
            let _ = spare.document.apply_ref(patch);
        }
    }

    /// The open patch begins anew; what it held, the spare has.
    #[inline]
    pub(super) fn follow_flush(&mut self) {
        if let Some(spare) = &mut self.spare.0 {
            spare.mark = self.patch.mark();
        }
    }

    /// The document is another one, or something was done to it that is no operation.
    pub(super) fn follow_document(&mut self) {
        match &mut self.spare.0 {
            Some(spare) if spare.depth > 0 => {
                spare.document = self.doc.share();
                spare.mark = self.patch.mark();
                spare.replaced += 1;
            }
            spare => *spare = None,
        }
    }
}
