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
use super::{Binding, Db};
use crate::id::RunId;
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

/// An id that is taken, then free again, then taken: each time its starter's transaction was rolled back.
const ATTEMPTS_MAX: usize = 10;

pub(super) async fn start(db: &Db, fence: Option<Fence>, batch: &[Start]) -> Result<Vec<StartReply>> {
    let mut connection = db.writers.lend().await?;
    let mut replies: Vec<Option<StartReply>> = vec![None; batch.len()];
    for _ in 0..ATTEMPTS_MAX {
        let open: Vec<usize> = (0..batch.len()).filter(|&index| replies[index].is_none()).collect();
        if open.is_empty() {
            break;
        }
        let fresh = insert(&mut connection, fence, batch, &open).await?;
        for &index in &open {
            replies[index] = fresh.contains(&batch[index].run.0).then_some(StartReply::Started);
        }
        let taken: Vec<usize> = open.into_iter().filter(|&index| replies[index].is_none()).collect();
        if !taken.is_empty() {
            // A later statement: the winner may have committed after the first one's snapshot.
            winners(&mut connection, batch, &taken, &mut replies).await?;
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
) -> Result<HashSet<Uuid>> {
    // In the order of their ids, so that two batches with ids in common wait for each other in one order.
    let mut starts: Vec<&Start> = open.iter().map(|&index| &batch[index]).collect();
    starts.sort_by(|a, b| (&a.definition, &a.saga).cmp(&(&b.definition, &b.saga)));
    fresh(&connection.rows(statement(fence, &starts)).await?)
}

fn statement(fence: Option<Fence>, starts: &[&Start]) -> Binding {
    sqlx::query(START)
        .bind(fence.map(|fence| fence.worker.0))
        .bind(fence.map(|fence| fence.epoch))
        .bind(starts.iter().map(|s| s.run.0).collect::<Vec<Uuid>>())
        .bind(starts.iter().map(|s| s.definition.as_str()).collect::<Vec<&str>>())
        .bind(starts.iter().map(|s| s.version.cast_signed()).collect::<Vec<i32>>())
        .bind(starts.iter().map(|s| s.fingerprint.0).collect::<Vec<Uuid>>())
        .bind(starts.iter().map(|s| &*s.saga).collect::<Vec<&str>>())
        .bind(starts.iter().map(|s| &s.digest[..]).collect::<Vec<&[u8]>>())
        .bind(starts.iter().map(|s| &*s.body).collect::<Vec<&str>>())
        .bind(starts.iter().map(|s| s.owned).collect::<Vec<bool>>())
}

/// Which runs were inserted.
fn fresh(answer: &[PgRow]) -> Result<HashSet<Uuid>> {
    let head = answer.first().ok_or_else(|| Error::Unusable("no answer to a start".into()))?;
    if !head.try_get::<bool, _>(0).map_err(failed)? {
        return Err(Error::Fenced);
    }
    Ok(head.try_get::<Vec<Uuid>, _>(1).map_err(failed)?.into_iter().collect())
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
        if !fresh(&answer)?.is_empty() {
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
