//! The simulators, for longer than the tests run them: `tests/sim` of a crate is one, and reads `WEFT_SIM_SEEDS` and
//! `WEFT_SIM_SEED`.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::cli::pass_through;
use crate::workspace::Workspace;

/// Which worlds to run.
#[derive(Debug)]
pub(crate) enum Seeds {
    /// The first so many.
    First(u64),
    /// This one, with each of its events printed.
    Replay(u64),
}

/// Runs the simulators of all crates, or of one.
pub(crate) fn run(workspace: &Workspace, package: Option<&str>, seeds: &Seeds) -> Result<ExitCode> {
    let simulated: Vec<&str> = workspace
        .libraries()
        .filter(|library| package.is_none_or(|package| library.name == package))
        .filter(|library| library.dir.join("tests/sim").is_dir())
        .map(|library| library.name.as_str())
        .collect();
    if simulated.is_empty() {
        bail!("{} has no tests/sim", package.unwrap_or("no crate"));
    }
    // Optimised: the seconds of building come back within the first thousand seeds.
    let mut command = workspace.cargo();
    command.args(["test", "--release", "--all-features", "--test", "sim"]);
    command.args(simulated.iter().flat_map(|name| ["--package", name]));
    match seeds {
        Seeds::First(count) => command.env("WEFT_SIM_SEEDS", count.to_string()),
        Seeds::Replay(seed) => command.env("WEFT_SIM_SEED", seed.to_string()).args(["--", "--nocapture"]),
    };
    pass_through(&mut command)
}
