//! Many times: a bitmap of those in use, with a value for each.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::{
    UNITS_PER_PAGE,
    page::{Blocks, NIL, PAGE_BITS, PAGE_MASK, Page},
};

/// How many pages the window may hold for each page that has an entry, in units; and without any reason at all.
const UNITS_PER_ENTRY: usize = 4 * UNITS_PER_PAGE;
pub(super) const PAGES_FREE: usize = 64;

/// How many pages a window has room for when it is more than one.
const WINDOW_HEAP_MIN: usize = 8;

/// So many times from one on, page by page: the page, the first bit in it, and how many.
fn pages(time: u64, len: u32) -> impl Iterator<Item = (u64, u32, u32)> {
    let (mut time, mut left) = (time, len);
    std::iter::from_fn(move || {
        let bit = (time & PAGE_MASK) as u32;
        let (key, len) = (time >> PAGE_BITS, left.min((1 << PAGE_BITS) - bit));
        (time, left) = (time + u64::from(len), left - len);
        (len > 0).then_some((key, bit, len))
    })
}

/// A map from times to `u32`.
///
/// A window of pages without gaps serves the close ones: finding an entry costs a shift, a mask and a count of bits.
/// Times that lie too far away for the window go to a tree. So memory follows the number of entries (and the
/// length of content that the caller says they carry), whatever times a peer makes up.
#[derive(Debug, Clone, Default)]
pub(super) struct Dense {
    /// Which page the window starts with.
    base: u64,
    /// In place while it is one page: of many sessions, most made a thing or two.
    pub(super) window: SmallVec<[Page; 1]>,
    /// A bit per page of the window: whether it has entries.
    filled: SmallVec<[u64; 1]>,
    /// Pages outside of the window.
    far: BTreeMap<u64, Page>,
    /// For how many units of content the window may have pages.
    allowance: usize,
    pub(super) blocks: Blocks,
}

impl Dense {
    /// Lets the window grow over `units` of content, which cost memory of their own.
    pub(super) fn allow(&mut self, units: usize) {
        self.allowance += units;
    }

    /// An index for times from `start` to before `end`, with `units` of content in all. Times are [marked](Self::mark),
    /// all of them, then given their [values](Self::fill).
    pub(super) fn with_range(start: u64, end: u64, units: usize) -> Self {
        let mut index = Self { base: start >> PAGE_BITS, allowance: units, ..Self::default() };
        let pages = (end.saturating_sub(1) >> PAGE_BITS) + 1 - index.base;
        let allowed = (units / UNITS_PER_PAGE + PAGES_FREE) as u64;
        index.window = SmallVec::from_elem(Page::default(), pages.min(allowed) as usize);
        index.filled = SmallVec::from_elem(0, index.window.len().div_ceil(64));
        index
    }

    /// Enters a time without its value.
    #[inline]
    pub(super) fn mark(&mut self, time: u64) {
        let (key, bit) = (time >> PAGE_BITS, (time & PAGE_MASK) as u32);
        match self.slot(key).and_then(|slot| self.window.get_mut(slot)) {
            Some(page) => page.bits |= 1 << bit,
            None => {
                self.far.entry(key).or_default().insert(bit, NIL, &mut self.blocks);
            }
        }
    }

    /// Enters so many times from one on, without their values.
    pub(super) fn mark_run(&mut self, time: u64, len: u32) {
        for (key, bit, len) in pages(time, len) {
            let bits = u64::MAX >> (64 - len) << bit;
            match self.slot(key).and_then(|slot| self.window.get_mut(slot)) {
                Some(page) => page.bits |= bits,
                None => {
                    let page = self.far.entry(key).or_default();
                    (bit..bit + len).for_each(|bit| _ = page.insert(bit, NIL, &mut self.blocks));
                }
            }
        }
    }

    /// How many different times were marked.
    pub(super) fn marked(&self) -> usize {
        self.window.iter().chain(self.far.values()).map(|page| page.bits.count_ones() as usize).sum()
    }

