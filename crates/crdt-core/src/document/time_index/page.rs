//! A page of the index: 64 times and their values.

/// Times per page: one bit each.
pub(super) const PAGE_BITS: u32 = 6;
pub(super) const PAGE_MASK: u64 = (1 << PAGE_BITS) - 1;

/// The entries whose times share all but the low bits: a bit for each. The values stand in the order of the bits in a
/// block of [`Blocks`], which has room for `1 << class` of them. In class 0 there is no block: the first value stands in
/// the page itself, and each of the others is `step` above the one before, as those of nodes made one after the other
/// are.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Page {
    pub(super) bits: u64,
    /// Where the block starts; in class 0 the first value.
    pub(super) start: u32,
    pub(super) class: u8,
    /// 0 or 1, in class 0.
    step: u8,
}

/// No block.
pub(super) const NIL: u32 = u32::MAX;

/// Blocks of values, in sizes of powers of two. Given back, they are used again: a list of the free ones of each size
/// runs through the blocks themselves.
#[derive(Debug, Clone)]
pub(super) struct Blocks {
    pub(super) values: Vec<u32>,
    free: [u32; PAGE_BITS as usize + 1],
}

impl Default for Blocks {
    fn default() -> Self {
        Self { values: Vec::new(), free: [NIL; PAGE_BITS as usize + 1] }
    }
}

impl Blocks {
    pub(super) fn take(&mut self, class: u8) -> u32 {
        let head = &mut self.free[usize::from(class)];
        if *head != NIL {
            let start = *head;
            *head = self.values[start as usize];
            return start;
        }
        let start = self.values.len();
        self.values.resize(start + (1 << class), NIL);
        start as u32
    }

    pub(super) fn give_back(&mut self, start: u32, class: u8) {
        self.values[start as usize] = std::mem::replace(&mut self.free[usize::from(class)], start);
    }
}

impl Page {
    /// One that has all of its times, with values that follow each other.
    pub(super) const fn full(start: u32) -> Self {
        Self { bits: u64::MAX, start, class: 0, step: 1 }
    }

    /// The place of a time's value: as many entries as stand before it.
    #[inline]
    pub(super) fn rank(&self, bit: u32) -> usize {
        (self.bits & ((1 << bit) - 1)).count_ones() as usize
    }

    #[inline]
    pub(super) fn value(&self, rank: usize, blocks: &Blocks) -> u32 {
        if self.class == 0 { self.run(rank) } else { blocks.values[self.start as usize + rank] }
    }

    /// The value in class 0.
    #[inline]
    pub(super) const fn run(&self, rank: usize) -> u32 {
        self.start.wrapping_add(rank as u32 * self.step as u32)
    }

    #[inline]
    pub(super) fn set(&mut self, rank: usize, value: u32, blocks: &mut Blocks) {
        if self.class == 0 {
            if self.bits.count_ones() <= 1 {
                self.start = value;
                return;
            }
            if self.run(rank) == value {
                return;
            }
            self.spread(self.bits.count_ones() as usize, blocks);
        }
        blocks.values[self.start as usize + rank] = value;
    }

    /// Gives the values of class 0 a block with room for so many.
    pub(super) fn spread(&mut self, room: usize, blocks: &mut Blocks) {
        let run = *self;
        self.class = room.next_power_of_two().trailing_zeros() as u8;
        self.start = blocks.take(self.class);
        let block = &mut blocks.values[self.start as usize..][..self.bits.count_ones() as usize];
        for (rank, value) in block.iter_mut().enumerate() {
            *value = run.run(rank);
        }
    }

    /// Whether `value` can be the one with a rank without a block.
    #[inline]
    pub(super) const fn joins(&mut self, rank: usize, len: usize, value: u32) -> bool {
        let above = value.wrapping_sub(self.start);
        if len == 1 {
            self.step = above as u8 & 1;
            return above == 0 || above == 1 && rank == 1;
        }
        match self.step {
            0 => above == 0,
            _ => rank == len && above as usize == len,
        }
    }

    /// Puts so many values behind the only one, each one more than the one before. Not if there are others.
    pub(super) const fn take_run(&mut self, more: u32) -> bool {
        if self.class > 0 || !self.bits.is_power_of_two() {
            return false;
        }
        // As many ones in a row as there are values then.
        self.bits |= ((self.bits << more) - self.bits) << 1;
        self.step = 1;
        true
    }

    #[inline]
    pub(super) fn get(&self, bit: u32, blocks: &Blocks) -> Option<u32> {
        (self.bits >> bit & 1 == 1).then(|| self.value(self.rank(bit), blocks))
    }

    /// Whether there was nothing.
    #[inline]
    pub(super) fn insert(&mut self, bit: u32, value: u32, blocks: &mut Blocks) -> bool {
        if self.bits == 0 {
            *self = Self { bits: 1 << bit, start: value, class: 0, step: 0 };
            return true;
        }
        let rank = self.rank(bit);
        if self.bits >> bit & 1 == 1 {
            self.set(rank, value, blocks);
            return false;
        }
        let len = self.bits.count_ones() as usize;
        if self.class == 0 {
            if self.joins(rank, len, value) {
                self.bits |= 1 << bit;
                return true;
            }
            self.spread(len + 1, blocks);
        } else if len == 1 << self.class {
            let (from, class) = (self.start, self.class);
            self.class += 1;
            self.start = blocks.take(self.class);
            blocks.values.copy_within(from as usize..from as usize + len, self.start as usize);
            blocks.give_back(from, class);
        }
        self.bits |= 1 << bit;
        let start = self.start as usize;
        if rank < len {
            blocks.values.copy_within(start + rank..start + len, start + rank + 1);
        }
        blocks.values[start + rank] = value;
        true
    }

    pub(super) fn remove(&mut self, bit: u32, blocks: &mut Blocks) -> Option<u32> {
        if self.bits >> bit & 1 == 0 {
            return None;
        }
        let (rank, len) = (self.rank(bit), self.bits.count_ones() as usize);
        let value = self.value(rank, blocks);
        if self.class == 0 {
            if self.step == 0 || rank == 0 || rank == len - 1 {
                self.start += u32::from(self.step) * u32::from(rank == 0);
                self.bits &= !(1 << bit);
                return Some(value);
            }
            self.spread(len, blocks);
        }
        self.bits &= !(1 << bit);
        let start = self.start as usize;
        blocks.values.copy_within(start + rank + 1..start + len, start + rank);
        if len == 2 {
            let (left, class) = (blocks.values[start], self.class);
            blocks.give_back(self.start, class);
            (self.start, self.class, self.step) = (left, 0, 0);
        }
        Some(value)
    }

    /// The first entry at or after a bit.
    #[inline]
    pub(super) const fn ceiling(&self, bit: u64) -> Option<u64> {
        let after = self.bits & (u64::MAX << bit);
        if after == 0 { None } else { Some(after.trailing_zeros() as u64) }
    }

    /// The last entry at or before a bit.
    #[inline]
    pub(super) fn floor(&self, bit: u32, blocks: &Blocks) -> Option<(u32, u32)> {
        let before = self.bits & (u64::MAX >> (63 - bit));
        if before == 0 {
            return None;
        }
        let found = 63 - before.leading_zeros();
        Some((found, self.value(before.count_ones() as usize - 1, blocks)))
    }
}
