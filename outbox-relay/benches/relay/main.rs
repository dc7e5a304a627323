//! How fast the relay is, with the limits of its surroundings taken in the same run.
//!
//! ```text
//! BENCH_POSTGRES=postgres://… BENCH_KAFKA=host:port cargo bench -p outbox-relay
//! ```
//!
//! The database's outbox tables are dropped and made anew: give it one of its own. `BENCH_ROWS` (default
//! 1,000,000) events of 200 bytes over 10,000 keys are drained; then `BENCH_RATE` (3,000) transactions a
//! second are published live for `BENCH_SECONDS` (10). Without the two variables it says so and measures
//! nothing.

use async_trait::async_trait;
use outbox::sqlx::{self, Connection as _, PgConnection, PgPool, Row as _};
use outbox::uuid::Uuid;
use outbox_relay::rdkafka::ClientConfig;
use outbox_relay::rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use outbox_relay::route::Record;
use outbox_relay::sink::{Delivery, Failure, Sink};
use outbox_relay::tokio_util::sync::CancellationToken;
use outbox_relay::{KafkaSink, PostgresSource, Relay, Result, Routes, Tail};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

fn main() {
    let (Ok(postgres), Ok(kafka)) = (std::env::var("BENCH_POSTGRES"), std::env::var("BENCH_KAFKA")) else {
        println!(
            "set BENCH_POSTGRES=postgres://… and BENCH_KAFKA=host:port; see the top of benches/relay.rs"
        );
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(measure(&postgres, &kafka));
}

async fn measure(postgres: &str, kafka: &str) {
    let rows = setting("BENCH_ROWS", 1_000_000);
    let topic = format!("bench-{}", Uuid::now_v7());
    let routes = Routes { topic: topic.clone(), ..Routes::default() };
    fill(postgres, rows).await;
    let producer = bare_producer(kafka, &format!("{topic}-bare"), rows.min(500_000));
    let table = table_read(postgres, rows).await;
    let drain = drain(postgres, kafka, &routes, rows).await;
    println!("limit    bare producer, 200-byte records   {producer:>10.0} /s");
    println!("limit    cursor over the table             {table:>10.0} /s");
    println!(
        "relay    drain of {rows} rows          {drain:>10.0} /s   {:.2} of the producer",
        drain / producer
    );
    println!("relay    peak memory of this process       {:>10} KiB", peak_memory_kib());
    live(postgres, kafka, &routes).await;
}

fn setting(name: &str, default: i64) -> i64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

async fn fill(postgres: &str, rows: i64) {
    let mut db = PgConnection::connect(postgres).await.expect("connects");
    sqlx::raw_sql("DROP SCHEMA IF EXISTS outbox CASCADE").execute(&mut db).await.expect("drops");
    outbox::migrate(&mut db).await.expect("migrates");
    for begin in (0..rows).step_by(100_000) {
        sqlx::query(
            "INSERT INTO outbox.event (id, aggregatetype, aggregateid, type, payload) \
             SELECT gen_random_uuid(), 'order', (i % 10000)::text, 'Placed', convert_to(repeat('x', 200), 'UTF8') \
             FROM generate_series($1, $2) AS i",
        )
        .bind(begin)
        .bind((begin + 99_999).min(rows - 1))
        .execute(&mut db)
        .await
        .expect("fills");
    }
    for settle in ["VACUUM ANALYZE outbox.event", "CHECKPOINT"] {
        sqlx::raw_sql(settle).execute(&mut db).await.expect("settles");
    }
}

fn bare_producer(kafka: &str, topic: &str, records: i64) -> f64 {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "0")
        .set("queue.buffering.max.messages", "200000")
        .create()
        .expect("a producer");
    let payload = [b'x'; 200];
    let send = |number: i64| {
        let key = (number % 10_000).to_string();
        while producer.send(BaseRecord::to(topic).key(&key).payload(&payload[..])).is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    send(0);
    producer.flush(Duration::from_secs(30)).expect("warms up");
    let begin = Instant::now();
    (0..records).for_each(send);
    producer.flush(Duration::from_secs(120)).expect("flushes");
    records as f64 / begin.elapsed().as_secs_f64()
}

async fn table_read(postgres: &str, rows: i64) -> f64 {
    use futures::TryStreamExt as _;
    let mut db = PgConnection::connect(postgres).await.expect("connects");
    let begin = Instant::now();
    let sql = "SELECT seq, id, aggregatetype, aggregateid, type, payload FROM outbox.event ORDER BY seq";
    let mut stream = sqlx::query(sql).fetch(&mut db);
    let mut bytes = 0;
    while let Some(row) = stream.try_next().await.expect("reads") {
        bytes += row.get::<Vec<u8>, _>("payload").len();
    }
    assert!(bytes > 0);
    rows as f64 / begin.elapsed().as_secs_f64()
}

async fn drain(postgres: &str, kafka: &str, routes: &Routes, rows: i64) -> f64 {
    let source = PostgresSource::connect(postgres).await.expect("connects");
    let relay = Relay::new(source, KafkaSink::connect(kafka).expect("connects")).routes(routes.clone());
    let (stats, stop) = (relay.stats(), CancellationToken::new());
    let begin = Instant::now();
    let running = tokio::spawn(relay.run(stop.clone()));
    while stats.published.get() < rows.unsigned_abs() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let rate = rows as f64 / begin.elapsed().as_secs_f64();
    stop.cancel();
    running.await.expect("does not panic").expect("ends well");
    rate
}

/// Commits at a steady rate, and takes the time from a commit's answer to the broker's.
async fn live(postgres: &str, kafka: &str, routes: &Routes) {
    let (rate, seconds) = (setting("BENCH_RATE", 3_000), setting("BENCH_SECONDS", 10));
    let mut db = PgConnection::connect(postgres).await.expect("connects");
    sqlx::raw_sql("TRUNCATE outbox.event").execute(&mut db).await.expect("empties");
    let source = PostgresSource::connect(postgres).await.expect("connects");
    let watched = Watched::to(kafka);
    let arrived = watched.arrived.clone();
    let stop = CancellationToken::new();
    let running = tokio::spawn(Relay::new(source, watched).routes(routes.clone()).run(stop.clone()));
    tokio::time::sleep(Duration::from_secs(1)).await;

    const WRITERS: i64 = 8;
    let pool = PgPool::connect(postgres).await.expect("connects");
    let committed = Arc::new(Mutex::new(HashMap::new()));
    let begin = tokio::time::Instant::now();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (pool, committed) = (pool.clone(), committed.clone());
            tokio::spawn(async move {
                let mut connection = pool.acquire().await.expect("connects");
                for number in 0..rate * seconds / WRITERS {
                    let due = Duration::from_secs_f64((number * WRITERS + writer) as f64 / rate as f64);
                    tokio::time::sleep_until(begin + due).await;
                    let key = (number * WRITERS + writer) % 10_000;
                    let message = outbox::Message::new("order", key, "Placed").payload([b'x'; 200]);
                    let id = message.event_id();
                    outbox::enqueue(&mut *connection, message).await.expect("enqueues");
                    committed.lock().expect("never poisoned").insert(id, Instant::now());
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("does not panic");
    }
    let wrote = begin.elapsed();
    let committed = committed.lock().expect("never poisoned").clone();
    while arrived.lock().expect("never poisoned").len() < committed.len() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    running.await.expect("does not panic").expect("ends well");
    let arrived = arrived.lock().expect("never poisoned");
    let mut took: Vec<Duration> =
        committed.iter().map(|(id, at)| arrived[id].saturating_duration_since(*at)).collect();
    took.sort();
    let percentile = |p: usize| took[(took.len() - 1) * p / 100].as_secs_f64() * 1e3;
    println!(
        "relay    live at {:.0} tx/s, commit → ack    p50 {:.2} ms   p99 {:.2} ms",
        committed.len() as f64 / wrote.as_secs_f64(),
        percentile(50),
        percentile(99)
    );
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
        self.sent.insert(ticket, record.headers[0].1.parse().expect("the first header is the id"));
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

fn peak_memory_kib() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or("?".into(), |line| line.trim().trim_end_matches(" kB").to_owned())
}