    /// Makes room for the values of what was marked.
    pub(super) fn lay_out(&mut self) {
        let mut len = self.blocks.values.len();
        for (slot, page) in self.window.iter_mut().enumerate().filter(|(_, page)| page.bits != 0) {
            self.filled[slot >> 6] |= 1 << (slot & 63);
            self.allowance += UNITS_PER_ENTRY;
            page.class = page.bits.count_ones().next_power_of_two().trailing_zeros() as u8;
            if page.class > 0 {
                page.start = len as u32;
                len += 1 << page.class;
            }
        }
        self.blocks.values.resize(len, NIL);
    }

    /// Gives a marked time its value.
    #[inline]
    pub(super) fn fill(&mut self, time: u64, value: u32) {
        let (key, bit) = (time >> PAGE_BITS, (time & PAGE_MASK) as u32);
        let page = match self.slot(key) {
            Some(slot) if slot < self.window.len() => &mut self.window[slot],
            _ => self.far.entry(key).or_default(),
        };
        let rank = page.rank(bit);
        page.set(rank, value, &mut self.blocks);
    }

    /// Gives so many marked times from one on values that follow each other.
    pub(super) fn fill_run(&mut self, time: u64, value: u32, len: u32) {
        let mut value = value;
        for (key, bit, len) in pages(time, len) {
            let page = match self.slot(key) {
                Some(slot) if slot < self.window.len() => &mut self.window[slot],
                _ => self.far.entry(key).or_default(),
            };
            let rank = page.rank(bit);
            if page.class > 0 {
                let start = page.start as usize + rank;
                let values = &mut self.blocks.values[start..start + len as usize];
                values.iter_mut().zip(value..).for_each(|(place, value)| *place = value);
            } else {
                (0..len).for_each(|at| page.set(rank + at as usize, value + at, &mut self.blocks));
            }
            value += len;
        }
    }

    /// Puts a value at a time, in place of one that was there. Tells whether none was.
    pub(super) fn insert(&mut self, time: u64, value: u32) -> bool {
        let (key, bit) = (time >> PAGE_BITS, (time & PAGE_MASK) as u32);
        if let Some(slot) = self.slot(key)
            && slot < self.window.len()
        {
            return self.insert_at(slot, bit, value);
        }
        if self.window.is_empty() {
            self.base = key;
        }
        if let Some(slot) = self.slot(key)
            && slot < self.allowance / UNITS_PER_PAGE + PAGES_FREE
            && !self.far.contains_key(&key)
        {
            while self.window.len() <= slot {
                let page = if self.far.is_empty() {
                    Page::default()
                } else {
                    self.far.remove(&(self.base + self.window.len() as u64)).unwrap_or_default()
                };
                self.push(page);
            }
            return self.insert_at(slot, bit, value);
        }
        self.far.entry(key).or_default().insert(bit, value, &mut self.blocks)
    }

    /// Puts consecutive values at as many times that have none, nor has any behind them.
    pub(super) fn insert_run(&mut self, time: u64, value: u32, len: u32) {
        let mut done = 0;
        while done < len {
            done += self.push_pages(time + u64::from(done), value + done, len - done);
            if done == len {
                return;
            }
            let (at, first) = (time + u64::from(done), value + done);
            self.insert(at, first);
            done += 1;
            // What else goes to the page, if it is alone there.
            let more = (PAGE_MASK - (at & PAGE_MASK)).min(u64::from(len - done)) as u32;
            if more > 0
                && let Some(page) = self.slot(at >> PAGE_BITS).and_then(|slot| self.window.get_mut(slot))
                && page.take_run(more)
            {
                done += more;
            }
        }
    }

