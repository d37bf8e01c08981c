//! Where the contents of sequences lie: ASCII text and bytes, other text, and the nodes of arrays, an arena for each.
//!
//! New content is appended, so a chunk is a range. Text that is not ASCII lies as UTF-16, so a position in a chunk is a
//! place in the arena, whatever the text. Deleted content is counted, and moved out when it becomes most of an arena.

use std::ops::Range;

use smallvec::SmallVec;

use super::sequence::{Chunk, Span};
use crate::text::Wtf8;

/// How many chunks can be typed on at the same time without their content being moved or cut up.
const REGIONS_MAX: usize = 16;
/// A chunk up to this long moves when it is typed on and there is no room behind it; a longer one goes on elsewhere.
const MOVE_MAX: u32 = 64;
/// Room that a chunk gets when it goes on elsewhere.
const ROOM: usize = 256;
/// Deleted items that are not worth moving the others for.
const DEAD_FREE: usize = 16 * 1024;

/// Room behind a chunk that does not stand at the end of the arena.
#[derive(Debug, Clone, Copy)]
struct Region {
    next: u32,
    end: u32,
}

/// An append-only list of items that chunks are ranges of.
///
/// Places in it are 32 bits wide. They fit: what is put in is at most [`SPAN_MAX`](super::sequence::SPAN_MAX) items, dead ones
/// included; a chunk is joined, and so moved, only by the id that goes on from its last one, which is once in a patch; and
/// after each patch what is dead is at most half.
#[derive(Debug, Clone, Default)]
pub(super) struct Arena<T> {
    items: Vec<T>,
    /// How many items no chunk has any more.
    dead: usize,
    regions: SmallVec<[Region; 1]>,
}

/// Where appended content went.
pub(super) struct Appended {
    pub(super) offset: u32,
    /// Where the content of the chunk it belongs to has been moved.
    pub(super) moved: Option<u32>,
}

impl<T: Copy + Default> Arena<T> {
    /// Appends items; right behind those of a chunk (`offset`, `len`) where that can be done.
    pub(super) fn append(&mut self, behind: Option<(u32, u32)>, more: &[T]) -> Appended {
        let end = self.items.len() as u32;
        let Some((offset, len)) = behind.filter(|(offset, len)| offset + len != end) else {
            self.push(more);
            return Appended { offset: end, moved: None };
        };
        let (next, need) = (offset + len, more.len() as u32);
        if self.follow(next, more) {
            return Appended { offset: next, moved: None };
        }
        if len <= MOVE_MAX {
            self.items.extend_from_within(offset as usize..next as usize);
            self.items.extend_from_slice(more);
            self.dead += len as usize;
            self.open_region((len + need) as usize);
            return Appended { offset: end + len, moved: Some(end) };
        }
        self.items.extend_from_slice(more);
        self.open_region(ROOM);
        Appended { offset: end, moved: None }
    }

    /// Where items go that are appended behind nothing.
    #[inline]
    pub(super) const fn tail(&self) -> u32 {
        self.items.len() as u32
    }

    /// Appends items at the end.
    #[inline]
    pub(super) fn push(&mut self, more: &[T]) {
        if let [one] = more {
            self.items.push(*one);
        } else {
            self.items.extend_from_slice(more);
        }
    }

    /// Appends items at the end that are made as they are put there.
    #[inline]
    fn extend(&mut self, more: impl Iterator<Item = T>) {
        self.items.extend(more);
    }

    /// Appends the first `len` items of a block: as a whole, and what is too much is cut off.
    #[inline]
    pub(super) fn push_block<const N: usize>(&mut self, block: &[T; N], len: usize) {
        let end = self.items.len() + len;
        self.items.extend_from_slice(block);
        self.items.truncate(end);
    }

    /// The items from an offset on, of which the first ones belong to the chunk there.
    #[inline]
    pub(super) fn ahead(&self, offset: u32) -> &[T] {
        self.items.get(offset as usize..).unwrap_or_default()
    }

    /// Appends items right behind those that end at `end`, if there is room.
    #[inline(always)]
    pub(super) fn follow(&mut self, end: u32, more: &[T]) -> bool {
        if end == self.tail() {
            self.push(more);
            return true;
        }
        let need = more.len() as u32;
        let Some(region) = self.regions.iter_mut().find(|r| r.next == end && r.end - r.next >= need) else {
            return false;
        };
        region.next += need;
        match (more, &mut self.items[end as usize..(end + need) as usize]) {
            ([one], [place]) => *place = *one,
            (more, place) => place.copy_from_slice(more),
        }
        true
    }

    /// Leaves room at the end for a chunk that stands there.
    fn open_region(&mut self, room: usize) {
        let next = self.items.len();
        self.items.resize(next + room, T::default());
        if self.regions.len() == REGIONS_MAX {
            let oldest = self.regions.remove(0);
            self.dead += (oldest.end - oldest.next) as usize;
        }
        self.regions.push(Region { next: next as u32, end: (next + room) as u32 });
    }

