//! Gathers what operations change until someone asks.

use std::collections::{HashMap, HashSet, VecDeque};

use super::{Change, ChangePath, ChangeSet, Diff, KeyChange, Origin, PlaceChange, delta::Composer};
use crate::{
    Text, Timespan, Timestamp, Value,
    document::{Document, Edited, Effect, Kind, Links, Place, Removed},
};

/// The most sets of changes that wait to be fetched.
pub(in crate::model) const SETS_MAX: usize = 1024;

/// The most bytes of values in them, roughly; and as many in the set that is being gathered.
pub(in crate::model) const BYTES_MAX: usize = 16 << 20;

/// The most pieces of changes in one set; a patch that makes more comes as several sets.
pub(in crate::model) const PIECES_MAX: usize = 1024;

/// The changes that have not been fetched, and what is needed to tell where they are.
#[derive(Debug, Clone)]
pub(in crate::model) struct Watch {
    links: Links,
    open: Option<OpenSet>,
    /// Each with the bytes of its values.
    ready: VecDeque<(ChangeSet, usize)>,
    /// The bytes of all that are ready.
    bytes: usize,
    missed: bool,
    /// How many sets have been closed.
    closed: u64,
}

/// What has been gathered up to the start of a transaction.
#[derive(Debug)]
pub(in crate::model) struct Rewind {
    open: Option<OpenSet>,
    closed: u64,
}

#[derive(Debug, Clone)]
struct OpenSet {
    origin: Origin,
    start: Timestamp,
    /// The end of the patch that is taken in; the session's own edits go on until the set is closed.
    end: Option<u64>,
    /// From this time on nodes of the same session are new in this set.
    new_from: u64,
    nodes: Vec<(Timestamp, NodeDiff)>,
    by_node: HashMap<Timestamp, usize>,
    /// Nodes that were put somewhere in this set: what holds them shows them whole.
    attached: HashSet<Timestamp>,
    pieces: usize,
    /// About how many bytes what was there before takes, and what was inserted; what came and went again too.
    bytes: usize,
    /// Whether something changed that is referred to from several places. Only one of them is known here.
    is_aliased: bool,
}

#[derive(Debug, Clone)]
enum NodeDiff {
    /// What stood at each place, if anything did.
    Places(Vec<(Place, Option<Value>)>),
    Text(Composer<u16, u16>),
    Bytes(Composer<u8, u8>),
    /// New elements by their slots.
    Array(Composer<Timestamp, Value>),
}

impl Watch {
    pub(in crate::model) fn of(document: &Document) -> Self {
        Self {
            links: Links::of(document),
            open: None,
            ready: VecDeque::new(),
            bytes: 0,
            missed: false,
            closed: 0,
        }
    }

    /// The document is another one now: what waits to be fetched is not the way to it.
    pub(in crate::model) fn replaced(&mut self, document: &Document) {
        *self = Self { missed: true, closed: self.closed + 1, ..Self::of(document) };
    }

    /// A transaction begins.
    pub(in crate::model) fn rewind(&self) -> Rewind {
        Rewind { open: self.open.clone(), closed: self.closed }
    }

    /// The edits since then have been taken back. If some of them were told of, or other changes were told of as they are
    /// among them, the way back is the whole view.
    pub(in crate::model) fn rewound(&mut self, document: &Document, before: Option<Rewind>) {
        match before.filter(|before| before.closed == self.closed) {
            Some(before) => {
                self.open = before.open;
                self.links = Links::of(document);
            }
            None => self.replaced(document),
        }
    }

    /// Operations of a session begin, the first one at a time. Those of a patch have an end.
    pub(in crate::model) fn begin(
        &mut self,
        document: &Document,
        origin: Origin,
        start: Timestamp,
        end: Option<u64>,
    ) {
        match &self.open {
            Some(open) if open.origin == origin && open.start.sid == start.sid => {}
            _ => {
                self.close(document);
                self.open = Some(OpenSet::new(origin, start, end));
            }
        }
    }