    /// Puts such values behind the window, as many as fill whole pages that may stand there. Tells how many.
    fn push_pages(&mut self, time: u64, value: u32, len: u32) -> u32 {
        let (slot, pages) = (self.window.len(), len >> PAGE_BITS);
        let allowed = self.allowance / UNITS_PER_PAGE + PAGES_FREE;
        let is_behind = slot > 0 && time & PAGE_MASK == 0 && self.slot(time >> PAGE_BITS) == Some(slot);
        // Each page that is full makes room for more than the next one.
        if !is_behind || pages == 0 || slot >= allowed || !self.far.is_empty() {
            return 0;
        }
        self.window.reserve(pages as usize);
        self.window.extend((0..pages).map(|page| Page::full(value + (page << PAGE_BITS))));
        self.filled.resize(self.window.len().div_ceil(64), 0);
        (slot..self.window.len()).for_each(|slot| self.filled[slot >> 6] |= 1 << (slot & 63));
        self.allowance += pages as usize * UNITS_PER_ENTRY;
        pages << PAGE_BITS
    }

    /// The value at a time.
    pub(super) fn get(&self, time: u64) -> Option<u32> {
        let (key, bit) = (time >> PAGE_BITS, (time & PAGE_MASK) as u32);
        match self.slot(key).and_then(|slot| self.window.get(slot)) {
            Some(page) => page.get(bit, &self.blocks),
            None => self.far.get(&key)?.get(bit, &self.blocks),
        }
    }

    /// The last entry at or before a time.
    pub(super) fn floor(&self, time: u64) -> Option<(u64, u32)> {
        let near = self.floor_near(time);
        if self.far.is_empty() {
            return near;
        }
        let key = time >> PAGE_BITS;
        let far = self.far.range(..=key).next_back().and_then(|(&at, page)| {
            let bit = if at == key { (time & PAGE_MASK) as u32 } else { PAGE_MASK as u32 };
            // A page in the tree may lack entries before the bit; the one before it has some.
            match page.floor(bit, &self.blocks) {
                Some((bit, value)) => Some((at << PAGE_BITS | u64::from(bit), value)),
                None => self.far.range(..at).next_back().and_then(|(&at, page)| {
                    page.floor(PAGE_MASK as u32, &self.blocks)
                        .map(|(bit, value)| (at << PAGE_BITS | u64::from(bit), value))
                }),
            }
        });
        near.max(far)
    }

    fn floor_near(&self, time: u64) -> Option<(u64, u32)> {
        let key = time >> PAGE_BITS;
        let mut slot = self.slot(key)?;
        if let Some(page) = self.window.get(slot) {
            if let Some((bit, value)) = page.floor((time & PAGE_MASK) as u32, &self.blocks) {
                return Some((key << PAGE_BITS | u64::from(bit), value));
            }
        } else {
            slot = self.window.len();
        }
        // The nearest filled page before this one.
        let slot = slot.checked_sub(1)?;
        let mut word = slot >> 6;
        let mut bits = self.filled[word] & (u64::MAX >> (63 - (slot & 63)));
        while bits == 0 {
            word = word.checked_sub(1)?;
            bits = self.filled[word];
        }
        let slot = (word << 6) + 63 - bits.leading_zeros() as usize;
        let (bit, value) = self.window[slot].floor(PAGE_MASK as u32, &self.blocks)?;
        Some(((self.base + slot as u64) << PAGE_BITS | u64::from(bit), value))
    }

    /// The first time at or after a time that has an entry.
    pub(super) fn ceiling(&self, time: u64) -> Option<u64> {
        let near = self.ceiling_near(time);
        if self.far.is_empty() {
            return near;
        }
        let key = time >> PAGE_BITS;
        let far = self.far.range(key..).find_map(|(&at, page)| {
            let from = if at == key { time & PAGE_MASK } else { 0 };
            page.ceiling(from).map(|bit| at << PAGE_BITS | bit)
        });
        [near, far].into_iter().flatten().min()
    }

    fn ceiling_near(&self, time: u64) -> Option<u64> {
        let key = time >> PAGE_BITS;
        let start = usize::try_from(key.saturating_sub(self.base)).unwrap_or(usize::MAX);
        let page = self.window.get(start)?;
        let from = if key >= self.base { time & PAGE_MASK } else { 0 };
        if let Some(bit) = page.ceiling(from) {
            return Some((self.base + start as u64) << PAGE_BITS | bit);
        }
        // The nearest filled page behind this one.
        let slot = start + 1;
        let mut word = slot >> 6;
        let mut bits = self.filled.get(word)? & (u64::MAX << (slot & 63));
        while bits == 0 {
            word += 1;
            bits = *self.filled.get(word)?;
        }
        let slot = (word << 6) + bits.trailing_zeros() as usize;
        let bit = self.window[slot].ceiling(0)?;
        Some((self.base + slot as u64) << PAGE_BITS | bit)
    }

