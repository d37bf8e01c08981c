//! Connections that end by themselves when nothing is said on them.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{Instant, Sleep, sleep},
};

/// How long a connection may be silent both ways, and how long it may take until its first request is answered. Longer than
/// the longest poll waits; sockets and streams say something more often.
pub const SILENCE_MAX: Duration = Duration::from_secs(90);

/// A listener whose connections end after [`SILENCE_MAX`]: `axum::serve` alone waits for half a request for ever, and each
/// connection is a file of the process, of which there are few.
#[derive(Debug)]
pub struct Door(TcpListener);

impl Door {
    /// Lets in who comes here.
    pub const fn new(listener: TcpListener) -> Self {
        Self(listener)
    }
}

impl Listener for Door {
    type Io = Guest<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.0).await;
        // Live events are small and must not wait for each other.
        let _ = stream.set_nodelay(true);
        (Guest::new(stream), address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// Where a connection comes from, for [`ConnectInfo`](axum::extract::ConnectInfo).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

impl Connected<IncomingStream<'_, Door>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        Self(*stream.remote_addr())
    }
}

#[expect(clippy::disallowed_methods, reason = "a driver notices silence")]
fn now() -> Instant {
    Instant::now()
}

/// A connection with a deadline.
#[derive(Debug)]
pub struct Guest<S> {
    stream: S,
    answered: bool,
    ends: Pin<Box<Sleep>>,
}

impl<S> Guest<S> {
    fn new(stream: S) -> Self {
        Self { stream, answered: false, ends: Box::pin(sleep(SILENCE_MAX)) }
    }

    /// Something went to or fro. Before the first answer that moves nothing: a request may trickle in for ever.
    fn hear(&mut self) {
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
        if let Poll::Ready(()) = this.ends.as_mut().poll(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        if read.is_ready() {
            this.hear();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guest<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        if matches!(written, Poll::Ready(Ok(1..))) {
            this.answered = true;
            this.hear();
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_that_trickles_in_is_not_read_for_ever() {
        let (near, mut far) = duplex(64);
        let (mut guest, start) = (Guest::new(near), now());
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
        assert_eq!((error.kind(), start.elapsed()), (io::ErrorKind::TimedOut, SILENCE_MAX));
        drop(guest);
        trickle.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_answered_stays_while_something_is_said() {
        let (near, mut far) = duplex(64);
        let mut guest = Guest::new(near);
        guest.write_all(b"welcome").await.unwrap();
        for _ in 0..3 {
            sleep(SILENCE_MAX - Duration::from_secs(1)).await;
            far.write_all(b"x").await.unwrap();
            guest.read_u8().await.unwrap();
        }
        // What is written counts as well: a stream hears nothing from its client.
        sleep(SILENCE_MAX - Duration::from_secs(1)).await;
        guest.write_all(b"event").await.unwrap();
        let silent = now();
        assert_eq!(guest.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(silent.elapsed(), SILENCE_MAX);
    }
}
