//! What is traced, by OpenTelemetry: a span named `idempotency` around each request under a key, from the claim to
//! the answer that is kept. Its parent is whatever is active where the request came in; the handler's own spans are
//! below it. Spans carry the key's id, never the key.

use crate::{Direction, KeyId};

/// Runs `work` in a span of its own. The span is begun when this is called, and ends with the work.
#[cfg(feature = "otel")]
pub(crate) fn traced<W: Future>(
    id: &KeyId,
    direction: Direction,
    work: W,
) -> impl Future<Output = W::Output> + use<W> {
    use std::sync::OnceLock;

    use opentelemetry::global::{self, BoxedTracer};
    use opentelemetry::trace::{FutureExt, Span as _, TraceContextExt, Tracer, get_active_span};
    use opentelemetry::{Context, KeyValue};

    // Looked up once: a provider that is installed before the first request is the one that traces.
    static TRACER: OnceLock<BoxedTracer> = OnceLock::new();
    let tracer = TRACER.get_or_init(|| global::tracer("idempotency"));
    let direction = match direction {
        Direction::Action => "action",
        Direction::Compensation => "compensation",
        Direction::Settle => "settle",
    };
    let parent = Context::current();
    let mut span = tracer.start_with_context("idempotency", &parent);
    if span.is_recording() {
        span.set_attribute(KeyValue::new("idempotency.key", format!("{id:?}")));
        span.set_attribute(KeyValue::new("idempotency.direction", direction));
    }
    let work = async move {
        let output = work.await;
        // A task that the handler has left behind may hold on to the context.
        get_active_span(|span| span.end());
        output
    };
    work.with_context(parent.with_span(span))
}

#[cfg(not(feature = "otel"))]
pub(crate) fn traced<W: Future>(
    _: &KeyId,
    _: Direction,
    work: W,
) -> impl Future<Output = W::Output> + use<W> {
    work
}
