//! Taking in patches: what comes too early, what was known, what has no room.

use super::{
    Document, LoadError, Observer, Order,
    load::bound,
    sequence::{Id, SPAN_MAX},
    sessions::SESSIONS_MAX,
};
use crate::{
    SessionId, StateVector, Timespan, Timestamp,
    codec::Malformed,
    id::MAX_ID,
    patch::{
        Op, Patch, PatchRef,
        keystroke::{self, Start},
    },
    text::Text,
};

/// The last session that a server numbers for.
const SERVERS_MAX: u64 = 8;

/// What became of a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a parked patch has to be kept and applied again later"]
pub enum Applied {
    /// It is part of the document now.
    Merged,
    /// Its times had been seen. The document is as it was. In server order this is the patch that has them, as far as what it
    /// made is still there to be compared; another one is [refused](ApplyError::TimeTaken).
    Known,
    /// It names an id that has not been seen. The document is as it was; apply the patch again when that has come.
    Parked {
        /// The id that is missing.
        missing: Timestamp,
    },
}

/// A patch that a document cannot take. The document is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// Something would outgrow its bound.
    #[error("{what} would be {value} with this patch: at most {max} are allowed")]
    TooLarge {
        /// What would.
        what: &'static str,
        /// How much it would be.
        value: u64,
        /// The bound.
        max: u64,
    },
    /// Tombstones that it may refer to have been dropped. Whoever made it had not seen what everyone was said to have
    /// seen ([`Document::compact`]): it has to start again from a snapshot.
    #[error(
        "patch {patch} needs {names}, which may be gone: the document was compacted up to time {compacted_to}"
    )]
    Compacted {
        /// The patch's id.
        patch: Timestamp,
        /// The first time of it that is not known, or the element that is gone.
        names: Timestamp,
        /// The time up to which tombstones have been dropped.
        compacted_to: u64,
    },
    /// In server order, a patch that the server cannot have numbered yet.
    #[error("patch {id} is ahead of the server's time {time}")]
    Ahead {
        /// The patch's id.
        id: Timestamp,
        /// The next time of the document.
        time: u64,
    },
    /// In server order, a patch of a time that no operation has.
    #[error("patch {id} is of time 0: a server numbers from 1")]
    TimeZero {
        /// The patch's id.
        id: Timestamp,
    },
    /// In server order, a patch of a time that another patch has, of this session or of another one. A draft that others came
    /// before is numbered anew: [`Patch::rebase`].
    #[error("{id} is of a time that another patch has used: a server gives each time once")]
    TimeTaken {
        /// The id that is taken: the patch's, or that of the operation that was found to be another one.
        id: Timestamp,
    },
    /// In server order, a patch of a session that is not the server's.
    #[error("patch {id} is of a session that no server numbers: at most session 8 is allowed")]
    NotServer {
        /// The patch's id.
        id: Timestamp,
    },
}

/// Bytes that a document cannot take as a patch. The document is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// They are no patch.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// They are, and it is refused.
    #[error(transparent)]
    Refused(#[from] ApplyError),
}

/// The end of a text that was inserted.
struct Rest {
    obj: Timestamp,
    after: Timestamp,
    text: Text,
}

impl Rest {
    fn op(&self) -> Op<'_> {
        let text = self.text.as_wtf8();
        Op::InsStr { obj: self.obj, after: self.after, text, units: text.units() as u64 }
    }
}

/// What is left of an insertion of which the beginning has been seen, behind what has been: insertions that came one by one
/// come again [as one](Patch::compact).
fn unseen_text(id: Timestamp, op: &Op<'_>, seen: u64) -> Option<(Timestamp, Rest)> {
    let Op::InsStr { obj, text, .. } = *op else { return None };
    let known = (seen + 1).checked_sub(id.time).filter(|&known| known > 0)?;
    let text = Text::from_utf16(text.utf16().skip(known as usize));
    let after = Timestamp::new(id.sid, seen);
    Some((after.tick(1), Rest { obj, after, text }))
}

