//! What its user is told when something goes wrong with the text.

use std::{collections::BTreeSet, mem};

use crdt_sync::session::{Refusal, SessionEvent};

/// Each kind of trouble is told once: anybody who can send something can have it refused as often as they like. How often it
/// happened is in `status`.
#[derive(Default)]
pub(super) struct Trouble {
    told: BTreeSet<Kind>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Stopped,
    Diverged,
    Parted,
    UsedTwice,
    NotAllowed,
    Refused(String),
}

impl Trouble {
    /// A sentence about something that happened, if the user should know it and has not been told.
    pub(super) fn about(&mut self, event: &SessionEvent) -> Option<String> {
        let (kind, news) = match event {
            SessionEvent::Stopped { error } => {
                let news = format!(
                    "this program keeps nothing in step any more, and takes no edits: {error}. Start it again"
                );
                (Kind::Stopped, news)
            }
            SessionEvent::Diverged { peer } => {
                let news = format!(
                    "{peer} has other edits in the place of some that are here: a store was put back from a backup. \
                     Start the one that was with an empty folder"
                );
                (Kind::Diverged, news)
            }
            SessionEvent::Parted { peer } => {
                let news = format!(
                    "{peer} and this program were apart for too long, and each has edits that the other can't get any more. \
                     Start one of the two with an empty folder"
                );
                (Kind::Parted, news)
            }
            SessionEvent::Refused(refusal @ Refusal::SessionUsedTwice(_)) => (
                Kind::UsedTwice,
                format!("{refusal}. If it is this program's, it takes no edits until it is started again"),
            ),
            SessionEvent::Refused(
                refusal @ (Refusal::NotAllowed { .. }
                | Refusal::SnapshotNotAllowed { .. }
                | Refusal::WordNotAllowed { .. }),
            ) => (Kind::NotAllowed, format!("refused what somebody sent who may not: {refusal}")),
            SessionEvent::Refused(refusal) => {
                let kind = Kind::Refused(format!("{:?}", mem::discriminant(refusal)));
                (kind, format!("refused what somebody sent: {refusal}"))
            }
            // It is left alone for a while, and others are asked.
            _ => return None,
        };
        self.told.insert(kind).then(|| format!("! {news}; see `status`"))
    }
}

#[cfg(test)]
mod tests {
    use crdt_core::{SessionId, Timestamp};
    use crdt_sync::PeerId;

    use super::*;

    #[test]
    fn each_kind_of_trouble_is_told_once() {
        let mut trouble = Trouble::default();
        let id = |time| Timestamp::new(SessionId::USER_MIN, time);
        let twice = |time| SessionEvent::Refused(Refusal::SessionUsedTwice(id(time)));
        let told = trouble.about(&twice(1)).unwrap();
        assert!(told.contains("used by two replicas") && told.contains("status"), "{told}");
        assert_eq!(trouble.about(&twice(2)), None);
        let told = trouble.about(&SessionEvent::Refused(Refusal::ReservedSession(id(1)))).unwrap();
        assert!(told.contains("reserved session"), "{told}");
        let peer = PeerId::new("terminal-7").unwrap();
        let told = trouble.about(&SessionEvent::Diverged { peer: peer.clone() }).unwrap();
        assert!(told.contains("terminal-7"), "{told}");
        assert_eq!(trouble.about(&SessionEvent::CaughtUp), None);
        assert_eq!(trouble.about(&SessionEvent::Unhelpful { peer, why: "was late" }), None);
        let told = trouble.about(&SessionEvent::Stopped { error: "no room".to_owned() }).unwrap();
        assert!(told.contains("no room"), "{told}");
    }
}
