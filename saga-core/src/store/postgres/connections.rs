//! Connections that are lent, used for one verb, and kept.
//!
//! sqlx's pool asks the server whether a connection still works each time it is given back, which costs
//! each batch a round trip and the server a message. Here a connection is kept as it is after a statement
//! that was answered, and closed after one that was not; then all that lie idle are closed too, because a
//! server that went away took them with it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgPool, PgRow};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Binding;
use super::error::{failed, is_over, unreachable};
use crate::store::error::{Error, Result};

/// How long an answer is awaited before its connection is given up: beyond every timeout of the server,
/// so that it is the network that is at fault.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// At most so many connections at once.
#[derive(Debug)]
pub(super) struct Connections {
    pool: PgPool,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<PoolConnection<Postgres>>>,
}

/// A connection that is lent.
#[derive(Debug)]
pub(super) struct Lent {
    connection: Option<PoolConnection<Postgres>>,
    /// Whether the last statement was answered, so that the next borrower meets nothing of it.
    sound: bool,
    home: Arc<Connections>,
    _permit: OwnedSemaphorePermit,
}

impl Connections {
    /// `most` must not exceed what the pool allows: whoever has a permit never waits for the pool.
    pub(super) fn of(pool: PgPool, most: u32) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(most as usize));
        Arc::new(Self { pool, permits, idle: Mutex::default() })
    }

    /// Waits for a connection, for a while.
    pub(super) async fn lend(self: &Arc<Self>) -> Result<Lent> {
        let permit = tokio::time::timeout(PATIENCE, self.permits.clone().acquire_owned()).await;
        let permit = permit.map_err(|_| Error::Unavailable("every connection is busy".into()))?;
        let permit = permit.map_err(|_| Error::Unavailable("the store was closed".into()))?;
        let idle = self.idle().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.pool.acquire().await.map_err(unreachable)?,
        };
        Ok(Lent { connection: Some(connection), sound: true, home: self.clone(), _permit: permit })
    }

    /// Waits until what is lent is given back, and closes everything.
    pub(super) async fn close(&self) {
        self.permits.close();
        self.idle().clear();
        self.pool.close().await;
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<PoolConnection<Postgres>>> {
        self.idle.lock().expect("nothing panics while it holds the connections")
    }
}

impl Lent {
    /// Runs one statement to its end.
    pub(super) async fn rows(&mut self, statement: Binding) -> Result<Vec<PgRow>> {
        let connection = self.connection.as_mut().expect("it is taken out at the very end only");
        self.sound = false;
        match tokio::time::timeout(PATIENCE, statement.fetch_all(&mut **connection)).await {
            Ok(answer) => {
                self.sound = !answer.as_ref().is_err_and(is_over);
                answer.map_err(failed)
            }
            Err(_) => Err(Error::Unknown(format!("no answer within {PATIENCE:?}"))),
        }
    }

    /// Closes it: it is in the middle of something.
    pub(super) fn give_up(mut self) {
        self.sound = false;
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if self.sound && !self.home.permits.is_closed() {
            self.home.idle().push(connection);
        } else if !self.sound {
            connection.close_on_drop();
            let stale = std::mem::take(&mut *self.home.idle());
            stale.into_iter().for_each(|mut connection| connection.close_on_drop());
        }
    }
}
