//! Writers that do not count name their requests, and a repeated name gets the first answer.

use std::{collections::HashSet, sync::Arc};

use nodestorage::DocumentId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{
    access::Principal,
    protocol::{Problem, ProblemType},
    shelf::{self, Durability, ScanRange, Shelf, ShelfError},
};

/// The name of one request and what it asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The name, as the client chose it.
    pub name: String,
    /// A digest of the request, so that the same name for another request is noticed.
    pub fingerprint: u64,
}

impl IdempotencyKey {
    /// The longest name.
    pub const LEN_BYTES_MAX: usize = 255;
    /// How long the first answer is remembered.
    pub const KEPT_MS: u64 = 24 * 60 * 60 * 1000;

    /// A key of a request that consists of these parts. FNV-1a, because it is the same in every release.
    pub fn new(name: &str, parts: &[&[u8]]) -> Result<Self, Problem> {
        if name.is_empty() || name.len() > Self::LEN_BYTES_MAX || !name.bytes().all(|b| b.is_ascii_graphic())
        {
            let max = Self::LEN_BYTES_MAX;
            let detail = format!("Idempotency-Key must be 1 to {max} visible ASCII characters");
            return Err(Problem::new(ProblemType::InvalidRequest, detail).with("limit", max));
        }
        let mut fingerprint = 0xcbf2_9ce4_8422_2325_u64;
        for part in parts {
            for byte in part.iter().chain(&[0]) {
                fingerprint = (fingerprint ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        Ok(Self { name: name.to_owned(), fingerprint })
    }

    /// The key of one principal, who gets nobody else's answers by it. The name has no space, so no two principals have
    /// one in common.
    #[must_use]
    pub fn of(self, principal: &Principal) -> Self {
        match principal.name() {
            Some(who) => Self { name: format!("{who} {}", self.name), ..self },
            None => self,
        }
    }
}

/// What is known of a named request.
///
/// It is written, durably, before the write that it names. Should the server die between the two, the repeat finds it
/// without an answer and looks for the name in the document's events from `base` on: the write is there or it is not.
/// docs/decisions/0154 says why two processes may do so at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub(super) fingerprint: u64,
    pub(super) document_id: DocumentId,
    /// The document's version before the write.
    pub(super) base: u64,
    /// The version that the write produced.
    pub(super) done: Option<u64>,
    pub(super) created_at: u64,
    /// How often somebody set out to do it: after a crash, or in two processes at once.
    #[serde(default = "once")]
    pub(super) claims: u32,
}

fn once() -> u32 {
    1
}

pub(super) struct Table {
    shelf: Arc<dyn Shelf>,
    // The requests under way; held for the moment of a look-up. Bounded by the connections of the server.
    under_way: Arc<Mutex<HashSet<String>>>,
}

/// The right to carry out a named request in this process; there is one at a time.
pub(super) struct Claim {
    name: String,
    under_way: Arc<Mutex<HashSet<String>>>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.under_way.lock().remove(&self.name);
    }
}

impl Table {
    /// How many records one round of [`Self::forget_old`] looks at.
    const FORGET_PAGE: usize = 1024;

    pub(super) fn new(shelf: Arc<dyn Shelf>) -> Self {
        Self { shelf, under_way: Arc::default() }
    }

    pub(super) fn claim(&self, name: &str) -> Result<Claim, Problem> {
        if !self.under_way.lock().insert(name.to_owned()) {
            let detail = "the first request with this Idempotency-Key is still under way";
            return Err(Problem::new(ProblemType::IdempotencyInProgress, detail).with("retryAfterMs", 200));
        }
        Ok(Claim { name: name.to_owned(), under_way: Arc::clone(&self.under_way) })
    }

    /// Notes that the request is set out for, by whoever does so first among all processes with `fresh`, and returns what
    /// is known of it from then on.
    pub(super) async fn open(
        &self,
        key: &IdempotencyKey,
        fresh: Record,
        now_ms: u64,
    ) -> Result<Record, Problem> {
        loop {
            let bytes = self.shelf.get(&place(&key.name)).await?;
            let known = bytes.as_deref().and_then(|bytes| shelf::decode::<Record>("idempotency key", bytes));
            let known =
                known.filter(|known| now_ms.saturating_sub(known.created_at) <= IdempotencyKey::KEPT_MS);
            let opened = match known {
                Some(known) if known.fingerprint != key.fingerprint => {
                    let detail = format!("Idempotency-Key {:?} was used for another request", key.name);
                    return Err(Problem::new(ProblemType::IdempotencyKeyReused, detail));
                }
                Some(known) if known.done.is_some() => return Ok(known),
                Some(known) => Record { claims: known.claims.saturating_add(1), ..known },
                None => fresh.clone(),
            };
            let value = Some(shelf::encode(&opened)?);
            if self.shelf.swap(place(&key.name), bytes, value, Durability::Synced).await? {
                return Ok(opened);
            }
        }
    }

