//! Inserting sagas.

use std::collections::{HashMap, HashSet};

use chrono::Utc;
use sqlx::{Row, SqliteConnection};
use uuid::Uuid;

use super::error::failed;
use super::insert::{Binding, Into, insert};
use super::read::micros;
use super::workers::check;
use super::{Db, alone, keys};
use crate::id::RunId;
use crate::store::commit::{Start, StartReply};
use crate::store::decode;
use crate::store::error::{Error, Result};
use crate::store::query::State;
use crate::store::worker::Fence;

const STARTS: Into = Into {
    head: "INSERT INTO saga_start (run, definition, version, fingerprint, saga, digest, started_at) VALUES ",
    columns: 7,
};
const LIVE: Into =
    Into { head: "INSERT INTO saga_live (run, fingerprint, owner, state, due, since) VALUES ", columns: 6 };
/// For batches in which a saga has a key or a priority.
const LIVE_ALL: Into = Into {
    head: "INSERT INTO saga_live (run, fingerprint, owner, state, due, since, key, turn, until, priority) VALUES ",
    columns: 10,
};
const ATTRIBUTES: Into = Into { head: "INSERT INTO saga_attribute (run, name, value) VALUES ", columns: 3 };
const JOURNAL: Into =
    Into { head: "INSERT INTO saga_journal (run, number, worker, at, body) VALUES ", columns: 5 };

pub(super) async fn start(db: &Db, fence: Option<Fence>, batch: &[Start]) -> Result<Vec<StartReply>> {
    if let Some(bad) = batch.iter().find(|start| start.saga.contains('\0')) {
        return Err(Error::Refused(format!("the saga id {:?} holds a NUL character", bad.saga)));
    }
    if let [start] = batch
        && alone::start(&db.writer, fence, start).await?
    {
        return Ok(vec![StartReply::Started]);
    }
    let mut tx = db.begin().await?;
    if let Some(fence) = fence {
        check(&mut tx, fence).await?;
    }
    let taken = taken(&mut tx, batch).await?;
    // Two starts of one batch may have one id: the first has it.
    let mut first: HashMap<(&str, &str), &Start> = HashMap::new();
    let mut fresh = Vec::with_capacity(batch.len());
    let mut replies = Vec::with_capacity(batch.len());
    for (index, start) in batch.iter().enumerate() {
        let name = (start.definition.as_str(), &*start.saga);
        replies.push(match (taken.get(&index), first.get(&name)) {
            (Some(StartReply::Exists { run, .. }), _) if *run == start.run => {
                again(&mut tx, fence, start).await?
            }
            (Some(earlier), _) => earlier.clone(),
            (None, Some(earlier)) if earlier.run != start.run => {
                StartReply::Exists { run: earlier.run, digest: earlier.digest, end: None }
            }
            (None, Some(_)) => StartReply::Started,
            (None, None) => {
                first.insert(name, start);
                fresh.push(start);
                StartReply::Started
            }
        });
    }
    let queued = write(&mut tx, fence, &fresh).await?;
    tx.commit().await?;
    for (start, reply) in batch.iter().zip(&mut replies) {
        if *reply == StartReply::Started && start.owned && queued.contains(&start.run) {
            *reply = StartReply::Queued;
        }
    }
    Ok(replies)
}

/// Which (definition, saga id) of a batch exist already, and as what.
async fn taken(tx: &mut SqliteConnection, batch: &[Start]) -> Result<HashMap<usize, StartReply>> {
    let names: Vec<(&str, &str)> = batch.iter().map(|s| (s.definition.as_str(), &*s.saga)).collect();
    let rows = sqlx::query(
        "SELECT c.key, s.run, s.digest, s.ended FROM json_each(?) c
         JOIN saga_start s ON s.definition = c.value ->> 0 AND s.saga = c.value ->> 1",
    )
    .bind(serde_json::to_string(&names).expect("strings can be written"))
    .fetch_all(&mut *tx)
    .await
    .map_err(failed)?;
    let mut taken = HashMap::with_capacity(rows.len());
    for row in rows {
        let index = row.try_get::<i64, _>(0).map_err(failed)?;
        let reply = StartReply::Exists {
            run: RunId(row.try_get(1).map_err(failed)?),
            digest: decode::digest(row.try_get(2).map_err(failed)?)?,
            end: decode::end(row.try_get(3).map_err(failed)?)?,
        };
        taken.insert(usize::try_from(index).expect("an index of the batch"), reply);
    }
    Ok(taken)
}

