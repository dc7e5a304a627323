//! The statements of a saga that goes alone.
//!
//! A batch's [statement](super::statement) takes lists, and the set-up of lists, of a table for each list and of what
//! tells several sagas apart is a third of its time where there is one saga. Who starts one at a time, and waits for it,
//! feels that in each of its commits. So one commit, and one start, of the most frequent kinds have statements without
//! lists. Each writes all or nothing, and answers with a row if it wrote. Where it answers with none, or a key is
//! violated, nothing is written, and the batch's statement is asked: it tells why.

use sqlx::Row;

use super::Binding;
use super::connections::Lent;
use super::error::failed;
use super::read::unread;
use crate::store::commit::{Commit, CommitReply, Start};
use crate::store::error::{Error, Result};
use crate::store::worker::Fence;

/// The worker's row with its epoch, kept from being fenced until the commit.
macro_rules! me {
    () => {
        "(SELECT id FROM saga.worker WHERE id = $1 AND epoch = $2 AND NOT drained FOR KEY SHARE) me"
    };
}

/// The next row of a saga that the worker owns.
macro_rules! journal {
    () => {
        concat!(
            "INSERT INTO saga.journal (run, number, worker, body)
            SELECT $3::uuid, $4::int, me.id, $5::text FROM ",
            me!(),
            " WHERE EXISTS (SELECT FROM saga.live l WHERE l.run = $3 AND (l.owner = $1) IS TRUE)
                AND EXISTS (SELECT FROM saga.journal j WHERE j.run = $3 AND j.number = $4 - 1)"
        )
    };
}

/// Whether the saga has mail that it has not read.
macro_rules! has_mail {
    () => {
        "EXISTS (SELECT FROM saga.mail m WHERE m.run = $3 AND m.consumed IS NULL)"
    };
}

/// The saga goes on. Answers whether it has mail.
const GO: &str = concat!(journal!(), " RETURNING ", has_mail!());

/// The saga starts its pivot. Mail comes first, which is for the batch's statement.
const PIVOT: &str = concat!(journal!(), " AND NOT ", has_mail!(), " RETURNING false");

/// The saga ends. Mail has to be answered, which is for the batch's statement.
const END: &str = concat!(
    "WITH won AS (",
    journal!(),
    " AND NOT ",
    has_mail!(),
    " RETURNING run
    ), removed AS (
        DELETE FROM saga.live WHERE run = $3 AND EXISTS (SELECT FROM won)
    ) UPDATE saga.start SET ended = $6, ended_at = now() WHERE run = $3 AND EXISTS (SELECT FROM won)
    RETURNING false"
);

/// The saga begins, and this worker has it. An id that is taken is looked for, because a violated key would stand in the
/// server's log each time somebody starts a saga again; `ON CONFLICT` would cost three times as much.
const START: &str = concat!(
    "WITH fresh AS (
        INSERT INTO saga.start (run, definition, version, fingerprint, saga, digest)
        SELECT $3::uuid, $4::text, $5::int, $6::uuid, $7::text, $8::bytea FROM ",
    me!(),
    " WHERE NOT EXISTS (SELECT FROM saga.start s WHERE s.definition = $4 AND s.saga = $7) RETURNING run
    ), live AS (
        INSERT INTO saga.live (run, fingerprint, owner, state) SELECT run, $6, $1, 'running' FROM fresh
    ) INSERT INTO saga.journal (run, number, worker, body) SELECT run, 0, $1, $9::text FROM fresh RETURNING true"
);

/// Writes a commit. `None` if it was not written, or is none of those that are written so.
pub(super) async fn commit(
    connection: &mut Lent,
    fence: Fence,
    commit: &Commit,
) -> Result<Option<CommitReply>> {
    let Some(statement) = statement(fence, commit) else { return Ok(None) };
    let Some(has_mail) = written(connection, statement).await? else { return Ok(None) };
    let mail = match has_mail {
        true => unread(connection, &[commit.run.0]).await?.remove(&commit.run).unwrap_or_default(),
        false => Vec::new(),
    };
    Ok(Some(CommitReply::Committed { mail }))
}

fn statement(fence: Fence, commit: &Commit) -> Option<Binding> {
    if !commit.is_short() {
        return None;
    }
    let end = commit.end();
    let text = match (end, commit.pivot) {
        (Some(_), _) => END,
        (None, true) => PIVOT,
        (None, false) => GO,
    };
    let statement = sqlx::query(text)
        .bind(fence.worker.0)
        .bind(fence.epoch)
        .bind(commit.run.0)
        .bind(commit.number.cast_signed())
        .bind(&*commit.body);
    Some(match end {
        Some(end) => statement.bind(end),
        None => statement,
    })
}

/// Starts a saga. `false` if nothing was written.
pub(super) async fn start(connection: &mut Lent, fence: Fence, start: &Start) -> Result<bool> {
    if !start.is_plain() || !start.owned {
        return Ok(false);
    }
    let statement = sqlx::query(START)
        .bind(fence.worker.0)
        .bind(fence.epoch)
        .bind(start.run.0)
        .bind(start.definition.as_str())
        .bind(start.version.cast_signed())
        .bind(start.fingerprint.0)
        .bind(&*start.saga)
        .bind(&start.digest[..])
        .bind(&*start.body);
    Ok(written(connection, statement).await?.is_some())
}

/// What the row says that a statement answers with if it wrote.
async fn written(connection: &mut Lent, statement: Binding) -> Result<Option<bool>> {
    match connection.rows(statement).await {
        Err(Error::Refused(_)) => Ok(None),
        answer => answer?.first().map(|row| row.try_get(0).map_err(failed)).transpose(),
    }
}
