//! Writes that meet share a command.
//!
//! A command costs the server much by itself, and it syncs its disk once for each. So only few commands with writes are
//! under way at a time, one in each lane. A write that finds a lane free goes at once and alone; one that finds none waits,
//! and the lane that becomes free takes its share of all that wait as one `bulkWrite`. Each statement in it is the
//! compare-and-swap that it would be alone: the filter asks for the document as it was found, and what becomes of one
//! statement is nothing to the others. Where it is not known what became of a statement, its writer looks, as after any lost
//! answer, and sends it again alone.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use mongodb::{
    Client, Collection, Namespace,
    bson::{Bson, Document as Bsons},
    error::{Error, ErrorKind, PartialBulkWriteResult, WriteFailure},
    options::{InsertOneModel, UpdateOneModel, WriteModel},
    results::VerboseBulkWriteResult,
};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot},
    time::{Instant, timeout},
};

use super::{
    failure::{has_failed_inside, is_passing, is_refusal, lacks_command},
    plan::How,
};

/// How many commands with writes are under way at a time, if the options do not say. With two the server has one to carry out while
/// the writers of the other are answered and compute their next.
pub const WRITE_LANES: usize = 2;

/// How many writes one command has at most: so many that its own price is a small part, so few that the first does not
/// wait long for the last.
pub const GROUP_MAX: usize = 64;

/// How many bytes of writes one command has at most, about. A larger write goes alone, and waits for no lane.
pub const GROUP_BYTES_MAX: usize = 256 << 10;

/// How many writes may wait for a lane. One that finds so many goes alone.
const WAITING_MAX: usize = 1_024;

/// How long the writers of a command wait for its answer, at least, before they look for themselves: one of its
/// statements may wait for another program's transaction, which takes up to a minute, and the others have nothing to do with that. The lane
/// then counts as free.
const GROUP_PATIENCE: Duration = Duration::from_millis(250);

/// From a server that is far away or slow an answer is expected after so many times the quickest of the last ones, and so many
/// times more for each write.
const PATIENCE_TIMES: [u32; 2] = [8, 2];

/// Of how many commands it is remembered how long they took.
const PACE_OF: usize = 16;

/// What was written by commands that writes have shared, since the store was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SharedWrites {
    /// How many such commands were sent.
    pub commands: u64,
    /// How many writes they had.
    pub writes: u64,
    /// How many writes wait at the moment.
    pub waiting: usize,
}

/// Where the writers of a store meet.
pub(super) struct Groups {
    client: Client,
    lanes: usize,
    runtime: Handle,
    // Held for a push or a pop.
    state: Mutex<State>,
    /// Told when no lane is taken any more.
    idle: Notify,
    commands: AtomicU64,
    writes: AtomicU64,
}

struct State {
    /// The lanes that are taken.
    taken: Vec<Taken>,
    /// The number of the next command.
    next: u64,
    waiting: VecDeque<Waiting>,
    /// Whether the server has a command for several writes, as far as known.
    shares: bool,
    /// How long the last commands took.
    pace: [Duration; PACE_OF],
    paced: usize,
}

/// A lane that is taken, and not for longer than its command usually needs.
struct Taken {
    number: u64,
    writes: usize,
    until: Instant,
}

struct Waiting {
    write: WriteModel,
    len_bytes: usize,
    answer: oneshot::Sender<Passage>,
}

/// How a write comes to the server that asks for its turn.
pub(super) enum Passage {
    /// It is sent by its writer, which keeps the lane meanwhile.
    Alone(Lane),
    /// It was sent and answered: whether the document was as it had been found.
    Answered(bool),
    /// It may have been sent, and its answer is not known.
    Unknown,
    /// The driver's error, after which it is not known either.
    Failed(Error),
}

/// A place for one command. Dropped or overdue, it is the next one's.
pub(super) struct Lane {
    /// Without one for a write that no lane has to wait for.
    of: Option<Arc<Groups>>,
    number: u64,
}

impl Lane {
    const NONE: Self = Self { of: None, number: 0 };

