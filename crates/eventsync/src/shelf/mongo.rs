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
    ("vector", "state_vectors"),
    ("clock", "vector_clocks"),
    ("idempotency", "idempotency_keys"),
    ("", "shelf"),
];

/// How often a command is sent whose connection is cut, and the pause between.
const TRIES_MAX: u32 = 50;
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

/// Sends a command again whose connection was cut, or whose server is one no more: each here may be applied twice. A swap that
/// was applied the first time is answered as if somebody else had been faster, and whoever swaps looks again.
async fn again<T, F>(command: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    for _ in 1..TRIES_MAX {
        match command().await {
            Err(error) if is_passing(&error) => tokio::time::sleep(TRY_PAUSE).await,
            done => return done,
        }
    }
    command().await
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
        let found = again(|| async { rows.find_one(doc! {"_id": id(key)}).await }).await?;
        found.as_ref().map(value).transpose()
    }

    /// Every write is as durable as the connection says: there is no cheaper one.
    async fn put(&self, key: Vec<u8>, value: Vec<u8>, _: Durability) -> Result<(), ShelfError> {
        let set = doc! {"$set": {"about": about(&key), "value": text(value)?}};
        let (rows, row) = (self.collection(&key), doc! {"_id": id(&key)});
        again(|| async { rows.update_one(row.clone(), set.clone()).upsert(true).await }).await?;
        Ok(())
    }

    async fn remove(&self, key: Vec<u8>) -> Result<(), ShelfError> {
        let rows = self.collection(&key);
        again(|| async { rows.delete_one(doc! {"_id": id(&key)}).await }).await?;
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
        match (row.contains_key("value"), value) {
            (true, Some(value)) => {
                let set = doc! {"$set": {"value": text(value)?}};
                let done = again(|| async { rows.update_one(row.clone(), set.clone()).await }).await?;
                Ok(done.matched_count > 0)
            }
            (true, None) => {
                let done = again(|| async { rows.delete_one(row.clone()).await }).await?;
                Ok(done.deleted_count > 0)
            }
            (false, Some(value)) => {
                let row = doc! {"_id": id(&key), "about": about(&key), "value": text(value)?};
                match again(|| async { rows.insert_one(row.clone()).await }).await {
                    Ok(_) => Ok(true),
                    Err(error) if is_duplicate(&error) => Ok(false),
                    Err(error) => Err(error.into()),
                }
            }
            (false, None) => Ok(again(|| async { rows.find_one(row.clone()).await }).await?.is_none()),
        }
    }

    async fn scan(&self, range: ScanRange, limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>, ShelfError> {
        if range.from >= range.to || limit == 0 {
            return Ok(Vec::new());
        }
        let collection = self.collection(&range.from);
        let within = doc! {"_id": {"$gte": id(&range.from), "$lt": id(&range.to)}};
        let order = if range.backwards { -1 } else { 1 };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = again(|| async {
            let find = collection.find(within.clone()).sort(doc! {"_id": order}).limit(limit);
            find.await?.try_collect::<Vec<Bsons>>().await
        });
        let mut found = Vec::new();
        for row in rows.await? {
            if let Some(key) = row.get_str("_id").ok().and_then(key) {
                found.push((key, value(&row)?));
            }
        }
        Ok(found)
    }
}
