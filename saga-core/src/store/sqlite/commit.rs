//! The hot path: a batch of commits in one transaction and one fsync.
//!
//! The transaction is alone, so it first asks for the losers, and everything else is written without a
//! condition. However many commits there are, that takes one statement for the question, at most nine
//! for the rows (`insert.rs`), those that the commits' `Then` and mail ask for, and one for the mail.

use chrono::Utc;
use sqlx::Row;

use super::error::failed;
use super::insert::{Into, ids, insert};
use super::read::{micros, unread};
use super::{Db, Tx, commit_tx, live};
use crate::store::commit::{Commit, CommitReply};
use crate::store::error::{Error, Result};
use crate::store::worker::Fence;

const JOURNAL: Into =
    Into { head: "INSERT INTO saga_journal (run, number, worker, at, body) VALUES ", columns: 5 };

pub(super) async fn commit(db: &Db, fence: Fence, batch: &[Commit]) -> Result<Vec<CommitReply>> {
    let mut tx = db.begin().await?;
    let lost = losers(&mut tx, fence, batch).await?;
    let mut won: Vec<&Commit> = Vec::with_capacity(batch.len());
    let mut written = vec![true; batch.len()];
    for (index, commit) in batch.iter().enumerate() {
        match lost.contains(&index) {
            false => won.push(commit),
            true => written[index] = is_own(&mut tx, fence, commit).await?,
        }
    }
    let now = micros(Utc::now());
    insert(&mut tx, JOURNAL, &won, |query, commit| {
        query
            .bind(commit.run.0)
            .bind(i64::from(commit.number))
            .bind(fence.worker.0)
            .bind(now)
            .bind(commit.body.clone())
    })
    .await?;
    consume(&mut tx, &won).await?;
    live::apply(&mut tx, &won).await?;
    let of_written = batch.iter().zip(&written).filter(|(_, written)| **written).map(|(c, _)| c.run.0);
    let mut mail = unread(&mut tx, ids(of_written)).await?;
    commit_tx(tx).await?;
    let replies = batch.iter().zip(written).map(|(commit, written)| match written {
        true => CommitReply::Committed { mail: mail.remove(&commit.run).unwrap_or_default() },
        false => CommitReply::Refused,
    });
    Ok(replies.collect())
}

/// Which commits of a batch would not be the next of a saga that this worker owns; [`Error::Fenced`]
/// where the worker has no right to write at all.
async fn losers(tx: &mut Tx, fence: Fence, batch: &[Commit]) -> Result<Vec<usize>> {
    // 32 hexadecimal digits of the run, then the commit's number.
    let wanted: Vec<String> = batch.iter().map(|c| format!("{}{}", c.run.0.simple(), c.number)).collect();
    let rows = sqlx::query(
        "SELECT -1 WHERE NOT EXISTS
             (SELECT 1 FROM saga_worker WHERE id = ?1 AND epoch = ?2 AND NOT drained)
         UNION ALL
         SELECT c.key FROM json_each(?3) c
         WHERE (SELECT owner FROM saga_live WHERE run = unhex(substr(c.value, 1, 32))) IS NOT ?1
            OR (SELECT max(number) FROM saga_journal WHERE run = unhex(substr(c.value, 1, 32)))
               IS NOT CAST(substr(c.value, 33) AS INTEGER) - 1",
    )
    .bind(fence.worker.0)
    .bind(fence.epoch)
    .bind(serde_json::to_string(&wanted).expect("strings can be written"))
    .fetch_all(&mut **tx)
    .await
    .map_err(failed)?;
    let mut lost = Vec::with_capacity(rows.len());
    for row in rows {
        match usize::try_from(row.try_get::<i64, _>(0).map_err(failed)?) {
            Ok(index) => lost.push(index),
            Err(_) => return Err(Error::Fenced),
        }
    }
    Ok(lost)
}

/// Whether this worker wrote that commit before: its answer was lost, and it is sent again.
async fn is_own(tx: &mut Tx, fence: Fence, commit: &Commit) -> Result<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM saga_journal WHERE run = ? AND number = ? AND worker = ?)",
    )
    .bind(commit.run.0)
    .bind(i64::from(commit.number))
    .bind(fence.worker.0)
    .fetch_one(&mut **tx)
    .await
    .map_err(failed)
}

/// Marks the mail that the commits read.
async fn consume(tx: &mut Tx, won: &[&Commit]) -> Result<()> {
    // The run, the mail's id, then the number of the commit that consumed it.
    let read: Vec<String> = won
        .iter()
        .flat_map(|c| c.mail.iter().map(|id| format!("{}{}{}", c.run.0.simple(), id.0.simple(), c.number)))
        .collect();
    if read.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE saga_mail SET consumed = CAST(substr(c.value, 65) AS INTEGER) FROM json_each(?) c
         WHERE saga_mail.run = unhex(substr(c.value, 1, 32)) AND saga_mail.id = unhex(substr(c.value, 33, 32))",
    )
    .bind(serde_json::to_string(&read).expect("strings can be written"))
    .execute(&mut **tx)
    .await
    .map_err(failed)?;
    Ok(())
}
