//! How much memory a snapshot may ask for: what is packed can stand for far more than its bytes.
//!
//! A column stands for at most [64 times](super::frame::RATIO_MAX) its packed bytes, and a byte of a column for some two
//! hundred bytes of a document. Each is fair, their product is not. So what is small for what it holds is weighed before it
//! is read, without making anything of it; and what would be too heavy is not written so.

use super::{
    Col, Columns, NativeError, SnapshotKind, impossible,
    keys::KeyList,
    read::{Clock, Walk},
    runs::Run,
    sink::Sink,
};
use crate::{
    Timestamp,
    codec::RawValue,
    document::{Kind, LoadError, NativeId},
    text::Wtf8,
};

/// The most memory for each byte of a snapshot, about.
const PER_BYTE_MAX: u64 = 512;
/// Nobody minds so much memory.
const FREE: u64 = 1 << 20;
/// Columns that are no more than so many times as long as the snapshot are not weighed.
const RATIO_FAIR: usize = 2;

/// About the bytes that each takes in memory.
mod weight {
    pub(super) const NODE: u64 = 32;
    pub(super) const CONTAINER: u64 = 72;
    pub(super) const PLACE: u64 = 4;
    pub(super) const RUN: u64 = 32;
    pub(super) const SESSION: u64 = 160;
    pub(super) const KEY: u64 = 24;
    pub(super) const PATCH: u64 = 224;
    pub(super) const OP: u64 = 8;
}

/// What a snapshot may still ask for.
pub(super) struct Allowance {
    max: u64,
    left: u64,
}

impl Allowance {
    pub(super) fn of(len_bytes: usize) -> Self {
        let max = FREE + PER_BYTE_MAX * len_bytes as u64;
        Self { max, left: max }
    }

    fn take(&mut self, weight: u64) -> Result<(), LoadError> {
        let Some(left) = self.left.checked_sub(weight) else {
            let (what, value) = ("bytes of memory", (self.max - self.left).saturating_add(weight));
            return Err(LoadError::TooLarge { what, value, max: self.max });
        };
        self.left = left;
        Ok(())
    }

    /// Takes what a patch with so many operations asks for.
    pub(super) fn patch(&mut self, ops: u64) -> Result<(), LoadError> {
        self.take(ops.saturating_mul(weight::OP).saturating_add(weight::PATCH))
    }
}

/// Checks that the columns of a document ask for no more memory than their snapshot justifies.
pub(super) fn check(columns: &Columns<'_>) -> Result<(), NativeError> {
    if columns.len_unpacked() <= RATIO_FAIR * columns.len_bytes() {
        return Ok(());
    }
    let mut scale = Scale(Allowance::of(columns.len_bytes()));
    let end = |column: Col| impossible(column, columns.get(column as usize).len());
    let keys = KeyList::measure(columns)?;
    let (key_count, _) = keys;
    scale.keys(keys).map_err(end(Col::Keys))?;
    let clock = Clock::read(columns)?;
    scale.take(weight::SESSION * clock.sessions.len() as u64).map_err(end(Col::Clock))?;
    Walk::new(columns, &clock, key_count).run(&mut scale, |_| ())
}

/// Whether columns may be read when they have been written into so many bytes.
pub(super) fn is_fair(kind: SnapshotKind, columns: &[Vec<u8>], len_bytes: usize) -> bool {
    check(&Columns::unwritten(kind, &columns[..Col::COUNT], len_bytes)).is_ok()
}

/// Weighs what it is told of, and makes nothing of it.
struct Scale(Allowance);

impl Scale {
    fn take(&mut self, weight: u64) -> Result<(), LoadError> {
        self.0.take(weight)
    }

    fn keys(&mut self, (count, bytes): (usize, u64)) -> Result<(), LoadError> {
        self.take((weight::KEY * count as u64).saturating_add(bytes))
    }
}

impl Sink for Scale {
    fn con(&mut self, _: NativeId, _: RawValue<'_>) -> Result<(), LoadError> {
        self.take(weight::NODE)
    }

    fn con_id(&mut self, _: NativeId, _: Timestamp) -> Result<(), LoadError> {
        self.take(weight::NODE)
    }

    fn none(&mut self) -> Result<(), LoadError> {
        Ok(())
    }

    fn missing(&mut self, _: Timestamp) -> Result<(), LoadError> {
        self.take(weight::NODE)
    }

    fn again(&mut self, _: u64) -> Result<(), LoadError> {
        self.take(weight::PLACE)
    }

    fn open(&mut self, _: NativeId, kind: Kind, len: usize) -> Result<(), LoadError> {
        let places = if kind == Kind::Vec { weight::PLACE * len as u64 } else { 0 };
        self.take(weight::NODE + weight::CONTAINER + places)
    }

    fn key(&mut self, _: u32) {}

    fn close(&mut self) {}

    fn sequence(&mut self, _: NativeId, _: Kind) -> Result<(), LoadError> {
        self.take(weight::NODE + weight::CONTAINER)
    }

    fn begin_runs(&mut self, _: usize, _: bool) {}

    fn runs(&mut self, runs: &[Run]) -> Result<(), LoadError> {
        self.take(weight::RUN * runs.len() as u64)
    }

    fn end_runs(&mut self) -> Result<(), LoadError> {
        Ok(())
    }

    fn elements(&mut self, len: usize) -> Result<(), LoadError> {
        self.take(weight::PLACE * len as u64)
    }

    fn text(&mut self, _: Wtf8<'_>, units: u64) -> Result<(), LoadError> {
        self.take(units)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), LoadError> {
        self.take(bytes.len() as u64)
    }
}

