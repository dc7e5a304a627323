//! Inserting sagas: one statement, and a second look where an id was taken.
//!
//! A start may wait for somebody's open transaction that inserts the same id; it does so for at most the
//! `lock_timeout`, and never in a batch together with progress.

use std::collections::{HashMap, HashSet};

use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};
use uuid::Uuid;

use super::connections::Lent;
use super::error::failed;
use super::read::rounded;
use super::{Binding, Db, alone};
use crate::id::RunId;
use crate::journal::Timestamp;
use crate::store::commit::{Start, StartReply};
use crate::store::decode;
use crate::store::error::{Error, Result};
use crate::store::worker::Fence;

/// `ON CONFLICT` names no index: a start that is sent again while its first attempt is still running must
/// meet either of its two keys without an error.
const START: &str = "WITH me AS MATERIALIZED (
    SELECT id FROM saga.worker WHERE id = $1 AND epoch = $2 AND NOT drained FOR KEY SHARE
), input AS MATERIALIZED (
    SELECT * FROM unnest($3::uuid[], $4::text[], $5::int[], $6::uuid[], $7::text[], $8::bytea[], $9::text[],
        $10::bool[]) AS i (run, definition, version, fingerprint, saga, digest, body, owned)
), fresh AS (
    INSERT INTO saga.start (run, definition, version, fingerprint, saga, digest)
    SELECT run, definition, version, fingerprint, saga, digest FROM input
    WHERE $1 IS NULL OR EXISTS (SELECT FROM me)
    ON CONFLICT DO NOTHING
    RETURNING run
), live AS (
    INSERT INTO saga.live (run, fingerprint, owner, state, due)
    SELECT run, fingerprint, CASE WHEN owned THEN $1 END, 'running',
        CASE WHEN owned AND $1 IS NOT NULL THEN NULL ELSE now() END
    FROM input WHERE (run IN (SELECT run FROM fresh)) IS TRUE
), journal AS (
    INSERT INTO saga.journal (run, number, worker, body)
    SELECT run, 0, CASE WHEN owned THEN $1 END, body
    FROM input WHERE (run IN (SELECT run FROM fresh)) IS TRUE
)
SELECT $1 IS NULL OR EXISTS (SELECT FROM me), ARRAY(SELECT run FROM fresh)";

/// The same for a batch in which a saga has a key, a priority or attributes. An owned start takes its key where it is free and nobody waits for it;
/// else nobody owns the saga, and its first commit is the one without starts.
const START_ALL: &str = "WITH me AS MATERIALIZED (
    SELECT id FROM saga.worker WHERE id = $1 AND epoch = $2 AND NOT drained FOR KEY SHARE
), input AS MATERIALIZED (
    SELECT * FROM unnest($3::uuid[], $4::text[], $5::int[], $6::uuid[], $7::text[], $8::bytea[], $9::text[],
        $10::bool[], $11::text[], $12::timestamptz[], $13::text[], $14::smallint[])
        AS i (run, definition, version, fingerprint, saga, digest, body, owned, key, until, began, priority)
), fresh AS (
    INSERT INTO saga.start (run, definition, version, fingerprint, saga, digest)
    SELECT run, definition, version, fingerprint, saga, digest FROM input
    WHERE $1 IS NULL OR EXISTS (SELECT FROM me)
    ON CONFLICT DO NOTHING
    RETURNING run
), held AS (
    INSERT INTO saga.key AS k (key, run)
    SELECT DISTINCT ON (key) key, run FROM input
    WHERE owned AND $1 IS NOT NULL AND key IS NOT NULL AND (run IN (SELECT run FROM fresh)) IS TRUE
        AND NOT EXISTS (SELECT FROM saga.live l WHERE l.key = input.key AND l.turn IS NOT NULL OFFSET 0)
    ORDER BY key, run
    ON CONFLICT (key) DO UPDATE SET run = EXCLUDED.run WHERE k.run IS NULL
    RETURNING run
), settled AS MATERIALIZED (
    SELECT *, key IS NOT NULL AND (run IN (SELECT run FROM held)) IS NOT TRUE AS queued
    FROM input WHERE (run IN (SELECT run FROM fresh)) IS TRUE
), live AS (
    INSERT INTO saga.live (run, fingerprint, owner, state, due, key, turn, until, priority)
    SELECT run, fingerprint, CASE WHEN owned AND NOT queued THEN $1 END,
        CASE WHEN queued THEN 'queued' ELSE 'running' END,
        CASE WHEN queued OR (owned AND $1 IS NOT NULL) THEN NULL ELSE now() END,
        key, CASE WHEN queued THEN 0 END, until, priority
    FROM settled
), journal AS (
    INSERT INTO saga.journal (run, number, worker, body)
    SELECT run, 0, CASE WHEN owned AND NOT queued THEN $1 END, CASE WHEN queued THEN began ELSE body END
    FROM settled
), attributes AS (
    INSERT INTO saga.attribute (run, name, value)
    SELECT a.run, a.name, a.value FROM unnest($15::uuid[], $16::text[], $17::text[]) AS a (run, name, value)
    WHERE (a.run IN (SELECT run FROM fresh)) IS TRUE
)
SELECT $1 IS NULL OR EXISTS (SELECT FROM me), ARRAY(SELECT run FROM fresh),
    ARRAY(SELECT run FROM settled WHERE queued)";

