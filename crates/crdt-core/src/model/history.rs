//! The past of a document: every state it had, who wrote what, and when.
//!
//! The order of patches is that of their ids, which is an order that their causes allow (Lamport 1978), and the same in
//! every replica. So "the state at a patch" is the start and all patches up to it.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    time::Duration,
};

use super::{EditError, Model, Path, find_node, past_registers};
use crate::{
    Document, Patch, SessionId, StateVector, Text, Timespan, Timestamp,
    codec::log::{Log, past},
    document::{ApplyError, Compaction, Content},
};

/// A document's history, with saved states on the way so that not every look begins at the start.
///
/// ```
/// use crdt_core::{Model, SessionId};
///
/// let mut model = Model::new(SessionId::new(70_001).unwrap());
/// model.keep_history()?;
/// model.api().root("warp")?;
/// let first = model.flush().unwrap();
/// model.api().str("")?.ins(4, " and weft")?;
/// model.flush();
///
/// let history = model.history_mut().unwrap();
/// assert_eq!(history.at(first.id()).unwrap().view(), "warp".into());
/// # Ok::<_, crdt_core::model::EditError>(())
/// ```
#[derive(Debug, Clone)]
pub struct History {
    log: Log,
    /// States at patches, in the order of ids, each with the memory it takes.
    checkpoints: BTreeMap<Timestamp, (Document, usize)>,
    checkpoint_bytes_max: usize,
    /// When a patch was made or came. One that is not in it was there before any time was told.
    times: HashMap<Timestamp, Came>,
    /// The time that was told last.
    last_told: Option<Duration>,
    /// From the start of each patch of a session to its end.
    patches: BTreeMap<(SessionId, u64), u64>,
}

#[derive(Debug, Clone, Copy)]
struct Came {
    at: Duration,
    /// Whether that was told of it, and not of the one before it.
    is_told: bool,
}

/// A patch of the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// The id of its first operation, for [`History::at`].
    pub id: Timestamp,
    /// How many ids it has.
    pub span: u64,
    /// When it was made or came, if the model was told the time ([`Model::set_now`]).
    pub at: Option<Duration>,
}

impl History {
    /// The most states that are saved on the way. When there are as many, every second one is dropped.
    pub const CHECKPOINTS_MAX: usize = 32;
    /// The most bytes of memory that they take together, if [nothing else](Self::set_checkpoint_bytes) is said. Above it every
    /// second one is dropped too; a document that is larger than that is always made from the start.
    pub const CHECKPOINT_BYTES_MAX: usize = 64 << 20;
    /// The fewest patches between two saved states.
    pub const CHECKPOINT_PATCHES: usize = 256;

    /// A history that starts with a document.
    pub fn new(start: Document) -> Self {
        Log::new(start).into()
    }

    /// Bounds the memory of saved states: fewer of them, and a look into the past takes longer.
    pub fn set_checkpoint_bytes(&mut self, bytes_max: usize) {
        self.checkpoint_bytes_max = bytes_max;
        self.thin_out();
    }

    /// What is written to a [log file](crate::codec::log).
    pub const fn log(&self) -> &Log {
        &self.log
    }

    /// Adds a patch, and when it was made or came if that is known. Tells whether it is new.
    ///
    /// One whose time is not known counts in [`at_time`](Self::at_time) as of the time that was told last, and if none was, as
    /// there from the start.
    pub fn push(&mut self, patch: Patch, at: Option<Duration>) -> bool {
        let (id, end) = (patch.id(), patch.next_time());
        if !self.log.push(patch) {
            return false;
        }
        // States at later patches lack this one.
        self.checkpoints.split_off(&id);
        self.patches.insert((id.sid, id.time), end);
        let is_told = at.is_some();
        self.last_told = at.or(self.last_told);
        if let Some(at) = self.last_told {
            // One that comes again with more in it was there before.
            self.times.entry(id).or_insert(Came { at, is_told });
        }
        true
    }

