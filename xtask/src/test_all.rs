//! The steps of `cargo xtask test-all`, in the order that finds most soonest, and the inner loop.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::libtest::{self, Built, Ignored, NEEDS, Program, Runner};
use crate::report::{Counts, Found, Report};
use crate::services::{Met, Need, Services, needs_in_sources};
use crate::shell::{CARGO_TIME_MAX, run as run_program};
use crate::workspace::Workspace;
use crate::{layers, lengths, node_test};

/// The names that `cargo xtask ci` knows.
pub(crate) const STEPS: &[&str] =
    &["fmt", "layers", "clippy", "alone", "fuzz", "docs", "tests", "doctests", "javascript"];

/// Folders with JavaScript tests, and whether a browser runs in them.
const JAVASCRIPT: &[(&str, bool)] =
    &[("clients/js", false), ("examples/games/tests/browser", true), ("examples/notes/tests/browser", true)];

/// What to run.
#[derive(Debug)]
pub(crate) struct Options {
    /// Whether to provide services.
    pub with_services: bool,
    /// Only these steps; all if empty.
    pub only: Vec<String>,
}

/// Everything, or the named steps.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    if let Some(unknown) = options.only.iter().find(|name| !STEPS.contains(&name.as_str())) {
        bail!("no step `{unknown}`; there are: {}", STEPS.join(", "));
    }
    let wanted = |step: &str| options.only.is_empty() || options.only.iter().any(|name| name == step);
    let all = Steps { workspace, logs: workspace.tools().join("logs") };
    let mut report = Report::new();
    let mut services = Services::new(workspace, options.with_services);

    if wanted("fmt") {
        all.cargo(&mut report, "formatting", &["fmt", "--all", "--check"]);
    }
    if wanted("layers") {
        report.step("dependency layers", || {
            let violations = layers::violations(workspace);
            Ok(Found::check(violations.is_empty(), violations.join("\n")))
        });
    }
    let has_javascript = |folder: &str| workspace.root.join(folder).is_dir();
    if wanted("tests") || wanted("javascript") {
        // First, because the network may fail and that should not be known only after the compile work.
        let mut needs = needs_in_sources(workspace)?;
        for (_, browser) in JAVASCRIPT.iter().filter(|(folder, _)| has_javascript(folder)) {
            needs.insert(Need::Node);
            needs.extend(browser.then_some(Need::Chromium));
        }
        services.provide(&needs, &mut report);
    }
    if wanted("clippy") {
        all.clippy(&mut report, "all features", &["--all-features"]);
        all.clippy(&mut report, "default features", &[]);
        all.clippy(&mut report, "no features", &["--no-default-features"]);
    }
    if wanted("alone") {
        report.step("each crate alone", || all.each_alone());
    }
    if wanted("fuzz") && workspace.root.join("fuzz/Cargo.toml").exists() {
        report.step("fuzz targets", || all.fuzz_targets());
    }
    if wanted("docs") {
        report.step("documentation", || all.documentation());
    }
    let applications = ["games", "notes"];
    let there = |name: &&str| workspace.packages.iter().any(|package| package.name == *name);
    if options.with_services && applications.iter().all(there) && (wanted("tests") || wanted("javascript")) {
        // What users run, and so what the crash tests and the browser tests run.
        let build = ["build", "--release", "--package", "games", "--package", "notes"];
        if all.cargo(&mut report, "release build of the applications", &build) {
            services.provide_applications(&workspace.target.join("release"));
        }
    }
    if wanted("tests") {
        let built = all.build_tests(&mut report, &["--workspace", "--all-features"]);
        all.tests(&mut report, &mut services, built);
    }
    if wanted("doctests") {
        report.step("programs in the documentation", || all.doctests());
    }
    if wanted("javascript") {
        for (folder, _) in JAVASCRIPT.iter().filter(|(folder, _)| has_javascript(folder)) {
            all.javascript(&mut report, &mut services, folder);
        }
    }
    let long: Vec<String> = lengths::longest_first(workspace)?
        .into_iter()
        .take_while(|(lines, _)| *lines > lengths::LONG_LINES)
        .map(|(lines, path)| format!("{path} ({lines})"))
        .collect();
    if !long.is_empty() {
        report.note(format!("longer than one sitting: {}", long.join(", ")));
    }
    report.print_summary();
    Ok(report.exit_code())
}

