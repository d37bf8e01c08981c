//! JSON text (RFC 8259) as JavaScript reads and writes it: keys in order, lone surrogates as escapes, one kind of number.

use super::Malformed;
use crate::{
    text::{Text, Wtf8},
    value::Value,
};

/// Reads JSON text. Of equal keys the last one counts. A number is a float, as in JavaScript, unless it is an integer
/// within ±(2^53 − 1); `-0` keeps its sign.
pub fn decode(text: &[u8]) -> Result<Value, Malformed> {
    decode_within(text, Value::DEPTH_MAX)
}

/// Reads JSON text that is nested at most `depth_max` deep.
pub fn decode_within(text: &[u8], depth_max: usize) -> Result<Value, Malformed> {
    let mut parser = Parser { text, at: 0, depth_max };
    let value = parser.value(depth_max)?;
    parser.space();
    match text.len() - parser.at {
        0 => Ok(value),
        left => Err(Malformed::LeftOver { at: parser.at, left }),
    }
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    depth_max: usize,
}

impl Parser<'_> {
    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.text.get(self.at) {
            self.at += 1;
        }
    }

    fn error(&self, expected: &'static str) -> Malformed {
        match self.text.get(self.at) {
            Some(&found) => Malformed::Unexpected { at: self.at, found, expected },
            None => Malformed::Truncated { at: self.at, what: "JSON" },
        }
    }

    fn take(&mut self, literal: &[u8], expected: &'static str) -> Result<(), Malformed> {
        if self.text[self.at..].starts_with(literal) {
            self.at += literal.len();
            return Ok(());
        }
        Err(self.error(expected))
    }

    /// The next byte that is not space.
    fn next(&mut self) -> u8 {
        self.space();
        self.text.get(self.at).copied().unwrap_or(0)
    }

    fn value(&mut self, depth: usize) -> Result<Value, Malformed> {
        match self.next() {
            b'{' | b'[' if depth == 0 => Err(Malformed::TooDeep { at: self.at, max: self.depth_max }),
            b'{' => self.map(depth - 1),
            b'[' => self.array(depth - 1),
            b'"' => Ok(self.string()?.into()),
            b'n' => self.take(b"null", "null").map(|()| Value::Null),
            b't' => self.take(b"true", "true").map(|()| Value::Bool(true)),
            b'f' => self.take(b"false", "false").map(|()| Value::Bool(false)),
            b'-' | b'0'..=b'9' => self.number(),
            _ => Err(self.error("a JSON value")),
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, Malformed> {
        let mut entries = Vec::new();
        self.at += 1;
        if self.next() == b'}' {
            self.at += 1;
            return Ok(Value::Map(entries));
        }
        loop {
            if self.next() != b'"' {
                return Err(self.error("a key"));
            }
            let key = self.string()?;
            self.space();
            self.take(b":", "a colon")?;
            entries.push((key, self.value(depth)?));
            match self.next() {
                b',' => self.at += 1,
                b'}' => break,
                _ => return Err(self.error("a comma or the end of the map")),
            }
        }
        self.at += 1;
        Ok(Value::from_entries(entries))
    }

    fn array(&mut self, depth: usize) -> Result<Value, Malformed> {
        let mut items = Vec::new();
        self.at += 1;
        if self.next() == b']' {
            self.at += 1;
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value(depth)?);
            match self.next() {
                b',' => self.at += 1,
                b']' => break,
                _ => return Err(self.error("a comma or the end of the array")),
            }
        }
        self.at += 1;
        Ok(Value::Array(items))
    }

    fn string(&mut self) -> Result<Text, Malformed> {
        self.at += 1;
        let mut text = Text::new();
        loop {
            let rest = &self.text[self.at..];
            let plain = rest.iter().position(|&c| c == b'"' || c == b'\\' || c < 0x20).unwrap_or(rest.len());
            let run = Wtf8::new(&rest[..plain]).map_err(|at| Malformed::Text { at: self.at + at })?;
            text.push(run);
            self.at += plain;
            match self.text.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => self.escape(&mut text)?,
                _ => return Err(self.error("the end of a string")),
            }
        }
    }

    fn escape(&mut self, text: &mut Text) -> Result<(), Malformed> {
        self.at += 1;
        let point = match self.text.get(self.at) {
            Some(&c @ (b'"' | b'\\' | b'/')) => c.into(),
            Some(b'b') => 8,
            Some(b't') => 9,
            Some(b'n') => 10,
            Some(b'f') => 12,
            Some(b'r') => 13,
            Some(b'u') => {
                let digits =
                    self.text.get(self.at + 1..self.at + 5).filter(|d| d.iter().all(u8::is_ascii_hexdigit));
                let point = digits.and_then(|d| u32::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok());
                let Some(point) = point else { return Err(self.error("four hexadecimal digits")) };
                self.at += 4;
                point
            }
            _ => return Err(self.error("an escape")),
        };
        self.at += 1;
        text.push_code_point(point);
        Ok(())
    }

    fn number(&mut self) -> Result<Value, Malformed> {
        let start = self.at;
        self.at += usize::from(self.text[self.at] == b'-');
        self.digits()?;
        let whole = &self.text[start..self.at];
        let digits = whole.strip_prefix(b"-").unwrap_or(whole);
        if digits.len() > 1 && digits[0] == b'0' {
            return Err(Malformed::Unexpected { at: start, found: b'0', expected: "no leading zero" });
        }
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.text.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.text.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        let text = std::str::from_utf8(&self.text[start..self.at]).unwrap_or_default();
        // One without end would be no number of JSON when it is written again.
        let number = text.parse().ok().filter(|number: &f64| number.is_finite());
        number.map(Value::from).ok_or(Malformed::Unexpected {
            at: start,
            found: self.text[start],
            expected: "a number below 1.8e308",
        })
    }

    /// At least one digit.
    fn digits(&mut self) -> Result<(), Malformed> {
        let count = self.text[self.at..].iter().take_while(|c| c.is_ascii_digit()).count();
        self.at += count;
        if count == 0 { Err(self.error("a digit")) } else { Ok(()) }
    }
}

