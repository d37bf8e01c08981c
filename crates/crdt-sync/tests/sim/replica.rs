//! One simulated replica: the production machine, a store that can lose what is not synced, and a document.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use crdt_core::{PatchBuilder, SessionId, StateVector, Timestamp};
use crdt_sync::{
    Gate, Guard, PatchRecord, PeerChange, PeerId, SnapshotHead, SyncMessage, Want,
    dag::{Heads, Link, Walk, snapshot},
    discovery::PeerSet,
    session::{
        Input, Output, Page, ReadWhat, Refusal, Session, SessionEvent, SessionOptions, SyncMode,
        TrickleOptions, WALK_PAGE_NODES_MAX, content,
    },
    store::{MemoryPatchStore, PatchPage, PatchStore, PatchStoreError},
};
use futures_util::FutureExt as _;

use crate::disk::Disk;

/// The document: which patches are in it. What a real document would do with them is tested elsewhere; here it
/// matters that each comes once and after its causes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) ids: BTreeSet<Timestamp>,
    pub(crate) vector: StateVector<SessionId>,
}

impl Applied {
    fn apply(&mut self, record: &PatchRecord) -> Result<(), String> {
        if !self.ids.insert(record.id) {
            return Err(format!("{} applied twice", record.id));
        }
        if self.vector.get(&record.session()) != record.prev {
            return Err(format!("{} applied out of its session's order", record.id));
        }
        let lacks = |link: &&Link| self.vector.get(&link.sid) < link.last;
        if let Some(link) = record.links.iter().find(lacks) {
            return Err(format!("{} applied before {link:?}, which it follows", record.id));
        }
        if let Some(need) = record.needs.iter().find(|need| self.vector.get(&need.sid) < need.time) {
            return Err(format!("{} applied before {need}, which it names", record.id));
        }
        self.vector.advance(record.session(), record.last());
        Ok(())
    }

    fn snapshot(&self, content: u64, owners: &[u8]) -> Bytes {
        let ids: Vec<(u64, u64)> = self.ids.iter().map(|id| (id.sid.get(), id.time)).collect();
        serde_json::to_vec(&(ids, &self.vector, content, owners)).unwrap().into()
    }

    fn load(snapshot: &[u8]) -> Result<(Self, u64, Vec<u8>), String> {
        let (ids, vector, content, owners): (Vec<(u64, u64)>, _, u64, Vec<u8>) =
            serde_json::from_slice(snapshot).map_err(|e| e.to_string())?;
        let id = |(sid, time)| Timestamp::new(SessionId::new(sid).unwrap(), time);
        Ok((Self { ids: ids.into_iter().map(id).collect(), vector }, content, owners))
    }
}

const OFFER_TICKS: u64 = 400;

/// Makes the guard of the replica with that number.
pub(crate) type MakeGuard = Arc<dyn Fn(usize) -> Arc<dyn Guard>>;

pub(crate) struct Replica {
    pub(crate) id: PeerId,
    pub(crate) session: SessionId,
    pub(crate) machine: Session,
    pub(crate) doc: Applied,
    pub(crate) down: bool,
    /// Whether it was told that a session is used twice, or that a peer has other patches under the same times.
    pub(crate) noticed: bool,
    durable: MemoryPatchStore,
    pub(crate) disk: Disk,
    /// The store failed for too long: the manager stops.
    gives_up: bool,
    /// What discovery says.
    found: PeerSet,
    /// The last snapshot that was made for a peer, by its hash.
    offered: Option<(u64, Bytes)>,
    /// Appended and not synced yet: a crash loses it.
    unsynced: Vec<PatchRecord>,
    pub(crate) options: SessionOptions,
    /// In a group with signatures: a guard that knows the list and nothing else yet.
    pub(crate) make_guard: Option<MakeGuard>,
    number: usize,
    guard: Option<Arc<dyn Guard>>,
    gate: Gate,
    /// How many patches the guard refused.
    pub(crate) not_allowed: u64,
}

/// What a replica wants of the world.
#[derive(Debug, Clone)]
pub(crate) enum Wish {
    Broadcast(PatchRecord),
    Send(Option<PeerId>, SyncMessage),
    SyncSoon,
    /// To write again what could not be written.
    TryAgain(Duration),
    /// It has stopped by itself.
    Stopped,
}

