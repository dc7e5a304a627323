//! When to try again: a pure policy from attempt numbers to pauses.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How often, and how soon, an attempt is made again.
///
/// The pause before attempt *n + 1* is `base · 2^(n-1)`, at most `most`, of which a random part
/// between one half and the whole is taken, so that a thousand sagas that failed together do not
/// come back together ("equal jitter").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    base: Duration,
    most: Duration,
    attempts: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    elapsed: Option<Duration>,
}

impl Retry {
    /// Pauses that double from 100 ms to 30 s, ten attempts: enough to ride out a restart of the
    /// service that is called (about a minute), short enough that a customer hears of an outage.
    pub fn exponential() -> Self {
        let (base, most) = (Duration::from_millis(100), Duration::from_secs(30));
        Self { base, most, attempts: Some(10), elapsed: None }
    }

    /// One attempt only.
    pub fn none() -> Self {
        Self::exponential().attempts(1)
    }

    /// Pauses that double from 100 ms to a minute, without end: the default of compensations and of
    /// steps after the pivot, which have to happen.
    pub fn forever() -> Self {
        let (base, most) = (Duration::from_millis(100), Duration::from_secs(60));
        Self { base, most, attempts: None, elapsed: None }
    }

    /// The first pause.
    #[must_use]
    pub fn base(mut self, pause: Duration) -> Self {
        self.base = pause;
        self
    }

    /// The longest pause.
    #[must_use]
    pub fn most(mut self, pause: Duration) -> Self {
        self.most = pause;
        self
    }

    /// How many attempts are made in all, the first included; 0 counts as 1.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = Some(attempts.max(1));
        self
    }

    /// No further attempt is planned for later than so long after the first one started, whatever a service
    /// asked for. The journal keeps that moment, so it moves with no crash.
    #[must_use]
    pub fn elapsed(mut self, limit: Duration) -> Self {
        self.elapsed = Some(limit);
        self
    }

    /// How long after the first attempt's start another may be planned.
    pub fn elapsed_limit(&self) -> Option<Duration> {
        self.elapsed
    }

    /// Whether it goes on for ever.
    pub fn is_endless(&self) -> bool {
        self.attempts.is_none() && self.elapsed.is_none()
    }

    /// Whether another attempt follows attempt number `attempt` (they count from 1).
    pub fn goes_on_after(&self, attempt: u32) -> bool {
        self.attempts.is_none_or(|most| attempt < most)
    }

    /// The pause after attempt number `attempt`; `jitter` in `0.0..=1.0` chooses the random part.
    pub fn pause_after(&self, attempt: u32, jitter: f64) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        let whole = self.base.saturating_mul(1 << doublings).min(self.most);
        whole.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_most() {
        let retry = Retry::exponential().base(Duration::from_millis(100)).most(Duration::from_secs(1));
        let whole: Vec<_> = (1..=6).map(|n| retry.pause_after(n, 1.0).as_millis()).collect();
        assert_eq!(whole, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(retry.pause_after(2, 0.0).as_millis(), 100);
        assert_eq!(retry.pause_after(u32::MAX, 1.0), Duration::from_secs(1));
    }

    #[test]
    fn attempts_count_the_first() {
        assert!(!Retry::none().goes_on_after(1));
        assert!(Retry::exponential().attempts(3).goes_on_after(2));
        assert!(!Retry::exponential().attempts(3).goes_on_after(3));
        assert!(Retry::forever().goes_on_after(u32::MAX - 1));
        assert!(!Retry::exponential().attempts(0).goes_on_after(1));
        assert!(Retry::forever().is_endless() && !Retry::forever().elapsed(Duration::ZERO).is_endless());
    }
}
