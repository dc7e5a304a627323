//! From a commit's answer to the broker's acknowledgement.
//!
//! The relay runs in this process, so that one clock sees both, on a runtime of its own, as the sidecar has. The limit
//! is what the broker takes on this machine beside the same writers, when each event is handed to the same producer as
//! soon as its commit is answered: no relay could know of it earlier.

use crate::broker::Broker;
use crate::database::Database;
use crate::{report, setting};
use async_trait::async_trait;
use outbox::uuid::Uuid;
use outbox_relay::route::{Headers, Record};
use outbox_relay::sink::{Delivery, Failure, Sink};
use outbox_relay::tokio_util::sync::CancellationToken;
use outbox_relay::{KafkaSink, PostgresSource, Relay, Result, Routes, Tail};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const WRITERS: i64 = 8;
const PAYLOAD: [u8; 200] = [b'x'; 200];

/// For so long connections are made, plans and code are compiled, and nothing is counted.
const WARM_UP: Duration = Duration::from_secs(2);

pub(crate) async fn measure(database: &Database, broker: &Broker) {
    database.empty().await;
    let (producer, handed) = hand_over(broker).await;
    let committed = write(database, Some(handed)).await;
    show(report::bound, "the producer alone", &committed, &producer.await_all(committed.events).await);
    for streams in [true, false] {
        database.empty().await;
        let relay = start(database, broker, streams).await;
        let committed = write(database, None).await;
        let way = if streams { "streaming" } else { "polling" };
        show(report::fact, way, &committed, &relay.await_all(committed.events).await);
    }
}

/// When each event was committed, as its writer knows, and none of the first moments.
struct Committed {
    at: HashMap<Uuid, Instant>,
    /// With those of the first moments.
    events: usize,
    per_second: f64,
}

/// What publishes, on threads of its own.
struct Running {
    thread: std::thread::JoinHandle<Result<()>>,
    stop: CancellationToken,
    arrived: Arc<Mutex<HashMap<Uuid, Instant>>>,
}

async fn start(database: &Database, broker: &Broker, streams: bool) -> Running {
    let topic = broker.topic().await;
    let sink = Watched::to(&broker.address());
    let (arrived, stop) = (sink.arrived.clone(), CancellationToken::new());
    let (url, routes) = (database.url().to_owned(), Routes { topic, ..Routes::default() });
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let stopping = stop.clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.expect("a runtime").block_on(async move {
            let source = PostgresSource::connect(&url).await?;
            let source = Arc::new(if streams { source } else { source.poll_only() });
            let relay = Relay::between(source, Box::new(sink)).routes(routes);
            let stats = relay.stats();
            let running = tokio::spawn(relay.run(stopping));
            while !stats.is_leading() || stats.is_streaming() != streams {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            ready.send(()).expect("somebody waits");
            running.await.expect("does not panic")
        })
    });
    is_ready.await.expect("the relay starts");
    Running { thread, stop, arrived }
}

/// A producer that is handed keys and ids.
async fn hand_over(broker: &Broker) -> (Running, mpsc::UnboundedSender<(i64, Uuid)>) {
    let topic = broker.topic().await;
    let mut sink = Watched::to(&broker.address());
    let (arrived, stop) = (sink.arrived.clone(), CancellationToken::new());
    let (handed, mut events) = mpsc::unbounded_channel::<(i64, Uuid)>();
    let stopping = stop.clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.expect("a runtime").block_on(async move {
            let (mut ticket, mut delivered) = (0, Vec::new());
            loop {
                tokio::select! {
                    () = stopping.cancelled() => return Ok(()),
                    Some((key, id)) = events.recv() => {
                        let (key, headers) = (key.to_string(), headers(id));
                        sink.send(ticket, &record(&topic, &key, id, &headers)).expect("there is room");
                        ticket += 1;
                    }
                    taken = sink.deliveries(&mut delivered) => {
                        taken?;
                        delivered.clear();
                    }
                }
            }
        })
    });
    (Running { thread, stop, arrived }, handed)
}

/// As the relay makes it.
fn record<'a>(topic: &'a str, key: &'a str, id: Uuid, headers: &'a Headers) -> Record<'a> {
    Record { id, topic, key, value: Some(PAYLOAD[..].into()), headers, timestamp: None }
}

fn headers(id: Uuid) -> Headers {
    let mut headers = Headers::default();
    headers.push("id", &id.to_string());
    headers.push("eventType", "Placed");
    headers
}