impl Document {
    /// The most bytes that all keys of a document take together, and all constants: each with what has been removed and not
    /// been cleared away yet, which is at most about as much again.
    pub const HEAP_BYTES_MAX: u64 = u32::MAX as u64 / 2;
    /// The most elements of all sequences of a document together, deleted ones included.
    pub const ELEMENTS_MAX: u64 = SPAN_MAX as u64;

    /// Takes in a patch, if all that it names has been seen.
    ///
    /// Whether *earlier patches of the same session* have come cannot be told from times, which have gaps; to deliver a
    /// session's patches in order is the caller's part. Operations at times that have been seen are passed over.
    ///
    /// # Errors
    /// [`ApplyError`]; then nothing has changed.
    pub fn apply(&mut self, patch: &Patch) -> Result<Applied, ApplyError> {
        self.apply_ref(patch.as_ref())
    }

    /// [`apply`](Self::apply) for borrowed bytes.
    ///
    /// # Errors
    /// [`ApplyError`]; then nothing has changed.
    pub fn apply_ref(&mut self, patch: PatchRef<'_>) -> Result<Applied, ApplyError> {
        if self.apply_usual(patch.as_bytes()) { Ok(Applied::Merged) } else { self.apply_any(patch) }
    }

    /// Reads a patch of anyone and [applies](Self::apply) it: the fastest way for bytes as they come from a peer.
    ///
    /// # Errors
    /// [`ReceiveError`]; then nothing has changed.
    pub fn apply_bytes(&mut self, bytes: &[u8]) -> Result<Applied, ReceiveError> {
        if self.apply_usual(bytes) {
            return Ok(Applied::Merged);
        }
        match PatchRef::decode(bytes) {
            Ok(patch) => Ok(self.apply_any(patch)?),
            Err(Malformed::NotCanonical) => Ok(self.apply_any(Patch::decode(bytes)?.as_ref())?),
            Err(malformed) => Err(malformed.into()),
        }
    }

    /// Applies a patch that is of a usual kind. `false`, and nothing has changed, if the general rules have to look at it.
    #[inline]
    fn apply_usual(&mut self, patch: &[u8]) -> bool {
        match keystroke::read(patch) {
            Some(keystroke) => self.apply_keystroke(&keystroke),
            None => self.apply_few(patch),
        }
    }

    /// Applies a patch of a few operations that belong together.
    #[inline(never)]
    fn apply_few(&mut self, patch: &[u8]) -> bool {
        match Start::of(patch) {
            Some(start) if start.may_set() && self.apply_setting(start) => true,
            Some(start) if start.makes_constant() && !start.is_one() => self.apply_elements(start),
            _ => false,
        }
    }

    /// [`apply`](Self::apply) without a look at what is usual.
    fn apply_any(&mut self, patch: PatchRef<'_>) -> Result<Applied, ApplyError> {
        match self.outlook(patch) {
            Ok(seen) => self.take_in(patch, seen, None),
            Err(known_or_parked) => Ok(known_or_parked),
        }
    }

    /// Whether a patch is to be taken in, and if so, up to which time its operations have been before. Otherwise what
    /// becomes of it.
    pub(super) fn outlook(&self, patch: PatchRef<'_>) -> Result<Option<u64>, Applied> {
        let id = patch.id();
        let seen = self.store.seen(id.sid.get()).filter(|_| self.order == Order::Logical);
        // What a repeated operation made may have been removed since; making it again would leave it lying around.
        if seen.is_some_and(|seen| patch.next_time() <= seen + 1) {
            return Err(Applied::Known);
        }
        if let Some(missing) = self.missing_for(patch) {
            return Err(Applied::Parked { missing });
        }
        Ok(seen.filter(|&seen| id.time <= seen))
    }

    /// Where in a patch begins what has not been seen; what stands before is passed over. The first time of that patch if
    /// its session has not come so far.
    pub(crate) fn first_unseen(&self, patch: PatchRef<'_>) -> Timestamp {
        let Timestamp { sid, time } = patch.id();
        Timestamp::new(sid, self.store.seen(sid.get()).map_or(time, |seen| time.max(seen + 1)))
    }

