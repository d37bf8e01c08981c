//! Typed cursors: a node of a model, to be read and edited.

use super::{EditError, Model, RelativePosition, Side};
use crate::{
    Key, PatchBuilder, Timespan, Timestamp, Value, Wtf8,
    document::{Kind, NodeRef},
    id::MAX_ID,
    text::TextUnit,
};

/// Makes a cursor type with what all have in common.
macro_rules! cursor {
    ($(#[$doc:meta])* $name:ident, $kind:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name<'m> {
            model: &'m mut Model,
            node: u32,
            id: Timestamp,
        }

        impl<'m> $name<'m> {
            pub(super) fn new(model: &'m mut Model, node: u32) -> Self {
                let id = model.doc.node_at(node).id();
                Self { model, node, id }
            }

            /// The node's id.
            pub const fn id(&self) -> Timestamp {
                self.id
            }

            /// The node, to be read.
            ///
            /// # Errors
            /// [`EditError::Removed`]
            pub fn node(&self) -> Result<NodeRef<'_>, EditError> {
                self.check()?;
                Ok(self.model.doc.node_at(self.node))
            }

            /// The JSON value here; `undefined` if the node has been removed.
            pub fn view(&self) -> Value {
                if self.check().is_ok() { self.model.doc.view_of(self.node) } else { Value::Undefined }
            }

            /// The model that the node is in.
            pub const fn model(&mut self) -> &mut Model {
                self.model
            }

            /// The node can have been removed by what was done through [`model`](Self::model).
            #[inline]
            fn check(&self) -> Result<(), EditError> {
                if self.model.doc.is_node(self.node, self.id, $kind) { Ok(()) } else { Err(EditError::Removed(self.id)) }
            }
        }
    };
}

cursor! {
    /// A constant. It is never edited inside: set another one in its place.
    ConCursor, Kind::Con
}

cursor! {
    /// A register: one node, the last one written.
    ValCursor, Kind::Val
}

cursor! {
    /// A map.
    ObjCursor, Kind::Obj
}

cursor! {
    /// A tuple of at most 256 places.
    VecCursor, Kind::Vec
}

cursor! {
    /// Text. Positions and lengths count UTF-16 code units.
    StrCursor, Kind::Str
}

cursor! {
    /// Bytes.
    BinCursor, Kind::Bin
}

cursor! {
    /// An array.
    ArrCursor, Kind::Arr
}

impl ValCursor<'_> {
    /// Sets the register to a JSON value.
    ///
    /// # Errors
    /// [`EditError`]
    pub fn set(&mut self, value: impl Into<Value>) -> Result<(), EditError> {
        self.check()?;
        let (id, value) = (self.id, value.into());
        self.model.write(|patch| {
            let node = patch.const_or_json(&value);
            patch.ins_val(id, node);
        })
    }
}

impl ObjCursor<'_> {
    /// Sets keys to JSON values.
    ///
    /// # Errors
    /// [`EditError`]
    pub fn set<K, V>(&mut self, entries: impl IntoIterator<Item = (K, V)>) -> Result<(), EditError>
    where
        K: Key,
        V: Into<Value>,
    {
        self.check()?;
        let id = self.id;
        self.model.write(|patch| _ = patch.set_keys(id, entries))
    }

    /// Deletes keys.
    ///
    /// # Errors
    /// [`EditError`]
    pub fn del<K: Key>(&mut self, keys: impl IntoIterator<Item = K>) -> Result<(), EditError> {
        self.set(keys.into_iter().map(|key| (key, Value::Undefined)))
    }

    /// Whether the map has a value at a key.
    pub fn has<K: Key + ?Sized>(&self, key: &K) -> bool {
        self.node().ok().and_then(|node| node.get(key)).is_some_and(|node| !node.is_undefined())
    }
}

