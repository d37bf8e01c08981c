//! What tests need besides this tree, and how this machine gets it.
//!
//! A service is looked for (an environment variable set by the user, then `PATH`), else installed: by apt when
//! root on Debian, into `target/weft-tools` or a cache of the user's otherwise. What can't be had is a failure that
//! says how to get it, and so is every test that asked for it.

mod apt;
mod mongodb;
mod node;
mod python;

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::libtest::NEEDS;
use crate::report::{Found, Report};
use crate::shell::find_program;
use crate::workspace::Workspace;

/// What a test may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// The real Redis.
    Redis,
    /// Node and the npm packages of the tests, json-joy among them.
    Node,
    /// Python with libzmq's binding.
    Pyzmq,
    /// A real browser.
    Chromium,
    /// The server that stands in for MongoDB.
    Secantusd,
    /// Another make of that server.
    Wheel,
    /// Networks that can be cut: Linux, root and the `ip` tool.
    NetworkNamespaces,
}

/// The words by which a reason names a need.
const WORDS: &[(Need, &[&str])] = &[
    (Need::Redis, &["redis"]),
    (Need::Node, &["node", "npm", "json-joy"]),
    (Need::Pyzmq, &["pyzmq", "python"]),
    (Need::Chromium, &["chromium", "browser"]),
    (Need::Secantusd, &["secantusd", "mongodb"]),
    (Need::Wheel, &["wheel"]),
    (Need::NetworkNamespaces, &["network namespace", "netns"]),
];

impl Need {
    /// What a reason such as `needs redis-server and node` asks for; nothing if it names nothing known.
    pub(crate) fn parse(reason: &str) -> BTreeSet<Self> {
        let reason = reason.to_lowercase();
        let named = WORDS.iter().filter(|(_, words)| words.iter().any(|word| reason.contains(word)));
        named.map(|(need, _)| *need).collect()
    }

    fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis-server",
            Self::Node => "node",
            Self::Pyzmq => "pyzmq",
            Self::Chromium => "chromium",
            Self::Secantusd => "secantusd",
            Self::Wheel => "secantusd-py",
            Self::NetworkNamespaces => "network namespaces",
        }
    }
}

/// What became of a need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Met {
    /// Tests that need it can run.
    Yes,
    /// They can't, by the user's choice or by what this machine is: counted as skipped, and said.
    Skip(String),
    /// It should be here and is not: counted as failed.
    Missing(String),
}

/// The services of one run.
#[derive(Debug)]
pub(crate) struct Services<'a> {
    workspace: &'a Workspace,
    wanted: bool,
    met: BTreeMap<Need, Met>,
    env: BTreeMap<&'static str, OsString>,
}

impl<'a> Services<'a> {
    /// Without `wanted` nothing is looked for, and each need is answered with a skip.
    pub(crate) fn new(workspace: &'a Workspace, wanted: bool) -> Self {
        Self { workspace, wanted, met: BTreeMap::new(), env: BTreeMap::new() }
    }

    /// Finds or installs each, one step of the report each.
    pub(crate) fn provide(&mut self, needs: &BTreeSet<Need>, report: &mut Report) {
        if !self.wanted {
            return;
        }
        for &need in needs {
            if self.met.contains_key(&need) {
                continue;
            }
            let mut met = Met::Yes;
            report.step(&format!("service: {}", need.name()), || {
                let found = self.find_or_install(need);
                met = match &found {
                    Ok(found) => found.clone(),
                    Err(error) => Met::Missing(format!("{error:#}")),
                };
                let mut step = Found::default();
                match found {
                    Ok(Met::Yes) => step.counts.passed = 1,
                    Ok(Met::Skip(why) | Met::Missing(why)) => {
                        step.counts.skipped = 1;
                        step.notes.push(format!("no {}: {why}", need.name()));
                    }
                    Err(error) => return Err(error),
                }
                Ok(step)
            });
            self.met.insert(need, met);
        }
    }

    /// Whether a test with this reason can run. Its needs must have been provided before.
    pub(crate) fn met(&self, reason: &str) -> Met {
        if !self.wanted {
            return Met::Skip("--no-services".to_owned());
        }
        let needs = Need::parse(reason);
        if needs.is_empty() {
            return Met::Missing(format!("nothing in xtask/src/services knows what `{reason}` asks for"));
        }
        let mut skip = None;
        for need in needs {
            match self.met.get(&need) {
                Some(Met::Yes) => {}
                Some(Met::Skip(why)) => skip = Some(Met::Skip(why.clone())),
                Some(Met::Missing(why)) => return Met::Missing(why.clone()),
                None => return Met::Missing(format!("{} was not provided", need.name())),
            }
        }
        skip.unwrap_or(Met::Yes)
    }