/// What a start that is sent again was answered: whether its first commit has a writer tells.
async fn again(tx: &mut SqliteConnection, fence: Option<Fence>, start: &Start) -> Result<StartReply> {
    let Some(fence) = fence.filter(|_| start.owned && start.key.is_some()) else {
        return Ok(StartReply::Started);
    };
    let own: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM saga_journal WHERE run = ? AND number = 0 AND worker = ?)",
    )
    .bind(start.run.0)
    .bind(fence.worker.0)
    .fetch_one(tx)
    .await
    .map_err(failed)?;
    Ok(if own { StartReply::Started } else { StartReply::Queued })
}

/// What a saga's first rows say of it.
#[derive(Clone, Copy)]
struct First {
    owner: Option<Uuid>,
    /// It does not hold the key it needs.
    queued: bool,
}

/// Inserts sagas whose ids are free; answers with those that do not hold the key they need.
async fn write(tx: &mut SqliteConnection, fence: Option<Fence>, fresh: &[&Start]) -> Result<HashSet<RunId>> {
    let now = micros(Utc::now());
    let mut queued = HashSet::new();
    if fresh.iter().any(|start| start.key.is_some()) {
        let held = if fence.is_some() { keys::take(tx, fresh).await? } else { HashSet::new() };
        let without = fresh.iter().filter(|start| start.key.is_some() && !held.contains(&start.run));
        queued.extend(without.map(|start| start.run));
    }
    let row = |start: &Start| {
        let queued = queued.contains(&start.run);
        let owner = fence.filter(|_| start.owned && !queued).map(|fence| fence.worker.0);
        First { owner, queued }
    };
    insert(tx, STARTS, fresh, |query, start| bind_start(query, start, now)).await?;
    if fresh.iter().any(|start| start.key.is_some() || !start.priority.is_normal()) {
        insert(tx, LIVE_ALL, fresh, |query, start| {
            let row = row(start);
            let key = start.key.as_ref();
            bind_live(query, start, row, now)
                .bind(key.map(|keyed| keyed.key.as_str().to_owned()))
                .bind(row.queued.then_some(0_i64))
                .bind(key.and_then(|keyed| keyed.until).map(micros))
                .bind(start.priority.level())
        })
        .await?;
    } else {
        insert(tx, LIVE, fresh, |query, start| bind_live(query, start, row(start), now)).await?;
    }
    insert(tx, JOURNAL, fresh, |query, start| bind_journal(query, start, row(start), now)).await?;
    let attributes =
        fresh.iter().flat_map(|start| start.attributes.iter().map(move |pair| (start.run, pair)));
    let attributes: Vec<_> = attributes.collect();
    insert(tx, ATTRIBUTES, &attributes, |query, (run, (name, value))| {
        query.bind(run.0).bind(name.as_str().to_owned()).bind((*value).to_owned())
    })
    .await?;
    Ok(queued)
}

pub(super) fn bind_start(query: Binding, start: &Start, now: i64) -> Binding {
    query
        .bind(start.run.0)
        .bind(start.definition.as_str().to_owned())
        .bind(i64::from(start.version))
        .bind(start.fingerprint.0)
        .bind(start.saga.clone())
        .bind(start.digest.to_vec())
        .bind(now)
}

fn bind_live(query: Binding, start: &Start, row: First, now: i64) -> Binding {
    let due = (row.owner.is_none() && !row.queued).then_some(now);
    let state = if row.queued { State::Queued } else { State::Running };
    let query = query.bind(start.run.0).bind(start.fingerprint.0).bind(row.owner);
    query.bind(state.as_str()).bind(due).bind(now)
}

fn bind_journal(query: Binding, start: &Start, row: First, now: i64) -> Binding {
    let began = start.key.as_ref().filter(|_| row.queued).map(|keyed| &keyed.began);
    let body = began.unwrap_or(&start.body).clone();
    query.bind(start.run.0).bind(0_i64).bind(row.owner).bind(now).bind(body)
}

/// One saga on the caller's connection, as a part of the caller's transaction.
pub(super) async fn start_in(connection: &mut SqliteConnection, start: &Start) -> Result<StartReply> {
    if start.saga.contains('\0') {
        return Err(Error::Refused(format!("the saga id {:?} holds a NUL character", start.saga)));
    }
    match taken(connection, std::slice::from_ref(start)).await?.remove(&0) {
        Some(StartReply::Exists { run, .. }) if run == start.run => Ok(StartReply::Started),
        Some(earlier) => Ok(earlier),
        None => {
            write(connection, None, &[start]).await?;
            Ok(StartReply::Started)
        }
    }
}
