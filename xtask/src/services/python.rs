//! A Python environment of our own with the packages that tests use.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::services::apt;
use crate::shell::{find_program, run};
use crate::workspace::Workspace;

/// libzmq and its Python binding, in one wheel.
pub(super) const PYZMQ: &str = "pyzmq==27.3.0";

/// A wheel is some megabytes.
const PIP_TIME_MAX: Duration = Duration::from_secs(300);

/// The Python of an environment that has the package, made if it is not there.
pub(super) fn environment(workspace: &Workspace, package: &str) -> Result<PathBuf> {
    let venv = workspace.tools().join("venv");
    let python = venv.join("bin/python");
    let stamp = venv.join(format!("installed-{package}"));
    if stamp.exists() && python.exists() {
        return Ok(python);
    }
    let log = workspace.tools().join("logs/python.log");
    if !python.exists() && make(&venv, &log).is_err() {
        apt::install(workspace, &["python3", "python3-venv"])
            .context("no Python 3 with venv: install it (Debian: apt install python3 python3-venv)")?;
        make(&venv, &log)?;
    }
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", package]);
    let ended = run(&mut pip, &log, PIP_TIME_MAX)?;
    if !ended.success {
        bail!("pip could not install {package}:\n{}", ended.output);
    }
    fs::write(stamp, "")?;
    Ok(python)
}

fn make(venv: &Path, log: &Path) -> Result<()> {
    let python = find_program(&["python3"]).context("no python3 on PATH")?;
    let ended = run(Command::new(python).args(["-m", "venv", "--clear"]).arg(venv), log, PIP_TIME_MAX)?;
    if !ended.success {
        bail!("python3 -m venv failed:\n{}", ended.output);
    }
    Ok(())
}
