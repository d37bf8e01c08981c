//! What becomes of a write that came too late: the document is not what the writer saw.

use serde_json::{Map, Value};

use crate::protocol::PushOp;

/// A write that was refused because the document had changed under it.
#[derive(Debug, Clone, PartialEq)]
pub struct Conflict {
    /// What the writer wanted.
    pub op: PushOp,
    /// The state that the writer saw; `Null` for absent.
    pub base: Value,
    /// What the writer's write would have made of it.
    pub mine: Value,
    /// What is there now.
    pub theirs: Value,
    /// When the writer wrote, in milliseconds since 1970 UTC, by the server's clock as far as the client knows it.
    pub written_at: u64,
    /// When the document was last changed, by the server's clock.
    pub changed_at: u64,
}

/// What to do about a conflict.
#[derive(Debug, Clone, PartialEq)]
pub enum Resolution {
    /// Give the write up.
    Drop,
    /// Write this instead, on top of what is there now.
    Write(PushOp),
}

/// Decides conflicts.
pub enum ConflictResolver {
    /// What is there stays.
    ServerWins,
    /// The write is done again on top of what is there.
    ClientWins,
    /// The later of the two counts, by the server's clock; the server's if they are equal.
    LastWriterWins,
    /// Both sides' changes against what the writer saw are joined field by field; where both changed the same field,
    /// the server's counts.
    ThreeWayMerge,
    /// The application decides.
    Custom(Box<dyn Fn(&Conflict) -> Resolution + Send + Sync>),
}

impl ConflictResolver {
    /// Decides one.
    pub fn resolve(&self, conflict: &Conflict) -> Resolution {
        match self {
            Self::ServerWins => Resolution::Drop,
            Self::ClientWins => again(conflict),
            Self::LastWriterWins if conflict.written_at > conflict.changed_at => again(conflict),
            Self::LastWriterWins => Resolution::Drop,
            Self::ThreeWayMerge => match three_way_merge(&conflict.base, &conflict.mine, &conflict.theirs) {
                merged if merged == conflict.theirs => Resolution::Drop,
                Value::Object(state) => Resolution::Write(PushOp::Replace { state }),
                _ => Resolution::Write(PushOp::Delete),
            },
            Self::Custom(decide) => decide(conflict),
        }
    }
}

/// The same write where it can be done on what is there; else the state that it was to make.
fn again(conflict: &Conflict) -> Resolution {
    let fits = match &conflict.op {
        PushOp::Merge { .. } => conflict.theirs.is_object(),
        PushOp::Delete => !conflict.theirs.is_null(),
        PushOp::Replace { .. } => true,
        PushOp::Create { .. } | PushOp::Patch { .. } => false,
    };
    match &conflict.mine {
        _ if fits => Resolution::Write(conflict.op.clone()),
        Value::Object(state) => Resolution::Write(PushOp::Replace { state: state.clone() }),
        _ => Resolution::Drop,
    }
}

/// Joins two changes of one state, field by field. Where both changed the same thing, `theirs` counts.
pub fn three_way_merge(base: &Value, mine: &Value, theirs: &Value) -> Value {
    if mine == base {
        return theirs.clone();
    }
    if theirs == base {
        return mine.clone();
    }
    let (Value::Object(mine), Value::Object(theirs)) = (mine, theirs) else { return theirs.clone() };
    let nothing = Map::new();
    let base = base.as_object().unwrap_or(&nothing);
    let mut merged = Map::new();
    let names = mine.keys().chain(theirs.keys().filter(|name| !mine.contains_key(*name)));
    for name in names {
        // An absent field is another thing than a null one.
        let (b, m, t) = (base.get(name), mine.get(name), theirs.get(name));
        let field = match (b, m, t) {
            (b, m, t) if m == b => t.cloned(),
            (b, m, t) if t == b => m.cloned(),
            (b, Some(m), Some(t)) => Some(three_way_merge(b.unwrap_or(&Value::Null), m, t)),
            (_, _, t) => t.cloned(),
        };
        if let Some(field) = field {
            merged.insert(name.clone(), field);
        }
    }
    Value::Object(merged)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn changes_of_different_fields_are_joined_and_of_the_same_the_servers_counts() {
        let check = |base, mine, theirs, expect: Value| {
            assert_eq!(three_way_merge(&base, &mine, &theirs), expect);
        };
        let base = || json!({"a": 1, "b": {"c": 1, "d": 1}, "e": 1});
        check(
            base(),
            json!({"a": 2, "b": {"c": 1, "d": 1}, "e": 1}),
            base(),
            json!({"a": 2, "b": {"c": 1, "d": 1}, "e": 1}),
        );
        check(
            base(),
            json!({"a": 2, "b": {"c": 2, "d": 1}}),
            json!({"a": 1, "b": {"c": 1, "d": 3}, "e": 1, "f": 1}),
            json!({"a": 2, "b": {"c": 2, "d": 3}, "f": 1}),
        );
        check(base(), json!({"a": 2}), json!({"a": 3, "b": {"c": 1, "d": 1}, "e": 1}), json!({"a": 3}));
        check(json!(null), json!({"a": 1}), json!({"b": 2}), json!({"a": 1, "b": 2}));
        check(base(), json!(null), json!({"a": 9}), json!({"a": 9}));
    }

    #[test]
    fn each_strategy_decides_as_its_name_says() {
        let conflict = |written_at| Conflict {
            op: PushOp::Merge { patch: json!({"a": 2}).as_object().unwrap().clone() },
            base: json!({"a": 1, "b": 1}),
            mine: json!({"a": 2, "b": 1}),
            theirs: json!({"a": 1, "b": 5}),
            written_at,
            changed_at: 10,
        };
        let write = Resolution::Write(conflict(0).op);
        assert_eq!(ConflictResolver::ServerWins.resolve(&conflict(99)), Resolution::Drop);
        assert_eq!(ConflictResolver::ClientWins.resolve(&conflict(0)), write);
        assert_eq!(ConflictResolver::LastWriterWins.resolve(&conflict(10)), Resolution::Drop);
        assert_eq!(ConflictResolver::LastWriterWins.resolve(&conflict(11)), write);
        let merged = PushOp::Replace { state: json!({"a": 2, "b": 5}).as_object().unwrap().clone() };
        assert_eq!(ConflictResolver::ThreeWayMerge.resolve(&conflict(0)), Resolution::Write(merged));
        let custom = ConflictResolver::Custom(Box::new(|conflict| {
            if conflict.theirs["b"] == 5 { Resolution::Write(PushOp::Delete) } else { Resolution::Drop }
        }));
        assert_eq!(custom.resolve(&conflict(0)), Resolution::Write(PushOp::Delete));
    }
}
