//! What OpenTelemetry is told, by a provider that keeps it in memory. One test: providers are global.

use opentelemetry::global;
use opentelemetry::trace::{SpanId, SpanKind};
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, SdkMeterProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
use outbox::Message;
use outbox::sqlx::SqlitePool;
use outbox_relay::tokio_util::sync::CancellationToken;
use outbox_relay::{MemorySink, Relay, SqliteSource};
use std::time::Duration;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_is_a_span_that_is_linked_to_where_its_events_come_from() {
    let (spans, metrics) = (InMemorySpanExporter::default(), InMemoryMetricExporter::default());
    global::set_tracer_provider(SdkTracerProvider::builder().with_simple_exporter(spans.clone()).build());
    let meters = SdkMeterProvider::builder().with_periodic_exporter(metrics.clone()).build();
    global::set_meter_provider(meters.clone());

    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("shop.db");
    let pool = SqlitePool::connect(&format!("sqlite:{}?mode=rwc", path.display())).await.expect("opens");
    let mut db = pool.acquire().await.expect("connects");
    outbox::migrate(&mut *db).await.expect("migrates");
    let written_in = |span: &str, flags: &str| {
        let message = Message::new("order", span, "OrderPlaced");
        message.trace(&format!("00-{TRACE}-{span}-{flags}"), None)
    };
    let events = [
        written_in("b7ad6b7169203331", "01"),
        written_in("b7ad6b7169203331", "01"),
        written_in("b7ad6b7169203332", "00"),
        written_in("b7ad6b7169203333", "01"),
        Message::new("order", "untraced", "OrderPlaced"),
    ];
    outbox::enqueue_all(&mut *db, &events).await.expect("enqueues");

    let source = SqliteSource::open(&path).await.expect("opens");
    let relay = Relay::new(source, MemorySink::new());
    let (stats, stop) = (relay.stats(), CancellationToken::new());
    let relay = tokio::spawn(relay.run(stop.clone()));
    while spans.get_finished_spans().expect("keeps them").is_empty() {
        assert!(!relay.is_finished(), "the relay has ended");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    meters.force_flush().expect("collects");
    stop.cancel();
    relay.await.expect("does not panic").expect("ends well");

    let finished = spans.get_finished_spans().expect("keeps them");
    let span = &finished[0];
    assert_eq!((span.name.as_ref(), &span.span_kind), ("publish outbox_event", &SpanKind::Producer));
    assert_eq!(span.parent_span_id, SpanId::INVALID, "it has no parent");
    let links: Vec<String> = span.links.iter().map(|link| link.span_context.span_id().to_string()).collect();
    assert_eq!(links, ["b7ad6b7169203331", "b7ad6b7169203333"], "each recorded context once");
    assert!(span.links.iter().all(|link| link.span_context.trace_id().to_string() == TRACE));
    let events = span.attributes.iter().find(|a| a.key.as_str() == "messaging.batch.message_count");
    assert_eq!(events.expect("is there").value.as_str(), "5");

    assert_eq!(stats.published.get(), 5);
    assert_eq!(published(&metrics), Some(5));
}

/// What the counter `outbox.published` said last.
fn published(metrics: &InMemoryMetricExporter) -> Option<u64> {
    let collected = metrics.get_finished_metrics().expect("keeps them");
    let all = collected.iter().flat_map(|one| one.scope_metrics()).flat_map(|scope| scope.metrics());
    let last = all.filter(|metric| metric.name() == "outbox.published").last()?;
    match last.data() {
        AggregatedMetrics::U64(MetricData::Sum(sum)) => sum.data_points().next().map(|point| point.value()),
        other => panic!("a counter is a sum: {other:?}"),
    }
}
