//! Duplicates by the thousand, while their handlers are killed at random.
//!
//! `cargo run -p idempotency --release --example storm -- fused postgres://… [duplicates] [seed]`
//!
//! The guarantee is `fused` or `leased`; the store postgres, sqlite or (leased only) redis. Each key is asked for
//! 50 times at once, spread over four processes that die by `kill -9` in the middle; handlers also panic before
//! and after their effect. Effects are counted outside the store under test: for leased in a file that is only
//! appended to, for fused in the business table itself. At the end every key is asked for once more, in peace.
//!
//! - fused: every key took effect exactly once, and has an answer;
//! - leased, with doubt left as it is: every key took effect at most once; those in doubt are counted.
//!
//! The full size is 1000000 duplicates; the default is 20000.

#[path = "storm/control.rs"]
mod control;
#[path = "storm/worker.rs"]
mod worker;

/// How often each key is asked for.
const DUPLICATES_PER_KEY: u64 = 50;
/// How many processes ask.
const WORKERS: u64 = 4;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["worker", guarantee, url, ledger, storm] => worker::run(guarantee, url, ledger, storm).await,
        [guarantee @ ("fused" | "leased"), url, ref rest @ ..] => {
            let number = |at: usize| rest.get(at).and_then(|text| text.parse::<u64>().ok());
            let seed = number(1).unwrap_or_else(rand::random);
            control::run(guarantee, url, number(0).unwrap_or(20_000), seed).await
        }
        _ => Err("usage: storm fused|leased <url of an empty store> [duplicates] [seed]".into()),
    };
    if let Err(error) = outcome {
        eprintln!("storm: {error}");
        std::process::exit(1);
    }
}
