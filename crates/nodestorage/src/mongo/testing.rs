//! A server for tests: the one that `MONGODB_URI` names, else one that is started for the test and ends with it.

use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// How long a server may take to start.
const START_MAX: Duration = Duration::from_secs(30);

/// How often it is started until it is ready.
const START_TRIES: u32 = 3;

/// A server, and a database on it for one test.
pub struct TestServer {
    running: Option<Running>,
    address: String,
    database: String,
}

struct Running {
    child: Child,
    program: OsString,
    folder: TempDir,
    port: u16,
}

impl TestServer {
    /// Starts a server. Panics, and says how to get one, when there is none: a test that can't run has failed.
    pub fn start() -> Self {
        static TESTS: AtomicU32 = AtomicU32::new(0);
        let number = TESTS.fetch_add(1, Ordering::Relaxed);
        let database = format!("weft_test_{}_{number}", std::process::id());
        if let Ok(uri) = std::env::var("MONGODB_URI") {
            return Self { running: None, address: uri, database };
        }
        Self::launched(database, named())
    }

    /// Starts a server by the wheel, whatever the others are: another make of the stand-in, which does some things as MongoDB
    /// does and the binary does not.
    pub fn second_opinion() -> Self {
        let program = std::env::var_os("WEFT_SECANTUSD_PY");
        let program =
            program.expect("WEFT_SECANTUSD_PY names no secantusd-py; `cargo xtask services` installs one");
        Self::launched(format!("weft_test_{}_second", std::process::id()), program)
    }

    /// Starts a server of the test's own, also when `MONGODB_URI` names one: to be killed, or to stand behind a proxy.
    pub fn own() -> Self {
        Self::launched(format!("weft_test_{}_own", std::process::id()), named())
    }

    fn launched(database: String, program: OsString) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (child, port) = launch(Path::new(&program), folder.path(), 0);
        let running = Running { child, program, folder, port };
        Self { address: address(port), running: Some(running), database }
    }

    /// The process of a server that was started here.
    pub fn process(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.child.id())
    }

    /// Where it is.
    pub fn uri(&self) -> &str {
        &self.address
    }

    /// The port of an [`own`](Self::own) server.
    ///
    /// # Panics
    /// When it is one that `MONGODB_URI` names.
    pub fn port(&self) -> u16 {
        self.running.as_ref().expect("a server that was started here").port
    }

    /// The same server at another port: that of a proxy.
    pub fn uri_at(port: u16) -> String {
        address(port)
    }

    /// The database of this test.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Kills it as a crash does, and starts it again on the same data and port.
    pub fn crash(&mut self) {
        let running = self.running.as_mut().expect("only a server that was started here can be killed");
        running.child.kill().expect("it is running");
        running.child.wait().expect("it was started here");
        (running.child, _) = launch(Path::new(&running.program), running.folder.path(), running.port);
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(running) = &mut self.running {
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
    }
}

fn address(port: u16) -> String {
    // It says that it is a replica set, and names itself by an address that a proxy would be passed by.
    format!("mongodb://127.0.0.1:{port}/?directConnection=true")
}

/// The lines that another program prints. Each is waited for so long and no longer: who hangs fails its test, and
/// does not hold up the others. They are read to the end whether anybody waits or not, so that the pipe is never full.
pub struct Lines(mpsc::Receiver<String>);

impl Lines {
    /// Of a child's output.
    pub fn of(output: impl Read + Send + 'static) -> Self {
        let (say, said) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = say.send(line);
            }
        });
        Self(said)
    }

    /// The next line; `None` when the program has ended.
    ///
    /// # Panics
    /// When none comes within that time.
    pub fn next_within(&self, patience: Duration) -> Option<String> {
        match self.0.recv_timeout(patience) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                panic!("a program that was started said nothing for {patience:?}")
            }
        }
    }
}

/// The program of the server.
fn named() -> OsString {
    std::env::var_os("WEFT_SECANTUSD").unwrap_or_else(|| {
        panic!(
            "no MongoDB: set MONGODB_URI to a server, or WEFT_SECANTUSD to secantusd-rs or secantusd-py; \
             `cargo xtask services` installs one and says where it is, `cargo xtask test-all` does all of it"
        )
    })
}

/// Starts a server, as a supervisor would: one that ends at its start, or hangs there, is started again. Its port may be
/// somebody else's for a moment, and after a crash it is one of its faults, not of what is tested.
fn launch(program: &Path, folder: &Path, port: u16) -> (Child, u16) {
    for _ in 0..START_TRIES {
        let (mut child, port) = start(program, folder, port);
        let lines = Lines::of(child.stdout.take().expect("it is piped"));
        let ready =
            if is_python(program) { accepts(&mut child, port).then_some(port) } else { listening(&lines) };
        if let Some(port) = ready {
            return (child, port);
        }
        let _ = child.kill();
        let ended = child.wait().expect("it was started here");
        eprintln!("{} was not ready after {START_MAX:?}, or ended: {ended}", program.display());
    }
    panic!("the server does not start");
}

/// It does not say where it listens.
fn is_python(program: &Path) -> bool {
    program.file_stem().is_some_and(|name| name.to_string_lossy().ends_with("-py"))
}

fn start(program: &Path, folder: &Path, mut port: u16) -> (Child, u16) {
    let data = folder.join("data");
    std::fs::create_dir_all(&data).expect("the folder is writable");
    let mut command = Command::new(program);
    if is_python(program) {
        if port == 0 {
            let free = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
            port = free.local_addr().expect("it is bound").port();
        }
        command.args(["--host", "127.0.0.1", "--sync-on-commit", "--port", &port.to_string()]);
        command.arg("--storage-path").arg(&data);
    } else {
        let config = folder.join("secantusd.toml");
        let text = format!(
            "[server]\nhost = \"127.0.0.1\"\nport = {port}\nstorage_path = {data:?}\nenable_test_commands = true\n\
             [storage]\ncache_size = \"256M\"\nlog_file_max = \"16MB\"\nsync_on_commit = true\nttl_sweep_seconds = 1\n"
        );
        std::fs::write(&config, text).expect("the folder is writable");
        command.arg("--config").arg(config);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let child = command.spawn().unwrap_or_else(|e| panic!("{} does not start: {e}", program.display()));
    (child, port)
}

/// The port at which it says that it listens; `None` when it ends or hangs before.
fn listening(lines: &Lines) -> Option<u16> {
    loop {
        let line = lines.0.recv_timeout(START_MAX).ok()?;
        if let Some((_, port)) = line.rsplit_once(':').filter(|_| line.contains("listening on")) {
            return Some(port.trim().parse().expect("a port"));
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a test waits for a program")]
fn accepts(child: &mut Child, port: u16) -> bool {
    let started = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        if started.elapsed() > START_MAX || child.try_wait().expect("it was started here").is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}
