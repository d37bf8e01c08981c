//! What a write does to a document's body, within bounds.

use json_patch::{Patch, PatchOperation};
use nodestorage::Body;
use serde_json::Value;

use crate::protocol::{DEPTH_MAX, Problem, ProblemType, PushOp, depth};

/// The largest document in bytes of JSON.
pub const DOCUMENT_BYTES_MAX: usize = 1 << 20;

/// The longest RFC 6902 patch.
pub const PATCH_OPERATIONS_MAX: usize = 1000;

/// How many elements of arrays a JSON Patch may push to another place, counted for each operation: a document has room for hundreds of
/// thousands, and a thousand operations at its front would take seconds, here and wherever the change is applied again.
pub const PATCH_SHIFTS_MAX: usize = 1 << 23;

/// Applies a write to a body that exists.
pub(super) fn apply(op: &PushOp, body: &mut Body) -> Result<(), Problem> {
    match op {
        PushOp::Create { state } | PushOp::Replace { state } => body.clone_from(state),
        PushOp::Merge { patch } => {
            let mut value = Value::Object(std::mem::take(body));
            json_patch::merge(&mut value, &Value::Object(patch.clone()));
            *body = object(value)?;
        }
        PushOp::Patch { patch } => {
            let mut value = Value::Object(std::mem::take(body));
            apply_patch(patch, &mut value)?;
            *body = object(value)?;
        }
        PushOp::Delete => {}
    }
    Ok(())
}

/// Applies a write to a state as far as it can be; what does not fit changes nothing. `Null` is an absent document.
pub(crate) fn apply_locally(op: &PushOp, state: &mut Value) {
    match (op, &mut *state) {
        (PushOp::Delete, _) => *state = Value::Null,
        (PushOp::Create { state: body } | PushOp::Replace { state: body }, _) => {
            *state = Value::Object(body.clone());
        }
        (_, Value::Object(body)) => {
            let mut edited = body.clone();
            if apply(op, &mut edited).is_ok() {
                *body = edited;
            }
        }
        _ => {}
    }
}

/// Refuses a body that is too large.
pub(super) fn check_size(body: &Body) -> Result<(), Problem> {
    let bytes = 2 + body.iter().map(|(name, value)| name.len() + 4 + size(value)).sum::<usize>();
    if bytes > DOCUMENT_BYTES_MAX {
        return Err(too_large(bytes));
    }
    Ok(())
}

/// One operation after the other, because few bytes of `copy` can make a document of any size or depth.
fn apply_patch(patch: &Patch, value: &mut Value) -> Result<(), Problem> {
    let operations = patch.0.len();
    if operations > PATCH_OPERATIONS_MAX {
        let detail = format!("patch of {operations} operations, at most {PATCH_OPERATIONS_MAX} are allowed");
        return Err(Problem::new(ProblemType::TooLarge, detail)
            .with("limit", PATCH_OPERATIONS_MAX)
            .with("unit", "operations"));
    }
    let (mut bytes, mut shifted) = (size(value), 0);
    for (at, operation) in patch.0.iter().enumerate() {
        let missing = Value::Null;
        let placed = match operation {
            PatchOperation::Add(add) => Some(&add.value),
            PatchOperation::Replace(replace) => Some(&replace.value),
            PatchOperation::Copy(copy) => Some(value.pointer(copy.from.as_str()).unwrap_or(&missing)),
            PatchOperation::Move(moved) => Some(value.pointer(moved.from.as_str()).unwrap_or(&missing)),
            PatchOperation::Remove(_) | PatchOperation::Test(_) => None,
        };
        if let Some(placed) = placed {
            let levels = operation.path().tokens().count() + depth(placed);
            if levels > DEPTH_MAX {
                let detail =
                    format!("operation {at} nests {levels} levels deep, at most {DEPTH_MAX} are allowed");
                return Err(Problem::new(ProblemType::InvalidPatch, detail).with("limit", DEPTH_MAX));
            }
            // What a move takes along is looked at as what a copy adds, so it counts as well; what shrinks the document does
            // not, so a patch may shuffle four documents' worth.
            bytes += size(placed);
            if bytes > 4 * DOCUMENT_BYTES_MAX {
                return Err(too_large(bytes));
            }
        }
        shifted += shifted_by(operation, value);
        if shifted > PATCH_SHIFTS_MAX {
            let detail =
                format!("patch that moves more than {PATCH_SHIFTS_MAX} elements of arrays by one place");
            return Err(Problem::new(ProblemType::TooLarge, detail)
                .with("limit", PATCH_SHIFTS_MAX)
                .with("unit", "elements"));
        }
        json_patch::patch(value, std::slice::from_ref(operation)).map_err(|e| {
            let reason = format!("operation {at}: {}", e.kind);
            Problem::new(ProblemType::InvalidPatch, reason.clone())
                .with("reason", reason)
                .with("operation", at)
        })?;
    }
    Ok(())
}

/// How many elements of arrays go to another place because one before them comes or goes.
fn shifted_by(operation: &PatchOperation, value: &Value) -> usize {
    let behind = |path: &str| {
        let (parent, index) = path.rsplit_once('/')?;
        // None behind the end, which `-` is as well.
        Some(value.pointer(parent)?.as_array()?.len().saturating_sub(index.parse().ok()?))
    };
    let behind = |path: &str| behind(path).unwrap_or(0);
    match operation {
        PatchOperation::Add(_) | PatchOperation::Copy(_) | PatchOperation::Remove(_) => {
            behind(operation.path().as_str())
        }
        PatchOperation::Move(moved) => behind(moved.from.as_str()) + behind(operation.path().as_str()),
        PatchOperation::Replace(_) | PatchOperation::Test(_) => 0,
    }
}

