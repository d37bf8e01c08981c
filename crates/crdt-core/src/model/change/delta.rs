//! Many edits to one sequence, told as one.

/// One piece of what happened to a text, a byte string or an array, from its start on. What is not named at the end has
/// stayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta<T> {
    /// So many elements stayed. A text counts UTF-16 code units.
    Retain(usize),
    /// These elements are new.
    Insert(T),
    /// These elements are gone.
    Delete(T),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece<I, D> {
    Retain(usize),
    Insert(Vec<I>),
    Delete(Vec<D>),
}

impl<I, D> Piece<I, D> {
    /// How many elements of the new state it stands for.
    const fn new_len(&self) -> usize {
        match self {
            Self::Retain(len) => *len,
            Self::Insert(items) => items.len(),
            Self::Delete(_) => 0,
        }
    }
}

/// Takes edits one after the other, each with its position at its time, and puts them together.
#[derive(Debug, Clone)]
pub(super) struct Composer<I, D> {
    pieces: Vec<Piece<I, D>>,
    /// The piece that was edited last, and how many elements of the new state stand before it: most edits come close to
    /// the one before.
    near: (usize, usize),
}

impl<I, D> Default for Composer<I, D> {
    fn default() -> Self {
        Self { pieces: Vec::new(), near: (0, 0) }
    }
}

impl<I, D> Composer<I, D> {
    /// How many pieces there are.
    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Elements were inserted at a position.
    pub(super) fn insert(&mut self, position: usize, items: Vec<I>) {
        let (at, within) = self.seek(position);
        if within > 0
            && let Some(Piece::Insert(inserted)) = self.pieces.get_mut(at)
        {
            inserted.splice(within..within, items);
            self.near = (at, position - within);
            return;
        }
        let at = self.cut(at, within);
        self.near = self.near_before(at, position);
        // Right behind something inserted they belong to it; so they do right before.
        if let Some(Piece::Insert(before)) = at.checked_sub(1).map(|before| &mut self.pieces[before]) {
            before.extend(items);
        } else if let Some(Piece::Insert(after)) = self.pieces.get_mut(at) {
            after.splice(0..0, items);
        } else {
            self.pieces.insert(at, Piece::Insert(items));
        }
    }

    /// The elements from a position on were deleted: these.
    pub(super) fn delete(&mut self, position: usize, items: Vec<D>) {
        let mut items = items;
        let (at, within) = self.seek(position);
        let mut at = self.cut(at, within);
        self.near = self.near_before(at, position);
        while !items.is_empty() {
            let Some(piece) = self.pieces.get_mut(at) else {
                self.pieces.push(Piece::Delete(items));
                return;
            };
            match piece {
                Piece::Delete(_) => at += 1,
                Piece::Insert(inserted) => {
                    // Nobody has seen those: they come and go without being told.
                    let len = inserted.len().min(items.len());
                    inserted.drain(..len);
                    items.drain(..len);
                    if inserted.is_empty() {
                        self.pieces.remove(at);
                    }
                }
                Piece::Retain(len) => {
                    let gone = (*len).min(items.len());
                    *len -= gone;
                    if *len == 0 {
                        self.pieces.remove(at);
                    }
                    let rest = items.split_off(gone);
                    self.pieces.insert(at, Piece::Delete(items));
                    items = rest;
                    at += 1;
                }
            }
        }
    }

    /// What there was before all edits, from what there is now.
    pub(super) fn before(&self, now: Vec<D>) -> Vec<D>
    where
        D: Clone,
    {
        let mut now = now.into_iter();
        let mut before = Vec::with_capacity(now.len());
        for piece in &self.pieces {
            match piece {
                Piece::Retain(len) => before.extend(now.by_ref().take(*len)),
                Piece::Insert(items) => now.by_ref().take(items.len()).for_each(drop),
                Piece::Delete(items) => before.extend_from_slice(items),
            }
        }
        before.extend(now);
        before
    }

    fn near_before(&self, at: usize, position: usize) -> (usize, usize) {
        match at.checked_sub(1) {
            Some(before) => (before, position - self.pieces[before].new_len()),
            None => (0, 0),
        }
    }

    /// The piece that holds a position of the new state, and the place in it. At a border the piece that begins there.
    fn seek(&self, position: usize) -> (usize, usize) {
        let (mut at, mut before) =
            if self.near.0 < self.pieces.len() && self.near.1 <= position { self.near } else { (0, 0) };
        while let Some(piece) = self.pieces.get(at) {
            let len = piece.new_len();
            if position < before + len || position == before && len == 0 {
                break;
            }
            before += len;
            at += 1;
        }
        (at, position - before)
    }

