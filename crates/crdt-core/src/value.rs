//! The value of a constant: whatever JSON or CBOR can say.

mod convert;

use std::fmt;

use crate::text::Text;

/// A value that is set as a whole and never edited inside: the content of a `con` node, the meta of a patch, a view.
///
/// Numbers follow JavaScript, which has one kind of them: a float that is an integer within ±(2^53 − 1) is that
/// integer, and `Value::from` makes it so. Beyond that a number keeps the kind that it was made of or read as; numbers are
/// equal when they are the same number, of whatever kind. −0 is a float; it equals 0, and becomes 0 where it is
/// written in a binary form or set in a document, since json-joy writes it so.
#[derive(Debug, Clone, Default)]
pub enum Value {
    /// JavaScript's `undefined`: no value. A key set to it counts as deleted.
    #[default]
    Undefined,
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// An integer. From 2^53 on JavaScript reads it as a big integer, and it has no JSON form in a document or patch.
    Int(i64),
    /// An integer above `i64::MAX`; JavaScript reads it as a big integer.
    Uint(u64),
    /// The integer −1 − n, below `i64::MIN`; n is above `i64::MAX`.
    Nint(u64),
    /// A number that is no integer within ±(2^53 − 1), or −0.
    Float(f64),
    /// Text.
    Text(Text),
    /// Bytes.
    Bytes(Vec<u8>),
    /// An array.
    Array(Vec<Value>),
    /// A map, in the order of its keys' first insertion. Each key occurs once.
    Map(Vec<(Text, Value)>),
    /// A CBOR value with a tag, carried along unread.
    Tag(u64, Box<Value>),
    /// A CBOR simple value without a meaning here, carried along unread.
    Simple(u8),
}

/// The largest integer up to which JavaScript's numbers have no gaps.
pub(crate) const SAFE_INT_MAX: f64 = ((1u64 << 53) - 1) as f64;

impl Value {
    /// The deepest nesting that a decoder follows; deeper input is an error, not a full stack.
    pub const DEPTH_MAX: usize = 128;

    /// The value at a key of a map.
    pub fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Self::Map(entries) => {
                entries.iter().find(|(k, _)| k.as_bytes() == key.as_bytes()).map(|(_, v)| v)
            }
            _ => None,
        }
    }

    /// The value at an index of an array.
    pub fn at(&self, index: usize) -> Option<&Value> {
        match self {
            Self::Array(items) => items.get(index),
            _ => None,
        }
    }

    /// The text, if it is text without lone surrogates.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => text.as_str(),
            _ => None,
        }
    }

    /// The number as a float, if it is a number.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::Int(n) => Some(n as f64),
            Self::Uint(n) => Some(n as f64),
            Self::Nint(n) => Some(-1.0 - n as f64),
            Self::Float(n) => Some(n),
            _ => None,
        }
    }

    /// The number, if it is an integer from 0 to `u64::MAX`.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::Int(n) => n.try_into().ok(),
            Self::Uint(n) => Some(n),
            // Less than nothing by its sign only.
            Self::Float(0.0) => Some(0),
            _ => None,
        }
    }

    /// The number, if it is an integer that an `i64` can hold.
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Self::Int(n) => Some(n),
            Self::Float(0.0) => Some(0),
            _ => None,
        }
    }

    /// Whether it is true, if it is a boolean.
    pub const fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(truth) => Some(truth),
            _ => None,
        }
    }

    /// The text, whatever its surrogates.
    pub const fn as_text(&self) -> Option<&Text> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The items of an array.
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }

    /// The entries of a map.
    pub fn as_map(&self) -> Option<&[(Text, Value)]> {
        match self {
            Self::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// Whether it is `null`.
    pub const fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// Whether it is `undefined`.
    pub const fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined)
    }

    /// The same value with the keys of its maps sorted and those without a value left out. Two values are the same JSON
    /// exactly when these are equal.
    pub fn in_key_order(&self) -> Self {
        match self {
            Self::Array(items) => Self::Array(items.iter().map(Self::in_key_order).collect()),
            Self::Map(entries) => {
                let mut entries: Vec<_> = entries
                    .iter()
                    .filter(|(_, value)| !value.is_undefined())
                    .map(|(key, value)| (key.clone(), value.in_key_order()))
                    .collect();
                entries.sort_by(|(a, _), (b, _)| a.cmp(b));
                Self::Map(entries)
            }
            other => other.clone(),
        }
    }

    /// The number, if it is an integer of any kind but a float.
    const fn integer(&self) -> Option<i128> {
        match *self {
            Self::Int(n) => Some(n as i128),
            Self::Uint(n) => Some(n as i128),
            Self::Nint(n) => Some(-1 - n as i128),
            _ => None,
        }
    }

    /// Bytes of memory that it takes, roughly.
    pub(crate) fn size_bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Text(text) => text.as_bytes().len(),
                Self::Bytes(bytes) => bytes.len(),
                Self::Array(items) => items.iter().map(Self::size_bytes).sum(),
                Self::Map(entries) => entries
                    .iter()
                    .map(|(key, value)| size_of::<Text>() + key.as_bytes().len() + value.size_bytes())
                    .sum(),
                Self::Tag(_, inner) => inner.size_bytes(),
                _ => 0,
            }
    }

    /// Whether an array, map or tag in it has more than so many around it, itself included.
    pub(crate) fn is_deeper_than(&self, depth: usize) -> bool {
        let within = |inner: &Self| depth == 0 || inner.is_deeper_than(depth - 1);
        match self {
            Self::Array(items) => depth == 0 || items.iter().any(within),
            Self::Map(entries) => depth == 0 || entries.iter().any(|(_, value)| within(value)),
            Self::Tag(_, inner) => within(inner),
            _ => false,
        }
    }

    /// Whether it is the same JSON as another value, whatever the order of the keys in each.
    pub fn is_same_json(&self, other: &Self) -> bool {
        self.in_key_order() == other.in_key_order()
    }

    /// What it is, for messages.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Undefined => "undefined",
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Int(_) | Self::Uint(_) | Self::Nint(_) | Self::Float(_) => "a number",
            Self::Text(_) => "text",
            Self::Bytes(_) => "bytes",
            Self::Array(_) => "an array",
            Self::Map(_) => "a map",
            Self::Tag(..) => "a tagged value",
            Self::Simple(_) => "a simple value",
        }
    }

    /// A map of entries. Of those with the same key the first place and the last value count.
    pub(crate) fn from_entries(entries: Vec<(Text, Value)>) -> Self {
        Self::Map(deduplicated(entries))
    }
}

