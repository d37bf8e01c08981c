//! Runs the JavaScript tests with Node's own runner and counts what it says.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::report::{Counts, Found};
use crate::shell::{TESTS_TIME_MAX, run};
use crate::workspace::Workspace;

/// The test files below a folder, by the names that Node's runner looks for.
pub(crate) fn files(workspace: &Workspace, folder: &str) -> Result<Vec<PathBuf>> {
    let is_test = |name: &str| {
        name.starts_with(&format!("{folder}/"))
            && !name.contains("/node_modules/")
            && [".test.js", ".test.mjs"].iter().any(|end| name.ends_with(end))
    };
    Ok(workspace.files()?.iter().filter(|name| is_test(name)).map(|name| workspace.root.join(name)).collect())
}

/// Runs all test files of a folder.
pub(crate) fn run_folder(
    workspace: &Workspace,
    node: &Path,
    folder: &str,
    env: &[(String, std::ffi::OsString)],
    log: &Path,
) -> Result<Found> {
    let files = files(workspace, folder)?;
    if files.is_empty() {
        bail!("{folder} has no file named *.test.js or *.test.mjs, so nothing would be tested");
    }
    let mut command = Command::new(node);
    // One file at a time: a browser beside another on two cores is slow enough to look hung.
    command
        .args(["--test", "--test-concurrency=1", "--test-reporter=spec"])
        .args(&files)
        .current_dir(workspace.root.join(folder));
    command.envs(env.iter().map(|(name, value)| (name, value)));
    let ended = run(&mut command, log, TESTS_TIME_MAX)?;
    Ok(Found { counts: count(&ended.output, ended.success), output: ended.output, notes: Vec::new() })
}

/// Reads the summary at the end: one line for each number.
fn count(output: &str, success: bool) -> Counts {
    let number = |what: &str| -> usize {
        let found = output
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix("ℹ ")?.strip_prefix(what)?.trim().parse().ok());
        found.unwrap_or(0)
    };
    let mut counts = Counts {
        passed: number("pass "),
        failed: number("fail ") + number("cancelled "),
        skipped: number("skipped ") + number("todo "),
    };
    if (!success || counts == Counts::default()) && counts.failed == 0 {
        counts.failed = 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_of_the_runner_is_read() {
        let output =
            "✔ pass (1ms)\nℹ tests 9\nℹ suites 0\nℹ pass 5\nℹ fail 1\nℹ cancelled 1\nℹ skipped 2\nℹ todo 0\n";
        assert_eq!(count(output, false), Counts { passed: 5, failed: 2, skipped: 2 });
    }

    #[test]
    fn a_runner_that_ran_nothing_is_a_failure() {
        assert_eq!(count("", true).failed, 1);
        assert_eq!(count("ℹ tests 0\nℹ pass 0\nℹ fail 0\n", true).failed, 1);
    }
}
