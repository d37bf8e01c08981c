//! What is known of the places that rules name, as bytes that travel with a snapshot: `docs/formats/sync-wire.md`.
//!
//! A snapshot has the values that hold and not who had seen what when they were written. Without this, whoever starts from one
//! would resolve other than those who saw the patches.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crdt_core::{
    SessionId, StateVector, Timestamp, Value,
    codec::{
        Malformed, cbor,
        wire::{Reader, put_vu57},
    },
};

use super::{Conflicts, Place, Rules, Write, tracked::Tracked};
use crate::SignerId;

/// The form of a section; a later one is refused.
const VERSION: u8 = 1;

/// How many entries of state vectors a section stands for, those counted several times that several places share: a place may come to need a
/// copy of its own. Places beyond that are left out, as those are that were written longest ago and are not in conflict.
const ENTRIES_MAX: usize = 1 << 20;

/// Why bytes are no section.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoSection {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("version {0} of what is tracked for rules: {VERSION} is known")]
    Newer(u8),
    #[error("no kind of place: {0}")]
    Place(u8),
    #[error("no clock has the number {0}")]
    Clock(u64),
    #[error("more is tracked for rules than is taken")]
    TooMuch,
}

/// State vectors, each once.
#[derive(Default)]
struct Clocks {
    bytes: Vec<u8>,
    numbers: HashMap<Vec<u8>, u64>,
}

impl Clocks {
    fn number(&mut self, clock: &StateVector) -> u64 {
        let mut bytes = Vec::with_capacity(1 + clock.len() * 8);
        put_vu57(&mut bytes, clock.len() as u64);
        clock.iter().for_each(|(sid, time)| put_id(&mut bytes, Timestamp::new(*sid, time)));
        let next = self.numbers.len() as u64;
        *self.numbers.entry(bytes).or_insert_with_key(|bytes| {
            self.bytes.extend_from_slice(bytes);
            next
        })
    }
}

fn put_id(out: &mut Vec<u8>, id: Timestamp) {
    put_vu57(out, id.sid.get());
    put_vu57(out, id.time);
}

