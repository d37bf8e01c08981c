//! What hung below a node that was removed: kept to say what was there, and to make it again.

use std::collections::{BTreeMap, HashMap};

use smallvec::SmallVec;

use super::{Child, Chunk, Chunks, Content, Document, NodeRef, Place, extension};
use crate::{PatchBuilder, SessionId, Timespan, Timestamp, Value, text::Text};

/// A copy of a node and of all that hangs below it, with its ids.
#[derive(Debug, Clone, Default)]
pub(crate) struct Subtree {
    /// Each node before those below it.
    nodes: Vec<Copied>,
    /// Deleted elements of the sequences in it, each run with the element that stands before it, or with its sequence.
    tombstones: Vec<(Timespan, Timestamp)>,
    /// Whether a part of it was referred to from a second place.
    is_aliased: bool,
}

#[derive(Debug, Clone)]
struct Copied {
    id: Timestamp,
    content: CopiedContent,
}

/// Children by their places in the list.
#[derive(Debug, Clone)]
enum CopiedContent {
    Con(Vec<u8>),
    ConId(Timestamp),
    Val(Option<usize>),
    Obj(Vec<(Text, usize)>),
    Vec(Vec<Option<usize>>),
    Str(Vec<(Timestamp, Text)>),
    Bin(Vec<(Timestamp, Vec<u8>)>),
    Arr(Vec<(Timestamp, usize)>),
}

/// What is told of something that was made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Renamed {
    /// The ids that it had.
    pub(crate) old: Timespan,
    /// The first one that it has now.
    pub(crate) new: Timestamp,
    /// For deleted elements, which were made again to be deleted: when they were.
    pub(crate) deleted: Option<u64>,
    /// Whether constants that were made before then name them.
    pub(crate) is_kept: bool,
}

/// Who knows what was edited in nodes, and so what they showed before.
pub(crate) trait Edited {
    /// The places of a node that hold something else now, each with what it showed; `None` if it held nothing.
    fn places(&self, node: Timestamp) -> &[(Place, Option<Value>)];
    /// What a text was that is another now.
    fn text(&self, node: Timestamp, now: Text) -> Text;
    /// What a byte string was.
    fn bytes(&self, node: Timestamp, now: Vec<u8>) -> Vec<u8>;
    /// What the elements of an array were.
    fn items(&self, node: Timestamp, now: Vec<Value>) -> Vec<Value>;
}

/// What ids are now that the copy does not know.
pub(crate) struct Now<'u> {
    pub(crate) id: &'u dyn Fn(Timestamp) -> Timestamp,
    /// What constants name that may come back later, sorted by session and time.
    pub(crate) named: &'u [Timestamp],
}

