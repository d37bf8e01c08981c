//! Documents as types of the application.

use std::{marker::PhantomData, sync::Arc};

use crdt_core::ClientId;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    Body, Deleted, Diff, Document, DocumentId, EditOptions, Edited, Storage, StorageError, StorageExt,
    Upserted, diff::apply_json_patch, edit::EditError,
};

/// A collection whose documents are of one type, edited by one client.
///
/// ```
/// use std::{convert::Infallible, sync::Arc};
/// use crdt_core::ClientId;
/// use nodestorage::{DocumentId, MemoryStorage, TypedStorage};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct GameState { name: String, gold: u64, experience: u64 }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let games = TypedStorage::<GameState>::new(Arc::new(MemoryStorage::default()), ClientId::new("game-server")?);
/// let id = DocumentId::new("first")?;
/// games.find_one_and_upsert(&id, &GameState { name: "Ann".into(), gold: 0, experience: 0 }).await?;
///
/// let updated = games
///     .find_one_and_update(&id, |game| {
///         game.gold += 50;
///         game.experience += 100;
///         Ok::<_, Infallible>(())
///     })
///     .await?;
/// assert_eq!((updated.document.version, updated.document.value.gold), (2, 50));
/// assert_eq!(updated.diff.merge_patch, Some(serde_json::json!({"gold": 50, "experience": 100})));
/// # Ok(())
/// # }
/// ```
///
/// A field that is stored but that the type does not know (written by a newer version of the application, say) is left
/// as it is: an edit changes what it changed in the type and nothing else.
pub struct TypedStorage<T> {
    storage: Arc<dyn Storage>,
    client_id: ClientId,
    of: PhantomData<fn() -> T>,
}

impl<T> Clone for TypedStorage<T> {
    fn clone(&self) -> Self {
        Self { storage: self.storage.clone(), client_id: self.client_id.clone(), of: PhantomData }
    }
}

/// A document, read as a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Typed<T> {
    /// Its name.
    pub id: DocumentId,
    /// How many changes made it.
    pub version: u64,
    /// Its fields.
    pub value: T,
}

/// What an update came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Updated<T> {
    /// The document as it is now.
    pub document: Typed<T>,
    /// What changed; [empty](Diff::has_changes) if nothing did, or if the write was a repeat.
    pub diff: Diff,
}

impl<T: Serialize + DeserializeOwned + Send> TypedStorage<T> {
    /// The documents of a collection as this type; changes are made in the name of a client.
    pub fn new(storage: Arc<dyn Storage>, client_id: ClientId) -> Self {
        Self { storage, client_id, of: PhantomData }
    }

    /// The collection underneath.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Reads a document.
    pub async fn find_one(&self, id: &DocumentId) -> Result<Option<Typed<T>>, StorageError> {
        self.storage.find_one(id).await?.map(typed).transpose()
    }

    /// Creates the document if it is absent. Returns it as it is now, and whether it was created.
    pub async fn find_one_and_upsert(
        &self,
        id: &DocumentId,
        value: &T,
    ) -> Result<(Typed<T>, bool), StorageError> {
        let body = to_body(id, value)?;
        let options = EditOptions::by(self.client_id.clone());
        match self.storage.find_one_and_upsert(id, body, options).await? {
            Upserted::Created { document, .. } => Ok((typed(document)?, true)),
            Upserted::Existing { document } => Ok((typed(document)?, false)),
            Upserted::Repeated { .. } => unreachable!("an uncounted write is never a repeat"),
        }
    }

    /// Reads, edits and writes back, as one step. The edit may run several times.
    pub async fn find_one_and_update<E: Into<EditError>>(
        &self,
        id: &DocumentId,
        edit: impl FnMut(&mut T) -> Result<(), E> + Send,
    ) -> Result<Updated<T>, StorageError> {
        self.find_one_and_update_with(id, edit, EditOptions::by(self.client_id.clone())).await
    }

    /// [`find_one_and_update`](Self::find_one_and_update) with options: an expected version, a counted write, metadata.
    pub async fn find_one_and_update_with<E: Into<EditError>>(
        &self,
        id: &DocumentId,
        mut edit: impl FnMut(&mut T) -> Result<(), E> + Send,
        options: EditOptions,
    ) -> Result<Updated<T>, StorageError> {
        let edit = |body: &mut Body| -> Result<(), EditError> {
            let mut value = T::deserialize(Value::Object(body.clone()))?;
            let before = to_body(id, &value)?;
            edit(&mut value).map_err(Into::into)?;
            let after = to_body(id, &value)?;
            let diff = Diff::between(Some(&before), Some(&after), 0);
            if diff.has_changes() {
                lay_over(body, before);
                *body = apply_json_patch(Some(std::mem::take(body)), &diff.json_patch)?.unwrap_or_default();
            }
            Ok(())
        };
        let (document, diff) = match self.storage.edit(id, edit, options).await? {
            Edited::Changed { document, change } => (document, change.diff.clone()),
            Edited::Unchanged { document } => {
                let diff = Diff::empty(document.version);
                (document, diff)
            }
            Edited::Repeated { document, .. } => {
                let document = document.ok_or_else(|| StorageError::NotFound { id: id.clone() })?;
                let diff = Diff::empty(document.version);
                (document, diff)
            }
        };
        Ok(Updated { document: typed(document)?, diff })
    }

