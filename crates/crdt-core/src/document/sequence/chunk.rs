//! One chunk of a sequence: consecutive ids of one session that stand side by side.

/// An element's id inside the engine: the session by its place in the document's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::document) struct Id {
    pub(in crate::document) time: u64,
    pub(in crate::document) session: u32,
}

impl Id {
    pub(in crate::document) const fn new(session: u32, time: u64) -> Self {
        Self { time, session }
    }

    pub(in crate::document) const fn tick(self, ticks: u64) -> Self {
        Self { time: self.time + ticks, session: self.session }
    }
}

/// The most elements that a sequence can hold, tombstones included. An operation that would exceed it is refused.
pub(in crate::document) const SPAN_MAX: u32 = (1 << 29) - 1;

/// How many elements, and in the high bits what state they are in: as it stands in a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::document) struct Span(u32);

impl Span {
    const DEAD: u32 = 1 << 31;
    const SOFT: u32 = 1 << 30;
    const WIDE: u32 = 1 << 29;

    pub(in crate::document) const fn live(units: u32) -> Self {
        Self(units)
    }

    pub(in crate::document) const fn dead(units: u32) -> Self {
        Self(units | Self::DEAD)
    }

    /// How many elements.
    pub(in crate::document) const fn len(self) -> u32 {
        self.0 & SPAN_MAX
    }

    /// How many elements that can be seen.
    pub(in crate::document) const fn weight(self) -> u32 {
        if self.0 & Self::DEAD == 0 { self.len() } else { 0 }
    }

    pub(in crate::document) const fn is_dead(self) -> bool {
        self.0 & Self::DEAD != 0
    }

    /// Whether a live chunk goes on where its left neighbour ends: the two are one chunk to the outside, and two
    /// here because their content lies in two places.
    pub(in crate::document) const fn is_soft(self) -> bool {
        self.0 & Self::SOFT != 0
    }

    /// Whether the content is UTF-16 in the wide arena.
    pub(in crate::document) const fn is_wide(self) -> bool {
        self.0 & Self::WIDE != 0
    }

    pub(in crate::document) const fn soft(self, soft: bool) -> Self {
        Self(if soft { self.0 | Self::SOFT } else { self.0 & !Self::SOFT })
    }

    pub(in crate::document) const fn wide(self, wide: bool) -> Self {
        Self(if wide { self.0 | Self::WIDE } else { self.0 & !Self::WIDE })
    }

    /// The same state with another number of elements.
    pub(in crate::document) const fn with_len(self, units: u32) -> Self {
        Self(self.0 & !SPAN_MAX | units)
    }
}

/// Consecutive ids of one session that stand side by side in the same state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::document) struct Chunk {
    /// The first id's time.
    pub(in crate::document) time: u64,
    pub(in crate::document) session: u32,
    pub(in crate::document) span: Span,
    /// Where the content of a live chunk lies in its arena.
    pub(in crate::document) offset: u32,
}

impl Chunk {
    pub(in crate::document) const fn id(&self) -> Id {
        Id::new(self.session, self.time)
    }

    /// The time after the last one.
    pub(in crate::document) const fn end(&self) -> u64 {
        self.time + self.span.len() as u64
    }

    pub(in crate::document) const fn holds(&self, id: Id) -> bool {
        self.session == id.session && self.time <= id.time && id.time < self.end()
    }

    /// Whether the next chunk has the ids that follow.
    pub(in crate::document) const fn precedes(&self, next: &Self) -> bool {
        self.session == next.session && self.end() == next.time
    }

    /// Whether this chunk and the next one are pieces of what is one chunk to the outside.
    #[inline]
    pub(in crate::document) const fn goes_on_in(&self, next: &Self) -> bool {
        next.span.is_soft() && !next.span.is_dead() && !self.span.is_dead() && self.precedes(next)
    }

    /// Whether two neighbours are tombstones to be joined.
    pub(in crate::document) const fn joins(&self, next: &Self) -> bool {
        self.span.is_dead() && next.span.is_dead() && self.precedes(next)
    }

    /// The first `len` elements and the others.
    pub(in crate::document) const fn split(&self, len: u32) -> (Self, Self) {
        let left = Self { span: self.span.with_len(len), ..*self };
        let right = Self {
            time: self.time + len as u64,
            session: self.session,
            span: self.span.with_len(self.span.len() - len).soft(false),
            offset: if self.span.is_dead() { 0 } else { self.offset + len },
        };
        (left, right)
    }
}
