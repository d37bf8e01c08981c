//! From what a document shows to what it should show, in few edits.
//!
//! For a form that was filled in or a file that was saved elsewhere: only what differs is edited, so what others do to
//! the rest at the same time stays.

use imara_diff::{Algorithm, Diff, Hunk, InternedInput};

use super::{
    Api, ArrCursor, BinCursor, EditError, Model, ObjCursor, Path, StrCursor, ValCursor, VecCursor,
    rich::Reading,
};
use crate::{
    Text, Value, Wtf8,
    codec::{cbor, json},
    document::{Content, Kind, NodeRef},
};

/// What becomes of a node that should show a value.
enum Outcome {
    /// It shows it.
    Done,
    /// No edit inside makes it show that: another node has to take its place.
    Replace,
}

impl Api<'_> {
    /// Makes the value at a path equal to a target, with edits to what differs.
    ///
    /// Text is edited by character and arrays by element; keys that the target lacks are deleted. Where the kind of value
    /// changes, it is replaced. A constant stays if it is the [same JSON](Value::is_same_json). A counter or another
    /// [extension](super::Extension) is edited by its own cursor only: it stays where the target has what it stands for, or its
    /// tuple, of whatever age, and is replaced where the target has something else. Of a rich text the text is edited where the
    /// target is one, and its marks stay.
    ///
    /// ```
    /// use crdt_core::{Model, SessionId, Value};
    /// use serde_json::json;
    ///
    /// let mut alice = Model::new(SessionId::new(70_001).unwrap());
    /// alice.api().root(&json!({"title": "The warp", "tags": ["loom"], "draft": true}))?;
    /// let mut bob = alice.fork(SessionId::new(70_002).unwrap());
    ///
    /// // A form is saved, while Bob types.
    /// alice.api().update("", &json!({"title": "The warp and weft", "tags": ["loom", "yarn"]}))?;
    /// bob.api().str("/title")?.ins(0, "1. ")?;
    /// bob.apply(&alice.flush().unwrap()).unwrap();
    /// assert_eq!(bob.view(), Value::from(&json!({"title": "1. The warp and weft", "tags": ["loom", "yarn"]})));
    /// # Ok::<_, crdt_core::model::EditError>(())
    /// ```
    ///
    /// # Errors
    /// [`EditError`], such as [`TooDeep`](EditError::TooDeep); then some of the edits have been made: see
    /// [`Model::transaction`].
    pub fn update(self, path: impl Path, target: impl Into<Value>) -> Result<(), EditError> {
        let target = target.into();
        let model = self.model;
        let not_found = || EditError::NotFound { path: path.pointer() };
        let mut steps = 0;
        path.walk(&mut |_| steps += 1)?;
        let node = match (model.doc.root(), steps) {
            (None, 0) => None,
            _ => Some(find_any(model, &path)?.ok_or_else(not_found)?),
        };
        let Some(node) = node else { return model.api().root(target).map(drop) };
        match update(model, node, &target)? {
            Outcome::Done => Ok(()),
            Outcome::Replace if steps == 0 => model.api().root(target).map(drop),
            Outcome::Replace => {
                let parent = PathUpTo { path: &path, steps: steps - 1 };
                replace_in(model, &parent, &path, target)
            }
        }
    }
}

impl StrCursor<'_> {
    /// Makes the text equal to a target, with edits to what differs.
    ///
    /// # Errors
    /// [`EditError`]
    pub fn update<'t>(&mut self, target: impl Into<Wtf8<'t>>) -> Result<(), EditError> {
        let (id, target) = (self.node()?.id(), target.into());
        let Value::Text(text) = self.view() else { return Err(EditError::Removed(id)) };
        if text.as_wtf8() == target {
            return Ok(());
        }
        let (before, after) = (characters(text.as_wtf8()), characters(target));
        let width = |units: &[u32]| units.iter().map(|&point| 1 + usize::from(point > 0xffff)).sum::<usize>();
        // From the end to the start, so that the positions before stay what they were.
        for hunk in hunks(before.iter().copied(), after.iter().copied()).into_iter().rev() {
            let (removed, added) = (to_range(&hunk.before), to_range(&hunk.after));
            let position = width(&before[..removed.start]);
            if !added.is_empty() {
                let mut text = Text::new();
                after[added].iter().for_each(|&point| text.push_code_point(point));
                self.ins(position + width(&before[removed.clone()]), text.as_wtf8())?;
            }
            if !removed.is_empty() {
                self.del(position, width(&before[removed]))?;
            }
        }
        Ok(())
    }
}

