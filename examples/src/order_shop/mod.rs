//! The order shop: a shop's real orders through the whole toolkit, by one command.
//!
//! ```text
//!  orders (CSV) ─▶ front ─▶ workers: child processes, killed on request       stock ──▶ ledger
//!                            │  one saga per order (definition)    ── HTTP ─▶ payment ▶ ledger, idempotency layer
//!                            ▼                                                shipping▶ ledger + outbox
//!                          store                                                            │ relay
//!                            │                                                              ▼
//!                          engine ─────────▶ reconcile ◀───── ledgers, topic, books ◀── accounting ◀─ Kafka
//!                                               │                                       (inbox)
//!                                             report
//! ```
//!
//! | to see how to … | read |
//! |---|---|
//! | declare a saga, and say what an answer means | [`definition`] |
//! | run a worker | [`worker`] |
//! | protect an HTTP service by the idempotency layer | [`payment`] |
//! | make a service idempotent by itself | [`ledger`], [`stock`] |
//! | write an event with a business change | [`shipping`] |
//! | publish it | [`services`] |
//! | apply it once | [`accounting`] |
//! | prove that all of it held | [`reconcile`] |

pub mod accounting;
pub mod address;
pub mod amount;
pub mod arguments;
pub mod broker;
pub mod crew;
pub mod definition;
pub mod display;
pub mod engine;
pub mod faults;
pub mod front;
pub mod home;
pub mod ledger;
pub mod orders;
pub mod payment;
pub mod reconcile;
pub mod report;
mod run;
pub mod server;
pub mod service;
pub mod services;
pub mod shipping;
pub mod stock;
pub mod worker;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

/// What could not be opened is told by this status, as a wrong command line is.
const CANNOT_OPEN: u8 = 2;

/// The program: the shop, or one of its workers.
pub fn main() -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no threads can be started: {error}");
            return ExitCode::from(CANNOT_OPEN);
        }
    };
    if std::env::args().nth(1).as_deref() == Some(crew::WORKER) {
        tracing_subscriber::fmt()
            .with_env_filter(log_filter())
            .with_ansi(false)
            .with_writer(std::io::stderr)
            .init();
        return runtime.block_on(worker::run());
    }
    let arguments = arguments::Arguments::parse();
    match runtime.block_on(run::run(&arguments)) {
        Ok(code) => code,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::from(CANNOT_OPEN)
        }
    }
}

/// Logs of this process go to a file: the screen is for the orders.
fn log_to(file: &Path) -> Result<(), String> {
    let log = std::fs::File::create(file).map_err(|error| format!("{}: {error}", file.display()))?;
    tracing_subscriber::fmt().with_env_filter(log_filter()).with_ansi(false).with_writer(log).init();
    Ok(())
}

fn log_filter() -> EnvFilter {
    EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"))
}
