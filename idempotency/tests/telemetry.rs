//! What OpenTelemetry is told: a count and a span for each request, by what became of it, and no key.

use std::collections::HashMap;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::routing::post;
use idempotency::once::{Failed, Once};
use idempotency::{IdempotencyLayer, Key, MemoryStore, Scope, Secret};
use opentelemetry::trace::{FutureExt, TraceContextExt, Tracer};
use opentelemetry::{Context, Value, global};
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tower::ServiceExt;

const CANARY: &str = "canary-7f3a";

#[tokio::test]
async fn each_request_is_counted_and_traced_by_what_became_of_it() {
    let spans = InMemorySpanExporter::default();
    let tracers = SdkTracerProvider::builder().with_simple_exporter(spans.clone()).build();
    let counts = InMemoryMetricExporter::default();
    let meters =
        SdkMeterProvider::builder().with_reader(PeriodicReader::builder(counts.clone()).build()).build();
    global::set_tracer_provider(tracers.clone());
    global::set_meter_provider(meters.clone());

    let handler = |body: String| async move {
        global::tracer("the handler").start("charging");
        if body == "fail" { StatusCode::BAD_GATEWAY } else { StatusCode::CREATED }
    };
    let layer = IdempotencyLayer::leased(MemoryStore::new(), Secret::new([5; 32])).global_keys().required();
    let app = Router::new().route("/charges", post(handler)).layer(layer);
    let send = async |key: &str, body: &'static str| {
        let request = Request::post("/charges").header("idempotency-key", format!("\"{CANARY}-{key}\""));
        let server = global::tracer("the server").start("POST /charges");
        let context = Context::current().with_span(server);
        let response = app.clone().oneshot(request.body(Body::from(body)).unwrap());
        response.with_context(context).await.unwrap().status().as_u16()
    };
    for (key, body, status) in
        [("k", "ok", 201), ("k", "ok", 201), ("k", "other", 422), ("l", "fail", 502), ("l", "fail", 409)]
    {
        assert_eq!(send(key, body).await, status);
    }
    let once = Once::new(MemoryStore::new(), Secret::new([5; 32]), Scope::of(["mailer"]));
    let key = Key::new(CANARY).unwrap();
    once.run(&key, "mail", &(), |_| async { Ok::<_, Failed<std::io::Error>>(()) }).await.unwrap();

    meters.force_flush().unwrap();
    let expected = [("executed", 2), ("replayed", 1), ("mismatch", 1), ("unknown", 2)];
    assert_eq!(counted(&counts), HashMap::from(expected.map(|(word, count)| (word.to_owned(), count))));

    tracers.force_flush().unwrap();
    let all = spans.get_finished_spans().unwrap();
    let own: Vec<&SpanData> = all.iter().filter(|span| span.name == "idempotency").collect();
    let outcomes: Vec<String> = own.iter().map(|span| attribute(span, "idempotency.outcome")).collect();
    assert_eq!(outcomes, ["executed", "replayed", "mismatch", "unknown", "unknown", "executed"]);
    let servers: Vec<_> = all.iter().filter(|span| span.name == "POST /charges").collect();
    for (span, server) in own.iter().zip(&servers) {
        assert_eq!(span.parent_span_id, server.span_context.span_id(), "its parent is the server's span");
    }
    let charging = all.iter().find(|span| span.name == "charging").unwrap();
    assert_eq!(charging.parent_span_id, own[0].span_context.span_id(), "the handler's span is below it");
    assert_eq!(attribute(own[0], "idempotency.direction"), "action");
    assert!(!format!("{all:?}").contains(CANARY), "no key is told to anybody");
}

fn attribute(span: &SpanData, name: &str) -> String {
    let found = span.attributes.iter().find(|own| own.key.as_str() == name);
    match found.map(|own| &own.value) {
        Some(Value::String(text)) => text.as_str().to_owned(),
        other => panic!("{name} is {other:?}"),
    }
}

/// `idempotency.requests`, by outcome.
fn counted(counts: &InMemoryMetricExporter) -> HashMap<String, u64> {
    let finished = counts.get_finished_metrics().unwrap();
    let last = finished.last().expect("something was counted");
    let metrics = last.scope_metrics().flat_map(|scope| scope.metrics());
    let requests = metrics.into_iter().find(|metric| metric.name() == "idempotency.requests").unwrap();
    let AggregatedMetrics::U64(MetricData::Sum(sum)) = requests.data() else { panic!("not a counter") };
    let point = |point: &opentelemetry_sdk::metrics::data::SumDataPoint<u64>| {
        let outcome = point.attributes().find(|own| own.key.as_str() == "idempotency.outcome").unwrap();
        (outcome.value.as_str().into_owned(), point.value())
    };
    sum.data_points().map(point).collect()
}