impl BinCursor<'_> {
    /// Makes the bytes equal to a target, with one edit to what differs.
    ///
    /// # Errors
    /// [`EditError`]
    pub fn update(&mut self, target: &[u8]) -> Result<(), EditError> {
        let id = self.node()?.id();
        let Value::Bytes(bytes) = self.view() else { return Err(EditError::Removed(id)) };
        let start = bytes.iter().zip(target).take_while(|(a, b)| a == b).count();
        let rest = bytes[start..].iter().rev().zip(target[start..].iter().rev());
        let end = rest.take_while(|(a, b)| a == b).count();
        if bytes.len() > start + end {
            self.del(start, bytes.len() - start - end)?;
        }
        self.ins(start, &target[start..target.len() - end])
    }
}

fn characters(text: Wtf8<'_>) -> Vec<u32> {
    text.code_points().collect()
}

fn to_range(range: &std::ops::Range<u32>) -> std::ops::Range<usize> {
    range.start as usize..range.end as usize
}

/// Where two sequences differ. Takes time that grows with the length times the difference, bounded by heuristics for
/// sequences that have little in common.
fn hunks<T: std::hash::Hash + Eq + Default>(
    before: impl Iterator<Item = T>,
    after: impl Iterator<Item = T>,
) -> Vec<Hunk> {
    let mut input = InternedInput::default();
    input.update_before(before);
    input.update_after(after);
    Diff::compute(Algorithm::Myers, &input).hunks().collect()
}

fn find_any(model: &Model, path: &impl Path) -> Result<Option<u32>, EditError> {
    Ok(super::find_node(&model.doc, path)?.map(|node| node.number()))
}

/// Edits a node until it shows a value.
fn update(model: &mut Model, node: u32, target: &Value) -> Result<Outcome, EditError> {
    let here = model.doc.node_at(node);
    let kind = here.kind();
    Ok(match (kind, target) {
        (Kind::Con, target) => match model.doc.view_of(node).is_same_json(target) {
            true => Outcome::Done,
            false => Outcome::Replace,
        },
        (Kind::Vec, target) if here.extension().is_some() => {
            let rich =
                Reading::of(&model.doc, here).and_then(|rich| rich.node().ok()).map(|text| text.number());
            match (rich, target) {
                _ if is_extension(model, node, target) => Outcome::Done,
                (Some(text), Value::Text(target)) => {
                    StrCursor::new(model, text).update(target.as_wtf8())?;
                    Outcome::Done
                }
                _ => Outcome::Replace,
            }
        }
        (Kind::Val, target) => {
            // Others can put registers into each other as deep as they like.
            let (mut innermost, mut child) = (here, here.child());
            while let Some(inner) = child.filter(|inner| inner.kind() == Kind::Val) {
                (innermost, child) = (inner, inner.child());
            }
            let register = innermost.number();
            let outcome = match child.map(|child| child.number()) {
                Some(child) => update(model, child, target)?,
                None => Outcome::Replace,
            };
            if let Outcome::Replace = outcome {
                ValCursor::new(model, register).set(target.clone())?;
            }
            Outcome::Done
        }
        (Kind::Str, Value::Text(text)) => {
            StrCursor::new(model, node).update(text.as_wtf8())?;
            Outcome::Done
        }
        (Kind::Bin, Value::Bytes(bytes)) => {
            BinCursor::new(model, node).update(bytes)?;
            Outcome::Done
        }
        (Kind::Obj, Value::Map(entries)) => {
            update_obj(model, node, entries)?;
            Outcome::Done
        }
        (Kind::Arr, Value::Array(items)) => {
            update_arr(model, node, items)?;
            Outcome::Done
        }
        (Kind::Vec, Value::Array(items)) if items.len() >= here.len() && items.len() <= 256 => {
            update_vec(model, node, items)?;
            Outcome::Done
        }
        _ => Outcome::Replace,
    })
}

/// Whether a target is what an extension is shown as: its tuple, with the header as it is or as JSON has it, or what it
/// stands for. What the tuple holds is not looked at: of what a form was filled with it was not filled in, and edits there
/// would not mean what they say.
fn is_extension(model: &Model, node: u32, target: &Value) -> bool {
    let header = model.doc.node_at(node).at(0).map(|header| header.view()).unwrap_or_default();
    let is_header = |first: &Value| {
        let as_json = serde_json::Value::from(&header);
        *first == header
            || *first == Value::from(as_json)
            || first.as_str().is_some_and(|text| json::encode(&header) == json::encode(&text.into()))
    };
    matches!(target, Value::Array(items) if items.len() == 2 && is_header(&items[0]))
        || model.doc.view_extended_of(node).is_same_json(target)
}