/// An id that is taken, then free again, then taken: each time its starter's transaction was rolled back.
const ATTEMPTS_MAX: usize = 10;

pub(super) async fn start(db: &Db, fence: Option<Fence>, batch: &[Start]) -> Result<Vec<StartReply>> {
    let mut connection = db.writers.lend().await?;
    if let ([start], Some(fence)) = (batch, fence)
        && alone::start(&mut connection, fence, start).await?
    {
        return Ok(vec![StartReply::Started]);
    }
    let mut replies: Vec<Option<StartReply>> = vec![None; batch.len()];
    for _ in 0..ATTEMPTS_MAX {
        let open: Vec<usize> = (0..batch.len()).filter(|&index| replies[index].is_none()).collect();
        if open.is_empty() {
            break;
        }
        let Inserted { fresh, queued } = insert(&mut connection, fence, batch, &open).await?;
        for &index in &open {
            let start = &batch[index];
            let reply = || told(start, queued.contains(&start.run.0));
            replies[index] = fresh.contains(&start.run.0).then(reply);
        }
        let taken: Vec<usize> = open.into_iter().filter(|&index| replies[index].is_none()).collect();
        if !taken.is_empty() {
            // A later statement: the winner may have committed after the first one's snapshot.
            winners(&mut connection, batch, &taken, &mut replies).await?;
            again(&mut connection, fence, batch, &taken, &mut replies).await?;
        }
    }
    let all: Option<Vec<StartReply>> = replies.into_iter().collect();
    all.ok_or_else(|| Error::Refused("a start's run id belongs to another saga".into()))
}

async fn insert(
    connection: &mut Lent,
    fence: Option<Fence>,
    batch: &[Start],
    open: &[usize],
) -> Result<Inserted> {
    // In the order of their ids, so that two batches with ids in common wait for each other in one order.
    let mut starts: Vec<&Start> = open.iter().map(|&index| &batch[index]).collect();
    starts.sort_by(|a, b| (&a.definition, &a.saga).cmp(&(&b.definition, &b.saga)));
    inserted(&connection.rows(statement(fence, &starts)).await?)
}

fn statement(fence: Option<Fence>, starts: &[&Start]) -> Binding {
    let all = !starts.iter().all(|start| start.is_plain());
    let statement = sqlx::query(if all { START_ALL } else { START })
        .bind(fence.map(|fence| fence.worker.0))
        .bind(fence.map(|fence| fence.epoch))
        .bind(starts.iter().map(|s| s.run.0).collect::<Vec<Uuid>>())
        .bind(starts.iter().map(|s| s.definition.as_str()).collect::<Vec<&str>>())
        .bind(starts.iter().map(|s| s.version.cast_signed()).collect::<Vec<i32>>())
        .bind(starts.iter().map(|s| s.fingerprint.0).collect::<Vec<Uuid>>())
        .bind(starts.iter().map(|s| &*s.saga).collect::<Vec<&str>>())
        .bind(starts.iter().map(|s| &s.digest[..]).collect::<Vec<&[u8]>>())
        .bind(starts.iter().map(|s| &*s.body).collect::<Vec<&str>>())
        .bind(starts.iter().map(|s| s.owned).collect::<Vec<bool>>());
    if !all {
        return statement;
    }
    let keys = || starts.iter().map(|start| start.key.as_ref());
    let attributes =
        || starts.iter().flat_map(|s| s.attributes.iter().map(|(name, value)| (s.run.0, name, value)));
    statement
        .bind(keys().map(|keyed| keyed.map(|keyed| keyed.key.as_str())).collect::<Vec<Option<&str>>>())
        .bind(keys().map(|keyed| keyed?.until.map(rounded)).collect::<Vec<Option<Timestamp>>>())
        .bind(keys().map(|keyed| keyed.map(|keyed| &*keyed.began)).collect::<Vec<Option<&str>>>())
        .bind(starts.iter().map(|s| s.priority.level()).collect::<Vec<i16>>())
        .bind(attributes().map(|(run, ..)| run).collect::<Vec<Uuid>>())
        .bind(attributes().map(|(_, name, _)| name.as_str()).collect::<Vec<&str>>())
        .bind(attributes().map(|(.., value)| value).collect::<Vec<&str>>())
}

