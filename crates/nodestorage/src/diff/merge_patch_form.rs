//! The Merge Patch (RFC 7396) between two states.

use serde_json::Value;

use crate::Body;

/// `None` where no merge patch leads from `before` to `after`: in a merge patch, `null` means "remove".
pub(super) fn between(before: Option<&Body>, after: Option<&Body>) -> Option<Value> {
    match (before, after) {
        (_, None) => Some(Value::Null),
        (None, Some(after)) => whole(after).then(|| Value::Object(after.clone())),
        (Some(before), Some(after)) => objects(before, after).map(Value::Object),
    }
}

fn objects(before: &Body, after: &Body) -> Option<Body> {
    let mut patch = Body::new();
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, after) in after {
        let change = match (before.get(key), after) {
            (Some(before), after) if before == after => continue,
            (Some(Value::Object(before)), Value::Object(after)) => Value::Object(objects(before, after)?),
            (_, after) => sayable(after)?.clone(),
        };
        patch.insert(key.clone(), change);
    }
    Some(patch)
}

/// A value that replaces whatever was there, if a merge patch can say it: arrays are taken as they are, an object
/// loses the members that are `null`, and `null` itself would remove.
fn sayable(value: &Value) -> Option<&Value> {
    match value {
        Value::Null => None,
        Value::Object(members) => whole(members).then_some(value),
        _ => Some(value),
    }
}

fn whole(members: &Body) -> bool {
    members.values().all(|member| sayable(member).is_some())
}
