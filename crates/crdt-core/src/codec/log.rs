//! The log file: a document with its history, in the components of json-joy's.
//!
//! A log is a start and the patches since, with the end state in front so that who wants only that need not replay: the
//! view, a header, the document, the history, and then patches that were appended to the file later. As text it is a JSON
//! value a line, as bytes a sequence of CBOR values.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::Bound,
};

use super::{
    DocumentEncodeError, DocumentError, Malformed, NoJsonForm, cbor,
    document::{
        VALUE_DEPTH_MAX,
        sidecar::{self, Sidecar},
    },
    json,
    shape::{at, found, item, items},
    wire::Reader,
};
use crate::{
    Document, Patch, SessionId, StateVector, Timestamp, Value,
    document::{ApplyError, Compaction, Order},
};

/// A document's history: where it starts, and what happened since.
///
/// Patches are kept in the order of their ids, which is an order that their causes allow, so the state at any patch is the
/// start with the patches up to it.
#[derive(Debug, Clone)]
pub struct Log {
    start: Document,
    patches: BTreeMap<Timestamp, Patch>,
    /// What the application notes beside the history; a map.
    pub metadata: Value,
}

/// How a log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogFormat {
    /// How its components follow each other.
    pub container: LogContainer,
    /// How the end state is written.
    pub model: LogModel,
    /// How patches and the start are written.
    pub history: LogHistory,
}

/// How the components of a log follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogContainer {
    /// One JSON value a line.
    NdJson,
    /// One CBOR value after the other.
    Cbor,
}

/// How the end state is written in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogModel {
    /// Not at all: a reader replays the history.
    None,
    /// Beside the view, which is its content. CBOR only.
    Sidecar,
    /// In the structural binary form. CBOR only.
    Binary,
    /// In the structural compact form.
    Compact,
    /// In the structural verbose form.
    Verbose,
}

/// How patches and the start are written in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogHistory {
    /// In the binary forms. CBOR only.
    Binary,
    /// In the compact forms.
    Compact,
    /// In the verbose forms.
    Verbose,
}

