//! Reading the contents of a record piece by piece.

use crdt_core::EncodingFormat;

use super::{RecordError, invalid, text};

/// Reads a record from its front.
pub(super) struct Reader<'b> {
    pub(super) what: &'static str,
    pub(super) bytes: &'b [u8],
}

impl<'b> Reader<'b> {
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let cut_off = RecordError::CutOff { what: self.what, len: self.bytes.len() };
        let (array, rest) = self.bytes.split_first_chunk().ok_or(cut_off)?;
        self.bytes = rest;
        Ok(*array)
    }

    pub(super) fn byte(&mut self) -> Result<u8, RecordError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn number(&mut self) -> Result<u64, RecordError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn flag(&mut self, what: &'static str) -> Result<bool, RecordError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(invalid(what, other)),
        }
    }

    pub(super) fn until_zero(&mut self) -> Result<&'b str, RecordError> {
        let Some(len) = self.bytes.iter().position(|&byte| byte == 0) else {
            return Err(RecordError::CutOff { what: self.what, len: self.bytes.len() });
        };
        let (head, rest) = self.bytes.split_at(len);
        self.bytes = &rest[1..];
        text(self.what, head)
    }

    pub(super) fn unpack<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, RecordError> {
        EncodingFormat::MessagePack.decode(std::mem::take(&mut self.bytes)).map_err(|e| invalid(self.what, e))
    }

    pub(super) fn end(&self) -> Result<(), RecordError> {
        match self.bytes.len() {
            0 => Ok(()),
            more => Err(invalid(self.what, format!("{more} bytes left over"))),
        }
    }
}
