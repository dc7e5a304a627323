//! The sidecar: runs a relay beside a service's database, and answers operators.

mod cli;
mod memory;

use clap::Parser as _;
use std::process::ExitCode;

/// One thread: an event is made and dropped by the same, which costs less of the processor and of the allocator's memory
/// than two that hand it over. Nothing here waits for a disk; librdkafka has threads of its own.
#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
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