impl VecCursor<'_> {
    /// Sets places to JSON values.
    ///
    /// # Errors
    /// [`EditError`]
    pub fn set<V: Into<Value>>(
        &mut self,
        places: impl IntoIterator<Item = (u8, V)>,
    ) -> Result<(), EditError> {
        self.check()?;
        let id = self.id;
        self.model.write(|patch| {
            let places: Vec<(u8, Timestamp)> = places
                .into_iter()
                .map(|(place, value)| (place, patch.const_or_json(&value.into())))
                .collect();
            if !places.is_empty() {
                patch.ins_vec(id, places);
            }
        })
    }
}

impl StrCursor<'_> {
    /// How many UTF-16 code units there are; 0 if the node has been removed.
    pub fn len(&self) -> usize {
        self.check().map_or(0, |()| self.model.doc.visible_len(self.node) as usize)
    }

    /// The position of a place that is counted in other units; `None` if it is behind the end or within a character, or if
    /// the text has been removed. Reads the text.
    pub fn position_of(&self, place: usize, unit: TextUnit) -> Option<usize> {
        self.view().as_text()?.as_wtf8().place(place, unit, TextUnit::Utf16)
    }

    /// The place of a position in other units: the way back from [`position_of`](Self::position_of).
    pub fn place_of(&self, position: usize, unit: TextUnit) -> Option<usize> {
        self.view().as_text()?.as_wtf8().place(position, TextUnit::Utf16, unit)
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Inserts text at a position.
    ///
    /// # Errors
    /// [`EditError`]
    #[inline]
    pub fn ins<'t>(&mut self, position: usize, text: impl Into<Wtf8<'t>>) -> Result<(), EditError> {
        let text = text.into();
        if text.is_empty() {
            return self.check();
        }
        if self.model.is_observed() {
            return self.ins_observed(position, text);
        }
        let Model { doc, patch, .. } = &mut *self.model;
        match doc.type_on(self.node, self.id, position, text.as_bytes()) {
            Some(time) => patch.type_on(self.id, time, text.as_bytes()),
            None => self.ins_elsewhere(position, text)?,
        }
        Ok(())
    }

    #[cold]
    fn ins_observed(&mut self, position: usize, text: Wtf8<'_>) -> Result<(), EditError> {
        self.check()?;
        let (id, after) = (self.id, before(self.model, self.node, self.id, position)?);
        self.model.write(|patch| _ = patch.ins_str(id, after, text))
    }

    /// Text that is not just typed on.
    #[inline(never)]
    fn ins_elsewhere(&mut self, position: usize, text: Wtf8<'_>) -> Result<(), EditError> {
        self.check()?;
        let Model { doc, patch, .. } = &mut *self.model;
        room(doc, text.as_bytes().len())?;
        let units = text.units() as u32;
        let mark = patch.mark();
        patch.skip_to(doc.time());
        let after = u32::try_from(position).ok().and_then(|at| doc.edit_text(self.node, at, text, units));
        let Some(after) = after else {
            // Time that nothing has used is not told to others.
            patch.truncate(mark);
            return Err(EditError::OutOfRange { position, len: self.len() });
        };
        patch.ins_text(self.id, after, text, u64::from(units));
        Ok(())
    }

    /// Deletes `len` code units from a position on.
    ///
    /// # Errors
    /// [`EditError`]
    #[inline]
    pub fn del(&mut self, position: usize, len: usize) -> Result<(), EditError> {
        let observed = self.model.is_observed();
        let Model { doc, patch, .. } = &mut *self.model;
        if !observed && let Some(start) = doc.erase_on(self.node, self.id, position, len) {
            patch.skip_to(doc.time() - 1);
            patch.del(self.id, &[Timespan { start, span: len as u64 }]);
            return Ok(());
        }
        self.check()?;
        delete(self.model, self.node, self.id, position, len)
    }
}

