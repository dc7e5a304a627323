//! Postgres: for production, and for any number of hosts.
//!
//! # What the database guarantees
//!
//! Every verb that writes is *one statement* in a transaction of its own, at READ COMMITTED; only
//! [`fence`](crate::store::Store::fence) is more, and the transactions that are lent to steps
//! (`transaction.rs`), which hold up their own saga only. So there is no other transaction that a frozen process
//! could hold open: what the server has received it finishes by itself.
//!
//! A batch of commits (`commit.rs`) is data-modifying CTEs, every one of which hangs on two things: the
//! worker's row with the worker's epoch, locked `FOR KEY SHARE`, and the journal rows that the statement
//! itself could insert. A commit that loses inserts no row, and nothing that hangs on a row follows. The
//! conflict raises no error: fewer rows come back than were sent. What goes alone has shorter statements that hang on
//! the same (`alone.rs`); they write, or leave it to the batch's to say why not.
//!
//! # How a worker is fenced
//!
//! 1. `UPDATE` its epoch, and commit. From here on no new batch of it passes: the lock on its row makes
//!    Postgres read the row's newest version again, and there the epoch differs.
//! 2. In a new transaction, `SELECT … FOR UPDATE` its row. That waits for the batches in flight, which
//!    hold `FOR KEY SHARE`. Then mark it drained, and commit.
//! 3. Only now may its sagas be claimed; the claim reads their journals in a later statement.
//!
//! In one statement, or under REPEATABLE READ, the last commit of a zombie would be missed. Renewals
//! update the row without touching its key, so batches and renewals never wait for each other.
//!
//! # Plans
//!
//! Connections that write plan each statement once, for any size of batch, and never by reading whole
//! tables: a plan made while the tables were empty must not be what drives ten million rows. Forbidding sequential
//! scans is not enough: to read the whole of an index is another way to read a whole table, and of an empty one it
//! looks as cheap as to look into it. The server takes it where a table is joined, sorted by its key, or asked by
//! `IN (SELECT …)` or `EXISTS`. So no statement of a worker does that: it says `= ANY (…)`, `LATERAL (… LIMIT 1)` and
//! `OFFSET 0` instead. `tests/saga_plans.rs` reads every plan. Without bitmaps rows come, and are locked, in the order
//! of the index, which two batches with a row in common count on.
//!
//! # What time is trusted for
//!
//! Times in rows come from the server's clock. They decide when a waiting saga is due and what people
//! read, never who may commit. Statements time out far below any sensible lease, so that one that hangs
//! does not hold up a takeover.
//!
//! A Postgres whose failover is asynchronous can forget what it has acknowledged, and with it a refund:
//! where the promise has to survive a failover, a synchronous standby is required.

mod alone;
mod claim;
mod commit;
mod connections;
mod error;
mod keys;
mod mail;
mod migrate;
mod pooler;
mod query;
mod read;
mod retain;
mod start;
mod statement;
mod transaction;
mod workers;

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use async_trait::async_trait;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Executor, Postgres};

use super::commit::{Commit, CommitReply, Loaded, Mail, Posted, Start, StartReply};
use super::connect::redacted;
use super::error::{Error, Result};
use super::query::Manifest;
use super::task::to_its_end;
use super::unheard::Unheard;
use super::worker::{Claim, Claimed, Fence, NewWorker, Renewal};
use super::{Begun, Lender, Store, Transactional};
use crate::id::{RunId, WorkerId};
use crate::in_place::in_place;
use connections::{Connections, PATIENCE};
use error::unreachable;
pub use transaction::PgTransaction;

/// Two batches of commits, two of starts, a claim, one to spare, and as many for clients' starts.
const WRITERS: u32 = 10;
/// Renewals and fences, which must never wait behind batches.
const KEEPERS: u32 = 2;
/// Questions.
const READERS: u32 = 4;
/// Transactions that steps are lent. Further steps wait for their turn, before their time begins.
const LENT: u32 = 8;

/// What every connection asks of the server. A client that vanished is noticed, and nothing waits for
/// longer than a lease.
const SESSION: &str = "SELECT set_config('statement_timeout', '8s', false), set_config('lock_timeout', '3s', false), \
     set_config('idle_in_transaction_session_timeout', '5s', false), set_config('tcp_user_timeout', '8s', false), \
     set_config('tcp_keepalives_idle', '5', false), set_config('tcp_keepalives_interval', '2', false), \
     set_config('tcp_keepalives_count', '3', false), set_config('default_transaction_isolation', 'read committed', false)";

/// What connections that write ask besides: see the module's chapter on plans.
const PLANS: &str = "SELECT set_config('plan_cache_mode', 'force_generic_plan', false), \
     set_config('enable_seqscan', 'off', false), set_config('enable_hashjoin', 'off', false), \
     set_config('enable_bitmapscan', 'off', false), set_config('enable_mergejoin', 'off', false), \
     set_config('jit', 'off', false)";

