//! Who may keep a connection: so many at a time, and none that says nothing.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep},
};

/// Connections at a time, each a file of the program, of which systems allow 1024 by custom. Above it whoever comes waits
/// until one ends.
const CONNECTIONS_MAX: usize = 512;
/// How long a connection may take until its first request is answered.
const FIRST_ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long it may then be silent both ways. (A window is asked more often whether it lives.)
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A listener that gives each connection a place and a deadline.
pub(crate) struct Door {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl Door {
    pub(crate) fn new(listener: TcpListener) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }
}

impl Listener for Door {
    type Io = Guest<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        let place = Arc::clone(&self.places).acquire_owned().await.expect("places are never closed");
        let (stream, address) = Listener::accept(&mut self.listener).await;
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
    _place: OwnedSemaphorePermit,
}

impl<S> Guest<S> {
    fn new(stream: S, place: OwnedSemaphorePermit) -> Self {
        Self { stream, answered: false, ends: Box::pin(sleep(FIRST_ANSWER_MAX)), _place: place }
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

    fn guest() -> (Guest<DuplexStream>, DuplexStream, Arc<Semaphore>) {
        let places = Arc::new(Semaphore::new(1));
        let place = Arc::clone(&places).try_acquire_owned().expect("a place");
        let (near, far) = duplex(64);
        (Guest::new(near, place), far, places)
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_never_ends_does_not_keep_its_place() {
        let (mut guest, mut far, places) = guest();
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
        let (mut guest, mut far, _) = guest();
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