    /// Keeps the lane while a command is answered.
    pub(super) async fn during<T>(self, sent: impl Future<Output = T>) -> T {
        let Some(groups) = &self.of else { return sent.await };
        let started = super::now();
        let answered = sent.await;
        groups.state.lock().note(started.elapsed());
        answered
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Some(groups) = self.of.take() {
            groups.release(self.number);
        }
    }
}

impl Groups {
    pub(super) fn new(client: Client, lanes: usize) -> Arc<Self> {
        let lanes = lanes.max(1);
        Arc::new(Self {
            client,
            lanes,
            runtime: Handle::current(),
            state: Mutex::new(State {
                taken: Vec::new(),
                next: 0,
                waiting: VecDeque::new(),
                shares: true,
                pace: [Duration::MAX; PACE_OF],
                paced: 0,
            }),
            idle: Notify::new(),
            commands: AtomicU64::new(0),
            writes: AtomicU64::new(0),
        })
    }

    pub(super) fn counts(&self) -> SharedWrites {
        SharedWrites {
            commands: self.commands.load(Relaxed),
            writes: self.writes.load(Relaxed),
            waiting: self.state.lock().waiting.len(),
        }
    }

    /// Waits for the turn of a write, and for what becomes of it if it goes with others.
    pub(super) async fn turn(self: &Arc<Self>, how: &How, of: &Collection<Bsons>) -> Passage {
        if let Some(lane) = self.lane(&mut self.state.lock()) {
            return Passage::Alone(lane);
        }
        let len_bytes = how.len_bytes();
        if len_bytes > GROUP_BYTES_MAX {
            return Passage::Alone(Lane::NONE);
        }
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { write: how.as_statement(of.namespace()), len_bytes, answer };
        {
            let state = &mut *self.state.lock();
            // One may have become free meanwhile: nobody else would call for what waits.
            if let Some(lane) = self.lane(state) {
                return Passage::Alone(lane);
            }
            if state.waiting.len() >= WAITING_MAX {
                return Passage::Alone(Lane::NONE);
            }
            state.waiting.push_back(waiting);
        }
        let mut answered = pin!(answered);
        loop {
            let patience = self.state.lock().patience(1);
            match timeout(patience, &mut answered).await {
                Ok(passage) => return passage.unwrap_or(Passage::Unknown),
                // Who sends a command by itself may be held up, or not be asked for its answer any more. It does not keep the lane.
                Err(_) => self.release_overdue(),
            }
        }
    }

    /// Takes a lane, if one is free or none is needed.
    fn lane(self: &Arc<Self>, state: &mut State) -> Option<Lane> {
        if !state.shares {
            return Some(Lane::NONE);
        }
        (state.taken.len() < self.lanes).then(|| self.take(state, 1))
    }

    fn take(self: &Arc<Self>, state: &mut State, writes: usize) -> Lane {
        let number = state.next;
        state.next += 1;
        state.taken.push(Taken { number, writes, until: super::now() + state.patience(writes) });
        Lane { of: Some(Arc::clone(self)), number }
    }

    fn release_overdue(self: &Arc<Self>) {
        let now = super::now();
        let overdue: Vec<u64> = {
            let state = self.state.lock();
            state.taken.iter().filter(|lane| lane.until <= now).map(|lane| lane.number).collect()
        };
        for number in overdue {
            Arc::clone(self).release(number);
        }
    }

    /// A lane has become free: it takes what waits.
    fn release(self: Arc<Self>, number: u64) {
        let (lane, group) = {
            let state = &mut *self.state.lock();
            let Some(at) = state.taken.iter().position(|lane| lane.number == number) else { return };
            state.taken.swap_remove(at);
            let group = state.share(self.lanes);
            if group.is_empty() {
                if state.taken.is_empty() {
                    self.idle.notify_waiters();
                }
                return;
            }
            (self.take(state, group.len()), group)
        };
        match <[Waiting; 1]>::try_from(group) {
            // Nobody waits for it any more: then the lane is free again.
            Ok([one]) => drop(one.answer.send(Passage::Alone(lane))),
            // Of its own: a writer that is dropped does not take the others' writes with it.
            Err(group) => drop(self.runtime.spawn(self.clone().send(lane, group))),
        }
    }

