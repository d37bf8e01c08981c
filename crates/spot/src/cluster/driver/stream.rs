//! Sockets of all transports, behind one face.

use std::{
    collections::HashMap,
    io::{self, IoSlice},
    os::unix::fs::FileTypeExt,
    sync::LazyLock,
};

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::mpsc,
};

use super::Endpoint;

/// A connected socket.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    pub(super) async fn connect(endpoint: &Endpoint) -> io::Result<Self> {
        match endpoint {
            Endpoint::Tcp(host, port) => {
                let host = if host == "*" { "localhost" } else { host };
                let stream = TcpStream::connect((host, *port)).await?;
                stream.set_nodelay(true)?;
                Ok(Self::Tcp(stream))
            }
            Endpoint::Ipc(path) => Ok(Self::Unix(UnixStream::connect(path).await?)),
            Endpoint::Inproc(name) => {
                let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
                let door = INPROC.lock().get(name).cloned().ok_or_else(refused)?;
                let (ours, theirs) = UnixStream::pair()?;
                door.send(theirs).await.map_err(|_| refused())?;
                Ok(Self::Unix(ours))
            }
        }
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable().await,
            Self::Unix(stream) => stream.readable().await,
        }
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.writable().await,
            Self::Unix(stream) => stream.writable().await,
        }
    }

    pub(super) fn try_read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read_buf(buffer),
            Self::Unix(stream) => stream.try_read_buf(buffer),
        }
    }

    pub(super) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(slices),
            Self::Unix(stream) => stream.try_write_vectored(slices),
        }
    }

    /// Reads what is there, after waiting for it; 0 at the end.
    pub(super) async fn read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        loop {
            self.readable().await?;
            match self.try_read_buf(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }

    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.writable().await?;
            match self.try_write_vectored(&[IoSlice::new(bytes)]) {
                Ok(n) => bytes = &bytes[n..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Who listens within this process, by name.
static INPROC: LazyLock<Mutex<HashMap<String, mpsc::Sender<UnixStream>>>> = LazyLock::new(Mutex::default);
/// Connections within the process that wait to be accepted; dialers wait beyond.
const INPROC_BACKLOG: usize = 16;

/// A bound socket.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, std::path::PathBuf),
    Inproc(String, mpsc::Receiver<UnixStream>),
}

impl Listener {
    /// Binds, and says where.
    pub(super) async fn bind(endpoint: &Endpoint) -> io::Result<(Self, Endpoint)> {
        match endpoint {
            Endpoint::Tcp(host, port) => {
                let address = if host == "*" { "0.0.0.0" } else { host };
                let listener = TcpListener::bind((address, *port)).await?;
                let port = listener.local_addr()?.port();
                Ok((Self::Tcp(listener), Endpoint::Tcp(host.clone(), port)))
            }
            Endpoint::Ipc(path) => {
                let listener = match UnixListener::bind(path) {
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                        // A socket that nobody answers was left by a process that died. Anything else is somebody's file.
                        let is_socket = std::fs::symlink_metadata(path)?.file_type().is_socket();
                        if !is_socket || UnixStream::connect(path).await.is_ok() {
                            return Err(error);
                        }
                        std::fs::remove_file(path)?;
                        UnixListener::bind(path)?
                    }
                    bound => bound?,
                };
                Ok((Self::Unix(listener, path.clone()), endpoint.clone()))
            }
            Endpoint::Inproc(name) => {
                let mut all = INPROC.lock();
                if all.get(name).is_some_and(|door| !door.is_closed()) {
                    return Err(io::ErrorKind::AddrInUse.into());
                }
                let (sender, receiver) = mpsc::channel(INPROC_BACKLOG);
                all.insert(name.clone(), sender);
                Ok((Self::Inproc(name.clone(), receiver), endpoint.clone()))
            }
        }
    }

    /// The next connection, and a name for it.
    pub(super) async fn accept(&mut self) -> io::Result<(Stream, String)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Stream::Tcp(stream), format!("tcp://{address}")))
            }
            Self::Unix(listener, path) => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::Unix(stream), format!("ipc://{}", path.display())))
            }
            Self::Inproc(name, receiver) => match receiver.recv().await {
                Some(stream) => Ok((Stream::Unix(stream), format!("inproc://{name}"))),
                None => Err(io::ErrorKind::BrokenPipe.into()),
            },
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        match self {
            Self::Tcp(_) => {}
            Self::Unix(_, path) => drop(std::fs::remove_file(path)),
            Self::Inproc(name, receiver) => {
                receiver.close();
                INPROC.lock().retain(|other, door| other != name || !door.is_closed());
            }
        }
    }
}
