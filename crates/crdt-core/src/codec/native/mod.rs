//! The native snapshot: our own form of a document, for stores. `docs/formats/native-snapshot.md` has the layout.
//!
//! Small, because ids are runs and content lies in columns of one kind each, which may be packed. Fast, because loading
//! fills the document's own tables. Canonical, because nothing in it depends on the order in which patches came: the
//! same patches give the same bytes on every replica. For exchange with json-joy take
//! [`Document::to_binary`](crate::Document::to_binary).

mod frame;
mod history;
mod keys;
mod read;
mod runs;
mod sink;
mod survey;
mod weigh;
mod write;

pub(crate) use survey::{Snapshot, Stable};

use frame::{Columns, SnapshotKind};

use super::Malformed;
use crate::{
    Document, SessionId, Value,
    document::{LoadError, Order},
};

/// Whether the columns of a snapshot are made smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Packing {
    /// Columns as they are: the fastest, and the form that is canonical for all time.
    Plain,
    /// Columns through DEFLATE where that pays. Canonical as long as the packing library stays the same. Without the
    /// feature `deflate`, the same as [`Plain`](Self::Plain).
    Deflate,
}

/// Bytes that are not a native snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NativeError {
    /// They start like something else.
    #[error("starts with {found:02x?}: expected {expected:02x?} (\"Weft\")", expected = frame::MAGIC)]
    NotNative {
        /// The first bytes.
        found: [u8; 4],
    },
    /// They are of a version that this code does not know.
    #[error("version {found} of the native snapshot: this build reads version {known}", known = frame::VERSION)]
    Version {
        /// The version.
        found: u8,
    },
    /// Some of them have changed since they were written.
    #[error("checksum is {found:08x}: expected {expected:08x}, so the bytes are damaged")]
    Checksum {
        /// What the bytes come to.
        found: u32,
        /// What they should come to.
        expected: u32,
    },
    /// A packed column that does not unpack to what it should.
    #[error("a column of {packed_len} packed bytes does not unpack to {len}")]
    Unpack {
        /// How long it should be.
        len: usize,
        /// How long it is, packed.
        packed_len: usize,
    },
    /// A column is packed, and unpacking is not built in.
    #[error("a column is packed: build with the feature `deflate`")]
    Unbuilt,
    /// A snapshot of another kind.
    #[error("a snapshot of {found}: expected one of {expected}")]
    Kind {
        /// What it is of.
        found: &'static str,
        /// What is asked for.
        expected: &'static str,
    },
    /// A column is not what it should be; offsets count within it, unpacked.
    #[error("column `{column}`, from byte {start}: {source}")]
    Column {
        /// Which column.
        column: &'static str,
        /// Where it starts in the snapshot.
        start: usize,
        /// What is wrong with it.
        source: Malformed,
    },
    /// What they say cannot be.
    #[error("column `{column}`, from byte {start}: {source}, at byte {at}")]
    Impossible {
        /// The column that says it.
        column: &'static str,
        /// Where it starts in the snapshot.
        start: usize,
        /// Up to this byte of it had been read, or to its end if it is the whole that cannot be.
        at: usize,
        /// What cannot be.
        source: LoadError,
    },
}

impl NativeError {
    /// The byte of the snapshot where it is, or behind which, as long as its columns are not packed; `None` if the snapshot as
    /// a whole is wrong.
    pub fn offset(&self) -> Option<usize> {
        match self {
            Self::NotNative { .. } => Some(0),
            Self::Version { .. } => Some(frame::MAGIC.len()),
            Self::Column { start, source, .. } => source.offset().map(|at| start + at),
            Self::Impossible { start, at, .. } => Some(start + at),
            Self::Checksum { .. } | Self::Unpack { .. } | Self::Unbuilt | Self::Kind { .. } => None,
        }
    }
}

/// The columns of a document, in the order in which they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Col {
    Clock,
    Kinds,
    Ids,
    Counts,
    Keys,
    Entries,
    Values,
    Moves,
    Spans,
    Starts,
    Text,
    Bytes,
    Names,
}

impl Col {
    const COUNT: usize = 13;
    const NAMES: [&str; Self::COUNT] = [
        "clock", "kinds", "ids", "counts", "keys", "entries", "values", "moves", "spans", "starts", "text",
        "bytes", "names",
    ];

