//! How many sagas per second, against what the database itself can do in the same run.
//!
//! ```text
//! cargo run --release -p saga-core --example bench -- --store postgres://localhost/bench
//! cargo run --release -p saga-core --example bench -- --store sqlite:/tmp/bench.db
//! ```
//!
//! Three-step sagas with actions that do nothing and payloads of 100 bytes, at 1, 16, 128 and 1024 in
//! flight; every saga is started, driven and awaited through the public interface. Before them, on the
//! same database: bare one-row commits from 1 and from 32 connections, and batches of 100 rows.
//!
//! `--finished 10000000 --waiting 1000000` first stores that many sagas, to see that they cost the others
//! nothing (Postgres; about 2.5 GB of disk for a million that are finished).

mod counted;
mod limit;
mod load;
mod plot;
mod process;
mod stored;

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use saga_core::store;

/// Measures the engine against its database.
#[derive(Parser)]
struct Args {
    /// Where the journal lives: `postgres://…`, `sqlite:PATH` or `memory:`. Its database should be empty.
    #[arg(long)]
    store: String,
    /// How many sagas are in flight, one run for each.
    #[arg(long, value_delimiter = ',', default_value = "1,16,128,1024")]
    in_flight: Vec<usize>,
    /// How long each run lasts, in seconds.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Where to draw throughput and latency over sagas in flight.
    #[arg(long)]
    plot: Option<PathBuf>,
    /// Print one JSON document instead of tables.
    #[arg(long)]
    json: bool,
    /// Store so many sagas that have ended before anything is measured (Postgres).
    #[arg(long, default_value_t = 0)]
    finished: u64,
    /// Store so many sagas that wait until tomorrow before anything is measured (Postgres).
    #[arg(long, default_value_t = 0)]
    waiting: u64,
    /// How many batches are sent side by side, instead of what the store asks for.
    #[arg(long)]
    lanes: Option<usize>,
    /// Tokio worker threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(args.threads).enable_all().build()?;
    runtime.block_on(measure(args))
}

async fn measure(args: Args) -> Result<(), Box<dyn Error>> {
    let seconds = Duration::from_secs_f64(args.seconds);
    if args.store.starts_with("postgres") {
        store::PostgresStore::migrate(&args.store).await?;
    }
    let stored = stored::Stored { finished: args.finished, waiting: args.waiting };
    stored::fill(&args.store, stored, load::definition()?.plan().fingerprint()).await?;
    let limits = limit::measure(&args.store, seconds.min(Duration::from_secs(5))).await?;
    if !args.json {
        print_limits(&limits);
        println!("{}", load::Run::HEADER);
    }
    let backend = store::connect(&args.store).await?;
    let mut runs = Vec::new();
    for in_flight in args.in_flight {
        let run = load::run(&args.store, &backend, in_flight, args.lanes, seconds).await?;
        if !args.json {
            println!("{run}");
        }
        runs.push(run);
    }
    if args.json {
        println!("{}", serde_json::json!({ "limits": limits, "runs": runs }));
    } else {
        print_ratios(&limits, &runs);
    }
    if let Some(path) = args.plot {
        std::fs::write(&path, plot::svg(&limits, &runs))?;
        eprintln!("drawn: {}", path.display());
    }
    Ok(())
}

fn print_limits(limits: &[limit::Limit]) {
    println!("the database's own limit");
    for limit in limits {
        println!("  {:<38} {:>9.0}/s   p50 {:>7.3} ms", limit.what, limit.per_second, limit.p50_ms);
    }
    println!();
}

/// What the aims are about: ratios within one run, which a noisy machine disturbs least.
fn print_ratios(limits: &[limit::Limit], runs: &[load::Run]) {
    let (Some(one), Some(most)) =
        (limits.first(), runs.iter().max_by(|a, b| a.sagas_s.total_cmp(&b.sagas_s)))
    else {
        return;
    };
    let many = limits.iter().find(|limit| limit.what.contains("32")).unwrap_or(one);
    println!();
    println!("most sagas/s : {} = {:.2}", many.what, most.sagas_s / many.per_second);
    if let Some(alone) = runs.iter().find(|run| run.in_flight == 1) {
        println!("p50 of one at a time : four bare commits = {:.2}", alone.p50_ms / (4.0 * one.p50_ms));
    }
}
