//! One of the group tells lies: of what it has, and in what it passes on.

use crdt_core::{SessionId, Timestamp};
use crdt_sync::{
    PatchRecord, SyncMessage,
    dag::{Link, NodeHash},
    session::Input,
};

use super::World;
use crate::outsider;

impl World {
    pub(super) fn lies(&mut self, index: usize) -> bool {
        self.liar && index + 1 == self.replicas.len() && self.random.percent(50)
    }

    /// The liar broadcasts what nobody can have made: it must be refused and change nothing.
    pub(super) fn forge(&mut self, from: usize, record: &PatchRecord) {
        let mut forged = record.clone();
        match self.random.below(3) {
            0 => forged.span = 0,
            1 => forged.id.time = (1 << 52) + self.random.below(1000),
            _ => forged.needs = std::iter::once(Timestamp::new(forged.id.sid, record.last() + 1)).collect(),
        }
        for to in 0..self.replicas.len() {
            self.deliver(from, to, Input::Heard(forged.clone()));
        }
    }

    /// The liar says that it has what nobody has, or lacks what it has, and sends too little.
    pub(super) fn maybe_lie(&mut self, from: usize, message: SyncMessage) -> SyncMessage {
        if !self.lies(from) {
            return message;
        }
        match message {
            SyncMessage::State { mut vector, reply } => {
                if self.random.percent(50) {
                    vector = outsider::lowered(&mut self.random, &vector);
                } else {
                    let ghost = SessionId::new(SessionId::USER_MIN.get() + 1_000_000).unwrap();
                    vector.advance(ghost, 1 + self.random.below(1000));
                }
                SyncMessage::State { vector, reply }
            }
            SyncMessage::Patches { id, mut records } => {
                records.truncate(records.len() / 2);
                records.reverse();
                SyncMessage::Patches { id, records }
            }
            SyncMessage::Digest { digest, .. } if self.random.percent(50) => {
                SyncMessage::Digest { digest, content: Some(self.random.next()) }
            }
            SyncMessage::Digest { .. } => SyncMessage::Digest { digest: self.random.next(), content: None },
            SyncMessage::Heads { mut heads, .. } => {
                let sid = SessionId::new(SessionId::USER_MIN.get() + 1_000_001).unwrap();
                let hash = NodeHash([self.random.below(256) as u8; NodeHash::LEN_BYTES]);
                heads.push(Link { last: 1 + self.random.below(1000), sid, hash });
                SyncMessage::Heads { heads, digest: self.random.next() }
            }
            SyncMessage::Sketch { id, digest, entries, mut symbols } => {
                for symbol in &mut symbols {
                    symbol.check ^= self.random.below(2);
                }
                SyncMessage::Sketch { id, digest, entries, symbols }
            }
            SyncMessage::Ahead { mut vector } => {
                let ghost = SessionId::new(SessionId::USER_MIN.get() + 1_000_002).unwrap();
                vector.advance(ghost, 1 + self.random.below(1000));
                SyncMessage::Ahead { vector }
            }
            SyncMessage::Offer { id, mut snapshot } => {
                let whose = snapshot.vector.iter().next().map(|(sid, last)| (*sid, last));
                if let Some((sid, last)) = whose {
                    snapshot.vector.advance(sid, last + 1 + self.random.below(100));
                }
                SyncMessage::Offer { id, snapshot }
            }
            SyncMessage::Part { id, hash, offset, bytes } => {
                SyncMessage::Part { id, hash, offset: offset + 1, bytes }
            }
            other => other,
        }
    }
}
