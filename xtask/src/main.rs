//! Builds, checks and tests the workspace: `cargo xtask test-all`.
//!
//! A *step* is one line of progress: a cargo command, a package's tests, a folder of browser tests. Steps write
//! what they print into a log under `target/weft-tools/logs`; only what failed is shown. A *need* is what an ignored
//! test asks for (`#[ignore = "needs redis-server"]`); a *service* is the program that meets it.

mod cli;
mod test_all;

mod report;
mod shell;
mod workspace;

mod layers;
mod libtest;
mod node_test;
mod services;

mod fuzz;
mod lengths;
mod pages;
mod sim;

#[cfg(test)]
mod tree;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