/// Formatting, clippy and unit tests of what changed and of what uses it.
pub(crate) fn quick(workspace: &Workspace) -> Result<ExitCode> {
    let all = Steps { workspace, logs: workspace.tools().join("logs") };
    let packages = changed(workspace)?;
    let selection: Vec<&str> = packages.iter().flat_map(|name| ["--package", name.as_str()]).collect();
    let mut report = Report::new();
    all.cargo(&mut report, "formatting", &["fmt", "--all", "--check"]);
    let clippy = [&["clippy", "--all-targets"], selection.as_slice(), &["--", "-D", "warnings"]].concat();
    all.cargo(&mut report, &format!("clippy of {}", packages.join(", ")), &clippy);
    let mut arguments = vec!["--bins"];
    if workspace.libraries().any(|library| packages.contains(&library.name)) {
        arguments.push("--lib");
    }
    arguments.extend(selection);
    let built = all.build_tests(&mut report, &arguments);
    all.tests(&mut report, &mut Services::new(workspace, false), built);
    report.print_summary();
    Ok(report.exit_code())
}

struct Steps<'a> {
    workspace: &'a Workspace,
    logs: PathBuf,
}

impl Steps<'_> {
    /// A step that is one cargo command.
    fn cargo(&self, report: &mut Report, name: &str, arguments: &[&str]) -> bool {
        report.step(name, || self.cargo_check(name, self.workspace.cargo().args(arguments)))
    }

    fn cargo_check(&self, name: &str, command: &mut Command) -> Result<Found> {
        // Some names list crates: a file name has its limits.
        let short: String = name.chars().take(60).collect();
        let log = self.logs.join(short.replace([' ', ',', ':'], "-") + ".log");
        let ended = run_program(command, &log, CARGO_TIME_MAX)?;
        Ok(Found::check(ended.success, ended.output))
    }

    fn clippy(&self, report: &mut Report, name: &str, features: &[&str]) {
        let arguments = [
            &["clippy", "--workspace", "--all-targets", "--keep-going"],
            features,
            &["--", "-D", "warnings"],
        ]
        .concat();
        self.cargo(report, &format!("clippy, {name}"), &arguments);
    }

    /// Builds each crate as one who depends on it alone would: in the workspace, features of others help out.
    fn each_alone(&self) -> Result<Found> {
        let mut found = Found::default();
        for package in self.workspace.products() {
            let mut command = self.workspace.cargo();
            command.args(["check", "--package", &package.name]);
            found.add(self.cargo_check(&format!("alone {}", package.name), &mut command)?);
        }
        Ok(found)
    }

    /// Only that they are in order: they are a workspace of their own, and so nothing else would notice.
    fn fuzz_targets(&self) -> Result<Found> {
        let mut format = self.workspace.cargo();
        format.args(["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]);
        let mut found = self.cargo_check("fuzz formatting", &mut format)?;
        let mut clippy = self.workspace.cargo();
        clippy.args(["clippy", "--manifest-path", "fuzz/Cargo.toml", "--target-dir"]);
        clippy.arg(self.workspace.target.join("fuzz")).args(["--", "-D", "warnings"]);
        found.add(self.cargo_check("fuzz targets", &mut clippy)?);
        Ok(found)
    }

    fn documentation(&self) -> Result<Found> {
        let mut command = self.workspace.cargo();
        command
            .args(["doc", "--workspace", "--all-features", "--no-deps", "--keep-going"])
            .env("RUSTDOCFLAGS", "-D warnings");
        self.cargo_check("documentation", &mut command)
    }

    fn doctests(&self) -> Result<Found> {
        let mut command = self.workspace.cargo();
        command.args(["test", "--workspace", "--all-features", "--doc", "--no-fail-fast"]);
        let ended = run_program(&mut command, &self.logs.join("doctests.log"), CARGO_TIME_MAX)?;
        let counts = libtest::count(&ended.output, ended.success);
        Ok(Found { counts, output: ended.output, notes: Vec::new() })
    }

    fn build_tests(&self, report: &mut Report, arguments: &[&str]) -> Built {
        let mut built = Built::default();
        report.step("build the tests", || {
            let (found, programs) =
                libtest::build(self.workspace, arguments, &self.logs.join("build-tests.log"))?;
            built = programs;
            Ok(found)
        });
        built
    }

    /// The test programs, package by package.
    fn tests(&self, report: &mut Report, services: &mut Services<'_>, mut built: Built) {
        let programs = std::mem::take(&mut built.programs);
        let names: BTreeSet<&str> = programs.iter().map(|program| program.package.as_str()).collect();
        for name in names {
            let runner = Runner {
                workspace: self.workspace,
                built: &built,
                logs: self.logs.clone(),
                env: services.env(),
            };
            let mut left_out: Vec<(&Program, Vec<Ignored>)> = Vec::new();
            report.step(&format!("tests of {name}"), || {
                let mut found = Found::default();
                for program in programs.iter().filter(|program| program.package == name) {
                    let (ran, ignored) = runner.run(program)?;
                    found.add(ran);
                    left_out.push((program, ignored));
                }
                Ok(found)
            });
            left_out.retain(|(_, ignored)| !ignored.is_empty());
            if !left_out.is_empty() {
                self.tests_with_needs(report, services, name, &built, &left_out);
            }
        }
    }

    /// The second pass over what the first left out.
    fn tests_with_needs(
        &self,
        report: &mut Report,
        services: &mut Services<'_>,
        name: &str,
        built: &Built,
        left_out: &[(&Program, Vec<Ignored>)],
    ) {
        let reasons = left_out.iter().flat_map(|(_, ignored)| ignored).map(|test| &test.reason);
        let needs = reasons.filter(|reason| reason.starts_with(NEEDS)).flat_map(|reason| Need::parse(reason));
        services.provide(&needs.collect(), report);
        let services = &*services;
        let env = services.env();
        report.step(&format!("tests of {name} with services"), || {
            let runner = Runner { workspace: self.workspace, built, logs: self.logs.clone(), env };
            let mut found = Found::default();
            for (program, ignored) in left_out {
                let mut run = Vec::new();
                for test in ignored {
                    let met = if test.reason.starts_with(NEEDS) {
                        services.met(&test.reason)
                    } else {
                        Met::Skip(test.reason.clone())
                    };
                    match met {
                        Met::Yes => run.push(test.name.as_str()),
                        Met::Skip(why) => {
                            found.counts.skipped += 1;
                            if why != "--no-services" {
                                found.notes.push(format!("skipped {}: {why}", test.name));
                            }
                        }
                        Met::Missing(why) => {
                            found.counts.failed += 1;
                            found.output.push_str(&format!("{} could not run: {why}\n", test.name));
                        }
                    }
                }
                if !run.is_empty() {
                    found.add(runner.run_ignored(program, &run)?);
                }
            }
            Ok(found)
        });
    }

    fn javascript(&self, report: &mut Report, services: &mut Services<'_>, folder: &str) {
        let log = self.logs.join(format!("javascript-{}.log", folder.replace('/', "-")));
        let node = services.program("WEFT_NODE");
        let env = services.env();
        report.step(&format!("javascript in {folder}"), || match node {
            Some(node) => node_test::run_folder(self.workspace, &node, folder, &env, &log),
            None => match services.met("needs node") {
                Met::Skip(why) => {
                    let counts = Counts { skipped: 1, ..Counts::default() };
                    Ok(Found {
                        counts,
                        output: String::new(),
                        notes: vec![format!("skipped {folder}: {why}")],
                    })
                }
                Met::Yes | Met::Missing(_) => bail!("node could not be provided"),
            },
        });
    }
}

/// The crates with changes since the last commit, and those that depend on them; all when there is no change.
fn changed(workspace: &Workspace) -> Result<Vec<String>> {
    let output = Command::new("git")
        .args(["status", "--porcelain", "--no-renames", "--untracked-files=all"])
        .current_dir(&workspace.root)
        .output()
        .context("could not start git")?;
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let paths: Vec<PathBuf> =
        output.lines().filter_map(|line| Some(workspace.root.join(line.get(3..)?))).collect();
    let mut names: BTreeSet<&str> = workspace
        .packages
        .iter()
        .filter(|package| paths.iter().any(|path| path.starts_with(&package.dir)))
        .map(|package| package.name.as_str())
        .collect();
    loop {
        let before = names.len();
        let users = workspace.packages.iter().filter(|package| {
            package.dependencies.iter().any(|dependency| names.contains(dependency.name.as_str()))
        });
        names.extend(users.map(|package| package.name.as_str()).collect::<Vec<_>>());
        if names.len() == before {
            break;
        }
    }
    if names.is_empty() {
        names.extend(workspace.packages.iter().map(|package| package.name.as_str()));
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}
