//! What was which: ids of things that were removed, and of those that undo made in their place.

use std::collections::BTreeMap;

use crate::{SessionId, Timespan, Timestamp};

pub(super) type Key = (SessionId, u64);

/// From the ids of what was removed to the ids of what has taken its place.
#[derive(Debug, Clone, Default)]
pub(super) struct IdMap {
    /// By first id: how many, and the first id of those that took their place.
    reborn: BTreeMap<Key, Reborn>,
    /// The way back, by first new id: how many, the first old id, and whether they came back beside the deleted ones.
    images: BTreeMap<Key, (u64, (Timestamp, bool))>,
    /// Deleted elements of a sequence that was made again without them, by first id: how many, and what stood before.
    left_out: BTreeMap<Key, (u64, Timestamp)>,
    /// Deleted elements that were made again to be deleted, by first new id: how many, and when they were deleted. Whoever
    /// drops tombstones keeps them: constants made before then name them.
    kept: BTreeMap<Key, (u64, u64)>,
    /// Constants that took the place of others in the same patch, and when the first of them was made: all the time one of
    /// them has been there.
    continued: BTreeMap<Key, u64>,
}

/// What has taken the place of consecutive ids.
#[derive(Debug, Clone, Copy)]
struct Reborn {
    span: u64,
    to: Timestamp,
    /// In the same sequence, beside the deleted elements; otherwise in another that was made anew.
    beside: bool,
}

const fn key(id: Timestamp) -> Key {
    (id.sid, id.time)
}

/// The entry that an id is in, and its place there.
pub(super) fn within<T: Copy>(map: &BTreeMap<Key, (u64, T)>, id: Timestamp) -> Option<(u64, u64, T)> {
    let (&(sid, start), &(span, to)) = map.range(..=key(id)).next_back()?;
    (sid == id.sid && id.time - start < span).then(|| (id.time - start, span, to))
}

impl IdMap {
    pub(super) fn len(&self) -> usize {
        self.reborn.len() + self.left_out.len()
    }

    /// Things were made again with new ids; `beside`: elements of a sequence, beside what is left of the deleted ones.
    pub(super) fn put(&mut self, old: Timespan, new: Timestamp, beside: bool) {
        if let Some((&(sid, start), last)) = self.reborn.range_mut(..key(old.start)).next_back()
            && (sid, start + last.span) == key(old.start)
            && (last.to.tick(last.span), last.beside) == (new, beside)
        {
            last.span += old.span;
            if let Some((span, _)) = self.images.get_mut(&key(last.to)) {
                *span = last.span;
            }
            return;
        }
        self.images.insert(key(new), (old.span, (old.start, beside)));
        self.reborn.insert(key(old.start), Reborn { span: old.span, to: new, beside });
    }

    /// Deleted elements were made again to be deleted. Those that came back before are what came back, not these.
    pub(super) fn put_deleted(&mut self, old: Timespan, new: Timestamp) {
        for tick in 0..old.span {
            let start = old.start.tick(tick);
            if self.entry(start).is_none() {
                self.put(Timespan { start, span: 1 }, new.tick(tick), false);
            }
        }
    }

    /// Deleted elements were left out of something that was made again; they stood behind an element.
    pub(super) fn leave_out(&mut self, old: Timespan, after: Timestamp) {
        self.left_out.insert(key(old.start), (old.span, after));
    }

    /// Deleted elements were made again and deleted at a time, after constants that name them.
    pub(super) fn keep(&mut self, new: Timespan, deleted: u64) {
        self.kept.insert(key(new.start), (new.span, deleted));
    }

    /// When a deleted element that is [kept](Self::keep) was deleted.
    pub(super) fn kept(&self, id: Timestamp) -> Option<u64> {
        within(&self.kept, id).map(|(_, _, deleted)| deleted)
    }