fn update_obj(model: &mut Model, node: u32, entries: &[(Text, Value)]) -> Result<(), EditError> {
    let Content::Obj(now) = model.doc.node_at(node).content() else { return Ok(()) };
    let mut known: std::collections::HashMap<Text, Option<u32>> =
        now.map(|(key, child)| (key.to_text(), child.node().map(|node| node.number()))).collect();
    let mut set = Vec::new();
    for (key, value) in entries.iter().filter(|(_, value)| !value.is_undefined()) {
        let outcome = match known.remove(key) {
            Some(Some(child)) => update(model, child, value)?,
            _ => Outcome::Replace,
        };
        if let Outcome::Replace = outcome {
            set.push((key.clone(), value.clone()));
        }
    }
    let gone = known
        .into_iter()
        .filter(|(_, child)| child.is_some_and(|child| !model.doc.view_of(child).is_undefined()));
    let mut gone: Vec<Text> = gone.map(|(key, _)| key).collect();
    // In a fixed order, so that the same edits make the same patch.
    gone.sort();
    set.extend(gone.into_iter().map(|key| (key, Value::Undefined)));
    ObjCursor::new(model, node).set(set)
}

fn update_vec(model: &mut Model, node: u32, items: &[Value]) -> Result<(), EditError> {
    let mut set = Vec::new();
    for (place, value) in items.iter().enumerate() {
        let child = model.doc.node_at(node).at(place).map(|child| child.number());
        let outcome = match child {
            Some(child) => update(model, child, value)?,
            None if value.is_undefined() => Outcome::Done,
            None => Outcome::Replace,
        };
        if let Outcome::Replace = outcome {
            set.push((place as u8, value.clone()));
        }
    }
    VecCursor::new(model, node).set(set)
}

fn update_arr(model: &mut Model, node: u32, items: &[Value]) -> Result<(), EditError> {
    let Value::Array(now) = model.doc.view_of(node) else { return Ok(()) };
    // The view leaves out slots whose node is gone; then positions would not agree.
    if now.len() != model.doc.node_at(node).len() {
        let mut arr = ArrCursor::new(model, node);
        let len = arr.len();
        arr.del(0, len)?;
        return arr.ins(0, items.iter().cloned());
    }
    let bytes = |value: &Value| cbor::encode(&alike(value.in_key_order()));
    for hunk in hunks(now.iter().map(bytes), items.iter().map(bytes)).into_iter().rev() {
        let (removed, added) = (to_range(&hunk.before), to_range(&hunk.after));
        // Elements that stand for each other are edited inside, the others come and go.
        let pairs = removed.len().min(added.len());
        let (start, rest) = (removed.start, removed.start + pairs);
        if added.len() > pairs {
            let more = items[added.start + pairs..added.end].iter().cloned();
            ArrCursor::new(model, node).ins(rest, more)?;
        }
        if removed.len() > pairs {
            ArrCursor::new(model, node).del(rest, removed.len() - pairs)?;
        }
        for offset in 0..pairs {
            let target = &items[added.start + offset];
            let slot = model.doc.node_at(node).at(start + offset).map(|slot| slot.number());
            let outcome = match slot {
                Some(slot) => update(model, slot, target)?,
                None => Outcome::Replace,
            };
            if let Outcome::Replace = outcome {
                ArrCursor::new(model, node).upd(start + offset, target.clone())?;
            }
        }
    }
    Ok(())
}

/// A value in which the same number is held in the same way.
fn alike(value: Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(alike).collect()),
        Value::Map(entries) => {
            Value::Map(entries.into_iter().map(|(key, value)| (key, alike(value))).collect())
        }
        number @ (Value::Int(_) | Value::Uint(_) | Value::Nint(_)) => {
            // Where a float says the same.
            let float = Value::Float(number.as_f64().unwrap_or_default());
            if float == number { float } else { number }
        }
        value => value,
    }
}

/// The first steps of a path.
struct PathUpTo<'p, P> {
    path: &'p P,
    steps: usize,
}

impl<P: Path> Path for PathUpTo<'_, P> {
    fn walk(&self, each: &mut dyn FnMut(super::Step<'_>)) -> Result<(), EditError> {
        let mut taken = 0;
        self.path.walk(&mut |step| {
            if taken < self.steps {
                each(step);
            }
            taken += 1;
        })
    }
}

/// Puts another value at a path, into its container.
fn replace_in(
    model: &mut Model,
    parent: &impl Path,
    path: &impl Path,
    target: Value,
) -> Result<(), EditError> {
    let not_found = || EditError::NotFound { path: path.pointer() };
    let mut last = None;
    path.walk(&mut |step| last = Some((step.with_key(|key| key.to_text()), step.index())))?;
    let (key, index) = last.ok_or_else(not_found)?;
    let container: Option<NodeRef<'_>> =
        super::find_node(&model.doc, parent)?.and_then(super::past_registers);
    let (container, kind) = container.map(|node| (node.number(), node.kind())).ok_or_else(not_found)?;
    match (kind, index) {
        (Kind::Obj, _) => ObjCursor::new(model, container).set([(key, target)]),
        (Kind::Arr, Some(index)) => ArrCursor::new(model, container).upd(index, target),
        (Kind::Vec, Some(index @ ..256)) => VecCursor::new(model, container).set([(index as u8, target)]),
        _ => Err(not_found()),
    }
}
