//! A payment service, and a client that asks it through a network that loses answers: one charge each.
//!
//! ```text
//!  shop ── the same key again and again ─▶ proxy ─▶ service ─▶ idempotency layer ─▶ handler
//!                                            │                      │                  │
//!                                     loses requests                └── one commit ────┘
//!                                      and answers                     keys, ledger
//! ```
//!
//! | to see how to … | read |
//! |---|---|
//! | put the layer before an axum route, and write in its transaction | [`service`] |
//! | ask until it is known how it ended, under one key | [`shop`] |
//! | lose what a network loses | [`proxy`] |
//! | compare | [`report`] |

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use idempotency::SqliteStore;
use tokio::net::TcpListener;

pub mod proxy;
pub mod report;
pub mod service;
pub mod shop;

use proxy::Proxy;
use report::Report;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Sends payments to a service through a network that loses requests and answers, repeats each until its outcome
/// is known, and compares the service's ledger with what was asked: one charge each.
///
/// Exit status: 0 if they agree, 1 if they do not, 2 if nothing could be started.
#[derive(Clone, Debug, Parser)]
#[command(name = "payments", version)]
pub struct Arguments {
    /// How many payments are made.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub payments: u32,
    /// How many of a hundred requests are lost on their way, and how many of a hundred answers on theirs.
    #[arg(long, value_name = "PERCENT", default_value_t = 25, value_parser = clap::value_parser!(u8).range(0..=80))]
    pub lose: u8,
    /// What decides the losses. Default: chance.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Take the idempotency layer away, to see what it is for.
    #[arg(long)]
    pub unprotected: bool,
    /// The SQLite file for ledger and keys, which must not exist yet. Default: one that is removed again.
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<PathBuf>,
}

/// The program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = tokio::runtime::Runtime::new().map_err(Failure::from);
    match outcome.and_then(|runtime| runtime.block_on(run(&arguments))) {
        Ok(report) => {
            println!("{report}");
            ExitCode::from(u8::from(!report.agrees()))
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Makes the payments, and reports what the ledger says.
pub async fn run(arguments: &Arguments) -> Result<Report, Failure> {
    let kept = arguments.ledger.is_some();
    let temporary = || std::env::temp_dir().join(format!("payments-{}.db", uuid::Uuid::now_v7()));
    let file = arguments.ledger.clone().unwrap_or_else(temporary);
    if file.exists() {
        return Err(
            format!("--ledger {}: the file exists, and belongs to another run", file.display()).into()
        );
    }
    let report = pay(arguments, &file).await;
    if !kept {
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{end}", file.display()));
        }
    }
    report
}

async fn pay(arguments: &Arguments, file: &std::path::Path) -> Result<Report, Failure> {
    let store = SqliteStore::connect(&format!("sqlite:{}", file.display())).await?;
    service::create_ledger(&store).await?;
    let seen = service::Seen::default();
    let service = match arguments.unprotected {
        true => service::unprotected(&store, &seen),
        false => service::protected(&store, &seen),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = tokio::spawn(async move { axum::serve(listener, service).await });
    let seed = arguments.seed.unwrap_or_else(rand::random);
    let proxy = Proxy::start(address, arguments.lose, seed).await?;

    let outcomes = shop::pay(&proxy.url(), arguments.payments).await?;

    server.abort();
    Ok(Report {
        seed,
        asked: outcomes,
        charged: service::charges(&store).await?,
        requests: seen.total(),
        lost_requests: proxy.lost_requests(),
        lost_answers: proxy.lost_answers(),
    })
}
