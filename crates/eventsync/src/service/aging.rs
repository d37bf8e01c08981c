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
    /// How many documents wait. At the bound the oldest is due before its time.
    pub(super) const DOCUMENTS_MAX: usize = 16_384;

    pub(super) fn new(age: Option<Duration>) -> Self {
        Self { age, due: HashMap::new(), queue: VecDeque::new() }
    }

    /// A document has changed.
    pub(super) fn changed(&mut self, document: &DocumentId, now: Instant) {
        let Some(age) = self.age else { return };
        if self.due.contains_key(document) {
            return;
        }
        if self.queue.len() >= 2 * Self::DOCUMENTS_MAX {
            self.queue.retain(|(at, document)| self.due.get(document) == Some(at));
        }
        self.due.insert(document.clone(), now + age);
        self.queue.push_back((now + age, document.clone()));
    }

    /// A snapshot is made of a document for another reason.
    pub(super) fn forget(&mut self, document: &DocumentId) {
        self.due.remove(document);
    }

    /// When to look again; `None` as long as nothing changes.
    pub(super) fn next(&mut self) -> Option<Instant> {
        while let Some((at, document)) = self.queue.front() {
            if self.due.get(document) == Some(at) {
                return Some(*at);
            }
            self.queue.pop_front();
        }
        None
    }

    /// The next document that is due.
    pub(super) fn take(&mut self, now: Instant) -> Option<DocumentId> {
        let at = self.next()?;
        if at > now && self.due.len() <= Self::DOCUMENTS_MAX {
            return None;
        }
        let (_, document) = self.queue.pop_front()?;
        self.due.remove(&document);
        Some(document)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> DocumentId {
        DocumentId::new(name).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_document_is_due_when_its_oldest_change_is_old() {
        let now = crate::service::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut aging = Aging::new(Some(Duration::from_secs(60)));
        aging.changed(&id("a"), now);
        aging.changed(&id("b"), after(10));
        aging.changed(&id("a"), after(50));
        assert_eq!((aging.next(), aging.take(after(59))), (Some(after(60)), None));
        assert_eq!((aging.take(after(60)), aging.take(after(60))), (Some(id("a")), None));
        // The snapshot was made for another reason, and a later change waits anew.
        aging.forget(&id("b"));
        aging.changed(&id("b"), after(65));
        assert_eq!((aging.next(), aging.take(after(124))), (Some(after(125)), None));
        assert_eq!((aging.take(after(125)), aging.next()), (Some(id("b")), None));
        aging = Aging::new(None);
        aging.changed(&id("a"), now);
        assert_eq!((aging.next(), aging.take(after(1 << 40))), (None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_bound_the_oldest_is_due_before_its_time() {
        let now = crate::service::now();
        let mut aging = Aging::new(Some(Duration::from_secs(60)));
        for n in 0..=Aging::DOCUMENTS_MAX {
            aging.changed(&id(&format!("d{n}")), now);
        }
        assert_eq!((aging.take(now), aging.take(now)), (Some(id("d0")), None));
        // What is forgotten and comes again and again takes no more room than that.
        for _ in 0..3 * Aging::DOCUMENTS_MAX {
            aging.forget(&id("d1"));
            aging.changed(&id("d1"), now);
        }
        assert!(aging.queue.len() <= 2 * Aging::DOCUMENTS_MAX);
    }
}
