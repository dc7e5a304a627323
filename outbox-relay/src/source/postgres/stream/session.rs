//! One replication connection: its slot, its stream, and the marks written into the log.

use super::connection::{Connection, Start};
use super::decode::{Decoder, Row, emitted};
use super::feed::{Feed, Sent};
use super::publication::{self, MARK, Publication};
use super::slot::Lasting;
use crate::error::{Error, Result};
use crate::source::postgres::cursor::Snapshot;
use crate::source::postgres::table::Table;
use crate::source::postgres::target::Target;
use futures::FutureExt as _;
use sqlx::{AssertSqlSafe, PgPool};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use uuid::Uuid;

/// The prefix of the messages in the log that are about this outbox. They reach every slot of the database, those of
/// other outboxes too.
pub(in crate::source::postgres) fn message_prefix(outbox: &str) -> String {
    format!("outbox-relay {outbox}")
}

/// The content of the message that sends the relay back to its table.
pub(in crate::source::postgres) const READ_TABLE: &str = "read the table";

/// How often a mark is written while events come, and while none do: the log is kept from being
/// removed up to the last mark.
const MARK_EVERY: Duration = Duration::from_millis(100);
const MARK_IDLE_EVERY: u32 = 50;

/// How long a page waits for its first event; also how long a relay that is told to stop waits for one.
const PATIENCE: Duration = Duration::from_millis(50);

/// What the stream said.
#[derive(Debug)]
pub(super) enum Heard {
    /// A row was committed.
    Row(Row),
    /// All that this snapshot sees has been said, unless the publication left something out: if this was written under
    /// another state of it than it was found in, that.
    Mark { snapshot: Snapshot, lsn: u64, other_state: Option<String> },
    /// The table was described anew: it, or its publication, may have been changed. Ask
    /// [`Session::is_whole`] before the next row is believed to be the next one.
    Described,
    /// Nothing of interest.
    Nothing,
}

pub(in crate::source::postgres) struct Session {
    feed: Feed,
    ear: Ear,
    pool: PgPool,
    busy: Arc<AtomicBool>,
    marker: tokio::task::JoinHandle<()>,
    /// What had committed before the slot begins, and is not sent.
    before: Snapshot,
    /// How long it has been waited for without a word.
    silent: Duration,
}

/// What understands the messages.
struct Ear {
    decoder: Decoder,
    prefix: String,
    publication: Publication,
    /// Another state of it, whose marks are believed.
    passed: Option<String>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Session")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.marker.abort();
    }
}

/// What a session is opened with.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) pool: PgPool,
    pub(super) target: Target,
    pub(super) table: Table,
    /// Whether values may come in binary, as far as the table goes.
    pub(super) binary: bool,
    /// The publication to be read, if it is not our own.
    pub(super) publication: Option<String>,
    /// `None`: a slot that ends with the session, and begins now.
    pub(super) lasting: Option<Lasting>,
}

impl Session {
    /// Makes the slot, unless it is there, and starts the stream. Making one waits for transactions
    /// that are open now.
    pub(super) async fn open(opening: Opening) -> Result<Self> {
        let Opening { pool, target, table, binary, publication, lasting } = opening;
        // A publication of somebody else's may have tables with values that have no binary form.
        let binary = binary && publication.is_none();
        let publication = publication::find(&pool, &table, publication).await?;
        let (name, binary) = (&*publication.name, binary && takes_binary(&pool).await?);
        let (feed, before) = match lasting {
            None => temporary(&pool, &target, name, binary).await?,
            Some(lasting) => (lasting.start(&pool, &target, name, binary).await?, Snapshot::nothing()),
        };
        let busy = Arc::new(AtomicBool::new(true));
        let prefix = message_prefix(&table.name);
        let marker = tokio::spawn(mark(pool.clone(), prefix.clone(), publication.clone(), busy.clone()));
        let ear = Ear { decoder: Decoder::new(table), prefix, publication, passed: None };
        Ok(Self { feed, ear, pool, busy, marker, before, silent: Duration::ZERO })
    }

    /// Whether whoever has read all that this snapshot sees finds the rest in the stream.
    pub(super) fn is_covered_by(&self, read: &Snapshot) -> bool {
        read.covers(&self.before)
    }