    /// Deletes the document. Returns whether it was there.
    pub async fn delete_one(&self, id: &DocumentId) -> Result<bool, StorageError> {
        let options = EditOptions::by(self.client_id.clone());
        Ok(matches!(self.storage.delete_one(id, options).await?, Deleted::Deleted { .. }))
    }
}

fn typed<T: DeserializeOwned>(document: Document) -> Result<Typed<T>, StorageError> {
    let value = document.to()?;
    Ok(Typed { id: document.id, version: document.version, value })
}

fn to_body<T: Serialize>(id: &DocumentId, value: &T) -> Result<Body, StorageError> {
    let invalid = |reason: String| StorageError::InvalidDocument { id: id.clone(), reason };
    match serde_json::to_value(value) {
        Ok(Value::Object(body)) => Ok(body),
        Ok(_) => Err(invalid("the type is not written as an object".into())),
        Err(error) => Err(invalid(error.to_string())),
    }
}

/// Writes what the type knows over what is stored, so that a patch between two values of the type fits. Fields that the
/// type fills in when they are missing appear; fields that it does not know stay.
fn lay_over(stored: &mut Body, known: Body) {
    for (key, known) in known {
        match (stored.get_mut(&key), known) {
            (Some(stored), known) => lay_value_over(stored, known),
            (None, known) => drop(stored.insert(key, known)),
        }
    }
}

fn lay_value_over(stored: &mut Value, known: Value) {
    match (stored, known) {
        (Value::Object(stored), Value::Object(known)) => lay_over(stored, known),
        (Value::Array(stored), Value::Array(known)) if stored.len() == known.len() => {
            stored.iter_mut().zip(known).for_each(|(stored, known)| lay_value_over(stored, known));
        }
        (stored, known) => *stored = known,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::MemoryStorage;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Game {
        gold: u64,
        #[serde(default)]
        level: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        guild: Option<String>,
        items: Vec<Item>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Item {
        name: String,
    }

    /// What an edit makes of a stored document.
    async fn check(stored: Value, edit: impl FnMut(&mut Game) + Send, expected: Value) {
        let storage = Arc::new(MemoryStorage::default());
        let (id, client) = (DocumentId::new("a").unwrap(), ClientId::new("c").unwrap());
        let Value::Object(body) = stored else { panic!("{stored} is not an object") };
        storage.find_one_and_upsert(&id, body, EditOptions::by(client.clone())).await.unwrap();
        let games = TypedStorage::<Game>::new(storage.clone(), client);
        let mut edit = edit;
        let edit = |game: &mut Game| {
            edit(game);
            Ok::<_, Infallible>(())
        };
        games.find_one_and_update(&id, edit).await.unwrap();
        let now = storage.find_one(&id).await.unwrap().unwrap();
        assert_eq!(Value::Object((*now.body).clone()), expected);
    }

    #[tokio::test]
    async fn fields_that_the_type_does_not_know_stay() {
        check(
            json!({"gold": 1, "new": [1], "items": [{"name": "axe", "rust": 2}, {"name": "bow"}]}),
            |game| {
                game.gold = 5;
                game.items[1].name = "old bow".into();
                game.items.insert(0, Item { name: "cap".into() });
            },
            json!({
                "gold": 5, "level": 0, "new": [1],
                "items": [{"name": "cap"}, {"name": "axe", "rust": 2}, {"name": "old bow"}]
            }),
        )
        .await;
    }

    #[tokio::test]
    async fn a_field_that_was_missing_can_be_changed_and_one_be_dropped() {
        let stored = json!({"gold": 1, "guild": "a", "items": []});
        let edit = |game: &mut Game| {
            game.level += 1;
            game.guild = None;
        };
        check(stored, edit, json!({"gold": 1, "level": 1, "items": []})).await;
    }

    #[tokio::test]
    async fn an_edit_that_changes_nothing_fills_in_nothing() {
        check(json!({"gold": 1, "items": []}), |_| {}, json!({"gold": 1, "items": []})).await;
    }

    #[tokio::test]
    async fn a_document_that_is_not_of_the_type_is_an_error() {
        let storage = Arc::new(MemoryStorage::default());
        let (id, client) = (DocumentId::new("a").unwrap(), ClientId::new("c").unwrap());
        storage.find_one_and_upsert(&id, Body::new(), EditOptions::by(client.clone())).await.unwrap();
        let games = TypedStorage::<Game>::new(storage, client);
        let error = games.find_one(&id).await.unwrap_err();
        assert_eq!(error.to_string(), "invalid document a: missing field `gold`");
        let edited = games.find_one_and_update(&id, |_| Ok::<_, Infallible>(())).await;
        assert!(matches!(edited, Err(StorageError::Edit(_))), "{edited:?}");
    }
}
