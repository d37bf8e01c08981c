//! A turn for who loses every time.
//!
//! Compare-and-swap favours who is near: between the reading and the write of a process that takes longer, or that has to
//! read, one that writes upon what it remembers writes several times, and wins each time. To pause longer after each try, as
//! the other one does not, makes it worse. So who has lost [`CLAIM_AFTER`] times reads the document by a write, which gives
//! it the id of a write that nobody has made: a claim. Whatever others have on its way finds another id than it asks for, and
//! whoever reads a claim lets [`TURN`] pass before it writes. What the claimant writes ends the claim; one whose claimant is gone
//! costs the next writer that time, and no more.

use std::time::Duration;

use mongodb::{
    bson::{Bson, doc},
    options::ReturnDocument,
};

use super::{
    failure::Failure,
    record::{Stored, WriteId},
    relay::Key,
    storage::MongoStorage,
};
use crate::Storage;

/// How often a writer loses before it claims the document.
pub(super) const CLAIM_AFTER: u32 = 3;

/// How long others let a claimant go first: long enough to compute and to write from far away.
const TURN: Duration = Duration::from_millis(100);

/// The id of a write that nobody makes: of the time 0.
fn claim() -> WriteId {
    let mut bytes = WriteId::new().bytes();
    bytes[..4].fill(0);
    WriteId::from_bytes(bytes)
}

/// Whether somebody has claimed a document, and has not written yet.
fn is_claimed(stored: &Stored) -> bool {
    stored.write.is_some_and(|write| write.bytes()[..4] == [0; 4])
}

impl MongoStorage {
    /// Reads a document to write it, after whoever has claimed it.
    pub(super) async fn stored_in_turn(&self, key: &Key) -> Result<Option<Stored>, Failure> {
        let stored = self.stored_to_write(key).await?;
        if !stored.as_ref().is_some_and(is_claimed) {
            return Ok(stored);
        }
        tokio::time::sleep(TURN).await;
        self.stored_to_write(key).await
    }

    /// Reads a document and claims it, unless another one has.
    pub(super) async fn claimed(&self, key: &Key) -> Result<Option<Stored>, Failure> {
        let unclaimed = doc! {"_id": key.id.as_str(), "_weft.write": {"$gte": first_unclaimed()}};
        let claim = self.documents.find_one_and_update(unclaimed, doc! {"$set": {"_weft.write": claim()}});
        match claim.return_document(ReturnDocument::After).await? {
            Some(raw) => Ok(Some(Stored::decode(raw, self.version_field())?)),
            None => self.stored_in_turn(key).await,
        }
    }
}

/// The first of the ids that are no claims.
fn first_unclaimed() -> Bson {
    let mut bytes = [0; 12];
    bytes[3] = 1;
    Bson::ObjectId(WriteId::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DocumentId;

    #[test]
    fn a_claim_is_no_write_and_stands_before_all_writes() {
        let id = DocumentId::new("a").unwrap();
        let by = |write| Stored { write: Some(write), ..Stored::absent(id.clone(), 1, Default::default()) };
        let Bson::ObjectId(first) = first_unclaimed() else { panic!("not an id") };
        assert!(is_claimed(&by(claim())) && claim() < first && claim() != claim());
        for write in [WriteId::new(), first] {
            assert!(!is_claimed(&by(write)) && write >= first);
        }
        assert!(!is_claimed(&Stored::absent(id, 1, Default::default())));
    }
}
