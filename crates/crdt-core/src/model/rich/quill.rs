//! Rich text in and out as a delta of the Quill editor.

use super::{Expand, RichTextCursor};
use crate::{Text, Value, model::EditError};

/// One step of a Quill delta. Lengths count UTF-16 code units.
#[derive(Debug, Clone, PartialEq)]
pub enum QuillOp {
    /// Text, with just these attributes.
    Insert(Text, Vec<(Text, Value)>),
    /// Something that is not text, of length 1: a map with one key, `{"image": "…"}`.
    Embed(Value, Vec<(Text, Value)>),
    /// What is there stays; its attributes become these, and `null` takes one away.
    Retain(usize, Vec<(Text, Value)>),
    /// What is there goes.
    Delete(usize),
}

/// Something that is no Quill delta, or one that does not fit the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidQuill {
    /// It is no delta.
    #[error("operation {index} of the delta: expected an insert, a retain or a delete, found {found}")]
    Shape {
        /// Which operation, from 0.
        index: usize,
        /// What it is.
        found: String,
    },
    /// The text has changed since the editor was told last.
    #[error("the editor has not been told all that has changed: catch up first")]
    Behind,
    /// The text is shorter.
    #[error(transparent)]
    Edit(#[from] EditError),
}

/// The tag under which json-joy keeps what an embed is; its character is a line feed.
pub(super) const EMBED_TAG: &str = "0";

impl QuillOp {
    /// Reads a delta: an array of operations, or a map that has one at `ops`.
    ///
    /// # Errors
    /// [`InvalidQuill::Shape`]
    pub fn from_value(delta: &Value) -> Result<Vec<Self>, InvalidQuill> {
        let shape = |index, found: &Value| InvalidQuill::Shape { index, found: found.kind().to_owned() };
        let ops = match delta.get("ops").unwrap_or(delta) {
            Value::Array(ops) => ops,
            other => return Err(shape(0, other)),
        };
        let read = |(index, op): (usize, &Value)| {
            let attributes = match op.get("attributes") {
                None | Some(Value::Null | Value::Undefined) => Vec::new(),
                Some(Value::Map(attributes)) => attributes.clone(),
                Some(other) => return Err(shape(index, other)),
            };
            let mut does = ["insert", "retain", "delete"].into_iter().filter(|key| op.get(key).is_some());
            let (key, more) = (does.next().ok_or_else(|| shape(index, op))?, does.next());
            if let Some(more) = more {
                return Err(InvalidQuill::Shape { index, found: format!("{key} and {more}") });
            }
            match (key, op.get(key).unwrap_or(op)) {
                ("insert", Value::Text(text)) => Ok(Self::Insert(text.clone(), attributes)),
                ("insert", embed @ Value::Map(_)) => Ok(Self::Embed(embed.clone(), attributes)),
                ("insert", other) => Err(shape(index, other)),
                (_, count) => match count.as_u64().and_then(|n| usize::try_from(n).ok()) {
                    Some(len) if key == "retain" => Ok(Self::Retain(len, attributes)),
                    Some(len) => Ok(Self::Delete(len)),
                    None => {
                        let number = count.as_f64().map(|n| n.to_string());
                        let found = number.unwrap_or_else(|| count.kind().to_owned());
                        Err(InvalidQuill::Shape { index, found: format!("{key} of {found}") })
                    }
                },
            }
        };
        ops.iter().enumerate().map(read).collect()
    }

    /// The operation as JSON has it.
    pub fn to_value(&self) -> Value {
        let (key, value, attributes): (&str, Value, &[_]) = match self {
            Self::Insert(text, attributes) => ("insert", text.clone().into(), attributes),
            Self::Embed(embed, attributes) => ("insert", embed.clone(), attributes),
            Self::Retain(len, attributes) => ("retain", (*len as u64).into(), attributes),
            Self::Delete(len) => ("delete", (*len as u64).into(), &[]),
        };
        let mut entries = vec![(key.into(), value)];
        if !attributes.is_empty() {
            entries.push(("attributes".into(), Value::Map(attributes.to_vec())));
        }
        Value::Map(entries)
    }
}

impl RichTextCursor<'_> {
    /// The text as a Quill delta of inserts. A block's tag is an attribute of its own line feed.
    ///
    /// # Errors
    /// [`EditError::Removed`]
    pub fn to_quill(&self) -> Result<Vec<QuillOp>, EditError> {
        self.read().to_quill()
    }

    /// Edits the text as a Quill delta says.
    ///
    /// # Errors
    /// [`InvalidQuill::Edit`] if the text is shorter than the delta goes; what stands before has been done: see
    /// [`Model::transaction`](crate::Model::transaction).
    pub fn apply_quill(&mut self, delta: &[QuillOp]) -> Result<(), InvalidQuill> {
        let mut at = 0;
        for op in delta {
            match op {
                QuillOp::Insert(text, attributes) => {
                    let len = text.as_wtf8().units();
                    self.ins(at, text.as_wtf8())?;
                    self.set_marks(at..at + len, attributes)?;
                    at += len;
                }
                QuillOp::Embed(embed, attributes) => {
                    self.ins(at, "\n")?;
                    let embed = (EMBED_TAG.into(), embed.clone());
                    let marks: Vec<_> = attributes.iter().cloned().chain([embed]).collect();
                    self.set_marks(at..at + 1, &marks)?;
                    at += 1;
                }
                QuillOp::Retain(len, attributes) => {
                    let (end, len) = (at.saturating_add(*len), self.len());
                    if end > len {
                        return Err(EditError::OutOfRange { position: end, len }.into());
                    }
                    let range = at..end;
                    for (tag, value) in attributes.iter().filter(|_| !range.is_empty()) {
                        self.set_mark(range.clone(), tag, value)?;
                    }
                    at = range.end;
                }
                QuillOp::Delete(len) => self.del(at, *len)?,
            }
        }
        Ok(())
    }

    /// Gives new text just these marks: it can have got others from what stands beside it.
    fn set_marks(
        &mut self,
        range: std::ops::Range<usize>,
        wanted: &[(Text, Value)],
    ) -> Result<(), EditError> {
        if range.is_empty() {
            return Ok(());
        }
        let slices = self.slices();
        let has = if slices.is_empty() { Vec::new() } else { self.read().marks_at(&slices, range.start) };
        for (tag, _) in has.iter().filter(|(tag, _)| !wanted.iter().any(|(wanted, _)| wanted == tag)) {
            self.set_mark(range.clone(), tag, &Value::Null)?;
        }
        for (tag, value) in wanted.iter().filter(|wanted| !has.contains(wanted)) {
            self.set_mark(range.clone(), tag, value)?;
        }
        Ok(())
    }

    fn set_mark(
        &mut self,
        range: std::ops::Range<usize>,
        tag: &Text,
        value: &Value,
    ) -> Result<(), EditError> {
        match value {
            Value::Null | Value::Undefined => self.unmark(range, tag.clone(), Expand::None),
            value => self.mark(range, tag.clone(), value.clone(), Expand::None),
        }
    }
}
