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
//! update and the table's dead rows do not pile up behind somebody's long transaction. What an operator
//! [dropped](operate) is named there until its row is gone.
//!
//! Acknowledgements are committed without waiting for the disk. A crash of Postgres may so forget the
//! last of them, always together with everything after it; then events are read again, and skipped
//! because the topic's tail has them. The lease itself is taken with a full commit.
//!
//! # A table that cannot be polled
//!
//! One made for Debezium, without `seq` and `xid`, is read [through a slot that lasts](stream::slot); the
//! rest of this page is not about it.
//!
//! # After a restore
//!
//! Transaction ids mean nothing in another cluster. The cursor holds the cluster's identifier; where
//! it differs, the rows are stamped with a transaction of this cluster and the whole table is read.

mod adoption;
mod copy;
pub(crate) mod cursor;
mod doctor;
mod horizon;
mod input;
mod lease;
mod listen;
mod operate;
mod poll;
mod session;
mod settle;
mod stream;
mod table;
mod target;

pub use adoption::{Adopted, Existing};
pub use table::Table;

use super::{Ack, Decision, ParkedEvent, ParkedNow, Resumed, Source, pause};
use crate::doctor::Finding;
use crate::error::{Error, Result};
use crate::event::{Key, Page};
use crate::history::Written;
use crate::lease::LeaseRow;
use crate::route::Routes;
use async_trait::async_trait;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use std::collections::{BTreeSet, VecDeque};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use table::Statements;
use tokio::sync::OnceCell;

/// The outbox of a Postgres database.
#[derive(Debug)]
pub struct PostgresSource {
    pool: PgPool,
    /// Whether its sessions are lent by a pooler. See [`session`].
    pooled: bool,
    table: Table,
    statements: OnceCell<Statements>,
    poll_every: Duration,
    keep: Duration,
    poll: tokio::sync::Mutex<poll::Poll>,
    marks: Mutex<cursor::Marks>,
    /// Where to stream from; `None` polls.
    stream_to: Option<target::Target>,
    /// Whether to be woken by [`outbox::Notifier`].
    listens: bool,
    listener: Mutex<Option<Arc<listen::Listener>>>,
    woken: AtomicU64,
    /// The slot and the publication that are read, where they are not our own.
    slot: Option<String>,
    publication: Option<String>,
    /// Of a table that cannot be polled.
    slot_session: tokio::sync::Mutex<Option<stream::Session>>,
    streams: AtomicBool,
    acknowledged_lsn: AtomicU64,
    horizon: Mutex<horizon::Horizon>,
    /// Cursors of before, with when they were durable, where rows are kept and do not say their age.
    passed: Mutex<VecDeque<(Instant, String)>>,
}

impl PostgresSource {
    /// Connects to a database, `postgres://user@host/database`, whose tables are there
    /// ([`outbox::migrate`]). The relay keeps at most six connections, and one more to stream.
    ///
    /// # Errors
    ///
    /// If the URL is malformed or the database cannot be reached; the password is not repeated.
    pub async fn connect(url: &str) -> Result<Self> {
        Ok(Self { stream_to: target::parse(url), ..Self::with_pool(pool(url, false).await?) })
    }

    /// The same through PgBouncer or another pooler that lends a session for one transaction at a time: such a
    /// relay [only polls](Self::poll_only), and leaves nothing behind in the sessions that it is lent.
    ///
    /// # Errors
    ///
    /// As [`Self::connect`].
    pub async fn connect_pooled(url: &str) -> Result<Self> {
        let source = Self { pooled: true, ..Self::with_pool(pool(url, true).await?) };
        Ok(source.poll_only())
    }

    /// Neither streams nor listens: a pooler passes no replication connection on, and a session that is lent
    /// cannot listen.
    pub fn poll_only(self) -> Self {
        self.never_stream().never_listen()
    }

    /// Is not woken by [`outbox::Notifier`], and needs one connection less.
    pub fn never_listen(mut self) -> Self {
        self.listens = false;
        self
    }

    /// Never streams; polls, and lets [`outbox::Notifier`] bring a look forward.
    pub fn never_stream(mut self) -> Self {
        self.stream_to = None;
        self
    }

    /// For a table that cannot be polled: the replication slot to read, instead of
    /// `outbox_relay_<database's oid>_<schema>_<table>`. Debezium's own, to go on where it stopped; then name its
    /// [publication](Self::publication) too.
    pub fn slot(mut self, name: impl Into<String>) -> Self {
        self.slot = Some(name.into());
        self
    }

    /// The publication to stream, instead of `outbox_relay_<schema>_<table>`. It must publish the
    /// table's inserts; what else it publishes is passed over.
    pub fn publication(mut self, name: impl Into<String>) -> Self {
        self.publication = Some(name.into());
        self
    }

    /// The slot of a table that cannot be polled. Slots are the cluster's, so ours says which database it
    /// is of.
    async fn slot_name(&self) -> Result<String> {
        if let Some(name) = &self.slot {
            return Ok(name.clone());
        }
        let database: i64 =
            sqlx::query_scalar("SELECT oid::bigint FROM pg_database WHERE datname = current_database()")
                .persistent(self.named())
                .fetch_one(&mut *self.session().await?)
                .await?;
        Ok(self.table.own(&format!("outbox_relay_{database}")))
    }