    /// Notes that a range is not used any more.
    pub(super) fn kill(&mut self, offset: u32, len: u32) {
        if (offset + len) as usize == self.items.len() {
            self.items.truncate(offset as usize);
            if self.regions.is_empty() {
                return;
            }
            self.regions.retain(|region| region.end <= offset);
        } else if let Some(region) = self.regions.iter_mut().find(|region| region.next == offset + len) {
            region.next = offset;
        } else {
            self.dead += len as usize;
        }
    }

    pub(super) fn get(&self, offset: u32, len: u32) -> &[T] {
        &self.items[offset as usize..(offset + len) as usize]
    }

    pub(super) fn set(&mut self, offset: u32, item: T) {
        self.items[offset as usize] = item;
    }

    pub(super) fn reserve(&mut self, more: usize) {
        self.items.reserve(more);
    }

    /// Gives back room that growing left over, but for some: a text that is loaded to be edited would have to be moved as a
    /// whole with the first letter.
    pub(super) fn fit(&mut self) {
        self.items.shrink_to(self.items.len() + self.items.len() / 16 + 32);
    }

    /// Whether each item belongs to one of the chunks that are given, to the room behind one, or is dead.
    pub(super) fn check(&self, mut chunks: Vec<(u32, u32)>) -> Result<(), String> {
        chunks.extend(self.regions.iter().map(|region| (region.next, region.end - region.next)));
        chunks.retain(|&(_, len)| len > 0);
        chunks.sort_unstable();
        let mut end = 0;
        for &(offset, len) in &chunks {
            if offset < end {
                return Err(format!("item {offset} is in two chunks"));
            }
            end = offset + len;
        }
        let live: usize = chunks.iter().map(|&(_, len)| len as usize).sum();
        if end as usize > self.items.len() || live + self.dead != self.items.len() {
            return Err(format!(
                "{live} items of chunks and {} dead ones of {}",
                self.dead,
                self.items.len()
            ));
        }
        Ok(())
    }

    /// Whether most items are dead.
    fn is_wasteful(&self) -> bool {
        self.dead > DEAD_FREE && self.dead > self.items.len() / 2
    }

    /// Bytes that the arena takes.
    fn size_bytes(&self) -> usize {
        self.items.capacity() * size_of::<T>()
    }
}

/// The contents of all sequences of a document.
#[derive(Debug, Clone, Default)]
pub(super) struct Contents {
    /// ASCII text and bytes.
    pub(super) narrow: Arena<u8>,
    /// Other text.
    pub(super) wide: Arena<u16>,
    /// What the slots of arrays hold.
    pub(super) slots: Arena<u32>,
}

/// Content that has been stored, as a chunk wants to have it.
pub(super) struct Stored {
    pub(super) span: Span,
    pub(super) offset: u32,
    pub(super) moved: Option<u32>,
}

impl Contents {
    /// Stores text that joins `left` if there is one.
    pub(super) fn store_text(&mut self, left: Option<Chunk>, text: Wtf8<'_>, units: u32) -> Stored {
        let range = |chunk: Chunk| (chunk.offset, chunk.span.len());
        let bytes = text.as_bytes();
        if units as usize == bytes.len() && !left.is_some_and(|left| left.span.is_wide()) {
            let Appended { offset, moved } = self.narrow.append(left.map(range), bytes);
            return Stored { span: Span::live(units), offset, moved };
        }
        let wide: SmallVec<[u16; 64]> = text.utf16().collect();
        let behind = left.filter(|left| left.span.is_wide()).map(range);
        let Appended { offset, moved } = self.wide.append(behind, &wide);
        Stored { span: Span::live(units).wide(true), offset, moved }
    }

    /// Stores text that is UTF-16 already.
    pub(super) fn store_units(&mut self, units: &[u16]) -> Stored {
        let len = units.len() as u32;
        if units.iter().all(|&unit| unit < 0x80) {
            let narrow: Vec<u8> = units.iter().map(|&unit| unit as u8).collect();
            let Appended { offset, moved } = self.narrow.append(None, &narrow);
            return Stored { span: Span::live(len), offset, moved };
        }
        let Appended { offset, moved } = self.wide.append(None, units);
        Stored { span: Span::live(len).wide(true), offset, moved }
    }

    /// Stores bytes.
    pub(super) fn store_bytes(&mut self, left: Option<Chunk>, bytes: &[u8]) -> Stored {
        let Appended { offset, moved } =
            self.narrow.append(left.map(|left| (left.offset, left.span.len())), bytes);
        Stored { span: Span::live(bytes.len() as u32), offset, moved }
    }

    /// Stores what slots hold.
    pub(super) fn store_slots(&mut self, left: Option<Chunk>, nodes: &[u32]) -> Stored {
        let Appended { offset, moved } =
            self.slots.append(left.map(|left| (left.offset, left.span.len())), nodes);
        Stored { span: Span::live(nodes.len() as u32), offset, moved }
    }

