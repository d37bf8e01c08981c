//! The name of a store.

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
    num::NonZeroU64,
};

/// Tells a store from all others: drawn when it is made, and kept in it. A folder that was emptied, or a second store for
/// the same document, has another one; a copy that is put back has the one of its original.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(NonZeroU64);

impl StoreId {
    /// Draws one.
    pub fn draw() -> Self {
        // Keys of the operating system's randomness: there is no reason here for a generator with a seed.
        let drawn = RandomState::new().hash_one("a store");
        Self(NonZeroU64::new(drawn).unwrap_or(NonZeroU64::MAX))
    }

    /// Takes a number from outside; `None` for 0, which stands for "no id".
    pub const fn new(number: u64) -> Option<Self> {
        match NonZeroU64::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

/// 16 hexadecimal digits.
impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.get())
    }
}
