//! What cargo and git say about this tree.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The tree that the task works on.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The folder of the root manifest.
    pub root: PathBuf,
    /// Where cargo builds.
    pub target: PathBuf,
    /// The members, in the order of their names.
    pub packages: Vec<Package>,
}

/// A member of the workspace.
#[derive(Debug)]
pub(crate) struct Package {
    /// Its name, as in its manifest.
    pub name: String,
    /// The folder of its manifest.
    pub dir: PathBuf,
    /// What its manifest names, whatever features it stands behind.
    pub dependencies: Vec<Dependency>,
}

/// A line of a manifest.
#[derive(Debug)]
pub(crate) struct Dependency {
    /// The name of the crate that is depended on.
    pub name: String,
    /// True when only tests, benches and examples see it.
    pub dev: bool,
}

impl Workspace {
    /// Asks cargo, which needs no network for it.
    pub(crate) fn load() -> Result<Self> {
        // `cargo run` runs this in whatever folder the user stands in; the manifest says which tree was meant.
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
        let output = plain(&cargo_program())
            .args(["metadata", "--format-version=1", "--no-deps", "--manifest-path"])
            .arg(&manifest)
            .output()
            .context("could not start cargo")?;
        if !output.status.success() {
            bail!("cargo metadata failed:\n{}", String::from_utf8_lossy(&output.stderr));
        }
        let metadata: Value =
            serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")?;
        let mut packages = Vec::new();
        for package in array(&metadata, "packages") {
            let manifest = PathBuf::from(text(package, "manifest_path")?);
            packages.push(Package {
                name: text(package, "name")?,
                dir: manifest.parent().context("a manifest lies in a folder")?.to_owned(),
                dependencies: array(package, "dependencies")
                    .map(|line| {
                        Ok(Dependency {
                            name: text(line, "name")?,
                            dev: line["kind"].as_str() == Some("dev"),
                        })
                    })
                    .collect::<Result<_>>()?,
            });
        }
        packages.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self {
            root: text(&metadata, "workspace_root")?.into(),
            target: text(&metadata, "target_directory")?.into(),
            packages,
        })
    }

    /// Where this task keeps its own things: logs, the Python environment.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("weft-tools")
    }

    /// The libraries, which are the crates that people depend on.
    pub(crate) fn libraries(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| package.dir.starts_with(self.root.join("crates")))
    }

    /// The members of the workspace that are not this task.
    pub(crate) fn products(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| package.name != "xtask")
    }

    /// A cargo command in the root, with an environment that does not depend on how this task was started.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = plain(&cargo_program());
        command.current_dir(&self.root);
        command
    }

    /// The files that git tracks and those that it would track, relative to the root.
    pub(crate) fn files(&self) -> Result<Vec<String>> {
        let output = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(&self.root)
            .output()
            .context("could not start git")?;
        if !output.status.success() {
            bail!("git ls-files failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        let names: BTreeSet<String> = String::from_utf8_lossy(&output.stdout)
            .split('\0')
            .filter(|name| !name.is_empty() && self.root.join(name).is_file())
            .map(str::to_owned)
            .collect();
        Ok(names.into_iter().collect())
    }
}

/// The cargo that runs this task, so that a toolchain override stays in force.
fn cargo_program() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
}

/// A command without what `cargo run` adds to the environment: build scripts would see it and run again.
pub(crate) fn plain(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name.as_ref());
        }
    }
    command
}

/// The members of an array in JSON, none when it is absent.
pub(crate) fn array<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

/// A string in JSON.
pub(crate) fn text(value: &Value, key: &str) -> Result<String> {
    Ok(value[key].as_str().with_context(|| format!("cargo's JSON has no string `{key}`"))?.to_owned())
}
