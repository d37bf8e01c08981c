//! Which documents are due for a snapshot because a change of theirs has become old.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use nodestorage::DocumentId;
use tokio::time::Instant;

/// Documents with changes that no snapshot contains, by the age of the oldest one.
#[derive(Debug)]
pub(super) struct Aging {
    /// `None`: nothing ever becomes due.
    age: Option<Duration>,
    /// When each becomes due. One that is gone here leaves its place in `queue` until that is reached.
    due: HashMap<DocumentId, Instant>,
    /// In the order of the times, because all wait equally long.
    queue: VecDeque<(Instant, DocumentId)>,
}

impl Aging {
    /// How many documents wait. At the bound the oldest is due before its time, and one that was due and could not be handed
    /// over waits for its next change.
    pub(super) const DOCUMENTS_MAX: usize = 16_384;

    pub(super) fn new(age: Option<Duration>) -> Self {
        Self { age, due: HashMap::new(), queue: VecDeque::new() }
    }

    /// A document has changed.
    pub(super) fn changed(&mut self, document: &DocumentId, now: Instant) {
        // An age beyond all time is never reached.
        let Some(due) = self.age.and_then(|age| now.checked_add(age)) else { return };
        if self.due.contains_key(document) {
            return;
        }
        if self.queue.len() >= 2 * Self::DOCUMENTS_MAX {
            self.queue.retain(|(at, document)| self.due.get(document) == Some(at));
        }
        self.due.insert(document.clone(), due);
        self.queue.push_back((due, document.clone()));
    }

    /// A snapshot is made of a document for another reason.
    pub(super) fn forget(&mut self, document: &DocumentId) {
        self.due.remove(document);
    }

    /// When to hand over again; `None` as long as nothing changes.
    pub(super) fn next(&mut self, now: Instant) -> Option<Instant> {
        let oldest = self.oldest()?;
        Some(if self.due.len() > Self::DOCUMENTS_MAX { oldest.min(now) } else { oldest })
    }

    /// Hands over what is due. One that is not taken waits once more, as long as there is room.
    pub(super) fn hand_over(
        &mut self,
        now: Instant,
        mut take: impl FnMut(DocumentId) -> Result<(), DocumentId>,
    ) {
        while let Some(document) = self.pop(now) {
            if let Err(document) = take(document)
                && self.due.len() < Self::DOCUMENTS_MAX
            {
                self.changed(&document, now);
            }
        }
    }

    fn pop(&mut self, now: Instant) -> Option<DocumentId> {
        if self.next(now)? > now {
            return None;
        }
        let (_, document) = self.queue.pop_front()?;
        self.due.remove(&document);
        Some(document)
    }

    /// When the one that waits longest is due by its age.
    fn oldest(&mut self) -> Option<Instant> {
        while let Some((at, document)) = self.queue.front() {
            if self.due.get(document) == Some(at) {
                return Some(*at);
            }
            self.queue.pop_front();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> DocumentId {
        DocumentId::new(name).unwrap()
    }

    fn handed_over(aging: &mut Aging, now: Instant) -> Vec<DocumentId> {
        let mut taken = Vec::new();
        aging.hand_over(now, |document| {
            taken.push(document);
            Ok(())
        });
        taken
    }

    #[tokio::test(start_paused = true)]
    async fn at_an_age_that_is_never_reached_nothing_is_due() {
        let mut aging = Aging::new(Some(Duration::MAX));
        let now = crate::service::now();
        aging.changed(&id("a"), now);
        assert_eq!(aging.next(now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_document_is_due_when_its_oldest_change_is_old() {
        let now = crate::service::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut aging = Aging::new(Some(Duration::from_secs(60)));
        aging.changed(&id("a"), now);
        aging.changed(&id("b"), after(10));
        aging.changed(&id("a"), after(50));
        assert_eq!(aging.next(after(59)), Some(after(60)));
        assert_eq!(handed_over(&mut aging, after(59)), []);
        assert_eq!(handed_over(&mut aging, after(60)), [id("a")]);
        // The snapshot was made for another reason, and a later change waits anew.
        aging.forget(&id("b"));
        aging.changed(&id("b"), after(65));
        assert_eq!(aging.next(after(124)), Some(after(125)));
        assert_eq!(handed_over(&mut aging, after(124)), []);
        assert_eq!(handed_over(&mut aging, after(125)), [id("b")]);
        assert_eq!(aging.next(after(125)), None);
        aging = Aging::new(None);
        aging.changed(&id("a"), now);
        assert_eq!(aging.next(now), None);
        assert_eq!(handed_over(&mut aging, after(1 << 40)), []);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_not_taken_waits_once_more() {
        let now = crate::service::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut aging = Aging::new(Some(Duration::from_secs(60)));
        aging.changed(&id("a"), now);
        aging.hand_over(after(60), Err);
        assert_eq!(aging.next(after(60)), Some(after(120)));
        assert_eq!(handed_over(&mut aging, after(120)), [id("a")]);
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_bound_the_oldest_is_due_before_its_time() {
        let now = crate::service::now();
        let mut aging = Aging::new(Some(Duration::from_secs(60)));
        for n in 0..Aging::DOCUMENTS_MAX {
            aging.changed(&id(&format!("d{n}")), now);
        }
        assert_eq!(aging.next(now), Some(now + Duration::from_secs(60)));
        aging.changed(&id("more"), now);
        assert_eq!(aging.next(now), Some(now), "who waits for the next time wakes up at once");
        assert_eq!(handed_over(&mut aging, now), [id("d0")]);
        // What is forgotten and comes again and again takes no more room than that.
        for _ in 0..3 * Aging::DOCUMENTS_MAX {
            aging.forget(&id("d1"));
            aging.changed(&id("d1"), now);
        }
        assert!(aging.queue.len() <= 2 * Aging::DOCUMENTS_MAX);
    }

    /// As when more documents change at once than snapshots can be asked for.
    #[tokio::test(start_paused = true)]
    async fn above_the_bound_handing_over_ends_though_nobody_takes_anything() {
        let now = crate::service::now();
        let mut aging = Aging::new(Some(Duration::from_secs(60)));
        for n in 0..Aging::DOCUMENTS_MAX + 100 {
            aging.changed(&id(&format!("d{n}")), now);
        }
        let mut refused = 0;
        aging.hand_over(now, |document| {
            refused += 1;
            Err(document)
        });
        assert_eq!((refused, aging.due.len()), (100, Aging::DOCUMENTS_MAX));
    }
}