impl Subtree {
    /// Copies a node. What is referred to from a second place is left out there, and so are nodes that are gone.
    pub(crate) fn of(document: &Document, root: Timestamp) -> Self {
        let mut copy = Self::default();
        let mut queue: Vec<NodeRef<'_>> = document.node(root).into_iter().collect();
        let mut aliases = std::collections::HashSet::new();
        let mut next = 0;
        while let Some(&node) = queue.get(next) {
            next += 1;
            copy.is_aliased |= node.is_aliased();
            let mut enter = |child: Child<'_>| {
                let node = document.node(child.node()?.id())?;
                if node.is_aliased() && !aliases.insert(node.id()) {
                    return None;
                }
                queue.push(node);
                Some(queue.len() - 1)
            };
            let content = match node.content() {
                Content::Con(value) => CopiedContent::Con(value.as_bytes().to_vec()),
                Content::ConId(id) => CopiedContent::ConId(id),
                Content::Val(child) => CopiedContent::Val(child.and_then(enter)),
                Content::Obj(entries) => {
                    let entries = entries.filter_map(|(key, child)| Some((key.to_text(), enter(child)?)));
                    CopiedContent::Obj(entries.collect())
                }
                Content::Vec(places) => {
                    CopiedContent::Vec(places.map(|place| place.and_then(&mut enter)).collect())
                }
                Content::Str(chunks) => CopiedContent::Str(
                    live(node.id(), chunks, &mut copy.tombstones)
                        .map(|chunk| {
                            let mut bytes = Vec::new();
                            chunk.write_text(&mut bytes);
                            (chunk.id(), Text::trusted(bytes))
                        })
                        .collect(),
                ),
                Content::Bin(chunks) => CopiedContent::Bin(
                    live(node.id(), chunks, &mut copy.tombstones)
                        .map(|chunk| {
                            let mut bytes = Vec::new();
                            chunk.write_bytes(&mut bytes);
                            (chunk.id(), bytes)
                        })
                        .collect(),
                ),
                Content::Arr(chunks) => {
                    let mut slots = Vec::new();
                    for chunk in live(node.id(), chunks, &mut copy.tombstones) {
                        for (tick, child) in (0..).zip(chunk.children()) {
                            slots.extend(enter(child).map(|at| (chunk.id().tick(tick), at)));
                        }
                    }
                    CopiedContent::Arr(slots)
                }
            };
            copy.nodes.push(Copied { id: node.id(), content });
        }
        copy
    }

    /// Whether a part of it was referred to from a second place.
    pub(crate) const fn is_aliased(&self) -> bool {
        self.is_aliased
    }

    /// Bytes that it takes, roughly.
    pub(crate) fn size_bytes(&self) -> usize {
        let content = |node: &Copied| match &node.content {
            CopiedContent::Con(bytes) => bytes.len(),
            CopiedContent::Obj(entries) => entries.iter().map(|(key, _)| 32 + key.as_bytes().len()).sum(),
            CopiedContent::Vec(places) => places.len() * 16,
            CopiedContent::Str(runs) => runs.iter().map(|(_, text)| 40 + text.as_bytes().len()).sum(),
            CopiedContent::Bin(runs) => runs.iter().map(|(_, bytes)| 40 + bytes.len()).sum(),
            CopiedContent::Arr(slots) => slots.len() * 24,
            CopiedContent::Val(_) | CopiedContent::ConId(_) => 0,
        };
        self.nodes.iter().map(|node| size_of::<Copied>() + content(node)).sum::<usize>()
            + size_of_val(&self.tombstones[..])
    }

    /// What it showed before some of its nodes were edited.
    pub(crate) fn to_value(&self, edited: &impl Edited) -> Value {
        if self.nodes.is_empty() { Value::Undefined } else { self.value(0, Document::VIEW_DEPTH_MAX, edited) }
    }

    fn value(&self, at: usize, depth: usize, edited: &impl Edited) -> Value {
        let Some(deeper) = depth.checked_sub(1) else { return Value::Null };
        let Copied { id, content } = &self.nodes[at];
        let value = |child: usize| self.value(child, deeper, edited);
        match content {
            CopiedContent::Con(bytes) => crate::codec::RawValue::trusted(bytes).to_value(),
            CopiedContent::ConId(id) => {
                Value::Array(vec![Value::Int(id.sid.get() as i64), Value::Int(id.time as i64)])
            }
            CopiedContent::Val(child) => match edited.places(*id).first() {
                Some((_, was)) => was.clone().unwrap_or_default(),
                None => child.map_or(Value::Undefined, value),
            },
            CopiedContent::Obj(entries) => {
                let places = edited.places(*id).iter();
                let set: HashMap<&Text, &Option<Value>> = places
                    .filter_map(
                        |(place, was)| if let Place::Key(key) = place { Some((key, was)) } else { None },
                    )
                    .collect();
                let entries = entries.iter().map(|(key, child)| match set.get(key) {
                    Some(was) => (key.clone(), (*was).clone().unwrap_or_default()),
                    None => (key.clone(), value(*child)),
                });
                Value::Map(entries.filter(|(_, value)| !value.is_undefined()).collect())
            }
            CopiedContent::Vec(places) => {
                let mut places: Vec<Option<Value>> = places.iter().map(|place| place.map(value)).collect();
                for (place, was) in edited.places(*id) {
                    if let Place::Index(index) = place
                        && let Some(place) = places.get_mut(usize::from(*index))
                    {
                        place.clone_from(was);
                    }
                }
                // It was only as long as what stood in it.
                let len = places.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
                places.truncate(len);
                Value::Array(places.into_iter().map(Option::unwrap_or_default).collect())
            }
            CopiedContent::Str(runs) => {
                let mut text = Text::new();
                runs.iter().for_each(|(_, run)| text.push(run.as_wtf8()));
                Value::Text(edited.text(*id, text))
            }
            CopiedContent::Bin(runs) => {
                let bytes = runs.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
                Value::Bytes(edited.bytes(*id, bytes))
            }
            CopiedContent::Arr(slots) => {
                Value::Array(edited.items(*id, slots.iter().map(|(_, child)| value(*child)).collect()))
            }
        }
    }

    /// Makes it again, with new ids: what was which is told to `renamed`. Returns the id of the new node. What was
    /// nothing becomes a constant without value.
    ///
    /// Deleted elements are left out, but for those that constants name: the anchors of marks. These are made and deleted
    /// once more, so that all that comes to stand beside them comes to the side where it belongs.
    pub(crate) fn write(
        &self,
        patch: &mut PatchBuilder,
        now: &Now<'_>,
        renamed: &mut impl FnMut(Renamed),
    ) -> Timestamp {
        if self.nodes.is_empty() {
            return patch.new_con(&Value::Undefined);
        }
        // A node must be younger than what holds it, so all are made from the root down, and filled after. The ids that
        // constants name are those of the new elements, so these constants are made when the texts are there.
        let headers = self.headers();
        let mut ids: Vec<Timestamp> = self.nodes.iter().map(|node| node.id).collect();
        // In the order of their ids, for what that says: of two marks the younger one holds.
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.sort_unstable_by_key(|&at| self.nodes[at].id);
        for at in order {
            ids[at] = match (&self.nodes[at].content, headers[at]) {
                (CopiedContent::ConId(_), _) => continue,
                (_, Some((number, tuple))) => patch.new_con(&extension::header(number, ids[tuple])),
                (_, None) => create(patch, &self.nodes[at]),
            };
        }
        let mut new = NewIds::default();
        let mut tell =
            |old: Timespan, new: Timestamp| renamed(Renamed { old, new, deleted: None, is_kept: false });
        let one = |start| Timespan { start, span: 1 };
        let anchors = self.anchors(now.named);
        let mut gone: Vec<(Timestamp, Anchor, Timestamp)> = Vec::new();
        for (node, &id) in self.nodes.iter().zip(&ids) {
            let mut after = id;
            match &node.content {
                CopiedContent::ConId(_) => continue,
                CopiedContent::Str(runs) => {
                    let (mut last, mut runs) = (node.id, runs.iter());
                    loop {
                        for &anchor in anchors.get(&last).into_iter().flatten() {
                            let start =
                                patch.ins_str(id, after, " ".repeat(anchor.ids.span as usize).as_str());
                            new.put(anchor.ids, start);
                            gone.push((id, anchor, start));
                            after = start.tick(anchor.ids.span - 1);
                        }
                        let Some((was, text)) = runs.next() else { break };
                        let units = text.as_wtf8().units() as u64;
                        let start = patch.ins_str(id, after, text.as_wtf8());
                        new.put(Timespan { start: *was, span: units }, start);
                        tell(Timespan { start: *was, span: units }, start);
                        (after, last) = (start.tick(units - 1), was.tick(units - 1));
                    }
                }
                CopiedContent::Bin(runs) => {
                    for (was, bytes) in runs {
                        let start = patch.ins_bin(id, after, bytes);
                        new.put(Timespan { start: *was, span: bytes.len() as u64 }, start);
                        tell(Timespan { start: *was, span: bytes.len() as u64 }, start);
                        after = start.tick(bytes.len() as u64 - 1);
                    }
                }
                _ => {}
            }
            new.put(one(node.id), id);
            tell(one(node.id), id);
        }
        for (node, id) in self.nodes.iter().zip(&mut ids) {
            if let CopiedContent::ConId(named) = node.content {
                *id = patch.new_con_id(new.of(named, &self.tombstones).unwrap_or_else(|| (now.id)(named)));
                tell(one(node.id), *id);
            }
        }
        // Only now: who has seen that they are deleted has seen what names them, and keeps them when tombstones are dropped.
        for (id, anchor, start) in gone {
            let deleted = Some(patch.next_id().time);
            patch.del(id, &[Timespan { start, span: anchor.ids.span }]);
            renamed(Renamed { old: anchor.ids, new: start, deleted, is_kept: anchor.is_named_here });
        }
        for (node, &id) in self.nodes.iter().zip(&ids) {
            match &node.content {
                CopiedContent::Val(Some(child)) => {
                    patch.ins_val(id, ids[*child]);
                }
                CopiedContent::Obj(entries) => {
                    let entries: Vec<_> =
                        entries.iter().map(|(key, child)| (key.as_wtf8(), ids[*child])).collect();
                    patch.ins_obj(id, entries);
                }
                CopiedContent::Vec(places) => {
                    let places = (0..=u8::MAX).zip(places);
                    let places: SmallVec<[(u8, Timestamp); 4]> =
                        places.filter_map(|(at, place)| Some((at, ids[(*place)?]))).collect();
                    patch.ins_vec(id, places);
                }
                CopiedContent::Arr(slots) => {
                    let nodes: Vec<_> = slots.iter().map(|(_, child)| ids[*child]).collect();
                    let start = patch.ins_arr(id, id, &nodes);
                    for ((was, _), tick) in slots.iter().zip(0..) {
                        renamed(Renamed {
                            old: one(*was),
                            new: start.tick(tick),
                            deleted: None,
                            is_kept: false,
                        });
                    }
                }
                _ => {}
            }
        }
        ids[0]
    }

    /// Which of the nodes are headers of extensions: the extension's number, and the tuple that the header names.
    fn headers(&self) -> Vec<Option<(u8, usize)>> {
        let mut headers = vec![None; self.nodes.len()];
        for (tuple, node) in self.nodes.iter().enumerate() {
            if let CopiedContent::Vec(places) = &node.content
                && let [Some(first), Some(_)] = places[..]
                && let CopiedContent::Con(bytes) = &self.nodes[first].content
                && let Some(number) = extension::number(crate::codec::RawValue::trusted(bytes), node.id)
            {
                headers[first] = Some((number, tuple));
            }
        }
        headers
    }

    /// The ids that constants in it name.
    pub(crate) fn named(&self) -> impl Iterator<Item = Timestamp> + '_ {
        self.nodes.iter().filter_map(|node| match node.content {
            CopiedContent::ConId(named) => Some(named),
            _ => None,
        })
    }

    /// Whether deleted elements belong to it.
    pub(crate) fn has_tombstones(&self) -> bool {
        !self.tombstones.is_empty()
    }

    /// Those of the deleted elements that constants name, here or elsewhere, by the visible element (or sequence) that
    /// stands before them.
    fn anchors(&self, elsewhere: &[Timestamp]) -> BTreeMap<Timestamp, Vec<Anchor>> {
        let mut anchors: BTreeMap<Timestamp, Vec<Anchor>> = BTreeMap::new();
        if self.tombstones.is_empty() {
            return anchors;
        }
        let key = |id: &Timestamp| (id.sid, id.time);
        let mut here: Vec<Timestamp> = self.named().collect();
        here.sort_unstable_by_key(key);
        let mut named = [&here, elsewhere].concat();
        named.sort_unstable_by_key(key);
        named.dedup();
        let (mut visible, mut last) = (Timestamp::ORIGIN, None);
        for &(Timespan { start, span }, after) in &self.tombstones {
            if last != Some(after) {
                visible = after;
            }
            last = Some(start.tick(span - 1));
            let from = named.partition_point(|id| key(id) < key(&start));
            let within =
                named[from..].iter().take_while(|id| id.sid == start.sid && id.time - start.time < span);
            for &id in within {
                let is_named_here = here.binary_search_by_key(&key(&id), key).is_ok();
                let runs = anchors.entry(visible).or_default();
                match runs.last_mut() {
                    Some(run)
                        if run.ids.start.tick(run.ids.span) == id && run.is_named_here == is_named_here =>
                    {
                        run.ids.span += 1;
                    }
                    _ => runs.push(Anchor { ids: Timespan { start: id, span: 1 }, is_named_here }),
                }
            }
        }
        anchors
    }

    /// Calls `each` with the deleted elements that are left out when it is made again: ids, and the element before.
    pub(crate) fn for_each_tombstone(&self, mut each: impl FnMut(Timespan, Timestamp)) {
        self.tombstones.iter().for_each(|&(span, after)| each(span, after));
    }
}

