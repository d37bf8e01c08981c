//! The command line.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::report::Report;
use crate::services::{self, Services};
use crate::sim::{self, Seeds};
use crate::test_all::{self, Options};
use crate::workspace::Workspace;
use crate::{fuzz, lengths, pages};

/// Builds, checks and tests the workspace.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Every check and every test; what lands on main has passed it
    TestAll {
        /// The inner loop: formatting, clippy and unit tests of what changed, no services
        #[arg(long, conflicts_with = "no_services")]
        quick: bool,
        /// Count the tests that need a service as skipped instead of providing what they need
        #[arg(long)]
        no_services: bool,
    },
    /// The named steps of test-all alone, as jobs of a CI would run them; without a name, lists them
    Ci {
        /// Names as the list prints them
        steps: Vec<String>,
    },
    /// Finds or installs what the tests of this tree need, and says where each is
    Services,
    /// Runs the simulators for many seeds, or one seed again with each event printed
    Sim {
        /// Only this crate's
        #[arg(short, long)]
        package: Option<String>,
        /// How many seeds
        #[arg(long, default_value_t = 10_000)]
        seeds: u64,
        /// Only this seed
        #[arg(long, conflicts_with = "seeds")]
        seed: Option<u64>,
    },
    /// Runs the benches, of all crates or of some
    Bench {
        /// Only this crate
        #[arg(short, long)]
        package: Option<String>,
        /// Only benches whose name contains this
        filter: Option<String>,
    },
    /// Runs one fuzz target (cargo-fuzz and a nightly toolchain needed); without a name, lists them
    Fuzz {
        /// The name of the target
        target: Option<String>,
        /// How long to run it
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Brings what README.md and the list of decisions copy from elsewhere up to date
    Pages,
    /// Lists the source files by length, longest first
    Lengths,
}

/// Runs what the command line asks for.
pub(crate) fn run() -> Result<ExitCode> {
    let task = Cli::parse().task;
    let workspace = Workspace::load()?;
    match task {
        Task::TestAll { quick: true, .. } => test_all::quick(&workspace),
        Task::TestAll { no_services, .. } => {
            test_all::run(&workspace, &Options { with_services: !no_services, only: Vec::new() })
        }
        Task::Ci { steps } if steps.is_empty() => {
            println!("{}", test_all::STEPS.join("\n"));
            Ok(ExitCode::SUCCESS)
        }
        Task::Ci { steps } => test_all::run(&workspace, &Options { with_services: true, only: steps }),
        Task::Services => {
            let mut report = Report::new();
            let mut services = Services::new(&workspace, true);
            services.provide(&services::needs_in_sources(&workspace)?, &mut report);
            println!();
            for (name, value) in services.env() {
                println!("{name}={}", value.to_string_lossy());
            }
            Ok(report.exit_code())
        }
        Task::Sim { package, seeds, seed } => {
            let seeds = seed.map_or(Seeds::First(seeds), Seeds::Replay);
            sim::run(&workspace, package.as_deref(), &seeds)
        }
        Task::Bench { package, filter } => {
            let mut command = workspace.cargo();
            command.args(["bench", "--all-features"]);
            match &package {
                Some(package) => command.args(["--package", package]),
                None => command.arg("--workspace"),
            };
            // Only benches: the test harness of the libraries does not know criterion's arguments.
            command.args(["--bench", "*"]).args(filter.iter().flat_map(|name| ["--", name]));
            pass_through(&mut command)
        }
        Task::Fuzz { target, seconds } => fuzz::run(&workspace, target.as_deref(), seconds),
        Task::Pages => pages::write(&workspace).map(|()| ExitCode::SUCCESS),
        Task::Lengths => {
            for (lines, path) in lengths::longest_first(&workspace)? {
                println!("{lines:6}  {path}");
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Runs a command that talks to the user itself, and exits as it did.
pub(crate) fn pass_through(command: &mut Command) -> Result<ExitCode> {
    let status = command.status().with_context(|| format!("could not start {command:?}"))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
