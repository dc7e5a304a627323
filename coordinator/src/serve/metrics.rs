//! `/metrics`: what the store says about all sagas, in Prometheus' text format.
//!
//! Labels hold definitions, versions and states, never ids. What is in flight is asked for each time, and decides
//! whether the store is up. Counting what has ended reads as much as the store holds: it is done beside, by one at a
//! time, and less often the longer it takes; whether it succeeds or not is nobody else's trouble.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use chrono::Utc;
use saga_core::Name;
use saga_core::admin::{Admin, Error};
use saga_core::journal::Timestamp;
use saga_core::store::{Counts, InFlight, State as RunState, WorkerInfo};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::App;

/// How long a count is good for, at least.
const FRESH: Duration = Duration::from_secs(5);

/// Counting may take one twentieth of the time.
const SHARE: u32 = 20;

/// How long a newer count is waited for.
const WAIT: Duration = Duration::from_secs(1);

/// What was counted last.
#[derive(Clone, Debug)]
pub(crate) struct Count {
    pub(crate) runs: Vec<Counts>,
    begun: Instant,
}

impl Count {
    /// In seconds.
    pub(crate) fn age(&self) -> u64 {
        self.begun.elapsed().as_secs()
    }
}

/// What is known of a count.
#[derive(Debug, Default)]
struct Known {
    last: Option<Count>,
    /// Why there is no newer one.
    failed: Option<String>,
    under_way: bool,
    /// Until when nobody counts again, also after a failure.
    until: Option<Instant>,
}

/// Counts, for all who ask.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    known: Arc<watch::Sender<Known>>,
}

impl Metrics {
    /// How many runs are in which state, as it was counted last; else why that is not known.
    pub(crate) async fn counts(&self, admin: &Admin) -> Result<Count, String> {
        self.count(admin);
        let mut seen = self.known.subscribe();
        let _late = timeout(WAIT, seen.wait_for(|known| !known.under_way)).await.is_err();
        let known = seen.borrow();
        let why = || known.failed.clone().unwrap_or_else(|| "it is still being counted".into());
        known.last.clone().ok_or_else(why)
    }

    /// Sees to it that somebody counts, if it is time.
    fn count(&self, admin: &Admin) {
        let mine = self.known.send_if_modified(|known| {
            let mine = !known.under_way && known.until.is_none_or(|until| until <= Instant::now());
            known.under_way |= mine;
            mine
        });
        if !mine {
            return;
        }
        let (known, admin) = (self.known.clone(), admin.clone());
        tokio::spawn(async move {
            let begun = Instant::now();
            let counted = admin.counts().await;
            known.send_modify(|known| {
                known.under_way = false;
                known.until = Some(Instant::now() + FRESH.max(begun.elapsed() * SHARE));
                known.failed = counted.as_ref().err().map(ToString::to_string);
                match counted {
                    Ok(runs) => known.last = Some(Count { runs, begun }),
                    Err(error) => tracing::warn!(%error, "sagas that have ended were not counted"),
                }
            });
        });
    }
}

/// The store that does not answer is a value of its own (`saga_store_up 0`): the page still answers, so
/// that "the store is down" and "saga serve is down" are two alerts. It is up if it tells all that alerts are made of.
pub(crate) async fn metrics(State(app): State<App>) -> impl IntoResponse {
    let (counts, in_flight, workers) =
        tokio::join!(app.metrics.counts(&app.admin), app.admin.in_flight(), app.admin.workers());
    let mut text = Text::default();
    let up = in_flight.is_ok() && workers.is_ok();
    text.gauge("saga_store_up", "Whether the store answers.", [(&[][..], f64::from(u8::from(up)))]);
    let told = |error: Error| tracing::warn!(%error, "the store does not answer for metrics");
    let counts = counts.ok();
    text.runs(counts.as_ref(), in_flight.as_deref().ok());
    if let Ok(in_flight) = in_flight.map_err(told) {
        text.in_flight(&in_flight, Utc::now());
    }
    if let Ok(workers) = workers.map_err(told) {
        text.workers(&workers, Utc::now());
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

    fn runs(&mut self, counted: Option<&Count>, in_flight: Option<&[InFlight]>) {
        let ended = counted.map_or(&[][..], |count| &count.runs);
        self.gauge(
            "saga_runs",
            "Sagas by definition and state; those that have ended as they were counted last.",
            runs(ended, in_flight.unwrap_or_default()).iter().map(|(l, v)| (&l[..], *v)),
        );
        self.gauge(
            "saga_counted_age_seconds",
            "How long ago the sagas that have ended were counted.",
            counted.map(|count| (&[][..], count.age() as f64)),
        );
    }

    fn in_flight(&mut self, in_flight: &[InFlight], now: Timestamp) {
        let blocked: Vec<_> = in_flight
            .iter()
            .filter(|group| group.state == RunState::Blocked)
            .map(|group| (plan(group), age(group.since, now)))
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
            overdue_age.push((labels, group.overdue_since.map_or(0.0, |since| age(since, now))));
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
    }

    fn workers(&mut self, workers: &[WorkerInfo], now: Timestamp) {
        let serving = workers.iter().filter(|worker| !worker.fenced).count() as f64;
        let fenced = workers.iter().filter(|worker| worker.fenced).count() as f64;
        let state = |name: &str| [("state", name.to_owned())];
        self.gauge(
            "saga_workers",
            "Workers that are not drained: serving, or fenced and not drained yet.",
            [(&state("serving")[..], serving), (&state("fenced")[..], fenced)],
        );
        let renewed = workers.iter().filter(|w| !w.fenced).map(|w| age(w.renewed_at, now)).reduce(f64::max);
        self.gauge(
            "saga_worker_renewal_oldest_age_seconds",
            "How long ago the most silent serving worker renewed its lease.",
            renewed.map(|age| (&[][..], age)),
        );
        let owned = workers.iter().map(|worker| worker.sagas).sum::<u64>() as f64;
        self.gauge("saga_owned", "Sagas that a worker owns.", [(&[][..], owned)]);
    }
}

/// In seconds.
fn age(since: Timestamp, now: Timestamp) -> f64 {
    (now - since).to_std().unwrap_or_default().as_secs_f64()
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