/// Deleted elements that constants name.
#[derive(Debug, Clone, Copy)]
struct Anchor {
    ids: Timespan,
    /// Whether these constants are part of the copy.
    is_named_here: bool,
}

/// From the ids of what was copied to those of what is made again.
#[derive(Debug, Default)]
struct NewIds {
    /// By first id: how many, and the first new one.
    starts: BTreeMap<(SessionId, u64), (u64, Timestamp)>,
}

impl NewIds {
    fn put(&mut self, old: Timespan, new: Timestamp) {
        self.starts.insert((old.start.sid, old.start.time), (old.span, new));
    }

    /// The new id of what an id names, or of what stands before it where that is left out; `None` for what is elsewhere.
    fn of(&self, named: Timestamp, left_out: &[(Timespan, Timestamp)]) -> Option<Timestamp> {
        let mut id = named;
        // Runs of what is left out can stand behind each other: each is looked at once.
        for _ in 0..=left_out.len() {
            let found = self.starts.range(..=(id.sid, id.time)).next_back();
            if let Some((&(sid, start), &(span, new))) = found
                && sid == id.sid
                && id.time - start < span
            {
                return Some(new.tick(id.time - start));
            }
            let within = |span: Timespan| {
                span.start.sid == id.sid && id.time.wrapping_sub(span.start.time) < span.span
            };
            let &(_, before) = left_out.iter().find(|(span, _)| within(*span))?;
            id = before;
        }
        None
    }
}

/// The visible chunks of a sequence; notes the others.
fn live<'d>(
    node: Timestamp,
    chunks: Chunks<'d>,
    tombstones: &mut Vec<(Timespan, Timestamp)>,
) -> impl Iterator<Item = Chunk<'d>> {
    let mut before = node;
    chunks.filter(move |chunk| {
        let (start, span) = (chunk.id(), chunk.span());
        if chunk.is_tombstone() {
            tombstones.push((Timespan { start, span }, before));
        }
        before = start.tick(span - 1);
        !chunk.is_tombstone()
    })
}

fn create(patch: &mut PatchBuilder, node: &Copied) -> Timestamp {
    match &node.content {
        CopiedContent::Con(bytes) => patch.new_con_raw(crate::codec::RawValue::trusted(bytes)),
        CopiedContent::ConId(id) => patch.new_con_id(*id),
        CopiedContent::Val(_) => patch.new_val(),
        CopiedContent::Obj(_) => patch.new_obj(),
        CopiedContent::Vec(_) => patch.new_vec(),
        CopiedContent::Str(_) => patch.new_str(),
        CopiedContent::Bin(_) => patch.new_bin(),
        CopiedContent::Arr(_) => patch.new_arr(),
    }
}