    /// Takes the entry at a time out.
    pub(super) fn remove(&mut self, time: u64) -> Option<u32> {
        let (key, bit) = (time >> PAGE_BITS, (time & PAGE_MASK) as u32);
        if let Some(slot) = self.slot(key)
            && let Some(page) = self.window.get_mut(slot)
        {
            let value = page.remove(bit, &mut self.blocks)?;
            if page.bits == 0 {
                self.filled[slot >> 6] &= !(1 << (slot & 63));
                self.allowance = self.allowance.saturating_sub(UNITS_PER_ENTRY);
            }
            return Some(value);
        }
        let page = self.far.get_mut(&key)?;
        let value = page.remove(bit, &mut self.blocks)?;
        if page.bits == 0 {
            self.far.remove(&key);
        }
        Some(value)
    }

    /// Moves an entry to a time at which there is none, when no other entry lies between the two.
    pub(super) fn shift(&mut self, from: u64, to: u64, value: u32) {
        if from >> PAGE_BITS == to >> PAGE_BITS
            && let Some(slot) = self.slot(from >> PAGE_BITS)
            && let Some(page) = self.window.get_mut(slot)
        {
            let rank = page.rank((from & PAGE_MASK) as u32);
            page.bits ^= 1 << (from & PAGE_MASK) | 1 << (to & PAGE_MASK);
            page.set(rank, value, &mut self.blocks);
        } else {
            self.remove(from);
            self.insert(to, value);
        }
    }

    /// All entries in the order of time.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        let end = self.base + self.window.len() as u64;
        let near = self.window.iter().enumerate().map(|(slot, page)| (self.base + slot as u64, page));
        let before = self.far.range(..self.base).map(|(&key, page)| (key, page));
        let after = self.far.range(end..).map(|(&key, page)| (key, page));
        before.chain(near).chain(after).flat_map(move |(key, page)| {
            let mut bits = page.bits;
            (0..bits.count_ones() as usize).map(move |rank| {
                let bit = bits.trailing_zeros();
                bits &= bits - 1;
                (key << PAGE_BITS | u64::from(bit), page.value(rank, &self.blocks))
            })
        })
    }

    /// Bytes that it takes beside itself, roughly.
    pub(super) fn size_bytes(&self) -> usize {
        let window = if self.window.spilled() { self.window.capacity() * size_of::<Page>() } else { 0 };
        let filled = if self.filled.spilled() { self.filled.capacity() * 8 } else { 0 };
        window + filled + self.blocks.values.capacity() * 4 + self.far.len() * (size_of::<Page>() + 8)
    }

    fn slot(&self, key: u64) -> Option<usize> {
        key.checked_sub(self.base).and_then(|slot| usize::try_from(slot).ok())
    }

    fn push(&mut self, page: Page) {
        let slot = self.window.len();
        if slot & 63 == 0 {
            self.filled.push(0);
        }
        if page.bits != 0 {
            self.filled[slot >> 6] |= 1 << (slot & 63);
            self.allowance += UNITS_PER_ENTRY;
        }
        if slot == 1 {
            // It goes on the heap now, where one page more at a time would be three moves for the first eight.
            self.window.reserve_exact(WINDOW_HEAP_MIN - 1);
        }
        self.window.push(page);
    }

    #[inline]
    fn insert_at(&mut self, slot: usize, bit: u32, value: u32) -> bool {
        let page = &mut self.window[slot];
        if page.bits == 0 {
            self.filled[slot >> 6] |= 1 << (slot & 63);
            self.allowance += UNITS_PER_ENTRY;
        }
        page.insert(bit, value, &mut self.blocks)
    }
}
