//! One text edited by many at once, in terminals and browsers: the CRDT application.
//!
//! `cargo run --release -p notes`, then type `help`, and open the address that it prints in two windows. With
//! `--pubsub redis://…` or `spot://…` several such programs hold one text; each keeps all of it in a folder of its own,
//! goes on alone when the others are away, and loses nothing when it is killed.

mod door;
mod keys;
mod note;
mod options;
mod page;
mod place;
mod repl;
mod replica;
mod server;
mod shown;
mod socket;
mod token;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let options = options::Options::parse();
    let filter = match EnvFilter::try_new(&options.log) {
        Ok(filter) => filter,
        Err(error) => return fail(&format!("--log {:?}: {error}", options.log)),
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("no threads to run on: {error}")),
    };
    let ended = runtime.block_on(server::run(&options));
    // A thread that waits for a line of the terminal can't be told to stop.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => fail(&reason),
    }
}

/// One clear line.
fn fail(reason: &str) -> ExitCode {
    eprintln!("notes: {}", reason.replace('\n', " "));
    ExitCode::FAILURE
}
