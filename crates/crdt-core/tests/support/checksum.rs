//! Native snapshots that were changed on purpose.

/// The bytes with the checksum that they should have.
pub fn repaired(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if bytes.len() >= 10 {
        let mut check = crc32fast::Hasher::new();
        check.update(&bytes[4..6]);
        check.update(&bytes[10..]);
        bytes[6..10].copy_from_slice(&check.finalize().to_le_bytes());
    }
    bytes
}