    /// All patches, in order.
    pub fn versions(&self) -> impl ExactSizeIterator<Item = Version> + '_ {
        self.log.patches().map(|patch| self.version(patch.id(), patch.span()))
    }

    fn version(&self, id: Timestamp, span: u64) -> Version {
        Version { id, span, at: self.times.get(&id).filter(|came| came.is_told).map(|came| came.at) }
    }

    /// The patch that made something: an element of a text, a node, an operation.
    pub fn written(&self, id: Timestamp) -> Option<Version> {
        let (&(sid, start), &end) = self.patches.range(..=(id.sid, id.time)).next_back()?;
        let holds = sid == id.sid && id.time < end;
        holds.then(|| self.version(Timestamp::new(sid, start), end - start))
    }

    /// Ids of one session in parts that were written at different times, each with when, if that is known.
    fn by_time(&self, ids: Timespan) -> Vec<(Timespan, Option<Duration>)> {
        let (sid, end) = (ids.start.sid, ids.start.time + ids.span);
        let mut parts: Vec<(Timespan, Option<Duration>)> = Vec::new();
        let mut from = ids.start.time;
        while from < end {
            let start = Timestamp::new(sid, from);
            let (to, at) = match self.written(start) {
                Some(version) => (version.id.time + version.span, version.at),
                None => {
                    let next = self.patches.range((sid, from + 1)..).next();
                    (next.filter(|((next, _), _)| *next == sid).map_or(end, |(&(_, time), _)| time), None)
                }
            };
            let span = to.min(end) - from;
            match parts.last_mut() {
                Some((part, before)) if *before == at => part.span += span,
                _ => parts.push((Timespan { start, span }, at)),
            }
            from += span;
        }
        parts
    }

    /// The document as it was when the patches up to an id had been made; one before all of them gives the start. Begins at
    /// the nearest saved state, and saves more of them on a long way.
    ///
    /// What was is to be looked at: the states that this, [`at_seen`](Self::at_seen) and [`at_time`](Self::at_time) give are of
    /// [`SessionId::LOCAL`], since edits of the session that has gone on would have ids that were sent. To have an old state
    /// back: [`Model::revert_to`]. To go on from one on its own,
    /// [fork](Document::fork) it.
    ///
    /// # Errors
    /// [`ApplyError`] if a patch cannot be taken.
    pub fn at(&mut self, id: Timestamp) -> Result<Document, ApplyError> {
        let from = self.checkpoints.range(..=id).next_back();
        let (mut document, after) = match from {
            Some((&at, (document, _))) => (document.clone(), Some(at)),
            None => (self.log.start().clone(), None),
        };
        let every = Self::CHECKPOINT_PATCHES.max(self.log.patches().len() / Self::CHECKPOINTS_MAX);
        let mut saved = Vec::new();
        for (count, patch) in (1..).zip(self.log.patches_between(after, id)) {
            let _ = document.merge(patch.as_ref())?;
            if count % every == 0 {
                document.share();
                saved.push((patch.id(), (document.clone(), document.size_bytes())));
            }
        }
        self.checkpoints.extend(saved);
        self.thin_out();
        Ok(past(document))
    }

    /// Drops every second saved state until there is room for the others.
    fn thin_out(&mut self) {
        while self.checkpoints.len() > Self::CHECKPOINTS_MAX
            || self.checkpoint_bytes() > self.checkpoint_bytes_max
        {
            let mut keep = self.checkpoints.len() == 1;
            self.checkpoints.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
    }

    /// The document with just the patches that a replica had seen, whatever others had made by then. Each time from the
    /// start on, without the saved states.
    ///
    /// # Errors
    /// [`ApplyError`] if a patch cannot be taken.
    pub fn at_seen(&self, seen: &StateVector) -> Result<Document, ApplyError> {
        let mut document = self.log.start().clone();
        for patch in self.log.patches().filter(|patch| patch.next_time() <= seen.get(&patch.id().sid) + 1) {
            let _ = document.merge(patch.as_ref())?;
        }
        Ok(past(document))
    }

    /// The document as this replica had it at a time: the start and the patches that were made or came until then. Each time
    /// from the start on, without the saved states.
    ///
    /// A patch whose time was not told counts as of the time that was told last before it was [added](Self::push); if none
    /// was, it was there from the start. Where clocks disagree, so that something has an earlier time than what it is built on,
    /// it is not shown before that: every state is one that a replica could have had.
    ///
    /// # Errors
    /// [`ApplyError`] if a patch cannot be taken.
    pub fn at_time(&self, time: Duration) -> Result<Document, ApplyError> {
        let mut document = self.log.start().clone();
        // From which time on the patches of a session came later.
        let mut later: HashMap<SessionId, u64> = HashMap::new();
        for patch in self.log.patches() {
            let id = patch.id();
            let mut is_later =
                later.contains_key(&id.sid) || self.times.get(&id).is_some_and(|came| came.at > time);
            if !is_later && !later.is_empty() {
                patch.as_ref().for_each_foreign(|Timespan { start, span }| {
                    is_later |=
                        later.get(&start.sid).is_some_and(|&from| from < start.time.saturating_add(span));
                });
            }
            if is_later {
                later.entry(id.sid).or_insert(id.time);
            } else {
                let _ = document.merge(patch.as_ref())?;
            }
        }
        Ok(past(document))
    }

    /// Forgets the history up to an id: it starts with the document at it then.
    ///
    /// # Errors
    /// [`ApplyError`]; then nothing has changed.
    pub fn advance_to(&mut self, id: Timestamp) -> Result<(), ApplyError> {
        self.log.advance_to(id)?;
        self.checkpoints.retain(|&at, _| at > id);
        self.times.retain(|&at, _| at > id);
        self.patches.retain(|&(sid, start), _| Timestamp::new(sid, start) > id);
        Ok(())
    }

    /// Forgets the history up to a version that all replicas have reached, and the tombstones of what was deleted before it:
    /// [`Log::compact`]. The patches since stay, with the times that were told of them. For a model whose document is
    /// [compacted](Model::compact) too, which leaves the history as it is.
    ///
    /// # Errors
    /// [`ApplyError`]; then nothing has changed.
    pub fn compact(&mut self, stable: &StateVector) -> Result<Compaction, ApplyError> {
        let compaction = self.log.compact(stable)?;
        if let Compaction::Done { .. } = compaction {
            // They have the tombstones, and begin before the start.
            self.checkpoints.clear();
            let is_left = |(sid, end): (SessionId, u64)| end > stable.get(&sid) + 1;
            let patches = &mut self.patches;
            patches.retain(|&(sid, _), &mut end| is_left((sid, end)));
            self.times.retain(|id, _| patches.contains_key(&(id.sid, id.time)));
        }
        Ok(compaction)
    }

    /// How many bytes of memory the saved states take, roughly.
    pub fn checkpoint_bytes(&self) -> usize {
        self.checkpoints.values().map(|(_, bytes)| bytes).sum()
    }

    /// How many states are saved on the way now.
    pub fn checkpoints_len(&self) -> usize {
        self.checkpoints.len()
    }
}

