//! The master behind Sentinels: asked for by its name, and asked for again when it is not the master any more.
//!
//! A command that failed is not sent again here: its caller knows how to repeat it, and the repetition goes to
//! whoever is the master by then.

use std::sync::{Arc, Mutex, PoisonError};

use redis::aio::MultiplexedConnection;
use redis::sentinel::SentinelClient;
use redis::{AsyncConnectionConfig, ErrorKind, RedisError, RedisResult, ServerErrorKind};

use super::clock::Clock;
use super::link::{CONNECTED_WITHIN, PATIENCE};

#[derive(Clone)]
pub(super) struct Master(Arc<Inner>);

struct Inner {
    // One asks the Sentinels at a time: the others get what it finds.
    sentinels: tokio::sync::Mutex<SentinelClient>,
    line: Mutex<Line>,
    clock: Arc<Clock>,
}

/// The connection to the present master, and how many there were before it.
#[derive(Default)]
struct Line {
    number: u64,
    connection: Option<MultiplexedConnection>,
}

impl Master {
    pub(super) fn new(sentinels: SentinelClient, clock: Arc<Clock>) -> Self {
        let sentinels = tokio::sync::Mutex::new(sentinels);
        Self(Arc::new(Inner { sentinels, line: Mutex::default(), clock }))
    }

    /// A connection to the master, and its number for [`judge`](Self::judge).
    pub(super) async fn connection(&self) -> RedisResult<(u64, MultiplexedConnection)> {
        if let Some(there) = self.present() {
            return Ok(there);
        }
        let mut sentinels = self.0.sentinels.lock().await;
        if let Some(there) = self.present() {
            return Ok(there);
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECTED_WITHIN))
            .set_response_timeout(Some(PATIENCE));
        let connection = sentinels.get_async_connection_with_config(&config);
        // Sentinels and masters are asked one after the other, and each may be silent.
        let connection = tokio::time::timeout(PATIENCE, connection).await;
        let connection = connection.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
        let mut line = self.line();
        (line.number, line.connection) = (line.number + 1, Some(connection.clone()));
        // Another master has another clock.
        self.0.clock.forget();
        Ok((line.number, connection))
    }

    /// Forgets the connection of this number if `error` says that it no longer leads to a master.
    pub(super) fn judge(&self, number: u64, error: &RedisError) {
        let not_the_master = match error.kind() {
            ErrorKind::Server(kind) => {
                matches!(kind, ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown)
            }
            _ => error.is_unrecoverable_error() || error.is_io_error() || error.is_timeout(),
        };
        let mut line = self.line();
        if not_the_master && line.number == number {
            line.connection = None;
        }
    }

    fn present(&self) -> Option<(u64, MultiplexedConnection)> {
        let line = self.line();
        line.connection.clone().map(|connection| (line.number, connection))
    }

    fn line(&self) -> std::sync::MutexGuard<'_, Line> {
        self.0.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
