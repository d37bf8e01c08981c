//! A shelf in a MongoDB database, shared by all processes that have it open.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use nodestorage::{
    MongoStore,
    mongo::{
        driver::{
            Collection, Database,
            bson::{Document as Bsons, doc},
            error::{Error, ErrorKind, WriteFailure},
        },
        is_passing,
    },
};

use super::{Durability, ScanRange, Shelf, ShelfError};

/// The collection of each kind of thing; whatever is of no known kind is in the last one.
const COLLECTIONS: &[(&str, &str)] = &[
    ("snapshot", "snapshots"),
    ("snapshot_line", "snapshots"),
    ("vector", "state_vectors"),
    ("clock", "vector_clocks"),
    ("idempotency", "idempotency_keys"),
    ("", "shelf"),
];

/// For how long a command is sent again whose connection is cut: as long as an operation of the store may take by its standard
/// options. Each try may take as long as the driver looks for a server.
const TRIES_TIME: Duration = Duration::from_secs(30);
const TRY_PAUSE: Duration = Duration::from_millis(100);

/// Keeps everything in the database of a store, each kind in a collection of its own: snapshots in `snapshots`, what
/// clients have in `state_vectors`, clocks in `vector_clocks`. The layout is docs/formats/mongodb.md, "Shelf".
#[derive(Debug, Clone)]
pub struct MongoShelf {
    database: Database,
}

impl From<Error> for ShelfError {
    fn from(error: Error) -> Self {
        Self(error.to_string())
    }
}

impl MongoShelf {
    /// A shelf beside the documents of a store, over the store's connections. It ends with the store.
    pub fn new(store: &MongoStore) -> Self {
        Self { database: store.database().clone() }
    }

    /// Keys begin with their kind, so a range lies in one collection.
    fn collection(&self, key: &[u8]) -> Collection<Bsons> {
        let kind = key.split(|byte| *byte == 0).next().unwrap_or_default();
        let found = COLLECTIONS.iter().find(|(name, _)| name.as_bytes() == kind);
        self.database.collection(found.unwrap_or(&COLLECTIONS[COLLECTIONS.len() - 1]).1)
    }

    /// The rows of a range, in its order; `shown` names the fields that are wanted, all if none.
    async fn rows(&self, range: &ScanRange, limit: usize, shown: Bsons) -> Result<Vec<Bsons>, ShelfError> {
        if range.from >= range.to || limit == 0 {
            return Ok(Vec::new());
        }
        let collection = self.collection(&range.from);
        let within = doc! {"_id": {"$gte": id(&range.from), "$lt": id(&range.to)}};
        let order = if range.backwards { -1 } else { 1 };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = again(|| async {
            let find = collection.find(within.clone()).projection(shown.clone());
            find.sort(doc! {"_id": order}).limit(limit).await?.try_collect::<Vec<Bsons>>().await
        });
        Ok(rows.await?.got?)
    }
}

