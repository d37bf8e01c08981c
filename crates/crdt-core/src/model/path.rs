//! Where in a document: JSON pointers and lists of steps.

use std::borrow::Cow;

use super::EditError;
use crate::{Text, Wtf8};

/// One step down: into a map by key, into an array or tuple by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'p> {
    /// A key of a map.
    Key(&'p str),
    /// A key that may hold half a character, which no `str` can.
    Text(Wtf8<'p>),
    /// An index of an array or tuple.
    Index(usize),
}

impl<'p> Step<'p> {
    /// As text for messages.
    fn shown(self) -> Cow<'p, str> {
        match self {
            Self::Key(key) => key.into(),
            Self::Text(key) => key.to_str_lossy(),
            Self::Index(index) => index.to_string().into(),
        }
    }

    /// Does something with the key that it names in a map.
    #[inline]
    pub(super) fn with_key<R>(self, with: impl FnOnce(Wtf8<'_>) -> R) -> R {
        match self {
            Self::Key(key) => with(key.into()),
            Self::Text(key) => with(key),
            Self::Index(index) => with(index.to_string().as_str().into()),
        }
    }

    pub(super) fn index(self) -> Option<usize> {
        match self {
            // As in JSON Pointer: no sign, no leading zeros.
            Self::Key(key) if key.starts_with(['+', '0']) && key != "0" => None,
            Self::Key(key) => key.parse().ok(),
            Self::Text(key) => Step::Key(key.as_str()?).index(),
            Self::Index(index) => Some(index),
        }
    }
}

impl<'p> From<&'p str> for Step<'p> {
    fn from(key: &'p str) -> Self {
        Self::Key(key)
    }
}

impl<'p> From<Wtf8<'p>> for Step<'p> {
    fn from(key: Wtf8<'p>) -> Self {
        Self::Text(key)
    }
}

impl From<usize> for Step<'_> {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

/// One step down, as changes tell it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathStep {
    /// A key of a map.
    Key(Text),
    /// An index of an array or tuple.
    Index(usize),
}

impl PathStep {
    /// Whether it is the same step.
    pub fn matches(&self, step: Step<'_>) -> bool {
        match (self, step) {
            (Self::Key(key), step) => step.with_key(|step| key.as_wtf8() == step),
            (Self::Index(index), step) => step.index() == Some(*index),
        }
    }
}

/// Something that says where in a document. `""` and `()` are the root.
pub trait Path {
    /// Calls `each` with every step from the root down.
    ///
    /// # Errors
    /// [`EditError::Path`] if it is not a path.
    fn walk(&self, each: &mut dyn FnMut(Step<'_>)) -> Result<(), EditError>;

    /// The path as a JSON pointer (RFC 6901), for messages. It has U+FFFD for half a character, and so names another key.
    fn pointer(&self) -> String {
        let mut pointer = String::new();
        let walked = self.walk(&mut |step| {
            pointer.push('/');
            pointer.push_str(&step.shown().replace('~', "~0").replace('/', "~1"));
        });
        walked.map_or_else(|error| error.to_string(), |()| pointer)
    }
}

/// A JSON pointer.
impl Path for &str {
    fn walk(&self, each: &mut dyn FnMut(Step<'_>)) -> Result<(), EditError> {
        if self.is_empty() {
            return Ok(());
        }
        let steps = self.strip_prefix('/').ok_or_else(|| EditError::Path((*self).to_owned()))?;
        for step in steps.split('/') {
            if step.contains('~') {
                each(Step::Key(&step.replace("~1", "/").replace("~0", "~")));
            } else {
                each(Step::Key(step));
            }
        }
        Ok(())
    }
}

impl Path for String {
    fn walk(&self, each: &mut dyn FnMut(Step<'_>)) -> Result<(), EditError> {
        self.as_str().walk(each)
    }
}

impl Path for &String {
    fn walk(&self, each: &mut dyn FnMut(Step<'_>)) -> Result<(), EditError> {
        self.as_str().walk(each)
    }
}

impl Path for () {
    fn walk(&self, _: &mut dyn FnMut(Step<'_>)) -> Result<(), EditError> {
        Ok(())
    }
}

impl Path for &[Step<'_>] {
    fn walk(&self, each: &mut dyn FnMut(Step<'_>)) -> Result<(), EditError> {
        self.iter().for_each(|&step| each(step));
        Ok(())
    }
}

impl<const N: usize> Path for [Step<'_>; N] {
    fn walk(&self, each: &mut dyn FnMut(Step<'_>)) -> Result<(), EditError> {
        self.as_slice().walk(each)
    }
}