/// A log that could not be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// A component is not what it should be.
    #[error("component {component} of the log: {source}")]
    Component {
        /// Which, from 0.
        component: usize,
        /// What is wrong with it.
        source: DocumentError,
    },
    /// A document has no such form.
    #[error(transparent)]
    Document(#[from] DocumentEncodeError),
    /// A patch has no such form.
    #[error(transparent)]
    Patch(#[from] NoJsonForm),
    /// The container has no room for bytes.
    #[error("a log of JSON lines has no room for bytes: take compact or verbose forms")]
    BytesInJson,
    /// A patch that the document does not take.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

/// The end state is in its own bytes what it is beside the view.
const SIDECAR: i64 = 1;

impl Log {
    /// A history that starts with a document.
    pub fn new(mut start: Document) -> Self {
        // Every look back begins with a copy of it.
        start.share();
        Self { start, patches: BTreeMap::new(), metadata: Value::Map(Vec::new()) }
    }

    /// The document at the start.
    pub const fn start(&self) -> &Document {
        &self.start
    }

    /// The patches since the start, in the order of their ids.
    pub fn patches(&self) -> impl ExactSizeIterator<Item = &Patch> + Clone {
        self.patches.values()
    }

    /// The patches after one (`None`: from the start on) up to another, in the order of their ids.
    pub fn patches_between(
        &self,
        after: Option<Timestamp>,
        up_to: Timestamp,
    ) -> impl Iterator<Item = &Patch> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        // A range that ends before it begins is empty, and not to be asked for.
        let any = after.is_none_or(|after| after < up_to);
        let range = any.then(|| self.patches.range((from, Bound::Included(up_to))));
        range.into_iter().flatten().map(|(_, patch)| patch)
    }

    /// Adds a patch to the history. Returns whether it is new.
    ///
    /// One that was sent while it was still open comes again under the same id with more operations. Then it takes the place
    /// of the shorter one, and is new too; a shorter one is not.
    pub fn push(&mut self, patch: Patch) -> bool {
        match self.patches.entry(patch.id()) {
            Entry::Vacant(entry) => {
                entry.insert(patch);
                true
            }
            Entry::Occupied(mut entry) => {
                let is_longer = entry.get().next_time() < patch.next_time();
                if is_longer {
                    entry.insert(patch);
                }
                is_longer
            }
        }
    }

    /// The document with all patches, edited by the session of the [start](Self::start), or as [`SessionId::LOCAL`] if
    /// nobody started it.
    ///
    /// # Errors
    /// [`ApplyError`] if a patch cannot be taken.
    pub fn end(&self) -> Result<Document, ApplyError> {
        let mut end = self.replay(self.patches.values())?;
        if end.session() == SessionId::GLOBAL {
            end.set_session(SessionId::LOCAL);
        }
        Ok(end)
    }

    /// The document as it was when the patches up to an id had been made; one before all of them is the start. It is to be
    /// looked at: see [`History::at`](crate::model::History::at).
    ///
    /// # Errors
    /// [`ApplyError`] if a patch cannot be taken.
    pub fn at(&self, id: Timestamp) -> Result<Document, ApplyError> {
        Ok(past(self.state_at(id)?))
    }

    fn state_at(&self, id: Timestamp) -> Result<Document, ApplyError> {
        self.replay(self.patches.range(..=id).map(|(_, patch)| patch))
    }

    fn replay<'p>(&self, patches: impl Iterator<Item = &'p Patch>) -> Result<Document, ApplyError> {
        let mut document = self.start.clone();
        for patch in patches {
            // As the reference replays: what has no effect has none.
            let _ = document.merge(patch.as_ref())?;
        }
        Ok(document)
    }

    /// Forgets the history up to an id: the start becomes the document at it.
    ///
    /// # Errors
    /// [`ApplyError`]; then nothing has changed.
    pub fn advance_to(&mut self, id: Timestamp) -> Result<(), ApplyError> {
        self.start = self.state_at(id)?;
        self.start.share();
        self.patches.retain(|&patch, _| patch > id);
        Ok(())
    }

    /// Forgets the history up to a version, and the tombstones of what was deleted before it: the start becomes the document
    /// at that version, [compacted](Document::compact), on the same condition: all replicas have reached it.
    ///
    /// When the history does not pass through the version, or starts after it, nothing changes.
    ///
    /// # Errors
    /// [`ApplyError`]; then nothing has changed.
    pub fn compact(&mut self, stable: &StateVector) -> Result<Compaction, ApplyError> {
        let is_before = |patch: &Patch| patch.next_time() <= stable.get(&patch.id().sid) + 1;
        let mut start = self.replay(self.patches.values().filter(|patch| is_before(patch)))?;
        let compaction = start.compact(stable);
        if let Compaction::Done { .. } = compaction {
            self.start = start;
            self.patches.retain(|_, patch| !is_before(patch));
        }
        Ok(compaction)
    }

    /// Writes the log.
    ///
    /// # Errors
    /// [`LogError`]
    pub fn encode(&self, format: LogFormat) -> Result<Vec<u8>, LogError> {
        let end = self.replay(self.patches.values())?;
        let mut view = end.view();
        let model = match format.model {
            LogModel::None => Value::Null,
            LogModel::Sidecar => {
                let parts = sidecar::encode(&end)?;
                // Its metadata counts the keys of the view in sorted order, deleted ones too.
                view = cbor::decode_within(&parts.view, VALUE_DEPTH_MAX).unwrap_or_default();
                Value::Bytes(parts.meta)
            }
            LogModel::Binary => Value::Bytes(end.to_binary()),
            LogModel::Compact => end.to_compact()?,
            LogModel::Verbose => end.to_verbose()?,
        };
        let start = match format.history {
            LogHistory::Binary => Value::Bytes(self.start.to_binary()),
            LogHistory::Compact => self.start.to_compact()?,
            LogHistory::Verbose => self.start.to_verbose()?,
        };
        let patches = self.patches().map(|patch| patch_value(patch, format.history)).collect();
        let header = vec![self.metadata.clone(), Value::Int(i64::from(format.model == LogModel::Sidecar))];
        let history = Value::Array(vec![start, patches]);
        let mut out = Vec::new();
        for component in [view, Value::Array(header), model, history] {
            put(&mut out, format.container, &component)?;
        }
        Ok(out)
    }

    /// A patch as it is appended to a log that was written before. Readers take it into the history.
    ///
    /// # Errors
    /// [`LogError`]
    pub fn encode_appended(patch: &Patch, format: LogFormat) -> Result<Vec<u8>, LogError> {
        let mut out = Vec::new();
        put(&mut out, format.container, &patch_value(patch, format.history))?;
        Ok(out)
    }

    /// Reads a log with its history.
    ///
    /// # Errors
    /// [`LogError`]
    pub fn decode(container: LogContainer, bytes: &[u8]) -> Result<Self, LogError> {
        let components = components(container, bytes)?;
        let within =
            |component: usize| move |source: DocumentError| LogError::Component { component, source };
        let header =
            items(item(&components, 1), "a header: [metadata, format]").map_err(|e| within(1)(e.into()))?;
        let history =
            items(item(&components, 3), "a history: [start, patches]").map_err(|e| within(3)(e.into()))?;
        let start = match item(history, 0) {
            Value::Null | Value::Undefined => Document::new(SessionId::GLOBAL),
            start => document(start).map_err(within(3))?,
        };
        let mut log = Self::new(start);
        log.metadata = item(header, 0).clone();
        let patches = match item(history, 1) {
            Value::Undefined | Value::Null => &[],
            list => items(list, "patches: an array").map_err(|e| within(3)(at(1)(e).into()))?,
        };
        for value in patches {
            log.push(patch(value).map_err(|e| within(3)(e.into()))?);
        }
        for (component, value) in components.iter().enumerate().skip(4) {
            log.push(patch(value).map_err(|e| within(component)(e.into()))?);
        }
        Ok(log)
    }

    /// Reads only the end state, without the history, where a log has it, and can be read alone: json-joy's, beside a view, lacks
    /// deleted keys. Otherwise the history is replayed.
    ///
    /// # Errors
    /// [`LogError`]
    pub fn decode_end(container: LogContainer, bytes: &[u8]) -> Result<Document, LogError> {
        let components = components(container, bytes)?;
        let within =
            |component: usize| move |source: DocumentError| LogError::Component { component, source };
        let format = item(&components, 1).at(1).cloned().unwrap_or_default();
        let mut end = match (item(&components, 2), format) {
            (Value::Null | Value::Undefined, _) => return Ok(Self::decode(container, bytes)?.end()?),
            (Value::Bytes(meta), Value::Int(SIDECAR)) => {
                let view = cbor::encode_deep(item(&components, 0));
                match sidecar::decode(&Sidecar { view, meta: meta.clone() }) {
                    Ok(end) => end,
                    // json-joy writes the view without the keys that were deleted, which the metadata counts. With ids at
                    // the wrong keys it would be another document; the history has the right one.
                    Err(_) if has_history(&components) => return Ok(Self::decode(container, bytes)?.end()?),
                    Err(error) => return Err(within(2)(error)),
                }
            }
            (model, _) => document(model).map_err(within(2))?,
        };
        for (component, value) in components.iter().enumerate().skip(4) {
            let patch = patch(value).map_err(|e| within(component)(e.into()))?;
            let _ = end.merge(patch.as_ref())?;
        }
        Ok(end)
    }
}

