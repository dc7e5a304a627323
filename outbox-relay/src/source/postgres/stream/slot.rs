//! Reading a table that cannot be polled: through a replication slot that lasts.
//!
//! A table made for Debezium says neither in which transaction a row was written nor in which order, so
//! what commits late cannot be found in it, and what has been published cannot be told from what has not.
//! Then the log is all there is, as it is for Debezium:
//!
//! * The slot outlives the relay, and keeps the log from being removed while the relay is away. The
//!   server bounds that (`max_slot_wal_keep_size`); a slot that it gave up cannot be replaced without
//!   missing events, so the relay says so and stops.
//! * A mark is acknowledged first in `outbox.relay`, conditional on the lease's epoch, then to the slot:
//!   the relay starts again at the later of the two. A stale relay can move neither; its successor ends
//!   its connection.
//! * A mark is a place in the log and nothing more. What a publication left out while it was not whole the log does
//!   not say afterwards, however often it is read: so a mark from before a change ends nothing, and reading goes on
//!   with the publication as it is now, as long as that has all of the table's inserts.
//! * Rows are never removed, parked events are kept whole, and `replay` and `verify` have nothing to go by.
//!
//! `outbox-relay migrate` adds the two columns; then none of this applies to a relay that begins. One that runs
//! already goes on through the slot, and moves the cursor that the columns came with, so that its successor goes on
//! behind what it has published.

use super::connection::{Connection, Start};
use super::feed::Feed;
use super::session::{Heard, Opening, Session};
use crate::error::{Error, Result};
use crate::event::Page;
use crate::source::PageSize;
use crate::source::postgres::PostgresSource;
use crate::source::postgres::cursor::Cursor;
use crate::source::postgres::target::{APPLICATION, Target};
use sqlx::{PgPool, Row as _};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a predecessor's connection has to end.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// A slot by its name, and from where on it is read.
#[derive(Clone, Debug)]
pub(super) struct Lasting {
    pub(super) slot: String,
    /// What was acknowledged last; `None` before anything was.
    pub(super) from: Option<u64>,
}

/// A stream that says nothing for so long is begun anew. Longer than a server may be busy with a large transaction: it
/// would begin anew with that, too.
const SILENCE: Duration = Duration::from_secs(120);

/// The next page, up to a mark.
pub(in crate::source::postgres) async fn read(source: &PostgresSource, limit: usize) -> Result<Page> {
    let mut session = source.slot_session.lock().await;
    if session.is_none() {
        *session = Some(open(source).await?);
        source.streams.store(true, Ordering::Relaxed);
        tracing::info!(outbox = source.table.name, "streams, and cannot poll");
    }
    let open = session.as_mut().expect("it was opened");
    let page = page(open, source, limit).await;
    if page.is_err() {
        *session = None;
        source.streams.store(false, Ordering::Relaxed);
    }
    page
}

async fn page(session: &mut Session, source: &PostgresSource, limit: usize) -> Result<Page> {
    session.acknowledge(source.acknowledged_lsn.load(Ordering::Relaxed));
    let mut page = Page::default();
    let mut heard = session.next_within(SILENCE).await?;
    if heard.is_none() {
        return Ok(page);
    }
    let mut bytes = 0;
    while let Some(next) = heard {
        match next {
            Heard::Row(row) => {
                bytes += row.event.bytes();
                page.events.push(row.event);
                session.has_events();
            }
            Heard::Mark { snapshot, lsn, other_state } => {
                if let Some(state) = other_state {
                    session.pass(state).await?;
                    tracing::warn!(
                        outbox = source.table.name,
                        "the publication was changed: what it left out meanwhile is not published"
                    );
                }
                let mut marks = source.marks.lock().expect("never poisoned");
                page.mark = Some(marks.set(Cursor { base: snapshot, tick: None }, Some(lsn)));
                return Ok(page);
            }
            Heard::Described | Heard::Nothing => {}
        }
        if page.events.len() >= limit || bytes >= PageSize::BYTES {
            break;
        }
        heard = session.next_at_once().transpose()?;
    }
    Ok(page)
}

