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
    /// The file that it is told to keep and never writes. It tells our server from another one that got the port first:
    /// between the look for a free port and the start, another test may have done the same. Both would go on with the one
    /// server that there is, and lose it when the other test is done with it.
    name: String,
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
            let number = NEXT.fetch_add(1, Relaxed);
            let port = 10_000 + (first.wrapping_add(number.into()) % PORTS) as u16;
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                let name = format!("test-{}-{number}.rdb", process::id());
                let mut server = Self { port, name, process: None };
                match server.try_restart().await {
                    Ok(()) => return server,
                    // Somebody else was there first.
                    Err(_) if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err() => {}
                    Err(error) => panic!("{error}"),
                }
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
    ///
    /// # Panics
    /// When it ends at once.
    pub async fn restart(&mut self) {
        self.try_restart().await.unwrap_or_else(|error| panic!("{error}"));
    }

    async fn try_restart(&mut self) -> Result<(), String> {
        self.kill();
        let program = env::var("WEFT_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
        let process = Command::new(&program)
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dbfilename", &self.name])
            .args(["--port", &self.port.to_string()])
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| {
                format!(
                    "{program}: {error}. Install redis-server (Debian: apt-get install redis-server) or set \
                     WEFT_REDIS_SERVER to the program"
                )
            })?;
        self.process = Some(process);
        let answering = async {
            while !self.answers().await {
                if let Some(ended) =
                    self.process.as_mut().and_then(|process| process.try_wait().ok().flatten())
                {
                    return Err(format!("{program} on port {} ended: {ended:?}", self.port));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok(())
        };
        tokio::time::timeout(super::DEADLINE, answering).await.expect("redis-server answers")
    }

    /// Whether our server serves at the port. That a socket listens is not enough: it may not serve yet, or not be ours.
    async fn answers(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await else { return false };
        let expected = format!("*2\r\n$10\r\ndbfilename\r\n${}\r\n{}\r\n", self.name.len(), self.name);
        // So short an answer comes in one piece; another server's may be of another length.
        let mut answer = [0; 128];
        stream.write_all(b"CONFIG GET dbfilename\r\n").await.is_ok()
            && stream.read(&mut answer).await.is_ok_and(|len| answer[..len] == *expected.as_bytes())
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[ignore = "needs redis-server"]
    async fn a_server_of_another_test_is_not_taken_for_ones_own() {
        let first = RedisServer::start().await;
        let mut second = RedisServer { port: first.port, name: "another.rdb".to_owned(), process: None };
        let error = second.try_restart().await.unwrap_err();
        assert!(error.contains(&format!("on port {} ended", first.port)), "{error}");
        assert!(first.answers().await);
    }
}
