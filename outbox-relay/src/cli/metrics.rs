//! What the relay does, as Prometheus reads it.

use outbox_relay::stats::Stats;
use std::fmt::Write as _;

pub(super) fn text(stats: &Stats) -> String {
    let mut text = String::new();
    let counters = [
        ("outbox_published_total", "Events the broker has acknowledged.", &stats.published),
        (
            "outbox_already_there_total",
            "Events found in a topic after a crash, and not sent again.",
            &stats.already_there,
        ),
        ("outbox_parked_total", "Events set aside, successors of their keys included.", &stats.parked),
        ("outbox_released_total", "Parked events published after their release.", &stats.released),
        ("outbox_retried_total", "Sends that failed and were repeated.", &stats.retried),
        ("outbox_acknowledgements_total", "Acknowledgements made durable.", &stats.acknowledgements),
        ("outbox_swept_rows_total", "Done rows removed.", &stats.swept),
        ("outbox_takeovers_total", "Times this relay took the lease.", &stats.taken_over),
        ("outbox_restarts_total", "Times it began again after an error.", &stats.restarts),
    ];
    for (name, help, counter) in counters {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {}", counter.get());
    }
    let lag_seconds = if stats.in_window.get() == 0 { 0.0 } else { stats.lag_ms.get() as f64 / 1e3 };
    let gauges = [
        ("outbox_in_window", "Events read and not yet done.", stats.in_window.get() as f64),
        ("outbox_parked_keys", "Keys with parked events.", stats.parked_keys.get() as f64),
        ("outbox_publish_lag_seconds", "Age of the event published last, while there are more.", lag_seconds),
        ("outbox_leading", "1 if this relay holds the lease.", f64::from(u8::from(stats.is_leading()))),
    ];
    for (name, help, value) in gauges {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
    }
    text
}
