//! What idempotency costs, as ratios to what the store itself can do in the same run.
//!
//! `cargo run -p idempotency --release --example cost -- [postgres://…] [redis://…] [sqlite:…]`
//!
//! Every pair of figures is measured side by side, in alternating rounds, on the same server and with the same
//! number of tasks. Ratios can be compared between machines, the rates cannot. The stores that are named must be
//! empty ones: tables and keys are created in them.

#[path = "cost/fused.rs"]
mod fused;
#[path = "cost/layer.rs"]
mod layer;
#[path = "cost/leased.rs"]
mod leased;
#[path = "cost/measure.rs"]
mod measure;

#[tokio::main]
async fn main() {
    layer::overhead().await;
    for url in std::env::args().skip(1) {
        let outcome = match url.split(':').next() {
            Some("postgres" | "postgresql") => postgres(&url).await,
            Some("redis") => leased::redis(&url).await,
            Some("sqlite") => leased::sqlite(&url).await,
            _ => Err(format!("{url}: not a store that is measured here").into()),
        };
        if let Err(error) = outcome {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}

async fn postgres(url: &str) -> measure::Outcome {
    leased::postgres(url).await?;
    fused::postgres(url).await
}
