//! The frame around a native snapshot: what it is, whether it is whole, and its columns.

use std::borrow::Cow;

use super::{NativeError, Packing};
use crate::codec::{
    Malformed,
    wire::{Reader, put_vu57},
};

/// What every native snapshot starts with.
pub(super) const MAGIC: [u8; 4] = *b"Weft";
/// The newest version, which this code writes.
pub(super) const VERSION: u8 = 1;
/// Magic, version, kind, checksum.
const HEAD_LEN: usize = 10;

/// The most bytes that one packed byte may stand for. A column that would pack better stays as it is, and a reader
/// refuses more: so what is unpacked is never more than a multiple of the snapshot. What may be made of it is
/// [weighed](super::weigh).
pub(super) const RATIO_MAX: usize = 64;

/// What a snapshot is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum SnapshotKind {
    /// A document whose sessions count for themselves.
    Logical = 0,
    /// A document that a server numbers.
    Server = 1,
    /// A history: a document and the patches since.
    History = 2,
}

/// Writes a snapshot out of its columns.
pub(super) fn write(kind: SnapshotKind, columns: &[Vec<u8>], packing: Packing) -> Vec<u8> {
    write_with(kind, columns, |column| packing.pack(column))
}

/// The same, packed in whatever way.
pub(super) fn write_with(
    kind: SnapshotKind,
    columns: &[Vec<u8>],
    pack: impl Fn(&[u8]) -> Option<Vec<u8>>,
) -> Vec<u8> {
    let room: usize = columns.iter().map(|column| column.len() + 5).sum();
    let mut out = Vec::with_capacity(HEAD_LEN + room);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[VERSION, kind as u8, 0, 0, 0, 0]);
    for column in columns {
        let packed = pack(column).filter(|packed| {
            packed.len() + 2 < column.len() && column.len() <= RATIO_MAX.saturating_mul(packed.len())
        });
        put_vu57(&mut out, (column.len() as u64) << 1 | u64::from(packed.is_some()));
        match packed {
            Some(packed) => {
                put_vu57(&mut out, packed.len() as u64);
                out.extend_from_slice(&packed);
            }
            None => out.extend_from_slice(column),
        }
    }
    let check = checksum(&out).to_le_bytes();
    out[6..HEAD_LEN].copy_from_slice(&check);
    out
}

/// CRC-32 of version, kind and columns.
fn checksum(snapshot: &[u8]) -> u32 {
    let mut check = crc32fast::Hasher::new();
    check.update(&snapshot[4..6]);
    check.update(&snapshot[HEAD_LEN..]);
    check.finalize()
}

/// The columns of a snapshot, unpacked where they were packed.
pub(super) struct Columns<'a> {
    pub(super) kind: SnapshotKind,
    columns: Vec<Cow<'a, [u8]>>,
    /// Where each starts in the snapshot, and where the last one ends.
    starts: Vec<usize>,
}

