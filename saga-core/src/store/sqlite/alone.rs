//! The transactions of a saga that goes alone, each of them one statement.
//!
//! Of a text of several statements the connection's thread wakes the caller once for each, and a batch's lists have to
//! be written and read as JSON. Who starts one saga at a time, and waits for it, feels both. A statement of SQLite writes
//! one table, but a trigger writes many: so the connection has two views of its own, and a row that is inserted into
//! one is a whole commit, or a whole start. They are temporary; the file holds nothing of them.
//!
//! Each writes all or nothing. What is refused here (the worker is fenced, the saga has gone on, there is unread mail,
//! the id is taken) goes the way of a batch, which tells why.

use chrono::Utc;

use super::insert::Binding;
use super::read::micros;
use super::start::bind_start;
use super::writer::Writer;
use crate::store::commit::{Commit, Start};
use crate::store::error::{Error, Result};
use crate::store::worker::Fence;

const VIEWS: [&str; 4] = [
    "CREATE TEMP VIEW saga_alone_commit AS
     SELECT NULL AS worker, NULL AS epoch, NULL AS run, NULL AS number, NULL AS at, NULL AS body, NULL AS ended",
    "CREATE TEMP TRIGGER saga_alone_commits INSTEAD OF INSERT ON saga_alone_commit BEGIN
        SELECT RAISE(ABORT, 'it does not go alone')
        WHERE NOT EXISTS (SELECT 1 FROM saga_worker WHERE id = NEW.worker AND epoch = NEW.epoch AND NOT drained)
            OR (SELECT owner FROM saga_live WHERE run = NEW.run) IS NOT NEW.worker
            OR (SELECT max(number) FROM saga_journal WHERE run = NEW.run) IS NOT NEW.number - 1
            OR EXISTS (SELECT 1 FROM saga_mail WHERE run = NEW.run AND consumed IS NULL);
        INSERT INTO saga_journal (run, number, worker, at, body)
            VALUES (NEW.run, NEW.number, NEW.worker, NEW.at, NEW.body);
        UPDATE saga_start SET ended = NEW.ended, ended_at = NEW.at WHERE run = NEW.run AND NEW.ended IS NOT NULL;
        DELETE FROM saga_live WHERE run = NEW.run AND NEW.ended IS NOT NULL;
     END",
    "CREATE TEMP VIEW saga_alone_start AS
     SELECT NULL AS worker, NULL AS epoch, NULL AS run, NULL AS definition, NULL AS version, NULL AS fingerprint,
        NULL AS saga, NULL AS digest, NULL AS at, NULL AS body, NULL AS owner, NULL AS due",
    "CREATE TEMP TRIGGER saga_alone_starts INSTEAD OF INSERT ON saga_alone_start BEGIN
        SELECT RAISE(ABORT, 'it does not go alone')
        WHERE NEW.worker IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM saga_worker WHERE id = NEW.worker AND epoch = NEW.epoch AND NOT drained);
        INSERT INTO saga_start (run, definition, version, fingerprint, saga, digest, started_at)
            VALUES (NEW.run, NEW.definition, NEW.version, NEW.fingerprint, NEW.saga, NEW.digest, NEW.at);
        INSERT INTO saga_live (run, fingerprint, owner, state, due, since)
            VALUES (NEW.run, NEW.fingerprint, NEW.owner, 'running', NEW.due, NEW.at);
        INSERT INTO saga_journal (run, number, worker, at, body)
            VALUES (NEW.run, 0, NEW.owner, NEW.at, NEW.body);
     END",
];

/// Makes the views.
pub(super) async fn prepare(writer: &Writer) -> Result<()> {
    for view in VIEWS {
        writer.at_once(sqlx::query(view)).await?;
    }
    Ok(())
}

/// Writes a commit. `false` if nothing was written.
pub(super) async fn commit(writer: &Writer, fence: Fence, commit: &Commit) -> Result<bool> {
    if !commit.is_short() {
        return Ok(false);
    }
    let text = "INSERT INTO temp.saga_alone_commit VALUES (?, ?, ?, ?, ?, ?, ?)";
    let statement = sqlx::query(text)
        .bind(fence.worker.0)
        .bind(fence.epoch)
        .bind(commit.run.0)
        .bind(i64::from(commit.number))
        .bind(micros(Utc::now()))
        .bind(commit.body.clone())
        .bind(commit.end());
    written(writer, statement).await
}

/// Starts a saga. `false` if nothing was written.
pub(super) async fn start(writer: &Writer, fence: Option<Fence>, start: &Start) -> Result<bool> {
    if !start.is_plain() {
        return Ok(false);
    }
    let owner = fence.filter(|_| start.owned).map(|fence| fence.worker.0);
    let now = micros(Utc::now());
    let text = "INSERT INTO temp.saga_alone_start VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let statement =
        sqlx::query(text).bind(fence.map(|fence| fence.worker.0)).bind(fence.map(|fence| fence.epoch));
    let statement = bind_start(statement, start, now)
        .bind(start.body.clone())
        .bind(owner)
        .bind(owner.is_none().then_some(now));
    written(writer, statement).await
}

async fn written(writer: &Writer, statement: Binding) -> Result<bool> {
    match writer.at_once(statement).await {
        Err(Error::Refused(_)) => Ok(false),
        written => written.map(|_| true),
    }
}