#[cfg(all(test, feature = "deflate"))]
mod tests {
    use super::{
        super::{Packing, frame, write},
        *,
    };
    use crate::{Document, PatchBuilder, SessionId, Timespan, Value, codec::Log};

    fn session(number: u64) -> SessionId {
        SessionId::new(70_000 + number).unwrap()
    }

    fn document(edit: impl FnOnce(&mut PatchBuilder)) -> Document {
        let mut builder = PatchBuilder::new(session(0), 1);
        edit(&mut builder);
        let mut document = Document::new(session(1));
        let _ = document.apply(&builder.finish().unwrap()).unwrap();
        document
    }

    /// Documents that are small for what they hold, each in its own way.
    fn heavy() -> [(&'static str, Document); 4] {
        let tuples = document(|b| {
            let list = b.new_arr();
            b.ins_val(Timestamp::ORIGIN, list);
            let null = b.new_con(&Value::Null);
            let tuples: Vec<_> = (0..20_000)
                .map(|_| {
                    let tuple = b.new_vec();
                    b.ins_vec(tuple, [(255, null)]);
                    tuple
                })
                .collect();
            b.ins_arr(list, list, &tuples);
        });
        let texts = document(|b| {
            let list = b.new_arr();
            b.ins_val(Timestamp::ORIGIN, list);
            let texts: Vec<_> = (0..50_000).map(|_| b.new_str()).collect();
            b.ins_arr(list, list, &texts);
        });
        let keys = document(|b| {
            let map = b.new_obj();
            b.ins_val(Timestamp::ORIGIN, map);
            for n in 0..500 {
                let null = b.new_con(&Value::Null);
                b.ins_obj(map, [(format!("{}{n:06}", "k".repeat(60_000)).as_str(), null)]);
            }
        });
        let mut sessions = Document::new(session(1));
        for number in 2..30_000 {
            let mut b = PatchBuilder::new(session(number), 1);
            b.nop(1);
            let _ = sessions.apply(&b.finish().unwrap()).unwrap();
        }
        [("tuples", tuples), ("texts", texts), ("keys", keys), ("sessions", sessions)]
    }

    /// Packed as far as a reader lets a column be packed; blocks with nothing in them make up for what is too good.
    fn packed_hard(kind: SnapshotKind, columns: &[Vec<u8>]) -> Vec<u8> {
        const EMPTY_BLOCK: [u8; 5] = [0, 0, 0, 0xff, 0xff];
        frame::write_with(kind, columns, |column| {
            let packed = Packing::Deflate.pack(column)?;
            let missing = column.len().div_ceil(frame::RATIO_MAX).saturating_sub(packed.len());
            Some([EMPTY_BLOCK.repeat(missing.div_ceil(EMPTY_BLOCK.len())), packed].concat())
        })
    }

    #[test]
    fn what_asks_for_too_much_is_refused_and_never_written() {
        for (what, document) in heavy() {
            let packed = packed_hard(SnapshotKind::Logical, &write::columns(&document));
            let refused = Document::from_native(&packed, session(2)).err();
            assert!(
                matches!(refused, Some(NativeError::Impossible { source: LoadError::TooLarge { .. }, .. })),
                "{what}, {} bytes: {refused:?}",
                packed.len()
            );
            assert_eq!(Document::view_native(&packed).err(), refused);
            let written = document.to_native(Packing::Deflate);
            assert!(written.len() > packed.len());
            let read = Document::from_native(&written, session(2)).unwrap();
            assert!(read.to_native(Packing::Deflate) == written, "{what}");
        }
    }

    #[test]
    fn what_is_fair_is_packed() {
        let grid = document(|b| {
            let list = b.json(&Value::Array((0..5_000).map(|n| Value::Int(n * n % 97)).collect()));
            b.ins_val(Timestamp::ORIGIN, list);
        });
        let written = grid.to_native(Packing::Deflate);
        assert!(written.len() < grid.to_native(Packing::Plain).len());
        assert_eq!(Document::from_native(&written, session(2)).unwrap().view(), grid.view());
    }

    /// Somebody holds the key that deletes: each patch is as the one before, and takes no bytes of its own.
    #[test]
    fn patches_that_take_no_bytes_are_counted() {
        let mut list = Timestamp::ORIGIN;
        let start = document(|b| {
            list = b.new_bin();
            b.ins_val(Timestamp::ORIGIN, list);
            b.ins_bin(list, list, &[0; 50_000]);
        });
        let mut log = Log::new(start);
        let (first, mut time) = (list.time + 2, list.time + 50_002);
        for n in (0..50_000).rev() {
            let mut b = PatchBuilder::new(session(0), time);
            b.del(list, &[Timespan { start: Timestamp::new(session(0), first + n), span: 1 }]);
            let patch = b.finish().unwrap();
            time = patch.next_time();
            log.push(patch);
        }
        for packing in [Packing::Plain, Packing::Deflate] {
            let written = log.to_native(packing);
            let read = Log::from_native(&written, session(2)).unwrap();
            assert!(read.patches().eq(log.patches()));
            assert_eq!(read.to_native(packing), written);
        }
        let mut columns = write::columns(log.start());
        columns.extend(super::super::history::columns(&log));
        let packed = packed_hard(SnapshotKind::History, &columns);
        let refused = Log::from_native(&packed, session(2)).err();
        assert!(
            refused.as_ref().is_some_and(|refused| refused.to_string().starts_with("column `patches`")),
            "{refused:?}: {} bytes beside {}",
            packed.len(),
            log.to_native(Packing::Deflate).len()
        );
    }
}