fn object(value: Value) -> Result<Body, Problem> {
    match value {
        Value::Object(body) => Ok(body),
        other => {
            let detail = format!("the document would become {}; it must be an object", kind(&other));
            Err(Problem::new(ProblemType::InvalidDocument, detail.clone()).with("reason", detail))
        }
    }
}

fn too_large(bytes: usize) -> Problem {
    let detail = format!("document of {bytes} bytes, at most {DOCUMENT_BYTES_MAX} are allowed");
    Problem::new(ProblemType::TooLarge, detail).with("limit", DOCUMENT_BYTES_MAX).with("unit", "bytes")
}

/// About as many bytes as it has as JSON.
pub(crate) fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 5,
        Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|item| 1 + size(item)).sum::<usize>(),
        Value::Object(fields) => fields_size(fields),
    }
}

fn fields_size(fields: &Body) -> usize {
    2 + fields.iter().map(|(name, field)| name.len() + 4 + size(field)).sum::<usize>()
}

/// About as many bytes as an edit has as JSON.
pub(crate) fn op_size(op: &PushOp) -> usize {
    let of_operation = |operation: &PatchOperation| {
        let value = match operation {
            PatchOperation::Add(add) => size(&add.value),
            PatchOperation::Replace(replace) => size(&replace.value),
            PatchOperation::Test(test) => size(&test.value),
            PatchOperation::Copy(copy) => copy.from.as_str().len(),
            PatchOperation::Move(moved) => moved.from.as_str().len(),
            PatchOperation::Remove(_) => 0,
        };
        32 + operation.path().as_str().len() + value
    };
    match op {
        PushOp::Create { state: fields }
        | PushOp::Replace { state: fields }
        | PushOp::Merge { patch: fields } => fields_size(fields),
        PushOp::Patch { patch } => patch.0.iter().map(of_operation).sum(),
        PushOp::Delete => 0,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(patch: Value, expect: Result<Value, ProblemType>) {
        let mut body = json!({"a": [1, 2], "b": {}}).as_object().unwrap().clone();
        let op = PushOp::Patch { patch: serde_json::from_value(patch).unwrap() };
        match (apply(&op, &mut body), expect) {
            (Ok(()), Ok(expect)) => assert_eq!(Value::Object(body), expect),
            (Err(problem), Err(kind)) => assert!(problem.is(kind), "{problem:?}"),
            (got, expect) => panic!("{got:?} where {expect:?} was expected"),
        }
    }

    #[test]
    fn patches_apply_or_say_why_not() {
        check(json!([{"op": "add", "path": "/a/-", "value": 3}]), Ok(json!({"a": [1, 2, 3], "b": {}})));
        check(json!([{"op": "remove", "path": "/c"}]), Err(ProblemType::InvalidPatch));
        check(json!([{"op": "replace", "path": "", "value": 7}]), Err(ProblemType::InvalidDocument));
        check(json!([{"op": "test", "path": "/a/0", "value": 2}]), Err(ProblemType::InvalidPatch));
    }

    #[test]
    fn few_bytes_of_copies_do_not_fill_the_memory() {
        let double = json!({"op": "copy", "from": "/a", "path": "/a/-"});
        let text = json!({"op": "add", "path": "/a/-", "value": "x".repeat(1000)});
        let mut bomb = vec![text];
        bomb.extend(std::iter::repeat_n(double, 40));
        check(Value::Array(bomb), Err(ProblemType::TooLarge));
        let nest = json!({"op": "copy", "from": "", "path": "/b/c"});
        let nests = Value::Array(std::iter::repeat_n(nest, 40).collect());
        check(nests, Err(ProblemType::InvalidPatch));
        // The same megabyte to and fro, in a patch of some kilobytes.
        let text = json!({"op": "add", "path": "/a/-", "value": "x".repeat(DOCUMENT_BYTES_MAX)});
        let moves = (0..5).flat_map(|_| [("/a", "/c"), ("/c", "/a")]);
        let moves = moves.map(|(from, path)| json!({"op": "move", "from": from, "path": path}));
        check(std::iter::once(text).chain(moves).collect(), Err(ProblemType::TooLarge));
        let many = json!({"op": "test", "path": "/a/0", "value": 1});
        check(Value::Array(vec![many; PATCH_OPERATIONS_MAX + 1]), Err(ProblemType::TooLarge));
    }

    /// Each operation is small, and so is what it places.
    #[test]
    fn a_patch_shifts_so_many_elements_and_no_more() {
        let long = vec![json!(""); 100_000];
        let check = |operations: Vec<Value>, fits: bool| {
            let mut body = json!({"a": long}).as_object().unwrap().clone();
            let op = PushOp::Patch { patch: serde_json::from_value(operations.into()).unwrap() };
            match apply(&op, &mut body) {
                Ok(()) => assert!(fits, "it is taken"),
                Err(problem) => assert!(!fits && problem.is(ProblemType::TooLarge), "{problem:?}"),
            }
        };
        let front = json!({"op": "add", "path": "/a/0", "value": ""});
        check(vec![front.clone(); 50], true);
        check(vec![front; 100], false);
        check(vec![json!({"op": "remove", "path": "/a/0"}); 100], false);
        check(vec![json!({"op": "move", "from": "/a/0", "path": "/a/1"}); 50], false);
        // At the end nothing is shifted.
        check(vec![json!({"op": "add", "path": "/a/-", "value": ""}); 500], true);
        check(vec![json!({"op": "move", "from": "/a/99999", "path": "/a/99998"}); 500], true);
    }
}
