//! Who may keep a connection: so many at a time, and none that says nothing.

use std::{
    collections::VecDeque,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep},
};

/// Connections at a time, each a file of the program, of which systems allow 1024 by custom. Above it the one goes that has
/// waited longest for its first answer: whoever asks at once is answered at once, and only a flood is that slow. When all
/// have been answered, whoever comes waits until one ends.
const CONNECTIONS_MAX: usize = 512;
/// How long a connection may take until its first request is answered.
const FIRST_ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long it may then be silent both ways. (A window is asked more often whether it lives.)
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A listener that gives each connection a place and a deadline.
pub(crate) struct Door {
    listener: TcpListener,
    rooms: Rooms,
}

impl Door {
    pub(crate) fn new(listener: TcpListener) -> Self {
        Self { listener, rooms: Rooms::new(CONNECTIONS_MAX) }
    }
}

/// The places, and who has one without having been answered.
struct Rooms {
    places: Arc<Semaphore>,
    /// In the order in which they came. One that was answered or has gone is taken out when its turn comes.
    strangers: VecDeque<Weak<Stranger>>,
    max: usize,
}

/// What the door and a connection know of it both.
#[derive(Default)]
struct Stranger {
    answered: AtomicBool,
    gives_way: AtomicBool,
    /// Wakes the connection to see that it is to give way. Never held across an await.
    waker: Mutex<Option<Waker>>,
}

impl Stranger {
    fn give_way(&self) {
        self.gives_way.store(true, Relaxed);
        if let Some(waker) = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waker.wake();
        }
    }

    /// Whether it is to give way; if not yet, it is woken then. (One that is answered after the door has chosen it and before
    /// it looks here is cut all the same: its place is given away already.)
    fn is_to_go(&self, cx: &Context<'_>) -> bool {
        if !self.answered.load(Relaxed) {
            // First the waker, then the look: who sets it afterwards wakes us.
            *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        }
        self.gives_way.load(Relaxed)
    }
}

impl Rooms {
    fn new(max: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(max)), strangers: VecDeque::new(), max }
    }

    /// A place for one that has come. If there is none, the oldest that was not answered makes room.
    async fn place(&mut self) -> Place {
        let free = Arc::clone(&self.places).try_acquire_owned().ok();
        let permit = match free {
            Some(permit) => permit,
            None => {
                while let Some(oldest) = self.strangers.pop_front() {
                    let waits = |stranger: &Arc<Stranger>| !stranger.answered.load(Relaxed);
                    if let Some(stranger) = oldest.upgrade().filter(waits) {
                        stranger.give_way();
                        break;
                    }
                }
                Arc::clone(&self.places).acquire_owned().await.expect("places are never closed")
            }
        };
        if self.strangers.len() >= 2 * self.max {
            self.strangers.retain(|stranger| stranger.strong_count() > 0);
        }
        let stranger = Arc::new(Stranger::default());
        self.strangers.push_back(Arc::downgrade(&stranger));
        Place { stranger, _permit: permit }
    }
}

/// Held by a connection until it ends.
struct Place {
    stranger: Arc<Stranger>,
    _permit: OwnedSemaphorePermit,
}