/// A state of the past. Who edited it as the session that has gone on since would give ids once more that were sent.
pub(crate) fn past(mut document: Document) -> Document {
    if document.order() == Order::Logical {
        document.set_session(SessionId::LOCAL);
    }
    document
}

fn patch_value(patch: &Patch, form: LogHistory) -> Value {
    match form {
        LogHistory::Binary => Value::Bytes(patch.as_bytes().to_vec()),
        LogHistory::Compact => patch.to_compact(),
        LogHistory::Verbose => patch.to_verbose(),
    }
}

fn put(out: &mut Vec<u8>, container: LogContainer, component: &Value) -> Result<(), LogError> {
    match container {
        LogContainer::Cbor => out.extend(cbor::encode_deep(component)),
        LogContainer::NdJson => {
            if !is_json_line(component) {
                return Err(LogError::BytesInJson);
            }
            out.extend(json::encode(component).into_bytes());
            out.push(b'\n');
        }
    }
    Ok(())
}

/// Whether JSON can say it; the view may have what JSON leaves out, since it is there for readers only.
fn is_json_line(component: &Value) -> bool {
    match component {
        Value::Bytes(_) | Value::Tag(..) | Value::Simple(_) => false,
        Value::Array(items) => items.iter().all(is_json_line),
        Value::Map(entries) => entries.iter().all(|(_, value)| is_json_line(value)),
        _ => true,
    }
}

fn components(container: LogContainer, bytes: &[u8]) -> Result<Vec<Value>, LogError> {
    let mut components = Vec::new();
    let error = |component: usize, error: Malformed| LogError::Component { component, source: error.into() };
    match container {
        LogContainer::NdJson => {
            for line in bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
                let value = json::decode_within(line, VALUE_DEPTH_MAX);
                components.push(value.map_err(|e| error(components.len(), e))?);
            }
        }
        LogContainer::Cbor => {
            let mut reader = Reader::new(bytes);
            while reader.left() > 0 {
                let value = cbor::read_within(&mut reader, VALUE_DEPTH_MAX);
                components.push(value.map_err(|e| error(components.len(), e))?);
            }
        }
    }
    Ok(components)
}

/// Whether there is something to replay.
fn has_history(components: &[Value]) -> bool {
    let history = item(components, 3);
    let is_start = history.at(0).is_some_and(|start| !matches!(start, Value::Null | Value::Undefined));
    is_start || matches!(history.at(1), Some(Value::Array(patches)) if !patches.is_empty())
}

/// A document in the form that its type tells.
fn document(value: &Value) -> Result<Document, DocumentError> {
    match value {
        Value::Bytes(bytes) => Document::from_binary(bytes),
        Value::Array(_) => Document::from_compact(value),
        Value::Map(_) => Document::from_verbose(value),
        other => Err(found("a document in one of its forms", other).into()),
    }
}

/// A patch in the form that its type tells.
fn patch(value: &Value) -> Result<Patch, Malformed> {
    match value {
        Value::Bytes(bytes) => Patch::decode(bytes),
        Value::Array(_) => Patch::from_compact(value),
        Value::Map(_) => Patch::from_verbose(value),
        other => Err(found("a patch in one of its forms", other)),
    }
}