    pub(super) async fn keep(
        &self,
        key: &IdempotencyKey,
        record: &Record,
        durability: Durability,
    ) -> Result<(), Problem> {
        Ok(self.shelf.put(place(&key.name), shelf::encode(record)?, durability).await?)
    }

    /// Forgets a request that was refused, unless somebody else has set out for it as well: they may be writing, and if
    /// they die their write is found by this record.
    pub(super) async fn forget(&self, key: &IdempotencyKey, opened: &Record) -> Result<(), Problem> {
        if opened.claims == 1 {
            let known = Some(shelf::encode(opened)?);
            self.shelf.swap(place(&key.name), known, None, Durability::Synced).await?;
        }
        Ok(())
    }

    /// Forgets records that are older than they need to be.
    pub(super) async fn forget_old(&self, now_ms: u64) -> Result<usize, ShelfError> {
        let mut range = ScanRange::of_prefix(&shelf::key(&["idempotency"]));
        let mut gone = 0;
        loop {
            let page = self.shelf.scan(range.clone(), Self::FORGET_PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(gone) };
            range.from.clone_from(last);
            range.from.push(0);
            for (key, bytes) in page {
                let old = shelf::decode::<Record>("idempotency key", &bytes)
                    .is_none_or(|r| now_ms.saturating_sub(r.created_at) > IdempotencyKey::KEPT_MS);
                // Not by its key alone: somebody may have used the name again just now, and would lose the record of it.
                if old && self.shelf.swap(key, Some(bytes), None, Durability::Lazy).await? {
                    gone += 1;
                }
            }
        }
    }
}

fn place(name: &str) -> Vec<u8> {
    shelf::key(&["idempotency", name])
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::shelf::MemoryShelf;

    const NAME: &str = "a-name";

    fn record(created_at: u64) -> Record {
        let document_id = DocumentId::new("go").unwrap();
        Record { fingerprint: 1, document_id, base: 0, done: Some(1), created_at, claims: 1 }
    }

    /// Another process takes an old name for a new request between the look at all of them and what is done about them.
    struct Taken(MemoryShelf);

    #[async_trait]
    impl Shelf for Taken {
        async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ShelfError> {
            self.0.get(key).await
        }

        async fn put(&self, key: Vec<u8>, value: Vec<u8>, durability: Durability) -> Result<(), ShelfError> {
            self.0.put(key, value, durability).await
        }

        async fn remove(&self, key: Vec<u8>) -> Result<(), ShelfError> {
            self.0.remove(key).await
        }

        async fn swap(
            &self,
            key: Vec<u8>,
            expected: Option<Vec<u8>>,
            value: Option<Vec<u8>>,
            durability: Durability,
        ) -> Result<bool, ShelfError> {
            self.0.swap(key, expected, value, durability).await
        }

        async fn scan(&self, range: ScanRange, limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>, ShelfError> {
            let found = self.0.scan(range, limit).await?;
            let young = shelf::encode(&record(2 * IdempotencyKey::KEPT_MS))?;
            self.0.put(place(NAME), young, Durability::Lazy).await?;
            Ok(found)
        }
    }

    #[tokio::test]
    async fn a_name_that_is_taken_again_is_not_forgotten_as_an_old_one() {
        let shelf = Arc::new(Taken(MemoryShelf::new()));
        for name in [NAME, "another"] {
            shelf.put(place(name), shelf::encode(&record(0)).unwrap(), Durability::Lazy).await.unwrap();
        }
        let table = Table::new(shelf.clone());
        assert_eq!(table.forget_old(2 * IdempotencyKey::KEPT_MS).await.unwrap(), 1);
        assert!(shelf.get(&place(NAME)).await.unwrap().is_some());
        assert_eq!(shelf.get(&place("another")).await.unwrap(), None);
    }
}