impl From<Log> for History {
    fn from(log: Log) -> Self {
        let patches = log.patches().map(|patch| ((patch.id().sid, patch.id().time), patch.next_time()));
        Self {
            patches: patches.collect(),
            log,
            checkpoints: BTreeMap::new(),
            checkpoint_bytes_max: Self::CHECKPOINT_BYTES_MAX,
            times: HashMap::new(),
            last_told: None,
        }
    }
}

/// A part of a node and who wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authored {
    /// Which part.
    pub part: Part,
    /// The ids that it has: the session tells who.
    pub ids: Timespan,
    /// When it was written, if the model [keeps a history](Model::keep_history) and was told the time.
    pub at: Option<Duration>,
}

/// A part of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// Positions of a text, byte string or array.
    Range(Range<usize>),
    /// A key of a map.
    Key(Text),
    /// A place of a tuple.
    Place(u8),
    /// All of a register or constant.
    Whole,
}

impl Model {
    /// Begins to keep every patch that is flushed or applied from now on.
    ///
    /// ```
    /// use crdt_core::{Model, SessionId};
    ///
    /// let mut model = Model::new(SessionId::new(70_001).unwrap());
    /// model.keep_history()?;
    /// let mut versions = Vec::new();
    /// for text in ["warp", "weft", "cloth"] {
    ///     model.api().root(text)?;
    ///     versions.push(model.flush().unwrap().id());
    /// }
    ///
    /// let history = model.history_mut().unwrap();
    /// assert_eq!(history.versions().map(|version| version.id).collect::<Vec<_>>(), versions);
    /// assert_eq!(history.at(versions[1]).unwrap().view(), "weft".into());
    /// # Ok::<_, crdt_core::model::EditError>(())
    /// ```
    ///
    /// # Errors
    /// [`EditError::Unflushed`] if there are open edits: they would be in the start, and come once more as a patch.
    /// [Flush](Self::flush) first.
    pub fn keep_history(&mut self) -> Result<(), EditError> {
        if self.history.is_none() {
            if self.has_edits() {
                return Err(EditError::Unflushed);
            }
            self.begin_history();
        }
        Ok(())
    }

