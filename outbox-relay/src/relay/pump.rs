//! Publishing, while the lease is held.
//!
//! One task owns the window and is never blocked: pages arrive from the reader's task, deliveries from
//! the producer's thread, and acknowledging runs in a task of its own, one at a time. What became
//! done while one was under way goes into the next: no timer decides how large they are, only how
//! soon one may follow another.

use super::lead::Lead;
use super::{Relay, RelaySettings, whole};
use crate::error::Result;
use crate::event::{Key, Page};
use crate::lease::now;
use crate::route::Router;
use crate::sink::{Delivery, Failure, Sink};
use crate::source::{Ack, Source};
use crate::stats::Stats;
use crate::tail::Tails;
use crate::telemetry::Pages;
use crate::window::{Frontier, Ticket, Window};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How often to look for released keys, while any key is parked.
pub(super) const LOOK_AT_PARKED_EVERY: Duration = Duration::from_millis(500);

pub(super) struct Pump<'a> {
    pub(super) source: Arc<dyn Source>,
    pub(super) sink: &'a mut dyn Sink,
    pub(super) settings: &'a RelaySettings,
    pub(super) stats: &'a Stats,
    pub(super) lead: &'a Lead,
    pub(super) router: Router,
    pub(super) window: Window,
    pub(super) tails: Tails,
    pub(super) spans: Pages,
    /// Events found in the topics, not read from the source yet; also released ones, which may be read again.
    pub(super) found: HashSet<Uuid>,
    /// Rows that an operator has dropped, and that may be read again.
    pub(super) dropped: HashSet<i64>,
    /// Nothing that a predecessor read is read again any more: what comes is new, or replayed.
    pub(super) caught_up: bool,
    pub(super) parked: HashSet<Key>,
    /// When to send again what failed.
    pub(super) again: BinaryHeap<Reverse<(Instant, Ticket)>>,
    /// Since when the topics of these are refused.
    pub(super) refused: HashMap<Ticket, Instant>,
    pub(super) acknowledging: Option<JoinHandle<Result<()>>>,
    pub(super) acknowledged_at: Instant,
    pub(super) looked_at_parked: Instant,
}

impl<'a> Pump<'a> {
    /// Publishes until told to stop, or until something breaks. Answers whether nothing is left that
    /// was sent and not settled.
    pub(super) async fn run(relay: &'a mut Relay, lead: &'a Lead, stop: &CancellationToken) -> Result<bool> {
        let (source, epoch) = (relay.source.clone(), lead.epoch);
        let resuming = source.clone();
        let resumed = whole(async move { resuming.resume(epoch).await }).await?;
        let found = relay.sink.ids_since(&resumed.tail).await?;
        if !found.is_empty() {
            tracing::info!(events = found.len(), "found in the topics, beyond what is acknowledged");
        }
        let spans = Pages::new(source.name());
        // A page is taken in while there is any room, and then its mark.
        let room = relay.settings.window_events.saturating_add(relay.settings.page_events).saturating_add(1);
        let (pages_in, mut pages) = mpsc::channel(1);
        let reader = tokio::spawn(read(source.clone(), relay.settings.page_events, pages_in));
        let mut pump = Self {
            source,
            sink: relay.sink.as_mut(),
            settings: &relay.settings,
            stats: &relay.stats,
            lead,
            router: Router::new(relay.settings.routes.clone()),
            window: Window::with_room(room),
            tails: Tails::new(resumed.tail),
            spans,
            found,
            dropped: resumed.dropped,
            caught_up: false,
            parked: resumed.parked,
            again: BinaryHeap::new(),
            refused: HashMap::new(),
            acknowledging: None,
            acknowledged_at: Instant::now(),
            looked_at_parked: Instant::now(),
        };
        let result = pump.publish(&mut pages, stop).await;
        let (acknowledging, settled) = (pump.acknowledging.take(), pump.window.undone() == 0);
        // Both must be gone before anybody resumes: they move the source's reading and its cursor on. A
        // database that has gone silent is given one lease to answer.
        drop(pages);
        gone(reader, relay.settings.lease).await;
        if let Some(last) = acknowledging {
            let last = gone(last, relay.settings.lease).await.unwrap_or(Ok(()));
            return result.and(last).map(|()| settled);
        }
        result.map(|()| settled)
    }

