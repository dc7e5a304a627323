//! Duplicates by the thousand, while their handlers are killed at random.
//!
//! `cargo run -p idempotency --release --example storm -- <guarantee> <store> [duplicates] [seed]`
//!
//! The guarantee is `fused` or `leased`; the store an empty `postgres://…` or `sqlite:…` or, for leased,
//! `redis://…`. With `redis:always`, `redis:everysec` or `redis:no` the storm starts a Redis of its own, with that
//! `appendfsync` (`no`: with no append-only file at all), and kills it, too.
//!
//! Each key is asked for 50 times at once, spread over five processes that die by `kill -9` in the middle;
//! handlers also panic before and after their effect. Effects are counted outside the store under test: for leased
//! in a file that is only appended to, for fused in the business table itself. At the end every key is asked for
//! once more, in peace.
//!
//! - fused: every key took effect exactly once, and has an answer;
//! - leased, with doubt left as it is: every key took effect at most once; those in doubt are counted;
//! - on a Redis that is killed: what took effect again is counted, and is an error unless Redis died in between.
//!
//! The full size is 1000000 duplicates; the default is 20000.

#[path = "storm/mod.rs"]
mod storm;

use storm::{Launch, Outcome, Plan};

#[tokio::main]
async fn main() {
    if let Err(error) = run().await {
        eprintln!("storm: {error}");
        std::process::exit(1);
    }
}

async fn run() -> Outcome {
    if let Some(script) = storm::script() {
        return storm::work(&script).await;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [guarantee, store, rest @ ..] = &arguments[..] else {
        return Err("usage: storm fused|leased <store> [duplicates] [seed]".into());
    };
    let number = |at: usize| rest.get(at).map(|text| text.replace('_', "").parse::<u64>()).transpose();
    let plan = Plan {
        guarantee: guarantee.parse()?,
        store: store.clone(),
        duplicates: number(0)?.unwrap_or(20_000),
        seed: number(1)?.unwrap_or_else(rand::random),
    };
    let report = storm::run(&plan, &Launch::this_program(&[])).await?;
    println!("{report}");
    report.judge()
}
