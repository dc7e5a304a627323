//! A service's own record of what it did: one row per call, written before the call is answered.
//!
//! # What a row says
//!
//! The key and the order it came for, the effect, the amount, and the verdict: `applied`, a `duplicate` of a
//! key that was applied before, `refused`, or a `mismatch` (a key that stands for another effect). Rows are
//! only ever inserted, so whoever reads the file afterwards sees every effect and every repetition. The engine
//! never writes here: that is what makes the ledgers a witness.
//!
//! # Idempotency by key
//!
//! Of one key at most one row can be `applied`: a unique index says so, whatever the code above it does. A
//! service whose calls are protected elsewhere (payment, by the idempotency layer) opens its ledger
//! [`Guard::Elsewhere`]: without the index, so that a failure of that protection would be seen.
//!
//! # Group commit
//!
//! One task owns the connection. It takes all calls that wait, applies them in one transaction, and answers
//! them when that is durable; calls that arrive meanwhile form the next one. So a hundred calls at once cost
//! one fsync. A call whose caller is gone is applied all the same.

use std::path::Path;
use std::time::Duration;

use outbox::Message;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteRow, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, Row as _, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use super::amount::Amount;

/// What a service does to the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    /// Goods are set aside.
    Reserve,
    /// They are put back.
    Release,
    /// Money is taken.
    Charge,
    /// It is given back.
    Refund,
    /// A parcel is handed to the carrier.
    Ship,
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It took effect.
    Applied,
    /// Its key had taken effect before.
    Duplicate,
    /// The service said no.
    Refused,
    /// Its key stands for another effect.
    Mismatch,
}

/// One call, as the ledger keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The idempotency key.
    pub key: String,
    /// The order it is for.
    pub order: String,
    /// What was asked.
    pub effect: Effect,
    /// For how much.
    pub amount: Amount,
}

/// Who makes sure that a key is applied once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The ledger.
    Key,
    /// Somebody before it.
    Elsewhere,
}

/// A handle to an open ledger. Cheap to clone; the ledger closes when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Ledger {
    requests: mpsc::Sender<Request>,
}

/// The call could not be recorded: nobody knows whether it was.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the ledger cannot be written: {0}")]
pub struct Unwritten(String);

#[derive(Debug)]
struct Request {
    call: Call,
    refused: Option<Verdict>,
    event: Option<Message>,
    caller: oneshot::Sender<Result<Verdict, Unwritten>>,
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS call (
    seq      INTEGER PRIMARY KEY,
    at_ms    INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
    key      TEXT    NOT NULL,
    order_id TEXT    NOT NULL,
    effect   TEXT    NOT NULL,
    cents    INTEGER NOT NULL,
    verdict  TEXT    NOT NULL
) STRICT";

const APPLIED_ONCE: &str =
    "CREATE UNIQUE INDEX IF NOT EXISTS call_applied_once ON call (key) WHERE verdict = 'applied'";

const INSERT: &str =
    "INSERT INTO call (key, order_id, effect, cents, verdict) VALUES (?1, ?2, ?3, ?4, ?5) RETURNING verdict";

const INSERT_ONCE: &str = "INSERT INTO call (key, order_id, effect, cents, verdict)
    SELECT ?1, ?2, ?3, ?4, coalesce(
        (SELECT CASE WHEN order_id = ?2 AND effect = ?3 AND cents = ?4 THEN 'duplicate' ELSE 'mismatch' END
         FROM call WHERE key = ?1 AND verdict = 'applied'),
        'applied')
    RETURNING verdict";

/// Calls in one transaction, at most: enough to fill a core, few enough that nobody waits long.
const BATCH: usize = 256;

impl Ledger {
    /// Opens a ledger's file, and creates it where it is missing. With the outbox's tables beside the
    /// ledger, calls can write events.
    pub async fn open(path: &Path, guard: Guard) -> Result<Self, sqlx::Error> {
        let mut connection = durable(path).connect().await?;
        sqlx::query(TABLE).execute(&mut connection).await?;
        if guard == Guard::Key {
            sqlx::query(APPLIED_ONCE).execute(&mut connection).await?;
        }
        let (requests, waiting) = mpsc::channel(4 * BATCH);
        tokio::spawn(write(connection, guard, waiting));
        Ok(Self { requests })
    }

