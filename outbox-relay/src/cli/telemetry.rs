//! Sending spans and metrics to an OpenTelemetry collector, if the environment names one.
//!
//! `OTEL_EXPORTER_OTLP_ENDPOINT` and the other variables of the OpenTelemetry specification say where to
//! and how. It is sent over plain HTTP: to a collector beside this process, which knows the way on.

use super::Failed;

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// Sends until it is dropped, and then what is left.
#[derive(Debug)]
pub(super) struct Telemetry {
    #[cfg(feature = "otlp")]
    providers:
        Option<(opentelemetry_sdk::trace::SdkTracerProvider, opentelemetry_sdk::metrics::SdkMeterProvider)>,
}

fn is_wanted() -> bool {
    std::env::var_os(ENDPOINT).is_some_and(|endpoint| !endpoint.is_empty())
}

#[cfg(not(feature = "otlp"))]
pub(super) fn start() -> Result<Telemetry, Failed> {
    if is_wanted() {
        return Err(format!(
            "{ENDPOINT} is set, and this program was built without the feature `otlp`: unset it, or build with \
             --features otlp"
        )
        .into());
    }
    Ok(Telemetry {})
}

#[cfg(feature = "otlp")]
pub(super) fn start() -> Result<Telemetry, Failed> {
    use opentelemetry_otlp::{MetricExporter, SpanExporter};
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::metrics::SdkMeterProvider;
    use opentelemetry_sdk::trace::SdkTracerProvider;

    if !is_wanted() {
        return Ok(Telemetry { providers: None });
    }
    let named = std::env::var("OTEL_SERVICE_NAME").unwrap_or_else(|_| "outbox-relay".into());
    let resource = Resource::builder().with_service_name(named).build();
    let spans = SpanExporter::builder().with_http().build()?;
    let spans =
        SdkTracerProvider::builder().with_resource(resource.clone()).with_batch_exporter(spans).build();
    let metrics = MetricExporter::builder().with_http().build()?;
    let metrics = SdkMeterProvider::builder().with_resource(resource).with_periodic_exporter(metrics).build();
    opentelemetry::global::set_tracer_provider(spans.clone());
    opentelemetry::global::set_meter_provider(metrics.clone());
    Ok(Telemetry { providers: Some((spans, metrics)) })
}

#[cfg(feature = "otlp")]
impl Drop for Telemetry {
    fn drop(&mut self) {
        let Some((spans, metrics)) = &self.providers else { return };
        // Both at once: a collector that hangs is waited for only once.
        let ended = std::thread::scope(|scope| {
            let spans = scope.spawn(|| spans.shutdown());
            [metrics.shutdown(), spans.join().expect("shutting down does not panic")]
        });
        for ended in ended {
            if let Err(error) = ended {
                tracing::warn!(%error, "not all spans and metrics could be sent");
            }
        }
    }
}
