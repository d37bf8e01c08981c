//! A Redis server of one's own, for tests.

use std::{
    env,
    net::{Ipv4Addr, TcpListener},
    process::{self, Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How many ports are tried.
const PORTS: u32 = 20_000;

/// A real `redis-server` on a free port that keeps nothing on disk. Dropping it kills it.
pub struct RedisServer {
    port: u16,
    process: Option<Child>,
}

impl RedisServer {
    /// Starts a server and waits until it answers. The program is `WEFT_REDIS_SERVER`, or `redis-server` on the path.
    ///
    /// # Panics
    /// When there is no such program or it does not start: a test that needs Redis fails without it.
    pub async fn start() -> Self {
        // Not one that the system gives to outgoing connections (on Linux 32768 and above): while the server is away
        // between `kill` and `restart`, somebody else would get it.
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let first = process::id().wrapping_mul(97);
        for _ in 0..PORTS {
            let port = 10_000 + (first.wrapping_add(NEXT.fetch_add(1, Relaxed).into()) % PORTS) as u16;
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                let mut server = Self { port, process: None };
                server.restart().await;
                return server;
            }
        }
        panic!("no free port from 10000 on");
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("kill redis-server");
            process.wait().expect("wait for redis-server");
        }
    }

    /// Sends a signal such as `STOP` or `CONT`.
    pub fn signal(&self, signal: &str) {
        let process = self.process.as_ref().expect("redis-server runs");
        let status = Command::new("kill").args([format!("-{signal}"), process.id().to_string()]).status();
        assert!(status.expect("kill").success());
    }

    /// Starts it again on the same port, and waits until it answers.
    pub async fn restart(&mut self) {
        self.kill();
        let program = env::var("WEFT_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
        let process = Command::new(&program)
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"])
            .arg(self.port.to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "{program}: {error}. Install redis-server (Debian: apt-get install redis-server) or set \
                     WEFT_REDIS_SERVER to the program"
                )
            });
        self.process = Some(process);
        let answering = async {
            while !self.answers().await {
                let ended = self.process.as_mut().and_then(|process| process.try_wait().ok().flatten());
                assert!(ended.is_none(), "{program} on port {} ended: {ended:?}", self.port);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(super::DEADLINE, answering).await.expect("redis-server answers");
    }

    /// Whether somebody at the port speaks Redis. That its socket listens is not enough: it may not serve yet.
    async fn answers(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await else { return false };
        let mut answer = [0; 7];
        stream.write_all(b"PING\r\n").await.is_ok()
            && stream.read_exact(&mut answer).await.is_ok()
            && answer == *b"+PONG\r\n"
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}