    /// Uses a pool of the caller's. Give it sessions of their own rather than those of a busy service, and no
    /// pooler in between: that is for [`Self::connect_pooled`].
    pub fn with_pool(pool: PgPool) -> Self {
        Self {
            pool,
            pooled: false,
            table: Table::default(),
            statements: OnceCell::new(),
            poll_every: Duration::from_millis(20),
            keep: Duration::ZERO,
            poll: tokio::sync::Mutex::default(),
            marks: Mutex::default(),
            stream_to: None,
            listens: true,
            listener: Mutex::default(),
            woken: AtomicU64::new(0),
            slot: None,
            publication: None,
            slot_session: tokio::sync::Mutex::default(),
            streams: AtomicBool::new(false),
            acknowledged_lsn: AtomicU64::new(0),
            horizon: Mutex::new(horizon::Horizon::new(horizon::DEAD_ROWS_MAX)),
            passed: Mutex::default(),
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

    /// Keeps rows for so long after they were written, or were done where the table does not say when they
    /// were written, so that they can be [replayed](Self::replay) and verified; not at all unless told.
    pub fn keep(mut self, age: Duration) -> Self {
        self.keep = age;
        self
    }

    /// How many rows are removed, at most, while somebody's old transaction keeps them from being cleaned;
    /// 50,000 unless told. The others stay, done, until it ends.
    pub fn dead_rows_max(mut self, rows: u64) -> Self {
        self.horizon = Mutex::new(horizon::Horizon::new(rows));
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

    /// The topics that events have gone to, or will by what is in the table now.
    ///
    /// # Errors
    ///
    /// The database's error.
    pub async fn topics(&self, routes: &Routes) -> Result<BTreeSet<String>> {
        operate::topics(self, routes).await
    }

    /// Examines the database for what a relay needs and what may trouble it.
    pub async fn examine(&self) -> Vec<Finding> {
        doctor::examine(self).await
    }

    async fn statements(&self) -> Result<&Statements> {
        self.statements.get_or_try_init(|| async { Statements::fit(self).await }).await
    }

    /// Who wakes this source, if anybody may.
    fn listener(&self) -> Option<Arc<listen::Listener>> {
        if !self.listens {
            return None;
        }
        let mut listener = self.listener.lock().expect("never poisoned");
        let listener = listener.get_or_insert_with(|| Arc::new(listen::Listener::start(self.pool.clone())));
        Some(listener.clone())
    }

    fn fenced(&self, epoch: i64) -> Error {
        Error::Fenced { outbox: self.table.name.clone(), epoch }
    }
}

async fn pool(url: &str, pooled: bool) -> Result<PgPool> {
    let options = PgConnectOptions::from_str(url)
        .map_err(|error| Error::Config(format!("the database URL is malformed: {error}")))?
        .application_name("outbox-relay");
    let shown =
        format!("{}:{}/{}", options.get_host(), options.get_port(), options.get_database().unwrap_or(""));
    let pool = PgPoolOptions::new()
        .max_connections(5)
        .acquire_timeout(Duration::from_secs(5))
        .connect_with(session::options(options, pooled))
        .await
        .map_err(|error| session::unreachable(&shown, &error))?;
    session::check(&pool, pooled).await?;
    Ok(pool)
}

#[async_trait]
impl Source for PostgresSource {
    fn name(&self) -> &str {
        &self.table.name
    }

    fn is_streaming(&self) -> bool {
        self.streams.load(Ordering::Relaxed)
    }

    fn acknowledge_every(&self) -> Duration {
        Duration::from_millis(5)
    }

    async fn prepare(&self) -> Result<()> {
        let prepared = async {
            session::check(&self.pool, self.pooled).await?;
            outbox::check_schema(&mut *self.session().await?).await?;
            let polls = self.statements().await?.polls;
            lease::make_row(self).await?;
            Ok(polls)
        };
        if !session::answered(prepared).await? {
            tracing::info!(
                outbox = self.table.name,
                "has no columns seq and xid: it is only streamed, and its rows are not removed; `outbox-relay \
                 migrate` adds them"
            );
        }
        Ok(())
    }

    async fn lease(&self) -> Result<LeaseRow> {
        session::answered(lease::look(self)).await
    }

    async fn take(&self, seen: &LeaseRow, holder: &str) -> Result<Option<i64>> {
        session::answered(lease::take(self, seen, holder)).await
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
        if self.streams.load(Ordering::Relaxed) {
            return;
        }
        let pause = pause(idle, self.poll_every);
        let Some(listener) = self.listener() else { return tokio::time::sleep(pause).await };
        tokio::select! {
            () = listener.woken() => {
                self.woken.fetch_add(1, Ordering::Relaxed);
            }
            () = tokio::time::sleep(pause) => {}
        }
    }

    fn woken(&self) -> u64 {
        self.woken.load(Ordering::Relaxed)
    }

    async fn acknowledge(&self, epoch: i64, ack: &Ack) -> Result<()> {
        session::answered(settle::acknowledge(self, epoch, ack)).await
    }

    async fn sweep(&self, epoch: i64) -> Result<u64> {
        session::answered(settle::sweep(self, epoch)).await
    }

    async fn list_parked(&self, limit: usize) -> Result<Vec<ParkedEvent>> {
        operate::list_parked(self, limit).await
    }

    async fn decide(&self, key: Option<&Key>, decision: Decision) -> Result<u64> {
        operate::decide(self, key, decision).await
    }

    async fn parked(&self, limit: usize) -> Result<ParkedNow> {
        session::answered(settle::parked(self, limit)).await
    }
}