    /// Sends the writes of a group by one command, and tells each writer what became of its own.
    async fn send(self: Arc<Self>, lane: Lane, group: Vec<Waiting>) {
        let (writes, writers): (Vec<_>, Vec<_>) =
            group.into_iter().map(|waiting| (waiting.write, waiting.answer)).unzip();
        tracing::trace!(writes = writes.len(), "writes share a command");
        self.commands.fetch_add(1, Relaxed);
        self.writes.fetch_add(writes.len() as u64, Relaxed);
        let started = super::now();
        let sent = async { self.client.bulk_write(writes).ordered(false).verbose_results().await };
        // Where the patience ends the driver closes the connection, and keeps nothing of the command.
        let patience = self.state.lock().patience(writers.len());
        let outcome = timeout(patience, sent).await.map(Outcome::of);
        match outcome {
            Ok(Outcome::NotSent) => {
                self.state.lock().shares = false;
                tracing::debug!("the server has no command for several writes, each goes alone");
                self.let_all_go();
            }
            Ok(_) => self.state.lock().note(started.elapsed()),
            Err(_) => tracing::debug!(
                writes = writers.len(),
                "a command is not answered, its writers look for themselves"
            ),
        }
        for (index, writer) in writers.into_iter().enumerate() {
            let turn = outcome.as_ref().map_or(Passage::Unknown, |outcome| outcome.turn(index));
            // Nobody waits for it any more: the next who comes to its document finds what it has left.
            let _ = writer.send(turn);
        }
        // Those who were answered come back first, and the lane takes them together.
        tokio::task::yield_now().await;
        drop(lane);
    }

    /// Nobody waits for a lane any more.
    fn let_all_go(&self) {
        let waiting = std::mem::take(&mut self.state.lock().waiting);
        for one in waiting {
            let _ = one.answer.send(Passage::Alone(Lane::NONE));
        }
    }

    /// Waits until no command is under way. The last ones end when the patience does.
    pub(super) async fn ended(&self) {
        loop {
            let mut idle = pin!(self.idle.notified());
            idle.as_mut().enable();
            if self.state.lock().taken.is_empty() {
                return;
            }
            idle.await;
        }
    }
}

impl State {
    fn note(&mut self, took: Duration) {
        self.pace[self.paced % PACE_OF] = took;
        self.paced = self.paced.wrapping_add(1);
    }

    /// How long a command with so many writes may be unanswered.
    fn patience(&self, writes: usize) -> Duration {
        let quickest = self.pace.iter().min().copied().filter(|least| *least < Duration::MAX);
        let [each_command, each_write] = PATIENCE_TIMES;
        let times = each_command + each_write * writes as u32;
        quickest.unwrap_or_default().saturating_mul(times).max(GROUP_PATIENCE)
    }

    /// Takes out what one lane is to carry: no more than its share of all that is on its way, so that the others have as much, and
    /// nothing that nobody waits for any more.
    fn share(&mut self, lanes: usize) -> Vec<Waiting> {
        let under_way: usize = self.taken.iter().map(|lane| lane.writes).sum();
        let share = (self.waiting.len() + under_way).div_ceil(lanes).clamp(1, GROUP_MAX);
        let (mut group, mut left) = (Vec::new(), GROUP_BYTES_MAX);
        while group.len() < share
            && let Some(next) = self.waiting.pop_front()
        {
            if next.answer.is_closed() {
                continue;
            }
            if next.len_bytes > left {
                self.waiting.push_front(next);
                break;
            }
            left -= next.len_bytes;
            group.push(next);
        }
        group
    }
}

/// What a command with several writes came to.
enum Outcome {
    /// There is no such command: nothing was done.
    NotSent,
    /// It was carried out, except for what failed by itself.
    Done(VerboseBulkWriteResult),
    Failed(Error),
}

impl Outcome {
    fn of(sent: Result<VerboseBulkWriteResult, Error>) -> Self {
        match sent {
            Ok(done) => Self::Done(done),
            Err(error) if lacks_command(&error) => Self::NotSent,
            Err(error) => Self::Failed(error),
        }
    }