/// What one statement inserted.
struct Inserted {
    fresh: HashSet<Uuid>,
    /// Those of them that do not hold the key they need.
    queued: HashSet<Uuid>,
}

fn inserted(answer: &[PgRow]) -> Result<Inserted> {
    let head = answer.first().ok_or_else(|| Error::Unusable("no answer to a start".into()))?;
    if !head.try_get::<bool, _>(0).map_err(failed)? {
        return Err(Error::Fenced);
    }
    let runs = |column: usize| head.try_get::<Vec<Uuid>, _>(column).map_err(failed);
    let queued = if head.len() > 2 { runs(2)? } else { Vec::new() };
    Ok(Inserted { fresh: runs(1)?.into_iter().collect(), queued: queued.into_iter().collect() })
}

fn told(start: &Start, queued: bool) -> StartReply {
    if start.owned && queued { StartReply::Queued } else { StartReply::Started }
}

/// What keyed starts that are sent again were answered: whether their first commits have a writer tells.
async fn again(
    connection: &mut Lent,
    fence: Option<Fence>,
    batch: &[Start],
    taken: &[usize],
    replies: &mut [Option<StartReply>],
) -> Result<()> {
    let keyed = |index: &usize| batch[*index].owned && batch[*index].key.is_some();
    let sent = |index: &usize| replies[*index] == Some(StartReply::Started);
    let sent: Vec<usize> = taken.iter().copied().filter(keyed).filter(sent).collect();
    let Some(fence) = fence.filter(|_| !sent.is_empty()) else { return Ok(()) };
    let text = "SELECT run FROM saga.journal WHERE run = ANY ($1) AND number = 0 AND worker = $2";
    let runs = sent.iter().map(|&index| batch[index].run.0).collect::<Vec<Uuid>>();
    let mut own = HashSet::new();
    for row in connection.rows(sqlx::query(text).bind(runs).bind(fence.worker.0)).await? {
        own.insert(row.try_get::<Uuid, _>(0).map_err(failed)?);
    }
    for index in sent {
        replies[index] = Some(told(&batch[index], !own.contains(&batch[index].run.0)));
    }
    Ok(())
}

/// Who has the ids that were taken. What is not found was given back in the meantime.
async fn winners(
    connection: &mut Lent,
    batch: &[Start],
    taken: &[usize],
    replies: &mut [Option<StartReply>],
) -> Result<()> {
    let answer = connection.rows(holders(batch, taken)).await?;
    read_holders(&answer, batch, taken, replies)
}

fn holders(batch: &[Start], taken: &[usize]) -> Binding {
    let text = "SELECT s.definition, s.saga, s.run, s.digest, s.ended
        FROM unnest($1::text[], $2::text[]) AS i (definition, saga) CROSS JOIN LATERAL (
            SELECT * FROM saga.start s WHERE s.definition = i.definition AND s.saga = i.saga LIMIT 1) s";
    sqlx::query(text)
        .bind(taken.iter().map(|&i| batch[i].definition.as_str()).collect::<Vec<&str>>())
        .bind(taken.iter().map(|&i| &*batch[i].saga).collect::<Vec<&str>>())
}

fn read_holders(
    answer: &[PgRow],
    batch: &[Start],
    taken: &[usize],
    replies: &mut [Option<StartReply>],
) -> Result<()> {
    let mut found = HashMap::with_capacity(answer.len());
    for row in answer {
        let name: (&str, &str) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        let run = RunId(row.try_get(2).map_err(failed)?);
        let digest = decode::digest(row.try_get(3).map_err(failed)?)?;
        found.insert(name, (run, digest, decode::end(row.try_get(4).map_err(failed)?)?));
    }
    for &index in taken {
        let start = &batch[index];
        replies[index] = found.get(&(start.definition.as_str(), &*start.saga)).map(|&(run, digest, end)| {
            if run == start.run { StartReply::Started } else { StartReply::Exists { run, digest, end } }
        });
    }
    Ok(())
}

/// The same for one saga on the caller's connection, as a part of the caller's transaction.
pub(super) async fn start_in(connection: &mut PgConnection, start: &Start) -> Result<StartReply> {
    let batch = std::slice::from_ref(start);
    for _ in 0..ATTEMPTS_MAX {
        let answer = statement(None, &[start]).fetch_all(&mut *connection).await.map_err(failed)?;
        if !inserted(&answer)?.fresh.is_empty() {
            return Ok(StartReply::Started);
        }
        let answer = holders(batch, &[0]).fetch_all(&mut *connection).await.map_err(failed)?;
        let mut reply = [None];
        read_holders(&answer, batch, &[0], &mut reply)?;
        if let [Some(reply)] = reply {
            return Ok(reply);
        }
    }
    Err(Error::Refused("a start's run id belongs to another saga".into()))
}
