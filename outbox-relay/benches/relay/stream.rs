//! Reading the write-ahead log as fast as it comes.
//!
//! The relay is frozen while it streams, rows are committed in transactions of 50, and it is thawed: so
//! it finds them in the log, and never in the table.

use crate::broker::Broker;
use crate::database::Database;
use crate::sidecar::Sidecar;
use crate::{report, setting};
use std::time::Instant;

const ROWS_PER_TRANSACTION: i64 = 50;

pub(crate) async fn measure(database: &Database, broker: &Broker) {
    let rows = setting("BENCH_STREAM_ROWS", 400_000);
    database.empty().await;
    let slot = database.slot().await;
    database.insert(rows, ROWS_PER_TRANSACTION).await;
    let recvlogical = database.recvlogical(&slot, rows).await;

    database.empty().await;
    let topic = broker.topic().await;
    let mut sidecar = Sidecar::start(database, broker, &topic);
    sidecar.until("outbox_streaming", 1.0).await;
    sidecar.freeze();
    database.insert(rows, ROWS_PER_TRANSACTION).await;
    let begin = Instant::now();
    sidecar.thaw();
    sidecar.until("outbox_published_total", rows as f64).await;
    let streamed = rows as f64 / begin.elapsed().as_secs_f64();
    let streams = sidecar.metric("outbox_streaming").await == Some(1.0);
    assert!(streams, "it fell back to polling: this says nothing about streaming");

    report::limit("pg_recvlogical, transactions of 50 rows", recvlogical);
    report::rate(&format!("streams {rows} rows to Kafka"), streamed, recvlogical, "pg_recvlogical");
}