async fn open(source: &PostgresSource) -> Result<Session> {
    let target = source.stream_to.clone().ok_or_else(|| {
        Error::Config(format!(
            "the outbox table {} has no columns seq and xid, so it can only be streamed, and this relay may only \
             poll: run `outbox-relay migrate`, which adds them, or give a URL with user and password",
            source.table.name
        ))
    })?;
    let from: Option<i64> =
        sqlx::query_scalar("SELECT (lsn - '0/0')::bigint FROM outbox.relay WHERE outbox = $1")
            .bind(&source.table.name)
            .fetch_one(&source.pool)
            .await?;
    let from = from.map(i64::unsigned_abs);
    Session::open(Opening {
        pool: source.pool.clone(),
        target,
        table: source.table.clone(),
        binary: source.statements().await?.binary,
        publication: source.publication.clone(),
        lasting: Some(Lasting { slot: source.slot_name().await?, from }),
    })
    .await
}

impl Lasting {
    /// A stream of the slot, which is made if nothing was ever read from it.
    pub(super) async fn start(
        self,
        pool: &PgPool,
        target: &Target,
        publication: &str,
        binary: bool,
    ) -> Result<Feed> {
        let exists = self.found(pool).await?;
        let mut connection = Connection::open(target).await?;
        if !exists {
            let create = format!("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput NOEXPORT_SNAPSHOT", self.slot);
            connection.query(&create).await?;
        }
        let from = self.from.unwrap_or_default();
        connection.start(&Start { slot: &self.slot, from, publication, binary }).await
    }

    /// Whether the slot is there; free, then.
    async fn found(&self, pool: &PgPool) -> Result<bool> {
        let deadline = tokio::time::Instant::now() + ENDS_WITHIN;
        loop {
            let slot = sqlx::query(
                "SELECT active_pid, coalesce(wal_status, '') AS wal_status, plugin::text AS plugin, \
                     coalesce(database = current_database(), false) AS here, \
                     coalesce((SELECT application_name FROM pg_stat_replication WHERE pid = active_pid), '') AS holder \
                 FROM pg_replication_slots WHERE slot_name = $1",
            )
            .bind(&self.slot)
            .fetch_optional(pool)
            .await?;
            let Some(slot) = slot else {
                return if self.from.is_none() { Ok(false) } else { Err(self.lost("is gone")) };
            };
            if !slot.try_get::<bool, _>("here")? {
                return Err(Error::Config(format!(
                    "the replication slot {:?} is of another database: name another one in source.slot",
                    self.slot
                )));
            }
            if slot.try_get::<String, _>("wal_status")? == "lost" {
                return Err(self.lost("was given up by the server"));
            }
            let plugin: Option<String> = slot.try_get("plugin")?;
            if plugin.as_deref() != Some("pgoutput") {
                return Err(Error::Config(format!(
                    "the replication slot {:?} is not one of pgoutput: name another one in source.slot",
                    self.slot
                )));
            }
            let Some(holder) = slot.try_get::<Option<i32>, _>("active_pid")? else { return Ok(true) };
            let name: String = slot.try_get("holder")?;
            if name != APPLICATION {
                return Err(Error::Replication(format!(
                    "the replication slot {:?} is held by process {holder}, {name:?}: stop what reads it",
                    self.slot
                )));
            }
            // The lease is ours, so this is a relay that lost it, or its connection that nobody closed.
            sqlx::query("SELECT pg_terminate_backend($1)").bind(holder).execute(pool).await?;
            if tokio::time::Instant::now() > deadline {
                return Err(Error::Replication(format!(
                    "the replication slot {:?} is held by process {holder}, which does not end",
                    self.slot
                )));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn lost(&self, how: &str) -> Error {
        Error::Config(format!(
            "the replication slot {:?} {how}, and with it the log since the last acknowledgement: events may be \
             missing. Run `outbox-relay migrate --publish-existing`, which makes the table one that can be polled, \
             and everything that is still in it is published (inboxes skip what they have). To go on without, clear \
             the place: UPDATE outbox.relay SET lsn = NULL",
            self.slot
        ))
    }
}
