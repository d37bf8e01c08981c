//! How a tuple says that it is an extension: its first place names the extension, and the tuple itself.

use crate::{Timestamp, Value, codec::RawValue};

/// The constant in the first place of a tuple that is an extension.
pub(crate) fn header(number: u8, tuple: Timestamp) -> Value {
    Value::Bytes(vec![number, tuple.sid.get() as u8, tuple.time as u8])
}

/// The number of the extension that a constant in the first place of a tuple names; `None` if it is no header of this one.
pub(crate) fn number(header: RawValue<'_>, tuple: Timestamp) -> Option<u8> {
    let [0x43, number, sid, time] = *header.as_bytes() else { return None };
    (sid == tuple.sid.get() as u8 && time == tuple.time as u8).then_some(number)
}