    async fn publish(
        &mut self,
        pages: &mut mpsc::Receiver<Result<Page>>,
        stop: &CancellationToken,
    ) -> Result<()> {
        let mut deliveries = Vec::new();
        let mut leave_at = None;
        loop {
            if self.lead.lost.is_cancelled() || self.lead.trust.left(now()).is_zero() {
                return Err(self.lead.fenced(self.source.as_ref()));
            }
            self.send_again();
            self.look_at_parked().await?;
            self.acknowledge();
            self.stats.in_window.set(self.window.undone());
            self.stats.parked_keys.set(self.parked.len());
            self.stats.set_streaming(self.source.is_streaming());
            self.stats.woken.raise(self.source.woken());
            let idle = self.window.len() == 0 && self.acknowledging.is_none();
            if leave_at.is_some_and(|at| idle || at <= Instant::now()) {
                return Ok(());
            }
            let room = leave_at.is_none()
                && self.window.len() < self.settings.window_events
                && self.window.bytes() < self.settings.window_bytes;
            let wake_at = self.wake_at(leave_at);
            tokio::select! {
                () = self.lead.lost.cancelled() => {}
                delivered = self.sink.deliveries(&mut deliveries) => {
                    delivered?;
                    self.settle(&mut deliveries);
                }
                page = pages.recv(), if room => match page {
                    Some(page) => self.admit(page?).await?,
                    None => return Err(self.lead.fenced(self.source.as_ref())),
                },
                done = finished(&mut self.acknowledging) => {
                    self.acknowledging = None;
                    done?;
                    self.stats.acknowledgements.add(1);
                }
                () = stop.cancelled(), if leave_at.is_none() => {
                    leave_at = Some(Instant::now() + self.settings.drain);
                }
                () = tokio::time::sleep_until(wake_at) => {}
            }
        }
    }

    /// The next moment at which something is to be done though nothing happens.
    fn wake_at(&self, leave_at: Option<Instant>) -> Instant {
        let mut at = Instant::now() + Duration::from_secs(1);
        if self.window.can_advance() && self.acknowledging.is_none() {
            at = at.min(self.acknowledged_at + self.source.acknowledge_every());
        }
        if !self.parked.is_empty() {
            at = at.min(
                (self.looked_at_parked + LOOK_AT_PARKED_EVERY)
                    .max(Instant::now() + Duration::from_millis(20)),
            );
        }
        if let Some(Reverse((due, _))) = self.again.peek() {
            at = at.min(*due);
        }
        leave_at.map_or(at, |leave| at.min(leave))
    }

    /// Sends an event, and if it is refused at once, what may be sent instead.
    pub(super) fn send(&mut self, ticket: Ticket) {
        let mut next = Some(ticket);
        while let Some(ticket) = next.take() {
            let Some(event) = self.window.event(ticket) else { return };
            next = match self.router.record(event) {
                Ok(record) => match self.sink.send(ticket, &record) {
                    Ok(()) => None,
                    Err(failure) => self.failed(ticket, failure),
                },
                Err(reason) => self.rejected(ticket, &reason),
            };
        }
    }

