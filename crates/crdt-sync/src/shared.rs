//! The document of `crdt-core`, shared between the application and the manager.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use crdt_core::{Applied, Document, Model, Patch, SessionId, StateVector, Timestamp, Value};
use tokio::sync::watch;

use crate::{
    DocumentError, Fold, PatchRecord, SignerId, SyncDocument,
    conflict::{ConflictReport, Conflicts, Open, Rules, stamp},
    fold::{DocumentFold, check, patch_of, read_snapshot, seen, take_section, write_snapshot},
    split::{self, Unsplittable},
};

/// A [`Model`] that the application edits while the manager brings the others' patches.
///
/// An edit gives a patch, which goes to [`SyncManager::apply_patch`](crate::SyncManager::apply_patch):
///
/// ```
/// use crdt_core::SessionId;
/// use crdt_sync::SharedModel;
///
/// let shared = SharedModel::new(SessionId::new(70_001).unwrap());
/// let patch = shared.edit(|model| model.api().root("hello")).unwrap();
/// assert_eq!(patch.unwrap().op_count(), 3);
/// assert_eq!(shared.view().as_str(), Some("hello"));
/// ```
#[derive(Debug)]
pub struct SharedModel {
    // Never held across an await: each use is one edit, one patch or one look.
    held: Mutex<Held>,
    /// Counts what has come from others.
    changes: watch::Sender<u64>,
    /// What every replica starts from.
    base: Option<Patch>,
}

#[derive(Debug)]
struct Held {
    model: Model,
    /// Flushed, and not seen by the manager yet.
    unsent: VecDeque<Patch>,
    unsent_bytes: usize,
    /// Sees every patch, where rules say what is to become of concurrent writes.
    conflicts: Option<Conflicts>,
}

impl Held {
    fn new(model: Model) -> Self {
        Self { model, unsent: VecDeque::new(), unsent_bytes: 0, conflicts: None }
    }

    fn await_hand_over(&mut self, patch: Option<Patch>) {
        self.unsent_bytes += patch.as_ref().map_or(0, |patch| patch.as_bytes().len());
        self.unsent.extend(patch);
    }

    fn handed_over(&mut self, id: Timestamp) {
        if let Some(place) = self.unsent.iter().position(|patch| patch.id() == id)
            && let Some(patch) = self.unsent.remove(place)
        {
            self.unsent_bytes -= patch.as_bytes().len();
        }
    }
}

/// How many patches may wait to be handed over; above it [`SharedModel::edit`] refuses to make more.
const UNSENT_MAX: usize = 4096;
/// How many bytes they may take before it does.
const UNSENT_BYTES_MAX: usize = 64 << 20;

/// Why an edit was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SharedEditError<E> {
    /// The edit itself failed.
    #[error(transparent)]
    Edit(E),
    /// One operation is larger than a patch may be: a map with too many new keys at once, or one long constant. (Text and
    /// bytes may have any length.)
    #[error("operation {id} of {len_bytes} bytes: at most {} are taken", split::LEN_BYTES_MAX)]
    TooLarge {
        /// The operation's id.
        id: Timestamp,
        /// How large it is.
        len_bytes: usize,
    },
    /// Nobody hands over what was edited before: the manager refuses it, or has stopped.
    #[error(
        "{count} patches of {len_bytes} bytes wait to be handed over: at most {UNSENT_MAX}, or {UNSENT_BYTES_MAX} bytes, may"
    )]
    Unsent {
        /// How many patches.
        count: usize,
        /// How many bytes they take.
        len_bytes: usize,
    },
}

impl<E> From<Unsplittable> for SharedEditError<E> {
    fn from(Unsplittable { id, len_bytes }: Unsplittable) -> Self {
        Self::TooLarge { id, len_bytes }
    }
}

/// Whether what is open can be sent, in one patch or in several.
fn check_size(model: &Model) -> Result<(), Unsplittable> {
    if model.open_len_bytes() < split::LEN_BYTES_MAX / 2 {
        return Ok(());
    }
    model.open_patch().map_or(Ok(()), |patch| split::split(patch).map(drop))
}