/// Sagas in Postgres. Cloning it gives another handle to the same connections.
///
/// A process holds up to 16 connections, 8 more where it runs transactional steps, and no more than its load
/// has ever needed.
#[derive(Clone, Debug)]
pub struct PostgresStore {
    db: Arc<Db>,
}

/// What every verb works on.
#[derive(Debug)]
struct Db {
    writers: Arc<Connections>,
    keepers: Arc<Connections>,
    readers: Arc<Connections>,
    /// What steps are lent goes back to a pool of its own: the step's code may have set anything there.
    lent: PgPool,
    /// The lease of the worker that joined last.
    lease_ms: AtomicU64,
    unheard: Unheard,
    /// Held by the claim that is being sent: see [`Unheard::send`].
    claiming: Arc<tokio::sync::Mutex<()>>,
}

/// A statement with its values.
type Binding = sqlx::query::Query<'static, Postgres, PgArguments>;

impl PostgresStore {
    /// Connects to the database under a `postgres://` URL. Its schema `saga` must be up to date: see
    /// [`migrate`](PostgresStore::migrate).
    ///
    /// The connections set their own timeouts, so a pooler between here and the server must keep sessions
    /// apart (PgBouncer: `pool_mode = session`). One that is seen to share them is refused.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] where the server does not answer; [`Error::Unusable`] where the URL, the
    /// rights, the schema or a pooler are wrong, with what to do about it.
    pub async fn connect(url: &str) -> Result<Self> {
        let options = options(url)?;
        to_its_end(async move { Db::connect(&options).await.map(|db| Self { db: Arc::new(db) }) }).await
    }

    /// Creates the schema `saga`, or brings it up to date. Safe to call from many processes at once; needs
    /// the right to create it, which workers do not need.
    pub async fn migrate(url: &str) -> Result<()> {
        let options = options(url)?;
        to_its_end(async move { migrate::migrate(&options).await }).await
    }

    /// The SQL that [`migrate`](PostgresStore::migrate) runs, in order, for those who run it themselves:
    /// it expects a schema `saga`.
    pub fn migrations() -> impl Iterator<Item = &'static str> {
        migrate::MIGRATIONS.iter().copied()
    }

    /// Inserts a saga in the caller's own transaction: it exists if and only if that transaction commits,
    /// together with the business rows beside it. Whoever claims next drives it; nothing wakes a worker
    /// earlier than its next poll.
    ///
    /// Where the id is taken by a transaction that is still open, this waits for its end, as any unique
    /// key would.
    ///
    /// ```no_run
    /// # use saga_core::{Definition, client, store::PostgresStore};
    /// # async fn place(pool: &sqlx::PgPool, place_order: &Definition<(), u64, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// let start = client::prepare(place_order, "order-1", &42).build()?;
    /// let mut tx = pool.begin().await?;
    /// sqlx::query("INSERT INTO orders (id) VALUES ('order-1')").execute(&mut *tx).await?;
    /// PostgresStore::start_in(&mut tx, &start).await?;
    /// tx.commit().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Cancellation
    ///
    /// Like any statement on the caller's connection: when the future is dropped, roll back.
    pub async fn start_in(connection: &mut PgConnection, start: &Start) -> Result<StartReply> {
        start::start_in(connection, start).await
    }

    /// Closes the connections, once what runs on them has ended; every later verb fails.
    pub async fn close(&self) {
        self.db.readers.close().await;
        self.db.writers.close().await;
        self.db.keepers.close().await;
        self.db.lent.close().await;
    }
}

fn options(url: &str) -> Result<PgConnectOptions> {
    let options = PgConnectOptions::from_str(url).map_err(|error| {
        // The parser's message may quote what it could not read, and so a password.
        tracing::debug!(url = %redacted(url), "the URL does not parse");
        let kind =
            if matches!(error, sqlx::Error::Configuration(_)) { "is malformed" } else { "cannot be used" };
        Error::Unusable(format!(
            "the URL {kind}: it has to look like postgres://user:password@host:5432/database"
        ))
    })?;
    let options = match options.get_application_name() {
        Some(_) => options,
        None => options.application_name("saga"),
    };
    // Floats are read in binary only, and a pooler refuses a parameter that it does not know.
    Ok(options.extra_float_digits(None).disable_statement_logging())
}

