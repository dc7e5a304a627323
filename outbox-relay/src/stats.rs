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
    /// Looks for new events that a notification brought forward.
    pub woken: Counter,
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
    streaming: AtomicBool,
}

/// One of the numbers, with its name and what it means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Number<T> {
    /// In lower case, with underscores.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// The number now.
    pub value: T,
}

impl Stats {
    /// All counters, always in the same order.
    pub fn counters(&self) -> [Number<u64>; 10] {
        let number = |name, help, counter: &Counter| Number { name, help, value: counter.get() };
        [
            number("published", "Events the broker has acknowledged.", &self.published),
            number(
                "already_there",
                "Events found in a topic after a crash, and not sent again.",
                &self.already_there,
            ),
            number("parked", "Events set aside, successors of their keys included.", &self.parked),
            number("released", "Parked events published after their release.", &self.released),
            number("retried", "Sends that failed and were repeated.", &self.retried),
            number("acknowledgements", "Acknowledgements made durable.", &self.acknowledgements),
            number("swept_rows", "Done rows removed.", &self.swept),
            number("wake_ups", "Looks for new events that a notification brought forward.", &self.woken),
            number("takeovers", "Times this relay took the lease.", &self.taken_over),
            number("restarts", "Times it began again after an error.", &self.restarts),
        ]
    }

    /// All gauges, always in the same order.
    pub fn gauges(&self) -> [Number<f64>; 5] {
        let number = |name, help, value| Number { name, help, value };
        let one_if = |holds| f64::from(u8::from(holds));
        let lag = if self.in_window.get() == 0 { 0.0 } else { self.lag_ms.get() as f64 / 1e3 };
        [
            number("in_window", "Events read and not yet done.", self.in_window.get() as f64),
            number("parked_keys", "Keys with parked events.", self.parked_keys.get() as f64),
            number("publish_lag_seconds", "Age of the event published last, while there are more.", lag),
            number("leading", "1 if this relay holds the lease.", one_if(self.is_leading())),
            number(
                "streaming",
                "1 if events are read from the write-ahead log, 0 if the table is polled.",
                one_if(self.is_streaming()),
            ),
        ]
    }

    /// Whether this relay holds the lease and publishes; a standby does not.
    pub fn is_leading(&self) -> bool {
        self.leading.load(Ordering::Relaxed)
    }

    /// Whether events are read from the database's log just now, rather than looked for in the table.
    pub fn is_streaming(&self) -> bool {
        self.streaming.load(Ordering::Relaxed)
    }

    pub(crate) fn set_streaming(&self, streaming: bool) {
        self.streaming.store(streaming, Ordering::Relaxed);
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

    /// To a number that is counted elsewhere.
    pub(crate) fn raise(&self, to: u64) {
        self.0.fetch_max(to, Ordering::Relaxed);
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
