//! What a relay has done and is doing, for dashboards and tests.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

/// Counters and gauges of one relay. Counters only rise.
#[derive(Debug, Default)]
pub struct Stats {
    /// Events the broker has acknowledged.
    pub published: Counter,
    /// Events that were found in a topic after a crash, and not sent again.
    pub already_there: Counter,
    /// Events set aside, successors of their keys included.
    pub parked: Counter,
    /// Parked events published after their release.
    pub released: Counter,
    /// Sends that failed and were, or will be, repeated.
    pub retried: Counter,
    /// Acknowledgements made durable.
    pub acknowledgements: Counter,
    /// Rows removed.
    pub swept: Counter,
    /// Times this relay took the lease.
    pub taken_over: Counter,
    /// Times it stopped because of an error, and began again.
    pub restarts: Counter,
    /// Events read and not yet done.
    pub in_window: Gauge,
    /// Keys with parked events.
    pub parked_keys: Gauge,
    /// How long ago, in milliseconds, the event published last was written: by the database's clock
    /// against this machine's.
    pub lag_ms: Gauge,
    leading: AtomicBool,
}

impl Stats {
    /// Whether this relay holds the lease and publishes; a standby does not.
    pub fn is_leading(&self) -> bool {
        self.leading.load(Ordering::Relaxed)
    }

    pub(crate) fn set_leading(&self, leading: bool) {
        self.leading.store(leading, Ordering::Relaxed);
    }
}

/// A number that only rises.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }
}

/// A number that rises and falls.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// The number now.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, number: usize) {
        self.set_i64(i64::try_from(number).unwrap_or(i64::MAX));
    }

    pub(crate) fn set_i64(&self, number: i64) {
        self.0.store(number, Ordering::Relaxed);
    }
}
