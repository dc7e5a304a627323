//! Feeding a handler whose effect on the database happens exactly once.
//!
//! # Two threads of control
//!
//! ```text
//!  poller (a thread of its own)                     worker (the caller's task)
//!  polls Kafka, gathers batches        ──batch──►   one transaction per partition and batch:
//!  on assignment: raises the partition's            fence, skip what is applied, handlers,
//!  epoch in the inbox and seeks to the              watermark, commit
//!  database's watermark        ◄──applied, fenced──
//! ```
//!
//! The database says where to read on, and whether this process may apply anything
//! ([`outbox::inbox`]); Kafka's group only shares the partitions out. Its committed offsets are hints
//! for lag monitors. While the worker is busy or the database is down the partitions are paused, and
//! the poller goes on polling, so the group does not take this process for dead.
//!
//! Who is fenced has lost the partition, as a rule by a rebalance that it hears of next. But a process that was
//! frozen while it took a partition over may do so after the group has given it to another, and be gone again. So
//! who is fenced under an assignment that holds joins the group anew, and takes over again.
//!
//! # A record that cannot be applied
//!
//! If the handler fails, or panics, the batch is rolled back and applied again in pieces, so that the records
//! before the failing one become durable. That one is tried again, with pauses, then **parked**: it
//! and all later records of its key are set aside in the inbox, and the watermark passes them. Other
//! keys go on. [`outbox::Inbox::release`] hands them to the handler again, in order.
//!
//! # A machine that dies in the middle of a batch
//!
//! Its locks go with its connection. Whether that is gone Postgres learns from a process that dies at once, from a
//! machine that dies by TCP's own timing, which is hours; until then its successor waits for the partition's row. So
//! give the pool's connections an `idle_in_transaction_session_timeout`, longer than a batch takes.

mod apply;
mod database;
mod handler;
mod poller;
mod received;

pub use database::Database;
pub use handler::{Handler, HandlerError, HandlerFn, handler};
pub use received::Received;

use crate::error::{Error, Result};
use crate::sink::KafkaSettings;
use crate::stats::Counter;
use apply::Worker;
use outbox::Inbox;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// How often to look for released records, while any are parked.
const LOOK_AT_PARKED_EVERY: Duration = Duration::from_millis(500);

/// What to consume, as whom, and how.
#[derive(Clone, Debug)]
pub struct ConsumerSettings {
    /// The way to the cluster. Its producer's settings are not used.
    pub kafka: KafkaSettings,
    /// The consumer group, in Kafka and in the inbox.
    pub group: String,
    /// The topics.
    pub topics: Vec<String>,
    /// Most records applied in one transaction.
    pub batch: usize,
    /// How often a record is handed to a handler that fails, before it is parked.
    pub attempts: u32,
    /// What to do when records have expired before this group applied them: stop (the default), or
    /// go on with the oldest there is.
    pub skip_expired: bool,
    /// What this process calls itself in the inbox, for people.
    pub owner: String,
}

impl ConsumerSettings {
    /// The default settings.
    pub fn new<T: Into<String>>(
        brokers: impl Into<String>,
        group: impl Into<String>,
        topics: impl IntoIterator<Item = T>,
    ) -> Self {
        Self {
            kafka: KafkaSettings::new(brokers),
            group: group.into(),
            topics: topics.into_iter().map(Into::into).collect(),
            batch: 200,
            attempts: 5,
            skip_expired: false,
            owner: crate::relay::RelaySettings::default().holder,
        }
    }
}

/// What a consumer has done.
#[derive(Debug, Default)]
pub struct ConsumerStats {
    /// Records handed to the handler and applied.
    pub applied: Counter,
    /// Records whose event had been applied before, from another offset.
    pub duplicates: Counter,
    /// Records set aside.
    pub parked: Counter,
    /// Batches given up because their partition has another owner.
    pub fenced: Counter,
    /// Times the group was joined anew, because partitions could not be taken over, their records had expired, or
    /// somebody had taken them over whom the group knows nothing of.
    pub rejoined: Counter,
}

/// Consumes topics into a database.
///
/// ```no_run
/// use outbox_relay::{Consumer, ConsumerSettings, handler};
/// use outbox::sqlx::{self, SqliteConnection, SqlitePool};
///
/// # async fn start(pool: SqlitePool, stop: tokio_util::sync::CancellationToken) -> outbox_relay::Result<()> {
/// let settings = ConsumerSettings::new("127.0.0.1:9092", "notices", ["outbox.event.order"]);
/// let notice = handler(|tx: &mut SqliteConnection, received| {
///     Box::pin(async move {
///         sqlx::query("INSERT INTO notices (order_id) VALUES (?1)").bind(received.key_text()).execute(tx).await?;
///         Ok(())
///     })
/// });
/// Consumer::new(settings, pool).run(notice, stop).await
/// # }
/// ```
#[derive(Debug)]
pub struct Consumer<D> {
    settings: ConsumerSettings,
    database: D,
    stats: Arc<ConsumerStats>,
}

impl<D: Database> Consumer<D> {
    /// A consumer into a database whose inbox tables are there ([`outbox::migrate`]).
    pub fn new(settings: ConsumerSettings, database: D) -> Self {
        Self { settings, database, stats: Arc::default() }
    }

    /// What this consumer does, while it runs.
    pub fn stats(&self) -> Arc<ConsumerStats> {
        self.stats.clone()
    }

    /// Applies records until told to stop; then finishes the batch under way and leaves the group.
    /// Databases and brokers that are down are waited for.
    ///
    /// # Errors
    ///
    /// [`Error::OtherTopic`] if a topic is not the one that was read before, or records have expired
    /// unread; [`Error::Config`]; missing tables.
    ///
    /// # Cancellation
    ///
    /// Dropping the future is like a crash: a transaction under way is rolled back, and the next owner
    /// goes on from the database's watermark.
    pub async fn run(self, handler: impl Handler<D::Connection>, stop: CancellationToken) -> Result<()> {
        if self.settings.topics.is_empty() || self.settings.batch == 0 || self.settings.attempts == 0 {
            return Err(Error::Config(
                "a consumer needs topics, a batch of at least 1 and at least 1 attempt".into(),
            ));
        }
        let inbox = Inbox::new(&self.settings.group);
        while let Err(error) = self.check_schema().await {
            if !error.is_transient() {
                return Err(error);
            }
            tracing::warn!(%error, "waiting for the database");
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
        let guard = stop.child_token();
        let stop_poller = guard.clone().drop_guard();
        let (mut batches, told, poller) =
            poller::start(&self.settings, inbox.clone(), self.database.clone(), self.stats.clone(), guard)?;
        let mut worker = Worker::new(self.database, inbox, handler, self.settings.attempts, self.stats);
        // Goes on while batches come, however fast.
        let mut look_at_parked = tokio::time::interval(LOOK_AT_PARKED_EVERY);
        look_at_parked.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut worked = Ok(());
        while worked.is_ok() {
            tokio::select! {
                batch = batches.recv() => match batch {
                    Some(batch) => worked = worker.apply(batch, &told, &stop).await,
                    None => break,
                },
                _ = look_at_parked.tick(), if worker.has_parked() => {
                    worked = worker.apply_released(&told, &stop).await;
                }
            }
        }
        drop(stop_poller);
        drop(batches);
        let polled =
            tokio::task::spawn_blocking(move || poller.join()).await.expect("joining does not panic");
        worked.and(polled.expect("the poller does not panic"))
    }

    async fn check_schema(&self) -> Result<()> {
        Ok(outbox::check_schema(&mut *self.database.connection().await?).await?)
    }
}
