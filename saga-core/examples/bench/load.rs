//! Keeps so many sagas in flight for so long.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use saga_core::store::Backend;
use saga_core::{Client, Cx, Definition, Ended, StepError, Worker, step};
use serde::Serialize;

use crate::counted::{Counted, Counts};
use crate::{limit, process};

/// What one run measured.
#[derive(Serialize)]
pub(crate) struct Run {
    pub(crate) in_flight: usize,
    pub(crate) sagas_s: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    /// Journal rows per saga.
    pub(crate) commits: f64,
    /// Batches sent to the store per saga.
    pub(crate) round_trips: f64,
    /// WAL bytes per saga, where the database counts them.
    pub(crate) wal_bytes: Option<f64>,
    /// Of this process alone: microseconds per saga.
    pub(crate) cpu_us: f64,
    pub(crate) rss_mib: f64,
}

impl Run {
    pub(crate) const HEADER: &str = "in flight   sagas/s   steps/s   p50 ms   p99 ms  p999 ms  commits  round trips  WAL B/saga  CPU us/saga  RSS MiB";
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wal = self.wal_bytes.map_or("-".into(), |bytes| format!("{bytes:.0}"));
        write!(
            f,
            "{:>9} {:>9.0} {:>9.0} {:>8.2} {:>8.2} {:>8.2} {:>8.2} {:>12.3} {:>11} {:>12.0} {:>8.0}",
            self.in_flight,
            self.sagas_s,
            self.sagas_s * 3.0,
            self.p50_ms,
            self.p99_ms,
            self.p999_ms,
            self.commits,
            self.round_trips,
            wal,
            self.cpu_us,
            self.rss_mib
        )
    }
}

async fn pass(_: Cx<()>, payload: String) -> Result<String, StepError> {
    Ok(payload)
}

async fn undo(_: Cx<()>, _: String, _: String) -> Result<(), StepError> {
    Ok(())
}

pub(crate) fn definition() -> Result<Definition<(), String, String>, Box<dyn Error>> {
    let (mut b, input) = Definition::build::<(), String>("bench", 1);
    let one = b.add(step("one", pass).compensate(undo), input);
    let two = b.add(step("two", pass).compensate(undo), one);
    let three = b.add(step("three", pass).compensate(undo), two);
    Ok(b.finish(three)?)
}

pub(crate) async fn run(
    url: &str,
    backend: &Backend,
    in_flight: usize,
    lanes: Option<usize>,
    seconds: Duration,
) -> Result<Run, Box<dyn Error>> {
    let counts = Arc::new(Counts::default());
    let counted = Counted { store: backend.store.clone(), counts: counts.clone(), lanes };
    let backend = Backend { store: Arc::new(counted), ..backend.clone() };
    let definition = definition()?;
    let worker = Worker::new(backend, ()).register(&definition)?.start().await?;
    let client = worker.client();

    // Warm connections, plans and caches, unmeasured.
    drive(&client, &definition, in_flight, seconds / 5).await?;
    let wal = limit::wal_bytes(url).await?;
    let (cpu, batches, commits) =
        (process::cpu_seconds(), counts.batches.load(Relaxed), counts.commits.load(Relaxed));
    let began = Instant::now();
    let mut latencies = drive(&client, &definition, in_flight, seconds).await?;
    let took = began.elapsed().as_secs_f64();
    let sagas = latencies.len() as f64;
    let wal_after = limit::wal_bytes(url).await?;
    let rss_mib = process::rss_mib();
    let cpu_us = (process::cpu_seconds() - cpu) * 1e6 / sagas;
    worker.drain().await;

    latencies.sort_unstable();
    let quantile = |q: f64| latencies[((sagas - 1.0) * q) as usize].as_secs_f64() * 1e3;
    Ok(Run {
        in_flight,
        sagas_s: sagas / took,
        p50_ms: quantile(0.5),
        p99_ms: quantile(0.99),
        p999_ms: quantile(0.999),
        commits: (counts.commits.load(Relaxed) - commits) as f64 / sagas,
        round_trips: (counts.batches.load(Relaxed) - batches) as f64 / sagas,
        wal_bytes: wal.zip(wal_after).map(|(before, after)| (after - before) / sagas),
        cpu_us,
        rss_mib,
    })
}

/// Each of `in_flight` tasks starts a saga, waits for its end, and starts the next.
async fn drive(
    client: &Client,
    definition: &Definition<(), String, String>,
    in_flight: usize,
    seconds: Duration,
) -> Result<Vec<Duration>, Box<dyn Error>> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let prefix = saga_core::RunId::new();
    let until = Instant::now() + seconds;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..in_flight {
        let (client, definition) = (client.clone(), definition.clone());
        tasks.spawn(async move {
            let payload = "x".repeat(98); // with its quotes: 100 bytes
            let mut latencies = Vec::new();
            while Instant::now() < until {
                let began = Instant::now();
                let id = format!("{prefix}-{}", NEXT.fetch_add(1, Relaxed));
                let saga = client.start(&definition, &id, &payload).await?;
                match saga.wait().await? {
                    Ended::Completed(_) => latencies.push(began.elapsed()),
                    other => unreachable!("no step fails: {other:?}"),
                }
            }
            Ok::<_, saga_core::client::Error>(latencies)
        });
    }
    let mut all = Vec::new();
    while let Some(latencies) = tasks.join_next().await {
        all.extend(latencies??);
    }
    Ok(all)
}
