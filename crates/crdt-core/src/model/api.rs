//! Where a path leads, to be edited or only looked at.

use super::{
    ArrCursor, BinCursor, ConCursor, EditError, Model, ObjCursor, Path, StrCursor, ValCursor, VecCursor,
};
use crate::{
    Timestamp, Value,
    document::{Document, Kind, NodeRef},
};

/// The edits of a [`Model`], by path.
///
/// A path is a JSON pointer (`"/tags/0"`, `""` for the root), or a list of [`Step`](super::Step)s. Registers on the way are stepped
/// through.
#[derive(Debug)]
pub struct Api<'m> {
    pub(super) model: &'m mut Model,
}

impl Model {
    /// The edits, by path.
    pub const fn api(&mut self) -> Api<'_> {
        Api { model: self }
    }

    /// The JSON value at a path: of a part of the document, without making that of all of it. A constant is a whole: the path
    /// does not lead into it, as that of a [JSON Patch](super::json_patch) does.
    ///
    /// ```
    /// use crdt_core::{Model, SessionId};
    /// use serde_json::json;
    ///
    /// let mut model = Model::new(SessionId::new(70_001).unwrap());
    /// model.api().root(json!({"items": [{"title": "warp", "done": true}]}))?;
    /// assert_eq!(model.view_at("/items/0/title")?, "warp".into());
    /// assert!(model.view_at("/items/1").is_err());
    /// # Ok::<_, crdt_core::model::EditError>(())
    /// ```
    ///
    /// # Errors
    /// [`EditError::NotFound`], and [`EditError::Path`] for a path that is no JSON pointer.
    pub fn view_at(&self, path: impl Path) -> Result<Value, EditError> {
        let node = find_node(&self.doc, &path)?;
        node.map(|node| node.view()).ok_or_else(|| EditError::NotFound { path: path.pointer() })
    }
}

impl<'m> Api<'m> {
    /// Sets the document's root to a JSON value. Text, bytes, arrays and maps in it can be edited inside.
    ///
    /// # Errors
    /// [`EditError`]
    pub fn root(self, value: impl Into<Value>) -> Result<Timestamp, EditError> {
        let value = value.into();
        self.model.write(|patch| {
            let node = patch.const_or_json(&value);
            patch.ins_val(Timestamp::ORIGIN, node);
            node
        })
    }

    /// The map at a path.
    ///
    /// # Errors
    /// [`EditError`] if there is none.
    pub fn obj(self, path: impl Path) -> Result<ObjCursor<'m>, EditError> {
        let node = self.find(&path, Kind::Obj)?;
        Ok(ObjCursor::new(self.model, node))
    }

    /// The array at a path.
    ///
    /// # Errors
    /// [`EditError`] if there is none.
    pub fn arr(self, path: impl Path) -> Result<ArrCursor<'m>, EditError> {
        let node = self.find(&path, Kind::Arr)?;
        Ok(ArrCursor::new(self.model, node))
    }

    /// The text at a path.
    ///
    /// # Errors
    /// [`EditError`] if there is none.
    pub fn str(self, path: impl Path) -> Result<StrCursor<'m>, EditError> {
        let node = self.find(&path, Kind::Str)?;
        Ok(StrCursor::new(self.model, node))
    }

    /// The bytes at a path.
    ///
    /// # Errors
    /// [`EditError`] if there are none.
    pub fn bin(self, path: impl Path) -> Result<BinCursor<'m>, EditError> {
        let node = self.find(&path, Kind::Bin)?;
        Ok(BinCursor::new(self.model, node))
    }

    /// The tuple at a path.
    ///
    /// # Errors
    /// [`EditError`] if there is none.
    pub fn vec(self, path: impl Path) -> Result<VecCursor<'m>, EditError> {
        let node = self.find(&path, Kind::Vec)?;
        Ok(VecCursor::new(self.model, node))
    }

    /// The register at a path.
    ///
    /// # Errors
    /// [`EditError`] if there is none.
    pub fn val(self, path: impl Path) -> Result<ValCursor<'m>, EditError> {
        let node = self.find(&path, Kind::Val)?;
        Ok(ValCursor::new(self.model, node))
    }

    /// The constant at a path.
    ///
    /// # Errors
    /// [`EditError`] if there is none.
    pub fn con(self, path: impl Path) -> Result<ConCursor<'m>, EditError> {
        let node = self.find(&path, Kind::Con)?;
        Ok(ConCursor::new(self.model, node))
    }

    fn find(&self, path: &impl Path, kind: Kind) -> Result<u32, EditError> {
        let not_found = || EditError::NotFound { path: path.pointer() };
        let mut node = find_node(&self.model.doc, path)?.ok_or_else(not_found)?;
        while kind != Kind::Val && node.kind() == Kind::Val {
            node = node.child().ok_or_else(not_found)?;
        }
        if node.kind() != kind {
            return Err(EditError::Kind { path: path.pointer(), expected: kind, found: node.kind() });
        }
        Ok(node.number())
    }
}

/// The node at a path. Registers on the way are stepped through; at its end a register stands for itself.
pub(super) fn find_node<'d>(doc: &'d Document, path: &impl Path) -> Result<Option<NodeRef<'d>>, EditError> {
    let mut node = doc.root();
    path.walk(&mut |step| {
        node = node.and_then(past_registers).and_then(|here| match (here.kind(), step) {
            (Kind::Obj, step) => step.with_key(|key| here.get(&key)),
            (Kind::Arr | Kind::Vec, step) => here.at(step.index()?),
            _ => None,
        });
    })?;
    Ok(node)
}

/// The node in a register, or in the register in it.
pub(super) fn past_registers(mut node: NodeRef<'_>) -> Option<NodeRef<'_>> {
    while node.kind() == Kind::Val {
        node = node.child()?;
    }
    Some(node)
}