    pub(super) fn begin_history(&mut self) {
        self.history = Some(Box::new(History::new(self.doc.share())));
    }

    /// Goes on with a history that was kept elsewhere; its end should be this document.
    pub fn resume_history(&mut self, history: History) {
        self.history = Some(Box::new(history));
    }

    /// The history, if it is kept. Edits that were not flushed are not in it.
    pub fn history(&self) -> Option<&History> {
        self.history.as_deref()
    }

    /// The history, to look into it.
    pub fn history_mut(&mut self) -> Option<&mut History> {
        self.history.as_deref_mut()
    }

    /// Who wrote what is at a path: each run of a text or byte string that was written at one time, each element of an array, each key of a map. Only
    /// what can be seen is told of, and of the elements of an array the last one put into each slot.
    ///
    /// ```
    /// use crdt_core::{Model, SessionId, model::Part};
    ///
    /// let mut alice = Model::new(SessionId::new(70_001).unwrap());
    /// alice.api().root("warp")?;
    /// let mut bob = alice.fork(SessionId::new(70_002).unwrap());
    /// bob.api().str("")?.ins(4, " and weft")?;
    /// let authors: Vec<_> = bob.blame("")?.into_iter().map(|run| (run.part, run.ids.start.sid.get())).collect();
    /// assert_eq!(authors, [(Part::Range(0..4), 70_001), (Part::Range(4..13), 70_002)]);
    /// # Ok::<_, crdt_core::model::EditError>(())
    /// ```
    ///
    /// # Errors
    /// [`EditError::NotFound`]
    pub fn blame(&self, path: impl Path) -> Result<Vec<Authored>, EditError> {
        let node = find_node(&self.doc, &path)?.and_then(past_registers);
        let node = node.ok_or_else(|| EditError::NotFound { path: path.pointer() })?;
        let one = |start| Timespan { start, span: 1 };
        let mut parts: Vec<(Part, Timespan)> = Vec::new();
        match node.content() {
            Content::Str(chunks) | Content::Bin(chunks) => {
                let mut end = 0;
                for chunk in chunks.filter(|chunk| !chunk.is_tombstone()) {
                    let (id, span) = (chunk.id(), chunk.span());
                    let start = end;
                    end += span as usize;
                    match parts.last_mut() {
                        // An edit in between splits a run, and what was inserted there can be gone again.
                        Some((Part::Range(range), ids)) if ids.start.tick(ids.span) == id => {
                            range.end = end;
                            ids.span += span;
                        }
                        _ => parts.push((Part::Range(start..end), Timespan { start: id, span })),
                    }
                }
            }
            Content::Arr(chunks) => {
                let live = chunks.filter(|chunk| !chunk.is_tombstone());
                let ids = live.flat_map(|chunk| chunk.children().map(|child| child.id()).collect::<Vec<_>>());
                parts.extend(ids.enumerate().map(|(index, id)| (Part::Range(index..index + 1), one(id))));
            }
            Content::Obj(entries) => {
                let set = entries.filter_map(|(key, child)| Some((key, child.node()?)));
                let set = set.filter(|(_, child)| !child.is_undefined());
                parts.extend(set.map(|(key, child)| (Part::Key(key.to_text()), one(child.id()))));
            }
            Content::Vec(places) => {
                let set = (0..=u8::MAX).zip(places);
                parts.extend(set.filter_map(|(at, child)| Some((Part::Place(at), one(child?.id())))));
            }
            Content::Con(_) | Content::ConId(_) | Content::Val(_) => {
                parts.push((Part::Whole, one(node.id())));
            }
        }
        let Some(history) = &self.history else {
            return Ok(parts.into_iter().map(|(part, ids)| Authored { part, ids, at: None }).collect());
        };
        let mut authored = Vec::new();
        for (part, ids) in parts {
            let Part::Range(mut range) = part else {
                let at = history.written(ids.start).and_then(|version| version.at);
                authored.push(Authored { part, ids, at });
                continue;
            };
            for (ids, at) in history.by_time(ids) {
                let end = range.start + ids.span as usize;
                authored.push(Authored { part: Part::Range(range.start..end), ids, at });
                range.start = end;
            }
        }
        Ok(authored)
    }

    pub(super) fn remember(&mut self, patch: &Patch) {
        let now = self.now;
        if let Some(history) = &mut self.history {
            history.push(patch.clone(), now);
        }
    }
}
