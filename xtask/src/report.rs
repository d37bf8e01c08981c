//! Progress while steps run, and the account at the end.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::ops::AddAssign;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::shell::now;

/// How many checks or tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Ran and held.
    pub passed: usize,
    /// Ran and did not hold, or could not run although it should have.
    pub failed: usize,
    /// Not run, on purpose.
    pub skipped: usize,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// What a step found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// What it counted.
    pub counts: Counts,
    /// What people need to mend it, shown in full when something failed.
    pub output: String,
    /// What people should know although nothing failed, shown at the end.
    pub notes: Vec<String>,
}

impl Found {
    /// A step that is one check.
    pub(crate) fn check(success: bool, output: String) -> Self {
        let counts = Counts { passed: success.into(), failed: (!success).into(), skipped: 0 };
        Self { counts, output, notes: Vec::new() }
    }

    /// Adds what another run of the same step found.
    pub(crate) fn add(&mut self, other: Self) {
        self.counts += other.counts;
        if other.counts.failed > 0 {
            self.output.push_str(&other.output);
        }
        self.notes.extend(other.notes);
    }
}

struct Row {
    name: String,
    counts: Counts,
    took: Duration,
}

/// The account of a run.
pub(crate) struct Report {
    began: Instant,
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Report {
    /// Begins the clock.
    pub(crate) fn new() -> Self {
        Self { began: now(), rows: Vec::new(), notes: Vec::new() }
    }

    /// Runs a step, prints its line, and its output if it failed. True when nothing failed.
    pub(crate) fn step(&mut self, name: &str, work: impl FnOnce() -> Result<Found>) -> bool {
        print!("{:>7}  {name} … ", clock(self.began.elapsed()));
        let _ = io::stdout().flush();
        let began = now();
        let found = work().unwrap_or_else(|error| Found::check(false, format!("{error:#}")));
        let took = began.elapsed();
        let counts = found.counts;
        println!("{}, {}", verdict(counts), seconds(took));
        if counts.failed > 0 {
            println!("{}\n", found.output.trim_end());
        }
        self.notes.extend(found.notes);
        self.rows.push(Row { name: name.to_owned(), counts, took });
        counts.failed == 0
    }

    /// Remembers something for the end that is no failure.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// The table, the notes, and as the very last line the sum.
    pub(crate) fn print_summary(&self) {
        let width = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(4);
        let mut text = format!("\n{:width$}  passed  failed  skipped     time\n", "step");
        for Row { name, counts, took } in &self.rows {
            let Counts { passed, failed, skipped } = counts;
            let took = seconds(*took);
            let _ = writeln!(text, "{name:width$}  {passed:6}  {failed:6}  {skipped:7}  {took:>7}");
        }
        for note in &self.notes {
            let _ = writeln!(text, "note: {note}");
        }
        let Counts { passed, failed, skipped } = self.total();
        println!("{text}\nin {}", clock(self.began.elapsed()));
        println!("{passed} passed, {failed} failed, {skipped} skipped");
    }

    /// Zero only if nothing failed and something was checked: a run that looked at nothing proves nothing.
    pub(crate) fn exit_code(&self) -> ExitCode {
        if self.total().failed == 0 && !self.rows.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn total(&self) -> Counts {
        let mut total = Counts::default();
        self.rows.iter().for_each(|row| total += row.counts);
        total
    }
}

fn verdict(counts: Counts) -> String {
    match counts {
        Counts { failed: 0, passed: 0, skipped: 0 } => "nothing to run".to_owned(),
        Counts { failed: 0, passed: 0, skipped } => format!("skipped ({skipped})"),
        Counts { failed: 0, passed: 1, skipped: 0 } => "ok".to_owned(),
        Counts { failed: 0, passed, skipped: 0 } => format!("ok ({passed})"),
        Counts { failed: 0, passed, skipped } => format!("ok ({passed}, {skipped} skipped)"),
        Counts { failed, .. } => format!("FAILED ({failed})"),
    }
}

fn seconds(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}

fn clock(took: Duration) -> String {
    let seconds = took.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_checked_nothing_fails() {
        assert_eq!(Report::new().exit_code(), ExitCode::FAILURE);
    }

    #[test]
    fn one_failure_among_many_fails_the_run() {
        let mut report = Report::new();
        assert!(report.step("good", || Ok(Found::check(true, String::new()))));
        assert_eq!(report.exit_code(), ExitCode::SUCCESS);
        assert!(!report.step("bad", || anyhow::bail!("no such program")));
        assert!(report.step("good again", || Ok(Found::check(true, String::new()))));
        assert_eq!(report.exit_code(), ExitCode::FAILURE);
        assert_eq!(report.total(), Counts { passed: 2, failed: 1, skipped: 0 });
    }
}