fn options(session: SessionId, sync: SyncMode) -> SessionOptions {
    SessionOptions {
        sync,
        state_entries_max: 4,
        walk_nodes_max: 12,
        parked_max: 16,
        storing_max: 6,
        page_bytes_max: 300,
        reads_max: 2,
        request_timeout: Duration::from_millis(500),
        settle: Duration::from_millis(50),
        distrust: Duration::from_secs(1),
        trickle: TrickleOptions {
            interval_min: Duration::from_millis(200),
            interval_max: Duration::from_secs(5),
            redundancy: 2,
        },
        ..SessionOptions::standard(session)
    }
}

impl Replica {
    pub(crate) fn new(number: usize, session: SessionId, sync: SyncMode, seed: u64) -> Self {
        let id = PeerId::new(format!("node-{number}")).unwrap();
        let options = options(session, sync);
        let machine = Session::new(options, StateVector::new(), Heads::new(), Duration::ZERO, seed);
        let (doc, durable) = (Applied::default(), MemoryPatchStore::new());
        Self {
            id,
            session,
            machine,
            doc,
            down: false,
            noticed: false,
            durable,
            disk: Disk::default(),
            gives_up: false,
            found: PeerSet::new(),
            offered: None,
            unsynced: Vec::new(),
            options,
            make_guard: None,
            number,
            guard: None,
            gate: Gate::default(),
            not_allowed: 0,
        }
    }

    /// Lets nobody write whose patches are not signed as `make` has it.
    pub(crate) fn guard(&mut self, make: MakeGuard) {
        (self.options.rechecks_parked, self.options.proves_words) = (true, true);
        let seed = self.number as u64;
        self.machine = Session::new(self.options, StateVector::new(), Heads::new(), Duration::ZERO, seed);
        self.guard = Some(make(self.number));
        self.make_guard = Some(make);
        self.gate = Gate::new(self.guard.clone());
    }

    /// Takes a writer from the list: `make` makes a list without it. Whose sessions are whose stays known.
    pub(crate) fn revoke(&mut self, make: MakeGuard) {
        let (old, new) = (self.guard.take(), make(self.number));
        old.iter().for_each(|old| new.note_owners(&old.owners(&self.kept_vector())));
        self.unsynced.iter().for_each(|record| new.note(record));
        self.make_guard = Some(make);
        self.gate = Gate::new(Some(Arc::clone(&new)));
        self.guard = Some(new);
    }

    fn allows(&mut self, record: &PatchRecord) -> bool {
        let allowed = self.gate.check(&self.machine, record).is_ok();
        self.not_allowed += u64::from(!allowed);
        allowed
    }

    /// Loses what was not synced.
    pub(crate) fn crash(&mut self) {
        self.unsynced.clear();
        self.disk.forget();
        self.down = true;
    }

    /// Starts again from what is durable, under a new session.
    pub(crate) fn restart(&mut self, session: SessionId, now: Duration, seed: u64) -> Result<(), String> {
        self.session = session;
        self.found = PeerSet::new();
        let signed = self.make_guard.is_some();
        let options = options(session, self.options.sync);
        self.options = SessionOptions { rechecks_parked: signed, proves_words: signed, ..options };
        self.guard = self.make_guard.as_ref().map(|make| make(self.number));
        self.gate = Gate::new(self.guard.clone());
        if let Some(guard) = &self.guard {
            if let Some((_, bytes)) = self.kept_snapshot() {
                guard.note_owners(&load(&bytes)?.3);
            }
            self.beyond_snapshot().iter().for_each(|record| self.gate.note(record));
        }
        let kept = self.kept_vector();
        let (doc, heads, content) = self.rebuilt(&kept)?;
        if doc.vector != kept {
            return Err(format!(
                "{} kept patches without their causes: {:?} of {kept:?}",
                self.id, doc.vector
            ));
        }
        self.doc = doc;
        let machine = Session::new(self.options, self.kept_vector(), heads, now, seed);
        self.machine = machine.with_content(Some(content));
        self.down = false;
        Ok(())
    }

    /// All patches that are durable; `None` if a snapshot came in their place.
    pub(crate) fn kept(&self) -> Option<Vec<PatchRecord>> {
        let want: Vec<Want> =
            self.kept_vector().iter().map(|(sid, upto)| Want { sid: *sid, after: 0, upto }).collect();
        match now(self.durable.page(&want, usize::MAX)).unwrap() {
            PatchPage::Records(records) => Some(records),
            PatchPage::Compacted => None,
        }
    }

