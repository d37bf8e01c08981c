//! The thin part that does what the machine says: one task that owns the machine and waits for everything.

mod load;
mod own;
mod report;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use crdt_core::{Patch, SessionId, StateVector, Timestamp};
use futures_util::FutureExt as _;
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    time::Instant,
};
use tracing::Instrument as _;

use self::report::Traffic;
use super::{
    Parts, SyncError, SyncStatus,
    folding::skip_bad,
    policy::Log,
    repair::{RepairDone, Repairing},
    snapshots::{FoldPause, Offered},
    told::Told,
};
use crate::{
    Broadcaster, Gate, Heard, PatchRecord, PeerChange, PeerId, SyncMessage,
    session::{Input, Output, Refusal, Session, SessionEvent},
};

/// How many inputs are taken in before the store is asked to make their patches durable, together.
const BATCH_MAX: usize = 256;
/// How many of the last own patches are known again, when they are handed over twice, without a look into the store.
/// An older one is looked up there; if it has been folded since, it is refused.
const HANDED_MAX: usize = 1024;

/// Who waits for a patch to be taken in.
type Done = oneshot::Sender<Result<(), SyncError>>;

pub(super) enum Command {
    Apply { patch: Patch, done: Done },
    Relay { record: PatchRecord, done: Done },
    Sync { done: oneshot::Sender<()> },
    Repair { done: RepairDone },
    Forget { peer: PeerId, done: oneshot::Sender<Result<bool, SyncError>> },
    Compact { done: oneshot::Sender<Result<StateVector<SessionId>, SyncError>> },
    Status { done: oneshot::Sender<SyncStatus> },
}

pub(super) struct Driver {
    pub(super) parts: Parts,
    pub(super) machine: Session,
    started: Instant,
    events: broadcast::Sender<SessionEvent>,
    /// Tells what became durable.
    pub(super) told: Told,
    /// What became durable and was not told yet.
    risen: StateVector<SessionId>,
    /// Local patches given to the machine, and who waits for them to be durable, in that order.
    waiting: VecDeque<(u64, Done)>,
    /// Local patches that were handed over before, if the store has them; asked when the others have been stored. At
    /// most as many as the commands of one turn.
    repeated: Vec<(Patch, Done)>,
    /// Where the last local patches given to the machine begin, and a number for their bytes.
    handed: VecDeque<(u64, u64)>,
    pub(super) gate: Gate,
    /// The last time that was handed over of this replica's own session.
    own_last: u64,
    /// The last snapshot that was made for a peer, so that its parts are parts of one thing.
    pub(super) offered: Option<Offered>,
    /// When the next snapshot may be made for a peer.
    pub(super) fold_pause: FoldPause,
    pub(super) log: Log,
    /// How often patches were folded into a snapshot.
    pub(super) folded: u64,
    pub(super) repairing: Repairing,
    /// Whether somebody has come or gone since that was noted in the store.
    pub(super) members_changed: bool,
    pub(super) traffic: Traffic,
    /// Whether somebody is left who may give a command: not when it is to stop.
    pub(super) commands: Option<mpsc::WeakSender<Command>>,
    /// What goes to the store next; empty between two steps, and kept for its room.
    batch: Vec<PatchRecord>,
    /// What the machine wants, behind what was applied before it.
    later: VecDeque<Output>,
}