impl Running {
    /// Waits until so many have arrived, and ends it.
    async fn await_all(self, events: usize) -> HashMap<Uuid, Instant> {
        while self.arrived.lock().expect("never poisoned").len() < events {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.stop.cancel();
        self.thread.join().expect("does not panic").expect("ends well");
        std::mem::take(&mut self.arrived.lock().expect("never poisoned"))
    }
}

/// Commits at a steady rate, each event in a transaction of its own, and hands over what is committed.
async fn write(database: &Database, handed: Option<mpsc::UnboundedSender<(i64, Uuid)>>) -> Committed {
    let (rate, seconds) = (setting("BENCH_RATE", 3_000), setting("BENCH_SECONDS", 10));
    let begin = tokio::time::Instant::now();
    let (counted_from, events) =
        (begin.into_std() + WARM_UP, rate * (seconds + WARM_UP.as_secs().cast_signed()));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (url, handed) = (database.url().to_owned(), handed.clone());
            tokio::spawn(async move {
                use outbox::sqlx::Connection as _;
                let mut connection = outbox::sqlx::PgConnection::connect(&url).await.expect("connects");
                let mut at = Vec::new();
                for number in 0..events / WRITERS {
                    let due = Duration::from_secs_f64((number * WRITERS + writer) as f64 / rate as f64);
                    tokio::time::sleep_until(begin + due).await;
                    let key = (number * WRITERS + writer) % 10_000;
                    let message = outbox::Message::new("order", key, "Placed").payload(PAYLOAD);
                    let id = message.event_id();
                    outbox::enqueue(&mut connection, message).await.expect("enqueues");
                    at.push((id, Instant::now()));
                    if let Some(handed) = &handed {
                        handed.send((key, id)).expect("the producer lives");
                    }
                }
                at
            })
        })
        .collect();
    let mut at = HashMap::new();
    for writer in writers {
        at.extend(writer.await.expect("does not panic"));
    }
    let (events, per_second) = (at.len(), at.len() as f64 / begin.elapsed().as_secs_f64());
    at.retain(|_, at| *at >= counted_from);
    Committed { at, events, per_second }
}

fn show(report: impl Fn(&str, &str), way: &str, committed: &Committed, arrived: &HashMap<Uuid, Instant>) {
    let mut took: Vec<Duration> =
        committed.at.iter().map(|(id, at)| arrived[id].saturating_duration_since(*at)).collect();
    took.sort();
    let percentile = |p: usize| took[(took.len() - 1) * p / 1000].as_secs_f64() * 1e3;
    let figures = format!(
        "p50 {:.2} ms   p99 {:.2} ms   p99.9 {:.2} ms",
        percentile(500),
        percentile(990),
        percentile(999)
    );
    report(&format!("{way}, {:.0} commits/s, commit → ack", committed.per_second), &figures);
}

/// A sink that notes when the broker had each event.
struct Watched {
    sink: KafkaSink,
    sent: HashMap<u64, Uuid>,
    arrived: Arc<Mutex<HashMap<Uuid, Instant>>>,
}

impl Watched {
    fn to(kafka: &str) -> Self {
        let sink = KafkaSink::connect(kafka).expect("connects");
        Self { sink, sent: HashMap::new(), arrived: Arc::default() }
    }
}

#[async_trait]
impl Sink for Watched {
    fn longest_in_flight(&self) -> Duration {
        self.sink.longest_in_flight()
    }

    fn send(&mut self, ticket: u64, record: &Record<'_>) -> std::result::Result<(), Failure> {
        self.sent.insert(ticket, record.id);
        self.sink.send(ticket, record)
    }

    async fn deliveries(&mut self, into: &mut Vec<Delivery>) -> Result<()> {
        let before = into.len();
        self.sink.deliveries(into).await?;
        let now = Instant::now();
        let mut arrived = self.arrived.lock().expect("never poisoned");
        for delivery in into[before..].iter().filter(|delivery| delivery.result.is_ok()) {
            arrived.extend(self.sent.remove(&delivery.ticket).map(|id| (id, now)));
        }
        Ok(())
    }

    async fn reset(&mut self) -> Result<()> {
        self.sink.reset().await
    }

    async fn ends(&mut self, topic: &str) -> Result<Vec<i64>> {
        self.sink.ends(topic).await
    }

    async fn ids_since(&mut self, tail: &Tail) -> Result<HashSet<Uuid>> {
        self.sink.ids_since(tail).await
    }
}