    fn kept_snapshot(&self) -> Option<(StateVector<SessionId>, Bytes)> {
        now(self.durable.snapshot()).unwrap()
    }

    /// All patches that are durable and not in a snapshot.
    pub(crate) fn beyond_snapshot(&self) -> Vec<PatchRecord> {
        let have = now(self.durable.snapshot()).unwrap().map(|(vector, _)| vector).unwrap_or_default();
        let all = self.kept_vector();
        let want = have.missing_from(&all).map(|(sid, after, upto)| Want { sid: *sid, after, upto });
        let page = now(self.durable.page(&want.collect::<Vec<_>>(), usize::MAX)).unwrap();
        let PatchPage::Records(records) = page else { unreachable!("it is beyond the snapshot") };
        records
    }

    /// Starts again from a backup, under the session that it had.
    pub(crate) fn put_back(&mut self, backup: &[PatchRecord], at: Duration, seed: u64) -> Result<(), String> {
        self.crash();
        self.durable = MemoryPatchStore::new();
        now(self.durable.append(backup)).map_err(|error| error.to_string())?;
        self.restart(self.session, at, seed)
    }

    /// Whether it takes no edits any more because its session is used twice.
    pub(crate) fn is_stopped(&self) -> bool {
        let mut patch = PatchBuilder::new(self.session, u64::from(u32::MAX));
        patch.nop(1);
        let patch = patch.finish().map(|patch| Bytes::copy_from_slice(patch.as_bytes())).unwrap_or_default();
        let record = PatchRecord::new(self.doc.vector.get(&self.session), patch).unwrap();
        matches!(self.machine.local_refusal(&record), Some(Refusal::SessionUsedTwice(_)))
    }

    /// Stands for the patches that are durable.
    pub(crate) fn kept_content(&self) -> u64 {
        let folded = now(self.durable.snapshot()).unwrap().map_or(0, |(_, bytes)| load(&bytes).unwrap().2);
        self.beyond_snapshot().iter().fold(folded, |sum, record| sum.wrapping_add(content(record)))
    }

    pub(crate) fn kept_vector(&self) -> StateVector<SessionId> {
        now(self.durable.vector()).unwrap()
    }

    /// The document as the durable store has it, up to a vector: without what lacks a cause there, since what others say
    /// that they have need not be so.
    fn rebuilt(&self, upto: &StateVector<SessionId>) -> Result<(Applied, Heads, u64), String> {
        let (mut doc, mut heads, mut sum) = match now(self.durable.snapshot()).unwrap() {
            Some((_, bytes)) => {
                let (doc, heads, sum, _) = load(&bytes)?;
                (doc, heads, sum)
            }
            None => (Applied::default(), Heads::new(), 0),
        };
        let rest: Vec<Want> =
            doc.vector.missing_from(upto).map(|(sid, after, upto)| Want { sid: *sid, after, upto }).collect();
        match now(self.durable.page(&rest, usize::MAX)).unwrap() {
            PatchPage::Records(records) => {
                for record in &records {
                    if !record.follows(&doc.vector) {
                        continue;
                    }
                    doc.apply(record)?;
                    sum = sum.wrapping_add(content(record));
                    if let Some(forked) = heads.add(record) {
                        return Err(format!("{forked:?} is another node than ours"));
                    }
                }
            }
            PatchPage::Compacted => return Err("a patch beyond the snapshot is said to be in it".to_owned()),
        }
        Ok((doc, heads, sum))
    }

    /// A snapshot of what is durable, up to a vector.
    fn folded(&self, upto: &StateVector<SessionId>) -> Result<(StateVector<SessionId>, Bytes), String> {
        let (doc, heads, content) = self.rebuilt(upto)?;
        let owners = self.guard.as_ref().map(|guard| guard.owners(&doc.vector)).unwrap_or_default();
        let bytes = doc.snapshot(content, &owners);
        let dag = self.options.sync == SyncMode::Dag;
        Ok((doc.vector, if dag { snapshot::seal(&heads, &bytes) } else { bytes }))
    }

