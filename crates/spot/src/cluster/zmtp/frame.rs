//! Frames: a flags byte, a length of one or eight bytes, a body.

use bytes::{BufMut, BytesMut};

use super::ZmtpError;

/// More frames of the same message follow.
pub const MORE: u8 = 0x01;
/// The length has eight bytes.
pub const LONG: u8 = 0x02;
/// A command to the other engine, not a message.
pub const COMMAND: u8 = 0x04;
/// The largest body with a one-byte length.
pub const SHORT_LEN_MAX: usize = 255;
/// The longest header.
pub const HEADER_LEN_MAX: usize = 9;

/// What stands before a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// [`MORE`] and [`COMMAND`]; never [`LONG`], which is a matter of the encoding.
    pub flags: u8,
    /// Bytes of the header itself.
    pub header_len: usize,
    /// Bytes of the body.
    pub body_len: u64,
}

impl Header {
    /// Reads a header. `None` if more bytes are needed.
    pub fn read(bytes: &[u8]) -> Result<Option<Self>, ZmtpError> {
        let Some(&flags) = bytes.first() else { return Ok(None) };
        if flags & !(MORE | LONG | COMMAND) != 0 || flags & (MORE | COMMAND) == MORE | COMMAND {
            return Err(ZmtpError::Flags { flags });
        }
        let (header_len, body_len) = if flags & LONG == 0 {
            let Some(&len) = bytes.get(1) else { return Ok(None) };
            (2, u64::from(len))
        } else {
            let Some(len) = bytes.get(1..HEADER_LEN_MAX).and_then(|b| b.try_into().ok()) else {
                return Ok(None);
            };
            (HEADER_LEN_MAX, u64::from_be_bytes(len))
        };
        Ok(Some(Self { flags: flags & !LONG, header_len, body_len }))
    }
}

/// Writes the header of a body of `len` bytes.
pub fn put_header(out: &mut BytesMut, flags: u8, len: usize) {
    if len <= SHORT_LEN_MAX {
        out.put_slice(&[flags, len as u8]);
    } else {
        out.put_u8(flags | LONG);
        out.put_u64(len as u64);
    }
}

/// Writes a frame.
pub fn put_frame(out: &mut BytesMut, flags: u8, body: &[u8]) {
    out.reserve(HEADER_LEN_MAX + body.len());
    put_header(out, flags, body.len());
    out.put_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_written() {
        for len in [0, 1, 255, 256, 65_536] {
            for flags in [0, MORE, COMMAND] {
                let mut out = BytesMut::new();
                put_header(&mut out, flags, len);
                let header = Header::read(&out).unwrap().unwrap();
                assert_eq!(header, Header { flags, header_len: out.len(), body_len: len as u64 });
                assert_eq!(Header::read(&out[..out.len() - 1]), Ok(None));
            }
        }
    }

    #[test]
    fn unknown_flags_are_refused() {
        assert_eq!(Header::read(&[0x08, 0]), Err(ZmtpError::Flags { flags: 0x08 }));
        assert_eq!(Header::read(&[COMMAND | MORE, 0]), Err(ZmtpError::Flags { flags: 5 }));
    }
}