impl BinCursor<'_> {
    /// How many bytes there are; 0 if the node has been removed.
    pub fn len(&self) -> usize {
        self.check().map_or(0, |()| self.model.doc.visible_len(self.node) as usize)
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Inserts bytes at a position.
    ///
    /// # Errors
    /// [`EditError`]
    pub fn ins(&mut self, position: usize, bytes: &[u8]) -> Result<(), EditError> {
        self.check()?;
        if bytes.is_empty() {
            return Ok(());
        }
        if self.model.is_observed() {
            let (id, after) = (self.id, before(self.model, self.node, self.id, position)?);
            return self.model.write(|patch| _ = patch.ins_bin(id, after, bytes));
        }
        let Model { doc, patch, .. } = &mut *self.model;
        room(doc, bytes.len())?;
        let mark = patch.mark();
        patch.skip_to(doc.time());
        let after = u32::try_from(position).ok().and_then(|at| doc.edit_bytes(self.node, at, bytes));
        let Some(after) = after else {
            patch.truncate(mark);
            return Err(EditError::OutOfRange { position, len: self.len() });
        };
        patch.ins_bin(self.id, after, bytes);
        Ok(())
    }

    /// Deletes `len` bytes from a position on.
    ///
    /// # Errors
    /// [`EditError`]
    pub fn del(&mut self, position: usize, len: usize) -> Result<(), EditError> {
        self.check()?;
        delete(self.model, self.node, self.id, position, len)
    }
}

impl ArrCursor<'_> {
    /// How many slots there are; 0 if the node has been removed.
    pub fn len(&self) -> usize {
        self.check().map_or(0, |()| self.model.doc.visible_len(self.node) as usize)
    }

    /// Whether there are no slots.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Inserts JSON values at an index.
    ///
    /// # Errors
    /// [`EditError`]
    pub fn ins<V: Into<Value>>(
        &mut self,
        index: usize,
        values: impl IntoIterator<Item = V>,
    ) -> Result<(), EditError> {
        self.ins_made(index, |patch| values.into_iter().map(|value| patch.json(&value.into())).collect())
    }

    /// Inserts JSON values at an index as constants, which are never edited inside. A number or a boolean then takes one
    /// node and not two: [`ins`](Self::ins) puts each into a register, as json-joy does.
    ///
    /// # Errors
    /// [`EditError`]
    pub fn ins_con<V: Into<Value>>(
        &mut self,
        index: usize,
        values: impl IntoIterator<Item = V>,
    ) -> Result<(), EditError> {
        let values = values.into_iter();
        if self.model.is_observed() {
            return self.ins_made(index, |patch| values.map(|value| patch.new_con(&value.into())).collect());
        }
        self.check()?;
        self.check_index(index)?;
        let Model { doc, patch, .. } = &mut *self.model;
        let mark = patch.mark();
        patch.skip_to(doc.time());
        let constants = patch.mark();
        patch.new_cons(values);
        // Each takes two bytes at least and two ticks.
        if let Err(refused) = uncut(patch).and_then(|()| room(doc, patch.len_since(constants))) {
            patch.truncate(mark);
            return Err(refused);
        }
        let constants = patch.constants_since(constants);
        let len = constants.span();
        let after = if len == 0 { None } else { doc.edit_elements(self.node, index as u32, constants) };
        match after {
            Some(after) => _ = patch.ins_arr_made(self.id, after, len),
            None => patch.truncate(mark),
        }
        Ok(())
    }

    /// Inserts the nodes that `make` makes at an index.
    pub(super) fn ins_made(
        &mut self,
        index: usize,
        make: impl FnOnce(&mut PatchBuilder) -> Vec<Timestamp>,
    ) -> Result<(), EditError> {
        self.check()?;
        self.check_index(index)?;
        let id = self.id;
        let after = match index.checked_sub(1) {
            None => id,
            Some(before) => self.slot(before)?,
        };
        self.model.write(|patch| {
            let nodes = make(patch);
            if !nodes.is_empty() {
                patch.ins_arr(id, after, &nodes);
            }
        })
    }

    /// Puts a JSON value into a slot, in place of what was there.
    ///
    /// # Errors
    /// [`EditError`]
    pub fn upd(&mut self, index: usize, value: impl Into<Value>) -> Result<(), EditError> {
        self.check()?;
        let (id, slot, value) = (self.id, self.slot(index)?, value.into());
        self.model.write(|patch| {
            let node = patch.const_or_json(&value);
            patch.upd_arr(id, slot, node);
        })
    }

    /// Deletes `len` slots from an index on.
    ///
    /// # Errors
    /// [`EditError`]
    pub fn del(&mut self, index: usize, len: usize) -> Result<(), EditError> {
        self.check()?;
        delete(self.model, self.node, self.id, index, len)
    }

    /// Whether something can be put in at an index.
    fn check_index(&self, index: usize) -> Result<(), EditError> {
        let len = self.len();
        if index > len { Err(EditError::OutOfRange { position: index, len }) } else { Ok(()) }
    }

    /// The id of the slot at an index.
    fn slot(&self, index: usize) -> Result<Timestamp, EditError> {
        let at = u32::try_from(index).ok();
        at.and_then(|at| self.model.doc.element_at(self.node, at))
            .ok_or_else(|| EditError::OutOfRange { position: index, len: self.len() })
    }
}

