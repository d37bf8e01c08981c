//! One measurement: its processes, from their start to their end.

use std::{
    io::Read,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{Job, cpu_of, systems, systems::brokers};

/// Thousand messages a second and CPU microseconds a message; or p50 and p99 in microseconds.
pub type Figures = (f64, f64);

/// A measurement that takes longer has gone wrong.
const PATIENCE: Duration = Duration::from_secs(20);

/// A process that is killed when it is of no use any more.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Plays a role in a process of its own.
    pub fn start(role: &str, system: &str, job: &Job) -> Self {
        let program = std::env::current_exe().expect("this program");
        let numbers = [job.size, job.count, job.receivers, job.port.into()].map(|n| n.to_string());
        let mut command = Command::new(program);
        command.args([role, system, &job.mode]).args(numbers);
        Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a process"))
    }

    /// Waits for its end.
    pub fn ends_by(&mut self, deadline: Instant) -> bool {
        while matches!(self.0.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// The numbers that it has printed, once it has ended.
    pub fn numbers(mut self) -> Vec<f64> {
        let _ = self.0.kill();
        let mut text = String::new();
        if let Some(mut out) = self.0.stdout.take() {
            let _ = out.read_to_string(&mut text);
        }
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
    }
}

/// A port that nobody has.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port()
}

/// Measures a system; nothing if it does not come to its end, or is not installed.
pub fn measure(system: &str, job: &Job) -> Option<Figures> {
    let job = Job { port: free_port(), ..job.clone() };
    let deadline = Instant::now() + PATIENCE;
    let broker = brokers::start(system, job.port).map(Running);
    if broker.is_none() && systems::has_broker(system) {
        return None;
    }
    let mut sender = Running::start("send", system, &job);
    let mut receivers: Vec<Running> =
        (0..job.receivers).map(|_| Running::start("recv", system, &job)).collect();
    if !receivers.iter_mut().all(|receiver| receiver.ends_by(deadline)) {
        return None;
    }
    let broker_cpu = broker.as_ref().map_or(Duration::ZERO, |broker| cpu_of(&broker.0.id().to_string()));
    // The sender prints its CPU time when it has sent everything; some then wait to be ended.
    sender.ends_by(Instant::now() + Duration::from_millis(200));
    let sent = sender.numbers().first().copied().unwrap_or(0.0);
    let (mut received, mut wall_max, mut cpu_all) = (0.0, 0.0, sent + broker_cpu.as_micros() as f64);
    for receiver in receivers {
        let [n, wall, cpu] = receiver.numbers()[..] else { return None };
        if job.mode == "rtt" {
            return Some((wall, cpu));
        }
        received += n;
        wall_max = wall.max(wall_max);
        cpu_all += cpu;
    }
    Some((received / wall_max * 1000.0, cpu_all / received))
}
