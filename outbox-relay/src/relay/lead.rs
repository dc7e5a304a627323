//! Becoming the one relay that may acknowledge, and staying it.

use super::pump::Pump;
use super::{Relay, whole};
use crate::error::{Error, Result};
use crate::lease::{Trust, Watch, now};
use crate::source::Source;
use crate::stats::Stats;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
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
    /// When a large page was read last, in milliseconds of the lease's clock.
    large_page_ms: Arc<AtomicU64>,
}

/// A page of so many events says that there are more.
const LARGE_PAGE: usize = 256;
/// A backlog is over when no large page was read for so long.
const BACKLOG_OVER: Duration = Duration::from_millis(200);
/// While it lasts, so much of the time is left to publishing for each part that goes into sweeping.
const PUBLISHING_PER_SWEEPING: u32 = 7;

impl Lead {
    fn new(epoch: i64, trust: Trust) -> Self {
        Self {
            epoch,
            trust,
            lost: CancellationToken::new(),
            over: CancellationToken::new(),
            large_page_ms: Arc::default(),
        }
    }

    /// A page of so many events was read.
    pub(super) fn read(&self, events: usize) {
        if events >= LARGE_PAGE {
            self.large_page_ms.store(now().as_millis() as u64, Ordering::Relaxed);
        }
    }

    fn catches_up(&self) -> bool {
        let read = Duration::from_millis(self.large_page_ms.load(Ordering::Relaxed));
        now().saturating_sub(read) < BACKLOG_OVER
    }

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
        let lead = Lead::new(epoch, trust);
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

/// Removes rows that are done. Publishing goes first: while it catches up, sweeping takes a small part of
/// the time, which is still more than writers can fill.
async fn sweep(source: Arc<dyn Source>, lead: Lead, stats: Arc<Stats>) {
    const IDLE: Duration = Duration::from_secs(1);
    while !lead.over.is_cancelled() && !lead.lost.is_cancelled() {
        let begin = Instant::now();
        let pause = match source.sweep(lead.epoch).await {
            Ok(0) => IDLE,
            Ok(rows) => {
                stats.swept.add(rows);
                if lead.catches_up() { begin.elapsed() * PUBLISHING_PER_SWEEPING } else { Duration::ZERO }
            }
            Err(Error::Fenced { .. }) => return,
            Err(error) => {
                tracing::warn!(%error, "done rows could not be removed");
                IDLE
            }
        };
        tokio::select! {
            () = lead.over.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}
