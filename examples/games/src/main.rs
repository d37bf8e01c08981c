//! Games edited in several browsers at once: the EventSync application.
//!
//! `cargo run --release -p games`, then open the address that it prints. It needs nothing installed, keeps everything
//! in one folder, and is where it was after `kill -9`.

mod access;
mod game;
mod options;
mod page;
mod server;

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
    if let Some(name) = &options.make_token {
        return match access::make_token(&options, name) {
            Ok(token) => {
                println!("{token}");
                ExitCode::SUCCESS
            }
            Err(reason) => fail(&reason),
        };
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("no threads to run on: {error}")),
    };
    match runtime.block_on(server::run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => fail(&reason),
    }
}

/// One clear line.
fn fail(reason: &str) -> ExitCode {
    eprintln!("games: {}", reason.replace('\n', " "));
    ExitCode::FAILURE
}
