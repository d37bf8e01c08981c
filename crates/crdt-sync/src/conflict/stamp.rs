//! What a patch's author had seen, as its remark says.

use crdt_core::{Model, Patch, PatchRef, SessionId, StateVector, Text, Value};

/// The key in a patch's remark.
const SEEN: &str = "seen";

/// How many sessions a stamp names, about 13 bytes each. Of more, those heard of last are named: a write over one of the
/// others counts as concurrent with it.
pub const SEEN_MAX: usize = 256;

/// Edits a model and stamps the patch with what the model had seen before. Returns `None` if nothing was edited.
///
/// # Errors
/// That of `edit`; then what was edited before stays open, as with [`Model::flush`].
pub fn stamped<T, E>(
    model: &mut Model,
    edit: impl FnOnce(&mut Model) -> Result<T, E>,
) -> Result<Option<Patch>, E> {
    let seen = model.document().state_vector();
    edit(model)?;
    Ok(model.flush().map(|patch| stamp(&patch, &seen)))
}

/// Writes into a patch's remark what its author had seen of others: `{"seen": [session, time, …]}`. Other entries of the
/// remark stay; a remark that is no map gives way.
///
/// The vector must be of the moment of the edit. With [`SharedModel`](crate::SharedModel) take it inside the closure:
///
/// ```
/// # use crdt_core::SessionId;
/// # use crdt_sync::{SharedModel, conflict::{seen_by, stamp}};
/// # let shared = SharedModel::new(SessionId::new(70_001).unwrap());
/// let mut seen = Default::default();
/// let edited = shared.edit(|model| {
///     seen = model.document().state_vector();
///     model.api().root("hello")
/// });
/// let patch = stamp(&edited.unwrap().unwrap(), &seen);
/// // … and hand this patch to `SyncManager::apply_patch`.
/// assert!(patch.meta().is_some());
/// ```
#[must_use = "the stamped patch is the result"]
pub fn stamp(patch: &Patch, seen: &StateVector) -> Patch {
    let of_others = |sid: SessionId| sid >= SessionId::RESERVED_END && sid != patch.id().sid;
    let mut seen: Vec<(u64, SessionId)> =
        seen.iter().filter(|(sid, _)| of_others(**sid)).map(|(sid, time)| (time, *sid)).collect();
    if seen.len() > SEEN_MAX {
        seen.sort_unstable();
        seen.drain(..seen.len() - SEEN_MAX);
    }
    let seen: Value = seen.iter().flat_map(|(time, sid)| [sid.get(), *time]).collect();
    let mut remark = match patch.meta().map(|meta| meta.to_value()) {
        Some(Value::Map(entries)) => entries,
        _ => Vec::new(),
    };
    remark.retain(|(key, _)| key.as_str() != Some(SEEN));
    remark.push((Text::from(SEEN), seen));
    patch.with_meta(&Value::Map(remark))
}

/// What a patch's author had seen of others, as far as the patch tells: what it names, and what it is stamped with.
///
/// Nobody has seen what is not older than their own write (Lamport's rule), so a stamp that claims it is cut down to it.
pub fn seen_by(patch: PatchRef<'_>) -> StateVector {
    let mut seen = patch.dependencies();
    let meta = patch.meta().map(|meta| meta.to_value());
    let Some(Value::Array(stamp)) = meta.as_ref().and_then(|meta| meta.get(SEEN)) else { return seen };
    for pair in stamp.chunks_exact(2).take(SEEN_MAX) {
        let (Some(sid), Some(time)) = (pair[0].as_u64(), pair[1].as_u64()) else { continue };
        let Ok(sid) = SessionId::new(sid) else { continue };
        if sid != patch.id().sid {
            seen.advance(sid, time.min(patch.id().time.saturating_sub(1)));
        }
    }
    seen
}
