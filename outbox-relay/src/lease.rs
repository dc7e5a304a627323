//! The right to acknowledge, and the clock it is trusted by.
//!
//! # What the database guarantees
//!
//! One row per outbox holds an epoch. A relay takes over by raising it under the condition that the
//! row still is as it was seen; every acknowledgement is conditional on the epoch. So whatever any
//! clock says, an acknowledgement of an earlier relay changes nothing once a later one exists.
//!
//! # What clocks are trusted for
//!
//! Only for not sending twice. The holder raises a renewal counter three times per lease and trusts
//! its right until one lease, less a margin, after it *sent* the last renewal that succeeded, by a
//! clock that runs on while the machine sleeps. One who waits takes over after it has *watched* the
//! counter stand still for a whole lease, by its own clock: no two clocks are ever compared, and a
//! jump of the database's clock expires nobody.
//!
//! # What is left
//!
//! A record in the producer's queue when the process freezes may be sent after it thaws. The
//! producer's message timeout is below the lease, which makes that rare; inboxes make it harmless.

use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The lease's row, as seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRow {
    /// Rises with every takeover.
    pub epoch: i64,
    /// Rises with every renewal.
    pub renewals: i64,
    /// Who holds it; `None` after it was given up, and before it was ever taken.
    pub holder: Option<String>,
    /// The source knows by other means that the holder's process has ended.
    pub holder_is_dead: bool,
}

/// Watches another relay's lease.
#[derive(Debug)]
pub(crate) struct Watch {
    seen: Option<(LeaseRow, Duration)>,
    lease: Duration,
}

impl Watch {
    pub(crate) fn new(lease: Duration) -> Self {
        Self { seen: None, lease }
    }

    /// Whether the row, seen now, may be taken over.
    pub(crate) fn may_take(&mut self, row: &LeaseRow, now: Duration) -> bool {
        if row.holder.is_none() || row.holder_is_dead {
            return true;
        }
        match &self.seen {
            Some((seen, since)) if seen == row => now.saturating_sub(*since) >= self.lease,
            _ => {
                self.seen = Some((row.clone(), now));
                false
            }
        }
    }
}

/// How long the holder may trust its lease, shared between who renews it and who sends.
#[derive(Clone, Debug)]
pub(crate) struct Trust {
    until_ms: Arc<AtomicU64>,
    span: Duration,
}

impl Trust {
    /// Trust in a lease that was asked for at `asked`.
    pub(crate) fn new(lease: Duration, asked: Duration) -> Self {
        let trust = Self { until_ms: Arc::new(AtomicU64::new(0)), span: lease - lease / 5 };
        trust.renewed(asked);
        trust
    }

    /// A renewal that was asked for at `asked` has succeeded.
    pub(crate) fn renewed(&self, asked: Duration) {
        self.until_ms.store((asked + self.span).as_millis() as u64, Ordering::Release);
    }

    /// How much longer it lasts, zero if it has ended.
    pub(crate) fn left(&self, now: Duration) -> Duration {
        Duration::from_millis(self.until_ms.load(Ordering::Acquire)).saturating_sub(now)
    }
}

/// The time since boot, suspension included.
pub(crate) fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn row(epoch: i64, renewals: i64) -> LeaseRow {
        LeaseRow { epoch, renewals, holder: Some("one".into()), holder_is_dead: false }
    }

    #[test]
    fn a_lease_is_taken_only_after_it_stood_still_for_its_whole_length_while_watched() {
        let mut watch = Watch::new(10 * SECOND);
        assert!(!watch.may_take(&row(1, 7), 100 * SECOND), "never seen before");
        assert!(!watch.may_take(&row(1, 7), 109 * SECOND));
        assert!(!watch.may_take(&row(1, 8), 110 * SECOND), "it moved: the watch begins again");
        assert!(!watch.may_take(&row(1, 8), 119 * SECOND));
        assert!(watch.may_take(&row(1, 8), 120 * SECOND));
    }

    #[test]
    fn a_lease_given_up_or_of_a_dead_process_is_taken_at_once() {
        let mut watch = Watch::new(10 * SECOND);
        assert!(watch.may_take(&LeaseRow { holder: None, ..row(1, 7) }, SECOND));
        assert!(watch.may_take(&LeaseRow { holder_is_dead: true, ..row(1, 7) }, SECOND));
    }

    #[test]
    fn the_holder_stops_trusting_its_lease_before_another_may_take_it() {
        let trust = Trust::new(10 * SECOND, 100 * SECOND);
        assert_eq!(trust.left(104 * SECOND), 4 * SECOND);
        assert_eq!(trust.left(108 * SECOND), Duration::ZERO);
        trust.renewed(105 * SECOND);
        assert_eq!(trust.left(108 * SECOND), 5 * SECOND);
    }
}
