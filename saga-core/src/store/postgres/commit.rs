//! The hot path: committing a batch, and telling who won.
//!
//! A row that is there already is rare: a commit that is sent again, or a zombie. Room for it in the
//! [statement] (`ON CONFLICT`) would cost every row a quarter more; so the batch is sent without, and again
//! with it where the key was violated.

use std::collections::{HashMap, HashSet};

use sqlx::Row;
use uuid::Uuid;

use super::connections::Lent;
use super::error::failed;
use super::read::{mail_row, unread};
use super::statement::{Conflicts, statement};
use super::{Db, alone};
use crate::id::RunId;
use crate::store::commit::{Commit, CommitReply, Mail, Then};
use crate::store::error::{Error, Result};
use crate::store::worker::Fence;

pub(super) async fn commit(db: &Db, fence: Fence, batch: &[Commit]) -> Result<Vec<CommitReply>> {
    let mut connection = db.writers.lend().await?;
    if let [commit] = batch
        && let Some(reply) = alone::commit(&mut connection, fence, commit).await?
    {
        return Ok(vec![reply]);
    }
    let answer = match connection.rows(statement(fence, batch, Conflicts::Unexpected)).await {
        // Written before, by us or by another: now each commit has to be told apart.
        Err(Error::Refused(_)) => connection.rows(statement(fence, batch, Conflicts::Expected)).await?,
        answer => answer?,
    };
    let (won, mut unread) = told(batch, &answer)?;
    let mut written: Vec<bool> = batch.iter().map(|commit| won.contains(&commit.run.0)).collect();
    if won.len() < batch.len() {
        unread.extend(resent(&mut connection, fence, batch, &mut written).await?);
    }
    if batch.iter().zip(&written).any(|(commit, written)| commit.pivot && !written) {
        unread.extend(in_the_way(&mut connection, batch, &written).await?);
    }
    let replies = batch.iter().zip(written).map(|(commit, written)| {
        let mail = unread.remove(&commit.run).unwrap_or_default();
        match written {
            true => CommitReply::Committed { mail },
            false if commit.pivot && mail.iter().any(|mail| commit.misses(mail)) => {
                CommitReply::Unread { mail }
            }
            false => CommitReply::Refused,
        }
    });
    Ok(replies.collect())
}

/// The unread mail of the sagas whose pivot was not started.
async fn in_the_way(
    connection: &mut Lent,
    batch: &[Commit],
    written: &[bool],
) -> Result<HashMap<RunId, Vec<Mail>>> {
    let lost = batch.iter().zip(written).filter(|(commit, written)| commit.pivot && !**written);
    let runs: Vec<Uuid> = lost.map(|(commit, _)| commit.run.0).collect();
    super::read::unread(connection, &runs).await
}

/// Who won, and the unread mail of those.
type Told = (HashSet<Uuid>, HashMap<RunId, Vec<Mail>>);

/// What the answer to a batch tells.
pub(super) fn told(batch: &[Commit], answer: &[sqlx::postgres::PgRow]) -> Result<Told> {
    let (head, mail) = answer.split_first().ok_or_else(|| Error::Unusable("no answer to a batch".into()))?;
    if !head.try_get::<bool, _>(0).map_err(failed)? {
        return Err(Error::Fenced);
    }
    let won = head.try_get::<Vec<Uuid>, _>(1).map_err(failed)?;
    Ok((won.into_iter().collect(), unconsumed(batch, mail)?))
}

fn unconsumed(batch: &[Commit], answer: &[sqlx::postgres::PgRow]) -> Result<HashMap<RunId, Vec<Mail>>> {
    let mut unread: HashMap<RunId, Vec<Mail>> = HashMap::new();
    if answer.is_empty() {
        return Ok(unread);
    }
    let by_run: HashMap<RunId, &Commit> = batch.iter().map(|commit| (commit.run, commit)).collect();
    for row in answer {
        let mail = mail_row(row, 2)?;
        let commit = by_run.get(&mail.run);
        if commit.is_some_and(|c| !matches!(c.then, Then::End(_)) && !c.mail.contains(&mail.id)) {
            unread.entry(mail.run).or_default().push(mail);
        }
    }
    for mail in unread.values_mut() {
        mail.sort_unstable_by_key(|mail| mail.id);
    }
    Ok(unread)
}

/// Which of the losers this worker wrote before: their answer was lost, and they were sent again. Asked
/// in a later statement, because the row that was in the way may be newer than the batch's snapshot. By their texts
/// as well: what was written may be an earlier word of ours under that number, which was still on its way when
/// another was sent.
async fn resent(
    connection: &mut Lent,
    fence: Fence,
    batch: &[Commit],
    written: &mut [bool],
) -> Result<HashMap<RunId, Vec<Mail>>> {
    let lost =
        || batch.iter().zip(written.iter()).filter(|(_, written)| !**written).map(|(commit, _)| commit);
    let text = "SELECT j.run FROM unnest($2::uuid[], $3::int[], $4::text[]) AS b (run, number, body) CROSS JOIN LATERAL (
        SELECT j.run, j.body FROM saga.journal j WHERE j.run = b.run AND j.number = b.number AND j.worker = $1 LIMIT 1) j
        WHERE j.body = b.body";
    let statement = sqlx::query(text)
        .bind(fence.worker.0)
        .bind(lost().map(|commit| commit.run.0).collect::<Vec<Uuid>>())
        .bind(lost().map(|commit| commit.number.cast_signed()).collect::<Vec<i32>>())
        .bind(lost().map(|commit| &*commit.body).collect::<Vec<&str>>());
    let mut own = HashSet::new();
    for row in connection.rows(statement).await? {
        own.insert(row.try_get::<Uuid, _>(0).map_err(failed)?);
    }
    if own.is_empty() {
        return Ok(HashMap::new());
    }
    let runs: Vec<Uuid> = own.iter().copied().collect();
    for (commit, written) in batch.iter().zip(written) {
        *written |= own.contains(&commit.run.0);
    }
    unread(connection, &runs).await
}
