//! Catching up with a backlog.

use crate::broker::Broker;
use crate::database::Database;
use crate::sidecar::Sidecar;
use crate::{report, setting};
use std::time::{Duration, Instant};

pub(crate) async fn measure(database: &Database, broker: &Broker) {
    let rows = setting("BENCH_ROWS", 1_000_000);
    database.backlog(rows).await;
    let before = [broker.bare_producer(1_000_000).await, broker.producer_of_events(1_000_000).await];
    let cursor = database.cursor(rows).await;
    let topic = broker.topic().await;

    let mut sidecar = Sidecar::start(database, broker, &topic);
    sidecar.until("outbox_published_total", 1.0).await;
    let (begin, ahead) = (Instant::now(), sidecar.metric("outbox_published_total").await);
    sidecar.until("outbox_published_total", rows as f64).await;
    let published = begin.elapsed();
    let (processor, memory) = (sidecar.processor(), sidecar.peak_memory());
    let left = database.rows().await;
    while database.rows().await > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let swept = begin.elapsed();
    drop(sidecar);

    let producer = f64::midpoint(before[0], broker.bare_producer(1_000_000).await);
    let of_events = f64::midpoint(before[1], broker.producer_of_events(1_000_000).await);
    let drained = rows as f64 - ahead.expect("it answered before");
    report::limit("the bare producer, mean of before and after", producer);
    report::limit("the same, each record with the relay's two headers", of_events);
    report::limit("a cursor over the table", cursor);
    let (what, rate) = (format!("drains {rows} rows"), drained / published.as_secs_f64());
    report::rate(&what, rate, producer, "the bare producer");
    report::rate(&what, rate, of_events, "the one with headers");
    report::fact(
        "processor per event, this process alone",
        &format!("{:.2} µs", processor / rows as f64 * 1e6),
    );
    report::fact("peak memory", &format!("{memory:.1} MiB"));
    let rest = (swept - published).as_secs_f64();
    report::fact("rows left to remove then, and removed after", &format!("{left}, {rest:.1} s"));
}
