//! A simulated window: a client that is no peer, as a browser's page is one. It types, keeps what its node has not said to be
//! stored, and brings it again over the next connection.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use crdt_core::{EncodingFormat, SessionId, StateVector, Timestamp};
use crdt_sync::{PatchRecord, PeerId, SnapshotHead, SyncMessage, Want, presence::PresenceMessage, wire};

use crate::document::Applied;

pub(crate) struct Window {
    pub(crate) name: PeerId,
    session: SessionId,
    own_last: u64,
    pub(crate) doc: Applied,
    /// What its nodes have and it has too, by their word.
    vector: StateVector<SessionId>,
    /// Made here and not said to be stored, in order.
    pub(crate) unsent: Vec<PatchRecord>,
    /// What came and what was made since it was opened, in order: what a node has lost is brought back from there.
    remembered: Vec<PatchRecord>,
    /// The connection, if there is one.
    pub(crate) line: Option<u64>,
    /// Whether the node has been told what it lacks, so that it can take what is typed.
    welcome: bool,
    incoming: Option<(SnapshotHead, BytesMut)>,
    pub(crate) is_open: bool,
    /// What it shows to the others, and what they show to it.
    pub(crate) shows: Bytes,
    pub(crate) others: BTreeMap<PeerId, Bytes>,
    format: EncodingFormat,
    /// It brings what it has, whatever the node lacks.
    is_careless: bool,
}

/// What came of a message.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// To be sent back.
    pub(crate) send: Vec<Bytes>,
    /// What was said to be stored.
    pub(crate) stored: Vec<Timestamp>,
    /// The node lacks what this window is built on, and is left for another, or for a while.
    pub(crate) leaves: bool,
}

impl Window {
    pub(crate) fn new(number: usize, session: SessionId, is_careless: bool) -> Self {
        Self {
            name: PeerId::new(format!("window-{number}")).unwrap(),
            session,
            own_last: 0,
            doc: Applied::default(),
            vector: StateVector::new(),
            unsent: Vec::new(),
            remembered: Vec::new(),
            line: None,
            welcome: false,
            incoming: None,
            is_open: false,
            shows: Bytes::new(),
            others: BTreeMap::new(),
            format: EncodingFormat::ALL[number % EncodingFormat::ALL.len()],
            is_careless,
        }
    }

    /// The page is loaded again: another session, on top of what was kept in the browser.
    pub(crate) fn reload(&mut self, session: SessionId) {
        (self.session, self.own_last) = (session, 0);
        self.remembered.clone_from(&self.unsent);
    }

    pub(crate) fn may_name(&self) -> Vec<(SessionId, u64)> {
        let others = self.doc.vector.iter().filter(|(sid, _)| **sid != self.session);
        others.map(|(sid, last)| (*sid, last)).collect()
    }

    /// Types something on top of the document. Returns what to send, if the node can take it now.
    pub(crate) fn types(&mut self, span: u64, needs: Vec<Timestamp>) -> Result<Option<Bytes>, String> {
        let (_, patch) = self.doc.typed(self.session, span, needs);
        let record = PatchRecord::new(self.own_last, patch).map_err(|error| error.to_string())?;
        self.own_last = record.last();
        self.doc.apply(&record)?;
        self.remembered.push(record.clone());
        self.unsent.push(record.clone());
        Ok((self.line.is_some() && self.welcome).then(|| self.encode(&record)))
    }

    fn encode(&self, record: &PatchRecord) -> Bytes {
        wire::encode_patch(self.format, record).unwrap()
    }

    /// Its first word on a connection.
    pub(crate) fn greets(&mut self, line: u64) -> Bytes {
        (self.line, self.welcome, self.incoming) = (Some(line), false, None);
        self.others.clear();
        let message = SyncMessage::State { vector: self.vector.clone(), reply: true };
        wire::encode_sync(self.format, &self.name, &message).unwrap()
    }

    /// What it says of itself.
    pub(crate) fn presence(&self, here: bool) -> Bytes {
        let (peer, shown) = (self.name.clone(), self.shows.clone());
        PresenceMessage { peer, run: 0, count: 0, here, hello: false, shown }.encode()
    }

