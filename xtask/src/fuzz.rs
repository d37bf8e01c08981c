//! The fuzz targets: one for each decoder, in a workspace of their own because they need a nightly sanitizer build.

use std::fs;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::cli::pass_through;
use crate::shell::find_program;
use crate::workspace::Workspace;

/// The names of the `[[bin]]`s of `fuzz/Cargo.toml`, none when there is no such file.
pub(crate) fn targets(workspace: &Workspace) -> Result<Vec<String>> {
    let manifest = workspace.root.join("fuzz/Cargo.toml");
    if !manifest.exists() {
        return Ok(Vec::new());
    }
    let manifest = fs::read_to_string(manifest)?;
    let bins = manifest.split("[[bin]]").skip(1);
    bins.map(|bin| {
        let line =
            bin.lines().find(|line| line.starts_with("name")).context("a [[bin]] of fuzz has no name")?;
        Ok(line.split('"').nth(1).context("the name of a [[bin]] of fuzz is no string")?.to_owned())
    })
    .collect()
}

/// Runs one target for a while, or lists all.
pub(crate) fn run(workspace: &Workspace, target: Option<&str>, seconds: u64) -> Result<ExitCode> {
    let targets = targets(workspace)?;
    let Some(target) = target else {
        println!("{}", targets.join("\n"));
        return Ok(ExitCode::SUCCESS);
    };
    if !targets.iter().any(|name| name == target) {
        bail!("no fuzz target `{target}`; there are: {}", targets.join(", "));
    }
    let (Some(_), Some(rustup)) = (find_program(&["cargo-fuzz"]), find_program(&["rustup"])) else {
        bail!(
            "needs cargo-fuzz and a nightly toolchain: cargo install cargo-fuzz && rustup toolchain install nightly"
        );
    };
    // By way of rustup: the cargo that runs this task is a fixed stable one.
    let mut command = Command::new(rustup);
    command.args(["run", "nightly", "cargo", "fuzz", "run", target, "--"]);
    command.arg(format!("-max_total_time={seconds}")).current_dir(&workspace.root);
    pass_through(&mut command)
}
