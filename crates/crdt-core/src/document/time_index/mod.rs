//! From a session's times to what stands there: a short list, or a bitmap of the times in use with a value for each.

mod dense;
mod page;

use smallvec::SmallVec;

use dense::Dense;

/// How many units of content one page of the dense window may cost.
pub(super) const UNITS_PER_PAGE: usize = 32;

/// So many entries are kept in a list: two lines of memory, most of which is not even looked at.
const LISTED_MAX: usize = 16;

/// A time after [`TimeIndex::base`], and its value.
type Entry = (u32, u32);

/// A map from times to `u32`, made for times that come close together and mostly in order, safe for any others.
///
/// Of many sessions most made a few things, far from each other in a time that all share: those stand in a list, of which two
/// are in here. More, or such as lie too far apart for that, go to [pages](Dense) of consecutive times.
#[derive(Debug, Clone, Default)]
pub(super) struct TimeIndex {
    /// What the times in the list are counted from: the first one that was entered.
    base: u64,
    /// In the order of time; empty once there are pages.
    list: SmallVec<[Entry; 2]>,
    pages: Option<Box<Dense>>,
    /// For how many units of content the [window](Dense) may have pages, told before there are any.
    allowance: usize,
}

impl TimeIndex {
    /// Lets the pages grow over `units` of content, which cost memory of their own.
    #[inline]
    pub(super) fn allow(&mut self, units: usize) {
        match &mut self.pages {
            Some(pages) => pages.allow(units),
            None => self.allowance += units,
        }
    }

    /// [`with_range`](Self::with_range) for so many entries, which may be few enough for a list.
    pub(super) fn with_few(start: u64, end: u64, units: usize, entries: usize) -> Self {
        if entries <= LISTED_MAX / 2 && end - start <= u64::from(u32::MAX) {
            return Self { base: start, allowance: units, ..Self::default() };
        }
        Self::with_range(start, end, units)
    }

    /// An index for times from `start` to before `end`, with `units` of content in all. Times are [marked](Self::mark),
    /// all of them, then given their [values](Self::fill).
    pub(super) fn with_range(start: u64, end: u64, units: usize) -> Self {
        Self { pages: Some(Box::new(Dense::with_range(start, end, units))), ..Self::default() }
    }

    /// Enters a time without its value.
    #[inline]
    pub(super) fn mark(&mut self, time: u64) {
        if let Some(pages) = &mut self.pages {
            pages.mark(time);
        }
    }

    /// Enters so many times from one on, without their values.
    pub(super) fn mark_run(&mut self, time: u64, len: u32) {
        self.pages_mut().mark_run(time, len);
    }

    /// How many different times were marked.
    pub(super) fn marked(&self) -> usize {
        self.pages.as_ref().map_or(0, |pages| pages.marked())
    }

    /// Makes room for the values of what was marked.
    pub(super) fn lay_out(&mut self) {
        if let Some(pages) = &mut self.pages {
            pages.lay_out();
        }
    }

    /// Gives a marked time its value.
    #[inline]
    pub(super) fn fill(&mut self, time: u64, value: u32) {
        match &mut self.pages {
            Some(pages) => pages.fill(time, value),
            None => _ = self.enter_listed(time, value),
        }
    }

    /// Gives so many marked times from one on values that follow each other.
    pub(super) fn fill_run(&mut self, time: u64, value: u32, len: u32) {
        self.pages_mut().fill_run(time, value, len);
    }

    /// Puts a value at a time, in place of one that was there. Tells whether none was.
    #[inline(always)]
    pub(super) fn insert(&mut self, time: u64, value: u32) -> bool {
        if let Some(pages) = &mut self.pages {
            return pages.insert(time, value);
        }
        if self.goes_behind(time) {
            self.list.push(((time - self.base) as u32, value));
            return true;
        }
        self.insert_listed(time, value)
    }

    /// Whether a time is above all in the list, which has room for it, as it mostly is.
    #[inline]
    fn goes_behind(&self, time: u64) -> bool {
        let len = self.list.len();
        let above = |&(last, _): &Entry| self.after_base(time).is_some_and(|after| after > last);
        len < LISTED_MAX && len < self.list.capacity() && self.list.last().is_some_and(above)
    }

    fn insert_listed(&mut self, time: u64, value: u32) -> bool {
        if self.list.is_empty() {
            self.base = time;
        }
        self.enter_listed(time, value)
    }

    fn enter_listed(&mut self, time: u64, value: u32) -> bool {
        let Some(after) = self.after_base(time) else { return self.pages_mut().insert(time, value) };
        let place = self.upto(after);
        if let Some((_, there)) = self.list[..place].last_mut().filter(|(at, _)| *at == after) {
            *there = value;
            return false;
        }
        if self.list.len() == LISTED_MAX {
            return self.pages_mut().insert(time, value);
        }
        if self.list.len() == self.list.capacity() {
            // By doubling it would move three times on the way.
            self.list.reserve_exact(LISTED_MAX / 2 - self.list.len() % (LISTED_MAX / 2));
        }
        self.list.insert(place, (after, value));
        true
    }

