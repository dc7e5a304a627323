//! What the relay does, as Prometheus reads it.

use outbox_relay::stats::Stats;
use std::fmt::Write as _;

pub(super) fn text(stats: &Stats) -> String {
    let mut text = String::new();
    for number in stats.counters() {
        let (name, help, value) = (number.name, number.help, number.value);
        let _ = writeln!(
            text,
            "# HELP outbox_{name}_total {help}\n# TYPE outbox_{name}_total counter\noutbox_{name}_total {value}"
        );
    }
    for number in stats.gauges() {
        let (name, help, value) = (number.name, number.help, number.value);
        let _ =
            writeln!(text, "# HELP outbox_{name} {help}\n# TYPE outbox_{name} gauge\noutbox_{name} {value}");
    }
    text
}
