//! An estimate of Redis' clock that does not run ahead of it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use crate::time::{Time, micros};

const UNKNOWN: i64 = i64::MIN;

/// How long what Redis told is good for, in microseconds: within this time two clocks drift apart by less than a
/// millisecond.
const FRESH: i64 = 1_000_000;

/// What Redis told last, plus what has passed here since, by the monotonic clock. An answer is older than its
/// arrival, so the estimate lags behind Redis by at most one trip; a suspended machine lags further.
#[derive(Debug)]
pub(super) struct Clock {
    origin: Instant,
    ahead: AtomicI64,
    told: AtomicI64,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { origin: Instant::now(), ahead: AtomicI64::new(UNKNOWN), told: AtomicI64::new(0) }
    }

    pub(super) fn told(&self, now: Time) {
        let here = micros(self.origin.elapsed());
        self.ahead.store(now.0 - here, Ordering::Relaxed);
        self.told.store(here, Ordering::Relaxed);
    }

    /// The time at Redis; `None` if it has told nothing for a while, and must be asked.
    pub(super) fn now(&self) -> Option<Time> {
        let here = micros(self.origin.elapsed());
        let ahead = self.ahead.load(Ordering::Relaxed);
        let fresh = here - self.told.load(Ordering::Relaxed) < FRESH;
        (ahead != UNKNOWN && fresh).then(|| Time(ahead + here))
    }

    /// Another server answers from now on, with a clock of its own.
    pub(super) fn forget(&self) {
        self.ahead.store(UNKNOWN, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_moves_with_time_and_follows_redis() {
        let clock = Clock::new();
        assert_eq!(clock.now(), None);
        clock.told(Time(5_000_000));
        let (one, two) = (clock.now().unwrap(), clock.now().unwrap());
        assert!(one.0 >= 5_000_000 && two >= one);
        clock.told(Time(1_000));
        assert!(clock.now().unwrap().0 < 5_000_000, "Redis' clock was set back");
        clock.forget();
        assert_eq!(clock.now(), None, "another server has another clock");
    }

    #[test]
    fn what_was_told_long_ago_is_not_believed() {
        let clock = Clock::new();
        clock.told(Time(5_000_000));
        clock.told.fetch_sub(FRESH, Ordering::Relaxed);
        assert_eq!(clock.now(), None);
    }
}
