//! What is counted, by OpenTelemetry: `idempotency.requests`, with the attribute `idempotency.outcome`, which the
//! request's span (`trace.rs`) gets, too.

/// What became of one request under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "http"), allow(dead_code, reason = "some outcomes are the HTTP layer's alone"))]
pub(crate) enum Outcome {
    Executed,
    Released,
    Replayed,
    ReplayedAfterWait,
    Mismatch,
    InFlight,
    TakenOver,
    Unknown,
    Tombstoned,
    StoreError,
    Unprotected,
    Ruled,
    Refused,
}

impl Outcome {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Executed => "executed",
            Self::Released => "released",
            Self::Replayed => "replayed",
            Self::ReplayedAfterWait => "replayed_after_wait",
            Self::Mismatch => "mismatch",
            Self::InFlight => "in_flight",
            Self::TakenOver => "taken_over",
            Self::Unknown => "unknown",
            Self::Tombstoned => "tombstoned",
            Self::StoreError => "store_error",
            Self::Unprotected => "unprotected",
            Self::Ruled => "ruled",
            Self::Refused => "refused",
        }
    }
}

#[cfg(feature = "otel")]
pub(crate) fn count(outcome: Outcome) {
    use std::sync::OnceLock;

    use opentelemetry::KeyValue;
    use opentelemetry::metrics::Counter;
    use opentelemetry::trace::{Status, get_active_span};

    // Looked up once: a meter provider that is installed before the first request is the one that counts.
    static REQUESTS: OnceLock<Counter<u64>> = OnceLock::new();
    let requests = REQUESTS.get_or_init(|| {
        opentelemetry::global::meter("idempotency")
            .u64_counter("idempotency.requests")
            .with_description("Requests under an idempotency key, by what became of them")
            .build()
    });
    let outcome_is = KeyValue::new("idempotency.outcome", outcome.as_str());
    requests.add(1, std::slice::from_ref(&outcome_is));
    get_active_span(|span| {
        span.set_attribute(outcome_is);
        if outcome == Outcome::StoreError {
            span.set_status(Status::error("the idempotency store did not answer"));
        }
    });
    tracing::debug!(outcome = outcome.as_str(), "idempotency");
}

#[cfg(not(feature = "otel"))]
pub(crate) fn count(outcome: Outcome) {
    tracing::debug!(outcome = outcome.as_str(), "idempotency");
}
