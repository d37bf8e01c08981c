//! Runs Rust's test programs one by one and counts what they say.
//!
//! Each program runs first as it is; it then names the tests that it left out and why. Those whose reason starts
//! with `needs ` run in a second pass, by their exact names, once their needs are met. So no source has to be
//! parsed to know what a test needs, and a macro may make the test.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::report::{Counts, Found};
use crate::shell::{CARGO_TIME_MAX, TESTS_TIME_MAX, run, run_for_data};
use crate::workspace::{Workspace, plain, text};

/// The start of a reason that asks for something this task can provide.
pub(crate) const NEEDS: &str = "needs ";

/// A built test program.
#[derive(Debug)]
pub(crate) struct Program {
    /// The package that it tests.
    pub package: String,
    /// A name for people: the library, or the file under `tests/`.
    pub name: String,
    /// Where cargo put it.
    pub executable: PathBuf,
}

/// What cargo built for `cargo test`.
#[derive(Debug, Default)]
pub(crate) struct Built {
    /// The test programs.
    pub programs: Vec<Program>,
    /// The binaries of each package, for tests that look `CARGO_BIN_EXE_name` up when they run.
    pub binaries: BTreeMap<String, Vec<(String, PathBuf)>>,
}

/// Builds the test programs, without running any.
pub(crate) fn build(workspace: &Workspace, arguments: &[&str], log: &Path) -> Result<(Found, Built)> {
    let mut command = workspace.cargo();
    command.args(["test", "--no-run", "--message-format=json-render-diagnostics"]).args(arguments);
    let (ended, data) = run_for_data(&mut command, log, CARGO_TIME_MAX)?;
    let mut built = Built::default();
    for line in data.lines().filter(|line| line.starts_with('{')) {
        let message: Value = serde_json::from_str(line).context("cargo printed a broken build message")?;
        let Some(executable) = message["executable"].as_str() else { continue };
        let target = &message["target"];
        let dir = PathBuf::from(text(&message, "manifest_path")?);
        let Some(package) = workspace.packages.iter().find(|package| dir.starts_with(&package.dir)) else {
            continue;
        };
        let (package, name) = (package.name.clone(), text(target, "name")?);
        if message["profile"]["test"].as_bool() == Some(true) {
            built.programs.push(Program { package, name, executable: executable.into() });
        } else if target["kind"][0].as_str() == Some("bin") {
            built.binaries.entry(package).or_default().push((name, executable.into()));
        }
    }
    built.programs.sort_by(|a, b| (&a.package, &a.name).cmp(&(&b.package, &b.name)));
    Ok((Found::check(ended.success, ended.output), built))
}

/// How a test program is run.
#[derive(Debug)]
pub(crate) struct Runner<'a> {
    /// The tree.
    pub workspace: &'a Workspace,
    /// What the build made.
    pub built: &'a Built,
    /// Where logs go.
    pub logs: PathBuf,
    /// Where the services are.
    pub env: Vec<(String, OsString)>,
}

/// A test that a first pass left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ignored {
    /// Its full name in its program.
    pub name: String,
    /// What stands in its `#[ignore = "…"]`.
    pub reason: String,
}

