//! The relay: one at a time per outbox, from its table to Kafka.
//!
//! # States
//!
//! ```text
//! standby ──(the lease is free, or stood still for its length)──► resuming ──► publishing
//!    ▲                                                                            │
//!    └────── lease lost, producer dead, database gone: purge, forget, begin again ┘
//! ```
//!
//! *Resuming* goes back to the stored cursor, and reads the topics from the stored tail on: events
//! found there are not sent again. *Publishing* keeps a [window](crate::window) of events between
//! source and broker. Whatever goes wrong, nothing is repaired in memory: everything in the window is
//! forgotten and what is durable is read again.
//!
//! # Who may do what
//!
//! Only the holder of the lease's current epoch can acknowledge, which the database checks in the
//! statement that does it. A relay that lost the lease without knowing may still send what lies in
//! its producer's queue; it trusts its lease by its own clock and less long than it is given, and the
//! producer gives a record up before the lease can end. What arrives twice nevertheless has the same
//! id, and an inbox skips it.

mod admission;
mod lead;
mod pump;
mod settings;

pub use settings::RelaySettings;

use crate::error::{Error, Result};
use crate::route::Routes;
use crate::sink::Sink;
use crate::source::Source;
use crate::stats::Stats;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Publishes an outbox's events.
///
/// ```no_run
/// use outbox_relay::{KafkaSink, Relay, SqliteSource};
/// use tokio_util::sync::CancellationToken;
///
/// # async fn start() -> outbox_relay::Result<()> {
/// let source = SqliteSource::open("shipping.db").await?;
/// let sink = KafkaSink::connect("127.0.0.1:9092")?;
/// let stop = CancellationToken::new();
/// let relay = tokio::spawn(Relay::new(source, sink).run(stop.clone()));
/// // … later: publish what was read, acknowledge, give the lease up, and leave
/// stop.cancel();
/// relay.await.expect("does not panic")?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Relay {
    source: Arc<dyn Source>,
    sink: Box<dyn Sink>,
    settings: RelaySettings,
    stats: Arc<Stats>,
}

impl Relay {
    /// A relay from a source to a sink, with the default settings.
    pub fn new(source: impl Source, sink: impl Sink) -> Self {
        Self::between(Arc::new(source), Box::new(sink))
    }

    /// The same, where source and sink are chosen at run time.
    pub fn between(source: Arc<dyn Source>, sink: Box<dyn Sink>) -> Self {
        Self { source, sink, settings: RelaySettings::default(), stats: Arc::default() }
    }

    /// Sets everything that can be set.
    pub fn settings(mut self, settings: RelaySettings) -> Self {
        self.settings = settings;
        self
    }

    /// Where events go, and how they are written there.
    pub fn routes(mut self, routes: Routes) -> Self {
        self.settings.routes = routes;
        self
    }

    /// How long a dead relay's outbox waits for the next one; 10 s unless told.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// What this relay does, while it runs.
    pub fn stats(&self) -> Arc<Stats> {
        self.stats.clone()
    }

    /// Publishes until it is told to stop; waits as a standby while another relay holds the lease.
    ///
    /// Told to stop, it reads no more, waits up to [`RelaySettings::drain`] for what it has sent, and
    /// gives the lease up. Databases and brokers that are down are waited for.
    ///
    /// # Errors
    ///
    /// Only what waiting cannot mend: a configuration that cannot work, missing tables or rights,
    /// stored values that do not read back.
    ///
    /// # Cancellation
    ///
    /// Dropping the future is like a crash: nothing is lost, the lease runs out, and the next relay
    /// finds in the topics what was not acknowledged here.
    pub async fn run(mut self, stop: CancellationToken) -> Result<()> {
        self.settings.check(self.sink.longest_in_flight())?;
        crate::telemetry::observe(&self.stats, self.source.name());
        let mut pause = Duration::ZERO;
        loop {
            let taken_before = self.stats.taken_over.get();
            match self.lead(&stop).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_transient() => {
                    tracing::warn!(outbox = self.source.name(), %error, "begins again from what is durable");
                }
                Err(error) => return Err(error),
            }
            self.stats.restarts.add(1);
            let led = self.stats.taken_over.get() > taken_before;
            pause = if led { MIN_PAUSE } else { (pause * 2).clamp(MIN_PAUSE, MAX_PAUSE) };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);

impl std::fmt::Debug for dyn Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Source").field(&self.name()).finish()
    }
}

impl std::fmt::Debug for dyn Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sink")
    }
}

/// Runs a database operation to its end in its own task, even if nobody waits for it any more:
/// cancelling one half-way leaves its connection in an unknown state.
async fn whole<T: Send + 'static>(operation: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    match tokio::spawn(operation).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Error::Config("the runtime is shutting down".into())),
    }
}
