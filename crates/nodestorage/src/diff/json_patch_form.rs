//! The JSON Patch (RFC 6902) between two states.

use std::collections::{HashMap, VecDeque};

use imara_diff::{Algorithm, Diff as SequenceDiff, InternedInput};
use json_patch::{
    AddOperation, MoveOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation,
    jsonptr::PointerBuf,
};
use serde::Serialize;
use serde_json::Value;

use crate::{Body, query::order::by_name, rules::json_bytes};

pub(super) fn between(before: Option<&Body>, after: Option<&Body>) -> Patch {
    let mut writer = Writer { place: PointerBuf::root(), operations: Vec::new(), bytes: 0 };
    match (before, after) {
        (None, None) => {}
        (Some(before), Some(after)) => writer.shorter(after, |writer, limit| writer.objects(before, limit)),
        (None, Some(after)) => writer.replace(&Value::Object(after.clone())),
        (Some(_), None) => writer.replace(&Value::Null),
    }
    Patch(writer.operations)
}

/// How many elements of an array may have come or gone for moves to be looked for among them. Beyond that a patch is
/// large anyway, and to look takes time.
const MOVES_MAX: usize = 1_000;

/// How many bytes the operations within a value may take where all of it takes fewer: a small change says what changed. Beyond
/// that, and beyond what the value takes, the patch has one `replace` of the value. So no patch is much longer than what
/// it makes, and nobody who follows a document is sent many times of it.
const SHORT_BYTES: usize = 4 << 10;

/// How many elements may be shifted when the operations of an array are applied one after the other: each that comes or goes
/// shifts all behind it. Beyond it the patch has one `replace` of the array.
const SHIFTS_MAX: usize = 50_000_000;

/// What an operation takes beside its places and its value.
const OPERATION_BYTES: usize = r#"{"op":"replace","path":"","value":},"#.len();

/// Walks two values side by side. The depth of the walk is that of the documents, which storages bound
/// ([`DEPTH_MAX`](crate::document::DEPTH_MAX)).
struct Writer {
    place: PointerBuf,
    operations: Vec<PatchOperation>,
    /// What they take.
    bytes: usize,
}

/// What the operations within a value may take.
struct Limit<'v, V> {
    after: &'v V,
    /// What was written before them.
    bytes: usize,
    bytes_max: Option<usize>,
}

/// One operation says it shorter.
struct TooLong;

impl<V: Serialize> Limit<'_, V> {
    fn check(&mut self, writer: &Writer) -> Result<(), TooLong> {
        let written = writer.bytes - self.bytes;
        if written <= SHORT_BYTES {
            return Ok(());
        }
        // Few changes come so far, so the value is not measured before.
        let bytes_max = *self.bytes_max.get_or_insert_with(|| json_bytes(self.after));
        if written <= bytes_max { Ok(()) } else { Err(TooLong) }
    }
}

impl Writer {
    fn values(&mut self, before: &Value, after: &Value) {
        match (before, after) {
            (Value::Object(before), Value::Object(after)) => {
                self.shorter(after, |writer, limit| writer.objects(before, limit));
            }
            (Value::Array(before), Value::Array(after)) => {
                self.shorter(after, |writer, limit| writer.arrays(before, limit));
            }
            (before, after) if before == after => {}
            (_, after) => self.replace(after),
        }
    }

