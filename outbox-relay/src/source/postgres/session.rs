//! A session of the server for one piece of work, also behind a pooler.
//!
//! A pooler such as PgBouncer in transaction mode lends a session of the server for one transaction, and each
//! session to many clients in turn. Behind one:
//!
//! * every piece of work is a transaction. A statement is prepared and run in two exchanges, which would else
//!   meet two sessions;
//! * statements have no names, for those of all clients would meet in one session;
//! * settings hold for the transaction only. `synchronous_commit = off`, left behind in a session, would be the
//!   business's too.
//!
//! That is two more round trips for each piece of work, and a statement is planned anew each time. A connection
//! of our own needs none of it, and is told its settings when it is made, not afterwards: a pooler that nobody told
//! us about refuses them then, instead of passing them on to others.

use super::PostgresSource;
use crate::error::{Error, Result};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::{PgConnection, Postgres, Row as _, Transaction};
use std::ops::{Deref, DerefMut};
use std::time::Duration;

/// The table may have been empty when it was last analysed: a planner that believes it still is reads all of it
/// for every tick.
const SETTINGS: [(&str, &str); 5] = [
    ("enable_seqscan", "off"),
    ("jit", "off"),
    ("synchronous_commit", "off"),
    ("idle_in_transaction_session_timeout", "10s"),
    ("statement_timeout", "60s"),
];

/// The same for a transaction.
pub(super) const BEGIN: &str = "BEGIN; SET LOCAL enable_seqscan = off; SET LOCAL jit = off; \
    SET LOCAL synchronous_commit = off; SET LOCAL idle_in_transaction_session_timeout = '10s'; \
    SET LOCAL statement_timeout = '60s'";

/// Beyond what the server gives a statement: who waits for longer waits for an answer that the network has lost.
const ANSWER_WITHIN: Duration = Duration::from_secs(75);

/// Waits for the answers of a piece of work, but not for what TCP calls long: a firewall that forgets a connection
/// resets nothing, and the lease would be renewed by another one meanwhile. The work's connection goes with it; the
/// pool asks one that it gets back whether it works.
pub(super) async fn answered<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let answered = tokio::time::timeout(ANSWER_WITHIN, work).await;
    let lost =
        || std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no answer within {ANSWER_WITHIN:?}"));
    answered.unwrap_or_else(|_| Err(Error::Database(sqlx::Error::Io(lost()))))
}

/// Lets the rest of a transaction take as long as it does: it was asked for by a person, or is done once.
pub(super) async fn without_limit(tx: &mut PgConnection) -> Result<()> {
    sqlx::raw_sql("SET LOCAL statement_timeout = 0").execute(tx).await?;
    Ok(())
}

/// How a connection is made.
pub(super) fn options(options: PgConnectOptions, pooled: bool) -> PgConnectOptions {
    // What a pooler does not know of it refuses, unless it is told to pass it over.
    if pooled { options.extra_float_digits(None) } else { options.options(SETTINGS) }
}

/// What is wrong with a connection that cannot be made.
pub(super) fn unreachable(shown: &str, error: &sqlx::Error) -> Error {
    let problem = format!("the database {shown} cannot be reached: {error}");
    if problem.contains("unsupported startup parameter") {
        return Error::Config(format!("{problem}. That is a pooler: {ADVICE}"));
    }
    Error::Config(problem)
}

/// What to do about a pooler that nobody told us about.
const ADVICE: &str =
    "set source.pooled = true (in code: PostgresSource::connect_pooled), or name the server itself";

/// Dropped without [`Session::end`] behind a pooler, it takes back what was done.
#[derive(Debug)]
pub(super) enum Session {
    Own(PoolConnection<Postgres>),
    Lent(Transaction<'static, Postgres>),
}

impl Session {
    /// Makes durable what was done; where the session is our own, it is already.
    pub(super) async fn end(self) -> Result<()> {
        match self {
            Self::Own(_) => Ok(()),
            Self::Lent(transaction) => Ok(transaction.commit().await?),
        }
    }
}

impl Deref for Session {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match self {
            Self::Own(connection) => connection,
            Self::Lent(transaction) => transaction,
        }
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match self {
            Self::Own(connection) => connection,
            Self::Lent(transaction) => transaction,
        }
    }
}

impl PostgresSource {
    /// For one statement, or some that need not become true together.
    pub(super) async fn session(&self) -> Result<Session> {
        Ok(if self.pooled {
            Session::Lent(self.pool.begin_with(BEGIN).await?)
        } else {
            Session::Own(self.pool.acquire().await?)
        })
    }

    pub(super) async fn begin(&self) -> Result<Transaction<'static, Postgres>> {
        Ok(if self.pooled { self.pool.begin_with(BEGIN).await? } else { self.pool.begin().await? })
    }

    /// Whether statements may have names, which live as long as their session.
    pub(super) fn named(&self) -> bool {
        !self.pooled
    }
}

/// Finds out a pooler that nobody told us about: two connections that are held at the same time meet one session
/// of the server. One that is busy may hide it for once.
pub(super) async fn check(pool: &PgPool, pooled: bool) -> Result<()> {
    if pooled || pool.options().get_max_connections() < 2 {
        return Ok(());
    }
    let (mut one, mut other) = (pool.acquire().await?, pool.acquire().await?);
    if process_id(&mut one).await? != process_id(&mut other).await? {
        return Ok(());
    }
    let found = "there is a pooler before the database, which lends its sessions";
    Err(Error::Config(format!("{found}: {ADVICE}")))
}

async fn process_id(connection: &mut PgConnection) -> Result<i32> {
    Ok(sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(connection).await?.try_get(0)?)
}