    /// Records a call that is to take effect, and says whether it did. Durable when this returns.
    ///
    /// An event is enqueued with an effect that is applied, and only then: in the same transaction.
    ///
    /// # Cancellation
    ///
    /// Dropping the future gives up the answer; the call is applied all the same.
    pub async fn apply(&self, call: Call, event: Option<Message>) -> Result<Verdict, Unwritten> {
        self.send(call, None, event).await
    }

    /// Records a call that took no effect, for this reason.
    pub async fn note(&self, call: Call, verdict: Verdict) -> Result<Verdict, Unwritten> {
        self.send(call, Some(verdict), None).await
    }

    async fn send(
        &self,
        call: Call,
        refused: Option<Verdict>,
        event: Option<Message>,
    ) -> Result<Verdict, Unwritten> {
        let closed = || Unwritten("it is closed".into());
        let (caller, answer) = oneshot::channel();
        let request = Request { call, refused, event, caller };
        self.requests.send(request).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

/// Every call that a ledger holds, in the order in which they were recorded.
pub async fn read(path: &Path) -> Result<Vec<(Call, Verdict)>, sqlx::Error> {
    let mut connection = SqliteConnectOptions::new().filename(path).read_only(true).connect().await?;
    let rows = sqlx::query("SELECT key, order_id, effect, cents, verdict FROM call ORDER BY seq");
    rows.fetch_all(&mut connection).await?.iter().map(row).collect()
}

/// A file whose commits survive a power cut.
pub(super) fn durable(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(5))
        .disable_statement_logging()
}

async fn write(mut connection: SqliteConnection, guard: Guard, mut waiting: mpsc::Receiver<Request>) {
    let mut batch = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        match write_batch(&mut connection, guard, &batch).await {
            Ok(verdicts) => {
                for (request, verdict) in batch.drain(..).zip(verdicts) {
                    // A caller that is gone hears of it when it asks again under its key.
                    let _ = request.caller.send(Ok(verdict));
                }
            }
            Err(error) => {
                tracing::error!(%error, calls = batch.len(), "a ledger could not be written");
                for request in batch.drain(..) {
                    let _ = request.caller.send(Err(Unwritten(error.to_string())));
                }
            }
        }
    }
    if let Err(error) = connection.close().await {
        tracing::warn!(%error, "a ledger was not closed properly");
    }
}

async fn write_batch(
    connection: &mut SqliteConnection,
    guard: Guard,
    batch: &[Request],
) -> outbox::Result<Vec<Verdict>> {
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
    let mut verdicts = Vec::with_capacity(batch.len());
    for Request { call, refused, event, .. } in batch {
        let (sql, given) = match (refused, guard) {
            (Some(verdict), _) => (INSERT, Some(*verdict)),
            (None, Guard::Elsewhere) => (INSERT, Some(Verdict::Applied)),
            (None, Guard::Key) => (INSERT_ONCE, None),
        };
        let mut query = sqlx::query(sql)
            .bind(&call.key)
            .bind(&call.order)
            .bind(call.effect.as_str())
            .bind(call.amount.cents().cast_signed());
        if let Some(verdict) = given {
            query = query.bind(verdict.as_str());
        }
        let verdict = verdict_of(&query.fetch_one(&mut *tx).await?, 0)?;
        if let (Verdict::Applied, Some(event)) = (verdict, event) {
            outbox::enqueue(&mut *tx, event.clone()).await?;
        }
        verdicts.push(verdict);
    }
    tx.commit().await?;
    Ok(verdicts)
}

fn row(row: &SqliteRow) -> Result<(Call, Verdict), sqlx::Error> {
    let effect: String = row.try_get(2)?;
    let effect = Effect::from_name(&effect).ok_or_else(|| unknown("effect", &effect))?;
    let amount = Amount::from_cents(row.try_get::<i64, _>(3)?.unsigned_abs());
    let call = Call { key: row.try_get(0)?, order: row.try_get(1)?, effect, amount };
    Ok((call, verdict_of(row, 4)?))
}

fn verdict_of(row: &SqliteRow, column: usize) -> Result<Verdict, sqlx::Error> {
    let verdict: String = row.try_get(column)?;
    Verdict::from_name(&verdict).ok_or_else(|| unknown("verdict", &verdict))
}

fn unknown(what: &str, name: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("{name:?} is no {what} of this version").into())
}

