//! The greeting: 64 bytes that each side sends first.

use super::ZmtpError;

/// Its length.
pub const GREETING_LEN: usize = 64;

/// What a greeting says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    /// Major and minor version.
    pub version: (u8, u8),
    /// The name of the security mechanism, padded with zeros.
    pub mechanism: [u8; 20],
    /// Whether the sender is the server of the mechanism.
    pub as_server: bool,
}

impl Greeting {
    /// Ours: ZMTP 3.1.
    pub fn new(mechanism: &'static str, as_server: bool) -> Self {
        let mut name = [0; 20];
        name[..mechanism.len()].copy_from_slice(mechanism.as_bytes());
        Self { version: (3, 1), mechanism: name, as_server }
    }

    /// The bytes.
    pub fn encode(&self) -> [u8; GREETING_LEN] {
        let mut out = [0; GREETING_LEN];
        out[0] = 0xff;
        // libzmq writes the length of an empty identity here, which ZMTP 1.0 would read; so do we.
        out[8] = 1;
        out[9] = 0x7f;
        (out[10], out[11]) = self.version;
        out[12..32].copy_from_slice(&self.mechanism);
        out[32] = u8::from(self.as_server);
        out
    }

    /// Reads a greeting. `None` if more bytes are needed; refuses as early as the bytes allow.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, ZmtpError> {
        let tenth = bytes.get(9).copied();
        match (bytes.first(), tenth) {
            (None, _) => return Ok(None),
            (Some(0xff), None | Some(0x7f)) => {}
            (Some(&first), _) => {
                return Err(ZmtpError::Signature { first, tenth: tenth.unwrap_or_default() });
            }
        }
        match bytes.get(10) {
            Some(&major) if major < 3 => return Err(ZmtpError::Version { major }),
            _ => {}
        }
        let Some(bytes) = bytes.first_chunk::<GREETING_LEN>() else { return Ok(None) };
        let mut mechanism = [0; 20];
        mechanism.copy_from_slice(&bytes[12..32]);
        Ok(Some(Self { version: (bytes[10], bytes[11]), mechanism, as_server: bytes[32] & 1 == 1 }))
    }

    /// The mechanism's name without the padding.
    pub fn mechanism_name(&self) -> String {
        let end = self.mechanism.iter().position(|&b| b == 0).unwrap_or(self.mechanism.len());
        self.mechanism[..end].escape_ascii().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greeting_has_its_golden_bytes() {
        let mut golden = vec![0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 1];
        golden.extend(b"CURVE");
        golden.extend([0; 15]);
        golden.push(1);
        golden.extend([0; 31]);
        let greeting = Greeting::new("CURVE", true);
        assert_eq!(greeting.encode()[..], golden);
        assert_eq!(Greeting::decode(&golden), Ok(Some(greeting)));
        assert_eq!(Greeting::decode(&golden[..63]), Ok(None));
    }

    #[test]
    fn what_is_not_zmtp_3_is_refused_at_its_first_wrong_byte() {
        assert_eq!(Greeting::decode(b"G"), Err(ZmtpError::Signature { first: b'G', tenth: 0 }));
        let mut old = Greeting::new("NULL", false).encode();
        old[10] = 1;
        assert_eq!(Greeting::decode(&old[..11]), Err(ZmtpError::Version { major: 1 }));
    }
}