    const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// The place of a column in a snapshot, by its name.
fn column_number(name: &str) -> Option<usize> {
    Col::NAMES.iter().chain(&history::NAMES).position(|&column| column == name)
}

/// Says in which column something is wrong. Where that starts is [added](Columns::placed) in the end.
fn column(column: Col) -> impl Fn(Malformed) -> NativeError {
    move |source| NativeError::Column { column: column.name(), start: 0, source }
}

/// Says which column says what cannot be, and up to which byte of it was read.
fn impossible(column: Col, at: usize) -> impl Fn(LoadError) -> NativeError {
    move |source| NativeError::Impossible { column: column.name(), start: 0, at, source }
}

/// What stands in the column of kinds: a node's kind, or what stands where a node could.
mod kind {
    pub(super) const CON: u8 = 0;
    pub(super) const VAL: u8 = 1;
    pub(super) const OBJ: u8 = 2;
    pub(super) const VEC: u8 = 3;
    pub(super) const STR: u8 = 4;
    pub(super) const BIN: u8 = 5;
    pub(super) const ARR: u8 = 6;
    /// A constant that is a timestamp.
    pub(super) const CON_ID: u8 = 7;
    /// No node: a place of a tuple that was never set, a document without a root.
    pub(super) const NONE: u8 = 8;
    /// A node that was removed while something still refers to it.
    pub(super) const MISSING: u8 = 9;
    /// A node that stands further in front.
    pub(super) const AGAIN: u8 = 10;
}

impl Document {
    /// The document as a native snapshot. Documents that took the same patches give the same bytes, in whatever order
    /// those came and whoever holds them.
    ///
    /// The own session is not in it, only what it made. Nodes that lost to a later write are left out; those that
    /// nothing has referred to yet are kept, since a patch to come may.
    pub fn to_native(&self, packing: Packing) -> Vec<u8> {
        let kind = match self.order() {
            Order::Logical => SnapshotKind::Logical,
            Order::Server => SnapshotKind::Server,
        };
        let columns = write::columns(self);
        let bytes = frame::write(kind, &columns, packing);
        if weigh::is_fair(kind, &columns, bytes.len()) {
            bytes
        } else {
            frame::write(kind, &columns, Packing::Plain)
        }
    }

    /// Reads [`to_native`](Self::to_native) from anyone. The document goes on as `session`; one that a server numbers
    /// goes on as the server.
    ///
    /// # Errors
    /// [`NativeError`]
    pub fn from_native(bytes: &[u8], session: SessionId) -> Result<Self, NativeError> {
        let columns = document_columns(bytes)?;
        sink::load(&columns, session).map_err(|error| columns.placed(error))
    }

    /// Takes over a native snapshot as it lies there: what [`from_native`](Self::from_native) would refuse is refused, and
    /// nothing else is done. The [view](Self::view) is shown from the snapshot, and what was [seen](Self::state_vector)
    /// is told from it; the document is made of it when somebody asks for more or edits it. Copies have the same
    /// snapshot until then.
    ///
    /// For who shows a state first and edits it later, as a replica that has just come: what is looked through and read costs
    /// about a half more than what is only read. What is made is made once, under the first `&self` that needs it, and the
    /// bytes are kept until the first edit.
    ///
    /// Packed snapshots, those that a server numbers and the few that are hard to tell are read at once.
    ///
    /// # Errors
    /// [`NativeError`]
    pub fn open_native(
        bytes: impl AsRef<[u8]> + Send + Sync + 'static,
        session: SessionId,
    ) -> Result<Self, NativeError> {
        let columns = document_columns(bytes.as_ref())?;
        match survey::survey(&columns, session) {
            Some(survey) => {
                drop(columns);
                Ok(survey.into_document(Box::new(bytes)))
            }
            None => sink::load(&columns, session).map_err(|error| columns.placed(error)),
        }
    }

    /// The JSON value of a native snapshot, read from its columns without making a document of it.
    ///
    /// # Errors
    /// [`NativeError`]. Two nodes with one id are not noticed here, only by [`from_native`](Self::from_native).
    pub fn view_native(bytes: &[u8]) -> Result<Value, NativeError> {
        let columns = document_columns(bytes)?;
        sink::view(&columns).map_err(|error| columns.placed(error))
    }
}

fn document_columns(bytes: &[u8]) -> Result<Columns<'_>, NativeError> {
    let columns = Columns::read(bytes)?;
    if columns.kind == SnapshotKind::History {
        return Err(NativeError::Kind { found: "a history", expected: "a document" });
    }
    expect_columns(&columns, Col::COUNT)?;
    weigh::check(&columns).map_err(|error| columns.placed(error))?;
    Ok(columns)
}

fn expect_columns(columns: &Columns<'_>, count: usize) -> Result<(), NativeError> {
    if columns.len() == count {
        return Ok(());
    }
    let source = Malformed::Contradiction { at: columns.len_bytes(), what: "columns missing or left over" };
    Err(NativeError::Column { column: "frame", start: 0, source })
}