    /// Puts consecutive values at as many times that have none, nor has any behind them.
    pub(super) fn insert_run(&mut self, time: u64, value: u32, len: u32) {
        if len == 1 {
            self.insert(time, value);
        } else if self.pages.is_none() && self.list.len() + len as usize <= LISTED_MAX / 2 {
            (time..).zip(value..value + len).for_each(|(time, value)| _ = self.insert(time, value));
        } else {
            self.pages_mut().insert_run(time, value, len);
        }
    }

    /// The value at a time.
    #[inline]
    pub(super) fn get(&self, time: u64) -> Option<u32> {
        match &self.pages {
            Some(pages) => pages.get(time),
            None => self.floor_listed(time).filter(|&(at, _)| at == time).map(|(_, value)| value),
        }
    }

    /// The last entry at or before a time.
    #[inline]
    pub(super) fn floor(&self, time: u64) -> Option<(u64, u32)> {
        match &self.pages {
            Some(pages) => pages.floor(time),
            None => self.floor_listed(time),
        }
    }

    fn floor_listed(&self, time: u64) -> Option<(u64, u32)> {
        let after = u32::try_from(time.checked_sub(self.base)?).unwrap_or(u32::MAX);
        let &(after, value) = self.list[..self.upto(after)].last()?;
        Some((self.base + u64::from(after), value))
    }

    /// The first time at or after a time that has an entry.
    pub(super) fn ceiling(&self, time: u64) -> Option<u64> {
        if let Some(pages) = &self.pages {
            return pages.ceiling(time);
        }
        let place = match time.saturating_sub(self.base) {
            0 => 0,
            after => self.upto(u32::try_from(after - 1).ok()?),
        };
        self.list.get(place).map(|&(after, _)| self.base + u64::from(after))
    }

    /// Takes the entry at a time out.
    pub(super) fn remove(&mut self, time: u64) -> Option<u32> {
        if let Some(pages) = &mut self.pages {
            return pages.remove(time);
        }
        let after = self.after_base(time)?;
        let place = self.upto(after).checked_sub(1)?;
        (self.list[place].0 == after).then(|| self.list.remove(place).1)
    }

    /// Moves an entry to a time at which there is none, when no other entry lies between the two.
    pub(super) fn shift(&mut self, from: u64, to: u64, value: u32) {
        if let Some(pages) = &mut self.pages {
            return pages.shift(from, to, value);
        }
        self.remove(from);
        self.insert(to, value);
    }

