//! Keeps the worker's lease, and finds out whose lease ran out.

use std::sync::Arc;
use std::time::Duration;

use super::peers::Peers;
use super::shared::{Incarnation, Shared};
use crate::store::Renewal;

/// Renews three times per lease until the incarnation is lost.
///
/// The lease is trusted from *before* a renewal was sent, and up to nine tenths of its length, so that
/// this worker has stopped before any observer, who begins to count later and counts the whole length,
/// takes over. (If it had not, the fence would still refuse its commits.)
pub(super) async fn keep(shared: Arc<Shared>, incarnation: Arc<Incarnation>) {
    let lease = shared.settings.lease;
    let mut peers = Peers::default();
    let mut trusted_until = shared.clock.trusted() + lease * 9 / 10;
    loop {
        let sent = shared.clock.trusted();
        let left = trusted_until.saturating_sub(sent);
        if left.is_zero() {
            tracing::warn!(worker = %incarnation.fence.worker, "the lease could not be renewed in time");
            incarnation.lost.cancel();
            return;
        }
        let renewal = shared.backend.store.renew(incarnation.fence);
        let pause = match tokio::time::timeout(left, renewal).await {
            Ok(Ok(Renewal::Renewed(others))) => {
                trusted_until = sent + lease * 9 / 10;
                for dead in peers.observe(&others, shared.clock.trusted()) {
                    take_over(&shared, dead);
                }
                lease / 3
            }
            Ok(Ok(Renewal::Fenced)) => {
                tracing::warn!(worker = %incarnation.fence.worker, "another worker has taken over");
                incarnation.lost.cancel();
                return;
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "the lease was not renewed; trying again");
                lease / 20
            }
            Err(_) => Duration::ZERO,
        };
        let soon = pause.min(shared.settings.look);
        if incarnation.lost.run_until_cancelled(tokio::time::sleep(soon)).await.is_none() {
            return;
        }
    }
}

/// Fences a dead worker in a task of its own, because draining its batches may take a while and our
/// own renewals must not wait for that.
fn take_over(shared: &Arc<Shared>, dead: crate::id::WorkerId) {
    let shared = shared.clone();
    tokio::spawn(async move {
        match shared.backend.store.fence(dead).await {
            Ok(()) => {
                tracing::info!(worker = %dead, "a dead worker was fenced; its sagas can be claimed");
                shared.nudge.notify_one();
            }
            Err(error) => tracing::warn!(worker = %dead, %error, "a dead worker could not be fenced yet"),
        }
    });
}