macro_rules! anchor {
    ($($cursor:ident),*) => {$(
        impl $cursor<'_> {
            /// A position that stays beside its element while others edit.
            ///
            /// # Errors
            /// [`EditError::OutOfRange`], [`EditError::Removed`]
            pub fn anchor(&self, position: usize, side: Side) -> Result<RelativePosition, EditError> {
                let len = self.node()?.len();
                RelativePosition::at(&self.model.doc, self.id, position, side)
                    .ok_or(EditError::OutOfRange { position, len })
            }
        }
    )*};
}

anchor!(StrCursor, BinCursor, ArrCursor);

/// Refuses values of which a part had to be left out of what has been written.
pub(super) fn uncut(patch: &mut PatchBuilder) -> Result<(), EditError> {
    if patch.take_cut() { Err(EditError::TooDeep { max: Value::DEPTH_MAX }) } else { Ok(()) }
}

/// Whether there is room for so many elements.
#[inline]
fn room(doc: &crate::Document, units: usize) -> Result<(), EditError> {
    if doc.time() >= MAX_ID - units as u64 {
        return Err(EditError::Clock { max: MAX_ID });
    }
    doc.admit_own(units as u64)?;
    Ok(())
}

#[inline(never)]
fn delete(model: &mut Model, node: u32, id: Timestamp, position: usize, len: usize) -> Result<(), EditError> {
    let observed = model.is_observed();
    let Model { doc, patch, .. } = model;
    let total = doc.visible_len(node) as usize;
    if position.checked_add(len).is_none_or(|end| end > total) {
        return Err(EditError::OutOfRange { position: position.saturating_add(len), len: total });
    }
    if len == 0 {
        return Ok(());
    }
    room(doc, 1)?;
    if observed {
        let spans = spans_at(doc, id, position as u32, len as u32);
        return model.write(|patch| _ = patch.del(id, &spans));
    }
    patch.skip_to(doc.time());
    let spans = doc.edit_delete(node, position as u32, len as u32);
    if !spans.is_empty() {
        patch.del(id, &spans);
        doc.tidy();
    }
    Ok(())
}

/// The id of the element before a position, or of the sequence itself at its start.
fn before(model: &Model, node: u32, id: Timestamp, position: usize) -> Result<Timestamp, EditError> {
    let Some(before) = position.checked_sub(1) else { return Ok(id) };
    let element = u32::try_from(before).ok().and_then(|before| model.doc.element_at(node, before));
    element.ok_or_else(|| EditError::OutOfRange { position, len: model.doc.visible_len(node) as usize })
}

/// The ids of the elements at positions, one span for each chunk.
pub(super) fn spans_at(doc: &crate::Document, id: Timestamp, position: u32, len: u32) -> Vec<Timespan> {
    let mut spans: Vec<Timespan> = Vec::new();
    for piece in doc.pieces_at(id, position, len) {
        match spans.last_mut() {
            Some(last) if piece.goes_on && last.start.tick(last.span) == piece.id => {
                last.span += u64::from(piece.units);
            }
            _ => spans.push(Timespan { start: piece.id, span: piece.units.into() }),
        }
    }
    spans
}
