//! What the database does without us: the physical limit the engine is measured against.

use std::error::Error;
use std::time::{Duration, Instant};

use serde::Serialize;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Executor};

/// One figure of the database's own.
#[derive(Serialize)]
pub(crate) struct Limit {
    pub(crate) what: String,
    /// Rows, or commits where each has one row.
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
}

/// Measures for `each` per figure.
pub(crate) async fn measure(url: &str, each: Duration) -> Result<Vec<Limit>, Box<dyn Error>> {
    if url.starts_with("postgres") {
        return postgres(url, each).await;
    }
    match url.strip_prefix("sqlite:") {
        // As a task, like those of the engine: a runtime wakes its own workers otherwise than who blocks on it.
        Some(path) => {
            let path = path.trim_start_matches("//").to_owned();
            Ok(vec![tokio::spawn(async move { sqlite(&path, each).await }).await??])
        }
        None => Ok(Vec::new()),
    }
}

/// The write-ahead log's position in bytes, where there is one to read.
pub(crate) async fn wal_bytes(url: &str) -> Result<Option<f64>, Box<dyn Error>> {
    if !url.starts_with("postgres") {
        return Ok(None);
    }
    let mut connection = PgConnection::connect(url).await?;
    let query = "SELECT (pg_current_wal_insert_lsn() - '0/0')::float8";
    let position: f64 = sqlx::query_scalar(query).fetch_one(&mut connection).await?;
    Ok(Some(position))
}

const PAYLOAD: [u8; 100] = [b'x'; 100];

async fn postgres(url: &str, each: Duration) -> Result<Vec<Limit>, Box<dyn Error>> {
    let pool = PgPool::connect(url).await?;
    pool.execute("DROP TABLE IF EXISTS bench_limit; CREATE TABLE bench_limit (run uuid, number int, body bytea, PRIMARY KEY (run, number))").await?;
    pool.close().await;
    let mut limits = Vec::new();
    for connections in [1, 32] {
        let what = format!(
            "bare one-row commits, {connections} connection{}",
            if connections == 1 { "" } else { "s" }
        );
        limits.push(inserts(url, &what, connections, 1, each).await?);
    }
    limits.push(inserts(url, "rows in 100-row batches, 4 connections", 4, 100, each).await?);
    let mut connection = PgConnection::connect(url).await?;
    connection.execute("DROP TABLE bench_limit").await?;
    Ok(limits)
}

async fn inserts(
    url: &str,
    what: &str,
    connections: usize,
    rows: usize,
    each: Duration,
) -> Result<Limit, Box<dyn Error>> {
    let mut tasks = tokio::task::JoinSet::new();
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(PgConnection::connect(url).await?);
    }
    let began = Instant::now();
    for mut connection in open {
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            while began.elapsed() < each {
                let runs: Vec<uuid::Uuid> = (0..rows).map(|_| uuid::Uuid::now_v7()).collect();
                let bodies = vec![PAYLOAD.to_vec(); rows];
                let sent = Instant::now();
                sqlx::query("INSERT INTO bench_limit SELECT run, 0, body FROM unnest($1::uuid[], $2::bytea[]) AS t(run, body)")
                    .bind(runs)
                    .bind(bodies)
                    .execute(&mut connection)
                    .await?;
                latencies.push(sent.elapsed());
            }
            Ok::<_, sqlx::Error>(latencies)
        });
    }
    let mut all = Vec::new();
    while let Some(latencies) = tasks.join_next().await {
        all.extend(latencies??);
    }
    Ok(limit(what, all, rows, began.elapsed()))
}

async fn sqlite(path: &str, each: Duration) -> Result<Limit, sqlx::Error> {
    let path = format!("{path}.limit");
    let mut connection: SqliteConnection = SqliteConnectOptions::new()
        .filename(&path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .connect()
        .await?;
    connection
        .execute("CREATE TABLE IF NOT EXISTS bench_limit (run BLOB, number INTEGER, body BLOB, PRIMARY KEY (run, number))")
        .await?;
    let (began, mut latencies) = (Instant::now(), Vec::new());
    while began.elapsed() < each {
        let sent = Instant::now();
        sqlx::query("INSERT INTO bench_limit VALUES (?, 0, ?)")
            .bind(uuid::Uuid::now_v7())
            .bind(PAYLOAD.as_slice())
            .execute(&mut connection)
            .await?;
        latencies.push(sent.elapsed());
    }
    let took = began.elapsed();
    connection.close().await?;
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{path}{suffix}"));
    }
    Ok(limit("bare one-row commits, 1 connection", latencies, 1, took))
}

fn limit(what: &str, mut latencies: Vec<Duration>, rows: usize, took: Duration) -> Limit {
    latencies.sort_unstable();
    let p50_ms = latencies.get(latencies.len() / 2).map_or(0.0, |latency| latency.as_secs_f64() * 1e3);
    let per_second = (latencies.len() * rows) as f64 / took.as_secs_f64();
    Limit { what: what.into(), per_second, p50_ms }
}
