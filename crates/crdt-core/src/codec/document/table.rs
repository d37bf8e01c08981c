//! The clock table: how documents write ids as a place in a list of sessions and a distance from its time.

use std::collections::HashMap;

use crate::{
    Document, SessionId, Timestamp, Value,
    codec::{
        Malformed, room, shape,
        wire::{Reader, put_vu57},
    },
    document::{LoadError, Loader, Order, SessionIx},
    id::MAX_ID,
};

/// The last time that may have been used: the next one must exist.
const TIME_MAX: u64 = MAX_ID - 1;

/// The table as it grows while a document is written: a session enters when an id of its is met.
pub(super) struct TableWriter {
    entries: Vec<Timestamp>,
    places: HashMap<u64, usize>,
    peers: HashMap<u64, u64>,
    own_last: u64,
    /// The session of the last id: most ids follow one of the same session.
    last: (SessionId, usize),
}

impl TableWriter {
    /// A table with the document's own session.
    pub(super) fn new(document: &Document) -> Self {
        let own = Timestamp::new(document.session(), document.time() - 1);
        Self {
            entries: vec![own],
            places: HashMap::from([(own.sid.get(), 0)]),
            peers: document.peers().map(|peer| (peer.sid.get(), peer.time)).collect(),
            own_last: own.time,
            last: (own.sid, 0),
        }
    }

    /// The table of a document with all its peers, in the order in which they were met.
    pub(super) fn full(document: &Document) -> Self {
        let mut table = Self::new(document);
        for peer in document.peers() {
            table.place(peer);
        }
        table
    }

    /// Where the id's session stands; it enters the table if need be.
    fn place(&mut self, id: Timestamp) -> usize {
        if self.last.0 == id.sid && id.time <= self.entries[self.last.1].time {
            return self.last.1;
        }
        let known = self.places.get(&id.sid.get()).copied();
        let place = match known.filter(|&place| id.time <= self.entries[place].time) {
            Some(place) => place,
            None => {
                // A timestamp in a constant may lie beyond all that was seen of its session. The reference cannot write
                // it (H9); a second entry that is high enough can. The first one says what was seen.
                let seen = self.peers.get(&id.sid.get()).copied();
                if let Some(seen) = seen.filter(|&seen| known.is_none() && seen < id.time) {
                    self.entries.push(Timestamp::new(id.sid, seen));
                }
                self.entries.push(Timestamp::new(id.sid, seen.unwrap_or(self.own_last).max(id.time)));
                self.places.insert(id.sid.get(), self.entries.len() - 1);
                self.entries.len() - 1
            }
        };
        self.last = (id.sid, place);
        place
    }

    /// The place from 1 and the distance.
    #[inline]
    pub(super) fn relative(&mut self, id: Timestamp) -> (u64, u64) {
        let place = self.place(id);
        (place as u64 + 1, self.entries[place].time - id.time)
    }

    /// The session's entry that [`relative`](Self::relative) took for an id.
    pub(super) fn placed(&mut self, id: Timestamp) -> Place {
        let place = self.place(id);
        Place { number: place as u64 + 1, time: self.entries[place].time }
    }

    /// The place of an id's session from 0. Where ids are written with plain times, no entry needs to be high enough.
    pub(super) fn index(&mut self, id: Timestamp) -> u64 {
        match self.places.get(&id.sid.get()) {
            Some(&place) => place as u64,
            None => self.place(id) as u64,
        }
    }

    /// The entries.
    pub(super) fn entries(&self) -> &[Timestamp] {
        &self.entries
    }

    /// Writes the table.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        put_vu57(out, self.entries.len() as u64);
        for entry in &self.entries {
            put_vu57(out, entry.sid.get());
            put_vu57(out, entry.time);
        }
    }
}

/// An entry: its place from 1, and its time.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) number: u64,
    pub(super) time: u64,
}

/// An entry whose session a loader has looked up; `None` for the system's.
#[derive(Clone, Copy)]
pub(super) struct Known {
    pub(super) time: u64,
    pub(super) session: Option<SessionIx>,
}

/// A table that was read.
pub(super) struct Table(Vec<Timestamp>);

impl Table {
    /// Reads a table.
    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let len = r.vu57("the length of the clock table")?;
        if len == 0 {
            return Err(Malformed::Contradiction { at: r.offset(), what: "a clock table without entries" });
        }
        let mut entries = Vec::with_capacity(room(len, r.left() / 2));
        for _ in 0..len {
            entries.push(Timestamp::new(r.session()?, r.vu57_up_to(TIME_MAX, "time in the clock table")?));
        }
        Ok(Self(entries))
    }

    /// Reads the items of a table: sessions and times by turns, the document's own first.
    pub(super) fn from_values(flat: &[Value]) -> Result<Self, Malformed> {
        if flat.is_empty() {
            return Err(Malformed::shape("the own session and its time", "nothing"));
        }
        let mut entries = Vec::with_capacity(flat.len() / 2);
        for (index, pair) in flat.chunks(2).enumerate() {
            let sid = shape::session(shape::item(pair, 0)).map_err(shape::at(2 * index))?;
            let time = shape::number(shape::item(pair, 1), TIME_MAX, "a time below 2^53 - 1");
            entries.push(Timestamp::new(sid, time.map_err(shape::at(2 * index + 1))?));
        }
        Ok(Self(entries))
    }

    /// The session at a place from 0.
    pub(super) fn session(&self, index: u64) -> Option<SessionId> {
        self.0.get(usize::try_from(index).ok()?).map(|entry| entry.sid)
    }

    /// The id at a distance from the entry at a place from 1. Place 0 is the system's session, with plain times.
    #[inline]
    pub(super) fn absolute(&self, place: u64, distance: u64) -> Option<Timestamp> {
        if place == 0 {
            return (distance <= MAX_ID).then_some(Timestamp::new(SessionId::SYSTEM, distance));
        }
        let entry = self.0.get(usize::try_from(place - 1).ok()?)?;
        Some(Timestamp::new(entry.sid, entry.time.checked_sub(distance)?))
    }

    /// The entries as a loader knows them.
    pub(super) fn known(&self, loader: &mut Loader) -> Result<Vec<Known>, LoadError> {
        let known = |entry: &Timestamp| {
            let session = match entry.sid {
                SessionId::SYSTEM => None,
                sid => Some(loader.session(sid)?),
            };
            Ok(Known { time: entry.time, session })
        };
        self.0.iter().map(known).collect()
    }

    /// An empty document of the first entry's session that has seen the others: of two entries of one session, what the first
    /// one says. Those that only constants name are [forgotten](Loader::doubt_names) in the end.
    pub(super) fn loader(&self) -> Result<Loader, LoadError> {
        let own = self.0[0].sid;
        // A session may stand twice, and the system's session is no peer.
        let next = self.0.iter().filter(|entry| entry.sid == own).map(|entry| entry.time + 1).max();
        let mut loader = Loader::new(own, next.unwrap_or(1), Order::Logical);
        for peer in self.0.iter().filter(|peer| peer.sid != own && peer.sid != SessionId::SYSTEM) {
            loader.observe_first(peer.sid, peer.time)?;
        }
        loader.doubt_names();
        Ok(loader)
    }
}