impl Effect {
    const ALL: [Self; 5] = [Self::Reserve, Self::Release, Self::Charge, Self::Refund, Self::Ship];

    /// The name that ledgers and people use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reserve => "reserve",
            Self::Release => "release",
            Self::Charge => "charge",
            Self::Refund => "refund",
            Self::Ship => "ship",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|effect| effect.as_str() == name)
    }
}

impl Verdict {
    const ALL: [Self; 4] = [Self::Applied, Self::Duplicate, Self::Refused, Self::Mismatch];

    /// The name that ledgers and people use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Duplicate => "duplicate",
            Self::Refused => "refused",
            Self::Mismatch => "mismatch",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| verdict.as_str() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(key: &str, order: &str) -> Call {
        Call { key: key.into(), order: order.into(), effect: Effect::Ship, amount: Amount::from_cents(250) }
    }

    #[tokio::test]
    async fn a_key_is_applied_once_and_its_event_rides_with_it() {
        let home = tempfile::tempdir().expect("a directory");
        let file = home.path().join("ledger.db");
        let mut connection = durable(&file).connect().await.expect("opens");
        outbox::migrate(&mut connection).await.expect("migrates");
        let ledger = Ledger::open(&file, Guard::Key).await.expect("opens");
        let event = || Some(Message::new("order", "7", "Shipped"));
        let calls = [call("a", "7"), call("a", "7"), call("b", "8"), call("a", "9")];
        let mut verdicts = Vec::new();
        for call in calls {
            verdicts.push(ledger.apply(call, event()).await.expect("is written"));
        }
        use Verdict::{Applied, Duplicate, Mismatch, Refused};
        assert_eq!(verdicts, [Applied, Duplicate, Applied, Mismatch]);
        ledger.note(call("c", "9"), Refused).await.expect("is written");

        let rows = read(&file).await.expect("reads");
        assert_eq!(rows.len(), 5);
        assert_eq!(rows[1], (call("a", "7"), Duplicate));
        let events: i64 = sqlx::query_scalar("SELECT count(*) FROM outbox_event")
            .fetch_one(&mut connection)
            .await
            .expect("counts");
        assert_eq!(events, 2, "one per applied call");
    }

    #[tokio::test]
    async fn calls_at_once_share_a_batch_and_one_of_equal_keys_wins() {
        let home = tempfile::tempdir().expect("a directory");
        let ledger = Ledger::open(&home.path().join("ledger.db"), Guard::Key).await.expect("opens");
        let calls = (0..600).map(|n| ledger.apply(call(&format!("key {}", n % 300), "7"), None));
        let verdicts = futures::future::join_all(calls).await;
        let applied = verdicts.iter().filter(|verdict| matches!(verdict, Ok(Verdict::Applied))).count();
        assert_eq!((verdicts.len(), applied), (600, 300));
    }

    #[tokio::test]
    async fn a_ledger_that_is_guarded_elsewhere_shows_what_the_guard_let_through() {
        let home = tempfile::tempdir().expect("a directory");
        let ledger = Ledger::open(&home.path().join("ledger.db"), Guard::Elsewhere).await.expect("opens");
        for _ in 0..2 {
            assert_eq!(ledger.apply(call("a", "7"), None).await.expect("is written"), Verdict::Applied);
        }
    }
}