    /// Nothing more belongs to the changes so far.
    pub(in crate::model) fn close(&mut self, document: &Document) {
        let Some(open) = self.open.take() else { return };
        self.closed += 1;
        self.links.renew(document);
        // The document's clock can be far ahead of a patch that comes in: it says where own edits end, no others.
        let end = open.end.unwrap_or_else(|| document.time());
        let by = Timespan { start: open.start, span: end.saturating_sub(open.start.time) };
        let origin = open.origin;
        let Some(changes) = open.finish(document, &self.links) else { return self.miss() };
        if changes.is_empty() || self.missed {
            return;
        }
        let bytes = changes.iter().map(Change::size_bytes).sum::<usize>();
        if self.ready.len() == SETS_MAX || self.bytes + bytes > BYTES_MAX {
            return self.miss();
        }
        self.bytes += bytes;
        self.ready.push_back((ChangeSet { origin, by, changes, missed: false }, bytes));
    }

    /// Forgets what waits: the next one that is told is the whole view.
    fn miss(&mut self) {
        self.ready.clear();
        self.bytes = 0;
        self.missed = true;
    }

    /// The oldest changes that have not been fetched.
    pub(in crate::model) fn poll(&mut self, document: &Document) -> Option<ChangeSet> {
        if self.ready.is_empty() {
            self.close(document);
        }
        if std::mem::take(&mut self.missed) {
            let diff = Diff::Value { old: Value::Undefined, new: document.view() };
            let change = Change { path: ChangePath::default(), node: Timestamp::ORIGIN, diff };
            let by = Timespan { start: document.next_id(), span: 0 };
            let changes = vec![change];
            return Some(ChangeSet { origin: Origin::Remote, by, changes, missed: true });
        }
        let (set, bytes) = self.ready.pop_front()?;
        self.bytes -= bytes;
        Some(set)
    }

    pub(in crate::model) fn effect(&mut self, document: &Document, id: Timestamp, effect: &Effect) {
        match effect {
            Effect::Held { container, place, now, .. } => {
                self.links.attach(document, *container, place, *now);
            }
            Effect::Inserted { node, ids, .. } => {
                for slot in slots(document, *node, *ids) {
                    if let Some(child) = document.held(*node, &Place::Slot(slot)) {
                        self.links.attach(document, *node, &Place::Slot(slot), child);
                    }
                }
            }
            Effect::Deleted { .. } => {}
        }
        if self.missed {
            // The whole view is told next, so nobody would see it.
            return;
        }
        let Some(open) = &mut self.open else { return };
        open.effect(document, effect);
        if open.bytes > BYTES_MAX {
            self.open = None;
            self.closed += 1;
            return self.miss();
        }
        if open.pieces >= PIECES_MAX {
            let mut next = OpenSet::new(open.origin, open.start, open.end);
            // What was made up to here has been told of.
            next.new_from = id.time + 1;
            self.close(document);
            self.open = Some(next);
        }
    }
}

/// Whether a node is referred to from several places.
fn is_aliased(document: &Document, node: Timestamp) -> bool {
    document.node(node).is_some_and(|node| node.is_aliased())
}

/// The slots of new elements, if the node is an array.
fn slots(document: &Document, node: Timestamp, ids: Timespan) -> impl Iterator<Item = Timestamp> {
    let is_arr = document.node(node).is_some_and(|node| node.kind() == Kind::Arr);
    (0..if is_arr { ids.span } else { 0 }).map(move |tick| ids.start.tick(tick))
}

impl OpenSet {
    fn new(origin: Origin, start: Timestamp, end: Option<u64>) -> Self {
        Self {
            origin,
            start,
            end,
            new_from: start.time,
            nodes: Vec::new(),
            by_node: HashMap::new(),
            attached: HashSet::new(),
            pieces: 0,
            bytes: 0,
            is_aliased: false,
        }
    }

    /// Whether a node was made by the operations of this set: then who holds it shows it whole, or nobody does.
    fn is_new(&self, node: Timestamp) -> bool {
        node.sid == self.start.sid && node.time >= self.new_from
    }

    fn node(&mut self, node: Timestamp, new: impl FnOnce() -> NodeDiff) -> &mut NodeDiff {
        let nodes = &mut self.nodes;
        let at = *self.by_node.entry(node).or_insert_with(|| {
            nodes.push((node, new()));
            nodes.len() - 1
        });
        &mut self.nodes[at].1
    }

