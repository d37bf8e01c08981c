//! The watermark: what had been made durable, kept beside the engine's files.
//!
//! The engine recovers from a damaged journal by cutting it off, without a word. It can't tell a write that was torn by
//! a crash, which nobody was promised, from acknowledged writes whose bytes went bad. The watermark can: it names the
//! last batch that was durable, so a store that comes up with less has lost something and says so. It is written before
//! the batch is answered and not synced itself: after a power failure it may be behind, which makes it a weaker
//! witness, never a false one.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

const MAGIC: [u8; 8] = *b"weftmark";
/// Two places written in turn, in different sectors, so that a torn write leaves the one before.
const SLOT_BYTES: u64 = 4096;
const RECORD_BYTES: usize = 20;

/// The witness that a folder's store has made batches durable.
#[derive(Debug)]
pub(super) struct Watermark {
    file: File,
}

impl Watermark {
    pub(super) const FILE_NAME: &'static str = "watermark";

    /// Opens the watermark of a folder and tells its batch; `None` if it is new or was destroyed.
    pub(super) fn open(folder: &Path) -> io::Result<(Self, Option<u64>)> {
        let path = folder.join(Self::FILE_NAME);
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = Vec::new();
        (&mut file).take(2 * SLOT_BYTES).read_to_end(&mut bytes)?;
        let batch = bytes.chunks(SLOT_BYTES as usize).filter_map(Self::decode).max();
        Ok((Self { file }, batch))
    }

    /// Notes that everything up to a batch is durable.
    pub(super) fn note(&mut self, batch: u64) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(batch % 2 * SLOT_BYTES))?;
        self.file.write_all(&Self::encode(batch))
    }

    fn encode(batch: u64) -> [u8; RECORD_BYTES] {
        let mut record = [0; RECORD_BYTES];
        record[..8].copy_from_slice(&MAGIC);
        record[8..16].copy_from_slice(&batch.to_le_bytes());
        let checksum = crc32fast::hash(&record[..16]);
        record[16..].copy_from_slice(&checksum.to_le_bytes());
        record
    }

    fn decode(slot: &[u8]) -> Option<u64> {
        let record: &[u8; RECORD_BYTES] = slot.first_chunk()?;
        let batch = u64::from_le_bytes(*record[8..16].first_chunk()?);
        (*record == Self::encode(batch)).then_some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_watermark_leaves_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let (mut mark, batch) = Watermark::open(folder.path()).unwrap();
        assert_eq!(batch, None);
        mark.note(7).unwrap();
        mark.note(8).unwrap();
        assert_eq!(Watermark::open(folder.path()).unwrap().1, Some(8));
        mark.file.seek(SeekFrom::Start(10)).unwrap();
        mark.file.write_all(&[0xff]).unwrap();
        assert_eq!(Watermark::open(folder.path()).unwrap().1, Some(7));
    }
}
