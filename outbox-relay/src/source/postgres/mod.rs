//! An outbox in Postgres, read by the difference of two snapshots, or from the write-ahead log.
//!
//! Where the server allows it (`wal_level = logical`, a role with `REPLICATION`), new events are
//! [streamed](stream) once polling has caught up; otherwise they are polled. Both move the same cursor.
//!
//! # What is durable where
//!
//! The table is the truth: a row stays until Kafka has its event. `outbox.relay` holds the lease and
//! the [`cursor`], moved only in statements that are conditional on the lease's epoch;
//! `outbox.parked` names rows that are set aside. A row is *done* when the cursor has passed it and it
//! is not parked; sweeping deletes done rows later, in batches, so the cursor moves by one small
//! update and the table's dead rows do not pile up behind somebody's long transaction.
//!
//! Acknowledgements are committed without waiting for the disk. A crash of Postgres may so forget the
//! last of them, always together with everything after it; then events are read again, and skipped
//! because the topic's tail has them. The lease itself is taken with a full commit.
//!
//! # After a restore
//!
//! Transaction ids mean nothing in another cluster. The cursor holds the cluster's identifier; where
//! it differs, the rows are stamped with a transaction of this cluster and the whole table is read.

pub(crate) mod cursor;
mod doctor;
mod horizon;
mod lease;
mod operate;
mod poll;
mod settle;
mod stream;
mod table;
mod target;

pub use table::Table;

use super::{Ack, Decision, ParkedEvent, ParkedNow, Resumed, Source, pause};
use crate::doctor::Finding;
use crate::error::{Error, Result};
use crate::event::{Key, Page};
use crate::history::Written;
use crate::lease::LeaseRow;
use crate::route::Routes;
use async_trait::async_trait;
use pgwire_replication::ReplicationConfig;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use table::Statements;
use tokio::sync::OnceCell;

/// The outbox of a Postgres database.
#[derive(Debug)]
pub struct PostgresSource {
    pool: PgPool,
    table: Table,
    statements: OnceCell<Statements>,
    poll_every: Duration,
    keep: Duration,
    poll: tokio::sync::Mutex<poll::Poll>,
    marks: Mutex<cursor::Marks>,
    /// Where to stream from; `None` polls.
    stream_to: Option<ReplicationConfig>,
    streams: AtomicBool,
    acknowledged_lsn: AtomicU64,
    horizon: Mutex<horizon::Horizon>,
}