impl Db {
    async fn connect(options: &PgConnectOptions) -> Result<Self> {
        pooler::check(options).await?;
        let writers = pool(WRITERS, true).connect_with(options.clone()).await.map_err(unreachable)?;
        migrate::check(&mut *writers.acquire().await.map_err(unreachable)?).await?;
        Ok(Self {
            writers: Connections::of(writers, WRITERS),
            keepers: Connections::of(pool(KEEPERS, true).connect_lazy_with(options.clone()), KEEPERS),
            readers: Connections::of(pool(READERS, false).connect_lazy_with(options.clone()), READERS),
            lent: pool(LENT, false).connect_lazy_with(options.clone()),
            lease_ms: AtomicU64::new(u64::MAX),
            unheard: Unheard::default(),
            claiming: Arc::default(),
        })
    }
}

fn pool(connections: u32, writes: bool) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(PATIENCE)
        .test_before_acquire(false)
        .max_lifetime(None)
        .idle_timeout(None)
        .after_connect(move |connection, _| {
            Box::pin(async move {
                connection.execute(SESSION).await?;
                if writes {
                    connection.execute(PLANS).await?;
                }
                Ok(())
            })
        })
}

#[async_trait]
impl Store for PostgresStore {
    async fn register(&self, manifests: &[Manifest]) -> Result<()> {
        let (db, manifests) = (self.db.clone(), manifests.to_vec());
        to_its_end(async move { workers::register(&db, &manifests).await }).await
    }

    async fn join(&self, worker: &NewWorker) -> Result<Fence> {
        let (db, worker) = (self.db.clone(), worker.clone());
        let lease = u64::try_from(worker.lease.as_millis()).unwrap_or(u64::MAX);
        db.lease_ms.store(lease, Relaxed);
        to_its_end(async move { workers::join(&db, &worker).await }).await
    }

    async fn renew(&self, fence: Fence) -> Result<Renewal> {
        let db = self.db.clone();
        to_its_end(async move { workers::renew(&db, fence).await }).await
    }

    async fn fence(&self, worker: WorkerId) -> Result<()> {
        let db = self.db.clone();
        to_its_end(async move { workers::fence(&db, worker).await }).await
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        let (alone, limit) = (self.db.claiming.clone().lock_owned().await, claim.limit);
        let sending = self.db.unheard.send();
        let (db, claim, sent) = (self.db.clone(), claim.clone(), sending.clone());
        let claimed = to_its_end(async move {
            let _alone = alone;
            claim::claim(&db, &claim, &sent).await
        });
        let claimed = claimed.await;
        match &claimed {
            Ok(claimed) => self.db.unheard.heard(&sending, claimed.sagas.len() < limit),
            Err(Error::Fenced) => self.db.unheard.void(&sending),
            // It may be the second statement that failed, and the first that took the sagas.
            Err(_) => {}
        }
        claimed
    }

    async fn load(&self, run: RunId) -> Result<Option<Loaded>> {
        let db = self.db.clone();
        to_its_end(async move { read::load(&db, run).await }).await
    }

    async fn start(&self, fence: Option<Fence>, starts: &[Start]) -> Result<Vec<StartReply>> {
        let (db, starts) = (self.db.clone(), starts.to_vec());
        in_place(async move { start::start(&db, fence, &starts).await }).await
    }

    async fn commit(&self, fence: Fence, commits: &[Commit]) -> Result<Vec<CommitReply>> {
        let (db, commits) = (self.db.clone(), commits.to_vec());
        in_place(async move { commit::commit(&db, fence, &commits).await }).await
    }

    async fn post(&self, mail: &[Mail]) -> Result<Vec<Posted>> {
        let (db, mail) = (self.db.clone(), mail.to_vec());
        to_its_end(async move { mail::post(&db, &mail).await }).await
    }

    /// The server's work on a batch is what bounds the rate: one batch is prepared while the other is written, and
    /// more of them, each smaller, cost the server more than they hide.
    fn lanes(&self) -> usize {
        2
    }

    fn lender(self: Arc<Self>) -> Option<Lender> {
        Some(Lender::new(self))
    }
}

#[async_trait]
impl Transactional for PostgresStore {
    type Tx = PgTransaction;

    async fn begin(&self, fence: Fence, run: RunId, next: u32) -> Result<Begun<PgTransaction>> {
        let db = self.db.clone();
        to_its_end(async move { transaction::begin(&db, fence, run, next).await }).await
    }

    async fn commit_in(&self, tx: PgTransaction, fence: Fence, commit: &Commit) -> Result<CommitReply> {
        let commit = commit.clone();
        to_its_end(async move { transaction::commit_in(tx, fence, &commit).await }).await
    }

    async fn roll_back(&self, tx: PgTransaction) -> Result<()> {
        let db = self.db.clone();
        to_its_end(async move { transaction::roll_back(&db, tx).await }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_does_not_parse_is_not_quoted() {
        let error = options("postgres://ann:s3cret@host:notaport/x").unwrap_err().to_string();
        assert!(error.contains("malformed") && !error.contains("s3cret"), "{error}");
    }
}
