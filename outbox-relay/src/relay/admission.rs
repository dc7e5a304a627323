//! Taking events into the window: those of a page in turn, and those that an operator has released.

use super::pump::{LOOK_AT_PARKED_EVERY, Pump};
use super::whole;
use crate::error::Result;
use crate::event::{Event, Page};
use crate::source::Ack;
use crate::window::Origin;
use std::collections::HashSet;
use tokio::time::Instant;

impl Pump<'_> {
    pub(super) async fn admit(&mut self, page: Page) -> Result<()> {
        self.lead.read(page.events.len());
        let span = self.spans.begin(&page.events);
        let (first, events) = (self.window.next_ticket(), page.events.len());
        for event in page.events {
            if let Some(event) = self.admit_known(event, Origin::Source) {
                self.admit_one(event, Origin::Source).await?;
            }
        }
        self.window.admitted(first, events);
        if let Some(mark) = page.mark {
            self.window.admit_mark(mark, page.beyond);
        }
        self.spans.opened(span, self.window.next_ticket());
        if page.caught_up {
            self.caught_up = true;
            self.dropped = HashSet::default();
            self.forget_found(self.parked.is_empty());
        }
        Ok(())
    }

    async fn admit_one(&mut self, event: Event, origin: Origin) -> Result<()> {
        let Some(event) = self.admit_known(event, origin) else { return Ok(()) };
        if let Ok(topic) = self.router.route(&event) {
            let topic = topic.to_owned();
            self.open(&topic).await?;
        }
        self.admit_known(event, origin);
        Ok(())
    }

    /// Takes the event in, unless it is the first of its topic: then it is given back.
    fn admit_known(&mut self, event: Event, origin: Origin) -> Option<Event> {
        if !self.found.is_empty() && self.found.remove(&event.id) {
            self.stats.already_there.add(1);
            self.window.admit_done(origin);
            return None;
        }
        if !self.dropped.is_empty() && self.dropped.remove(&event.seq) {
            self.window.admit_done(origin);
            return None;
        }
        if !self.parked.is_empty() && self.parked.contains(&event.key()) {
            self.park(event, origin, "its key is parked".into());
            return None;
        }
        match self.router.route(&event) {
            Ok(topic) if self.tails.now.knows(topic) => {}
            Ok(_) => return Some(event),
            Err(reason) => {
                self.park(event, origin, reason);
                return None;
            }
        }
        if let Some(ticket) = self.window.admit(event, origin) {
            self.send(ticket);
        }
        None
    }

    fn park(&mut self, event: Event, origin: Origin, reason: String) {
        self.parked.insert(event.key());
        self.stats.parked.add(1);
        self.window.admit_parked(event, origin, reason);
    }

    /// Makes durable where a topic ends, before the first event is sent to it: after a crash that is
    /// where to look for it.
    async fn open(&mut self, topic: &str) -> Result<()> {
        let ends = self.sink.ends(topic).await?;
        self.tails.open(topic, &ends);
        if let Some(running) = self.acknowledging.take() {
            running.await.expect("acknowledging does not panic")?;
        }
        let ack = Ack { tail: self.tails.safe(self.window.first_unmarked()), ..Ack::default() };
        let (source, epoch) = (self.source.clone(), self.lead.epoch);
        whole(async move { source.acknowledge(epoch, &ack).await }).await
    }

    /// Learns what operators decided about parked keys. Only while the parked rows are as this relay
    /// knows them: nothing set aside that is not durable yet.
    pub(super) async fn look_at_parked(&mut self) -> Result<()> {
        let due = self.looked_at_parked + LOOK_AT_PARKED_EVERY <= Instant::now();
        let durable = self.acknowledging.is_none() && !self.window.has_parks();
        if self.parked.is_empty() || !due || !durable || self.window.has_released() {
            return Ok(());
        }
        self.looked_at_parked = Instant::now();
        let (source, limit) = (self.source.clone(), self.settings.page_events);
        let parked = whole(async move { source.parked(limit).await }).await?;
        self.parked = parked.keys;
        if !self.caught_up {
            self.dropped.extend(parked.dropped);
        }
        if parked.complete
            && let Some(event) = parked.released.first()
        {
            self.parked.remove(&event.key());
        }
        self.forget_found(parked.released.is_empty());
        for event in parked.released {
            let origin = Origin::Released(event.seq);
            self.release(event, origin).await?;
        }
        Ok(())
    }

    /// Once neither the source nor a predecessor's release holds anything that it published, what is left of it
    /// was acknowledged; kept on, it would swallow a replay.
    fn forget_found(&mut self, nothing_released: bool) {
        if self.caught_up && nothing_released {
            self.found = HashSet::default();
        }
    }

    /// As [`Self::admit_one`], but for an event whose key may be parked still because of later ones.
    async fn release(&mut self, event: Event, origin: Origin) -> Result<()> {
        let key = event.key();
        let parked = self.parked.remove(&key);
        self.admit_one(event, origin).await?;
        if parked {
            self.parked.insert(key);
        }
        Ok(())
    }
}
