//! The document as the strategies show it.

use crdt_core::{
    Document, SessionId, Text, Timestamp, Value, Wtf8,
    document::{Child, Content, NodeRef},
    model::PathStep,
};

use super::{Conflicts, Place, Strategy, Write};

/// How many nodes that are held in more than one place are shown, after the first: [`Document::view`] has such a bound,
/// too.
const ALIASES_MAX: usize = 1 << 16;

/// A place that is in conflict.
#[derive(Debug, Clone, PartialEq)]
pub struct Open {
    /// Where it is in the document.
    pub path: Vec<PathStep>,
    /// The register, map, tuple or array.
    pub container: Timestamp,
    /// Where in it.
    pub place: Place,
    /// What was written, the one that the document keeps last.
    pub writes: Vec<Write>,
}

impl Conflicts {
    /// The document as a JSON value, with each place as its strategy says. Replicas with the same patches have the same.
    pub fn view(&self, document: &Document) -> Value {
        if self.rules.is_empty() {
            return document.view();
        }
        Walk { conflicts: self, path: Vec::new(), aliases: 0, open: Vec::new() }.root(document)
    }

    /// What is in conflict at the moment in the places that rules name and the document shows, whatever their strategy.
    pub fn open(&self, document: &Document) -> Vec<Open> {
        let mut walk = Walk { conflicts: self, path: Vec::new(), aliases: 0, open: Vec::new() };
        walk.root(document);
        walk.open
    }
}

struct Walk<'c> {
    conflicts: &'c Conflicts,
    path: Vec<PathStep>,
    aliases: usize,
    open: Vec<Open>,
}

impl Walk<'_> {
    fn root(&mut self, document: &Document) -> Value {
        let depth = Document::VIEW_DEPTH_MAX;
        document.root().map_or(Value::Undefined, |root| {
            self.held(Timestamp::ORIGIN, Place::Register, Child::Node(root), depth)
        })
    }

    /// What a place shows.
    fn held(&mut self, container: Timestamp, place: Place, child: Child<'_>, depth: usize) -> Value {
        let current = child.node().map_or(Value::Undefined, |node| self.value(node, depth));
        let Some(strategy) = self.conflicts.rules.strategy(&self.path) else { return current };
        // A register has the path of its place, and is what is written from then on.
        if child.node().is_some_and(|node| matches!(node.content(), Content::Val(_))) {
            return current;
        }
        let tracked = self.conflicts.tracked.get(&(container, place.clone()));
        let now = |write: &Write| match write.node == child.id() {
            true => Write { value: current.clone(), ..write.clone() },
            false => write.clone(),
        };
        let mut writes: Vec<Write> =
            tracked.into_iter().flat_map(|tracked| tracked.live.values()).map(now).collect();
        let node = child.id();
        let settled = tracked.is_some_and(|tracked| tracked.seen.get(&node.sid) >= node.time);
        if !settled && writes.iter().all(|write| write.node != node) {
            // From what every replica starts with, from a snapshot of an older release, or from one of a replica without rules:
            // nobody was told when it was written.
            writes.push(Write { node, id: node, clock: Default::default(), value: current.clone() });
            writes.sort_by_key(|write| write.node);
        }
        if writes.len() > 1 {
            let path = self.path.clone();
            self.open.push(Open { path, container, place, writes: writes.clone() });
        }
        match strategy {
            Strategy::LastWriterWins => current,
            Strategy::MultiValue => Value::Array(writes.into_iter().map(|write| write.value).collect()),
            Strategy::Merge(_) if writes.len() < 2 => current,
            Strategy::Merge(merge) => merge(&writes),
            Strategy::Authority(_) | Strategy::Signed(_) => {
                let decides = |session| strategy.is_decided_by(session, self.conflicts.signers.get(&session));
                let decided = tracked.into_iter().flat_map(|tracked| tracked.decided.values());
                let latest = decided.filter(|write| decides(write.author())).max_by_key(|w| w.node);
                match latest {
                    Some(write) => now(write).value,
                    None if node.sid < SessionId::RESERVED_END || decides(node.sid) => current,
                    None => Value::Undefined,
                }
            }
        }
    }

    fn at(&mut self, step: PathStep, of: Timestamp, place: Place, child: Child<'_>, depth: usize) -> Value {
        self.path.push(step);
        let value = self.held(of, place, child, depth);
        self.path.pop();
        value
    }

    fn value(&mut self, node: NodeRef<'_>, depth: usize) -> Value {
        if node.is_aliased() {
            self.aliases += 1;
            if self.aliases > ALIASES_MAX {
                return Value::Undefined;
            }
        }
        let Some(deeper) = depth.checked_sub(1) else { return Value::Null };
        let id = node.id();
        match node.content() {
            Content::Con(value) => value.to_value(),
            Content::ConId(named) => [named.sid.get(), named.time].into_iter().collect(),
            Content::Val(None) => Value::Undefined,
            Content::Val(Some(child)) => self.held(id, Place::Register, child, deeper),
            Content::Obj(entries) => {
                let shown = entries.map(|(key, child)| {
                    let key = key.to_text();
                    let (step, place) = (PathStep::Key(key.clone()), Place::Key(key.clone()));
                    (key, self.at(step, id, place, child, deeper))
                });
                Value::Map(shown.filter(|(_, value)| !value.is_undefined()).collect())
            }
            Content::Vec(places) => {
                let shown = (0u8..=u8::MAX).zip(places).map(|(index, child)| {
                    child.map_or(Value::Undefined, |child| {
                        self.at(PathStep::Index(index.into()), id, Place::Index(index), child, deeper)
                    })
                });
                Value::Array(shown.collect())
            }
            Content::Arr(chunks) => {
                let mut items = Vec::new();
                for chunk in chunks.filter(|chunk| !chunk.is_tombstone()) {
                    for (slot, child) in (0..).zip(chunk.children()) {
                        if child.node().is_some() {
                            let (step, slot) = (PathStep::Index(items.len()), chunk.id().tick(slot));
                            items.push(self.at(step, id, Place::Slot(slot), child, deeper));
                        }
                    }
                }
                Value::Array(items)
            }
            Content::Str(chunks) => {
                let (mut text, mut bytes) = (Text::default(), Vec::new());
                for chunk in chunks.filter(|chunk| !chunk.is_tombstone()) {
                    bytes.clear();
                    chunk.write_text(&mut bytes);
                    // Joins a pair of surrogates that two chunks share.
                    text.push(Wtf8::new(&bytes).unwrap_or_default());
                }
                Value::Text(text)
            }
            Content::Bin(chunks) => {
                let mut bytes = Vec::new();
                chunks.filter(|chunk| !chunk.is_tombstone()).for_each(|chunk| chunk.write_bytes(&mut bytes));
                Value::Bytes(bytes)
            }
        }
    }
}
