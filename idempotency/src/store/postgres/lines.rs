//! Connections for single statements.
//!
//! A pool of sqlx asks a connection whether it still lives when it is taken, and again when it is given back: two
//! round trips around each statement. A claim is one statement, and would cost three. So a store with connections
//! of its own keeps them at hand here and asks nothing. A line that turns out to be dead is replaced, and all that
//! were idle with it. Whether its statement was carried out nobody knows: a read is sent again, a write is for its
//! caller to repeat, who knows how. A store that was given a pool uses that pool as it is.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::error::DatabaseError;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgRow};
use sqlx::{Connection, Error};
use tokio::sync::Semaphore;

use super::{PgQuery, unavailable};
use crate::store::{StoreError, StoreErrorKind};
use crate::unstoppable::Unstoppable;

/// How long a statement's answer is awaited. Every statement here touches one row by its key; what takes
/// longer has lost its way in the network.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// A line is replaced after this long, so that a store follows its server's address to another machine.
const LIFETIME: Duration = Duration::from_secs(30 * 60);

#[derive(Clone, Debug)]
pub(super) enum Lines {
    /// Somebody else's connections.
    Pool(PgPool),
    Own(Arc<Own>),
}

pub(super) struct Own {
    options: PgConnectOptions,
    slots: Semaphore,
    idle: Mutex<Vec<Line>>,
}

struct Line {
    connection: PgConnection,
    since: Instant,
}

impl Lines {
    /// At most `most` connections of its own, opened when they are needed.
    pub(super) fn own(options: PgConnectOptions, most: usize) -> Self {
        Self::Own(Arc::new(Own { options, slots: Semaphore::new(most), idle: Mutex::default() }))
    }

    /// Runs one statement to its end, or gives it up together with its connection: nobody else ever sees what
    /// is still on its way. It goes on without a caller who stops waiting, and leaves no connection in the middle
    /// of something.
    pub(super) async fn ask(&self, query: PgQuery) -> Result<PgRow, StoreError> {
        match self {
            Self::Pool(pool) => {
                let pool = pool.clone();
                Unstoppable::run(async move {
                    let mut connection = pool.acquire().await?;
                    let answer = in_time(query, &mut connection).await;
                    if answer.as_ref().is_err_and(breaks) {
                        connection.close_on_drop();
                    }
                    answer
                })
                .await
            }
            Self::Own(own) => Unstoppable::run(own.clone().carry(query)).await,
        }
        .map_err(unavailable)
    }

    /// The same for a statement that changes nothing: a dead connection is no reason not to answer.
    pub(super) async fn read(&self, query: impl Fn() -> PgQuery) -> Result<PgRow, StoreError> {
        match self.ask(query()).await {
            Err(error) if matches!(self, Self::Own(_)) && error.kind() == StoreErrorKind::Unavailable => {
                self.ask(query()).await
            }
            answer => answer,
        }
    }
}

/// The options hold the password, and sqlx shows it.
impl std::fmt::Debug for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Own").field("idle", &self.idle().len()).finish_non_exhaustive()
    }
}

impl Own {
    async fn carry(self: Arc<Self>, query: PgQuery) -> Result<PgRow, Error> {
        let slot = tokio::time::timeout(PATIENCE, self.slots.acquire()).await;
        let _slot = slot.map_err(|_| Error::PoolTimedOut)?.map_err(|_| Error::PoolClosed)?;
        let mut line = match self.take_idle() {
            Some(line) => line,
            None => self.open().await?,
        };
        let answer = in_time(query, &mut line.connection).await;
        match answer.as_ref().is_err_and(breaks) {
            // Its server has hung up since it was used last, and probably on the others, too.
            true => self.forget_idle(),
            false => self.idle().push(line),
        }
        answer
    }

    async fn open(&self) -> Result<Line, Error> {
        let connection = tokio::time::timeout(PATIENCE, PgConnection::connect_with(&self.options));
        let connection = connection.await.unwrap_or_else(|_| Err(silent()))?;
        Ok(Line { connection, since: Instant::now() })
    }

    fn take_idle(&self) -> Option<Line> {
        let mut idle = self.idle();
        // The one used last is the one most likely to live.
        while let Some(line) = idle.pop() {
            if line.since.elapsed() < LIFETIME {
                return Some(line);
            }
        }
        None
    }

    fn forget_idle(&self) {
        let forgotten = std::mem::take(&mut *self.idle());
        drop(forgotten);
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Line>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn in_time(query: PgQuery, connection: &mut PgConnection) -> Result<PgRow, Error> {
    tokio::time::timeout(PATIENCE, query.fetch_one(connection)).await.unwrap_or_else(|_| Err(silent()))
}

pub(super) fn silent() -> Error {
    let silent = format!("no answer within {PATIENCE:?}");
    Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, silent))
}

/// Whether a connection is not to be used after this error.
fn breaks(error: &Error) -> bool {
    match error {
        // The server says good-bye, or a pooler that has lost it.
        Error::Database(error) => is_of("57P", error.as_ref()) || is_of("08", error.as_ref()),
        _ => true,
    }
}

fn is_of(class: &str, error: &dyn DatabaseError) -> bool {
    error.code().is_some_and(|code| code.starts_with(class))
}

/// Whether a connection that lay idle turned out to be closed.
pub(super) fn hung_up(error: &Error) -> bool {
    match error {
        // A pooler's 08 may as well mean that there are too many connections: that is no reason to try another one.
        Error::Database(error) => is_of("57P", error.as_ref()),
        Error::Protocol(_) => true,
        Error::Io(error) => error.kind() != std::io::ErrorKind::TimedOut,
        _ => false,
    }
}
