//! Runs other programs: what they print goes to a log, and each has a time limit.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// A test program that takes longer than this hangs. It is killed and its step fails, so that a run always ends.
pub(crate) const TESTS_TIME_MAX: Duration = Duration::from_secs(15 * 60);

/// The same for cargo, which starts from nothing on a small machine.
pub(crate) const CARGO_TIME_MAX: Duration = Duration::from_secs(45 * 60);

/// How a program ended.
pub(crate) struct Ended {
    /// True when it exited with zero, in time.
    pub success: bool,
    /// All that it printed; a line at the end says so when it was killed.
    pub output: String,
}

/// Runs a program to its end, both of its outputs in one log.
pub(crate) fn run(command: &mut Command, log: &Path, limit: Duration) -> Result<Ended> {
    let file = create(log)?;
    command.stdout(file.try_clone()?).stderr(file);
    let end = wait(command, limit)?;
    Ok(Ended { success: end.success(), output: read(log)? + &end.remark(limit) })
}

/// As [`run`], with the standard output apart, for programs whose standard output is data.
pub(crate) fn run_for_data(command: &mut Command, log: &Path, limit: Duration) -> Result<(Ended, String)> {
    let data = log.with_extension("out");
    command.stdout(create(&data)?).stderr(create(log)?);
    let end = wait(command, limit)?;
    let ended = Ended { success: end.success(), output: read(log)? + &end.remark(limit) };
    Ok((ended, read(&data)?))
}

enum End {
    Exited(ExitStatus),
    Killed,
}

impl End {
    fn success(&self) -> bool {
        matches!(self, Self::Exited(status) if status.success())
    }

    /// What the log can't say: that the program was killed, by us or by a signal.
    fn remark(&self, limit: Duration) -> String {
        match self {
            Self::Killed => format!("\nkilled after {} s: it did not end\n", limit.as_secs()),
            Self::Exited(status) if status.code().is_none() => format!("\nended by {status}\n"),
            Self::Exited(_) => String::new(),
        }
    }
}

fn wait(command: &mut Command, limit: Duration) -> Result<End> {
    command.stdin(Stdio::null());
    let mut child =
        command.spawn().with_context(|| format!("could not start {:?}", command.get_program()))?;
    let id = child.id();
    let (done, ended) = mpsc::channel();
    thread::spawn(move || done.send(child.wait()));
    match ended.recv_timeout(limit) {
        Ok(status) => Ok(End::Exited(status?)),
        Err(_) => {
            kill_family(id);
            // Reaped by its thread; what it printed is in the log by then.
            let _ = ended.recv_timeout(Duration::from_secs(10));
            Ok(End::Killed)
        }
    }
}

/// Kills a program that hangs and all that it started: servers of a test would live on and hold their ports.
fn kill_family(id: u32) {
    let mut family = vec![id];
    let mut next = 0;
    while let Some(&id) = family.get(next) {
        // A child is listed under the thread that started it, and each test is a thread.
        let threads = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
        for thread in threads {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            family.extend(children.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
        }
        next += 1;
    }
    for id in family {
        let _ = Command::new("kill").args(["-KILL", &id.to_string()]).stderr(Stdio::null()).status();
    }
}

fn create(path: &Path) -> Result<File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("could not create {}", dir.display()))?;
    }
    File::create(path).with_context(|| format!("could not create {}", path.display()))
}

fn read(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("could not read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Looks a program up as the shell would.
pub(crate) fn find_program(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    names.iter().find_map(|name| dirs.iter().map(|dir| dir.join(name)).find(|file| file.is_file()))
}

/// The clock that the progress lines show.
#[expect(clippy::disallowed_methods, reason = "tells people how long a step took; nothing depends on it")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("weft-xtask-{}-{name}.log", std::process::id()))
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn both_outputs_and_the_end_are_kept() {
        let log = log("both");
        let ended = run(&mut shell("echo out; echo err >&2; exit 3"), &log, TESTS_TIME_MAX).unwrap();
        assert!(!ended.success);
        assert_eq!(ended.output, "out\nerr\n");
        let ended = run(&mut shell("kill -SEGV $$"), &log, TESTS_TIME_MAX).unwrap();
        assert!(!ended.success && ended.output.contains("signal"), "{}", ended.output);
        fs::remove_file(log).unwrap();
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_program_that_hangs_is_killed_with_all_that_it_started() {
        let log = log("hang");
        let limit = Duration::from_millis(300);
        let ended = run(&mut shell("sleep 1000 & echo $!; wait"), &log, limit).unwrap();
        assert!(!ended.success && ended.output.contains("killed after"), "{}", ended.output);
        let grandchild = ended.output.lines().next().unwrap().to_owned();
        // Gone, or dead and not yet collected by whoever inherits it; a signal takes a moment to arrive.
        let state = || fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap_or_default();
        let deadline = now() + Duration::from_secs(10);
        while !(state().is_empty() || state().contains(") Z ")) {
            assert!(now() < deadline, "still there: {}", state());
            thread::yield_now();
        }
        fs::remove_file(log).unwrap();
    }
}
