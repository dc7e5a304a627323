//! The sidecar: runs a relay beside a service's database, and answers operators.

mod cli;
mod memory;

use clap::Parser as _;
use std::process::ExitCode;

/// One thread for the relay and one for what blocks would do; two keep a slow disk from delaying sends.
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn relay() -> ExitCode {
    let arguments = cli::Arguments::parse();
    match cli::run(arguments).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("outbox-relay: {error}");
            ExitCode::FAILURE
        }
    }
}

fn main() -> ExitCode {
    memory::begin_again_frugal();
    relay()
}