impl Listener for Door {
    type Io = Guest<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        // First the newcomer: somebody has to go only when somebody comes.
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let place = self.rooms.place().await;
        // What people type is small and must not wait for more.
        let _ = stream.set_nodelay(true);
        (Guest::new(stream, place), address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

#[expect(clippy::disallowed_methods, reason = "a driver notices silence")]
fn now() -> Instant {
    Instant::now()
}

/// A connection that holds a place until it ends, at the latest when it has been silent for too long.
pub(crate) struct Guest<S> {
    stream: S,
    answered: bool,
    ends: Pin<Box<Sleep>>,
    place: Place,
}

impl<S> Guest<S> {
    fn new(stream: S, place: Place) -> Self {
        Self { stream, answered: false, ends: Box::pin(sleep(FIRST_ANSWER_MAX)), place }
    }

    /// Something went to and fro. A request that never ends is no reason to wait for longer.
    fn is_alive(&mut self) {
        if self.answered {
            self.ends.as_mut().reset(now() + SILENCE_MAX);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guest<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.place.stranger.is_to_go(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        if read.is_ready() {
            this.is_alive();
            return read;
        }
        match this.ends.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guest<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        if matches!(written, Poll::Ready(Ok(1..))) {
            this.answered = true;
            this.place.stranger.answered.store(true, Relaxed);
            this.is_alive();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    async fn enter(rooms: &mut Rooms) -> (Guest<DuplexStream>, DuplexStream) {
        let (near, far) = duplex(64);
        (Guest::new(near, rooms.place().await), far)
    }

    async fn guest() -> (Guest<DuplexStream>, DuplexStream, Arc<Semaphore>) {
        let mut rooms = Rooms::new(1);
        let (guest, far) = enter(&mut rooms).await;
        (guest, far, rooms.places)
    }

    /// A connection as the server has it: it reads until there is nothing more to read.
    fn served(mut guest: Guest<DuplexStream>) -> tokio::task::JoinHandle<io::Result<u8>> {
        tokio::spawn(async move { guest.read_u8().await })
    }

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_is_served_at_once_in_place_of_the_oldest_that_says_nothing() {
        let mut rooms = Rooms::new(3);
        let start = now();
        let (mut first, _far) = enter(&mut rooms).await;
        first.write_all(b"welcome").await.unwrap();
        let first = served(first);
        let mut silent = Vec::new();
        let mut kept = Vec::new();
        for _ in 0..20 {
            let (guest, far) = enter(&mut rooms).await;
            silent.push(served(guest));
            kept.push(far);
            assert_eq!(start.elapsed(), Duration::ZERO, "nobody waits");
            tokio::task::yield_now().await;
        }
        // The two that came last are still there, and the one that was answered.
        let last = silent.split_off(18);
        for gone in silent {
            assert_eq!(gone.await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        }
        assert!(!first.is_finished() && last.iter().all(|guest| !guest.is_finished()));
        assert!(rooms.strangers.len() <= 6, "{}", rooms.strangers.len());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_who_was_answered_gives_way() {
        let mut rooms = Rooms::new(1);
        let (mut guest, mut far) = enter(&mut rooms).await;
        guest.write_all(b"welcome").await.unwrap();
        let comes = tokio::time::timeout(Duration::from_secs(1), rooms.place());
        assert!(comes.await.is_err(), "there is no room");
        far.write_all(b"x").await.unwrap();
        assert_eq!(guest.read_u8().await.unwrap(), b'x');
        drop(guest);
        rooms.place().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_never_ends_does_not_keep_its_place() {
        let (mut guest, mut far, places) = guest().await;
        let start = now();
        let trickle = tokio::spawn(async move {
            while far.write_all(b"x").await.is_ok() {
                sleep(Duration::from_secs(1)).await;
            }
        });
        let error = loop {
            if let Err(error) = guest.read_u8().await {
                break error;
            }
        };
        assert_eq!((error.kind(), start.elapsed()), (io::ErrorKind::TimedOut, FIRST_ANSWER_MAX));
        assert_eq!(places.available_permits(), 0);
        drop(guest);
        assert_eq!(places.available_permits(), 1);
        trickle.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_answered_may_stay_as_long_as_something_is_said() {
        let (mut guest, mut far, _) = guest().await;
        guest.write_all(b"welcome").await.unwrap();
        for _ in 0..5 {
            sleep(SILENCE_MAX - Duration::from_secs(1)).await;
            far.write_all(b"x").await.unwrap();
            guest.read_u8().await.unwrap();
        }
        let silent_since = now();
        assert_eq!(guest.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(silent_since.elapsed(), SILENCE_MAX);
    }
}