    /// Stores that slots hold nodes whose numbers follow each other.
    pub(super) fn store_slots_in_a_row(&mut self, left: Option<Chunk>, nodes: Range<u32>) -> Stored {
        let end = self.slots.tail();
        if left.is_none_or(|left| left.offset + left.span.len() == end) {
            let span = Span::live(nodes.len() as u32);
            self.slots.extend(nodes);
            return Stored { span, offset: end, moved: None };
        }
        let nodes: SmallVec<[u32; 8]> = nodes.collect();
        self.store_slots(left, &nodes)
    }

    /// Notes that the text or bytes of a chunk are gone.
    pub(super) fn kill_text(&mut self, span: Span, offset: u32) {
        if span.is_wide() {
            self.wide.kill(offset, span.len());
        } else {
            self.narrow.kill(offset, span.len());
        }
    }

    /// Gives back room that growing left over.
    pub(super) fn fit(&mut self) {
        self.narrow.fit();
        self.wide.fit();
        self.slots.fit();
    }

    /// Whether [`Self::take_over`] would free much.
    #[inline]
    pub(super) fn is_wasteful(&self) -> bool {
        self.narrow.is_wasteful() || self.wide.is_wasteful() || self.slots.is_wasteful()
    }

    /// Copies a chunk's content over from other contents. Tells where it lies here.
    pub(super) fn take_over(&mut self, from: &Self, chunk: Chunk, slots: bool) -> u32 {
        let (offset, len) = (chunk.offset, chunk.span.len());
        if slots {
            self.slots.append(None, from.slots.get(offset, len)).offset
        } else if chunk.span.is_wide() {
            self.wide.append(None, from.wide.get(offset, len)).offset
        } else {
            self.narrow.append(None, from.narrow.get(offset, len)).offset
        }
    }

    /// Bytes that all contents take.
    pub(super) fn size_bytes(&self) -> usize {
        self.narrow.size_bytes() + self.wide.size_bytes() + self.slots.size_bytes()
    }

    /// Appends the text of some live chunks. What lies side by side is copied at once: of a text that was loaded, all of it.
    pub(super) fn read_texts(&self, chunks: impl Iterator<Item = Chunk>, out: &mut TextOut<'_>) {
        let mut row = Row { is_wide: false, start: 0, end: 0 };
        for Chunk { span, offset, .. } in chunks {
            if row.end != offset || row.is_wide != span.is_wide() {
                self.read_row(row, out);
                row = Row { is_wide: span.is_wide(), start: offset, end: offset };
            }
            row.end += span.len();
        }
        self.read_row(row, out);
    }

    /// Appends the text of a live chunk.
    pub(super) fn read_text(&self, chunk: Chunk, out: &mut TextOut<'_>) {
        let (start, is_wide) = (chunk.offset, chunk.span.is_wide());
        self.read_row(Row { is_wide, start, end: start + chunk.span.len() }, out);
    }

    fn read_row(&self, Row { is_wide, start, end }: Row, out: &mut TextOut<'_>) {
        if start == end {
            return;
        }
        if is_wide {
            out.wide(self.wide.get(start, end - start));
        } else {
            out.narrow(self.narrow.get(start, end - start));
        }
    }
}

/// Text that lies side by side in an arena.
struct Row {
    is_wide: bool,
    start: u32,
    end: u32,
}

/// Puts pieces of text together as WTF-8: halves of a character that come to stand side by side become one.
pub(super) struct TextOut<'a> {
    out: &'a mut Vec<u8>,
    high: Option<u16>,
}

impl<'a> TextOut<'a> {
    pub(super) const fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, high: None }
    }

    fn narrow(&mut self, bytes: &[u8]) {
        self.flush();
        self.out.extend_from_slice(bytes);
    }

    fn wide(&mut self, units: &[u16]) {
        self.out.reserve(units.len() * 3);
        for &unit in units {
            match (self.high, unit) {
                (Some(high), 0xdc00..=0xdfff) => {
                    self.high = None;
                    self.point(0x1_0000 + ((u32::from(high) & 0x3ff) << 10 | u32::from(unit) & 0x3ff));
                }
                (_, 0xd800..=0xdbff) => {
                    self.flush();
                    self.high = Some(unit);
                }
                _ => {
                    self.flush();
                    self.point(u32::from(unit));
                }
            }
        }
    }

    /// Writes a high surrogate that was left alone.
    pub(super) fn flush(&mut self) {
        if let Some(high) = self.high.take() {
            self.point(u32::from(high));
        }
    }

    fn point(&mut self, point: u32) {
        let low = |shift: u32| 0x80 | (point >> shift) as u8 & 0x3f;
        match point {
            0..0x80 => self.out.push(point as u8),
            0x80..0x800 => self.out.extend([0xc0 | (point >> 6) as u8, low(0)]),
            0x800..0x1_0000 => self.out.extend([0xe0 | (point >> 12) as u8, low(6), low(0)]),
            _ => self.out.extend([0xf0 | (point >> 18) as u8, low(12), low(6), low(0)]),
        }
    }
}

impl Drop for TextOut<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}
