//! One simulated replica: the production machine, a store that can lose what is not synced, and a document.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use crdt_core::{PatchBuilder, SessionId, StateVector, Timestamp};
use crdt_sync::{
    Gate, Guard, PatchRecord, PatchStore as _, PeerChange, PeerId, SyncMessage, Want,
    dag::Heads,
    discovery::PeerSet,
    session::{Input, Output, Refusal, Session, SessionEvent, SessionOptions, SyncMode, TrickleOptions},
    store::{MemoryPatchStore, PatchPage},
};
use futures_util::FutureExt as _;

use crate::{disk::Disk, document::SimDocument, shelf::now};

/// Makes the guard of the replica with that number.
pub(crate) type MakeGuard = Arc<dyn Fn(usize) -> Arc<dyn Guard>>;

pub(crate) struct Replica {
    pub(crate) id: PeerId,
    pub(crate) session: SessionId,
    pub(crate) machine: Session,
    pub(crate) doc: SimDocument,
    pub(crate) down: bool,
    /// Whether it was told that a session is used twice, or that a peer has other patches under the same times.
    pub(crate) noticed: bool,
    pub(crate) durable: MemoryPatchStore,
    pub(crate) disk: Disk,
    /// The store failed for too long: the manager stops.
    pub(crate) gives_up: bool,
    /// What discovery says.
    found: PeerSet,
    /// The last snapshot that was made for a peer, by its hash.
    pub(crate) offered: Option<(u64, Bytes)>,
    /// How often it folded patches into a snapshot.
    pub(crate) folded: u64,
    /// How often while somebody was cut off.
    pub(crate) folded_parted: u64,
    /// Whom it has met and who did not say goodbye: noted beside the patches.
    pub(crate) noted: Vec<PeerId>,
    /// Appended and not synced yet: a crash loses it.
    unsynced: Vec<PatchRecord>,
    pub(crate) options: SessionOptions,
    /// In a group with signatures: a guard that knows the list and nothing else yet.
    pub(crate) make_guard: Option<MakeGuard>,
    pub(crate) number: usize,
    pub(crate) guard: Option<Arc<dyn Guard>>,
    pub(crate) gate: Gate,
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
        let (doc, durable) = (SimDocument::new(session), MemoryPatchStore::new());
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
            folded: 0,
            folded_parted: 0,
            noted: Vec::new(),
            unsynced: Vec::new(),
            options,
            make_guard: None,
            number,
            guard: None,
            gate: Gate::default(),
            not_allowed: 0,
        }
    }

    /// The same where fewer patches may wait for their causes.
    pub(crate) fn leave_less_room(&mut self, parked_max: usize) {
        self.options.parked_max = parked_max;
        let seed = self.number as u64;
        self.machine = Session::new(self.options, StateVector::new(), Heads::new(), Duration::ZERO, seed);
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
    pub(crate) fn restart(&mut self, session: SessionId, at: Duration, seed: u64) -> Result<(), String> {
        self.session = session;
        self.found = PeerSet::new();
        let signed = self.make_guard.is_some();
        let parked_max = self.options.parked_max;
        let options = options(session, self.options.sync);
        self.options =
            SessionOptions { rechecks_parked: signed, proves_words: signed, parked_max, ..options };
        self.guard = self.make_guard.as_ref().map(|make| make(self.number));
        self.gate = Gate::new(self.guard.clone());
        self.doc = SimDocument::new(session);
        let loaded = now(self.folding().load()).map_err(|error| error.to_string())?;
        if loaded.not_applied > 0 || self.doc.lock().vector != loaded.stored {
            let (shows, kept) = (&self.doc.lock().vector, &loaded.stored);
            return Err(format!("{} kept patches without their causes: {shows:?} of {kept:?}", self.id));
        }
        let absent = self.noted.iter().map(|id| (id.clone(), self.options.absent_max));
        let machine = Session::new(self.options, loaded.stored, loaded.heads, at, seed);
        self.machine =
            machine.with_folded(loaded.folded).with_content(loaded.content).with_absent(at, absent);
        self.down = false;
        Ok(())
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
        let record = PatchRecord::new(self.doc.lock().vector.get(&self.session), patch).unwrap();
        matches!(self.machine.local_refusal(&record), Some(Refusal::SessionUsedTwice(_)))
    }

    /// Writes one patch on top of the document.
    pub(crate) fn edit(
        &mut self,
        at: Duration,
        span: u64,
        needs: Vec<Timestamp>,
        wishes: &mut Vec<Wish>,
    ) -> Result<(), String> {
        let (time, patch) = self.doc.lock().typed(self.session, span, needs);
        let record = PatchRecord::new(self.doc.lock().vector.get(&self.session), patch)
            .and_then(|record| record.with_links(self.machine.links(time)))
            .map_err(|error| error.to_string())?;
        if let Some(Refusal::SessionUsedTwice(_)) = self.machine.local_refusal(&record) {
            return Ok(());
        }
        let record = match &self.guard {
            Some(guard) => guard.prove(record).map_err(|error| error.to_string())?,
            None => record,
        };
        self.doc.lock().apply(&record)?;
        self.input(at, Input::Local(record), wishes)
    }

    /// A window has brought a patch. Whether it is taken; else there is no room for it now.
    pub(crate) fn relay(
        &mut self,
        at: Duration,
        record: PatchRecord,
        wishes: &mut Vec<Wish>,
    ) -> Result<bool, String> {
        if let Some(refusal) = self.machine.client_refusal(&record) {
            return Err(format!("{} refused what a window brought: {refusal}", self.id));
        }
        if !self.machine.has_room_for(&record) {
            return Ok(false);
        }
        let record = self.gate.vouch(&self.machine, record).map_err(|error| error.to_string())?;
        self.input(at, Input::Relayed(record), wishes)?;
        Ok(true)
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
        let is_discovery = matches!(input, Input::PeerUp(_) | Input::PeerDown(_) | Input::PeerLeft(_));
        self.machine.handle_input(at, input);
        if is_discovery {
            self.noted = self.machine.members(at).into_iter().map(|(id, _)| id).collect();
        }
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Store(record) => {
                    self.gate.note(&record);
                    self.unsynced.push(record);
                    wishes.push(Wish::SyncSoon);
                }
                Output::Apply(record) => self.doc.lock().apply(&record)?,
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
                Output::Released { record, .. } => {
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
}
