//! Spans and metrics, as OpenTelemetry has them.
//!
//! Only its interface is used here: nothing is recorded until somebody installs a provider, a service its
//! own, the sidecar one that sends to a collector (feature `otlp`).
//!
//! A batch has many causes, so its span is nobody's child: it is *linked* to the contexts in which its
//! events were written. The events themselves carry those contexts on to their consumers unchanged.

use crate::event::Event;
use crate::route::trace;
use crate::stats::Stats;
use crate::window::Ticket;
use opentelemetry::global::{self, BoxedSpan};
use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, TraceFlags, TraceId, TraceState, Tracer as _,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

const SCOPE: &str = "outbox-relay";
/// OpenTelemetry's own default for the links of a span.
const LINKS_MAX: usize = 128;

/// A span over many events, linked to where they come from.
pub(crate) fn batch<'a>(
    kind: SpanKind,
    operation: &'static str,
    destination: &str,
    traceparents: impl ExactSizeIterator<Item = Option<Cow<'a, str>>>,
) -> BoxedSpan {
    let tracer = global::tracer(SCOPE);
    let builder = tracer.span_builder(format!("{operation} {destination}")).with_kind(kind);
    let mut span = tracer.build_with_context(builder, &Context::new());
    if span.is_recording() {
        span.set_attributes([
            KeyValue::new("messaging.system", "kafka"),
            KeyValue::new("messaging.operation.name", operation),
            KeyValue::new("messaging.batch.message_count", traceparents.len() as i64),
        ]);
        let mut last = None;
        let written_in = traceparents.flatten().filter_map(|text| span_context(&text)).filter(|context| {
            // The events of one transaction were written in one context.
            last.replace(context.span_id()) != Some(context.span_id())
        });
        written_in.take(LINKS_MAX).for_each(|context| span.add_link(context, Vec::new()));
    }
    span
}

/// The spans of the pages that are being published, each until all of its events are done.
#[derive(Debug)]
pub(crate) struct Pages {
    outbox: String,
    open: VecDeque<(Ticket, BoxedSpan)>,
}

impl Pages {
    pub(crate) fn new(outbox: &str) -> Self {
        Self { outbox: outbox.to_owned(), open: VecDeque::new() }
    }

    /// Begins a page's span; answers it until [`Self::opened`].
    pub(crate) fn begin(&self, events: &[Event]) -> Option<BoxedSpan> {
        if events.is_empty() {
            // The end of one that was read before, or a sign of the log's.
            return None;
        }
        let contexts = events.iter().map(|event| event.trace().and_then(trace::traceparent));
        let span = batch(SpanKind::Producer, "publish", &self.outbox, contexts);
        span.is_recording().then_some(span)
    }

    /// All of the page's events have lower tickets than this one.
    pub(crate) fn opened(&mut self, span: Option<BoxedSpan>, next: Ticket) {
        self.open.extend(span.map(|span| (next, span)));
    }

    /// Everything before this ticket is done.
    pub(crate) fn done(&mut self, first: Ticket) {
        while self.open.front().is_some_and(|(next, _)| *next <= first) {
            self.open.pop_front().expect("there is a front").1.end();
        }
    }
}

/// Shows a relay's counters and gauges, for as long as there is the relay.
pub(crate) fn observe(stats: &Arc<Stats>, outbox: &str) {
    let scope = InstrumentationScope::builder(SCOPE).build();
    let meter = global::meter_with_scope(scope);
    for (index, number) in stats.counters().into_iter().enumerate() {
        let (watched, outbox) = (Arc::downgrade(stats), KeyValue::new("outbox", outbox.to_owned()));
        let instrument = meter.u64_observable_counter(format!("outbox.{}", number.name));
        let _ = instrument
            .with_description(number.help)
            .with_callback(move |observer| {
                if let Some(stats) = watched.upgrade() {
                    observer.observe(stats.counters()[index].value, std::slice::from_ref(&outbox));
                }
            })
            .build();
    }
    for (index, number) in stats.gauges().into_iter().enumerate() {
        let (watched, outbox) = (Arc::downgrade(stats), KeyValue::new("outbox", outbox.to_owned()));
        let instrument = meter.f64_observable_gauge(format!("outbox.{}", number.name));
        let _ = instrument
            .with_description(number.help)
            .with_callback(move |observer| {
                if let Some(stats) = watched.upgrade() {
                    observer.observe(stats.gauges()[index].value, std::slice::from_ref(&outbox));
                }
            })
            .build();
    }
}

/// What a `traceparent` says, if the trace is one that is recorded.
fn span_context(traceparent: &str) -> Option<SpanContext> {
    let mut parts = traceparent.trim().split('-');
    let (_version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if (trace.len(), span.len()) != (32, 16) {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let context = SpanContext::new(trace, span, flags, true, TraceState::default());
    (context.is_valid() && context.is_sampled()).then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_trace_is_linked_and_nothing_else() {
        let recorded =
            span_context("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").expect("valid");
        assert_eq!(recorded.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert!(recorded.is_remote());
        for other in [
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7-b7ad-01",
            "nonsense",
            "",
        ] {
            assert!(span_context(other).is_none(), "{other:?}");
        }
    }
}