    fn effect(&mut self, document: &Document, effect: &Effect) {
        match effect {
            Effect::Held { container, place, was, now } => {
                self.attached.insert(*now);
                self.is_aliased |= is_aliased(document, *now);
                self.is_aliased |= was.as_ref().is_some_and(|(_, was)| was.is_aliased());
                if self.is_new(*container) {
                    return;
                }
                // The first one stays: that is what was there before all of this.
                if self.places(*container).iter().any(|(known, _)| known == place) {
                    return;
                }
                let old = was.as_ref().map(|(_, was)| was.to_value(self));
                self.pieces += 1;
                self.bytes += old.as_ref().map_or(0, Value::size_bytes);
                if let Place::Slot(slot) = place {
                    let Some(at) = document.locate(*container, *slot) else { return };
                    let old = old.unwrap_or_default();
                    if let NodeDiff::Array(delta) =
                        self.node(*container, || NodeDiff::Array(Composer::default()))
                    {
                        delta.delete(at.position, vec![old]);
                        delta.insert(at.position, vec![*slot]);
                    }
                } else if let NodeDiff::Places(places) =
                    self.node(*container, || NodeDiff::Places(Vec::new()))
                {
                    places.push((place.clone(), old));
                }
            }
            Effect::Inserted { node, ids, position } => {
                for slot in slots(document, *node, *ids) {
                    let child = document.held(*node, &Place::Slot(slot));
                    self.is_aliased |= child.is_some_and(|child| is_aliased(document, child));
                    self.attached.extend(child);
                }
                if !self.is_new(*node) {
                    self.inserted(document, *node, *ids, *position as usize);
                }
            }
            Effect::Deleted { node, pieces } if !self.is_new(*node) => {
                for (piece, removed) in pieces {
                    self.is_aliased |= removed.is_aliased();
                    self.deleted(*node, piece.position as usize, removed);
                }
            }
            Effect::Deleted { .. } => {}
        }
    }

    fn inserted(&mut self, document: &Document, node: Timestamp, ids: Timespan, position: usize) {
        let Some(kind) = document.node(node).map(|node| node.kind()) else { return };
        let before = self.pieces_of(node);
        let unit_bytes = match kind {
            Kind::Str => size_of::<u16>(),
            Kind::Bin => 1,
            _ => size_of::<Timestamp>(),
        };
        self.bytes += ids.span as usize * unit_bytes;
        match (kind, self.node(node, || NodeDiff::of(kind))) {
            (Kind::Str, NodeDiff::Text(delta)) => {
                let units = document
                    .pieces(node, ids)
                    .iter()
                    .flat_map(|piece| document.piece_text(piece).as_wtf8().utf16().collect::<Vec<_>>())
                    .collect();
                delta.insert(position, units);
            }
            (Kind::Bin, NodeDiff::Bytes(delta)) => {
                let bytes = document.pieces(node, ids);
                let bytes = bytes.iter().flat_map(|piece| document.piece_bytes(piece).iter().copied());
                delta.insert(position, bytes.collect());
            }
            (Kind::Arr, NodeDiff::Array(delta)) => {
                delta.insert(position, slots(document, node, ids).collect());
            }
            _ => {}
        }
        self.pieces += self.pieces_of(node).saturating_sub(before);
    }

    fn deleted(&mut self, node: Timestamp, position: usize, removed: &Removed) {
        let before = self.pieces_of(node);
        match removed {
            Removed::Text(text) => {
                self.bytes += size_of::<u16>() * text.as_wtf8().units();
                if let NodeDiff::Text(delta) = self.node(node, || NodeDiff::of(Kind::Str)) {
                    delta.delete(position, text.as_wtf8().utf16().collect());
                }
            }
            Removed::Bytes(bytes) => {
                self.bytes += bytes.len();
                if let NodeDiff::Bytes(delta) = self.node(node, || NodeDiff::of(Kind::Bin)) {
                    delta.delete(position, bytes.clone());
                }
            }
            Removed::Nodes(nodes) => {
                let values: Vec<Value> = nodes.iter().map(|node| node.to_value(self)).collect();
                self.bytes += values.iter().map(Value::size_bytes).sum::<usize>();
                if let NodeDiff::Array(delta) = self.node(node, || NodeDiff::of(Kind::Arr)) {
                    delta.delete(position, values);
                }
            }
        }
        self.pieces += self.pieces_of(node).saturating_sub(before);
    }

    fn diff(&self, node: Timestamp) -> Option<&NodeDiff> {
        self.by_node.get(&node).map(|&at| &self.nodes[at].1)
    }