impl SharedModel {
    /// An empty document, edited under a session. Draw a new session at each start of the program.
    pub fn new(session: SessionId) -> Self {
        let held = Held::new(Model::new(session));
        Self { held: Mutex::new(held), changes: watch::channel(0).0, base: None }
    }

    /// The same with something in it from the start, on every replica the same: the objects and texts that all expect.
    /// Two replicas that began by making them would make two, and one of them would win with all that is in it.
    ///
    /// The patch is of a reserved session, [`SessionId::GLOBAL`] by custom, so that it is neither stored nor sent.
    ///
    /// # Errors
    /// If the patch is of another session, or does not apply to an empty document.
    pub fn with_base(session: SessionId, base: Patch) -> Result<Self, DocumentError> {
        let refused = |reason: String| DocumentError::Patch { id: base.id(), reason };
        if base.id().sid >= SessionId::RESERVED_END {
            return Err(refused("what all start from is of a reserved session".to_owned()));
        }
        let mut model = Model::new(session);
        match model.apply(&base) {
            Ok(Applied::Parked { missing }) => return Err(refused(format!("{missing} is not in it"))),
            Ok(_) => {}
            Err(error) => return Err(refused(error.to_string())),
        }
        let held = Held::new(model);
        Ok(Self { held: Mutex::new(held), changes: watch::channel(0).0, base: Some(base) })
    }

