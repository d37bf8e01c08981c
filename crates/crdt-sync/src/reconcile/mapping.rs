//! In which symbols an entry is.

use super::mix;

/// The rising sequence of the symbols that an entry is in: all entries are in symbol 0, and in symbol i with the
/// probability 1 / (1 + i / 2), so that every prefix of the symbols is a code for some size of difference.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mapping {
    random: u64,
    index: usize,
}

impl Mapping {
    /// The entry with this check, at symbol 0.
    pub(super) fn new(check: u64) -> Self {
        Self { random: check, index: 0 }
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// Goes on to the next symbol. The step has the distribution of section 4.2 of the paper, drawn by inversion; its
    /// operations are exact in IEEE 754, so that all machines agree.
    pub(super) fn advance(&mut self) {
        self.random = mix(self.random);
        // From above 0 to 1 in steps of 2⁻⁵³.
        let uniform = ((self.random >> 11) + 1) as f64 / (1u64 << 53) as f64;
        let step = ((self.index as f64 + 1.5) * (1.0 / uniform.sqrt() - 1.0)).ceil();
        self.index = self.index.saturating_add((step as usize).max(1));
    }
}
