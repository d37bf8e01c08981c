//! The verbs of a storage, told apart from how a backend carries them out.
//!
//! A backend reads the document, asks the verb what is to be done, and does it, all as one step that nobody comes
//! between. What it did is translated back into the verb's answer.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    Body, Change, Deleted, Document, DocumentId, EditFn, EditOptions, Edited, Operation, StorageError,
    StorageOptions, Upserted, edit::SectionFn, query::FieldPath, storage::section_not_found,
};

/// What a verb wants of the document it found.
#[derive(Debug)]
pub(crate) enum Step {
    /// Give it this body, or none.
    Write(Operation, Option<Body>),
    /// Leave it as it is.
    Keep,
}

/// What was done.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The document is as it is now; after a delete, as it was.
    Changed {
        document: Document,
        change: Arc<Change>,
    },
    Kept(Option<Document>),
    Repeated {
        version: u64,
        document: Option<Document>,
    },
}

pub(crate) fn upsert(found: Option<&Document>, body: Body) -> Step {
    match found {
        Some(_) => Step::Keep,
        None => Step::Write(Operation::Create, Some(body)),
    }
}

pub(crate) fn update(
    id: &DocumentId,
    found: Option<&Document>,
    mut edit: EditFn<'_>,
) -> Result<Step, StorageError> {
    let before = found.ok_or_else(|| StorageError::NotFound { id: id.clone() })?;
    let mut after = (*before.body).clone();
    edit(&mut after).map_err(StorageError::Edit)?;
    Ok(if after == *before.body { Step::Keep } else { Step::Write(Operation::Update, Some(after)) })
}

/// How a section counts its own changes.
#[derive(Debug)]
pub(crate) struct SectionVersion {
    /// The name of the count within the section; `None` if sections don't count.
    field: Option<String>,
    expected: Option<u64>,
}

impl SectionVersion {
    /// If sections count their changes, takes the expected version over from the document's.
    pub(crate) fn of(storage: &StorageOptions, options: &mut EditOptions) -> Self {
        let field = storage.section_version_field.clone();
        let expected = field.as_ref().and_then(|_| options.expected_version.take());
        Self { field, expected }
    }
}

pub(crate) fn update_section(
    id: &DocumentId,
    found: Option<&Document>,
    section: &FieldPath,
    mut edit: SectionFn<'_>,
    versions: &SectionVersion,
) -> Result<Step, StorageError> {
    let before = found.ok_or_else(|| StorageError::NotFound { id: id.clone() })?;
    let mut after = (*before.body).clone();
    let place = section.find(&mut after).ok_or_else(|| section_not_found(id, section))?;
    let Some(field) = &versions.field else {
        edit(place).map_err(StorageError::Edit)?;
        return Ok(section_step(before, after));
    };
    let count = place.get(field).cloned();
    let actual = count.as_ref().and_then(Value::as_u64).unwrap_or(0);
    if let Some(expected) = versions.expected.filter(|expected| *expected != actual) {
        let section = Some(section.to_string());
        return Err(StorageError::VersionMismatch { id: id.clone(), section, expected, actual });
    }
    let was = place.clone();
    edit(place).map_err(StorageError::Edit)?;
    // The count is the storage's: what an edit made of it does not count.
    if let Value::Object(members) = place {
        match count {
            Some(count) => drop(members.insert(field.clone(), count)),
            None => drop(members.remove(field)),
        }
    }
    if *place == was {
        return Ok(Step::Keep);
    }
    if let Value::Object(members) = place {
        members.insert(field.clone(), Value::from(actual + 1));
    }
    Ok(section_step(before, after))
}

fn section_step(before: &Document, after: Body) -> Step {
    if after == *before.body { Step::Keep } else { Step::Write(Operation::UpdateSection, Some(after)) }
}

pub(crate) fn delete(found: Option<&Document>) -> Step {
    match found {
        Some(_) => Step::Write(Operation::Delete, None),
        None => Step::Keep,
    }
}

impl Outcome {
    pub(crate) fn upserted(self) -> Upserted {
        match self {
            Self::Changed { document, change } => Upserted::Created { document, change },
            Self::Kept(document) => Upserted::Existing { document: document.expect("absent is created") },
            Self::Repeated { version, document } => Upserted::Repeated { version, document },
        }
    }

    pub(crate) fn edited(self) -> Edited {
        match self {
            Self::Changed { document, change } => Edited::Changed { document, change },
            Self::Kept(document) => {
                Edited::Unchanged { document: document.expect("absent is an error of the edit") }
            }
            Self::Repeated { version, document } => Edited::Repeated { version, document },
        }
    }

    pub(crate) fn deleted(self) -> Deleted {
        match self {
            Self::Changed { document, change } => Deleted::Deleted { document, change },
            Self::Kept(_) => Deleted::Absent,
            Self::Repeated { version, .. } => Deleted::Repeated { version },
        }
    }
}