    /// The same with rules for what several write at the same time. From then on each edit is stamped with what its author
    /// had seen, and each patch is looked at, and what was seen goes along with snapshots: [`resolved`](Self::resolved), [`open_conflicts`](Self::open_conflicts) and
    /// [`poll_conflict`](Self::poll_conflict) tell. All replicas of a document take the same rules: a snapshot that one without rules
    /// has made has nothing for them.
    #[must_use]
    pub fn with_conflicts(self, rules: Rules) -> Self {
        self.held().conflicts = Some(Conflicts::new(rules));
        self
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Edits the document. Returns the patch to hand over, `None` if nothing was edited.
    ///
    /// All of it or nothing: if `edit` fails, the document is as it was, and what can be undone too. It is an
    /// [attempt](Model::attempt), which keeps a second copy of a document that is edited. The copy is made at the first edit
    /// and follows the next ones; it goes when others have brought a sixteenth of the document since.
    ///
    /// What is larger than a patch may be ([4 MiB](PatchRecord::PATCH_BYTES_MAX)) becomes several; the last one is returned,
    /// and handing it over hands over those before it. A peer may see the first ones a little earlier.
    ///
    /// # Errors
    /// What `edit` returns, or that too much waits to be handed over, or that an operation is too large; then nothing was
    /// edited.
    pub fn edit<T, E>(
        &self,
        edit: impl FnOnce(&mut Model) -> Result<T, E>,
    ) -> Result<Option<Patch>, SharedEditError<E>> {
        let held = &mut *self.held();
        if held.unsent.len() >= UNSENT_MAX || held.unsent_bytes >= UNSENT_BYTES_MAX {
            return Err(SharedEditError::Unsent { count: held.unsent.len(), len_bytes: held.unsent_bytes });
        }
        let seen = held.conflicts.is_some().then(|| held.model.document().state_vector());
        held.model.attempt(|model| {
            edit(model).map_err(SharedEditError::Edit)?;
            Ok::<_, SharedEditError<E>>(check_size(model)?)
        })?;
        let parts = held.model.flush().map_or(Ok(Vec::new()), split::split)?;
        let mut last = None;
        for mut patch in parts {
            if let (Some(seen), Some(conflicts)) = (&seen, &mut held.conflicts) {
                patch = stamp(&patch, seen);
                conflicts.observe(patch.as_ref());
                conflicts.purge_when_due(held.model.document());
            }
            held.await_hand_over(Some(patch.clone()));
            last = Some(patch);
        }
        Ok(last)
    }

    /// How many places are remembered for the rules; 0 without rules.
    pub fn conflict_places(&self) -> usize {
        self.held().conflicts.as_ref().map_or(0, Conflicts::places)
    }

    /// How many conflicts were not reported, because nobody [took](Self::poll_conflict) those before them; 0 without rules.
    /// What is open is open all the same.
    pub fn conflict_reports_dropped(&self) -> u64 {
        self.held().conflicts.as_ref().map_or(0, Conflicts::reports_dropped)
    }

    /// What every replica starts from.
    pub fn base(&self) -> Option<&Patch> {
        self.base.as_ref()
    }

    /// Looks at the document.
    pub fn with<T>(&self, look: impl FnOnce(&Document) -> T) -> T {
        look(self.held().model.document())
    }

    /// The document as a JSON value.
    pub fn view(&self) -> Value {
        self.held().model.view()
    }

    /// The document as a JSON value, with concurrent writes as the rules say; without rules as it is.
    pub fn resolved(&self) -> Value {
        let held = self.held();
        let document = held.model.document();
        held.conflicts.as_ref().map_or_else(|| document.view(), |conflicts| conflicts.view(document))
    }

    /// What is in conflict at the moment in the places that the rules name.
    pub fn open_conflicts(&self) -> Vec<Open> {
        let held = self.held();
        held.conflicts.as_ref().map_or_else(Vec::new, |conflicts| conflicts.open(held.model.document()))
    }

    /// The oldest conflict that has not been reported yet.
    pub fn poll_conflict(&self) -> Option<ConflictReport> {
        self.held().conflicts.as_mut()?.poll_report()
    }

    /// Puts another document in place of this one, and on top of it what was edited and not handed over.
    fn replace(
        &self,
        mut document: Document,
        track: impl FnOnce(&mut Conflicts) -> Result<(), DocumentError>,
    ) -> Result<(), DocumentError> {
        let mut held = self.held();
        document.set_session(held.model.document().session());
        for patch in &held.unsent {
            if let Err(error) = document.apply(patch) {
                return Err(DocumentError::Snapshot(error.to_string()));
            }
        }
        if !document.state_vector().contains(&held.model.document().state_vector()) {
            // Before the rules follow it.
            return Err(DocumentError::Snapshot("it lacks what the document here has".to_owned()));
        }
        held.conflicts.as_mut().map_or(Ok(()), track)?;
        held.model.replace_document(document).map_err(|error| DocumentError::Snapshot(error.to_string()))?;
        drop(held);
        self.changes.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Tells when something has come from others.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

impl SyncDocument for SharedModel {
    fn session(&self) -> SessionId {
        self.held().model.document().session()
    }

    fn reserved(&self) -> StateVector<SessionId> {
        self.base.iter().map(|base| (base.id().sid, base.next_time().saturating_sub(1))).collect()
    }

    fn apply(&self, record: &PatchRecord, signer: Option<SignerId>) -> Result<(), DocumentError> {
        let mut held = self.held();
        if record.session() == held.model.document().session() {
            held.handed_over(record.id);
        }
        let applied = held.model.apply_bytes(&record.patch);
        let Held { model, conflicts, .. } = &mut *held;
        if let (Ok(Applied::Merged | Applied::Known), Some(conflicts)) = (&applied, conflicts) {
            conflicts.observe_signed(patch_of(record)?, signer);
            conflicts.purge_when_due(model.document());
        }
        drop(held);
        self.changes.send_modify(|count| *count += 1);
        check(record, applied)
    }

    fn unsent_before(&self, time: u64) -> Vec<Patch> {
        self.held().unsent.iter().take_while(|patch| patch.id().time < time).cloned().collect()
    }

    fn install(&self, snapshot: &[u8]) -> Result<(), DocumentError> {
        self.replace(read_snapshot(snapshot)?, |conflicts| take_section(conflicts, snapshot))
    }

    fn take_over(&self, mut fold: Box<dyn Fold>) -> Result<(), DocumentError> {
        match fold.take_document() {
            Some(document) => {
                let tracked = fold.take_tracked();
                self.replace(document, |conflicts| {
                    tracked.into_iter().for_each(|tracked| conflicts.take_over(tracked));
                    Ok(())
                })
            }
            None => self.install(&fold.finish()?),
        }
    }

    fn snapshot(&self, stored: &StateVector<SessionId>) -> Option<Bytes> {
        let held = self.held();
        let document = held.model.document();
        // Edits that were not handed over are in the document and not in `stored`, so the vectors tell.
        (seen(document) == *stored).then(|| write_snapshot(document, held.conflicts.as_ref()))
    }

    fn fold(&self, base: Option<&[u8]>) -> Result<Box<dyn Fold>, DocumentError> {
        let rules = self.held().conflicts.as_ref().map(|conflicts| conflicts.rules().clone());
        Ok(Box::new(DocumentFold::new(self.base.as_ref(), base, rules)?))
    }

    fn open(&self, snapshot: &Bytes) -> Result<Box<dyn Fold>, DocumentError> {
        let rules = self.held().conflicts.as_ref().map(|conflicts| conflicts.rules().clone());
        Ok(Box::new(DocumentFold::open(snapshot, rules)?))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crdt_core::model::{EditError, UndoOptions};

    use super::*;

    #[test]
    fn edits_that_nobody_hands_over_are_refused_at_a_bound() {
        let shared = SharedModel::new(SessionId::new(70_001).unwrap());
        let first = shared.edit(|model| model.api().root(0)).unwrap().unwrap();
        for count in 1..UNSENT_MAX {
            shared.edit(|model| model.api().root(count as i64)).unwrap();
        }
        let error = shared.edit(|model| model.api().root("more")).unwrap_err();
        assert!(matches!(error, SharedEditError::Unsent { count: UNSENT_MAX, .. }), "{error}");
        assert_eq!(shared.view(), Value::from(UNSENT_MAX as i64 - 1), "nothing was edited");

        // As soon as one is handed over, there is room again.
        let record = PatchRecord::new(0, Bytes::copy_from_slice(first.as_bytes())).unwrap();
        shared.apply(&record, None).unwrap();
        shared.edit(|model| model.api().root("more")).unwrap();

        let large = SharedModel::new(SessionId::new(70_001).unwrap());
        let text = "x".repeat(UNSENT_BYTES_MAX);
        large.edit(|model| model.api().root(text.as_str())).unwrap();
        let error = large.edit(|model| model.api().root(1)).unwrap_err();
        assert!(matches!(error, SharedEditError::Unsent { count: 64.., .. }), "{error}");
        let held = large.held();
        assert_eq!(held.unsent_bytes, held.unsent.iter().map(|patch| patch.as_bytes().len()).sum::<usize>());
    }

    /// Until somebody asks for more than its view, a document that came as a snapshot is those bytes.
    #[test]
    fn a_snapshot_is_taken_over_as_it_lies_there() {
        let author = SharedModel::new(SessionId::new(70_001).unwrap());
        author.edit(|model| model.api().root("warp")).unwrap();
        let written = author.with(|document| write_snapshot(document, None));
        let shared = SharedModel::new(SessionId::new(70_002).unwrap());
        shared.take_over(shared.open(&written).unwrap()).unwrap();
        let size = || shared.with(Document::size_bytes);
        let unread = size();
        assert_eq!(shared.view().as_str(), Some("warp"));
        assert!(shared.with(|document| seen(document) == author.with(seen)));
        assert_eq!((shared.session(), size()), (SessionId::new(70_002).unwrap(), unread));
        assert_eq!(shared.with(|document| document.nodes().count()), 1);
        assert!(size() > unread, "it has been read by now");
        let patch = shared.edit(|model| model.api().str("")?.ins(4, " and weft")).unwrap().unwrap();
        assert_eq!(patch.id(), Timestamp::new(SessionId::new(70_002).unwrap(), patch.id().time));
        assert_eq!(shared.view().as_str(), Some("warp and weft"));

        let damaged = Bytes::copy_from_slice(&[&written[..written.len() - 1], b"\xff"].concat());
        assert!(matches!(shared.open(&damaged), Err(DocumentError::Snapshot(_))));
    }

    fn too_many_keys(model: &mut Model) -> Result<(), EditError> {
        let keys: Vec<String> = (0..40).map(|n| format!("{n}{}", "k".repeat(128 << 10))).collect();
        model.api().obj("")?.set([("first", 1)])?;
        model.api().obj("")?.set(keys.iter().map(|key| (key.as_str(), 1)))
    }

    #[test]
    fn an_edit_that_fails_or_is_too_large_leaves_nothing_behind() {
        let shared = SharedModel::new(SessionId::new(70_001).unwrap());
        let start = Value::from(&serde_json::json!({"a": 1}));
        shared.edit(|model| model.api().root(start.clone())).unwrap();
        let failed = shared.edit(|model| {
            model.api().obj("")?.set([("b", 2)])?;
            model.api().str("/b/c")?.ins(0, "nowhere")
        });
        assert!(matches!(failed, Err(SharedEditError::Edit(_))), "{failed:?}");
        assert_eq!(shared.view(), start);
        let refused = shared.edit(too_many_keys);
        assert!(matches!(refused, Err(SharedEditError::TooLarge { len_bytes: 5_000_000.., .. })));
        assert_eq!(shared.view(), start);
        // What comes next follows what was handed over: there is no hole.
        let next = shared.edit(|model| model.api().obj("")?.set([("b", 2)])).unwrap().unwrap();
        let other = SharedModel::new(SessionId::new(70_002).unwrap());
        let mut prev = 0;
        for patch in shared.unsent_before(next.next_time()) {
            let record = PatchRecord::new(prev, Bytes::copy_from_slice(patch.as_bytes())).unwrap();
            prev = record.last();
            other.apply(&record, None).unwrap();
        }
        assert_eq!(other.view(), shared.view());
        assert_eq!(other.view(), Value::from(&serde_json::json!({"a": 1, "b": 2})));
    }

    #[test]
    fn what_can_be_undone_is_what_was_edited() {
        let shared = SharedModel::new(SessionId::new(70_001).unwrap());
        let start = Value::from(&serde_json::json!({"text": ""}));
        shared
            .edit(|model| {
                model.api().root(start.clone())?;
                model.enable_undo(UndoOptions::STANDARD);
                Ok::<_, EditError>(())
            })
            .unwrap();
        let mut now = Duration::ZERO;
        let mut type_one = |at: usize, character: &str| {
            now += Duration::from_millis(100);
            shared.edit(|model| {
                model.set_now(now);
                model.api().str("/text")?.ins(at, character)
            })
        };
        type_one(0, "a").unwrap();
        // What fails, or is too large, leaves nothing behind, and begins no step.
        type_one(9, "nowhere").unwrap_err();
        let failed = shared.edit(|model| {
            model.api().str("/text")?.del(0, 1)?;
            model.api().str("/nowhere")?.ins(0, "x")
        });
        assert!(matches!(failed, Err(SharedEditError::Edit(_))), "{failed:?}");
        let refused = shared.edit(too_many_keys);
        assert!(matches!(refused, Err(SharedEditError::TooLarge { .. })), "{refused:?}");
        type_one(1, "b").unwrap();
        assert_eq!(shared.view(), Value::from(&serde_json::json!({"text": "ab"})));
        // What was typed without a pause goes at once.
        let undone = shared.edit(|model| {
            let step = model.undo()?;
            assert!(step.is_some(), "there is a step");
            Ok::<_, EditError>(())
        });
        assert!(undone.unwrap().is_some());
        assert_eq!(shared.view(), start);
        assert_eq!(shared.held().unsent.len(), 4);
    }
}
