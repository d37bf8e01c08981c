//! The watermark: a witness beside the engine's files of how many batches have been durable.
//!
//! The engine takes a damaged end of its journal for one that a crash has torn, and cuts it off. What the watermark says
//! tells the two apart: patches of a batch that it names were answered, so a store that comes up with fewer batches has
//! lost some of them. It is written after a batch is durable and before that is told, and never synced itself: after a
//! power failure it may say too little, and never too much.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

const MAGIC: [u8; 8] = *b"weftmark";
/// The two records are written in turn and lie in different sectors, so a torn one leaves the other.
const SLOT_BYTES: u64 = 4096;
const RECORD_BYTES: usize = 20;

pub(super) struct Watermark {
    file: File,
}

impl Watermark {
    pub(super) const FILE_NAME: &'static str = "watermark";

    /// Opens the witness of a folder, and tells which batch it has seen; `None` if it is new or was destroyed.
    pub(super) fn open(folder: &Path) -> io::Result<(Self, Option<u64>)> {
        let path = folder.join(Self::FILE_NAME);
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = Vec::new();
        (&mut file).take(2 * SLOT_BYTES).read_to_end(&mut bytes)?;
        let seen = bytes.chunks(SLOT_BYTES as usize).filter_map(read).max();
        Ok((Self { file }, seen))
    }

    /// Notes that everything up to a batch is durable.
    pub(super) fn note(&mut self, batch: u64) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(batch % 2 * SLOT_BYTES))?;
        self.file.write_all(&record(batch))
    }
}

fn record(batch: u64) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[..8].copy_from_slice(&MAGIC);
    record[8..16].copy_from_slice(&batch.to_le_bytes());
    let sum = crc32fast::hash(&record[..16]);
    record[16..].copy_from_slice(&sum.to_le_bytes());
    record
}

fn read(slot: &[u8]) -> Option<u64> {
    let found: &[u8; RECORD_BYTES] = slot.first_chunk()?;
    let batch = u64::from_le_bytes(*found[8..].first_chunk()?);
    (*found == record(batch)).then_some(batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_record_leaves_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let (mut mark, seen) = Watermark::open(folder.path()).unwrap();
        assert_eq!(seen, None);
        mark.note(3).unwrap();
        mark.note(4).unwrap();
        assert_eq!(Watermark::open(folder.path()).unwrap().1, Some(4));
        mark.file.seek(SeekFrom::Start(9)).unwrap();
        mark.file.write_all(&[0xff]).unwrap();
        assert_eq!(Watermark::open(folder.path()).unwrap().1, Some(3));
    }
}