    /// Makes a border in a piece, or behind the end. Returns the place of what begins there.
    fn cut(&mut self, at: usize, within: usize) -> usize {
        if within == 0 {
            return at;
        }
        match self.pieces.get_mut(at) {
            None => self.pieces.push(Piece::Retain(within)),
            Some(Piece::Retain(len)) => {
                let rest = *len - within;
                *len = within;
                self.pieces.insert(at + 1, Piece::Retain(rest));
            }
            Some(Piece::Insert(items)) => {
                let rest = items.split_off(within);
                self.pieces.insert(at + 1, Piece::Insert(rest));
            }
            Some(Piece::Delete(_)) => return at,
        }
        at + 1
    }

    /// What has happened, in the usual form: nothing twice in a row, what is new before what is gone. Empty if nothing has.
    pub(super) fn finish<T>(
        self,
        mut inserted: impl FnMut(Vec<I>) -> T,
        mut deleted: impl FnMut(Vec<D>) -> T,
    ) -> Vec<Delta<T>> {
        let mut delta = Vec::new();
        let (mut retain, mut new, mut old) = (0, Vec::new(), Vec::new());
        let mut close = |retain: &mut usize, new: &mut Vec<I>, old: &mut Vec<D>| {
            if new.is_empty() && old.is_empty() {
                return;
            }
            if *retain > 0 {
                delta.push(Delta::Retain(std::mem::take(retain)));
            }
            if !new.is_empty() {
                delta.push(Delta::Insert(inserted(std::mem::take(new))));
            }
            if !old.is_empty() {
                delta.push(Delta::Delete(deleted(std::mem::take(old))));
            }
        };
        for piece in self.pieces {
            match piece {
                Piece::Retain(len) => {
                    close(&mut retain, &mut new, &mut old);
                    retain += len;
                }
                Piece::Insert(items) => new.extend(items),
                Piece::Delete(items) => old.extend(items),
            }
        }
        close(&mut retain, &mut new, &mut old);
        delta
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Edit {
        Insert(usize, Vec<u16>),
        Delete(usize, usize),
    }

    fn edits() -> impl Strategy<Value = Vec<Edit>> {
        let edit = prop_oneof![
            (any::<usize>(), prop::collection::vec(any::<u16>(), 1..5))
                .prop_map(|(at, items)| Edit::Insert(at, items)),
            (any::<usize>(), 1..6usize).prop_map(|(at, len)| Edit::Delete(at, len)),
        ];
        prop::collection::vec(edit, 0..40)
    }

    /// Does what a delta says, and checks that what it says is gone was there.
    fn apply(list: &[u16], delta: &[Delta<Vec<u16>>]) -> Vec<u16> {
        let (mut out, mut at) = (Vec::new(), 0);
        for step in delta {
            match step {
                Delta::Retain(len) => {
                    out.extend_from_slice(&list[at..at + len]);
                    at += len;
                }
                Delta::Insert(items) => out.extend(items),
                Delta::Delete(items) => {
                    assert_eq!(&list[at..at + items.len()], items);
                    at += items.len();
                }
            }
        }
        out.extend_from_slice(&list[at..]);
        out
    }

    proptest! {
        #[test]
        fn one_delta_does_what_all_edits_did(start in prop::collection::vec(any::<u16>(), 0..30), edits in edits()) {
            let mut list = start.clone();
            let mut composer = Composer::default();
            for edit in edits {
                match edit {
                    Edit::Insert(at, items) => {
                        let at = at % (list.len() + 1);
                        list.splice(at..at, items.iter().copied());
                        composer.insert(at, items);
                    }
                    Edit::Delete(at, len) => {
                        let at = at % (list.len() + 1);
                        let end = (at + len).min(list.len());
                        let gone: Vec<u16> = list.drain(at..end).collect();
                        composer.delete(at, gone);
                    }
                }
            }
            prop_assert_eq!(&composer.before(list.clone()), &start);
            let delta = composer.finish(|items| items, |items| items);
            prop_assert_eq!(apply(&start, &delta), list);
            for pair in delta.windows(2) {
                let usual = !matches!(
                    pair,
                    [Delta::Retain(_), Delta::Retain(_)]
                        | [Delta::Insert(_), Delta::Insert(_)]
                        | [Delta::Delete(_), Delta::Delete(_) | Delta::Insert(_)]
                );
                prop_assert!(usual, "{pair:?}");
            }
            prop_assert!(!matches!(delta.last(), Some(Delta::Retain(_))));
        }
    }
}
