//! Commands between engines: READY, ERROR, PING, PONG, and the properties that READY and INITIATE carry.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    ZmtpError,
    frame::{self, COMMAND},
};

/// Properties at most in one handshake; more are an error.
pub const PROPERTIES_MAX: usize = 64;
/// The longest context of a PING; longer ones are an error.
pub const PING_CONTEXT_LEN_MAX: usize = 16;

/// Name and value pairs that a peer tells about itself. Names are compared without regard to case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Properties(pub Vec<(String, Bytes)>);

impl Properties {
    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Writes them as they stand in READY and INITIATE.
    pub fn encode(&self, out: &mut BytesMut) {
        for (name, value) in &self.0 {
            out.put_u8(name.len() as u8);
            out.put_slice(name.as_bytes());
            out.put_u32(value.len() as u32);
            out.put_slice(value);
        }
    }

    /// Reads them; all bytes must belong to one.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, ZmtpError> {
        const BAD: ZmtpError =
            ZmtpError::Malformed { what: "metadata", expected: "name length, name, value length, value" };
        let mut all = Vec::new();
        while !bytes.is_empty() {
            if all.len() == PROPERTIES_MAX {
                return Err(ZmtpError::Malformed { what: "metadata", expected: "at most 64 properties" });
            }
            let name = take(&mut bytes, 1).and_then(|n| take(&mut bytes, n[0].into())).ok_or(BAD)?;
            let len = take(&mut bytes, 4).ok_or(BAD)?.try_into().map(u32::from_be_bytes).map_err(|_| BAD)?;
            let value = take(&mut bytes, len as usize).ok_or(BAD)?;
            let name = std::str::from_utf8(name).ok().filter(|n| !n.is_empty()).ok_or(BAD)?;
            all.push((name.to_owned(), Bytes::copy_from_slice(value)));
        }
        Ok(Self(all))
    }
}

/// Takes `n` bytes off the front.
pub(super) fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, tail) = bytes.split_at_checked(n)?;
    *bytes = tail;
    Some(head)
}

/// A command's body: its name, and what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command<'a> {
    /// Such as `READY`.
    pub name: &'a [u8],
    /// Depends on the name.
    pub data: &'a [u8],
}

impl<'a> Command<'a> {
    /// Splits a body.
    pub fn decode(mut body: &'a [u8]) -> Result<Self, ZmtpError> {
        let name = take(&mut body, 1).and_then(|n| take(&mut body, n[0].into()));
        let name = name.ok_or(ZmtpError::Malformed { what: "command", expected: "name length and name" })?;
        Ok(Self { name, data: body })
    }

    /// Writes it as a command frame.
    pub fn put(&self, out: &mut BytesMut) {
        let len = 1 + self.name.len() + self.data.len();
        out.reserve(frame::HEADER_LEN_MAX + len);
        frame::put_header(out, COMMAND, len);
        out.put_u8(self.name.len() as u8);
        out.put_slice(self.name);
        out.put_slice(self.data);
    }

    /// The reason that an ERROR gives, cleaned for a log.
    pub fn error_reason(&self) -> String {
        let mut data = self.data;
        let reason = take(&mut data, 1).and_then(|n| take(&mut data, n[0].into())).unwrap_or(self.data);
        reason.escape_ascii().to_string()
    }
}

/// Writes READY with its properties.
pub fn put_ready(out: &mut BytesMut, properties: &Properties) {
    let mut data = BytesMut::new();
    properties.encode(&mut data);
    Command { name: b"READY", data: &data }.put(out);
}

/// Writes ERROR; the reason is cut to 255 bytes.
pub fn put_error(out: &mut BytesMut, reason: &str) {
    let reason = &reason.as_bytes()[..reason.len().min(255)];
    let mut data = vec![reason.len() as u8];
    data.extend(reason);
    Command { name: b"ERROR", data: &data }.put(out);
}

/// Writes PING: how long our silence may last, in tenths of a second, and bytes to be given back.
pub fn put_ping(out: &mut BytesMut, ttl_deciseconds: u16, context: &[u8]) {
    let mut data = ttl_deciseconds.to_be_bytes().to_vec();
    data.extend(context);
    Command { name: b"PING", data: &data }.put(out);
}

/// Writes PONG.
pub fn put_pong(out: &mut BytesMut, context: &[u8]) {
    Command { name: b"PONG", data: context }.put(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_has_its_golden_bytes() {
        let properties = Properties(vec![
            ("Socket-Type".into(), Bytes::from_static(b"DEALER")),
            ("Identity".into(), Bytes::new()),
        ]);
        let mut out = BytesMut::new();
        put_ready(&mut out, &properties);
        // As libzmq 4.3.4 sends it.
        let golden = b"\x04\x29\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00";
        assert_eq!(out[..], golden[..]);
        let command = Command::decode(&golden[2..]).unwrap();
        assert_eq!(command.name, b"READY");
        assert_eq!(Properties::decode(command.data), Ok(properties));
        assert!(Properties::decode(&command.data[..command.data.len() - 1]).is_err());
    }

    #[test]
    fn property_names_ignore_case() {
        let properties = Properties(vec![("socket-type".into(), Bytes::from_static(b"REQ"))]);
        assert_eq!(properties.get("Socket-Type").unwrap(), "REQ");
    }
}