/// Hexadecimal, because text keeps the order of the bytes; binary data would be ordered by length.
fn id(key: &[u8]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn key(id: &str) -> Option<Vec<u8>> {
    let digits =
        id.as_bytes().chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
    digits.collect()
}

/// The second part of a key, for those who look into the database: mostly the document.
fn about(key: &[u8]) -> String {
    String::from_utf8_lossy(key.split(|byte| *byte == 0).nth(1).unwrap_or_default()).into_owned()
}

fn text(value: Vec<u8>) -> Result<String, ShelfError> {
    String::from_utf8(value).map_err(|_| ShelfError("a value that is no text".to_owned()))
}

/// What a command was answered in the end.
struct Answer<T> {
    got: Result<T, Error>,
    /// It was sent more than once, so it may have been carried out more than once: each here may.
    repeated: bool,
}

/// Sends a command again whose connection was cut, or whose server is one no more.
async fn again<T, F>(command: impl Fn() -> F) -> Result<Answer<T>, ShelfError>
where
    F: Future<Output = Result<T, Error>>,
{
    let answered = async {
        let mut repeated = false;
        loop {
            match command().await {
                Err(error) if is_passing(&error) => tokio::time::sleep(TRY_PAUSE).await,
                got => return Answer { got, repeated },
            }
            repeated = true;
        }
    };
    let answered = tokio::time::timeout(TRIES_TIME, answered).await;
    answered.map_err(|_| ShelfError(format!("the database has not answered within {TRIES_TIME:?}")))
}

/// Another process was faster.
fn is_duplicate(error: &Error) -> bool {
    const DUPLICATE_KEY: i32 = 11_000;
    matches!(&*error.kind, ErrorKind::Write(WriteFailure::WriteError(error)) if error.code == DUPLICATE_KEY)
}

fn value(row: &Bsons) -> Result<Vec<u8>, ShelfError> {
    let unreadable =
        || ShelfError(format!("row {} has no value", row.get("_id").cloned().unwrap_or_default()));
    row.get_str("value").map(|value| value.as_bytes().to_vec()).map_err(|_| unreadable())
}

#[async_trait]
impl Shelf for MongoShelf {
    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ShelfError> {
        let rows = self.collection(key);
        let found = again(|| async { rows.find_one(doc! {"_id": id(key)}).await }).await?.got?;
        found.as_ref().map(value).transpose()
    }

    /// Every write is as durable as the connection says: there is no cheaper one.
    async fn put(&self, key: Vec<u8>, value: Vec<u8>, _: Durability) -> Result<(), ShelfError> {
        let set = doc! {"$set": {"about": about(&key), "value": text(value)?}};
        let (rows, row) = (self.collection(&key), doc! {"_id": id(&key)});
        again(|| async { rows.update_one(row.clone(), set.clone()).upsert(true).await }).await?.got?;
        Ok(())
    }

    async fn remove(&self, key: Vec<u8>) -> Result<(), ShelfError> {
        let rows = self.collection(&key);
        again(|| async { rows.delete_one(doc! {"_id": id(&key)}).await }).await?.got?;
        Ok(())
    }

    async fn swap(
        &self,
        key: Vec<u8>,
        expected: Option<Vec<u8>>,
        value: Option<Vec<u8>>,
        _: Durability,
    ) -> Result<bool, ShelfError> {
        let rows = self.collection(&key);
        let row = match expected {
            Some(expected) => doc! {"_id": id(&key), "value": text(expected)?},
            None => doc! {"_id": id(&key)},
        };
        let (done, repeated) = match (row.contains_key("value"), &value) {
            (true, Some(value)) => {
                let set = doc! {"$set": {"value": text(value.clone())?}};
                let answer = again(|| async { rows.update_one(row.clone(), set.clone()).await }).await?;
                (answer.got?.matched_count > 0, answer.repeated)
            }
            (true, None) => {
                let answer = again(|| async { rows.delete_one(row.clone()).await }).await?;
                (answer.got?.deleted_count > 0, answer.repeated)
            }
            (false, Some(value)) => {
                let row = doc! {"_id": id(&key), "about": about(&key), "value": text(value.clone())?};
                let answer = again(|| async { rows.insert_one(row.clone()).await }).await?;
                match answer.got {
                    Ok(_) => (true, answer.repeated),
                    Err(error) if is_duplicate(&error) => (false, answer.repeated),
                    Err(error) => return Err(error.into()),
                }
            }
            (false, None) => {
                let answer = again(|| async { rows.find_one(row.clone()).await }).await?;
                (answer.got?.is_none(), false)
            }
        };
        // What was sent twice may have been refused because the first has arrived: then it is as it was to be.
        Ok(done || (repeated && self.get(&key).await? == value))
    }

    async fn scan(&self, range: ScanRange, limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>, ShelfError> {
        let mut found = Vec::new();
        for row in self.rows(&range, limit, doc! {}).await? {
            if let Some(key) = row.get_str("_id").ok().and_then(key) {
                found.push((key, value(&row)?));
            }
        }
        Ok(found)
    }

    async fn keys(&self, range: ScanRange, limit: usize) -> Result<Vec<Vec<u8>>, ShelfError> {
        let rows = self.rows(&range, limit, doc! {"_id": 1}).await?;
        Ok(rows.iter().filter_map(|row| key(row.get_str("_id").ok()?)).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_command_is_sent_again_for_as_long_as_an_operation_may_take() {
        let answered = again(|| async {
            // As long as the driver looks for a server.
            tokio::time::sleep(Duration::from_secs(10)).await;
            Err::<(), _>(Error::from(io::Error::from(io::ErrorKind::ConnectionRefused)))
        });
        let in_time = tokio::time::timeout(TRIES_TIME + Duration::from_millis(1), answered).await;
        assert!(in_time.expect("it ends in time").is_err());
    }
}