    /// Writes one patch on top of the document.
    pub(crate) fn edit(
        &mut self,
        now: Duration,
        span: u64,
        needs: Vec<Timestamp>,
        wishes: &mut Vec<Wish>,
    ) -> Result<(), String> {
        let latest = self.doc.vector.iter().map(|(_, time)| time).max().unwrap_or(0);
        let mut patch = PatchBuilder::new(self.session, latest + 1);
        let named = needs.len() as u64;
        for need in needs {
            patch.ins_str(need, need, "x");
        }
        patch.nop(span.saturating_sub(named).max(1));
        let patch = patch.finish().map(|patch| Bytes::copy_from_slice(patch.as_bytes())).unwrap_or_default();
        let record = PatchRecord::new(self.doc.vector.get(&self.session), patch)
            .and_then(|record| record.with_links(self.machine.links(latest + 1)))
            .map_err(|error| error.to_string())?;
        if let Some(Refusal::SessionUsedTwice(_)) = self.machine.local_refusal(&record) {
            return Ok(());
        }
        let record = match &self.guard {
            Some(guard) => guard.prove(record).map_err(|error| error.to_string())?,
            None => record,
        };
        self.doc.apply(&record)?;
        self.input(now, Input::Local(record), wishes)
    }

    /// Makes all appended durable and confirms it. If the store fails, it may have kept the first `kept` all the same.
    pub(crate) fn sync(&mut self, at: Duration, kept: usize, wishes: &mut Vec<Wish>) -> Result<(), String> {
        if self.unsynced.is_empty() || self.disk.pauses(at) {
            return Ok(());
        }
        if self.disk.fails_at(at) {
            let kept = &self.unsynced[..kept.min(self.unsynced.len())];
            now(self.durable.append(kept)).map_err(|e| e.to_string())?;
            match self.disk.failed(at) {
                Some(pause) => wishes.push(Wish::TryAgain(pause)),
                None => self.stop(wishes),
            }
            return Ok(());
        }
        let records = std::mem::take(&mut self.unsynced);
        now(self.durable.append(&records)).map_err(|e| e.to_string())?;
        records.iter().try_for_each(|_| self.input(at, Input::Stored, wishes))?;
        self.disk.written().into_iter().try_for_each(|input| self.deliver(at, input, wishes))
    }

    /// The manager has given its store up; it takes another one.
    fn stop(&mut self, wishes: &mut Vec<Wish>) {
        self.gives_up = false;
        self.crash();
        wishes.push(Wish::Stopped);
    }

    /// Takes in what comes from outside, or lets it wait as long as the store is waited for.
    pub(crate) fn deliver(
        &mut self,
        at: Duration,
        input: Input,
        wishes: &mut Vec<Wish>,
    ) -> Result<(), String> {
        if self.down {
            return Ok(());
        }
        if self.disk.is_waited_for() {
            self.disk.hold(input);
            return Ok(());
        }
        self.input(at, input, wishes)
    }

    /// Discovery says who is there. Returns how many came and went.
    pub(crate) fn discover(
        &mut self,
        at: Duration,
        peers: BTreeSet<PeerId>,
        wishes: &mut Vec<Wish>,
    ) -> Result<u64, String> {
        self.found.set(peers);
        let mut changes = 0;
        while let Some(Some(change)) = self.found.next().now_or_never() {
            changes += 1;
            let input = match change {
                PeerChange::Up(peer) => Input::PeerUp(peer),
                PeerChange::Down(peer) => Input::PeerDown(peer),
                PeerChange::Left(peer) => Input::PeerLeft(peer),
            };
            self.deliver(at, input, wishes)?;
        }
        Ok(changes)
    }