    /// The first id that a patch needs and that has not been seen.
    pub fn missing_for(&self, patch: PatchRef<'_>) -> Option<Timestamp> {
        // Who has seen a time of a session has seen all before it.
        if patch.last_foreign().is_some_and(|last| last.sid == SessionId::SYSTEM || self.has_seen(last)) {
            return None;
        }
        let mut missing = None;
        patch.for_each_foreign(|Timespan { start, span }| {
            let last = Timestamp::new(start.sid, start.time.saturating_add(span - 1));
            if missing.is_none() && !self.has_seen(last) {
                missing = Some(last);
            }
        });
        missing
    }

    /// Whether the document has seen a time of a session.
    pub fn has_seen(&self, id: Timestamp) -> bool {
        self.store.seen(id.sid.get()).is_some_and(|seen| id.time <= seen)
    }

    /// Notes what had been seen: the [state vector](Self::state_vector) that was kept beside a snapshot.
    ///
    /// Of json-joy's forms only the verbose and the indexed one hold the sessions of which nothing is left in the tree. A
    /// document that was read from another one would wait for ever for what they made, if a patch names something of it that
    /// was removed, and would take their patches once more.
    ///
    /// ```
    /// use crdt_core::{Document, Model, SessionId, codec::DocumentFormat};
    ///
    /// # let mut model = Model::new(SessionId::new(70_001).unwrap());
    /// # model.api().root("warp")?;
    /// # let document = model.document();
    /// let (bytes, seen) = (document.to_binary(), document.state_vector());
    /// let mut back = DocumentFormat::Binary.decode(&bytes)?;
    /// back.note_seen(&seen)?;
    /// # assert!(back.state_vector().contains(&seen));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// It has to be the vector of the very document that was written. Patches that a later one has seen, and this document has
    /// not, would count as [known](Applied::Known) and be lost to it.
    ///
    /// # Errors
    /// [`LoadError::TooLarge`] for more sessions or later times than a document can hold, [`LoadError::System`] for the session
    /// that makes nothing; then nothing has changed.
    pub fn note_seen(&mut self, seen: &StateVector) -> Result<(), LoadError> {
        let sessions = &self.store.sessions;
        let news = seen.iter().filter(|(sid, _)| sessions.get(sid.get()).is_none()).count();
        bound("sessions", (sessions.len() + news) as u64, SESSIONS_MAX as u64 - 1)?;
        for (&sid, last) in seen.iter() {
            if sid == SessionId::SYSTEM {
                return Err(LoadError::System(Timestamp::new(sid, last)));
            }
            if self.order == Order::Server {
                bound("session numbers under a server", sid.get(), SERVERS_MAX)?;
            }
            bound("times", last, MAX_ID - 1)?;
        }
        for (&sid, last) in seen.iter() {
            if self.has_seen(Timestamp::new(sid, last)) {
                continue;
            }
            let session = self.store.sessions.enter(sid.get());
            self.observe(session, last);
        }
        Ok(())
    }

    /// Whether all times of a patch have been seen.
    fn has_seen_all(&self, patch: PatchRef<'_>) -> bool {
        patch
            .next_time()
            .checked_sub(1)
            .is_some_and(|last| self.has_seen(Timestamp::new(patch.id().sid, last)))
    }

    /// Takes in a patch at once, as the reference does: an operation whose target or reference is unknown has no
    /// effect, now and for ever. For callers that have made sure of causal order themselves.
    ///
    /// # Errors
    /// [`ApplyError`]; then nothing has changed.
    pub fn merge(&mut self, patch: PatchRef<'_>) -> Result<Applied, ApplyError> {
        self.take_in(patch, None, None)
    }

