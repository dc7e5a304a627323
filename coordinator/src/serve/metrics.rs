//! `/metrics`: what the store says about all sagas, in Prometheus' text format.
//!
//! Labels hold definitions, versions and states, never ids. Counting what has ended reads as much as the
//! store holds, so those who ask share one count, for longer the longer it took.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use chrono::Utc;
use saga_core::Name;
use saga_core::admin::{Admin, Error};
use saga_core::journal::Timestamp;
use saga_core::store::{Counts, InFlight, State as RunState, WorkerInfo};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::App;

/// How long a count is good for, at least.
const FRESH: Duration = Duration::from_secs(5);

/// Counting may take one twentieth of the time.
const SHARE: u32 = 20;

/// The last count, and until when it is good.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    counted: Mutex<Option<(Instant, Vec<Counts>)>>,
}

impl Metrics {
    /// How many runs are in which state, a few seconds ago.
    pub(crate) async fn counts(&self, admin: &Admin) -> Result<Vec<Counts>, Error> {
        // Whoever comes while it is counted waits here, and then shares the count.
        let mut counted = self.counted.lock().await;
        let begun = Instant::now();
        if let Some((_, counts)) = counted.as_ref().filter(|(until, _)| begun < *until) {
            return Ok(counts.clone());
        }
        let counts = admin.counts().await?;
        let good_for = FRESH.max(begun.elapsed() * SHARE);
        *counted = Some((Instant::now() + good_for, counts.clone()));
        Ok(counts)
    }
}

/// The store that does not answer is a value of its own (`saga_store_up 0`): the page still answers, so
/// that "the store is down" and "saga serve is down" are two alerts.
pub(crate) async fn metrics(State(app): State<App>) -> impl IntoResponse {
    let mut text = Text::default();
    let asked = async {
        let counts = app.metrics.counts(&app.admin).await?;
        let in_flight = app.admin.in_flight().await?;
        let workers = app.admin.workers().await?;
        Ok::<_, Error>((counts, in_flight, workers))
    };
    let answered = asked.await;
    text.gauge(
        "saga_store_up",
        "Whether the store answers.",
        [(&[][..], f64::from(u8::from(answered.is_ok())))],
    );
    match answered {
        Ok((counts, in_flight, workers)) => text.sagas(&counts, &in_flight, &workers, Utc::now()),
        Err(error) => tracing::warn!(%error, "the store does not answer for metrics"),
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text.0)
}

/// Text under construction.
#[derive(Debug, Default)]
struct Text(String);

type Labels<'a> = &'a [(&'a str, String)];

impl Text {
    fn gauge<'a>(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels<'a>, f64)>) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in values {
            let labels: Vec<_> =
                labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escaped(value))).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }

    fn sagas(&mut self, counts: &[Counts], in_flight: &[InFlight], workers: &[WorkerInfo], now: Timestamp) {
        let age = |since: Timestamp| (now - since).to_std().unwrap_or_default().as_secs_f64();
        self.gauge(
            "saga_runs",
            "Sagas by definition and state.",
            runs(counts, in_flight).iter().map(|(l, v)| (&l[..], *v)),
        );

        let blocked: Vec<_> = in_flight
            .iter()
            .filter(|group| group.state == RunState::Blocked)
            .map(|group| (plan(group), age(group.since)))
            .collect();
        self.gauge(
            "saga_blocked_oldest_age_seconds",
            "How long the longest blocked saga has needed a person.",
            blocked.iter().map(|(l, v)| (&l[..], *v)),
        );

        let mut overdue: Vec<_> = Vec::new();
        let mut overdue_age: Vec<_> = Vec::new();
        for group in in_flight.iter().filter(|group| group.overdue > 0) {
            let mut labels = plan(group).to_vec();
            labels.push(("state", group.state.as_str().to_owned()));
            overdue.push((labels.clone(), group.overdue as f64));
            overdue_age.push((labels, group.overdue_since.map_or(0.0, age)));
        }
        self.gauge(
            "saga_overdue",
            "Sagas that are due and that no worker owns: they wait for code, or for workers.",
            overdue.iter().map(|(l, v)| (&l[..], *v)),
        );
        self.gauge(
            "saga_overdue_oldest_age_seconds",
            "How long the longest overdue saga has been due.",
            overdue_age.iter().map(|(l, v)| (&l[..], *v)),
        );

        let serving = workers.iter().filter(|worker| !worker.fenced).count() as f64;
        let fenced = workers.iter().filter(|worker| worker.fenced).count() as f64;
        let state = |name: &str| [("state", name.to_owned())];
        self.gauge(
            "saga_workers",
            "Workers that are not drained: serving, or fenced and not drained yet.",
            [(&state("serving")[..], serving), (&state("fenced")[..], fenced)],
        );
        let renewed = workers.iter().filter(|w| !w.fenced).map(|w| age(w.renewed_at)).reduce(f64::max);
        self.gauge(
            "saga_worker_renewal_oldest_age_seconds",
            "How long ago the most silent serving worker renewed its lease.",
            renewed.map(|age| (&[][..], age)),
        );
        let owned = workers.iter().map(|worker| worker.sagas).sum::<u64>() as f64;
        self.gauge("saga_owned", "Sagas that a worker owns.", [(&[][..], owned)]);
    }
}

/// What is in flight as it is now, and what has ended as it was counted last.
fn runs(counts: &[Counts], in_flight: &[InFlight]) -> Vec<([(&'static str, String); 2], f64)> {
    let live = in_flight.iter().map(|group| (&group.definition, group.state, group.runs));
    let ended = counts.iter().filter(|count| matches!(count.state, RunState::Ended(_)));
    let ended = ended.map(|count| (&count.definition, count.state, count.runs));
    let mut runs: BTreeMap<_, u64> = BTreeMap::new();
    for (definition, state, number) in live.chain(ended) {
        *runs.entry((definition, state.as_str())).or_default() += number;
    }
    let labels =
        |definition: &Name, state: &str| [("definition", definition.to_string()), ("state", state.into())];
    runs.into_iter().map(|((definition, state), runs)| (labels(definition, state), runs as f64)).collect()
}

fn plan(group: &InFlight) -> [(&'static str, String); 2] {
    [("definition", group.definition.to_string()), ("version", group.version.to_string())]
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let mut text = Text::default();
        let labels = [("definition", "a\"b\\c\nd".to_owned())];
        text.gauge("saga_runs", "Sagas.", [(&labels[..], 3.0), (&[][..], 0.5)]);
        assert_eq!(
            text.0,
            "# HELP saga_runs Sagas.\n# TYPE saga_runs gauge\nsaga_runs{definition=\"a\\\"b\\\\c\\nd\"} 3\nsaga_runs 0.5\n"
        );
    }
}
