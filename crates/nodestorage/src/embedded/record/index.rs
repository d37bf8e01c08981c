//! The records of indexes: what each is of, how far it is, and its entries.

use super::{RecordError, invalid, pack, reader::Reader, text};
use crate::{
    DocumentId, Index,
    query::{Direction, FieldPath},
};

/// An index: which fields it has, and how far it is. Its key names the collection and the index within it.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexRecord {
    /// What it is of.
    pub index: Index,
    /// How far it is.
    pub stage: IndexStage,
}

/// How far an index is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexStage {
    /// It holds the documents up to this one, and those that were written since it was begun.
    Building {
        /// `None` before the first.
        up_to: Option<DocumentId>,
    },
    /// It holds all documents.
    Ready,
    /// Its entries are being removed.
    Dropped,
}

impl IndexRecord {
    /// What the keys start with.
    pub const PREFIX: &'static [u8] = b"index/";
    /// What the keys start with that say that a document has several values in one field of an index.
    pub const SEVERAL: &'static [u8] = b"several/";

    /// The key of an index's record, or of the mark that a document has several values, by the prefix.
    pub fn key(prefix: &[u8], collection: u32, number: u32) -> Vec<u8> {
        [prefix, &collection.to_be_bytes(), &number.to_be_bytes()].concat()
    }

    /// Reads the collection and the number out of a key.
    pub fn split(prefix: &[u8], key: &[u8]) -> Result<(u32, u32), RecordError> {
        let Some(rest) = key.strip_prefix(prefix) else {
            return Err(invalid("index key", key.escape_ascii()));
        };
        let mut rest = Reader { what: "index key", bytes: rest };
        let numbers = (u32::from_be_bytes(rest.array()?), u32::from_be_bytes(rest.array()?));
        rest.end()?;
        Ok(numbers)
    }

    /// Its contents.
    pub fn encode(&self) -> Vec<u8> {
        let (stage, up_to) = match &self.stage {
            IndexStage::Building { up_to } => (0, up_to.as_ref()),
            IndexStage::Ready => (1, None),
            IndexStage::Dropped => (2, None),
        };
        let fields = self.index.fields().iter();
        let fields: Vec<_> =
            fields.map(|(path, direction)| (path.to_string(), *direction == Direction::Descending)).collect();
        let mut record = vec![stage];
        record.extend(pack(&(fields, Vec::from_iter(up_to))));
        record
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub fn decode(contents: &[u8]) -> Result<Self, RecordError> {
        let mut rest = Reader { what: "index", bytes: contents };
        let stage = rest.byte()?;
        let (fields, up_to): (Vec<(String, bool)>, Vec<DocumentId>) = rest.unpack()?;
        let fields = fields.into_iter().map(|(path, descending)| {
            let direction = if descending { Direction::Descending } else { Direction::Ascending };
            Ok((FieldPath::new(&path).map_err(|e| invalid("indexed field", e))?, direction))
        });
        let fields = fields.collect::<Result<_, RecordError>>()?;
        let index = Index::new(fields).map_err(|e| invalid("index", e))?;
        let stage = match stage {
            0 => IndexStage::Building { up_to: up_to.into_iter().next() },
            1 => IndexStage::Ready,
            2 => IndexStage::Dropped,
            other => return Err(invalid("stage of an index", other)),
        };
        Ok(Self { index, stage })
    }
}

/// An entry of an index: that it is there is all that it says. The length of the id at the end of its key is its only
/// content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry;

impl IndexEntry {
    /// What the keys of an index start with.
    pub fn prefix(collection: u32, number: u32) -> Vec<u8> {
        IndexRecord::key(&[], collection, number)
    }

    /// The key of an entry.
    pub fn key(collection: u32, number: u32, entry: &[u8], id: &DocumentId) -> Vec<u8> {
        [&Self::prefix(collection, number)[..], entry, id.as_str().as_bytes()].concat()
    }

    /// The contents of an entry.
    pub fn encode(id: &DocumentId) -> Vec<u8> {
        vec![u8::try_from(id.as_str().len()).expect("an id is at most 255 bytes long")]
    }

    /// Reads the entry and the id out of a key and its contents.
    pub fn decode<'k>(key: &'k [u8], contents: &[u8]) -> Result<(&'k [u8], DocumentId), RecordError> {
        let mut rest = Reader { what: "index entry", bytes: contents };
        let id_len = usize::from(rest.byte()?);
        rest.end()?;
        let cut_off = RecordError::CutOff { what: "key of an index entry", len: key.len() };
        let at = key.len().checked_sub(id_len).filter(|at| *at >= 8).ok_or(cut_off)?;
        let id = DocumentId::new(text("document id", &key[at..])?).map_err(|e| invalid("document id", e))?;
        Ok((&key[8..at], id))
    }
}
