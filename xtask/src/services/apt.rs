//! Debian packages, when this is root on Debian.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::shell::{find_program, run};
use crate::workspace::Workspace;

/// Installing waits for a mirror; after this the machine has no network that serves.
const APT_TIME_MAX: Duration = Duration::from_secs(600);

/// Installs packages, or says why not.
pub(super) fn install(workspace: &Workspace, packages: &[&str]) -> Result<()> {
    if find_program(&["apt-get"]).is_none() {
        bail!("this is no Debian, so nothing was installed");
    }
    if !super::is_root() {
        bail!("not root, so nothing was installed");
    }
    // The lists of a fresh container are empty, and old ones name versions that the mirror has dropped.
    apt(workspace, "update", &["update", "-q"])?;
    let mut arguments = vec!["install", "-q", "-y", "--no-install-recommends"];
    arguments.extend(packages);
    apt(workspace, packages[0], &arguments)
}

fn apt(workspace: &Workspace, name: &str, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    let log = workspace.tools().join(format!("logs/apt-{name}.log"));
    let ended = run(&mut command, &log, APT_TIME_MAX)?;
    if !ended.success {
        bail!("apt-get {} failed:\n{}", arguments.join(" "), ended.output);
    }
    Ok(())
}
