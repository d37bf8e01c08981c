//! One connection: its handshake, its reader, its writer.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit},
    time::Instant,
};

use super::{
    Shared,
    buffers::BUFFER_LEN,
    stream::{ReadHalf, Stream, WriteHalf},
};
use crate::cluster::{
    node::{LinkId, LinkInfo, Role},
    zmtp::{
        Credentials, Decoder, DecoderLimits, Encoder, Established, Handshake, HandshakeOptions, Properties,
        Security, SocketType, handshake::ENTROPY_LEN,
    },
};

/// The least that is read at once.
const READ_LEN_MIN: usize = 1 << 10;
/// The most that is read at once, by a connection that has much to say.
const READ_LEN_MAX: usize = BUFFER_LEN / 2;
/// Slices of one write.
const SLICES_MAX: usize = 128;
/// Bytes of the engine's commands that may wait for a peer that does not read. More PINGs and PONGs are left out: who asks
/// and does not read would otherwise make us hold an answer for every question.
const CONTROL_LEN_MAX: usize = 16 << 10;
/// A writer that has had nothing to do for this long lets publishers write themselves: it saves them a hop.
const IDLE: Duration = Duration::from_micros(20);

/// The half of a connection that writes, shared by its task and by publishers.
pub(super) struct LinkIo {
    stream: WriteHalf,
    write: Mutex<WriteState>,
    /// Wakes the writing task.
    wake: Notify,
    /// Wakes the reading task when it was not to read.
    resume: Notify,
    /// Ends both tasks.
    close: Notify,
    reason: Mutex<Option<String>>,
    /// Its number may be another connection's from now on. Set and read under the machine's lock.
    gone: AtomicBool,
}

struct WriteState {
    encoder: Encoder,
    pending: VecDeque<Bytes>,
    /// At most [`CONTROL_LEN_MAX`] bytes.
    control: BytesMut,
    segments: Vec<Bytes>,
    written_at: Instant,
}

enum Written {
    All,
    Blocked,
}

impl LinkIo {
    fn new(stream: WriteHalf, encoder: Encoder) -> Self {
        #[expect(clippy::disallowed_methods, reason = "the driver reads the clock")]
        let written_at = Instant::now();
        let (pending, control, segments) = Default::default();
        Self {
            stream,
            write: Mutex::new(WriteState { encoder, pending, control, segments, written_at }),
            wake: Notify::new(),
            resume: Notify::new(),
            close: Notify::new(),
            reason: Mutex::new(None),
            gone: AtomicBool::new(false),
        }
    }

    /// Something is in the outbox: write it here and now if nobody else does and it has been quiet, or wake the task.
    pub(super) fn write_now(&self, shared: &Shared, id: LinkId) {
        if let Some(mut state) = self.write.try_lock() {
            #[expect(clippy::disallowed_methods, reason = "the driver reads the clock")]
            let now = Instant::now();
            if state.pending.is_empty() && now.duration_since(state.written_at) > IDLE {
                state.written_at = now;
                if matches!(self.write_some(shared, id, &mut state), Ok(Written::All)) {
                    return;
                }
            } else {
                state.written_at = now;
            }
        }
        self.wake.notify_one();
    }

    /// Something is in the outbox: let the task write it.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Sends commands of the engine, unless too many wait already.
    pub(super) fn control(&self, commands: &[u8]) {
        let mut state = self.write.lock();
        if state.control.len() + commands.len() <= CONTROL_LEN_MAX {
            state.control.extend_from_slice(commands);
        }
        drop(state);
        self.wake.notify_one();
    }