    /// Folds what all the others are known to have into a snapshot. (What only some have must stay as patches: two
    /// snapshots that each lack something of the other can't be merged.)
    pub(crate) fn compact(&mut self, others: &[PeerId]) -> Result<(), String> {
        let stable = self.gate.stable(&self.machine, &self.id, None);
        let known = |other: &PeerId| *other == self.id || self.machine.knows(other);
        if !others.iter().all(known) || stable.is_empty() {
            return Ok(());
        }
        let (vector, bytes) = self.folded(&stable)?;
        match now(self.durable.install(&vector, bytes)) {
            // A snapshot from elsewhere is ahead of what we know of the others.
            Ok(()) | Err(PatchStoreError::Diverged { .. }) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    pub(crate) fn input(&mut self, at: Duration, input: Input, wishes: &mut Vec<Wish>) -> Result<(), String> {
        let input = match input {
            Input::Heard(record) if !self.allows(&record) => return Ok(()),
            Input::Message { from, message } => {
                let (input, refused) = self.gate.receive(&self.machine, from, message);
                self.not_allowed += refused.len() as u64;
                input
            }
            input => input,
        };
        self.machine.handle_input(at, input);
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Store(record) => {
                    self.gate.note(&record);
                    self.unsynced.push(record);
                    wishes.push(Wish::SyncSoon);
                }
                Output::Apply(record) => self.doc.apply(&record)?,
                Output::Broadcast(record) => {
                    if self.kept_vector().get(&record.session()) < record.last() {
                        return Err(format!("{} broadcast before it was durable", record.id));
                    }
                    wishes.push(Wish::Broadcast(record));
                }
                Output::Send { to, message } => {
                    wishes.push(Wish::Send(to, self.gate.send(&self.id, *message)));
                }
                Output::Read { peer, id, what } => {
                    let page = self.read(at, &peer, *what)?;
                    self.machine.handle_input(at, Input::Page { peer, id, page });
                }
                Output::Install { head, bytes } => {
                    let input = self.install(at, &head, bytes);
                    if self.gives_up {
                        self.stop(wishes);
                        return Ok(());
                    }
                    self.machine.handle_input(at, input);
                }
                Output::Compare { want, records } => {
                    let input = self.compare(want, &records);
                    self.machine.handle_input(at, input);
                }
                Output::EndsAt(time) => {
                    let want = Want { sid: self.session, after: time - 1, upto: time };
                    if now(self.durable.page(&[want], 1)).unwrap() == PatchPage::Records(Vec::new()) {
                        self.machine.session_is_forked(Timestamp::new(self.session, time), false);
                    }
                }
                Output::Mend(_) | Output::RepairEnds { .. } => unreachable!("nothing is repaired here"),
                Output::Released(record) => {
                    if self.allows(&record) {
                        self.machine.handle_input(at, Input::Heard(record));
                    }
                }
                Output::Event(event) => {
                    let twice = |refusal: &Refusal| matches!(refusal, Refusal::SessionUsedTwice(_));
                    self.noticed |= match &*event {
                        SessionEvent::Refused(refusal) => twice(refusal),
                        SessionEvent::Diverged { .. } => true,
                        _ => false,
                    };
                }
            }
        }
        self.gate.turn_ends();
        let status = self.machine.status();
        let within = status.parked <= self.options.parked_max
            && status.parked_bytes <= self.options.parked_bytes_max
            && status.storing <= self.options.storing_max + 16
            && status.peers <= self.options.peers_max;
        if !within {
            return Err(format!("bounds exceeded: {status:?}"));
        }
        Ok(())
    }

    fn read(&mut self, at: Duration, peer: &PeerId, what: ReadWhat) -> Result<Page, String> {
        match what {
            ReadWhat::Patches { .. } | ReadWhat::Walk { .. } if self.disk.fails_at(at) => {
                Ok(Page::Records(Vec::new()))
            }
            ReadWhat::Patches { want, bytes_max, offers } => {
                // As if patches for more ticks than that were larger than a snapshot.
                let ticks: u64 = want.iter().map(|want| want.upto.saturating_sub(want.after)).sum();
                let stable = self.gate.stable(&self.machine, &self.id, Some(peer));
                let whole = self.guard.is_none() && stable == self.kept_vector();
                let page = match offers && whole && ticks > OFFER_TICKS {
                    true => PatchPage::Compacted,
                    false => now(self.durable.page(&want, bytes_max)).unwrap(),
                };
                self.page_or_offer(peer, page, offers)
            }
            ReadWhat::Walk { want, have, bytes_max } => {
                let mut walk = Walk::new(&want, have, bytes_max, WALK_PAGE_NODES_MAX);
                while let Some(want) = walk.next_read() {
                    walk.read(now(self.durable.page(&[want], bytes_max)).unwrap());
                }
                self.page_or_offer(peer, walk.finish(), true)
            }
            ReadWhat::Part { hash, offset, bytes_max } => {
                let offered = self.offered.as_ref().filter(|(offered, _)| *offered == hash);
                let bytes = offered.map_or_else(Bytes::new, |(_, bytes)| {
                    let from = (offset as usize).min(bytes.len());
                    bytes.slice(from..(from + bytes_max).min(bytes.len()))
                });
                Ok(Page::Part { hash, offset, bytes })
            }
        }
    }