    /// What it came to for one of the writes.
    fn turn(&self, index: usize) -> Passage {
        let error = match self {
            Self::NotSent => return Passage::Alone(Lane::NONE),
            Self::Done(done) => return answered(done, index),
            Self::Failed(error) => error,
        };
        let ErrorKind::BulkWrite(several) = &*error.kind else {
            return if is_passing(error) { Passage::Failed(error.clone()) } else { Passage::Unknown };
        };
        if let Some(failed) = several.write_errors.get(&index) {
            let failed = Error::from(ErrorKind::Write(WriteFailure::WriteError(failed.clone())));
            // It has changed nothing: alone it is told its error as any other write.
            let refused = is_refusal(&failed) && !has_failed_inside(&failed);
            return if refused { Passage::Alone(Lane::NONE) } else { Passage::Unknown };
        }
        if let Some(concern) = several.write_concern_errors.first() {
            return Passage::Failed(
                ErrorKind::Write(WriteFailure::WriteConcernError(concern.clone())).into(),
            );
        }
        match &several.partial_result {
            Some(PartialBulkWriteResult::Verbose(done)) => answered(done, index),
            _ => Passage::Unknown,
        }
    }
}

fn answered(done: &VerboseBulkWriteResult, index: usize) -> Passage {
    if let Some(updated) = done.update_results.get(&index) {
        Passage::Answered(updated.matched_count > 0)
    } else if done.insert_results.contains_key(&index) {
        Passage::Answered(true)
    } else {
        Passage::Unknown
    }
}

impl How {
    fn as_statement(&self, place: Namespace) -> WriteModel {
        match self {
            Self::Insert(document) => {
                InsertOneModel::builder().namespace(place).document(document.clone()).build().into()
            }
            Self::Update { filter, update } => UpdateOneModel::builder()
                .namespace(place)
                .filter(filter.clone())
                .update(update.clone())
                .build()
                .into(),
        }
    }

    /// About how many bytes it is on its way.
    fn len_bytes(&self) -> usize {
        match self {
            Self::Insert(document) => fields_bytes(document),
            Self::Update { filter, update } => fields_bytes(filter) + fields_bytes(update),
        }
    }
}

fn fields_bytes(document: &Bsons) -> usize {
    document.iter().map(|(name, value)| name.len() + value_bytes(value)).sum()
}

fn value_bytes(value: &Bson) -> usize {
    /// The type, the ends of name and text, and a number or a length.
    const FRAME: usize = 10;
    FRAME
        + match value {
            Bson::String(text) => text.len(),
            Bson::Binary(binary) => binary.bytes.len(),
            Bson::Array(values) => values.iter().map(value_bytes).sum(),
            Bson::Document(document) => fields_bytes(document),
            _ => 0,
        }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use mongodb::{bson::doc, options::ClientOptions};

    use super::*;

    /// Nothing is sent here: no server is needed.
    fn groups() -> (Arc<Groups>, Collection<Bsons>) {
        let client = Client::with_options(ClientOptions::default()).unwrap();
        let documents = client.database("games").collection("games");
        (Groups::new(client, 1), documents)
    }

    fn creation(n: usize) -> How {
        How::Insert(doc! {"_id": n.to_string()})
    }

    #[tokio::test]
    async fn only_so_many_writes_wait_and_the_next_goes_alone() {
        let (groups, documents) = groups();
        let Passage::Alone(lane) = groups.turn(&creation(0), &documents).await else { panic!("it was free") };
        let hows: Vec<_> = (0..WAITING_MAX).map(creation).collect();
        let mut turns: Vec<_> = hows.iter().map(|how| Box::pin(groups.turn(how, &documents))).collect();
        let mut asked = Context::from_waker(Waker::noop());
        for turn in &mut turns {
            assert!(turn.as_mut().poll(&mut asked).is_pending());
        }
        assert_eq!(groups.counts().waiting, WAITING_MAX);
        let one_more = creation(WAITING_MAX);
        let mut one_more = pin!(groups.turn(&one_more, &documents));
        assert!(matches!(
            one_more.as_mut().poll(&mut asked),
            Poll::Ready(Passage::Alone(Lane { of: None, .. }))
        ));
        // Who has gone does not take a turn: the lane that becomes free is there for the next.
        drop(turns);
        drop(lane);
        assert_eq!(groups.counts().waiting, 0);
        let next = groups.turn(&creation(0), &documents).await;
        assert!(matches!(next, Passage::Alone(Lane { of: Some(_), .. })));
    }
}
