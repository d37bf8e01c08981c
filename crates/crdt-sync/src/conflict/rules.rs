//! Which strategy holds where.

use std::{fmt, sync::Arc};

use crdt_core::{
    SessionId, Value,
    model::{EditError, Path, PathStep, Step},
};

use super::{Place, Write};
use crate::SignerId;

/// Makes one value out of concurrent writes, which come in the order of their [`node`](Write::node)s. All replicas must
/// make the same of the same: no clock, no randomness, nothing of this replica only.
pub type MergeFn = dyn Fn(&[Write]) -> Value + Send + Sync;

/// What holds where several have written at the same time.
#[derive(Clone, Default)]
pub enum Strategy {
    /// The document's own rule. A place that no rule names is not even looked at; name it to have its conflicts reported.
    #[default]
    LastWriterWins,
    /// All of them: the view has an array of the values there, the one that the document keeps last, and an array of one
    /// where there is no conflict.
    MultiValue,
    /// What the application makes of them; it is asked only if there is more than one.
    Merge(Arc<MergeFn>),
    /// The latest value that one of these sessions has written, whoever wrote later, or what every replica starts with.
    /// Until there is one, nothing. Where patches are not signed, anybody can write under such a session; and a program that
    /// draws a new session at each start is none of them after its first. It is to keep its session beside its store, or
    /// the rule is to go by [key](Self::Signed).
    Authority(Arc<[SessionId]>),
    /// The same by who signed: the latest value written under one of these keys (the 32 bytes of an Ed25519 key, of which the
    /// first eight tell), in whatever session. It takes a guard that knows [who signed](crate::Guard::signer); without one nobody
    /// decides, nor does a key that the guard does not know.
    Signed(Arc<[[u8; 32]]>),
}

impl Strategy {
    /// [`Strategy::Merge`] with a function.
    pub fn merge(merge: impl Fn(&[Write]) -> Value + Send + Sync + 'static) -> Self {
        Self::Merge(Arc::new(merge))
    }

    /// [`Strategy::Authority`] of sessions.
    pub fn authority(sessions: impl IntoIterator<Item = SessionId>) -> Self {
        Self::Authority(sessions.into_iter().collect())
    }

    /// [`Strategy::Signed`] by keys: with the `crypto` module, `AuthorKey::to_bytes` of each.
    pub fn signed(keys: impl IntoIterator<Item = [u8; 32]>) -> Self {
        Self::Signed(keys.into_iter().collect())
    }

    /// Whether what a session writes decides by this strategy; `signer` is the key that is known to have signed its patches.
    pub(super) fn is_decided_by(&self, session: SessionId, signer: Option<&SignerId>) -> bool {
        match self {
            Self::Authority(sessions) => sessions.contains(&session),
            Self::Signed(keys) => signer.is_some_and(|signer| keys.iter().any(|key| key.starts_with(signer))),
            _ => false,
        }
    }
}

impl fmt::Debug for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LastWriterWins => f.write_str("LastWriterWins"),
            Self::MultiValue => f.write_str("MultiValue"),
            Self::Merge(_) => f.write_str("Merge"),
            Self::Authority(sessions) => f.debug_tuple("Authority").field(sessions).finish(),
            Self::Signed(keys) => f.debug_tuple("Signed").field(keys).finish(),
        }
    }
}

/// Strategies by path. The first rule that fits a place decides.
#[derive(Debug, Clone, Default)]
pub struct Rules(Vec<(Vec<String>, Strategy)>);

impl Rules {
    /// The document's own rule everywhere.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a rule for the places that fit a pattern: a JSON pointer (RFC 6901) in which `*` stands for any one step.
    /// `""` is the root.
    ///
    /// # Panics
    /// If the pattern is no JSON pointer.
    #[must_use = "the rules with the new one are the result"]
    #[track_caller]
    pub fn with(self, pattern: &str, strategy: Strategy) -> Self {
        match self.try_with(pattern, strategy) {
            Ok(rules) => rules,
            Err(error) => panic!("a pattern of a rule: {error}"),
        }
    }

    /// The same with a pattern that comes from outside.
    ///
    /// # Errors
    /// [`EditError::Path`] if the pattern is no JSON pointer.
    pub fn try_with(mut self, pattern: &str, strategy: Strategy) -> Result<Self, EditError> {
        let mut steps = Vec::new();
        pattern.walk(&mut |step| {
            steps.push(match step {
                Step::Key(key) => key.to_owned(),
                Step::Text(key) => key.to_str_lossy().into_owned(),
                Step::Index(index) => index.to_string(),
            });
        })?;
        self.0.push((steps, strategy));
        Ok(self)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The strategy for a path.
    pub fn strategy(&self, path: &[PathStep]) -> Option<&Strategy> {
        let fits = |steps: &Vec<String>| {
            steps.len() == path.len() && steps.iter().zip(path).all(|(want, step)| fits(want, step))
        };
        self.0.iter().find(|(steps, _)| fits(steps)).map(|(_, strategy)| strategy)
    }

    /// Whether a place may come to have a path that a rule names. The path itself is not known from a patch, and changes
    /// in arrays; its last step is, of a key.
    pub(super) fn may_name(&self, place: &Place) -> bool {
        self.0.iter().any(|(steps, _)| match (place, steps.last()) {
            (Place::Key(key), Some(last)) => last == "*" || key.as_str() == Some(last),
            (Place::Index(index), Some(last)) => last == "*" || *last == index.to_string(),
            (Place::Slot(_), last) => last.is_some(),
            // A register has the path of the place that it is in.
            (Place::Register, _) => true,
            (_, None) => false,
        })
    }

    /// What tells each key.
    pub(super) fn keys(&self) -> impl Iterator<Item = SignerId> + '_ {
        let keys = self.0.iter().flat_map(|(_, strategy)| match strategy {
            Strategy::Signed(keys) => &keys[..],
            _ => &[],
        });
        keys.filter_map(|key| key.first_chunk().copied())
    }

    pub(super) fn authorities(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.0.iter().flat_map(|(_, strategy)| match strategy {
            Strategy::Authority(sessions) => sessions.iter().copied(),
            _ => [].iter().copied(),
        })
    }
}

fn fits(want: &str, step: &PathStep) -> bool {
    want == "*"
        || match step {
            PathStep::Key(key) => key.as_str() == Some(want),
            PathStep::Index(index) => *want == index.to_string(),
        }
}