    fn send_again(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((due, ticket))) = self.again.peek().copied() {
            if due > now {
                return;
            }
            self.again.pop();
            self.send(ticket);
        }
    }

    fn settle(&mut self, deliveries: &mut Vec<Delivery>) {
        let now = clock_ms();
        for Delivery { ticket, result } in deliveries.drain(..) {
            let next = match result {
                Ok((partition, offset)) => self.delivered(ticket, partition, offset, now),
                Err(failure) => self.failed(ticket, failure),
            };
            if let Some(next) = next {
                self.send(next);
            }
        }
    }

    fn delivered(&mut self, ticket: Ticket, partition: i32, offset: i64, now: i64) -> Option<Ticket> {
        if let Some(event) = self.window.event(ticket) {
            if let Ok(topic) = self.router.route(event) {
                self.tails.now.delivered(topic, partition, offset);
            }
            self.stats.published.add(1);
            self.stats.lag_ms.set_i64(now - event.created_at);
            if !self.caught_up && self.window.is_released(ticket) {
                // If a predecessor set it aside and passed no mark behind it, it will be read again.
                self.found.insert(event.id);
            }
        }
        if !self.refused.is_empty() {
            self.refused.remove(&ticket);
        }
        self.window.acknowledged(ticket)
    }

    fn failed(&mut self, ticket: Ticket, failure: Failure) -> Option<Ticket> {
        let reason = match failure {
            Failure::Rejected(reason) => return self.rejected(ticket, &reason),
            Failure::Refused(reason) => {
                let since = *self.refused.entry(ticket).or_insert_with(Instant::now);
                if since.elapsed() >= self.settings.refused_for {
                    self.refused.remove(&ticket);
                    return self.rejected(ticket, &reason);
                }
                reason
            }
            Failure::Unknown(reason) => reason,
        };
        let attempts = self.window.failed(ticket)?;
        self.stats.retried.add(1);
        tracing::debug!(ticket, attempts, reason, "will be sent again");
        let pause = Duration::from_millis(50) * 2_u32.pow(attempts.min(7) - 1);
        self.again.push(Reverse((Instant::now() + pause, ticket)));
        None
    }

    fn rejected(&mut self, ticket: Ticket, reason: &str) -> Option<Ticket> {
        let event = self.window.event(ticket)?;
        tracing::warn!(id = %event.id, key = %event.key(), reason, "parked, with the later events of its key");
        self.parked.insert(event.key());
        let before = self.window.undone();
        let next = self.window.rejected(ticket, reason);
        self.stats.parked.add((before - self.window.undone()) as u64);
        next
    }

    /// Begins to make durable what became done, unless that is under way.
    fn acknowledge(&mut self) {
        let due = self.acknowledged_at + self.source.acknowledge_every() <= Instant::now();
        if self.acknowledging.is_some() || !due || !self.window.can_advance() {
            return;
        }
        let frontier = self.window.advance();
        self.spans.done(self.window.first_ticket());
        if frontier.is_empty() {
            return;
        }
        self.stats.released.add(frontier.released.len() as u64);
        self.tails.mark(self.window.next_ticket());
        let tail = if self.window.first_unmarked() == self.window.next_ticket() {
            self.tails.now.clone()
        } else {
            self.tails.safe(self.window.first_unmarked())
        };
        let Frontier { mark, released, parks, parks_again } = frontier;
        let ack = Ack { mark, tail, parks, parks_again, released };
        let (source, epoch) = (self.source.clone(), self.lead.epoch);
        self.acknowledging = Some(tokio::spawn(async move { source.acknowledge(epoch, &ack).await }));
        self.acknowledged_at = Instant::now();
    }
}

/// Reads ahead, a page at a time, until nobody takes pages any more.
async fn read(source: Arc<dyn Source>, limit: usize, pages: mpsc::Sender<Result<Page>>) {
    let mut idle = 0;
    loop {
        let page = source.read(limit).await;
        if page.as_ref().is_ok_and(|page| page.events.is_empty() && page.mark.is_none() && !page.caught_up) {
            tokio::select! {
                biased;
                () = pages.closed() => return,
                () = source.wait(idle) => {}
            }
            idle = idle.saturating_add(1);
            continue;
        }
        idle = 0;
        let failed = page.is_err();
        if pages.send(page).await.is_err() || failed {
            return;
        }
    }
}

/// Waits for a task to end, and ends it if it takes too long.
async fn gone<T>(mut task: JoinHandle<T>, patience: Duration) -> Option<T> {
    if let Ok(ended) = tokio::time::timeout(patience, &mut task).await {
        return Some(ended.expect("it does not panic"));
    }
    task.abort();
    let _ = task.await;
    None
}

/// Waits for the task, for ever if there is none.
async fn finished(task: &mut Option<JoinHandle<Result<()>>>) -> Result<()> {
    match task {
        Some(task) => task.await.expect("acknowledging does not panic"),
        None => std::future::pending().await,
    }
}

/// Milliseconds since the Unix epoch.
fn clock_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
