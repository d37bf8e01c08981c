//! What can be wrong with bytes from outside.

/// Bytes or JSON that are not what they should be: what was wrong, where, and what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// The input stops in the middle of something.
    #[error("input ends at byte {at}, within {what}")]
    Truncated {
        /// Offset of the end.
        at: usize,
        /// What was being read.
        what: &'static str,
    },
    /// Something follows where the input should end.
    #[error("{left} bytes left over at byte {at}")]
    LeftOver {
        /// Offset of the first.
        at: usize,
        /// How many.
        left: usize,
    },
    /// A number that is out of its range.
    #[error("{what} is {value} at byte {at}: at most {max} is allowed")]
    TooLarge {
        /// Offset behind the number.
        at: usize,
        /// Which number.
        what: &'static str,
        /// The number.
        value: u64,
        /// The largest that is allowed.
        max: u64,
    },
    /// A code without a meaning, or with another meaning than this place allows.
    #[error("byte {found:#04x} at {at}: expected {expected}")]
    Unexpected {
        /// Offset of the code.
        at: usize,
        /// The code.
        found: u8,
        /// What this place allows.
        expected: &'static str,
    },
    /// Text that is not WTF-8.
    #[error("text is not valid UTF-8 at byte {at}")]
    Text {
        /// Offset of the first wrong byte.
        at: usize,
    },
    /// Nesting beyond the bound.
    #[error("nested deeper than {max} levels at byte {at}")]
    TooDeep {
        /// Offset of the value that is one too deep.
        at: usize,
        /// The bound.
        max: usize,
    },
    /// A JSON value of another shape than the form has at this place.
    #[error("{found} at {path}: expected {expected}")]
    Shape {
        /// The way to the value, such as `$[3][1]`.
        path: String,
        /// What the form has there.
        expected: &'static str,
        /// What was found.
        found: String,
    },
    /// Valid bytes in another spelling than the one that json-joy's own encoder writes; `Patch::decode` rewrites them.
    #[error("valid, but not in canonical form")]
    NotCanonical,
    /// Bytes that contradict each other.
    #[error("{what} at byte {at}")]
    Contradiction {
        /// Offset.
        at: usize,
        /// What contradicts what.
        what: &'static str,
    },
}
impl Malformed {
    /// The byte where it is, or behind which; `None` for JSON of the wrong shape, which tells the way to the value.
    pub const fn offset(&self) -> Option<usize> {
        match self {
            Self::Truncated { at, .. }
            | Self::LeftOver { at, .. }
            | Self::TooLarge { at, .. }
            | Self::Unexpected { at, .. }
            | Self::Text { at }
            | Self::TooDeep { at, .. }
            | Self::Contradiction { at, .. } => Some(*at),
            Self::Shape { .. } | Self::NotCanonical => None,
        }
    }

    /// A JSON value of the wrong shape; callers put the path in front as the error travels up.
    pub(crate) fn shape(expected: &'static str, found: impl Into<String>) -> Self {
        Self::Shape { path: String::new(), expected, found: found.into() }
    }

    /// Puts a step in front of the path.
    pub(crate) fn within(mut self, step: impl std::fmt::Display) -> Self {
        if let Self::Shape { path, .. } = &mut self {
            path.insert_str(0, &step.to_string());
        }
        self
    }
}
