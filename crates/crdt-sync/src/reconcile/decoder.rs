//! The asker's side: takes symbols until the difference can be read from them.

use std::collections::{BTreeMap, BTreeSet};

use crdt_core::{SessionId, StateVector, id::MAX_ID};

use super::{Entry, Mapping, Symbol};

/// Decodes what two state vectors differ in.
#[derive(Debug)]
pub struct Reconciler {
    salt: u64,
    own: StateVector<SessionId>,
    /// What is put into every further symbol: the asker's own entries, and the ones decoded already, which come out.
    entries: Vec<Known>,
    /// Theirs without ours: what is not decoded yet.
    symbols: Vec<Symbol>,
    theirs: BTreeSet<Entry>,
    ours: BTreeSet<Entry>,
}

#[derive(Debug)]
struct Known {
    entry: Entry,
    check: u64,
    sign: i64,
    mapping: Mapping,
}

/// How far the decoding is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// More symbols are needed.
    More,
    /// This is it.
    Done(Difference),
}

/// What two state vectors differ in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Difference {
    /// Their whole vector.
    pub theirs: StateVector<SessionId>,
    /// Where we have more: our entries.
    pub ours_ahead: StateVector<SessionId>,
    /// How many entries differ.
    pub len: usize,
}

/// The symbols are of no state vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("symbols that are of no state vector")]
pub struct NotASketch;

impl Reconciler {
    /// Begins, with a salt that was not used before.
    pub fn new(own: StateVector<SessionId>, salt: u64) -> Self {
        let known = |(sid, last): (&SessionId, u64)| {
            let entry = Entry { sid: sid.get(), last };
            let check = entry.check(salt);
            Known { entry, check, sign: -1, mapping: Mapping::new(check) }
        };
        let entries = own.iter().map(known).collect();
        let (symbols, theirs, ours) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        Self { salt, own, entries, symbols, theirs, ours }
    }

    /// The salt.
    pub fn salt(&self) -> u64 {
        self.salt
    }

    /// How many symbols it has taken: the index of the next one.
    pub fn taken(&self) -> usize {
        self.symbols.len()
    }

    #[cfg(test)]
    pub(super) fn entries_len(&self) -> usize {
        self.entries.len()
    }

    /// Takes the next symbols.
    pub fn take(&mut self, symbols: &[Symbol]) -> Result<Progress, NotASketch> {
        let from = self.symbols.len();
        self.symbols.extend_from_slice(symbols);
        for known in &mut self.entries {
            while let Some(symbol) = self.symbols.get_mut(known.mapping.index()) {
                symbol.add(known.entry, known.check, known.sign);
                known.mapping.advance();
            }
        }
        self.peel(from)?;
        // All entries are in the first symbol: when it is empty, none is left.
        match self.symbols.first() {
            Some(first) if first.is_empty() => self.difference().map(Progress::Done),
            _ => Ok(Progress::More),
        }
    }

    /// Takes out entries that are alone in a symbol, until there is none.
    fn peel(&mut self, from: usize) -> Result<(), NotASketch> {
        let mut look: Vec<usize> = (from..self.symbols.len()).collect();
        while let Some(index) = look.pop() {
            let Some((entry, sign)) = self.symbols[index].pure(self.salt) else { continue };
            // Each side has an entry once. (Symbols from outside that say otherwise would keep us busy for ever.)
            let side = if sign > 0 { &mut self.theirs } else { &mut self.ours };
            if !side.insert(entry) {
                return Err(NotASketch);
            }
            let check = entry.check(self.salt);
            let mut mapping = Mapping::new(check);
            while let Some(symbol) = self.symbols.get_mut(mapping.index()) {
                symbol.add(entry, check, -sign);
                look.push(mapping.index());
                mapping.advance();
            }
            self.entries.push(Known { entry, check, sign: -sign, mapping });
        }
        Ok(())
    }

    fn difference(&self) -> Result<Difference, NotASketch> {
        let mut theirs: BTreeMap<SessionId, u64> = self.own.iter().map(|(sid, last)| (*sid, last)).collect();
        let mut ours_ahead = StateVector::new();
        for entry in &self.ours {
            let sid = SessionId::new(entry.sid).map_err(|_| NotASketch)?;
            if theirs.remove(&sid) != Some(entry.last) {
                return Err(NotASketch);
            }
            ours_ahead.advance(sid, entry.last);
        }
        let mut behind = Vec::new();
        for entry in &self.theirs {
            let sid = SessionId::new(entry.sid).map_err(|_| NotASketch)?;
            let unlike = entry.last == 0 || entry.last > MAX_ID || theirs.insert(sid, entry.last).is_some();
            if unlike {
                return Err(NotASketch);
            }
            if entry.last > self.own.get(&sid) {
                behind.push(sid);
            }
        }
        let ours_ahead = ours_ahead.iter().map(|(sid, last)| (*sid, last));
        let ours_ahead = ours_ahead.filter(|(sid, _)| behind.binary_search(sid).is_err()).collect();
        Ok(Difference { theirs: theirs.into(), ours_ahead, len: self.theirs.len().max(self.ours.len()) })
    }
}
