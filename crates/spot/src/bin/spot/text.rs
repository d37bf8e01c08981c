//! Words of others, as a terminal may show them: a name or a payload must not move its cursor.

use std::borrow::Cow;

use unicode_width::UnicodeWidthStr;

/// With control characters as Rust writes them, `\n` and `\u{1b}`.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut out = String::new();
    for c in text.chars() {
        match c.is_control() {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// As [`printable`]; what is not UTF-8 as `\xff`.
pub(super) fn printable_bytes(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        out.push_str(&printable(chunk.valid()));
        out.push_str(&chunk.invalid().escape_ascii().to_string());
    }
    out
}

/// Printable, with spaces behind it up to so many columns.
pub(super) fn column(text: &str, width: usize) -> String {
    let text = printable(text);
    let spaces = width.saturating_sub(text.width());
    format!("{text}{:spaces$}", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_steer_a_terminal_is_written_out() {
        assert_eq!(printable("뉴스:서울 café"), "뉴스:서울 café");
        assert_eq!(printable("red\x1b[31m\nnext\u{9b}"), "red\\u{1b}[31m\\nnext\\u{9b}");
        assert_eq!(printable_bytes(b"a\x00\xffb\xe2\x82\xac"), "a\\u{0}\\xffb€");
    }

    #[test]
    fn columns_are_as_wide_as_they_are_shown() {
        // Two columns for each of the syllables.
        assert_eq!(column("서울", 6), "서울  ");
        assert_eq!(column("longer", 3), "longer");
    }
}
