//! Forgets what ended long ago, in small batches with pauses between them.

use std::sync::Arc;
use std::time::Duration;

use super::shared::{Incarnation, Shared};

/// Journals looked at in one batch.
const BATCH: usize = 500;
/// Between two batches of one round: at most 5,000 sagas a second are removed, which no load notices.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two rounds.
const ROUND: Duration = Duration::from_secs(300);

/// Runs while the incarnation does. Several workers may do this at once: removing twice removes once.
pub(super) async fn keep(shared: Arc<Shared>, incarnation: Arc<Incarnation>) {
    let Some(retention) = shared.settings.retention else { return };
    let mut after = None;
    loop {
        let ended_before = shared.clock.now() - retention;
        let pause = match shared.backend.retain.prune(ended_before, after, BATCH).await {
            Ok(pruned) => {
                after = pruned.last;
                if after.is_some() { PAUSE } else { ROUND }
            }
            Err(error) => {
                tracing::warn!(%error, "old journals were not removed; trying again later");
                ROUND
            }
        };
        if incarnation.lost.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}
