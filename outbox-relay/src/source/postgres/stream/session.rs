//! One replication connection: its temporary slot, its stream, and the marks written into the log.

use super::decode::{Decoder, Row};
use crate::error::{Error, Result};
use crate::source::postgres::cursor::Snapshot;
use crate::source::postgres::table::Table;
use futures::FutureExt as _;
use pgwire_replication::client::ReplicationEvent;
use pgwire_replication::{Lsn, PgWireError, ReplicationClient, ReplicationConfig};
use sqlx::{AssertSqlSafe, PgPool};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use uuid::Uuid;

/// The prefix of our messages in the log.
pub(in crate::source::postgres) const PREFIX: &str = "outbox-relay";
/// The content of the message that sends the relay back to its table.
pub(in crate::source::postgres) const READ_TABLE: &str = "read the table";

/// How often a mark is written while events come, and while none do: the log is kept from being
/// removed up to the last mark.
const MARK_EVERY: Duration = Duration::from_millis(100);
const MARK_IDLE_EVERY: u32 = 50;

/// What the stream said.
#[derive(Debug)]
pub(super) enum Heard {
    /// A row was committed.
    Row(Box<Row>),
    /// All that this snapshot sees has been said.
    Mark { snapshot: Snapshot, lsn: u64 },
    /// Nothing of interest.
    Nothing,
}

pub(in crate::source::postgres) struct Session {
    client: ReplicationClient,
    decoder: Decoder,
    busy: Arc<AtomicBool>,
    marker: tokio::task::JoinHandle<()>,
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

impl Session {
    /// Makes the slot and starts the stream. Waits for transactions that are open now.
    pub(super) async fn open(pool: PgPool, mut target: ReplicationConfig, table: Table) -> Result<Self> {
        let publication = publish(&pool, &table).await?;
        target.slot = format!("outbox_relay_{}", Uuid::new_v4().simple());
        target.publication = publication.into();
        let slot = target.slot.clone();
        let mut client = ReplicationClient::connect_gated(target).await.map_err(failed)?;
        let create = format!("CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT");
        client.simple_query(&create).await.map_err(failed)?;
        client.start().await.map_err(failed)?;
        client.wait_started().await.map_err(failed)?;
        let busy = Arc::new(AtomicBool::new(true));
        let marker = tokio::spawn(mark(pool, busy.clone()));
        Ok(Self { client, decoder: Decoder::new(table), busy, marker })
    }

    /// What the stream says next. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<Heard> {
        let event = self.client.recv().await.map_err(failed)?;
        self.hear(event.ok_or_else(|| Error::Replication("the server ended the stream".into()))?)
    }

    /// The same, if it has been said already.
    pub(super) fn next_at_once(&mut self) -> Option<Result<Heard>> {
        self.next().now_or_never()
    }

    /// Everything up to here may be forgotten.
    pub(super) fn acknowledge(&self, lsn: u64) {
        self.client.update_applied_lsn(Lsn::from_u64(lsn));
    }

    /// There is something for the next mark to acknowledge.
    pub(super) fn has_events(&self) {
        self.busy.store(true, Ordering::Relaxed);
    }

    fn hear(&mut self, event: ReplicationEvent) -> Result<Heard> {
        match event {
            ReplicationEvent::XLogData { data, .. } => {
                let row = self.decoder.decode(&data).map_err(Error::Replication)?;
                Ok(row.map_or(Heard::Nothing, |row| Heard::Row(Box::new(row))))
            }
            ReplicationEvent::Message { prefix, content, lsn, .. } if prefix == PREFIX => {
                let text = std::str::from_utf8(&content).unwrap_or_default();
                if text == READ_TABLE {
                    return Err(Error::Replication("told to read the table".into()));
                }
                let snapshot = text.parse().map_err(Error::Replication)?;
                Ok(Heard::Mark { snapshot, lsn: lsn.as_u64() })
            }
            _ => Ok(Heard::Nothing),
        }
    }
}

/// Writes the current snapshot into the log, again and again.
async fn mark(pool: PgPool, busy: Arc<AtomicBool>) {
    let mut quiet = 0;
    loop {
        tokio::time::sleep(MARK_EVERY).await;
        quiet += 1;
        if !busy.swap(false, Ordering::Relaxed) && quiet < MARK_IDLE_EVERY {
            continue;
        }
        quiet = 0;
        let emit = "SELECT pg_logical_emit_message(false, $1, pg_current_snapshot()::text)::text";
        if let Err(error) = sqlx::query(emit).bind(PREFIX).execute(&pool).await {
            tracing::debug!(%error, "no mark could be written");
            busy.store(true, Ordering::Relaxed);
        }
    }
}

/// The publication of the table's inserts, made if it is missing.
async fn publish(pool: &PgPool, table: &Table) -> Result<String> {
    let name = format!("outbox_relay_{}", table.name.replace('.', "_"));
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = $1)")
        .bind(&name)
        .fetch_one(pool)
        .await?;
    if !exists {
        let create = format!("CREATE PUBLICATION {name} FOR TABLE {} WITH (publish = 'insert')", table.name);
        sqlx::query(AssertSqlSafe(create)).execute(pool).await?;
    }
    Ok(name)
}

fn failed(error: PgWireError) -> Error {
    Error::Replication(error.to_string())
}
