//! An estimate of Redis' clock that is never ahead of it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use crate::time::{Time, micros};

const UNKNOWN: i64 = i64::MIN;

/// What Redis told last, plus what has passed here since, by the monotonic clock. An answer is older than its
/// arrival, so the estimate lags behind Redis by at most one trip; a suspended machine lags further.
#[derive(Debug)]
pub(super) struct Clock {
    origin: Instant,
    ahead: AtomicI64,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { origin: Instant::now(), ahead: AtomicI64::new(UNKNOWN) }
    }

    pub(super) fn told(&self, now: Time) {
        self.ahead.store(now.0 - micros(self.origin.elapsed()), Ordering::Relaxed);
    }

    pub(super) fn now(&self) -> Option<Time> {
        let ahead = self.ahead.load(Ordering::Relaxed);
        (ahead != UNKNOWN).then(|| Time(ahead + micros(self.origin.elapsed())))
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
    }
}