impl Runner<'_> {
    /// First pass: all that needs nothing. What it left out is returned and not counted yet.
    pub(crate) fn run(&self, program: &Program) -> Result<(Found, Vec<Ignored>)> {
        let ended = run(
            &mut self.command(program),
            &self.logs.join(format!("test-{}-{}.log", program.package, program.name)),
            TESTS_TIME_MAX,
        )?;
        let ignored = ignored(&ended.output);
        let mut counts = count(&ended.output, ended.success);
        counts.skipped -= ignored.len().min(counts.skipped);
        Ok((Found { counts, output: without_passed(&ended.output), notes: Vec::new() }, ignored))
    }

    /// Second pass: the named tests of those that were left out.
    pub(crate) fn run_ignored(&self, program: &Program, names: &[&str]) -> Result<Found> {
        let mut command = self.command(program);
        command.args(["--ignored", "--exact"]).args(names);
        let log = self.logs.join(format!("test-{}-{}-services.log", program.package, program.name));
        let ended = run(&mut command, &log, TESTS_TIME_MAX)?;
        let mut output = without_passed(&ended.output);
        let mut counts = count(&ended.output, ended.success);
        if counts.passed + counts.failed + counts.skipped < names.len() {
            // It was killed, or no longer knows a name: neither would be seen by what it says.
            let others = not_passed(names, &ended.output);
            counts = Counts { passed: names.len() - others.len(), failed: others.len(), skipped: 0 };
            others.iter().for_each(|name| output.push_str(&format!("did not pass: {name}\n")));
        }
        Ok(Found { counts, output, notes: Vec::new() })
    }

    /// The environment that cargo gives a test, and the services.
    fn command(&self, program: &Program) -> Command {
        let mut command = plain(&program.executable);
        if let Some(package) = self.workspace.packages.iter().find(|package| package.name == program.package)
        {
            command.current_dir(&package.dir).env("CARGO_MANIFEST_DIR", &package.dir);
        }
        command.env("CARGO_PKG_NAME", &program.package);
        for (name, path) in self.built.binaries.get(&program.package).into_iter().flatten() {
            command.env(format!("CARGO_BIN_EXE_{name}"), path);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// Sums the `test result:` lines of what a test program, or `cargo test --doc`, printed.
///
/// A program that ended badly without saying which test failed (a build error, an abort) is one failure.
pub(crate) fn count(output: &str, success: bool) -> Counts {
    let mut counts = Counts::default();
    for line in output.lines() {
        let Some(result) = line.strip_prefix("test result: ") else { continue };
        let number = |what: &str| {
            result
                .split(['.', ';'])
                .find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok())
                .unwrap_or(0)
        };
        counts += Counts { passed: number("passed"), failed: number("failed"), skipped: number("ignored") };
    }
    if !success && counts.failed == 0 {
        counts.failed = 1;
    }
    counts
}

/// What a person has to read of a failed program: not the hundred tests that passed.
fn without_passed(output: &str) -> String {
    let passed = |line: &str| line.starts_with("test ") && line.ends_with(" ... ok");
    output.lines().filter(|line| !passed(line)).flat_map(|line| [line, "\n"]).collect()
}

/// Of these tests, those of which a program did not say that they passed.
fn not_passed<'a>(names: &[&'a str], output: &str) -> Vec<&'a str> {
    let passed: HashSet<&str> =
        output.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... ok")).collect();
    names.iter().copied().filter(|name| !passed.contains(name)).collect()
}

/// The lines `test NAME ... ignored, REASON`.
fn ignored(output: &str) -> Vec<Ignored> {
    let mut found = Vec::new();
    for line in output.lines() {
        let Some((name, rest)) = line.strip_prefix("test ").and_then(|line| line.split_once(" ... ignored"))
        else {
            continue;
        };
        let reason = rest.strip_prefix(", ").unwrap_or("no reason given");
        found.push(Ignored { name: name.to_owned(), reason: reason.to_owned() });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "
running 4 tests
test pubsub::tests::redis_comes_back ... ignored, needs redis-server
test slow ... ignored, an hour long
test a ... ok
test b ... FAILED

test result: FAILED. 1 passed; 1 failed; 2 ignored; 0 measured; 3 filtered out; finished in 0.01s
";

    #[test]
    fn result_lines_are_summed_whatever_stands_between() {
        let twice =
            format!("{OUTPUT}test result: ok. 20 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n");
        assert_eq!(count(&twice, false), Counts { passed: 21, failed: 1, skipped: 2 });
    }

    #[test]
    fn a_program_that_dies_without_a_result_is_a_failure() {
        assert_eq!(count("thread panicked while panicking. aborting.", false).failed, 1);
        assert_eq!(count("test result: ok. 3 passed; 0 failed; 0 ignored", false).failed, 1);
    }

    #[test]
    fn what_did_not_end_is_named_and_what_passed_is_not_printed() {
        let killed =
            "running 3 tests\ntest a ... ok\ntest b has been running for over 60 seconds\ntest c ... ok\n";
        assert_eq!(not_passed(&["a", "b", "c"], killed), ["b"]);
        assert_eq!(without_passed(killed), "running 3 tests\ntest b has been running for over 60 seconds\n");
    }

    #[test]
    fn tests_that_were_left_out_are_read_with_their_reasons() {
        let left_out: Vec<_> = ignored(OUTPUT).into_iter().map(|test| (test.name, test.reason)).collect();
        let expected = [
            ("pubsub::tests::redis_comes_back".to_owned(), "needs redis-server".to_owned()),
            ("slow".to_owned(), "an hour long".to_owned()),
        ];
        assert_eq!(left_out, expected);
    }
}
