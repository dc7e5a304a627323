//! The accounting service: hears from Kafka what was shipped, and books it, each order once.
//!
//! Kafka may deliver an event twice, and this process may read one twice. The consumer puts the booking and the
//! inbox's record of the event into one transaction of this service's database, so that neither happens. The
//! table of bookings has no unique key on purpose: a failure of the inbox would be seen.

use std::path::Path;

use outbox_relay::consumer::ConsumerStats;
use outbox_relay::{Consumer, ConsumerSettings, HandlerError, Received, handler};
use sqlx::sqlite::SqlitePoolOptions;
use sqlx::{Row as _, SqliteConnection, SqlitePool};
use std::sync::Arc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::amount::Amount;
use super::ledger::durable;
use super::shipping::OrderShipped;

/// The consumer group.
const GROUP: &str = "accounting";

/// A service that books what was shipped.
#[derive(Debug)]
pub struct Accounting {
    pool: SqlitePool,
    stats: Arc<ConsumerStats>,
    consumer: JoinHandle<outbox_relay::Result<()>>,
    stop: CancellationToken,
}

/// One booking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Booking {
    /// The order.
    pub order: String,
    /// What it cost.
    pub amount: Amount,
}

impl Accounting {
    /// Opens the books in this file, and begins to consume a topic.
    pub async fn start(file: &Path, brokers: &str, topic: &str) -> outbox_relay::Result<Self> {
        let pool = SqlitePoolOptions::new().max_connections(2).connect_with(durable(file)).await?;
        sqlx::query(
            "CREATE TABLE IF NOT EXISTS booking (order_id TEXT NOT NULL, cents INTEGER NOT NULL) STRICT",
        )
        .execute(&pool)
        .await?;
        outbox::migrate(&mut *pool.acquire().await?).await?;
        let settings = ConsumerSettings::new(brokers, GROUP, [topic]);
        let consumer = Consumer::new(settings, pool.clone());
        let stop = CancellationToken::new();
        let stats = consumer.stats();
        let book = handler(|tx: &mut SqliteConnection, received| Box::pin(book(tx, received)));
        let consumer = tokio::spawn(consumer.run(book, stop.clone()));
        Ok(Self { pool, stats, consumer, stop })
    }

    /// How many events were booked.
    pub fn received(&self) -> u64 {
        self.stats.applied.get()
    }

    /// How many records told of an event that was booked before.
    pub fn duplicates(&self) -> u64 {
        self.stats.duplicates.get()
    }

    /// Stops consuming, and gives the books: every booking, and what cannot be booked.
    pub async fn close(self) -> outbox_relay::Result<(Vec<Booking>, Vec<String>)> {
        self.stop.cancel();
        self.consumer.await.expect("the consumer does not panic")?;
        let rows = sqlx::query("SELECT order_id, cents FROM booking").fetch_all(&self.pool).await?;
        let booking = |row: &sqlx::sqlite::SqliteRow| -> Result<Booking, sqlx::Error> {
            Ok(Booking {
                order: row.try_get(0)?,
                amount: Amount::from_cents(row.try_get::<i64, _>(1)?.unsigned_abs()),
            })
        };
        let bookings = rows.iter().map(booking).collect::<Result<_, _>>()?;
        let inbox = outbox::Inbox::new(GROUP);
        let parked = inbox.parked(&mut *self.pool.acquire().await?, 100).await?;
        self.pool.close().await;
        Ok((bookings, parked.into_iter().map(|record| record.reason).collect()))
    }
}

async fn book(tx: &mut SqliteConnection, received: &Received) -> Result<(), HandlerError> {
    let shipped: OrderShipped = received.json().map_err(HandlerError::park)?;
    sqlx::query("INSERT INTO booking (order_id, cents) VALUES (?1, ?2)")
        .bind(shipped.order)
        .bind(shipped.cents.cents().cast_signed())
        .execute(tx)
        .await?;
    Ok(())
}
