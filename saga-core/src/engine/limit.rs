//! Limits on attempts: how many at once, and how many per time.
//!
//! A permit is taken *before* the start is recorded: a recorded start that never ran would be false
//! doubt. Where none is free the start is left out of the commit; the driver waits for a permit and
//! decides again. Limits hold within one worker process; a database-wide limit would cost every start
//! a contended row.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::gate::{Gate, Pass};
use super::shared::LOCK;
use crate::priority::Priority;
use crate::step::Limits;

/// One limit. Whoever waits is served in the order of their coming, where priority counts as time.
#[derive(Debug)]
pub(crate) struct Limit {
    concurrency: Option<Arc<Gate>>,
    rate: Option<Rate>,
}

/// The right to one attempt. It ends with the attempt.
#[derive(Debug, Default)]
pub(crate) struct Permit {
    held: Vec<(Arc<Limit>, Pass)>,
}

/// A start that was left out: which limit is used up, and what it holds already of the limits before
/// that one. Every start takes its limits in one order, so nobody waits in a circle.
#[derive(Debug)]
pub(crate) struct Wait {
    limit: Arc<Limit>,
    permit: Permit,
    priority: Priority,
}

/// Starts are spread evenly: the next one may come when the interval since the last has passed, with as
/// many saved up as one period holds.
#[derive(Debug)]
struct Rate {
    interval: Duration,
    burst: u32,
    /// The time at which the bucket is full again (the "theoretical arrival time" of the generic cell
    /// rate algorithm, ITU-T I.371).
    full_at: Mutex<Option<Instant>>,
}

impl Limit {
    /// `None` where nothing is limited.
    pub(crate) fn new(limits: &Limits) -> Option<Self> {
        let rate = limits.rate.map(|(starts, per)| Rate {
            interval: per / starts.max(1),
            burst: starts.max(1),
            full_at: Mutex::new(None),
        });
        let concurrency = limits.concurrency.map(Gate::new);
        (concurrency.is_some() || rate.is_some()).then_some(Self { concurrency, rate })
    }
}

impl Permit {
    /// Takes a permit of every limit, out of what was `granted` to an earlier wait or of what is free;
    /// or says what to wait for.
    pub(crate) fn take(
        limits: &[Arc<Limit>],
        granted: &mut Permit,
        priority: Priority,
    ) -> Result<Self, Wait> {
        let mut permit = Self::default();
        for limit in limits {
            if !permit.take_one(limit, granted) {
                return Err(Wait { limit: limit.clone(), permit, priority });
            }
        }
        Ok(permit)
    }

    fn take_one(&mut self, limit: &Arc<Limit>, granted: &mut Permit) -> bool {
        if let Some(gate) = &limit.concurrency {
            let granted = granted
                .held
                .iter()
                .position(|(of, _)| Arc::ptr_eq(of, limit))
                .map(|at| granted.held.swap_remove(at));
            let free = || gate.try_pass().map(|held| (limit.clone(), held));
            let Some(held) = granted.or_else(free) else { return false };
            self.held.push(held);
        }
        limit.rate.as_ref().is_none_or(|rate| rate.take(Instant::now()).is_ok())
    }

    fn holds(&self, limit: &Arc<Limit>) -> bool {
        self.held.iter().any(|(of, _)| Arc::ptr_eq(of, limit))
    }
}

impl Wait {
    /// Waits until the start may be decided again. What was waited for is kept for it: released, it
    /// would go to the next in the queue, and a queue that only hands permits on never moves.
    pub(crate) async fn granted(&mut self) -> Permit {
        if let Some(gate) = &self.limit.concurrency
            && !self.permit.holds(&self.limit)
        {
            let held = gate.pass(self.priority).await;
            self.permit.held.push((self.limit.clone(), held));
        }
        if let Some(rate) = &self.limit.rate {
            tokio::time::sleep_until(rate.opens_at(Instant::now())).await;
        }
        std::mem::take(&mut self.permit)
    }
}

impl Rate {
    fn take(&self, now: Instant) -> Result<(), Instant> {
        let mut full_at = self.full_at.lock().expect(LOCK);
        let full = full_at.unwrap_or(now).max(now) + self.interval;
        let room_at = full.checked_sub(self.interval * self.burst).unwrap_or(now);
        if room_at > now {
            return Err(room_at);
        }
        *full_at = Some(full);
        Ok(())
    }

    fn opens_at(&self, now: Instant) -> Instant {
        let full = self.full_at.lock().expect(LOCK).unwrap_or(now).max(now) + self.interval;
        full.checked_sub(self.interval * self.burst).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_allows_its_burst_and_then_one_per_interval() {
        let limits = Limits { rate: Some((4, Duration::from_secs(1))), ..Limits::default() };
        let limit = [Arc::new(Limit::new(&limits).unwrap())];
        let began = Instant::now();
        let mut starts = Vec::new();
        while starts.len() < 8 {
            match Permit::take(&limit, &mut Permit::default(), Priority::Normal) {
                Ok(_) => starts.push(began.elapsed().as_millis()),
                Err(mut wait) => drop(wait.granted().await),
            }
        }
        let late: Vec<_> = starts[4..].iter().map(|ms| ms.next_multiple_of(250)).collect();
        assert_eq!((&starts[..4], late), (&[0, 0, 0, 0][..], vec![250, 500, 750, 1000]));
    }

    #[tokio::test]
    async fn a_permit_ends_with_its_attempt() {
        let limits = Limits { concurrency: Some(1), ..Limits::default() };
        let limit = [Arc::new(Limit::new(&limits).unwrap())];
        let (none, normal) = (&mut Permit::default(), Priority::Normal);
        let held = Permit::take(&limit, none, normal).unwrap();
        let mut wait = Permit::take(&limit, none, normal).unwrap_err();
        drop(held);
        let mut granted = wait.granted().await;
        assert!(
            Permit::take(&limit, none, normal).is_err(),
            "what was granted is kept for the one that waited"
        );
        assert!(Permit::take(&limit, &mut granted, normal).is_ok());
    }
}
