//! Node and the npm packages that tests use.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::shell::{find_program, run};
use crate::workspace::Workspace;

/// The oldest Node with the test runner and the APIs that the tests use.
const NODE_MAJOR_MIN: u32 = 20;

/// One folder's packages come from the network once; later runs find them there.
const NPM_TIME_MAX: Duration = Duration::from_secs(600);

/// Refuses a Node that is too old, with its version.
pub(super) fn check_version(node: &Path) -> Result<()> {
    let output = Command::new(node).arg("--version").output().context("could not start node")?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let major = version.trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < NODE_MAJOR_MIN) {
        bail!("{} is Node {version}; the tests need {NODE_MAJOR_MIN} or later (nodejs.org)", node.display());
    }
    Ok(())
}

/// `npm ci` in each folder with a lock file, unless its packages are already those of the lock file.
pub(super) fn install_packages(workspace: &Workspace) -> Result<()> {
    for path in workspace.files()? {
        let Some(folder) = path.strip_suffix("package-lock.json") else { continue };
        let folder = workspace.root.join(folder);
        let lock = fs::read(workspace.root.join(&path))?;
        // Written after npm has ended well, so that an interrupted installation is done again.
        let stamp = folder.join("node_modules/.weft-lock");
        if fs::read(&stamp).is_ok_and(|installed| installed == lock) {
            continue;
        }
        let npm = find_program(&["npm"]).context("no npm on PATH: install it beside node")?;
        let mut command = Command::new(npm);
        command.args(["ci", "--no-audit", "--no-fund"]).current_dir(&folder);
        // The browser is a service of its own; no package may bring a second one.
        command.env("PUPPETEER_SKIP_DOWNLOAD", "1").env("PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD", "1");
        let log = workspace.tools().join(format!("logs/npm-{}.log", path.replace('/', "-")));
        let ended = run(&mut command, &log, NPM_TIME_MAX)?;
        if !ended.success {
            bail!("npm ci failed in {}:\n{}", folder.display(), ended.output);
        }
        fs::create_dir_all(folder.join("node_modules"))?;
        fs::write(&stamp, &lock)?;
    }
    Ok(())
}
