//! Puts a store to the conformance suite: `cargo run --example check_store -- postgres://… redis://…`

use idempotency::{store, testing};

#[tokio::main]
async fn main() {
    for url in std::env::args().skip(1) {
        let scheme = url.split(':').next().unwrap_or_default().to_owned();
        // Clear errors first: the suite itself would only panic.
        if let Err(error) = store::connect(&url).await {
            eprintln!("{scheme}: {error}");
            std::process::exit(2);
        }
        testing::conformance(|| async { store::connect(&url).await.expect("it answered a moment ago") })
            .await;
        println!("{scheme}: keeps every promise");
    }
}