    fn pieces_of(&self, node: Timestamp) -> usize {
        match self.diff(node) {
            Some(NodeDiff::Text(delta)) => delta.len(),
            Some(NodeDiff::Bytes(delta)) => delta.len(),
            Some(NodeDiff::Array(delta)) => delta.len(),
            _ => 0,
        }
    }

    /// The changes, from the root down; `None` if the whole view has to be told, since what changed stands, or stood, at
    /// several places.
    fn finish(self, document: &Document, links: &Links) -> Option<Vec<Change>> {
        let Self { nodes, attached, mut is_aliased, .. } = self;
        let mut changes: Vec<Change> = nodes
            .into_iter()
            .filter_map(|(node, diff)| {
                let path = match node {
                    Timestamp::ORIGIN => Vec::new(),
                    node => links.path(document, node, |node| {
                        is_aliased |= self::is_aliased(document, node);
                        attached.contains(&node)
                    })?,
                };
                let diff = diff.finish(document, node)?;
                Some(Change { path: ChangePath(path), node, diff })
            })
            .collect();
        if is_aliased || document.has_ghosts() && !changes.is_empty() {
            return None;
        }
        changes.sort_by_key(|change| change.path.0.len());
        Some(changes)
    }
}

/// Values that are told are those before the set, whatever it did inside them before it replaced them.
impl Edited for OpenSet {
    fn places(&self, node: Timestamp) -> &[(Place, Option<Value>)] {
        match self.diff(node) {
            Some(NodeDiff::Places(places)) => places,
            _ => &[],
        }
    }

    fn text(&self, node: Timestamp, now: Text) -> Text {
        match self.diff(node) {
            Some(NodeDiff::Text(delta)) => Text::from_utf16(delta.before(now.as_wtf8().utf16().collect())),
            _ => now,
        }
    }

    fn bytes(&self, node: Timestamp, now: Vec<u8>) -> Vec<u8> {
        match self.diff(node) {
            Some(NodeDiff::Bytes(delta)) => delta.before(now),
            _ => now,
        }
    }

    fn items(&self, node: Timestamp, now: Vec<Value>) -> Vec<Value> {
        match self.diff(node) {
            Some(NodeDiff::Array(delta)) => delta.before(now),
            _ => now,
        }
    }
}

impl NodeDiff {
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::Str => Self::Text(Composer::default()),
            Kind::Bin => Self::Bytes(Composer::default()),
            Kind::Arr => Self::Array(Composer::default()),
            _ => Self::Places(Vec::new()),
        }
    }

    /// What it comes to; `None` if it comes to nothing.
    fn finish(self, document: &Document, node: Timestamp) -> Option<Diff> {
        let held = |place: &Place| {
            let child = document.held(node, place).and_then(|child| document.node(child));
            child.map_or(Value::Undefined, |child| document.view_of(child.number()))
        };
        Some(match self {
            Self::Text(delta) => {
                let text = |units: Vec<u16>| Text::from_utf16(units);
                Diff::Text(some(delta.finish(text, text))?)
            }
            Self::Bytes(delta) => Diff::Bytes(some(delta.finish(|bytes| bytes, |bytes| bytes))?),
            Self::Array(delta) => {
                let new =
                    |slots: Vec<Timestamp>| slots.into_iter().map(|slot| held(&Place::Slot(slot))).collect();
                Diff::Array(some(delta.finish(new, |old| old))?)
            }
            Self::Places(places) => {
                let mut places: Vec<(Place, Value, Value)> = places
                    .into_iter()
                    .map(|(place, old)| {
                        let new = held(&place);
                        (place, old.unwrap_or_default(), new)
                    })
                    .filter(|(_, old, new)| !(old.is_undefined() && new.is_undefined()))
                    .collect();
                match places.first()?.0 {
                    Place::Root | Place::Register => {
                        let (_, old, new) = places.swap_remove(0);
                        Diff::Value { old, new }
                    }
                    Place::Key(_) => Diff::Map(
                        places
                            .into_iter()
                            .filter_map(|(place, old, new)| match place {
                                Place::Key(key) => Some(KeyChange { key, old, new }),
                                _ => None,
                            })
                            .collect(),
                    ),
                    _ => Diff::Tuple(
                        places
                            .into_iter()
                            .filter_map(|(place, old, new)| match place {
                                Place::Index(index) => Some(PlaceChange { index, old, new }),
                                _ => None,
                            })
                            .collect(),
                    ),
                }
            }
        })
    }
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}
