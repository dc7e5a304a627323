//! Removing what is over, in small batches.

use std::sync::Arc;
use std::time::Duration;

use super::{Store, StoreError};

/// How many rows are removed at a time: small enough that no lock is held for long.
const BATCH: u32 = 1000;

/// Removes all rows whose time is over, and says how many. Never a running one, nor one in doubt.
pub async fn sweep_all(store: &dyn Store) -> Result<u64, StoreError> {
    let mut removed = 0;
    loop {
        let batch = store.sweep(BATCH).await?;
        removed += batch;
        if batch < u64::from(BATCH) {
            return Ok(removed);
        }
        tokio::task::yield_now().await;
    }
}

/// Sweeps for ever, about once per `every`. Spawn it once per process; several do no harm.
///
/// ```no_run
/// # async fn example(store: std::sync::Arc<dyn idempotency::Store>) {
/// tokio::spawn(idempotency::store::sweep_forever(store, std::time::Duration::from_secs(60)));
/// # }
/// ```
pub async fn sweep_forever(store: Arc<dyn Store>, every: Duration) -> std::convert::Infallible {
    loop {
        // Spread out, so that many processes do not sweep at the same moment.
        tokio::time::sleep(every.mul_f64(0.5 + rand::random::<f64>())).await;
        // In a task of its own: it ends whole, even if this one is aborted meanwhile.
        let sweeping = store.clone();
        let swept = tokio::spawn(async move { sweep_all(&sweeping).await });
        match swept.await {
            Ok(Ok(0)) | Err(_) => {}
            Ok(Ok(removed)) => tracing::debug!(removed, "swept idempotency keys"),
            Ok(Err(error)) => tracing::warn!(%error, "idempotency keys could not be swept"),
        }
    }
}