    /// What the stream says next. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<Heard> {
        match self.feed.next().await? {
            Sent::Message(lsn, message) => self.ear.hear(lsn, message),
            Sent::Alive => Ok(Heard::Nothing),
        }
    }

    /// What it says next, if it does within a moment. Marks make it speak every few seconds; if they do not, though the
    /// database can be reached by others, the network has forgotten the connection, and would not say so for
    /// many minutes.
    ///
    /// # Errors
    ///
    /// As [`Self::next`], and when it has been waited for as long as `silence` without a word.
    pub(super) async fn next_within(&mut self, silence: Duration) -> Result<Option<Heard>> {
        if let Ok(heard) = tokio::time::timeout(PATIENCE, self.next()).await {
            self.silent = Duration::ZERO;
            return heard.map(Some);
        }
        self.silent += PATIENCE;
        if self.silent < silence {
            return Ok(None);
        }
        Err(Error::Replication(format!("nothing was heard of the stream for {silence:?}")))
    }

    /// What it says next, if it has been said already.
    pub(super) fn next_at_once(&mut self) -> Option<Result<Heard>> {
        self.next().now_or_never()
    }

    /// Checks that the publication is what it was when the stream began.
    pub(super) async fn is_whole(&self) -> Result<()> {
        if publication::is_as_found(&self.pool, &self.ear.publication).await? {
            Ok(())
        } else {
            Err(changed())
        }
    }

    /// Goes on past marks of another state of the publication, with it as it is now, if that has all of the table's
    /// inserts.
    pub(super) async fn pass(&mut self, other_state: String) -> Result<()> {
        let Publication { table, name, .. } = &self.ear.publication;
        self.ear.publication = publication::whole(&self.pool, table, name).await?;
        self.ear.passed = Some(other_state);
        Ok(())
    }

    /// Everything up to here may be forgotten.
    pub(super) fn acknowledge(&self, lsn: u64) {
        self.feed.acknowledge(lsn);
    }

    /// There is something for the next mark to acknowledge.
    pub(super) fn has_events(&self) {
        self.busy.store(true, Ordering::Relaxed);
    }
}

impl Ear {
    fn hear(&mut self, lsn: u64, message: &[u8]) -> Result<Heard> {
        match emitted(message).map_err(Error::Replication)? {
            Some(emitted) if emitted.prefix == self.prefix => self.told(emitted.lsn, emitted.content),
            Some(_) => Ok(Heard::Nothing),
            None => {
                let described = self.decoder.described;
                let row = self.decoder.decode(lsn, message).map_err(Error::Replication)?;
                let again = described > 0 && self.decoder.described > described;
                let other = if again { Heard::Described } else { Heard::Nothing };
                Ok(row.map_or(other, Heard::Row))
            }
        }
    }

    /// What is said about this outbox.
    fn told(&self, lsn: u64, text: &str) -> Result<Heard> {
        if text == READ_TABLE {
            return Err(Error::Replication("told to read the table".into()));
        }
        let (snapshot, state) = text.split_once('|').unwrap_or((text, ""));
        let as_found = state == self.publication.state || self.passed.as_deref() == Some(state);
        let other_state = (!as_found).then(|| state.to_owned());
        let snapshot = snapshot.parse().map_err(Error::Replication)?;
        Ok(Heard::Mark { snapshot, lsn, other_state })
    }
}

/// A stream of a slot of its own, and what had committed before that begins.
async fn temporary(
    pool: &PgPool,
    target: &Target,
    publication: &str,
    binary: bool,
) -> Result<(Feed, Snapshot)> {
    let slot = format!("outbox_relay_{}", Uuid::new_v4().simple());
    let mut connection = Connection::open(target).await?;
    let create = format!("CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT");
    // slot_name, consistent_point, snapshot_name, output_plugin
    let made = connection.query(&create).await?;
    let exported = made.into_iter().nth(2).flatten().unwrap_or_default();
    let before = exported_snapshot(pool, &exported).await?;
    let feed = connection.start(&Start { slot: &slot, from: 0, publication, binary }).await?;
    Ok((feed, before))
}

/// A snapshot by the name under which a session lets others have it.
async fn exported_snapshot(pool: &PgPool, name: &str) -> Result<Snapshot> {
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') {
        return Err(Error::Replication(format!("{name:?} is no name of a snapshot")));
    }
    let begin = format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{name}'");
    let mut tx = pool.begin_with(AssertSqlSafe(begin)).await?;
    let snapshot: String =
        sqlx::query_scalar("SELECT pg_current_snapshot()::text").fetch_one(&mut *tx).await?;
    tx.commit().await?;
    snapshot.parse().map_err(Error::Replication)
}

/// Writes the current snapshot into the log, again and again.
async fn mark(pool: PgPool, prefix: String, publication: Publication, busy: Arc<AtomicBool>) {
    let mut quiet = 0;
    loop {
        tokio::time::sleep(MARK_EVERY).await;
        quiet += 1;
        if !busy.swap(false, Ordering::Relaxed) && quiet < MARK_IDLE_EVERY {
            continue;
        }
        quiet = 0;
        let written = sqlx::query(MARK)
            .bind(&publication.name)
            .bind(&publication.table)
            .bind(&prefix)
            .execute(&pool)
            .await;
        if let Err(error) = written {
            tracing::debug!(%error, "no mark could be written");
            busy.store(true, Ordering::Relaxed);
        }
    }
}

async fn takes_binary(pool: &PgPool) -> Result<bool> {
    let version = "SELECT current_setting('server_version_num')::int >= 140000";
    Ok(sqlx::query_scalar(version).fetch_one(pool).await?)
}

/// What ends a stream: the table has what the publication left out.
pub(super) fn changed() -> Error {
    Error::Replication("the publication was changed".into())
}