    /// Where everything is, for the tests.
    pub(crate) fn env(&self) -> Vec<(String, OsString)> {
        self.env.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    /// The release binaries are products of the run and not looked for, unless the user names others.
    pub(crate) fn provide_applications(&mut self, folder: &Path) {
        for (variable, name) in [("WEFT_GAMES_BIN", "games"), ("WEFT_NOTES_BIN", "notes")] {
            self.set(variable, env::var_os(variable).unwrap_or_else(|| folder.join(name).into()));
        }
    }

    fn set(&mut self, name: &'static str, value: impl Into<OsString>) {
        self.env.insert(name, value.into());
    }

    /// A program that was found.
    pub(crate) fn program(&self, variable: &str) -> Option<PathBuf> {
        self.env.get(variable).map(PathBuf::from)
    }

    fn find_or_install(&mut self, need: Need) -> Result<Met> {
        match need {
            Need::Redis => {
                let hint = "install Redis (Debian: apt install redis-server; macOS: brew install redis)";
                self.program_or_apt("WEFT_REDIS_SERVER", &["redis-server"], &["redis-server"], hint)?;
            }
            Need::Chromium => {
                let hint =
                    "install Chromium (Debian: apt install chromium) or point WEFT_CHROMIUM at a Chrome";
                let names = ["chromium", "chromium-browser", "google-chrome"];
                self.program_or_apt("WEFT_CHROMIUM", &names, &["chromium"], hint)?;
            }
            Need::Node => {
                let hint = "install Node 20 or later (nodejs.org) with npm";
                let node = self.program_or_apt("WEFT_NODE", &["node", "nodejs"], &["nodejs", "npm"], hint)?;
                node::check_version(&node)?;
                node::install_packages(self.workspace)?;
            }
            Need::Pyzmq => {
                let python = match std::env::var_os("WEFT_PYTHON") {
                    Some(python) => PathBuf::from(python),
                    None => python::environment(self.workspace, python::PYZMQ)?,
                };
                self.set("WEFT_PYTHON", python);
            }
            Need::Secantusd => {
                for (name, value) in mongodb::find_or_install(self.workspace)? {
                    self.set(name, value);
                }
            }
            Need::Wheel => {
                let server = match env::var_os("WEFT_SECANTUSD_PY") {
                    Some(server) => PathBuf::from(server),
                    None => mongodb::wheel(self.workspace)?,
                };
                self.set("WEFT_SECANTUSD_PY", server);
            }
            Need::NetworkNamespaces => return Ok(network_namespaces()),
        }
        Ok(Met::Yes)
    }

    /// The user's choice, else the program on `PATH`, else the one that apt installs.
    fn program_or_apt(
        &mut self,
        variable: &'static str,
        names: &[&str],
        packages: &[&str],
        hint: &str,
    ) -> Result<PathBuf> {
        let found = match std::env::var_os(variable) {
            Some(path) if Path::new(&path).is_file() => PathBuf::from(path),
            Some(path) => bail!("{variable} is {}, which is no file", path.to_string_lossy()),
            None => match find_program(names) {
                Some(path) => path,
                None => {
                    apt::install(self.workspace, packages)
                        .with_context(|| format!("no {} on PATH: {hint}", names[0]))?;
                    find_program(names).with_context(|| format!("apt installed no {}: {hint}", names[0]))?
                }
            },
        };
        self.set(variable, found.clone());
        Ok(found)
    }
}

/// Needs that the sources of tests mention, known before anything is built.
pub(crate) fn needs_in_sources(workspace: &Workspace) -> Result<BTreeSet<Need>> {
    let mut needs = BTreeSet::new();
    let opening = format!("\"{NEEDS}");
    for path in workspace.files()? {
        if path.starts_with("xtask/") || !path.ends_with(".rs") {
            continue;
        }
        let source = fs::read_to_string(workspace.root.join(&path))?;
        for reason in source.split(&opening).skip(1).filter_map(|rest| rest.split('"').next()) {
            needs.extend(Need::parse(reason));
        }
    }
    Ok(needs)
}

/// Whether networks can be made and cut here. Only root of the machine may.
fn network_namespaces() -> Met {
    if !is_root() {
        return Met::Skip("only root may make network namespaces".to_owned());
    }
    let probe = format!("weft-probe-{}", std::process::id());
    let ip = |verb: &str| Command::new("ip").args(["netns", verb, &probe]).output();
    match ip("add") {
        Ok(output) if output.status.success() => {
            // A namespace left behind does no harm; the tests use names of their own.
            let _ = ip("delete");
            Met::Yes
        }
        Ok(output) => Met::Skip(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(_) => Met::Skip("no `ip` tool (Debian: apt install iproute2)".to_owned()),
    }
}

/// True when this process may install packages.
fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_may_name_several_needs() {
        let needs = Need::parse("needs redis-server and Node (json-joy)");
        assert_eq!(needs.into_iter().collect::<Vec<_>>(), [Need::Redis, Need::Node]);
    }

    #[test]
    fn an_unknown_need_is_missing_and_not_skipped() {
        let workspace = Workspace { root: "".into(), target: "".into(), packages: Vec::new() };
        let services = Services::new(&workspace, true);
        assert!(matches!(services.met("needs a quantum computer"), Met::Missing(_)));
        assert!(matches!(services.met("needs redis-server"), Met::Missing(_)));
        assert!(matches!(Services::new(&workspace, false).met("needs redis-server"), Met::Skip(_)));
    }
}