    /// Writes what changed within a value, or all of it where that is shorter.
    fn shorter<V: Serialize + Clone + Into<Value>>(
        &mut self,
        after: &V,
        write: impl FnOnce(&mut Self, &mut Limit<'_, V>) -> Result<(), TooLong>,
    ) {
        let (operations, bytes) = (self.operations.len(), self.bytes);
        if write(self, &mut Limit { after, bytes, bytes_max: None }).is_err() {
            self.operations.truncate(operations);
            self.bytes = bytes;
            self.replace(&after.clone().into());
        }
    }

    fn objects(&mut self, before: &Body, limit: &mut Limit<'_, Body>) -> Result<(), TooLong> {
        let after = limit.after;
        // The same patch in every program, whatever order its maps have.
        for (key, _) in by_name(before).filter(|(key, _)| !after.contains_key(*key)) {
            self.within(key.as_str(), Self::remove);
            limit.check(self)?;
        }
        for (key, after) in by_name(after) {
            match before.get(key) {
                Some(before) => self.within(key.as_str(), |writer| writer.values(before, after)),
                None => self.within(key.as_str(), |writer| writer.add(after)),
            }
            limit.check(self)?;
        }
        Ok(())
    }

    /// Elements that are in both arrays, in the same order, stay as they are. Between them, as many as possible are
    /// edited in place, the rest are removed or inserted; what was removed in one place and inserted in another is
    /// moved.
    fn arrays(&mut self, before: &[Value], limit: &mut Limit<'_, Vec<Value>>) -> Result<(), TooLong> {
        let after = limit.after;
        let head = before.iter().zip(after).take_while(|(b, a)| b == a).count();
        let (old, new) = (&before[head..], &after[head..]);
        let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(b, a)| b == a).count();
        let (old, new) = (&old[..old.len() - tail], &new[..new.len() - tail]);
        if old.is_empty() || new.is_empty() || old.len() == 1 && new.len() == 1 {
            shiftable(old.len().abs_diff(new.len()), tail)?;
            return self.hunk(head, old, new, limit);
        }

        let mut input = InternedInput::default();
        input.update_before(old.iter());
        input.update_after(new.iter());
        let hunks: Vec<_> = SequenceDiff::compute(Algorithm::Myers, &input).hunks().collect();
        if let [one, other] = hunks.as_slice()
            && self.moved(head, (old, new), one, other, limit)?
        {
            return Ok(());
        }
        let changed: usize = hunks.iter().map(|hunk| hunk.before.len() + hunk.after.len()).sum();
        if changed <= MOVES_MAX {
            let moves = Moves::find(&input, &hunks);
            if !moves.is_empty() {
                shiftable(changed, before.len())?;
                return self.rearrange(head, (old, new), &hunks, &moves, limit);
            }
        }
        let shifts = hunks.iter().map(|hunk| {
            let behind = before.len() - head - range(&hunk.before).end;
            hunk.before.len().abs_diff(hunk.after.len()).saturating_mul(behind)
        });
        shiftable(1, shifts.fold(0, usize::saturating_add))?;
        // From the back, so that the indexes of those in front still hold.
        for hunk in hunks.iter().rev() {
            let (from, to) = (range(&hunk.before), range(&hunk.after));
            self.hunk(head + from.start, &old[from], &new[to], limit)?;
        }
        Ok(())
    }

    /// One run of elements went from one place to another, and nothing else happened.
    fn moved(
        &mut self,
        head: usize,
        (old, new): (&[Value], &[Value]),
        one: &imara_diff::Hunk,
        other: &imara_diff::Hunk,
        limit: &mut Limit<'_, Vec<Value>>,
    ) -> Result<bool, TooLong> {
        let ((source, target), to_the_right) = match (one, other) {
            (s, t) if s.is_pure_removal() && t.is_pure_insertion() => ((s, t), true),
            (t, s) if s.is_pure_removal() && t.is_pure_insertion() => ((s, t), false),
            _ => return Ok(false),
        };
        let (from, to) = (range(&source.before), range(&target.after));
        if old[from.clone()] != new[to.clone()] {
            return Ok(false);
        }
        shiftable(from.len(), old.len())?;
        for nth in 0..from.len() {
            // Moving to the right, each takes its place behind those that already went; to the left likewise, and the
            // source slides along.
            let (from, to) = match to_the_right {
                true => (head + from.start, head + to.start + from.len() - 1),
                false => (head + from.start + nth, head + to.start + nth),
            };
            self.move_element(from, to);
            limit.check(self)?;
        }
        Ok(true)
    }

    /// Elements went from some places to others, and more happened.
    ///
    /// First goes what is gone. Then each element that moved or is new is put right before the one that follows it, from
    /// the back: what is behind it is in its place then, and what is still in between moves on later. What is edited is
    /// edited last, where it is in the end.
    fn rearrange(
        &mut self,
        head: usize,
        (old, new): (&[Value], &[Value]),
        hunks: &[imara_diff::Hunk],
        moves: &Moves,
        limit: &mut Limit<'_, Vec<Value>>,
    ) -> Result<(), TooLong> {
        // For each new element the old one that it was; what is kept stays in order.
        let mut origins: Vec<Option<usize>> = vec![None; new.len()];
        let mut gone = vec![false; old.len()];
        let mut edited = Vec::new();
        let (mut from, mut to) = (0, 0);
        for hunk in hunks {
            let (before, after) = (range(&hunk.before), range(&hunk.after));
            (from..before.start).zip(to..).for_each(|(from, to)| origins[to] = Some(from));
            (from, to) = (before.end, after.end);
            let mut left = before.filter(|from| !moves.from.contains_key(from));
            for to in after {
                match moves.to.get(&to) {
                    Some(from) => origins[to] = Some(*from),
                    None => {
                        origins[to] = left.next();
                        edited.extend(origins[to].map(|from| (from, to)));
                    }
                }
            }
            left.for_each(|from| gone[from] = true);
        }
        (from..old.len()).zip(to..).for_each(|(from, to)| origins[to] = Some(from));

        let mut list: Vec<Option<usize>> = (0..old.len()).map(Some).collect();
        for from in (0..old.len()).rev().filter(|from| gone[*from]) {
            self.within(head + from, Self::remove);
            limit.check(self)?;
            list.remove(from);
        }
        // Where the element behind the next one is.
        let mut anchor = list.len();
        for (to, origin) in origins.iter().enumerate().rev() {
            match origin {
                None => {
                    list.insert(anchor, None);
                    self.within(head + anchor, |writer| writer.add(&new[to]));
                    limit.check(self)?;
                }
                Some(from) if moves.from.contains_key(from) => {
                    let at = list.iter().position(|other| other == origin).expect("it is still there");
                    let place = if at < anchor { anchor - 1 } else { anchor };
                    list.remove(at);
                    list.insert(place, *origin);
                    if at != place {
                        self.move_element(head + at, head + place);
                        limit.check(self)?;
                    }
                    anchor = place;
                }
                Some(_) => {
                    anchor = list[..anchor].iter().rposition(|other| other == origin).expect("it is kept");
                }
            }
        }
        for (from, to) in edited {
            self.within(head + to, |writer| writer.values(&old[from], &new[to]));
            limit.check(self)?;
        }
        Ok(())
    }

