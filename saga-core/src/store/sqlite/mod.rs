//! SQLite: the embedded default, for one process or several on one host.
//!
//! # What the database guarantees
//!
//! A transaction that begins with `BEGIN IMMEDIATE` is alone: there is one writer at a time among all
//! processes of the host. So a verb that writes first asks who would lose, then writes the rest in plain
//! inserts, and nothing can change between the two. What goes alone is one statement, which is a transaction of its own
//! (`alone.rs`). The file is in WAL mode with `synchronous=FULL`: a
//! commit that was answered survives a power cut, at the price of one fsync for each *batch*.
//!
//! Each handle has one connection that writes, which is also the queue of the process's writers, and a
//! few that only read; readers never wait for the writer. A writer of another process is waited for, at
//! most [`BUSY_TIMEOUT`]; then the verb fails as [`Unavailable`](crate::store::Error::Unavailable). A
//! process that is frozen inside a transaction stops all writers until it is thawed or killed: that is
//! SQLite's nature. So does a step whose code leaks the transaction that it was lent; verbs fail after half a minute
//! then, and say so, and the process has to be ended.
//!
//! # Who is dead
//!
//! A worker holds an operating system's lock on a file of its own beside the database (`workers.rs`). A
//! free lock means that its process is gone, and its sagas are taken over at once; a held one falls
//! under the lease rule.
//!
//! # What time is trusted for
//!
//! Times in rows come from the host's clock, read while the writer is alone. They decide when a waiting
//! saga is due and what people read, never who may commit.

mod alone;
mod claim;
mod commit;
mod error;
#[cfg(test)]
mod faults;
mod insert;
mod keys;
mod live;
mod mail;
mod migrate;
mod query;
mod read;
mod retain;
mod start;
mod transaction;
mod workers;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, SqliteConnection};

use super::commit::{Commit, CommitReply, Loaded, Mail, Posted, Start, StartReply};
use super::error::{Error, Result};
use super::query::Manifest;
use super::task::to_its_end;
use super::unheard::Unheard;
use super::worker::{Claim, Claimed, Fence, NewWorker, Renewal};
use super::{Begun, Lender, Store, Transactional};
use crate::id::{RunId, WorkerId};
use crate::in_place::in_place;
use error::failed;
pub use transaction::SqliteTransaction;
use workers::Locks;
use writer::{Turn, Tx, Writer};

/// How long a verb waits for a writer of another process.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How often opening the file is tried again while others open it.
const OPEN_AGAIN: Duration = Duration::from_millis(5);

/// Connections that only read.
const READERS: u32 = 4;

/// Page caches, in KiB as the pragma wants them. One that is there is filled, whatever it is good for: beyond what
/// a batch touches they only cost memory, because the operating system caches the file as well.
const WRITER_CACHE: &str = "-8192";
const READER_CACHE: &str = "-1024";

/// Sagas in a SQLite file. Cloning it gives another handle to the same connections.
///
/// See [`open`](SqliteStore::open).
#[derive(Clone, Debug)]
pub struct SqliteStore {
    db: Arc<Db>,
}

/// What every verb works on.
#[derive(Debug)]
struct Db {
    path: PathBuf,
    writer: Writer,
    /// What steps are lent, and the queue of those that wait for it.
    lent: SqlitePool,
    lending: Arc<tokio::sync::Mutex<()>>,
    readers: SqlitePool,
    locks: Locks,
    unheard: Unheard,
    /// Held by the claim that is being sent: see [`Unheard::send`].
    claiming: Arc<tokio::sync::Mutex<()>>,
}

impl SqliteStore {
    /// Opens the file at a path or under a `sqlite:` URL, creates it where it is missing, and brings its
    /// tables up to date. The user's own tables may live in the same file; ours begin with `saga_`.
    ///
    /// The file must be on a local disk: SQLite's locks and its shared memory do not work over a network.
    ///
    /// # Errors
    ///
    /// [`Error::Unusable`] where it is no database, is in memory, or was written by a newer version.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = plain_path(path.as_ref())?;
        to_its_end(async move { Db::open(&path).await.map(|db| Self { db: Arc::new(db) }) }).await
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.db.path
    }

    /// Inserts a saga in the caller's own transaction on this file: it exists if and only if that
    /// transaction commits, together with the business rows beside it. Whoever claims next drives it.
    ///
    /// Begin the transaction with `BEGIN IMMEDIATE`: SQLite does not let one that has only read go on to
    /// write when another process has written meanwhile.
    pub async fn start_in(connection: &mut SqliteConnection, start: &Start) -> Result<StartReply> {
        start::start_in(connection, start).await
    }

    /// Closes the connections; every later verb fails. Dropping the last handle closes them as well, but
    /// does not wait for it.
    pub async fn close(&self) {
        self.db.readers.close().await;
        self.db.lent.close().await;
        self.db.writer.close().await;
    }

    /// The SQL that [`open`](SqliteStore::open) runs on an empty file, for those who want to read it.
    pub fn migrations() -> impl Iterator<Item = &'static str> {
        migrate::MIGRATIONS.iter().copied()
    }
}

