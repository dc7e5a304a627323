//! The sidecar: runs a relay beside a service's database, and answers operators.

mod cli;

use clap::Parser as _;
use std::process::ExitCode;

/// A record is made of a dozen small pieces, which one thread allocates and another one frees, here and in
/// librdkafka: with glibc's allocator that was half of all the work. This one replaces `malloc` for both.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One thread for the relay and one for what blocks would do; two keep a slow disk from delaying sends.
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    match cli::run(arguments).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("outbox-relay: {error}");
            ExitCode::FAILURE
        }
    }
}