impl<'a> Columns<'a> {
    /// Takes a snapshot apart, if it is one and is whole.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, NativeError> {
        Self::take_apart(bytes, true)
    }

    /// The same for a snapshot that was whole before.
    pub(super) fn read_again(bytes: &'a [u8]) -> Result<Self, NativeError> {
        Self::take_apart(bytes, false)
    }

    fn take_apart(bytes: &'a [u8], may_be_damaged: bool) -> Result<Self, NativeError> {
        let frame = |source| NativeError::Column { column: "frame", start: 0, source };
        let Some((magic, _)) = bytes.split_first_chunk().filter(|_| bytes.len() >= HEAD_LEN) else {
            return Err(frame(Malformed::Truncated { at: bytes.len(), what: "the head" }));
        };
        if *magic != MAGIC {
            return Err(NativeError::NotNative { found: *magic });
        }
        if bytes[4] != VERSION {
            return Err(NativeError::Version { found: bytes[4] });
        }
        let kind = match bytes[5] {
            0 => SnapshotKind::Logical,
            1 => SnapshotKind::Server,
            2 => SnapshotKind::History,
            found => {
                let expected = "the kind of a snapshot: 0, 1 or 2";
                return Err(frame(Malformed::Unexpected { at: 5, found, expected }));
            }
        };
        let expected = u32::from_le_bytes([bytes[6], bytes[7], bytes[8], bytes[9]]);
        if may_be_damaged {
            let found = checksum(bytes);
            if found != expected {
                return Err(NativeError::Checksum { found, expected });
            }
        }
        let mut r = Reader::new(bytes).at_offset(HEAD_LEN);
        let (mut columns, mut starts) = (Vec::new(), Vec::new());
        while r.left() > 0 {
            let (start, bytes) = column(&mut r)?;
            starts.push(start);
            columns.push(bytes);
        }
        starts.push(r.offset());
        Ok(Self { kind, columns, starts })
    }

    /// Columns that are not written yet, for a snapshot of so many bytes.
    pub(super) fn unwritten(kind: SnapshotKind, columns: &'a [Vec<u8>], len_bytes: usize) -> Self {
        let columns = columns.iter().map(|column| Cow::Borrowed(&**column)).collect();
        Self { kind, columns, starts: vec![len_bytes] }
    }

    /// Whether all columns lie in the snapshot as they are.
    pub(super) fn are_plain(&self) -> bool {
        self.columns.iter().all(|column| matches!(column, Cow::Borrowed(_)))
    }

    /// How long all columns are, unpacked.
    pub(super) fn len_unpacked(&self) -> usize {
        self.columns.iter().map(|column| column.len()).sum()
    }

    /// How long the snapshot is.
    pub(super) fn len_bytes(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    /// The error, with the place where its column starts.
    pub(super) fn placed(&self, mut error: NativeError) -> NativeError {
        if let NativeError::Column { column, start, .. } | NativeError::Impossible { column, start, .. } =
            &mut error
            && let Some(number) = super::column_number(column)
        {
            *start = self.starts.get(number).copied().unwrap_or(0);
        }
        error
    }

    /// How many columns there are.
    pub(super) const fn len(&self) -> usize {
        self.columns.len()
    }

    /// A column's bytes; one that is not there is empty.
    pub(super) fn get(&self, column: usize) -> &[u8] {
        self.columns.get(column).map_or(&[], |column| column)
    }
}

/// Reads a column; tells where its bytes start.
fn column<'a>(r: &mut Reader<'a>) -> Result<(usize, Cow<'a, [u8]>), NativeError> {
    let frame = |source| NativeError::Column { column: "frame", start: 0, source };
    let head = r.vu57("the length of a column").map_err(frame)?;
    let len = head >> 1;
    if head & 1 == 0 {
        return Ok((r.offset(), Cow::Borrowed(r.take(len, "a column").map_err(frame)?)));
    }
    let packed_len = r.vu57("the packed length of a column").map_err(frame)?;
    let start = r.offset();
    let packed = r.take(packed_len, "a packed column").map_err(frame)?;
    let max = (RATIO_MAX as u64).saturating_mul(packed_len);
    let Some(len_bytes) = usize::try_from(len).ok().filter(|_| len <= max) else {
        let at = r.offset();
        return Err(frame(Malformed::TooLarge { at, what: "length of a packed column", value: len, max }));
    };
    Ok((start, Cow::Owned(Packing::unpack(packed, len_bytes)?)))
}

impl Packing {
    /// The bytes packed, unless that is not asked for or not built in.
    #[cfg(feature = "deflate")]
    pub(super) fn pack(self, bytes: &[u8]) -> Option<Vec<u8>> {
        use flate2::{Compress, Compression, FlushCompress, Status};
        if self == Self::Plain {
            return None;
        }
        // What does not become smaller is not worth packing, so there is no room for more.
        let mut out = Vec::with_capacity(bytes.len());
        let status =
            Compress::new(Compression::best(), false).compress_vec(bytes, &mut out, FlushCompress::Finish);
        matches!(status, Ok(Status::StreamEnd)).then_some(out)
    }

    #[cfg(feature = "deflate")]
    fn unpack(packed: &[u8], len: usize) -> Result<Vec<u8>, NativeError> {
        use flate2::{Decompress, FlushDecompress, Status};
        let mut out = Vec::with_capacity(len);
        let mut inflate = Decompress::new(false);
        // One byte more than it should have, so that too much is noticed.
        out.reserve_exact(len + 1);
        let status = inflate.decompress_vec(packed, &mut out, FlushDecompress::Finish);
        if !matches!(status, Ok(Status::StreamEnd))
            || out.len() != len
            || inflate.total_in() != packed.len() as u64
        {
            return Err(NativeError::Unpack { len, packed_len: packed.len() });
        }
        Ok(out)
    }

    #[cfg(not(feature = "deflate"))]
    const fn pack(self, _bytes: &[u8]) -> Option<Vec<u8>> {
        None
    }

    #[cfg(not(feature = "deflate"))]
    const fn unpack(_packed: &[u8], _len: usize) -> Result<Vec<u8>, NativeError> {
        Err(NativeError::Unbuilt)
    }
}