    fn compare(&self, want: Want, theirs: &[PatchRecord]) -> Input {
        let ours = match now(self.durable.page(&[want], usize::MAX)).unwrap() {
            PatchPage::Records(ours) => ours,
            PatchPage::Compacted => return Input::Compared { upto: want.upto, differs: None },
        };
        let different = theirs.iter().zip(&ours).find(|(theirs, ours)| theirs.patch != ours.patch);
        let differs = different.map(|(theirs, _)| theirs.id);
        let differs = differs.or_else(|| theirs.get(ours.len()).map(|theirs| theirs.id));
        Input::Compared { upto: want.upto, differs }
    }

    fn page_or_offer(&mut self, peer: &PeerId, page: PatchPage, offers: bool) -> Result<Page, String> {
        match page {
            PatchPage::Records(records) => Ok(Page::Records(records)),
            PatchPage::Compacted => {
                let mut vector = self.kept_vector();
                if offers {
                    let contained = now(self.durable.snapshot()).unwrap().map(|(vector, _)| vector);
                    vector = self.gate.stable(&self.machine, &self.id, Some(peer));
                    vector.merge(&contained.unwrap_or_default());
                }
                let (vector, bytes) = self.folded(&vector)?;
                let head = SnapshotHead::new(vector, &bytes);
                let head = match &self.guard {
                    Some(guard) => guard.prove_snapshot(head, &bytes),
                    None => Some(head),
                };
                let Some(head) = head else { return Ok(Page::Records(Vec::new())) };
                self.offered = Some((head.hash, bytes));
                Ok(Page::Snapshot(head))
            }
        }
    }

    fn install(&mut self, at: Duration, head: &SnapshotHead, bytes: Bytes) -> Input {
        let vector = &head.vector;
        if self.guard.as_ref().is_some_and(|guard| guard.check_snapshot(head, &bytes).is_err()) {
            return Input::InstallFailed;
        }
        let Ok((contained, _, _, owners)) = load(&bytes) else { return Input::InstallFailed };
        if self.guard.as_ref().is_some_and(|guard| guard.check_owners(vector, &owners).is_err()) {
            return Input::InstallFailed;
        }
        if vector.get(&self.session) > self.kept_vector().get(&self.session) {
            let id = Timestamp::new(self.session, vector.get(&self.session));
            self.machine.session_is_forked(id, self.guard.is_none());
            return Input::InstallFailed;
        }
        // What is here goes on top of it, each patch where the one before it ends.
        let (mut trial, kept) = (contained.clone(), self.kept_vector());
        let on_top: Vec<Want> =
            vector.missing_from(&kept).map(|(sid, after, upto)| Want { sid: *sid, after, upto }).collect();
        let PatchPage::Records(on_top) = now(self.durable.page(&on_top, usize::MAX)).unwrap() else {
            return Input::InstallFailed;
        };
        if let Some(forked) = on_top.iter().find(|record| trial.apply(record).is_err()) {
            self.machine.session_is_forked(forked.id, self.guard.is_none());
            return Input::InstallFailed;
        }
        if contained.vector == *vector && !self.disk.outlasts(at) {
            self.gives_up = true;
            return Input::InstallFailed;
        }
        if contained.vector != *vector || now(self.durable.install(vector, bytes)).is_err() {
            return Input::InstallFailed;
        }
        self.guard.iter().for_each(|guard| guard.note_owners(&owners));
        // What is applied or about to be, and not in the snapshot, goes on top of it.
        let beyond: Vec<Timestamp> =
            self.doc.ids.iter().filter(|id| vector.get(&id.sid) < id.time).copied().collect();
        let ours = std::mem::take(&mut self.doc);
        self.doc = contained;
        self.doc.ids.extend(beyond);
        self.doc.vector.merge(&ours.vector);
        let Ok((_, heads, content)) = self.rebuilt(&self.kept_vector()) else { return Input::InstallFailed };
        Input::Installed { vector: vector.clone(), heads, content: Some(content) }
    }
}

fn load(snapshot: &Bytes) -> Result<(Applied, Heads, u64, Vec<u8>), String> {
    let (heads, document) = snapshot::open(snapshot).map_err(|e| e.to_string())?;
    let (applied, content, owners) = Applied::load(&document)?;
    Ok((applied, heads, content, owners))
}

/// The memory store never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the memory store never waits")
}