/// Of entries with the same key keeps the first place and the last value, as JavaScript does.
fn deduplicated(entries: Vec<(Text, Value)>) -> Vec<(Text, Value)> {
    if !has_duplicates(entries.iter().map(|(key, _)| key.as_bytes()), entries.len()) {
        return entries;
    }
    let mut place = std::collections::HashMap::new();
    let mut kept: Vec<(Text, Value)> = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        match place.get(&key) {
            Some(&at) => {
                let entry: &mut (Text, Value) = &mut kept[at];
                entry.1 = value;
            }
            None => {
                place.insert(key.clone(), kept.len());
                kept.push((key, value));
            }
        }
    }
    kept
}

/// So many keys are compared with each other; more are sorted.
pub(crate) const FEW_KEYS: usize = 12;

/// Whether two of the keys are equal.
pub(crate) fn has_duplicates<'a>(keys: impl Iterator<Item = &'a [u8]> + Clone, len: usize) -> bool {
    if len <= FEW_KEYS {
        let mut rest = keys;
        while let Some(key) = rest.next() {
            if rest.clone().any(|other| other == key) {
                return true;
            }
        }
        return false;
    }
    let mut sorted: Vec<&[u8]> = keys.collect();
    sorted.sort_unstable();
    sorted.windows(2).any(|pair| pair[0] == pair[1])
}

/// Two values are equal when they are built alike; numbers when they are the same number, whatever they are held in; a NaN
/// equals a NaN. So the order of a map's keys counts,
/// and replicas that have the same patches can show their keys in another order: compare their views by
/// [`is_same_json`](Value::is_same_json).
impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Undefined, Self::Undefined) | (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Float(a), Self::Float(b)) => a == b || a.is_nan() && b.is_nan(),
            (Self::Float(float), integer) | (integer, Self::Float(float)) => {
                // A float that ends up at a bound of `i128` is larger than any integer here.
                integer.integer().is_some_and(|n| float.trunc() == *float && *float as i128 == n)
            }
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::Array(a), Self::Array(b)) => a == b,
            (Self::Map(a), Self::Map(b)) => a == b,
            (Self::Tag(a, x), Self::Tag(b, y)) => a == b && x == y,
            (Self::Simple(a), Self::Simple(b)) => a == b,
            (a, b) => a.integer().is_some_and(|a| b.integer() == Some(a)),
        }
    }
}

/// As JSON: [`codec::json::encode`](crate::codec::json::encode).
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::codec::json::encode(self))
    }
}