    /// The machine is about to forget the connection: what waits under its number is nothing to it any more. A publisher may
    /// have been about to write when that happened.
    pub(super) fn go(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// There is room again for what the peer publishes.
    pub(super) fn resume(&self) {
        self.resume.notify_one();
    }

    /// Ends the connection.
    pub(super) fn close(&self, reason: String) {
        self.reason.lock().get_or_insert(reason);
        self.close.notify_waiters();
        self.close.notify_one();
        self.wake.notify_one();
    }

    fn is_closed(&self) -> bool {
        self.reason.lock().is_some()
    }

    fn write_some(&self, shared: &Shared, id: LinkId, state: &mut WriteState) -> io::Result<Written> {
        loop {
            if state.pending.is_empty() {
                if !state.control.is_empty() {
                    let commands = state.control.split().freeze();
                    let wire = state.encoder.encode(commands);
                    state.pending.push_back(wire);
                }
                let mut segments = std::mem::take(&mut state.segments);
                shared.with(|node| !self.gone.load(Ordering::Relaxed) && node.take_outbox(id, &mut segments));
                for segment in segments.drain(..) {
                    let wire = state.encoder.encode(segment);
                    state.pending.push_back(wire);
                }
                state.segments = segments;
                if state.pending.is_empty() {
                    return Ok(Written::All);
                }
            }
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut n = 0;
            for (slice, bytes) in slices.iter_mut().zip(&state.pending) {
                *slice = IoSlice::new(bytes);
                n += 1;
            }
            match self.stream.try_write_vectored(&slices[..n]) {
                Ok(mut written) => {
                    while let Some(front) = state.pending.front_mut() {
                        if written < front.len() {
                            front.advance(written);
                            break;
                        }
                        written -= front.len();
                        state.pending.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Written::Blocked),
                Err(error) => return Err(error),
            }
        }
    }
}

async fn writer(shared: Arc<Shared>, io: Arc<LinkIo>, id: LinkId) {
    loop {
        if io.is_closed() {
            return;
        }
        let written = io.write_some(&shared, id, &mut io.write.lock());
        match written {
            Ok(Written::All) => io.wake.notified().await,
            Ok(Written::Blocked) => {
                tokio::select! {
                    ready = io.stream.writable() => {
                        if let Err(error) = ready {
                            return io.close(error.to_string());
                        }
                    }
                    () = io.wake.notified() => {
                        // Only a close matters now; for anything else there is no room.
                        if !io.is_closed() {
                            let _ = io.stream.writable().await;
                        }
                    }
                }
            }
            Err(error) => return io.close(error.to_string()),
        }
    }
}

/// Runs a connection until it ends; the reason why.
pub(super) fn run(
    shared: Arc<Shared>,
    stream: Stream,
    role: Role,
    name: String,
    security: Security,
    permit: Option<OwnedSemaphorePermit>,
) -> impl Future<Output = String> + Send {
    // On the heap for as long as it lasts: its state would be part of the connection's task for ever.
    let establishing = Box::pin(establish(shared.clone(), stream, role, name, security, permit));
    async move {
        match establishing.await {
            Ok(ready) => serve(shared, ready).await,
            Err(reason) => reason,
        }
    }
}

/// A connection that the node knows.
struct Ready {
    id: LinkId,
    io: Arc<LinkIo>,
    stream: ReadHalf,
    decoder: Decoder,
    /// What has come after the handshake.
    buffer: BytesMut,
}

/// From a socket to a connection that the node knows.
async fn establish(
    shared: Arc<Shared>,
    mut stream: Stream,
    role: Role,
    name: String,
    security: Security,
    permit: Option<OwnedSemaphorePermit>,
) -> Result<Ready, String> {
    let timeout = shared.options.handshake_timeout;
    let handshake = Box::pin(handshake(&shared, &mut stream, &role, security.clone()));
    let (established, buffer) = match tokio::time::timeout(timeout, handshake).await {
        Ok(Ok(done)) => done,
        Ok(Err(reason)) => return Err(shared.handshake_failed(&role, &name, reason)),
        Err(_) => {
            return Err(shared.handshake_failed(&role, &name, format!("no handshake within {timeout:?}")));
        }
    };
    // Not a stranger any more.
    drop(permit);
    let Established { properties, version, mut principal, decoder, encoder } = established;
    let mut named = !principal.is_empty();
    if let (Security::CurveClient { server, .. }, Security::CurveServer { authenticate, .. }) =
        (&security, &shared.options.server)
    {
        // The peer's key has one name, whichever side dialed.
        match authenticate(Credentials::Curve(*server)) {
            Ok(name) => principal = name,
            Err(_) => named = false,
        }
    }
    let shown = matches!(security, Security::PlainClient { .. } | Security::CurveClient { .. });
    let extended = properties.get("X-Spot").and_then(|v| std::str::from_utf8(v).ok()?.parse::<u32>().ok());
    let info = LinkInfo {
        role,
        name,
        // Used only after both sides have announced it.
        extended: !shared.options.founding_only && extended.is_some_and(|version| version >= 2),
        pings: version >= (3, 1),
        sealed: encoder.is_sealed(),
        principal,
        named,
        shown,
    };
    let (stream, write_half) = stream.into_halves();
    let io = Arc::new(LinkIo::new(write_half, encoder));
    let id = shared.link_up(info, &io).ok_or_else(|| "the node is closed".to_owned())?;
    Ok(Ready { id, io, stream, decoder, buffer })
}

/// Reads until the end.
async fn serve(shared: Arc<Shared>, ready: Ready) -> String {
    let Ready { id, io, mut stream, mut decoder, mut buffer } = ready;
    let task = tokio::spawn(writer(shared.clone(), io.clone(), id));
    let mut writing = Writing { shared: &shared, id, io: &io, task };

    let mut read_len = READ_LEN_MIN;
    let mut unfinished = Unfinished { shared: &shared, held: 0 };
    let reason = 'reading: loop {
        match decoder.decode(&mut buffer) {
            Ok(batch) => {
                if let Some(replies) = decoder.take_replies() {
                    io.control(&replies);
                }
                let now = shared.now();
                let mut held = shared.with(|node| {
                    node.set_now(now);
                    node.handle_batch(id, &batch);
                    node.is_held(id)
                });
                while held {
                    tokio::select! {
                        () = io.resume.notified() => {}
                        () = io.close.notified() => break 'reading "closed".to_owned(),
                    }
                    held = shared.with(|node| node.is_held(id));
                }
            }
            Err(error) => break error.to_string(),
        }
        if !unfinished.hold(buffer.len() + decoder.held_bytes()) {
            let max = shared.options.unfinished_bytes_max;
            break format!("the unfinished messages of all peers are more than {max} bytes");
        }
        if buffer.is_empty() && read_len == READ_LEN_MIN {
            // A quiet connection keeps no buffer.
            buffer = BytesMut::new();
            tokio::select! {
                biased;
                ready = stream.readable() => if let Err(error) = ready {
                    break error.to_string();
                },
                () = io.close.notified() => break "closed".to_owned(),
            }
        }
        // What a peer only claims to send is not allocated before it comes: at most as much again as is there.
        let wanted = decoder.bytes_wanted(&buffer).min(buffer.len().max(READ_LEN_MAX));
        let more = read_len.max(wanted);
        if buffer.capacity() - buffer.len() < more {
            match read_len == READ_LEN_MAX {
                true => shared.buffers.exchange(&mut buffer, more),
                false => buffer.reserve(more),
            }
        }
        let room = buffer.capacity() - buffer.len();
        tokio::select! {
            biased;
            read = stream.read_buf(&mut buffer) => match read {
                Ok(0) => break "closed by the peer".to_owned(),
                Ok(n) if n == room => read_len = (read_len * 4).min(READ_LEN_MAX),
                Ok(n) if n < read_len / 16 => read_len = (read_len / 2).max(READ_LEN_MIN),
                Ok(_) => {}
                Err(error) => break error.to_string(),
            },
            () = io.close.notified() => break "closed".to_owned(),
        }
        if io.is_closed() {
            break "closed".to_owned();
        }
    };
    let reason = io.reason.lock().clone().unwrap_or(reason);
    io.close(reason.clone());
    drop(unfinished);
    writing.task.abort();
    // Only when its writer has ended may the number go to another connection.
    let _ = (&mut writing.task).await;
    shared.link_closed(id, &reason);
    reason
}

/// The half that writes, for as long as the other one reads: when a node is closed its connections are not read to their ends,
/// and what writes must not hold their sockets open.
struct Writing<'a> {
    shared: &'a Shared,
    id: LinkId,
    io: &'a Arc<LinkIo>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.io.close("the node is closed".to_owned());
        self.task.abort();
        let mut inner = self.shared.inner.lock();
        if inner.links.get(&self.id).is_some_and(|io| Arc::ptr_eq(io, self.io)) {
            inner.links.remove(&self.id);
        }
    }
}

