//! Forgets what ended long ago, in small batches with pauses between them.
//!
//! Journals go first, then the blobs that they referred to. What to remove is not remembered anywhere between the
//! two: each round goes through the runs that there *are* blobs of, and asks the store what it keeps of them. So
//! wherever a worker dies, what it left is found by the next round of anybody, and no journal ever refers to a
//! blob that is gone.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;

use super::attempt::panic_text;
use super::shared::{Incarnation, Shared};
use crate::codec::{BlobError, Blobs};
use crate::id::RunId;
use crate::journal::Timestamp;
use crate::store::{Error, Kept, Retain};

/// Journals, or runs with blobs, looked at in one batch.
const BATCH: usize = 500;
/// Between two batches of one round: at most 5,000 sagas a second are removed, which no load notices.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two rounds.
const ROUND: Duration = Duration::from_secs(300);
/// How long one call to the store of blobs may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Runs while the incarnation does. Several workers may do this at once: removing twice removes once.
pub(super) async fn keep(shared: Arc<Shared>, incarnation: Arc<Incarnation>) {
    let Some(retention) = shared.settings.retention else { return };
    let blobs = shared.keeping.codec.as_ref().and_then(|codec| codec.blobs());
    let rounds = async {
        loop {
            let ended_before = shared.clock.now() - retention;
            if let Err(error) = round(&*shared.backend.retain, blobs.map(|b| &**b), ended_before).await {
                tracing::warn!(%error, "not all that is over was removed; trying again later");
            }
            tokio::time::sleep(ROUND).await;
        }
    };
    incarnation.lost.run_until_cancelled(rounds).await;
}

/// Why a round was broken off.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Store(#[from] Error),
    #[error("the store of blobs failed: {0}")]
    Blobs(BlobError),
}

async fn round(
    retain: &dyn Retain,
    blobs: Option<&dyn Blobs>,
    ended_before: Timestamp,
) -> Result<(), Broken> {
    journals(retain, ended_before).await?;
    match blobs {
        Some(blobs) => leftovers(retain, blobs).await,
        None => Ok(()),
    }
}

async fn journals(retain: &dyn Retain, ended_before: Timestamp) -> Result<(), Broken> {
    let mut after = None;
    loop {
        after = retain.prune(ended_before, after, BATCH).await?.last;
        if after.is_none() {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Removes the blobs of runs whose journals are gone.
async fn leftovers(retain: &dyn Retain, blobs: &dyn Blobs) -> Result<(), Broken> {
    let (mut after, mut strangers, mut example) = (None, 0_u64, None);
    loop {
        let names = within(blobs.runs(after.as_deref(), BATCH)).await?;
        // What is no run is not ours.
        let runs: Vec<RunId> = names.iter().filter_map(|name| name.parse().ok()).collect();
        for (run, kept) in runs.iter().zip(retain.kept(&runs).await?) {
            match kept {
                Kept::Journal => {}
                Kept::Forgotten => within(blobs.remove(&run.to_string())).await?,
                Kept::Nothing => {
                    strangers += 1;
                    example.get_or_insert(*run);
                }
            }
        }
        let full = names.len() >= BATCH;
        // A store that repeats itself must not keep this going for ever.
        after = names.into_iter().next_back().filter(|last| full && after.as_ref() < Some(last));
        if after.is_none() {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    if let Some(run) = example {
        tracing::info!(runs = strangers, example = %run, "blobs of runs that the store does not know are left alone");
    }
    Ok(())
}

async fn within<T>(call: impl Future<Output = Result<T, BlobError>>) -> Result<T, Broken> {
    match tokio::time::timeout(PATIENCE, AssertUnwindSafe(call).catch_unwind()).await {
        Ok(Ok(answer)) => answer.map_err(Broken::Blobs),
        Ok(Err(panic)) => Err(Broken::Blobs(format!("it panicked: {}", panic_text(&*panic)).into())),
        Err(_) => Err(Broken::Blobs(format!("no answer within {PATIENCE:?}").into())),
    }
}

#[cfg(test)]
mod tests;