    /// Runs the operations of a patch that end after a time, and tells who watches what each one changed.
    #[inline]
    pub(super) fn take_in(
        &mut self,
        patch: PatchRef<'_>,
        seen: Option<u64>,
        mut observer: Option<&mut dyn Observer>,
    ) -> Result<Applied, ApplyError> {
        let (id, end) = (patch.id(), patch.next_time());
        self.admit(id, patch.as_bytes().len() as u64)?;
        let seen = match self.order {
            Order::Logical => seen,
            Order::Server => {
                let seen = self.store.seen(id.sid.get()).filter(|&seen| id.time <= seen);
                if let Some(id) = seen.and_then(|seen| self.first_foreign_op(patch, seen)) {
                    return Err(ApplyError::TimeTaken { id });
                }
                if self.has_seen_all(patch) {
                    return Ok(Applied::Known);
                }
                seen
            }
        };
        if self.compacted_to > 0 && id.time <= self.compacted_to && self.has_seen_all(patch) {
            // What it made may have been dropped since.
            return Ok(Applied::Known);
        }
        self.admit_late(patch, seen)?;
        let session = self.store.sessions.enter(id.sid.get());
        let known = end > 0 && self.has_seen(Timestamp::new(id.sid, end - 1));
        self.observe(session, end.max(1) - 1);
        let mut changed = false;
        self.store.reserve_nodes(patch.op_count() as usize);
        let mut ops = patch.ops();
        let plain = seen.is_none() && observer.is_none();
        loop {
            if plain && let Some(op) = ops.next_text() {
                changed |= self.insert_text(Id::new(session, op.id.time), &op).unwrap_or(false);
                continue;
            }
            let Some((id, op)) = ops.next() else { break };
            if seen.is_some_and(|seen| id.time + op.span() <= seen + 1) {
                continue;
            }
            let rest = seen.and_then(|seen| unseen_text(id, &op, seen));
            let (id, op) = match &rest {
                Some((id, rest)) => (*id, rest.op()),
                None => (id, op),
            };
            let at = Id::new(session, id.time);
            changed |= match &mut observer {
                None => self.run(at, id.sid, &op),
                Some(observer) => self.run_observed(at, id, &op, *observer),
            };
        }
        self.store.tidy();
        Ok(if known && !changed { Applied::Known } else { Applied::Merged })
    }

    /// Whether there is room for a patch of so many bytes.
    #[inline]
    pub(super) fn admit(&self, id: Timestamp, bytes: u64) -> Result<(), ApplyError> {
        if self.is_roomy(bytes) { Ok(()) } else { self.admit_slow(id, bytes) }
    }

    /// Whether there is room for so many bytes, and nothing else to look at.
    #[inline]
    pub(super) fn is_roomy(&self, bytes: u64) -> bool {
        let store = &*self.store;
        let heap = store.heap.len().max(store.keys.len_bytes()) as u64;
        store.span + bytes <= Self::ELEMENTS_MAX
            && heap + 3 * bytes <= Self::HEAP_BYTES_MAX
            && store.sessions.len() < SESSIONS_MAX
            && self.order == Order::Logical
    }

    #[cold]
    fn admit_slow(&self, id: Timestamp, bytes: u64) -> Result<(), ApplyError> {
        let bound = |what, value, max| {
            if value > max { Err(ApplyError::TooLarge { what, value, max }) } else { Ok(()) }
        };
        bound("elements of all sequences", self.store.span + bytes, Self::ELEMENTS_MAX)?;
        let heap = self.store.heap.len().max(self.store.keys.len_bytes()) as u64;
        // A constant takes up to three times its bytes in the patch here.
        bound("bytes of keys and constants", heap + 3 * bytes, Self::HEAP_BYTES_MAX)?;
        bound("sessions", self.store.sessions.len() as u64 + 1, SESSIONS_MAX as u64)?;
        if self.order == Order::Server {
            if id.sid.get() > SERVERS_MAX {
                return Err(ApplyError::NotServer { id });
            }
            if id.time == 0 {
                return Err(ApplyError::TimeZero { id });
            }
            if id.time > self.time {
                return Err(ApplyError::Ahead { id, time: self.time });
            }
            let others = self.sessions_seen().filter(|&(sid, _)| sid != id.sid.get());
            if others.filter_map(|(_, seen)| seen).any(|seen| id.time <= seen) {
                return Err(ApplyError::TimeTaken { id });
            }
        }
        Ok(())
    }

    /// Notes that a session has been seen up to a time.
    pub(super) fn observe(&mut self, session: u32, last: u64) {
        // An own time of 0 can come from outside only, and `made` cannot tell it from none.
        let sessions = &mut self.store.sessions;
        if session == sessions.own && last > 0 {
            sessions.made = sessions.made.max(last);
        } else {
            sessions.observe(session, last);
        }
        self.time = self.time.max(last + 1);
    }
}