fn put_blob(out: &mut Vec<u8>, bytes: &[u8]) {
    put_vu57(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_writes<'w>(out: &mut Vec<u8>, clocks: &mut Clocks, writes: impl ExactSizeIterator<Item = &'w Write>) {
    put_vu57(out, writes.len() as u64);
    for Write { node, id, clock, value } in writes {
        put_id(out, *node);
        put_id(out, *id);
        put_vu57(out, clocks.number(clock));
        put_blob(out, &cbor::encode(value));
    }
}

fn put_place(out: &mut Vec<u8>, place: &Place) {
    match place {
        Place::Register => out.push(0),
        Place::Key(key) => {
            out.push(1);
            put_blob(out, key.as_bytes());
        }
        Place::Index(index) => out.extend_from_slice(&[2, *index]),
        Place::Slot(slot) => {
            out.push(3);
            put_id(out, *slot);
        }
    }
}

impl Tracked {
    /// How many entries of state vectors it may come to hold.
    fn entries(&self) -> usize {
        let writes = self.live.values().chain(self.decided.values());
        1 + self.seen.len() + writes.map(|write| 1 + write.clock.len()).sum::<usize>()
    }
}

impl Conflicts {
    /// What is tracked, to travel with a snapshot of all that was looked at. Of the same places the same.
    pub(crate) fn section(&self) -> Vec<u8> {
        let mut left = ENTRIES_MAX;
        let mut places: Vec<_> = self.tracked.iter().collect();
        if places.iter().map(|(_, tracked)| tracked.entries()).sum::<usize>() > left {
            places.sort_by_key(|(_, tracked)| std::cmp::Reverse(tracked.rank()));
            places.retain(|(_, tracked)| match left.checked_sub(tracked.entries()) {
                Some(rest) => {
                    left = rest;
                    true
                }
                None => false,
            });
        }
        let (mut clocks, mut rest) = (Clocks::default(), Vec::new());
        put_vu57(&mut rest, places.len() as u64);
        for ((container, place), tracked) in places {
            put_id(&mut rest, *container);
            put_place(&mut rest, place);
            put_vu57(&mut rest, clocks.number(&tracked.seen));
            put_writes(&mut rest, &mut clocks, tracked.live.values());
            put_writes(&mut rest, &mut clocks, tracked.decided.values());
        }
        let mut out = vec![VERSION];
        put_vu57(&mut out, self.signers.len() as u64);
        for (sid, key) in &self.signers {
            put_vu57(&mut out, sid.get());
            out.extend_from_slice(key);
        }
        put_vu57(&mut out, clocks.numbers.len() as u64);
        out.extend_from_slice(&clocks.bytes);
        out.extend_from_slice(&rest);
        out
    }

    /// Takes in what was tracked where a snapshot was made. It may come in any order with patches, and more than once: what
    /// comes out is a function of all writes that either has seen.
    pub(crate) fn take_section(&mut self, bytes: &[u8]) -> Result<(), NoSection> {
        if self.rules.is_empty() {
            return Ok(());
        }
        let read = read(bytes)?;
        self.signers.extend(read.signers);
        for (key, tracked) in read.places {
            self.join(key, &tracked);
        }
        Ok(())
    }

    /// The same as it is, under the same rules.
    pub(crate) fn take_over(&mut self, other: Self) {
        self.signers.extend(other.signers);
        for (key, tracked) in other.tracked {
            self.join(key, &tracked);
        }
    }

    pub(crate) const fn rules(&self) -> &Rules {
        &self.rules
    }
}

/// What a section says.
struct Section {
    signers: BTreeMap<SessionId, SignerId>,
    places: Vec<((Timestamp, Place), Tracked)>,
}

fn read(bytes: &[u8]) -> Result<Section, NoSection> {
    let mut r = Reader::new(bytes);
    match r.u8("a version")? {
        VERSION => {}
        newer => return Err(NoSection::Newer(newer)),
    }
    let mut signers = BTreeMap::new();
    for _ in 0..count(&mut r, 1 + size_of::<SignerId>())? {
        let sid = r.session()?;
        let key = r.take(size_of::<SignerId>() as u64, "a key's id")?;
        signers.extend(key.try_into().ok().map(|key| (sid, key)));
    }
    let mut clocks = Vec::new();
    for _ in 0..count(&mut r, 1)? {
        let entries = count(&mut r, 2)?;
        let clock: Result<StateVector, Malformed> =
            (0..entries).map(|_| Ok((r.session()?, r.time()?))).collect();
        clocks.push(Arc::new(clock?));
    }
    let (mut places, mut left) = (Vec::new(), ENTRIES_MAX);
    let number = count(&mut r, 6)?;
    if number > Conflicts::PLACES_MAX {
        return Err(NoSection::TooMuch);
    }
    for _ in 0..number {
        let container = read_id(&mut r)?;
        let place = match r.u8("a kind of place")? {
            0 => Place::Register,
            1 => {
                let len = r.vu57("a length")?;
                Place::Key(r.text(len)?.to_text())
            }
            2 => Place::Index(r.u8("an index")?),
            3 => Place::Slot(read_id(&mut r)?),
            other => return Err(NoSection::Place(other)),
        };
        let seen = read_clock(&mut r, &clocks)?;
        let live = read_writes(&mut r, &clocks)?.into_iter().map(|write| ((write.node, write.id), write));
        let live = live.collect();
        let decided = read_writes(&mut r, &clocks)?.into_iter().map(|write| (write.author(), write));
        let tracked = Tracked { seen, live, decided: decided.collect() };
        left = left.checked_sub(tracked.entries()).ok_or(NoSection::TooMuch)?;
        places.push(((container, place), tracked));
    }
    r.end()?;
    Ok(Section { signers, places })
}

/// A count of things that take at least so many bytes each.
fn count(r: &mut Reader<'_>, least_bytes: usize) -> Result<usize, Malformed> {
    let max = (r.left() / least_bytes) as u64;
    Ok(r.vu57_up_to(max, "a count")? as usize)
}

fn read_id(r: &mut Reader<'_>) -> Result<Timestamp, Malformed> {
    Ok(Timestamp::new(r.session()?, r.time()?))
}

fn read_clock(r: &mut Reader<'_>, clocks: &[Arc<StateVector>]) -> Result<Arc<StateVector>, NoSection> {
    let number = r.vu57("a number of a clock")?;
    let clock = usize::try_from(number).ok().and_then(|number| clocks.get(number));
    clock.cloned().ok_or(NoSection::Clock(number))
}

fn read_writes(r: &mut Reader<'_>, clocks: &[Arc<StateVector>]) -> Result<Vec<Write>, NoSection> {
    let mut writes = Vec::new();
    for _ in 0..count(r, 6)? {
        let (node, id, clock) = (read_id(r)?, read_id(r)?, read_clock(r, clocks)?);
        let len = r.vu57("a length")?;
        let value: Value = cbor::decode(r.take(len, "a value")?)?;
        writes.push(Write { node, id, clock, value });
    }
    Ok(writes)
}

#[cfg(test)]
mod tests {
    use crdt_core::Model;
    use serde_json::json;

    use super::*;
    use crate::conflict::{Strategy, stamped};

    fn empty() -> Conflicts {
        Conflicts::new(Rules::new().with("/*", Strategy::MultiValue))
    }

    /// Two sessions have set one key, each without the other's.
    fn tracked() -> Conflicts {
        let session = |number: u64| SessionId::new(70_000 + number).unwrap();
        let mut first = Model::new(session(1));
        let start = Value::from(&json!({"a": 0}));
        let mut patches = vec![stamped(&mut first, |model| model.api().root(start)).unwrap()];
        let mut second = first.fork(session(2));
        for (model, value) in [(&mut first, 1), (&mut second, 2)] {
            let set = |model: &mut Model| model.api().obj("")?.set([("a", value)]);
            patches.push(stamped(model, set).unwrap());
        }
        let mut conflicts = empty();
        patches.iter().flatten().for_each(|patch| conflicts.observe(patch.as_ref()));
        conflicts
    }

    #[test]
    fn what_is_tracked_comes_back() {
        let section = tracked().section();
        let hex: String = section.iter().map(|byte| format!("{byte:02x}")).collect();
        let golden = concat!(
            "0100030002f1a20404f2a2040401f1a204040200000000",
            "01f1a20401f1a204040004a161610000f1a20401010161",
            "0102f1a20405f1a20406020101f2a20405f2a2040601010200",
        );
        assert_eq!(hex, golden, "docs/formats/sync-wire.md");
        let mut again = empty();
        again.take_section(&section).unwrap();
        assert_eq!(again.section(), section);
        // What is known already changes nothing.
        again.take_section(&section).unwrap();
        assert_eq!(again.section(), section);
    }

    #[test]
    fn a_section_that_is_cut_or_changed_is_refused_or_taken_without_harm() {
        let section = tracked().section();
        for len in 0..section.len() {
            assert!(empty().take_section(&section[..len]).is_err(), "cut at {len}");
        }
        let later = [&[VERSION + 1], &section[1..]].concat();
        assert!(matches!(empty().take_section(&later), Err(NoSection::Newer(2))));
        for at in 0..section.len() {
            for by in [1, 0x10, 0x80, 0xff] {
                let mut changed = section.clone();
                changed[at] ^= by;
                let mut takes = tracked();
                let before = takes.section();
                match takes.take_section(&changed) {
                    Ok(()) => empty().take_section(&takes.section()).unwrap(),
                    Err(_) => assert_eq!(takes.section(), before, "at {at}"),
                }
            }
        }
    }
}
