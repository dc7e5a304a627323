//! The sidecar and an OpenTelemetry collector: what arrives there, and what a broken one does to the events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, metric::Data, number_data_point};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use outbox::Message;
use outbox_relay::stats::Stats;
use prost::Message as _;
use sqlx::{Connection, PgConnection};
use tests::servers::postgres::{Database, fresh_database};
use tests::servers::{Kafka, free_port};
use tokio::net::TcpListener;
use uuid::Uuid;

use super::sidecar::{Running, Sidecar, consume, consumer_of_debezium};

const SERVICE: &str = "shop-relay";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// What a collector was told.
#[derive(Default)]
struct Told {
    /// The last value of each metric, by its name.
    values: BTreeMap<String, f64>,
    spans: Vec<Span>,
    /// Services and outboxes that anything was said of.
    services: BTreeSet<String>,
    outboxes: BTreeSet<String>,
}

/// A collector that speaks OTLP over HTTP, in protobuf.
struct Collector {
    told: Arc<Mutex<Told>>,
    endpoint: String,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Collector {
    async fn start() -> Self {
        let told: Arc<Mutex<Told>> = Arc::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let collector = Router::new()
            .route("/v1/metrics", post(metrics))
            .route("/v1/traces", post(traces))
            .with_state(told.clone());
        let serving = tokio::spawn(async move { axum::serve(listener, collector).await.unwrap() });
        Self { told, endpoint, serving }
    }

    async fn until(&self, what: &str, holds: impl Fn(&Told) -> bool) {
        for _ in 0..6_000 {
            if holds(&self.told.lock().unwrap()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("waited in vain for {what}: {:?}", self.told.lock().unwrap().values);
    }
}

async fn metrics(State(told): State<Arc<Mutex<Told>>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    assert_eq!(headers["content-type"], "application/x-protobuf");
    let request = ExportMetricsServiceRequest::decode(body).unwrap();
    let mut told = told.lock().unwrap();
    for resource in request.resource_metrics {
        told.services.insert(service(resource.resource.as_ref()));
        for metric in resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
            assert!(!metric.description.is_empty(), "{} says what it is", metric.name);
            let points = match metric.data.unwrap() {
                Data::Gauge(gauge) => gauge.data_points,
                Data::Sum(sum) => {
                    assert!(sum.is_monotonic, "{} only rises", metric.name);
                    assert_eq!(sum.aggregation_temporality(), AggregationTemporality::Cumulative);
                    sum.data_points
                }
                other => panic!("{} is neither counter nor gauge: {other:?}", metric.name),
            };
            for point in points {
                let value = match point.value.unwrap() {
                    number_data_point::Value::AsInt(value) => value as f64,
                    number_data_point::Value::AsDouble(value) => value,
                };
                told.values.insert(metric.name.clone(), value);
                told.outboxes.extend(text(&point.attributes, "outbox"));
            }
        }
    }
    StatusCode::OK
}

async fn traces(State(told): State<Arc<Mutex<Told>>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    assert_eq!(headers["content-type"], "application/x-protobuf");
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let mut told = told.lock().unwrap();
    for resource in request.resource_spans {
        told.services.insert(service(resource.resource.as_ref()));
        for scope in resource.scope_spans {
            assert_eq!(scope.scope.unwrap().name, "outbox-relay");
            told.spans.extend(scope.spans);
        }
    }
    StatusCode::OK
}

fn service(resource: Option<&Resource>) -> String {
    text(&resource.unwrap().attributes, "service.name").expect("a resource names its service")
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    match attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

fn events(span: &Span) -> i64 {
    let count = span.attributes.iter().find(|attribute| attribute.key == "messaging.batch.message_count");
    match count.unwrap().value.as_ref().unwrap().value.as_ref().unwrap() {
        Value::IntValue(count) => *count,
        other => panic!("{other:?} is no number"),
    }
}

/// An outbox of this crate's own, and a broker.
async fn shop() -> (Database, PgConnection, Kafka) {
    let (database, kafka) = tokio::join!(fresh_database(), Kafka::start());
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    outbox::migrate(&mut connection).await.unwrap();
    kafka.create_topic("outbox.event.order", 3).await;
    (database, connection, kafka)
}

async fn place(connection: &mut PgConnection, span: &str) -> Uuid {
    let message = Message::new("order", 7, "OrderPlaced").payload("{}");
    let message = message.trace(&format!("00-{TRACE}-{span}-01"), None);
    let id = message.event_id();
    outbox::enqueue(connection, message).await.unwrap();
    id
}

fn sidecar(database: &Database, kafka: &Kafka, endpoint: &str) -> Sidecar {
    Sidecar::new(database, kafka)
        .set("OUTBOX_RELAY_SOURCE__TABLE", "outbox.event")
        .set("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .set("OTEL_SERVICE_NAME", SERVICE)
        .set("OTEL_METRIC_EXPORT_INTERVAL", "50")
        .set("OTEL_BSP_SCHEDULE_DELAY", "50")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_is_told_the_numbers_and_a_span_of_each_page() {
    let (database, mut connection, kafka) = shop().await;
    let collector = Collector::start().await;
    let running = Running::start(&sidecar(&database, &kafka, &collector.endpoint)).await;
    for _ in 0..5 {
        place(&mut connection, "b7ad6b7169203331").await;
    }
    collector.until("5 published", |told| told.values.get("outbox.published") == Some(&5.0)).await;
    collector.until("all of them in spans", |told| told.spans.iter().map(events).sum::<i64>() == 5).await;
    let metrics = running.get("/metrics").await.unwrap();
    for _ in 0..2 {
        place(&mut connection, "b7ad6b7169203332").await;
    }
    running.until_metric("outbox_published_total 7").await;
    assert!(running.terminate().await, "it drains and leaves");

    // What was left was sent before it ended.
    let told = collector.told.lock().unwrap();
    assert_eq!(told.values["outbox.published"], 7.0, "{:?}", told.values);
    assert_eq!((told.values["outbox.in_window"], told.values["outbox.parked_keys"]), (0.0, 0.0));
    assert_eq!(told.services.iter().collect::<Vec<_>>(), [SERVICE]);
    assert_eq!(told.outboxes.iter().collect::<Vec<_>>(), ["outbox.event"]);
    let stats = Stats::default();
    let counters = stats.counters().map(|counter| counter.name);
    let gauges = stats.gauges().map(|gauge| gauge.name);
    for name in counters.iter().chain(&gauges) {
        assert!(told.values.contains_key(&format!("outbox.{name}")), "{name} is missing");
        assert!(metrics.contains(&format!("\noutbox_{name}")), "{name} is in /metrics, too");
    }
    assert_eq!(told.values.len(), counters.len() + gauges.len(), "and nothing else: {:?}", told.values);

    assert_eq!(told.spans.iter().map(events).sum::<i64>(), 7);
    for span in &told.spans {
        assert_eq!((span.name.as_str(), span.kind()), ("publish outbox.event", SpanKind::Producer));
        assert!(span.parent_span_id.is_empty() && span.end_time_unix_nano >= span.start_time_unix_nano);
        assert_eq!(text(&span.attributes, "messaging.system").as_deref(), Some("kafka"));
        assert!(!span.links.is_empty(), "it says where its events come from");
        for link in &span.links {
            assert_eq!(format!("{:032x}", u128::from_be_bytes(link.trace_id[..].try_into().unwrap())), TRACE);
        }
    }
    let linked: BTreeSet<u64> = told
        .spans
        .iter()
        .flat_map(|span| &span.links)
        .map(|link| u64::from_be_bytes(link.span_id[..].try_into().unwrap()))
        .collect();
    assert_eq!(linked.into_iter().collect::<Vec<_>>(), [0xb7ad_6b71_6920_3331, 0xb7ad_6b71_6920_3332]);
}

/// Each in its own way: nobody is there, it never answers, it refuses.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_collector_loses_no_event() {
    let (database, mut connection, kafka) = shop().await;
    let consumer = consumer_of_debezium(&kafka);
    let asked = Arc::new(AtomicUsize::new(0));
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_at = silent.local_addr().unwrap();
    let holding = tokio::spawn({
        let asked = asked.clone();
        async move {
            let mut connections = Vec::new();
            while let Ok((connection, _)) = silent.accept().await {
                connections.push(connection);
                asked.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let refusing = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refusing_at = refusing.local_addr().unwrap();
    let refuse = {
        let asked = asked.clone();
        move || async move {
            asked.fetch_add(1, Ordering::Relaxed);
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    let refusals = tokio::spawn(async move {
        axum::serve(refusing, Router::new().fallback(refuse)).await.unwrap();
    });
    let nobody = format!("127.0.0.1:{}", free_port());
    for (collector, is_asked) in
        [(nobody, false), (silent_at.to_string(), true), (refusing_at.to_string(), true)]
    {
        asked.store(0, Ordering::Relaxed);
        let running = Running::start(&sidecar(&database, &kafka, &format!("http://{collector}"))).await;
        while is_asked && asked.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // The collector has been asked and has not answered well; the events do not care.
        for _ in 0..20 {
            let placed = place(&mut connection, "b7ad6b7169203331").await;
            assert_eq!(consume(&consumer).0, placed, "and nothing is repeated by a relay that begins again");
        }
        assert!(running.terminate().await, "it drains and leaves, with the collector {collector}");
    }
    holding.abort();
    refusals.abort();
}
