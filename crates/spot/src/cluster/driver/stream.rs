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
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener, UnixStream, tcp, unix},
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

    /// What one task reads, and what any may write.
    pub(super) fn into_halves(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
            }
            Self::Unix(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Unix(read), WriteHalf::Unix(write))
            }
        }
    }

    /// Reads what is there, after waiting for it; 0 at the end.
    pub(super) async fn read_buf(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read_buf(buffer).await,
            Self::Unix(stream) => stream.read_buf(buffer).await,
        }
    }

    pub(super) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes).await,
            Self::Unix(stream) => stream.write_all(bytes).await,
        }
    }
}

/// Of a connected socket, what is read from. A read that brings less than there is room for says that no more is there, and
/// the next one waits without asking the system.
#[derive(Debug)]
pub(super) enum ReadHalf {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
}

impl ReadHalf {
    pub(super) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(half) => half.readable().await,
            Self::Unix(half) => half.readable().await,
        }
    }

    /// Reads what is there, after waiting for it; 0 at the end.
    pub(super) async fn read_buf(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.read_buf(buffer).await,
            Self::Unix(half) => half.read_buf(buffer).await,
        }
    }
}

/// Of a connected socket, what is written to.
#[derive(Debug)]
pub(super) enum WriteHalf {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
}

impl WriteHalf {
    pub(super) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(half) => half.writable().await,
            Self::Unix(half) => half.writable().await,
        }
    }

    pub(super) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.try_write_vectored(slices),
            Self::Unix(half) => half.try_write_vectored(slices),
        }
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
