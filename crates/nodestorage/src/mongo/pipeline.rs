//! Updates by an aggregation pipeline: the server computes, and the write is the compare-and-swap of every other verb.

use futures_util::TryStreamExt;
use mongodb::{
    bson::{Document as Bsons, doc},
    error::ErrorKind,
};
use serde_json::Value;

use super::{
    failure::{Failure, is_passing},
    record::Stored,
    storage::MongoStorage,
    value::{self, body_of, count, verbatim},
};
use crate::{Document, Operation, Storage, StorageError, verbs::Step};

/// The stages that the server has for updates: from one document they make one.
const STAGES: &[&str] = &["$addFields", "$set", "$project", "$unset", "$replaceRoot", "$replaceWith"];

/// Reads a pipeline.
pub(super) fn parse(pipeline: &[Value]) -> Result<Vec<Bsons>, StorageError> {
    let stage = |stage: &Value| match stage.as_object().map(|stage| stage.keys().collect::<Vec<_>>()) {
        Some(names) if names.len() == 1 && STAGES.contains(&names[0].as_str()) => Ok(verbatim(stage)),
        _ => Err(format!("a pipeline with {stage}; it has {} only", STAGES.join(" "))),
    };
    let stages = pipeline.iter().map(stage).collect::<Result<Vec<_>, _>>();
    let stages = stages.map_err(|what| StorageError::Unsupported { what, backend: "MongoDB" })?;
    Ok(stages.into_iter().filter_map(|stage| stage.as_document().cloned()).collect())
}

impl MongoStorage {
    /// What a pipeline makes of a document. `None` when it is not as it was found any more.
    pub(super) async fn step_by_pipeline(
        &self,
        found: &Stored,
        before: Option<&Document>,
        pipeline: &[Bsons],
    ) -> Result<Option<Step>, Failure> {
        let before = before.ok_or_else(|| StorageError::NotFound { id: found.id.clone() })?;
        let mut stages = vec![
            doc! {"$match": {"_id": found.id.as_str(), "_weft.version": count(found.version)}},
            // What belongs to the store is none of the pipeline's business, and the outbox may be large.
            doc! {"$unset": value::OWN},
        ];
        stages.extend_from_slice(pipeline);
        let computed = async { self.documents.aggregate(stages).await?.try_next().await }.await;
        match computed {
            Ok(None) => Ok(None),
            Ok(Some(raw)) => {
                let after = body_of(&raw, self.version_field());
                let same = after == *before.body;
                Ok(Some(if same { Step::Keep } else { Step::Write(Operation::Update, Some(after)) }))
            }
            // It does not fit the document, or is none: as when an update's operators do not fit.
            Err(error) if !is_passing(&error) && matches!(&*error.kind, ErrorKind::Command(_)) => {
                Err(StorageError::Edit(error.into()).into())
            }
            Err(error) => Err(error.into()),
        }
    }
}
