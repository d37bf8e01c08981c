//! Which documents are read most.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::DocumentId;

/// For each document that is kept warm, so many are counted. When there are more, all counts are halved, and those that
/// come to nothing are forgotten.
pub const HOT_COUNTED_FACTOR: usize = 16;

/// After so many reads per counted document all counts are halved, so that what was hot once cools down.
const READS_PER_HALVING: usize = 64;

/// Less is not hot.
const READS_MIN: u32 = 4;

pub(super) struct Hot {
    max: usize,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    of: HashMap<DocumentId, u32>,
    reads: usize,
}

impl Hot {
    pub(super) fn new(max: usize) -> Self {
        Self { max, counts: Mutex::default() }
    }

    /// Counts a read, unless another one is just being counted: it is the many reads that matter.
    pub(super) fn touch(&self, id: &DocumentId) {
        if self.max == 0 {
            return;
        }
        let Some(mut counts) = self.counts.try_lock() else { return };
        let counted_max = self.max * HOT_COUNTED_FACTOR;
        counts.reads += 1;
        if counts.reads >= counted_max * READS_PER_HALVING
            || counts.of.len() >= counted_max && !counts.of.contains_key(id)
        {
            counts.reads = 0;
            counts.of.retain(|_, count| {
                *count /= 2;
                *count > 0
            });
            if counts.of.len() >= counted_max {
                return;
            }
        }
        match counts.of.get_mut(id) {
            Some(count) => *count = count.saturating_add(1),
            None => drop(counts.of.insert(id.clone(), 1)),
        }
    }

    /// The documents that are read most, the hottest first.
    pub(super) fn list(&self) -> Vec<DocumentId> {
        let counts = self.counts.lock();
        let mut hot: Vec<_> = counts.of.iter().filter(|(_, count)| **count >= READS_MIN).collect();
        hot.sort_by(|(id, count), (other_id, other)| other.cmp(count).then_with(|| id.cmp(other_id)));
        hot.into_iter().take(self.max).map(|(id, _)| id.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> DocumentId {
        DocumentId::new(format!("d{n}")).unwrap()
    }

    #[test]
    fn what_is_read_most_is_hot() {
        let hot = Hot::new(2);
        for (n, reads) in [(1, 9), (2, 3), (3, 20), (4, 5)] {
            (0..reads).for_each(|_| hot.touch(&id(n)));
        }
        assert_eq!(hot.list(), [id(3), id(1)]);
        assert_eq!(Hot::new(0).list(), []);
    }

    #[test]
    fn what_is_counted_is_bounded_and_cools_down() {
        let hot = Hot::new(2);
        (0..40).for_each(|_| hot.touch(&id(0)));
        for n in 1..10_000 {
            hot.touch(&id(n));
            assert!(hot.counts.lock().of.len() <= 2 * HOT_COUNTED_FACTOR);
        }
        assert_eq!(hot.list(), []);
    }
}
