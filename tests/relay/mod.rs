//! From a committed row in Postgres to an effect in the consumer's database, over a real Kafka.
//!
//! [`shop`] writes events as services do: transactions of any length, some rolled back, writers of one key
//! taking turns. [`history`] compares what was committed with what lies in the topic; it knows nothing of how
//! the relay works, and its own table of broken histories shows what it catches.

mod bloat;
mod consumer;
mod dropped;
mod faults;
mod guarded;
mod history;
mod logins;
mod naive;
mod odd;
mod otlp;
mod parked;
mod partitioned;
mod pooled;
mod running;
mod shop;
mod sidecar;
mod slot_only;
mod storm;
mod streaming;

use std::time::Duration;

use outbox_relay::tokio_util::sync::CancellationToken;
use outbox_relay::{
    Consumer, ConsumerSettings, KafkaSettings, KafkaSink, PostgresSource, Relay, RelaySettings, handler,
};
use sqlx::{PgConnection, PgPool};

use self::shop::Shop;

/// Short, so that a dead relay's successor does not take the test's time.
const LEASE: Duration = Duration::from_secs(3);

/// Relays a shop's events until it is killed.
async fn relay(database: &str, kafka: &str) -> outbox_relay::Result<()> {
    relay_from(PostgresSource::connect(database).await?, kafka).await
}

/// The same, where the database must have been there when it began.
async fn relay_from(source: PostgresSource, kafka: &str) -> outbox_relay::Result<()> {
    let kafka = KafkaSettings { message_timeout: Duration::from_secs(2), ..KafkaSettings::new(kafka) };
    let settings = RelaySettings { lease: LEASE, ..RelaySettings::default() };
    Relay::new(source, KafkaSink::with_settings(kafka)?)
        .settings(settings)
        .run(CancellationToken::new())
        .await
}

/// Writes down what it receives, in the transaction of the inbox.
async fn consume(shop: &Shop, pool: PgPool, stop: CancellationToken) -> outbox_relay::Result<()> {
    let group = format!("group-{}", shop.topic);
    let settings = ConsumerSettings::new(&shop.kafka, group, [&shop.topic]);
    let write_down = handler(|tx: &mut PgConnection, received| {
        Box::pin(async move {
            let number: i64 = received.json()?;
            sqlx::query("INSERT INTO received (key, number) VALUES ($1, $2)")
                .bind(received.key_text())
                .bind(number)
                .execute(tx)
                .await?;
            Ok(())
        })
    });
    Consumer::new(settings, pool).run(write_down, stop).await
}
