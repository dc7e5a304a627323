//! Inserting sagas.

use std::collections::HashMap;

use chrono::Utc;
use sqlx::{Row, SqliteConnection};
use uuid::Uuid;

use super::error::failed;
use super::insert::{Into, insert};
use super::read::micros;
use super::workers::check;
use super::{Db, commit_tx};
use crate::id::RunId;
use crate::store::commit::{Start, StartReply};
use crate::store::decode;
use crate::store::error::{Error, Result};
use crate::store::worker::Fence;

const STARTS: Into = Into {
    head: "INSERT INTO saga_start (run, definition, version, fingerprint, saga, digest, started_at) VALUES ",
    columns: 7,
};
const LIVE: Into =
    Into { head: "INSERT INTO saga_live (run, fingerprint, owner, state, due, since) VALUES ", columns: 6 };
const JOURNAL: Into =
    Into { head: "INSERT INTO saga_journal (run, number, worker, at, body) VALUES ", columns: 5 };

pub(super) async fn start(db: &Db, fence: Option<Fence>, batch: &[Start]) -> Result<Vec<StartReply>> {
    if let Some(bad) = batch.iter().find(|start| start.saga.contains('\0')) {
        return Err(Error::Refused(format!("the saga id {:?} holds a NUL character", bad.saga)));
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
        let reply = match (taken.get(&index), first.get(&name)) {
            (Some(earlier), _) => earlier.clone(),
            (None, Some(earlier)) => {
                StartReply::Exists { run: earlier.run, digest: earlier.digest, end: None }
            }
            (None, None) => {
                first.insert(name, start);
                fresh.push(start);
                StartReply::Started
            }
        };
        replies.push(match reply {
            StartReply::Exists { run, .. } if run == start.run => StartReply::Started,
            reply => reply,
        });
    }
    write(&mut tx, fence, &fresh).await?;
    commit_tx(tx).await?;
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

async fn write(tx: &mut SqliteConnection, fence: Option<Fence>, fresh: &[&Start]) -> Result<()> {
    let now = micros(Utc::now());
    let owner = |start: &Start| -> Option<Uuid> { fence.filter(|_| start.owned).map(|fence| fence.worker.0) };
    insert(tx, STARTS, fresh, |query, start| {
        query
            .bind(start.run.0)
            .bind(start.definition.as_str())
            .bind(i64::from(start.version))
            .bind(start.fingerprint.0)
            .bind(start.saga.clone())
            .bind(&start.digest[..])
            .bind(now)
    })
    .await?;
    insert(tx, LIVE, fresh, |query, start| {
        let owner = owner(start);
        let due = owner.is_none().then_some(now);
        query.bind(start.run.0).bind(start.fingerprint.0).bind(owner).bind("running").bind(due).bind(now)
    })
    .await?;
    insert(tx, JOURNAL, fresh, |query, start| {
        query.bind(start.run.0).bind(0_i64).bind(owner(start)).bind(now).bind(start.body.clone())
    })
    .await?;
    Ok(())
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