impl PostgresSource {
    /// Connects to a database, `postgres://user@host/database`, whose tables are there
    /// ([`outbox::migrate`]). The relay keeps at most four connections.
    ///
    /// # Errors
    ///
    /// If the URL is malformed or the database cannot be reached; the password is not repeated.
    pub async fn connect(url: &str) -> Result<Self> {
        let options = PgConnectOptions::from_str(url)
            .map_err(|error| Error::Config(format!("the database URL is malformed: {error}")))?
            .application_name("outbox-relay");
        let shown =
            format!("{}:{}/{}", options.get_host(), options.get_port(), options.get_database().unwrap_or(""));
        let pool = PgPoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(5))
            .after_connect(|connection, _| {
                Box::pin(async move {
                    // The table may have been empty when it was last analysed: a planner that
                    // believes it still is reads all of it for every tick.
                    let settings = "SET enable_seqscan = off; SET jit = off; SET synchronous_commit = off; \
                         SET idle_in_transaction_session_timeout = '10s'; SET statement_timeout = '60s'";
                    sqlx::raw_sql(settings).execute(connection).await.map(drop)
                })
            })
            .connect_with(options)
            .await
            .map_err(|error| Error::Config(format!("the database {shown} cannot be reached: {error}")))?;
        Ok(Self { stream_to: target::parse(url), ..Self::with_pool(pool) })
    }

    /// Never streams. Behind a pooler such as PgBouncer a replication connection cannot be made.
    pub fn poll_only(mut self) -> Self {
        self.stream_to = None;
        self
    }

    /// Whether events are read from the write-ahead log just now, rather than from the table.
    pub fn is_streaming(&self) -> bool {
        self.streams.load(Ordering::Relaxed)
    }

    /// Uses a pool of the caller's. Give it sessions of their own rather than those of a busy service.
    pub fn with_pool(pool: PgPool) -> Self {
        Self {
            pool,
            table: Table::default(),
            statements: OnceCell::new(),
            poll_every: Duration::from_millis(20),
            keep: Duration::ZERO,
            poll: tokio::sync::Mutex::default(),
            marks: Mutex::default(),
            stream_to: None,
            streams: AtomicBool::new(false),
            acknowledged_lsn: AtomicU64::new(0),
            horizon: Mutex::default(),
        }
    }

    /// Reads another table than `outbox.event`.
    pub fn table(mut self, table: Table) -> Self {
        self.table = table;
        self
    }

    /// The longest wait between two looks for new events, after some time without any; 20 ms unless told.
    pub fn poll_every(mut self, interval: Duration) -> Self {
        self.poll_every = interval;
        self
    }

    /// Keeps rows for so long after they were written, though they are done, so that they can be
    /// [replayed](Self::replay) and verified; not at all unless told.
    pub fn keep(mut self, age: Duration) -> Self {
        self.keep = age;
        self
    }

    /// Publishes again the rows that are still there with numbers from `first` to `last`, under the
    /// ids they had: consumers with an inbox skip what they have applied. Answers how many rows.
    ///
    /// # Errors
    ///
    /// The database's error.
    pub async fn replay(&self, first: i64, last: i64) -> Result<u64> {
        operate::replay(self, first, last).await
    }

    /// The rows that are there, each with its place in its key, and the topics they go to: one side of
    /// a [comparison](crate::history::compare).
    ///
    /// # Errors
    ///
    /// The database's error.
    pub async fn written(&self, routes: &Routes) -> Result<(Vec<Written>, Vec<String>)> {
        operate::written(self, routes).await
    }

    /// Examines the database for what a relay needs and what may trouble it.
    pub async fn examine(&self) -> Vec<Finding> {
        doctor::examine(self).await
    }

    async fn statements(&self) -> Result<&Statements> {
        self.statements
            .get_or_try_init(|| async {
                let mut connection = self.pool.acquire().await?;
                Statements::fit(&mut connection, &self.table).await
            })
            .await
    }

    fn fenced(&self, epoch: i64) -> Error {
        Error::Fenced { outbox: self.table.name.clone(), epoch }
    }
}

#[async_trait]
impl Source for PostgresSource {
    fn name(&self) -> &str {
        &self.table.name
    }

    fn acknowledge_every(&self) -> Duration {
        Duration::from_millis(5)
    }

    async fn prepare(&self) -> Result<()> {
        outbox::check_schema(&mut *self.pool.acquire().await?).await?;
        self.statements().await?;
        lease::make_row(self).await
    }

    async fn lease(&self) -> Result<LeaseRow> {
        lease::look(self).await
    }

    async fn take(&self, seen: &LeaseRow, holder: &str) -> Result<Option<i64>> {
        lease::take(self, seen, holder).await
    }

    async fn renew(&self, epoch: i64) -> Result<()> {
        lease::renew(self, epoch).await
    }

    async fn give_up(&self, epoch: i64) -> Result<()> {
        lease::give_up(self, epoch).await
    }

    async fn resume(&self, epoch: i64) -> Result<Resumed> {
        poll::resume(self, epoch).await
    }

    async fn read(&self, limit: usize) -> Result<Page> {
        stream::read(self, limit).await
    }

    async fn wait(&self, idle: u32) {
        if !self.is_streaming() {
            tokio::time::sleep(pause(idle, self.poll_every)).await;
        }
    }

    async fn acknowledge(&self, epoch: i64, ack: &Ack) -> Result<()> {
        settle::acknowledge(self, epoch, ack).await
    }

    async fn sweep(&self, epoch: i64) -> Result<u64> {
        settle::sweep(self, epoch).await
    }

    async fn list_parked(&self, limit: usize) -> Result<Vec<ParkedEvent>> {
        operate::list_parked(self, limit).await
    }

    async fn decide(&self, key: Option<&Key>, decision: Decision) -> Result<u64> {
        operate::decide(self, key, decision).await
    }

    async fn parked(&self, limit: usize) -> Result<ParkedNow> {
        settle::parked(self, limit).await
    }
}
