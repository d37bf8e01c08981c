//! What each shows of itself to the others: a name, a colour, a cursor. JSON, the same in terminals and browsers.

use crdt_core::{SessionId, Timestamp};
use serde::{Deserialize, Serialize};

/// The longest name that is shown, in characters; more is cut off.
const NAME_CHARS_MAX: usize = 40;

/// What a presence message carries in this application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shown {
    /// Who.
    pub(crate) name: String,
    /// In which colour: a hue in degrees.
    #[serde(default)]
    pub(crate) hue: u16,
    /// The character behind which the cursor stands, `[session, time]`; nothing at the beginning.
    #[serde(default)]
    pub(crate) caret: Option<(u64, u64)>,
    /// Whether there is a cursor at all.
    #[serde(default)]
    pub(crate) editing: bool,
}

impl Shown {
    /// Reads what another shows. Whoever shows something else is there, without a name.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let unknown = Self { name: "somebody".to_owned(), hue: 0, caret: None, editing: false };
        let mut shown = serde_json::from_slice(bytes).unwrap_or(unknown);
        // It goes to a terminal: no control characters.
        shown.name = shown.name.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect();
        shown
    }

    /// Writes it.
    pub(crate) fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The character behind which the cursor stands.
    pub(crate) fn behind(&self) -> Option<Timestamp> {
        let (sid, time) = self.caret?;
        Some(Timestamp::new(SessionId::new(sid).ok()?, time))
    }
}

/// A colour for a name: the same one each time.
pub(crate) fn hue(name: &str) -> u16 {
    let hash = name.bytes().fold(0_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    (hash % 360) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_show_does_no_harm() {
        let shown =
            Shown::read(br#"{"name": "An\u001b[31mn", "caret": [70000, 5], "editing": true, "more": 1}"#);
        assert_eq!((shown.name.as_str(), shown.editing), ("An[31mn", true));
        assert_eq!(shown.behind(), Some(Timestamp::new(SessionId::new(70_000).unwrap(), 5)));
        assert_eq!(Shown::read(b"\xff").name, "somebody");
        let far = Shown::read(br#"{"name": "x", "caret": [18446744073709551615, 5]}"#);
        assert_eq!(far.behind(), None);
        assert_eq!(Shown::read(&shown.write()), shown);
    }
}
