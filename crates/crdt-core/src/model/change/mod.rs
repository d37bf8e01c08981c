//! What changed in a model, where, by whom, and what was there before.

mod delta;
mod watch;

use std::fmt;

pub use delta::Delta;
pub(super) use watch::{BYTES_MAX, Rewind, SETS_MAX, Watch};

use super::{EditError, Path, PathStep, Step};
use crate::{Text, Timespan, Timestamp, Value, document::Kind};

/// Changes that belong together: those of one patch, or of the local edits up to a flush.
///
/// Paths are those after all of them, and the changes stand from the root down. Who does to a copy of the view what they
/// say, one after the other, has the new view; what they tell to have been there before is what that copy has. So what the
/// same set first edited inside and then replaced is told as it was before both.
///
/// Of counters, registers with several values and marks of rich text it is told what changed in the nodes they are made of.
#[derive(Debug, Clone, PartialEq)]
pub struct ChangeSet {
    /// How they came about.
    pub origin: Origin,
    /// Who made them, and with which operations: of a patch that came before with less in it, those that are new. A patch
    /// that changes very much comes as several sets, each of which names all of them.
    pub by: Timespan,
    /// What changed.
    pub changes: Vec<Change>,
    /// Earlier changes were not fetched in time and are left out: see [`Model::SETS_MAX`](super::Model::SETS_MAX). Or
    /// something changed that others have put into several places at once. Then the one change is the whole view.
    pub missed: bool,
}

/// How changes came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// An edit here.
    Local,
    /// A patch of another session.
    Remote,
    /// [`Model::undo`](super::Model::undo).
    Undo,
    /// [`Model::redo`](super::Model::redo).
    Redo,
}

/// What changed in one node that was there before and still is.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Where it is.
    pub path: ChangePath,
    /// The node; [`Timestamp::ORIGIN`] is the root register.
    pub node: Timestamp,
    /// What changed in it.
    pub diff: Diff,
}

impl Change {
    /// Bytes that its values take, roughly.
    fn size_bytes(&self) -> usize {
        fn all<T>(delta: &[Delta<T>], size: impl Fn(&T) -> usize) -> usize {
            let items = delta.iter().map(|step| match step {
                Delta::Retain(_) => 0,
                Delta::Insert(items) | Delta::Delete(items) => size(items),
            });
            size_of_val(delta) + items.sum::<usize>()
        }
        size_of::<Self>()
            + match &self.diff {
                Diff::Value { old, new } => old.size_bytes() + new.size_bytes(),
                Diff::Map(keys) => keys
                    .iter()
                    .map(|key| key.key.as_bytes().len() + key.old.size_bytes() + key.new.size_bytes())
                    .sum(),
                Diff::Tuple(places) => {
                    places.iter().map(|place| place.old.size_bytes() + place.new.size_bytes()).sum()
                }
                Diff::Text(delta) => all(delta, |text| text.as_bytes().len()),
                Diff::Bytes(delta) => all(delta, Vec::len),
                Diff::Array(delta) => all(delta, |items| items.iter().map(Value::size_bytes).sum()),
            }
    }
}

/// What changed in a node.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Diff {
    /// A register, or the root, holds another value.
    Value {
        /// What it showed before all of the set.
        old: Value,
        /// What it shows.
        new: Value,
    },
    /// Keys of a map.
    Map(Vec<KeyChange>),
    /// Places of a tuple.
    Tuple(Vec<PlaceChange>),
    /// Text; lengths count UTF-16 code units.
    Text(Vec<Delta<Text>>),
    /// Bytes.
    Bytes(Vec<Delta<Vec<u8>>>),
    /// Elements of an array. One that was replaced in its slot is gone and new.
    Array(Vec<Delta<Vec<Value>>>),
}

impl Diff {
    /// What kind of node it is about. The root counts as a register.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Value { .. } => Kind::Val,
            Self::Map(_) => Kind::Obj,
            Self::Tuple(_) => Kind::Vec,
            Self::Text(_) => Kind::Str,
            Self::Bytes(_) => Kind::Bin,
            Self::Array(_) => Kind::Arr,
        }
    }
}

/// A key of a map that has another value. `undefined` is none.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyChange {
    /// The key.
    pub key: Text,
    /// Its value before all of the set.
    pub old: Value,
    /// Its value now.
    pub new: Value,
}

/// A place of a tuple that has another value. `undefined` is none.
#[derive(Debug, Clone, PartialEq)]
pub struct PlaceChange {
    /// The place.
    pub index: u8,
    /// Its value before all of the set.
    pub old: Value,
    /// Its value now.
    pub new: Value,
}

/// Where a change is: the steps from the root. It shows as a JSON pointer, and can be given to the
/// [`api`](super::Model::api) as a path: that also leads to keys with half a character, which no pointer can name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ChangePath(pub Vec<PathStep>);

impl ChangePath {
    /// Whether it is at or below a place: `["notes"]` is above `/notes/3/text`.
    pub fn is_within(&self, steps: &[Step<'_>]) -> bool {
        self.0.len() >= steps.len() && self.0.iter().zip(steps).all(|(here, step)| here.matches(*step))
    }
}

impl fmt::Display for ChangePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.0 {
            match step {
                PathStep::Index(index) => write!(f, "/{index}")?,
                PathStep::Key(key) => {
                    let key = key.as_wtf8().to_str_lossy();
                    write!(f, "/{}", key.replace('~', "~0").replace('/', "~1"))?;
                }
            }
        }
        Ok(())
    }
}

impl Path for &ChangePath {
    fn walk(&self, each: &mut dyn FnMut(Step<'_>)) -> Result<(), EditError> {
        for step in &self.0 {
            match step {
                PathStep::Index(index) => each(Step::Index(*index)),
                PathStep::Key(key) => each(Step::Text(key.as_wtf8())),
            }
        }
        Ok(())
    }
}
