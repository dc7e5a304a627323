//! How fast the relay is, with the limits of its surroundings taken in the same run.
//!
//! ```text
//! cargo bench -p outbox-relay --bench relay                      # all of it
//! cargo bench -p outbox-relay --bench relay -- drain live        # some of it
//! ```
//!
//! It starts a Postgres and a Kafka of its own, in temporary directories, and the sidecar as a process, as
//! a user has it. Rates that are set by the environment: `BENCH_ROWS` (1,000,000) events of 200 bytes over
//! `BENCH_KEYS` (10,000) keys are drained; `BENCH_STREAM_ROWS` (400,000) are streamed; `BENCH_RATE` (3,000)
//! transactions a second are published live for `BENCH_SECONDS` (10), after two that are not counted.

mod broker;
mod crash;
mod database;
mod drain;
mod insert;
mod live;
mod report;
mod sidecar;
mod stream;

use broker::Broker;
use database::Database;

/// The parts, in the order in which they run.
const PARTS: [&str; 5] = ["drain", "crash", "stream", "live", "insert"];

fn main() {
    // Cargo adds `--bench`; other arguments choose parts.
    let chosen: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    if let Some(unknown) = chosen.iter().find(|word| !PARTS.contains(&word.as_str())) {
        eprintln!("there is no part {unknown:?}; there are {PARTS:?}");
        std::process::exit(2);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let (database, broker) = tokio::join!(Database::start(), Broker::start());
        for part in PARTS {
            if !chosen.is_empty() && !chosen.iter().any(|word| word == part) {
                continue;
            }
            match part {
                "drain" => drain::measure(&database, &broker).await,
                "crash" => crash::measure(&database, &broker).await,
                "stream" => stream::measure(&database, &broker).await,
                "live" => live::measure(&database, &broker).await,
                _ => insert::measure(&database).await,
            }
        }
    });
}

/// A number that the environment may set.
fn setting(name: &str, default: i64) -> i64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text:?}")),
        Err(_) => default,
    }
}