    /// For an element that came back from a time on: the first of those that came back with it, and what it was at that time.
    pub(super) fn image_since(&self, id: Timestamp, since: Timestamp) -> Option<(Timestamp, Timestamp)> {
        let is_since = |id: Timestamp| id.sid == since.sid && id.time >= since.time;
        let mut image = None;
        let mut was = id;
        while is_since(was)
            && let Some((place, _, (old, true))) = within(&self.images, was)
        {
            image.get_or_insert_with(|| Timestamp::new(id.sid, id.time - place));
            was = old.tick(place);
        }
        image.map(|first| (first, was))
    }

    /// A constant takes the place of another in the same patch.
    pub(super) fn go_on(&mut self, old: Timestamp, new: Timestamp) {
        let made = self.made(old);
        self.continued.insert(key(new), made);
    }

    /// When a constant was made, or the first of those that it takes the place of.
    pub(super) fn made(&self, constant: Timestamp) -> u64 {
        self.continued.get(&key(constant)).copied().unwrap_or(constant.time)
    }

    /// The id that something had at first.
    pub(super) fn first(&self, id: Timestamp) -> Timestamp {
        let mut id = id;
        while let Some((place, _, (old, _))) = within(&self.images, id) {
            id = old.tick(place);
        }
        id
    }

    /// The id that something has now.
    pub(super) fn now(&self, id: Timestamp) -> Timestamp {
        let mut id = id;
        while let Some((place, entry)) = self.entry(id) {
            id = entry.to.tick(place);
        }
        id
    }

    /// The ids that consecutive elements have now.
    pub(super) fn spans_now(&self, span: Timespan) -> Vec<Timespan> {
        let (mut todo, mut spans) = (vec![span], Vec::new());
        while let Some(Timespan { start, span }) = todo.pop() {
            let Some((place, entry)) = self.entry(start) else {
                // Up to where the next entry begins nothing has moved.
                let next = self.reborn.range(key(start)..).next().filter(|((sid, _), _)| *sid == start.sid);
                let free = next.map_or(span, |((_, time), _)| span.min(time - start.time));
                spans.push(Timespan { start, span: free });
                if free < span {
                    todo.push(Timespan { start: start.tick(free), span: span - free });
                }
                continue;
            };
            let len = span.min(entry.span - place);
            if len < span {
                todo.push(Timespan { start: start.tick(len), span: span - len });
            }
            todo.push(Timespan { start: entry.to.tick(place), span: len });
        }
        spans
    }

    /// Whether a deleted element was left out of what was made again.
    pub(super) fn is_left_out(&self, id: Timestamp) -> bool {
        within(&self.left_out, id).is_some()
    }

    /// For a deleted element that was left out: the element that stands before its place now, and the tombstone of it if that
    /// was made again. `None` if there is none, and it belongs to the start. `exists` tells of elements that the sequence has.
    pub(super) fn before(
        &self,
        id: Timestamp,
        exists: impl Fn(Timestamp) -> bool,
    ) -> Option<(Timestamp, Timestamp)> {
        let mut id = id;
        // Each turn goes to an element that stood further left, or from one making of the sequence to the next.
        for _ in 0..=self.len() {
            let (place, _, after) = within(&self.left_out, id)?;
            let run = Timestamp::new(id.sid, id.time - place);
            // Something of the same run that was made again since stands nearer.
            let entries = self.reborn.range(..key(id)).rev();
            let nearer = entries
                .take_while(|((sid, start), entry)| *sid == run.sid && start + entry.span > run.time)
                .find(|(_, entry)| !entry.beside);
            id = match nearer {
                Some((&(sid, start), entry)) => Timestamp::new(sid, (start + entry.span).min(id.time) - 1),
                None => after,
            };
            // What came back beside it in the same sequence has a place of its own; what is in a later making has not.
            let mut again = id;
            while let Some((place, entry)) = self.entry(again).filter(|(_, entry)| !entry.beside) {
                again = entry.to.tick(place);
            }
            if again != id {
                id = self.now(again);
            }
            if exists(id) {
                return Some((id, again));
            }
        }
        None
    }

    fn entry(&self, id: Timestamp) -> Option<(u64, &Reborn)> {
        let (&(sid, start), entry) = self.reborn.range(..=key(id)).next_back()?;
        (sid == id.sid && id.time - start < entry.span).then(|| (id.time - start, entry))
    }
}