/// The path, whether or not it was written as a URL.
fn plain_path(given: &Path) -> Result<PathBuf> {
    let Some(text) = given.to_str() else { return Ok(given.to_owned()) };
    let path = text.strip_prefix("sqlite://").or_else(|| text.strip_prefix("sqlite:"));
    let is_url = path.is_some();
    let path = path.unwrap_or(text);
    if path.is_empty() || path.contains(":memory:") {
        return Err(Error::Unusable("a file is needed; for sagas in memory use `memory:`".into()));
    }
    if is_url && path.contains('?') {
        return Err(Error::Unusable("a sqlite: URL takes no parameters here".into()));
    }
    Ok(path.into())
}

impl Db {
    /// Waits for others that open the file as well: giving a new one its journal mode fails at once beside them,
    /// whatever the timeout of the connection is.
    async fn open(path: &Path) -> Result<Self> {
        let deadline = tokio::time::Instant::now() + BUSY_TIMEOUT;
        loop {
            match Self::try_open(path).await {
                Err(error) if error.is_transient() && tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(OPEN_AGAIN).await;
                }
                opened => return opened,
            }
        }
    }

    async fn try_open(path: &Path) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .statement_cache_capacity(200)
            .row_buffer_size(512)
            // After a burst the WAL file shrinks again.
            .pragma("journal_size_limit", "67108864")
            .pragma("cache_size", WRITER_CACHE)
            .pragma("temp_store", "memory")
            .disable_statement_logging();
        let writer = Writer::new(options.connect().await.map_err(failed)?);
        migrate::migrate(&writer).await?;
        commit::prepare(&writer).await?;
        alone::prepare(&writer).await?;
        let lent = transaction::pool(options.clone().create_if_missing(false));
        let reading = options.create_if_missing(false).read_only(true).pragma("cache_size", READER_CACHE);
        let readers = pool(READERS).connect_with(reading).await;
        let readers = readers.map_err(failed)?;
        let path =
            path.canonicalize().map_err(|e| Error::Unusable(format!("its path cannot be resolved: {e}")))?;
        let locks = Locks::beside(&path);
        Ok(Self {
            path,
            writer,
            lent,
            lending: Arc::default(),
            readers,
            locks,
            unheard: Unheard::default(),
            claiming: Arc::default(),
        })
    }

    /// Waits until no other write of this process is under way.
    async fn turn(&self) -> Result<Turn> {
        self.writer.lend().await
    }

    /// Waits until this transaction is alone.
    async fn begin(&self) -> Result<Tx> {
        self.writer.begin().await
    }
}

fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .min_connections(1)
        .max_connections(connections)
        // A connection to a file does not go stale.
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
}

#[async_trait]
impl Store for SqliteStore {
    async fn register(&self, manifests: &[Manifest]) -> Result<()> {
        let (db, manifests) = (self.db.clone(), manifests.to_vec());
        to_its_end(async move { workers::register(&db, &manifests).await }).await
    }

    async fn join(&self, worker: &NewWorker) -> Result<Fence> {
        let (db, worker) = (self.db.clone(), worker.clone());
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
            Err(Error::Unknown(_)) => {}
            Err(_) => self.db.unheard.void(&sending),
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

    /// There is one writer.
    fn lanes(&self) -> usize {
        1
    }

    fn lender(self: Arc<Self>) -> Option<Lender> {
        Some(Lender::new(self))
    }
}

#[async_trait]
impl Transactional for SqliteStore {
    type Tx = SqliteTransaction;

    async fn begin(&self, fence: Fence, run: RunId, next: u32) -> Result<Begun<SqliteTransaction>> {
        let db = self.db.clone();
        to_its_end(async move { transaction::begin(&db, fence, run, next).await }).await
    }

    async fn commit_in(&self, tx: SqliteTransaction, fence: Fence, commit: &Commit) -> Result<CommitReply> {
        let commit = commit.clone();
        to_its_end(async move { transaction::commit_in(tx, fence, &commit).await }).await
    }

    async fn roll_back(&self, tx: SqliteTransaction) -> Result<()> {
        to_its_end(async move { transaction::end(tx).await }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_and_a_path_name_the_same_file() {
        for given in ["orders.db", "sqlite:orders.db", "sqlite://orders.db"] {
            assert_eq!(plain_path(Path::new(given)).unwrap(), Path::new("orders.db"));
        }
        assert_eq!(plain_path(Path::new("sqlite:///var/orders.db")).unwrap(), Path::new("/var/orders.db"));
        assert_eq!(plain_path(Path::new("what?.db")).unwrap(), Path::new("what?.db"));
        for refused in ["sqlite::memory:", "sqlite:", "", ":memory:", "sqlite:a.db?mode=ro"] {
            assert!(matches!(plain_path(Path::new(refused)), Err(Error::Unusable(_))), "{refused}");
        }
    }
}
