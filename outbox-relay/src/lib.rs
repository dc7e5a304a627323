//! Moves committed outbox rows to Kafka: in order, none lost.
//!
//! Services write events with the crate [`outbox`]; a [`Relay`] publishes them, in the service's own
//! process or as the sidecar binary `outbox-relay`. On the other side a [`Consumer`] feeds a handler
//! whose effect on the database happens exactly once.
//!
//! ```no_run
//! use outbox_relay::{Consumer, ConsumerSettings, KafkaSink, PostgresSource, Relay, handler};
//! use tokio_util::sync::CancellationToken;
//!
//! # async fn start(pool: outbox::sqlx::PgPool) -> outbox_relay::Result<()> {
//! let stop = CancellationToken::new();
//! let source = PostgresSource::connect("postgres://shop@localhost/shop").await?;
//! let relay = Relay::new(source, KafkaSink::connect("127.0.0.1:9092")?);
//! tokio::spawn(relay.run(stop.clone()));
//!
//! let settings = ConsumerSettings::new("127.0.0.1:9092", "shipping", ["outbox.event.order"]);
//! let ship = handler(|tx: &mut outbox::sqlx::PgConnection, received| {
//!     Box::pin(async move {
//!         outbox::sqlx::query("INSERT INTO shipments (order_id) VALUES ($1)")
//!             .bind(received.key_text())
//!             .execute(tx)
//!             .await?;
//!         Ok(())
//!     })
//! });
//! Consumer::new(settings, pool).run(ship, stop).await?;
//! # Ok(()) }
//! ```
//!
//! # What is promised
//!
//! * **Published if, and only if, committed.** The row is the truth and stays until Kafka has the event.
//! * **In order per key**, for keys whose writers take turns ([`outbox::Message`]), through failures,
//!   restarts and rejected records.
//! * **At least once**, and almost always once: after a crash the relay reads the tail of the topics
//!   and skips what is there. [`outbox::Inbox`] and [`Consumer`] make it exactly once.
//! * **One relay at a time**, others stand by; see [`relay`].

pub mod consumer;
pub mod doctor;
mod error;
mod event;
pub mod history;
pub mod lease;
pub mod relay;
pub mod route;
pub mod sink;
pub mod source;
pub mod stats;
mod tail;
mod telemetry;
mod window;

pub use consumer::{Consumer, ConsumerSettings, HandlerError, Received, handler};
pub use error::{Error, Result};
pub use event::{Event, Fields, Key, Mark, Page, Park};
pub use relay::{Relay, RelaySettings};
pub use route::{Format, Route, Routes};
pub use sink::{KafkaSettings, KafkaSink, MemorySink};
pub use source::{Decision, PostgresSource, SqliteSource};
pub use tail::Tail;
pub use {outbox, rdkafka, tokio_util};
