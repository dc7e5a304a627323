//! Becoming the one relay that may acknowledge, and staying it.

use super::pump::Pump;
use super::{Relay, whole};
use crate::error::{Error, Result};
use crate::lease::{Trust, Watch, now};
use crate::source::Source;
use crate::stats::Stats;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The lease while it is held.
#[derive(Clone, Debug)]
pub(super) struct Lead {
    pub(super) epoch: i64,
    pub(super) trust: Trust,
    /// Cancelled when the lease is lost.
    pub(super) lost: CancellationToken,
    /// Cancelled when this leadership is over, for its tasks.
    pub(super) over: CancellationToken,
}

impl Lead {
    pub(super) fn fenced(&self, source: &dyn Source) -> Error {
        Error::Fenced { outbox: source.name().to_owned(), epoch: self.epoch }
    }
}

impl Relay {
    /// Waits for the lease, then publishes until told to stop or something breaks.
    pub(super) async fn lead(&mut self, stop: &CancellationToken) -> Result<()> {
        let source = self.source.clone();
        whole(async move { source.prepare().await }).await?;
        let Some((epoch, trust)) = self.wait_for_lease(stop).await? else { return Ok(()) };
        let lead = Lead { epoch, trust, lost: CancellationToken::new(), over: CancellationToken::new() };
        let over = lead.over.clone().drop_guard();
        tokio::spawn(keep(self.source.clone(), lead.clone(), self.settings.lease));
        tokio::spawn(sweep(self.source.clone(), lead.clone(), self.stats.clone()));
        self.stats.taken_over.add(1);
        self.stats.set_leading(true);
        tracing::info!(outbox = self.source.name(), epoch, "holds the lease");

        let published = Pump::run(self, &lead, stop).await;
        self.stats.set_leading(false);
        drop(over);
        if !matches!(published, Ok(true)) {
            // What is still in the producer's queue must not be sent once another may lead.
            self.sink.reset().await?;
        }
        if !lead.lost.is_cancelled() {
            let source = self.source.clone();
            let given_up = whole(async move { source.give_up(epoch).await }).await;
            if let Err(error) = given_up {
                tracing::warn!(%error, "the lease could not be given up and will run out");
            }
        }
        published.map(drop)
    }

    async fn wait_for_lease(&self, stop: &CancellationToken) -> Result<Option<(i64, Trust)>> {
        let lease = self.settings.lease;
        let look_every = (lease / 20).clamp(Duration::from_millis(10), Duration::from_millis(500));
        let mut watch = Watch::new(lease);
        loop {
            let source = self.source.clone();
            let row = whole(async move { source.lease().await }).await?;
            if watch.may_take(&row, now()) {
                let (source, holder, asked) = (self.source.clone(), self.settings.holder.clone(), now());
                if let Some(epoch) = whole(async move { source.take(&row, &holder).await }).await? {
                    return Ok(Some((epoch, Trust::new(lease, asked))));
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(None),
                () = tokio::time::sleep(look_every) => {}
            }
        }
    }
}

/// Renews the lease three times in its length, and says when it cannot be trusted any more.
async fn keep(source: Arc<dyn Source>, lead: Lead, lease: Duration) {
    let mut pause = lease / 3;
    loop {
        tokio::select! {
            () = lead.over.cancelled() => return,
            () = tokio::time::sleep(pause.min(lead.trust.left(now()))) => {}
        }
        let (asked, renewing) = (now(), source.clone());
        let epoch = lead.epoch;
        let renewal = tokio::spawn(async move { renewing.renew(epoch).await });
        let renewed = tokio::time::timeout(lead.trust.left(asked), renewal).await;
        match renewed {
            Ok(Ok(Ok(()))) => {
                lead.trust.renewed(asked);
                pause = lease / 3;
            }
            Ok(Ok(Err(Error::Fenced { .. }))) => return lead.lost.cancel(),
            Ok(Ok(Err(error))) => {
                tracing::warn!(%error, "the lease could not be renewed");
                pause = lease / 20;
            }
            Ok(Err(_)) | Err(_) => pause = Duration::ZERO,
        }
        if lead.trust.left(now()).is_zero() {
            return lead.lost.cancel();
        }
    }
}

/// Removes rows that are done.
async fn sweep(source: Arc<dyn Source>, lead: Lead, stats: Arc<Stats>) {
    const IDLE: Duration = Duration::from_secs(1);
    while !lead.over.is_cancelled() && !lead.lost.is_cancelled() {
        match source.sweep(lead.epoch).await {
            Ok(0) => {}
            Ok(rows) => {
                stats.swept.add(rows);
                continue;
            }
            Err(Error::Fenced { .. }) => return,
            Err(error) => tracing::warn!(%error, "done rows could not be removed"),
        }
        tokio::select! {
            () = lead.over.cancelled() => return,
            () = tokio::time::sleep(IDLE) => {}
        }
    }
}
