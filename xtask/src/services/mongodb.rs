//! The server that stands in for MongoDB: SecantusDB, run as a program of its own and never linked (GPL).
//!
//! A real server named by `MONGODB_URI` wins, except for the tests that kill theirs or stand it behind a proxy. Else the
//! pinned binary, built once into the user's cache; else the wheel, which takes seconds to install and is slower. A few tests
//! run on the wheel in any case, as a second opinion.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::services::{apt, python};
use crate::shell::{find_program, run};
use crate::workspace::Workspace;

const CRATE: &str = "secantus-mdb";
const CRATE_VERSION: &str = "0.5.3-beta.196";
const WHEEL: &str = "SecantusDB==0.7.0b3";

/// Five minutes on two cores that do nothing else.
const BUILD_TIME_MAX: Duration = Duration::from_secs(20 * 60);

/// The variables that tell the tests which server to start.
pub(super) fn find_or_install(workspace: &Workspace) -> Result<Vec<(&'static str, OsString)>> {
    let mut found = Vec::new();
    if let Some(uri) = std::env::var_os("MONGODB_URI") {
        found.push(("MONGODB_URI", uri));
    }
    let server = match std::env::var_os("WEFT_SECANTUSD") {
        Some(server) => server,
        None => match binary(workspace) {
            Ok(server) => server.into(),
            Err(error) => wheel(workspace).context(error)?.into(),
        },
    };
    found.push(("WEFT_SECANTUSD", server));
    Ok(found)
}

/// Built for speed of building: link-time optimisation would double the five minutes.
fn binary(workspace: &Workspace) -> Result<PathBuf> {
    let root = cache()?.join(format!("{CRATE}-{CRATE_VERSION}"));
    let server = root.join("bin/secantusd-rs");
    if server.exists() {
        return Ok(server);
    }
    if find_program(&["cmake"]).is_none() || find_program(&["cc"]).is_none() {
        apt::install(workspace, &["cmake", "build-essential"])
            .context("needs cmake and a C compiler (Debian: apt install cmake build-essential)")?;
    }
    let mut command = workspace.cargo();
    command.args([
        "install",
        CRATE,
        "--version",
        CRATE_VERSION,
        "--locked",
        "--ignore-rust-version",
        "--root",
    ]);
    command.arg(&root);
    command.env("CARGO_TARGET_DIR", root.join("build")).env("CARGO_PROFILE_RELEASE_LTO", "off");
    command.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16").env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "2");
    let ended = run(&mut command, &workspace.tools().join("logs/secantusd.log"), BUILD_TIME_MAX)?;
    anyhow::ensure!(ended.success, "cargo install {CRATE} failed:\n{}", ended.output);
    // Half a gigabyte that nothing reads again.
    std::fs::remove_dir_all(root.join("build")).context("could not remove the build folder")?;
    Ok(server)
}

/// Python's, which is another make of the server.
pub(super) fn wheel(workspace: &Workspace) -> Result<PathBuf> {
    let python = python::environment(workspace, WHEEL)?;
    Ok(python.with_file_name("secantusd-py"))
}

/// Outside of the build folder, so that a clean build does not pay for it again.
fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?)
            .join(".cache"),
    };
    Ok(base.join("weft-tools"))
}