/// Writes JSON text as `JSON.stringify` does, but for −0, which keeps its sign. What JSON lacks is written as near as can be, and does not come back:
/// a key without a value is left out, `undefined` elsewhere and numbers without digits are `null`, bytes are base64 text.
pub fn encode(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value);
    out
}

fn write(out: &mut String, value: &Value) {
    match value {
        Value::Undefined | Value::Null | Value::Simple(_) => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Int(n) => out.push_str(&n.to_string()),
        Value::Uint(n) => out.push_str(&n.to_string()),
        Value::Nint(n) => out.push_str(&(-1 - i128::from(*n)).to_string()),
        Value::Float(n) => write_float(out, *n),
        Value::Text(text) => write_text(out, text.as_wtf8()),
        Value::Bytes(bytes) => {
            out.push('"');
            out.push_str(&super::base64::encode(bytes));
            out.push('"');
        }
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write(out, item);
            }
            out.push(']');
        }
        Value::Map(entries) => {
            out.push('{');
            let mut first = true;
            for (key, value) in entries.iter().filter(|(_, value)| !value.is_undefined()) {
                if !std::mem::take(&mut first) {
                    out.push(',');
                }
                write_text(out, key.as_wtf8());
                out.push(':');
                write(out, value);
            }
            out.push('}');
        }
        Value::Tag(_, inner) => write(out, inner),
    }
}

/// Writes a number as JavaScript prints it: the shortest digits that read back, exponents from 21 and from −7 on. But −0 is
/// `-0`, which JavaScript reads back and does not write.
fn write_float(out: &mut String, n: f64) {
    if !n.is_finite() {
        return out.push_str("null");
    }
    let scientific = format!("{n:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-6..21).contains(&exponent) {
        return out.push_str(&n.to_string());
    }
    out.push_str(mantissa);
    out.push_str(if exponent < 0 { "e-" } else { "e+" });
    out.push_str(&exponent.unsigned_abs().to_string());
}

/// Writes a string with quotes and escapes.
pub(crate) fn write_text(out: &mut String, text: Wtf8<'_>) {
    out.push('"');
    match text.as_str() {
        Some(text) => write_escaped(out, text),
        None => {
            for unit in char::decode_utf16(text.utf16()) {
                match unit {
                    Ok(c) => write_escaped(out, c.encode_utf8(&mut [0; 4])),
                    Err(lone) => out.push_str(&format!("\\u{:04x}", lone.unpaired_surrogate())),
                }
            }
        }
    }
    out.push('"');
}

fn write_escaped(out: &mut String, text: &str) {
    let mut written = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            8 => "\\b",
            9 => "\\t",
            10 => "\\n",
            12 => "\\f",
            13 => "\\r",
            0..0x20 => "",
            _ => continue,
        };
        out.push_str(&text[written..at]);
        if escape.is_empty() {
            out.push_str(&format!("\\u{byte:04x}"));
        } else {
            out.push_str(escape);
        }
        written = at + 1;
    }
    out.push_str(&text[written..]);
}

/// Whether a value comes back from JSON text as it was.
pub fn is_json(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Text(_) => true,
        Value::Int(n) => n.unsigned_abs() < 1 << 53,
        Value::Float(n) => n.is_finite(),
        Value::Array(items) => items.iter().all(is_json),
        Value::Map(entries) => entries.iter().all(|(_, value)| is_json(value)),
        _ => false,
    }
}