    fn hunk(
        &mut self,
        start: usize,
        old: &[Value],
        new: &[Value],
        limit: &mut Limit<'_, Vec<Value>>,
    ) -> Result<(), TooLong> {
        let edited = old.len().min(new.len());
        // Removals first, then insertions, then the edits: each leaves the indexes of the next alone. Removals from the back,
        // as at an array's end nothing is behind them then.
        for nth in (edited..old.len()).rev() {
            self.within(start + nth, Self::remove);
            limit.check(self)?;
        }
        for (nth, value) in new.iter().enumerate().skip(edited) {
            self.within(start + nth, |writer| writer.add(value));
            limit.check(self)?;
        }
        for (nth, (old, new)) in old.iter().zip(new).enumerate() {
            self.within(start + nth, |writer| writer.values(old, new));
            limit.check(self)?;
        }
        Ok(())
    }

    fn within<'t>(
        &mut self,
        token: impl Into<json_patch::jsonptr::Token<'t>>,
        write: impl FnOnce(&mut Self),
    ) {
        self.place.push_back(token);
        write(self);
        self.place.pop_back();
    }

    fn move_element(&mut self, from: usize, to: usize) {
        let element = |index: usize| {
            let mut place = self.place.clone();
            place.push_back(index);
            place
        };
        let (from, path) = (element(from), element(to));
        let bytes = from.len() + path.len();
        self.push(PatchOperation::Move(MoveOperation { from, path }), bytes);
    }

    fn add(&mut self, value: &Value) {
        let (path, bytes) = (self.place.clone(), self.place.len() + json_bytes(value));
        self.push(PatchOperation::Add(AddOperation { path, value: value.clone() }), bytes);
    }

    fn remove(&mut self) {
        let (path, bytes) = (self.place.clone(), self.place.len());
        self.push(PatchOperation::Remove(RemoveOperation { path }), bytes);
    }

    fn replace(&mut self, value: &Value) {
        let (path, bytes) = (self.place.clone(), self.place.len() + json_bytes(value));
        self.push(PatchOperation::Replace(ReplaceOperation { path, value: value.clone() }), bytes);
    }

    fn push(&mut self, operation: PatchOperation, bytes: usize) {
        self.operations.push(operation);
        self.bytes += OPERATION_BYTES + bytes;
    }
}

/// Whether so many elements may come or go in front of so many others.
fn shiftable(changed: usize, behind: usize) -> Result<(), TooLong> {
    if changed.saturating_mul(behind) <= SHIFTS_MAX { Ok(()) } else { Err(TooLong) }
}

/// Which elements went from one place to another.
#[derive(Default)]
struct Moves {
    /// The new place of each old one.
    from: HashMap<usize, usize>,
    /// The old place of each new one.
    to: HashMap<usize, usize>,
}

impl Moves {
    /// Pairs what went in one place with the like that came in another, in order.
    fn find(input: &InternedInput<&Value>, hunks: &[imara_diff::Hunk]) -> Self {
        let mut gone: HashMap<_, VecDeque<usize>> = HashMap::new();
        for from in hunks.iter().flat_map(|hunk| range(&hunk.before)) {
            gone.entry(input.before[from].0).or_default().push_back(from);
        }
        let mut moves = Self::default();
        for to in hunks.iter().flat_map(|hunk| range(&hunk.after)) {
            if let Some(from) = gone.get_mut(&input.after[to].0).and_then(VecDeque::pop_front) {
                moves.from.insert(from, to);
                moves.to.insert(to, from);
            }
        }
        moves
    }

    fn is_empty(&self) -> bool {
        self.from.is_empty()
    }
}

fn range(of: &std::ops::Range<u32>) -> std::ops::Range<usize> {
    of.start as usize..of.end as usize
}