/// What a connection holds of a message that is not whole, counted for all connections together.
struct Unfinished<'a> {
    shared: &'a Shared,
    held: usize,
}

impl Unfinished<'_> {
    /// So much it is now. False if that is too much.
    fn hold(&mut self, bytes: usize) -> bool {
        // What one read brings is not worth counting.
        let bytes = if bytes > READ_LEN_MAX { bytes } else { 0 };
        let before = std::mem::replace(&mut self.held, bytes);
        if bytes <= before {
            self.shared.unfinished.fetch_sub(before - bytes, Ordering::Relaxed);
            return true;
        }
        let more = bytes - before;
        let all = self.shared.unfinished.fetch_add(more, Ordering::Relaxed) + more;
        all <= self.shared.options.unfinished_bytes_max
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.hold(0);
    }
}

async fn handshake(
    shared: &Shared,
    stream: &mut Stream,
    role: &Role,
    security: Security,
) -> Result<(Established, BytesMut), String> {
    let socket_type = match role {
        Role::Dialed(_) => SocketType::Dealer,
        Role::Accepted => SocketType::Router,
    };
    let mut properties = Properties::default();
    if !shared.options.founding_only {
        properties.0.push(("X-Spot".to_owned(), Bytes::from_static(b"2")));
    }
    let limits = DecoderLimits { message_len_max: shared.options.message_len_max, ..DecoderLimits::STANDARD };
    let entropy: [u8; ENTROPY_LEN] = {
        let mut bytes = [0; ENTROPY_LEN];
        getrandom::fill(&mut bytes).map_err(|error| format!("no randomness: {error}"))?;
        bytes
    };
    let mut machine =
        Handshake::new(HandshakeOptions { socket_type, security, properties, limits }, &entropy);
    let mut buffer = BytesMut::with_capacity(512);
    loop {
        let step = machine.handle_input(&mut buffer);
        while let Some(output) = machine.poll_output() {
            stream.write_all(&output).await.map_err(|error| error.to_string())?;
        }
        match step {
            Ok(Some(established)) => return Ok((established, buffer)),
            Ok(None) => {}
            Err(error) => return Err(error.to_string()),
        }
        buffer.reserve(512);
        match stream.read_buf(&mut buffer).await {
            Ok(0) => return Err("closed by the peer during the handshake".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