    pub(crate) fn hears(&mut self, bytes: &Bytes) -> Result<Heard, String> {
        let mut heard = Heard::default();
        if let Ok(message) = PresenceMessage::decode(bytes) {
            match message.here {
                true if message.peer == self.name => return Err(format!("{} is shown to itself", self.name)),
                true => drop(self.others.insert(message.peer, message.shown)),
                false => drop(self.others.remove(&message.peer)),
            }
            return Ok(heard);
        }
        match wire::decode_sync(bytes).map_err(|error| error.to_string())?.1 {
            SyncMessage::Welcome { lacks, takes_back, .. } => self.welcomed(&lacks, takes_back, &mut heard),
            SyncMessage::Patches { records, .. } => {
                records.iter().try_for_each(|record| self.takes(record))?;
            }
            SyncMessage::State { vector, .. } => self.is_told(&vector, &mut heard),
            SyncMessage::Digest { .. } => {}
            SyncMessage::Offer { snapshot, .. } => {
                self.incoming = Some((snapshot, BytesMut::new()));
                self.finish()?;
            }
            SyncMessage::Part { hash, offset, bytes, .. } => {
                let incoming = self.incoming.as_mut();
                let whole = incoming.filter(|(head, got)| head.hash == hash && got.len() as u64 == offset);
                let Some((_, got)) = whole else { return Err("a part of another snapshot".to_owned()) };
                got.extend_from_slice(&bytes);
                self.finish()?;
            }
            other => return Err(format!("{} was sent {other:?}", self.name)),
        }
        Ok(heard)
    }

    fn welcomed(&mut self, lacks: &[Want], takes_back: bool, heard: &mut Heard) {
        let lost = match takes_back || lacks.is_empty() {
            true => self.find(lacks),
            false => None,
        };
        let lost = lost.or_else(|| self.is_careless.then(Vec::new));
        let Some(lost) = lost else {
            heard.leaves = true;
            return;
        };
        let is_of =
            |records: &[PatchRecord], record: &PatchRecord| records.iter().any(|one| one.id == record.id);
        let again = |record: &&PatchRecord| is_of(&lost, record) || is_of(&self.unsent, record);
        let again: Vec<PatchRecord> = self.remembered.iter().filter(again).cloned().collect();
        self.unsent.retain(|record| !is_of(&again, record));
        self.unsent.extend(again);
        self.welcome = true;
        heard.send = self.unsent.iter().map(|record| self.encode(record)).collect();
    }

    /// The patches that a node has lost, if all of them are remembered.
    fn find(&self, lacks: &[Want]) -> Option<Vec<PatchRecord>> {
        let mut at: BTreeMap<SessionId, u64> = lacks.iter().map(|want| (want.sid, want.after)).collect();
        let mut found = Vec::new();
        for record in &self.remembered {
            if let Some(last) = at.get_mut(&record.session())
                && *last == record.prev
            {
                *last = record.last();
                found.push(record.clone());
            }
        }
        lacks.iter().all(|want| at[&want.sid] >= want.upto).then_some(found)
    }

    fn takes(&mut self, record: &PatchRecord) -> Result<(), String> {
        if self.vector.get(&record.session()) >= record.last() {
            return Err(format!("{} was sent {} twice", self.name, record.id));
        }
        self.vector.advance(record.session(), record.last());
        if self.doc.ids.contains_key(&record.id) {
            // Its own, which the node has and did not come to say so.
            let is_own = self.unsent.iter().any(|own| own.id == record.id);
            return if is_own { Ok(()) } else { Err(format!("{} was in the document", record.id)) };
        }
        self.remembered.push(record.clone());
        self.doc.apply(record)
    }

    fn is_told(&mut self, durable: &StateVector<SessionId>, heard: &mut Heard) {
        let is_stored = |record: &PatchRecord| record.last() <= durable.get(&record.session());
        heard.stored =
            self.unsent.iter().filter(|record| is_stored(record)).map(|record| record.id).collect();
        self.unsent.retain(|record| !is_stored(record));
        self.vector.merge(durable);
    }

    /// Takes over a snapshot that is all there, with what the node lacks on top.
    fn finish(&mut self) -> Result<(), String> {
        let Some((head, bytes)) = self.incoming.take_if(|(head, got)| got.len() as u64 >= head.len_bytes)
        else {
            return Ok(());
        };
        let mut doc = Applied::load(&bytes).map_err(|error| error.to_string())?;
        if self.is_careless {
            let beyond = self.doc.ids.iter().filter(|(id, _)| doc.vector.get(&id.sid) < id.time);
            doc.ids.extend(beyond);
            doc.vector.merge(&self.doc.vector);
        }
        for record in &self.unsent {
            if doc.vector.get(&record.session()) < record.last() {
                doc.apply(record)?;
            }
        }
        if let Some(lost) = self.doc.ids.keys().find(|id| !doc.ids.contains_key(id)) {
            return Err(format!("{} lost {lost} by a snapshot", self.name));
        }
        self.doc = doc;
        self.vector.merge(&head.vector);
        Ok(())
    }
}