impl Driver {
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        senders: mpsc::WeakSender<Command>,
    ) {
        self.commands = Some(senders);
        if let Err(error) = self.serve(&mut commands).await {
            tracing::error!(%error, "synchronisation stopped");
            self.report(SessionEvent::Stopped { error: error.to_string() });
        }
        let discovery = Arc::clone(&self.parts.discovery);
        // Whoever still waits is told that nothing more will come, by the drop of the senders. A registry that does not
        // answer is no reason to let them wait.
        drop((commands, self));
        // Nobody is here any more to ask, whether it was stopped, dropped or ended by its store.
        discovery.close().await;
    }

    async fn serve(&mut self, commands: &mut mpsc::Receiver<Command>) -> Result<(), SyncError> {
        let (broadcaster, syncer) = (Arc::clone(&self.parts.broadcaster), Arc::clone(&self.parts.syncer));
        let discovery = Arc::clone(&self.parts.discovery);
        let mut peers_open = true;
        loop {
            let wakes_at = self.offer_ends_at().unwrap_or(Duration::MAX).min(self.machine.wakes_at());
            let wake = if self.is_looking() { Duration::ZERO } else { wakes_at.saturating_sub(self.now()) };
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.command(command).await?,
                    None => {
                        self.settle().await?;
                        self.note_members_soon().await;
                        return Ok(());
                    }
                },
                heard = broadcaster.next() => match heard {
                    Some(heard) => self.heard_patch(heard),
                    None => return self.channel_closed().await,
                },
                heard = syncer.next() => match heard {
                    Some(heard) => {
                        self.heard_message(heard);
                        // A snapshot that is whole goes under the document before anything more is edited: an edit of
                        // the same turn would be neither in it nor in what goes on top of it.
                        self.settle().await?;
                    }
                    None => return self.channel_closed().await,
                },
                change = discovery.next(), if peers_open => {
                    let mut change = Some(change);
                    // What is known already is taken in together, and noted once.
                    while let Some(one) = change {
                        peers_open = one.is_some();
                        let Some(one) = one else { break };
                        self.peer_change(one);
                        change = discovery.next().now_or_never();
                    }
                    self.note_members_soon().await;
                },
                () = tokio::time::sleep(wake) => self.input(Input::Tick),
            }
            self.turn(commands, &*broadcaster).await?;
        }
    }

    fn peer_change(&mut self, change: PeerChange) {
        // Anybody may say goodbye under any name.
        if matches!(&change, PeerChange::Left(peer) if !self.machine.knows(peer)) {
            return;
        }
        self.members_changed = true;
        self.input(match change {
            PeerChange::Up(peer) => Input::PeerUp(peer),
            PeerChange::Down(peer) => Input::PeerDown(peer),
            PeerChange::Left(peer) => Input::PeerLeft(peer),
        });
    }

    /// Takes in what is there already, together, so that the store syncs once for all of it, and does what is to be done.
    #[tracing::instrument(level = "trace", skip_all)]
    async fn turn(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        broadcaster: &dyn Broadcaster,
    ) -> Result<(), SyncError> {
        for _ in 0..BATCH_MAX {
            let Ok(command) = commands.try_recv() else { break };
            self.command(command).await?;
        }
        for _ in 0..BATCH_MAX {
            let Some(Some(heard)) = broadcaster.next().now_or_never() else { break };
            self.heard_patch(heard);
        }
        self.settle().await?;
        if self.is_looking() {
            self.look_on().await;
            self.settle().await?;
        }
        self.answer_repeated().await;
        self.fold_when_due().await;
        self.drop_idle_offer();
        Ok(())
    }

    /// Nobody can be reached any more, nor reach us: that is not for the application to find out by waiting.
    async fn channel_closed(&mut self) -> Result<(), SyncError> {
        self.settle().await?;
        Err(SyncError::ChannelClosed)
    }

    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn input(&mut self, input: Input) {
        let now = self.now();
        self.machine.handle_input(now, input);
    }

    async fn command(&mut self, command: Command) -> Result<(), SyncError> {
        match command {
            Command::Apply { patch, done } => self.apply_patch(patch, done),
            Command::Relay { record, done } => {
                let _ = done.send(self.relay(record));
            }
            Command::Sync { done } => {
                self.input(Input::Gap);
                let _ = done.send(());
            }
            Command::Repair { done } => {
                self.settle().await?;
                self.repair(done);
            }
            Command::Compact { done } => {
                self.settle().await?;
                let _ = done.send(self.compact(0).await);
            }
            Command::Forget { peer, done } => {
                let _ = done.send(self.forget_peer(&peer).await);
            }
            Command::Status { done } => {
                let _ = done.send(self.status());
            }
        }
        Ok(())
    }

    fn heard_patch(&mut self, heard: Heard<PatchRecord>) {
        match heard {
            Heard::Message(record) => {
                let _span = tracing::trace_span!("take_in", id = %record.id).entered();
                self.traffic.bytes_heard += record.patch.len() as u64;
                if self.allowed(&record) {
                    self.input(Input::Heard(record));
                }
            }
            other => self.heard_trouble(other),
        }
    }

    fn heard_message(&mut self, heard: Heard<(PeerId, SyncMessage)>) {
        match heard {
            Heard::Message((from, message)) => {
                let _span = tracing::trace_span!("take_in_message", %from).entered();
                self.traffic.bytes_pulled += match &message {
                    SyncMessage::Patches { records, .. } | SyncMessage::Vouched { records, .. } => {
                        patch_bytes(records)
                    }
                    SyncMessage::Part { bytes, .. } => bytes.len() as u64,
                    _ => 0,
                };
                let (input, refused) = self.gate.receive(&self.machine, from, message);
                refused.into_iter().for_each(|refusal| self.not_allowed(refusal));
                self.input(input);
            }
            other => self.heard_trouble(other),
        }
    }

    fn allowed(&mut self, record: &PatchRecord) -> bool {
        let checked = self.gate.check(&self.machine, record);
        let is_allowed = checked.is_ok();
        if let Err(reason) = checked {
            self.not_allowed(Refusal::NotAllowed { id: record.id, reason });
        }
        is_allowed
    }

    /// Carries out what the machine wants until it wants nothing more.
    async fn settle(&mut self) -> Result<(), SyncError> {
        loop {
            match self.later.pop_front().or_else(|| self.machine.poll_output()) {
                Some(Output::Store(record)) => {
                    // At once: what is looked at after it may be of the same session.
                    self.gate.note(&record);
                    self.batch.push(record);
                }
                Some(Output::Released { record, relayed }) => {
                    if self.allowed(&record) {
                        self.input(if relayed { Input::Relayed(record) } else { Input::Heard(record) });
                    }
                }
                Some(Output::Install { head, bytes }) => {
                    self.store().await?;
                    let input = self.install(*head, bytes).await?;
                    self.input(input);
                }
                Some(Output::EndsAt(time)) => {
                    self.store().await?;
                    if !self.own_patch_ends_at(time).await {
                        let id = Timestamp::new(self.parts.options.session, time);
                        self.machine.session_is_forked(id, false);
                    }
                }
                Some(Output::Compare { want, records }) => {
                    self.store().await?;
                    let input = self.compare_own(want, &records).await;
                    self.input(input);
                }
                Some(Output::Read { peer, id, what }) => {
                    self.store().await?;
                    let page = self.read_or_nothing(&peer, *what).await;
                    self.input(Input::Page { peer, id, page });
                }
                Some(output) => self.carry_out(output).await?,
                None if self.batch.is_empty() => {
                    self.gate.turn_ends();
                    return Ok(());
                }
                None => {
                    self.append().await?;
                    self.apply_stored();
                    self.tell_stored();
                }
            }
        }
    }

    /// Before something that is wanted now and looks at the store.
    async fn store(&mut self) -> Result<(), SyncError> {
        if !self.batch.is_empty() {
            self.append().await?;
            self.tell_stored();
        }
        Ok(())
    }

    /// Applies what was stored, before anybody is told that it is: who is told looks at the document. What is to be sent waits,
    /// as it may take its time.
    fn apply_stored(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Apply(record) => self.apply(&record),
                output => {
                    let goes_on =
                        matches!(output, Output::Broadcast(_) | Output::Send { .. } | Output::Event(_));
                    self.later.push_back(output);
                    if !goes_on {
                        return;
                    }
                }
            }
        }
    }

    fn apply(&mut self, record: &PatchRecord) {
        self.traffic.not_applied += u64::from(!skip_bad(self.parts.apply(record)));
    }

    fn tell_stored(&mut self) {
        self.told.tell(std::mem::take(&mut self.risen));
    }

    async fn append(&mut self) -> Result<(), SyncError> {
        let (store, batch) = (&*self.parts.store, &self.batch);
        let append = || async move {
            match store.append_at_once(batch) {
                Some(kept) => kept,
                None => store.append(batch).await,
            }
        };
        let stopping = is_stopping(self.commands.as_ref());
        self.parts.retry.run(stopping, &mut self.traffic.write_failures, append).await?;
        for record in &self.batch {
            self.log.bytes += record.len_bytes() as u64;
            self.log.ticks += record.last() - record.prev;
            self.risen.advance(record.session(), record.last());
        }
        let now = self.now();
        for _ in self.batch.drain(..) {
            self.machine.handle_input(now, Input::Stored);
        }
        Ok(())
    }

    async fn carry_out(&mut self, output: Output) -> Result<(), SyncError> {
        let sent = match output {
            Output::Apply(record) => {
                self.apply(&record);
                return Ok(());
            }
            Output::Broadcast(record) => {
                let own = record.session() == self.parts.options.session;
                while own
                    && let Some((_, done)) = self.waiting.pop_front_if(|(last, _)| *last <= record.last())
                {
                    let _ = done.send(Ok(()));
                }
                self.traffic.bytes_broadcast += record.patch.len() as u64;
                let span = tracing::trace_span!("broadcast", id = %record.id);
                self.parts.broadcaster.broadcast(&record).instrument(span).await
            }
            Output::Send { to, message } => {
                if let SyncMessage::Patches { records, .. } = &*message {
                    self.traffic.bytes_paged += patch_bytes(records);
                }
                let message = self.gate.send(self.parts.syncer.peer_id(), *message);
                self.parts.syncer.send(to.as_ref(), &message).await
            }
            Output::Mend(record) => {
                self.mend(&record).await;
                return Ok(());
            }
            Output::RepairEnds { left } => {
                self.repair_ends(left);
                return Ok(());
            }
            Output::Event(event) => {
                self.report(*event);
                return Ok(());
            }
            Output::Store(_)
            | Output::Install { .. }
            | Output::Read { .. }
            | Output::Compare { .. }
            | Output::EndsAt(_)
            | Output::Released { .. } => return Ok(()),
        };
        if let Err(error) = sent {
            // It is stored here, and whoever lacks it will ask.
            tracing::warn!(%error, "could not send");
            self.traffic.send_failures += 1;
        }
        Ok(())
    }
}

fn patch_bytes(records: &[PatchRecord]) -> u64 {
    records.iter().map(|record| record.patch.len() as u64).sum()
}

/// Whether nobody is left who could give a command, so that a retry need not go on.
pub(super) fn is_stopping(commands: Option<&mpsc::WeakSender<Command>>) -> impl Fn() -> bool + '_ {
    move || commands.is_some_and(|senders| senders.strong_count() == 0)
}