    /// All entries in the order of time.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        let listed = self.list.iter().map(|&(after, value)| (self.base + u64::from(after), value));
        listed.chain(self.pages.iter().flat_map(|pages| pages.iter()))
    }

    /// Bytes that it takes beside itself, roughly.
    pub(super) fn size_bytes(&self) -> usize {
        let list = if self.list.spilled() { self.list.capacity() * size_of::<Entry>() } else { 0 };
        list + self.pages.as_ref().map_or(0, |pages| size_of::<Dense>() + pages.size_bytes())
    }

    /// A time as the list has it.
    #[inline]
    fn after_base(&self, time: u64) -> Option<u32> {
        u32::try_from(time.checked_sub(self.base)?).ok()
    }

    /// How many in the list are not after a time. It is mostly all of them.
    #[inline]
    fn upto(&self, after: u32) -> usize {
        self.list.iter().rposition(|&(at, _)| at <= after).map_or(0, |last| last + 1)
    }

    /// The pages, to which what is in the list goes with the first call.
    fn pages_mut(&mut self) -> &mut Dense {
        let Self { base, list, pages, allowance } = self;
        pages.get_or_insert_with(|| {
            let mut pages = Box::<Dense>::default();
            pages.allow(*allowance);
            for (after, value) in std::mem::take(list) {
                pages.insert(*base + u64::from(after), value);
            }
            pages
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::{dense::PAGES_FREE, *};

    fn times() -> impl Strategy<Value = u64> {
        prop_oneof![0..300u64, 0..20_000u64, 0..1u64 << 53]
    }

    fn entries() -> impl Strategy<Value = BTreeMap<u64, u32>> {
        let of = |range| prop::collection::btree_map(times(), any::<u32>(), range);
        prop_oneof![of(1..10), of(1..200)]
    }

    /// Values for a time: any, and such as need no block.
    fn value_at(time: u64, value: u32) -> u32 {
        match value % 4 {
            0 => time as u32,
            1 => 7,
            _ => value,
        }
    }

    proptest! {
        #[test]
        fn it_is_an_ordered_map(steps in prop::collection::vec((0..4u8, times(), any::<u32>()), 0..200)) {
            let (mut index, mut oracle) = (TimeIndex::default(), BTreeMap::new());
            for (step, time, value) in steps {
                match step {
                    0 => prop_assert_eq!(index.remove(time), oracle.remove(&time)),
                    1 => index.allow(1 << (value & 15)),
                    _ => {
                        let value = value_at(time, value);
                        let was = oracle.insert(time, value);
                        prop_assert_eq!(index.insert(time, value), was.is_none());
                    }
                }
                prop_assert_eq!(index.get(time), oracle.get(&time).copied());
                prop_assert_eq!(index.ceiling(time), oracle.range(time..).next().map(|(&t, _)| t));
                let floor = oracle.range(..=time).next_back().map(|(&t, &v)| (t, v));
                prop_assert_eq!(index.floor(time), floor);
                let before = oracle.range(..time).next_back().map(|(&t, &v)| (t, v));
                prop_assert_eq!(time.checked_sub(1).and_then(|t| index.floor(t)), before);
                if let Some((at, value)) = floor
                    && at > 0
                    && !oracle.contains_key(&(at - 1))
                {
                    index.shift(at, at - 1, value);
                    oracle.remove(&at);
                    oracle.insert(at - 1, value);
                }
            }
            prop_assert_eq!(index.iter().collect::<Vec<_>>(), oracle.into_iter().collect::<Vec<_>>());
        }
    }

    proptest! {
        #[test]
        fn runs_of_values_are_like_any_others(
            steps in prop::collection::vec((0..16u8, 0..130u64, any::<u32>()), 0..400), first in any::<u32>()
        ) {
            let (mut index, mut oracle) = (TimeIndex::default(), BTreeMap::new());
            for time in 0..128u64 {
                index.insert(time, first.wrapping_add(time as u32));
                oracle.insert(time, first.wrapping_add(time as u32));
            }
            prop_assert!(index.pages.as_ref().unwrap().blocks.values.is_empty());
            for (step, time, value) in steps {
                if step < 6 {
                    prop_assert_eq!(index.remove(time), oracle.remove(&time));
                } else {
                    let value = if step < 15 { first.wrapping_add(time as u32) } else { value };
                    prop_assert_eq!(index.insert(time, value), oracle.insert(time, value).is_none());
                }
                prop_assert!(index.iter().eq(oracle.iter().map(|(&t, &v)| (t, v))));
            }
        }
    }

    proptest! {
        #[test]
        fn made_at_once_it_is_the_same(entries in entries(), units in 0..1usize << 20) {
            let (start, end) = (*entries.keys().next().unwrap(), *entries.keys().next_back().unwrap() + 1);
            let mut index = TimeIndex::with_few(start, end, units, entries.len());
            entries.keys().for_each(|&time| index.mark(time));
            index.lay_out();
            entries.iter().rev().for_each(|(&time, &value)| index.fill(time, value));
            prop_assert_eq!(index.iter().collect::<Vec<_>>(), entries.iter().map(|(&t, &v)| (t, v)).collect::<Vec<_>>());
            for &time in entries.keys() {
                prop_assert_eq!(index.floor(time + 1).map(|(t, _)| t), entries.range(..=time + 1).next_back().map(|(&t, _)| t));
            }
            for (&time, &value) in &entries {
                prop_assert_eq!(index.remove(time), Some(value));
            }
            prop_assert_eq!(index.iter().count(), 0);
        }
    }

    proptest! {
        #[test]
        fn a_run_is_what_its_entries_are_one_by_one(
            before in prop::collection::vec((times(), any::<u32>()), 0..20),
            gap in 1..200u64,
            value in 0..u32::MAX / 2,
            len in 1..400u32,
        ) {
            let (mut index, mut oracle) = (TimeIndex::default(), BTreeMap::new());
            for (time, value) in before {
                index.insert(time, value);
                oracle.insert(time, value);
            }
            let start = oracle.keys().next_back().map_or(0, |last| last + gap);
            index.insert_run(start, value, len);
            oracle.extend((start..).zip(value..value + len));
            prop_assert!(index.iter().eq(oracle.iter().map(|(&time, &value)| (time, value))));
            prop_assert_eq!(index.get(start + u64::from(len) / 2), Some(value + len / 2));
            let last = start + u64::from(len) - 1;
            prop_assert_eq!(index.floor(last + 1000), Some((last, value + len - 1)));
            prop_assert_eq!(index.ceiling(start), Some(start));
            prop_assert_eq!(index.ceiling(last), Some(last));
            index.insert_run(last + gap, value, len);
            oracle.extend((last + gap..).zip(value..value + len));
            prop_assert!(index.iter().eq(oracle.iter().map(|(&time, &value)| (time, value))));
            prop_assert_eq!(index.floor(last + gap - 1).map(|(time, _)| time), Some(last));
            prop_assert_eq!(index.remove(last), Some(value + len - 1));
            prop_assert_eq!(index.remove(last), None);
        }
    }

    #[test]
    fn times_far_apart_take_no_pages_between_them() {
        let mut index = TimeIndex::default();
        for i in 0..1000u64 {
            index.insert(i << 40, i as u32);
        }
        let pages = index.pages.as_ref().unwrap().window.len();
        assert!(pages <= PAGES_FREE, "{pages} pages");
        assert_eq!(index.floor((7 << 40) + 5), Some((7 << 40, 7)));
    }
}
