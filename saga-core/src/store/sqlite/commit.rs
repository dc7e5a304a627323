//! The hot path: a batch of commits in one transaction, one text and one fsync.
//!
//! However many commits there are, the connection's thread is woken once: with a text that begins, checks,
//! writes, reads the mail and commits. The check is an insert of the losers into a table that takes no row, so
//! that a batch with a loser in it is undone as a whole. That is rare (a commit that is sent again, or a
//! zombie); then the losers are told apart, and the others are written in a transaction of several steps.
//!
//! Lists are JSON arrays of strings, with what has a fixed width first: one parameter for any number of rows.
//! Parameters are named `$1`, `$2`, …: a text of several statements is given all values, and sqlx would fill
//! the numbers that one of them leaves out as if they were further parameters.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::LazyLock;

use chrono::Utc;
use sqlx::{Row, SqliteConnection};

use super::error::failed;
use super::insert::{Binding, ids};
use super::read::{mail_rows, micros, unread};
use super::writer::Writer;
use super::{Db, alone, live};
use crate::id::RunId;
use crate::store::commit::{Commit, CommitReply, Mail};
use crate::store::error::{Error, Result};
use crate::store::worker::Fence;

/// The table that takes no row.
const GUARD: &str = "CREATE TEMP TABLE saga_loser (position INTEGER CHECK (position IS NULL))";

/// Which commits would not be the next of a saga that this worker owns, by their positions in the batch; −1
/// where the worker has no right to write at all.
const LOSERS: &str = "SELECT -1 WHERE NOT EXISTS
        (SELECT 1 FROM saga_worker WHERE id = $1 AND epoch = $2 AND NOT drained)
    UNION ALL
    SELECT c.key FROM json_each($4) c
    WHERE (SELECT owner FROM saga_live WHERE run = unhex(substr(c.value, 1, 32))) IS NOT $1
        OR (SELECT max(number) FROM saga_journal WHERE run = unhex(substr(c.value, 1, 32)))
            IS NOT CAST(substr(c.value, 33, 10) AS INTEGER) - 1";

const JOURNAL: &str = "INSERT INTO saga_journal (run, number, worker, at, body)
    SELECT unhex(substr(value, 1, 32)), CAST(substr(value, 33, 10) AS INTEGER), $1, $3, substr(value, 43)
    FROM json_each($5)";

const UNREAD: &str = "SELECT run, id, body, format FROM saga_mail WHERE consumed IS NULL
    AND run IN (SELECT unhex(substr(value, 1, 32)) FROM json_each($4)) ORDER BY id";

/// Sagas whose pivot would start past mail that nobody has read: there is no way back from it.
const PAST_MAIL: &str = "SELECT c.key FROM json_each($11) c JOIN saga_mail m ON m.run = unhex(c.value)
    WHERE m.consumed IS NULL
        AND NOT EXISTS (SELECT 1 FROM json_each($6) r WHERE unhex(substr(r.value, 33, 32)) = m.id)";

/// For a batch in which every saga goes on.
static GO: LazyLock<String> = LazyLock::new(|| {
    format!("BEGIN IMMEDIATE; INSERT INTO temp.saga_loser {LOSERS}; {JOURNAL}; {UNREAD}; COMMIT")
});
/// For any batch.
static ANY: LazyLock<String> = LazyLock::new(|| {
    let then = live::THEN;
    format!("BEGIN IMMEDIATE; INSERT INTO temp.saga_loser {LOSERS}; {JOURNAL}; {then}; {UNREAD}; COMMIT")
});
/// For a batch in which a pivot starts.
static PIVOT: LazyLock<String> = LazyLock::new(|| {
    let then = live::THEN;
    format!(
        "BEGIN IMMEDIATE; INSERT INTO temp.saga_loser {LOSERS} UNION ALL {PAST_MAIL}; {JOURNAL}; {then}; {UNREAD}; COMMIT"
    )
});
/// For a batch in which a keyed saga ends, or waits on for its key.
static KEYED: LazyLock<String> = LazyLock::new(|| {
    let (then, keys) = (live::THEN, live::KEYS);
    format!(
        "BEGIN IMMEDIATE; INSERT INTO temp.saga_loser {LOSERS}; {JOURNAL}; {then}; {keys}; {UNREAD}; COMMIT"
    )
});
/// For those that are known to win.
static WINNERS: LazyLock<String> = LazyLock::new(|| format!("{JOURNAL}; {}; {}", live::THEN, live::KEYS));

/// What a batch asks for besides its rows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wants {
    Nothing,
    Then,
    ThenAndKeys,
}

/// What the connection that writes needs before the first batch.
pub(super) async fn prepare(writer: &Writer) -> Result<()> {
    writer.at_once(sqlx::query(GUARD)).await.map(|_| ())
}

pub(super) async fn commit(db: &Db, fence: Fence, batch: &[Commit]) -> Result<Vec<CommitReply>> {
    readable(batch)?;
    if let [commit] = batch
        && alone::commit(&db.writer, fence, commit).await?
    {
        return Ok(vec![CommitReply::Committed { mail: Vec::new() }]);
    }
    let all: Vec<&Commit> = batch.iter().collect();
    let pivots = batch.iter().filter(|commit| commit.pivot).map(|commit| commit.run.0);
    let (pivot, keyed) = (batch.iter().any(|commit| commit.pivot), batch.iter().any(live::concerns_keys));
    let text = match (pivot, keyed) {
        // One text has no room for both.
        (true, true) => return told_apart(db, fence, batch).await,
        (true, false) => statement(&PIVOT, fence, &all, Wants::Then).bind(ids(pivots)),
        (false, true) => statement(&KEYED, fence, &all, Wants::ThenAndKeys),
        (false, false) if all.iter().all(|commit| commit.is_plain()) => {
            statement(&GO, fence, &all, Wants::Nothing)
        }
        (false, false) => statement(&ANY, fence, &all, Wants::Then),
    };
    let rows = match db.writer.at_once(text).await {
        Err(Error::Refused(_)) => return told_apart(db, fence, batch).await,
        rows => rows?,
    };
    if rows.is_empty() {
        return Ok(vec![CommitReply::Committed { mail: Vec::new() }; batch.len()]);
    }
    let mut mail = mail_rows(&rows)?;
    let mail = batch.iter().map(|commit| mail.remove(&commit.run).unwrap_or_default());
    Ok(mail.map(|mail| CommitReply::Committed { mail }).collect())
}

/// SQLite's text functions end at a NUL character.
fn readable(batch: &[Commit]) -> Result<()> {
    match batch.iter().find(|commit| commit.body.contains('\0')) {
        Some(bad) => {
            Err(Error::Refused(format!("commit {} of run {} holds a NUL character", bad.number, bad.run)))
        }
        None => Ok(()),
    }
}

fn statement(text: &'static str, fence: Fence, commits: &[&Commit], wants: Wants) -> Binding {
    let statement = sqlx::query(text)
        .bind(fence.worker.0)
        .bind(fence.epoch)
        .bind(micros(Utc::now()))
        .bind(numbers(commits))
        .bind(bodies(commits));
    match wants {
        Wants::Nothing => statement,
        Wants::Then => live::bind(statement, commits),
        Wants::ThenAndKeys => live::bind_keys(live::bind(statement, commits), commits),
    }
}

/// 32 hexadecimal digits of the run, then ten of the commit's number.
fn numbers(commits: &[&Commit]) -> String {
    let mut text = String::with_capacity(commits.len() * 45 + 2);
    text.push('[');
    for commit in commits {
        let comma = if text.len() > 1 { "," } else { "" };
        let _ = write!(text, "{comma}\"{}{:010}\"", commit.run.0.simple(), commit.number);
    }
    text.push(']');
    text
}

/// The same, then the body.
fn bodies(commits: &[&Commit]) -> String {
    let texts: Vec<String> = commits
        .iter()
        .map(|commit| format!("{}{:010}{}", commit.run.0.simple(), commit.number, commit.body))
        .collect();
    serde_json::to_string(&texts).expect("strings can be written")
}

/// Writes the commits that win, and tells of the others whether they were written before.
async fn told_apart(db: &Db, fence: Fence, batch: &[Commit]) -> Result<Vec<CommitReply>> {
    let mut tx = db.begin().await?;
    let replies = write(&mut tx, fence, batch).await?;
    tx.commit().await?;
    Ok(replies)
}

/// The same in a transaction that is alone.
pub(super) async fn write(
    tx: &mut SqliteConnection,
    fence: Fence,
    batch: &[Commit],
) -> Result<Vec<CommitReply>> {
    readable(batch)?;
    let lost = losers(tx, fence, batch).await?;
    let mut missed = missed(tx, batch).await?;
    let mut won: Vec<&Commit> = Vec::with_capacity(batch.len());
    let mut written = vec![true; batch.len()];
    for (index, commit) in batch.iter().enumerate() {
        if lost.contains(&index) {
            written[index] = is_own(tx, fence, commit).await?;
        } else if missed.contains_key(&commit.run) {
            written[index] = false;
        } else {
            won.push(commit);
        }
    }
    if !won.is_empty() {
        statement(WINNERS.as_str(), fence, &won, Wants::ThenAndKeys)
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
    }
    let of_written = batch.iter().zip(&written).filter(|(_, written)| **written).map(|(c, _)| c.run.0);
    let mut mail = unread(tx, ids(of_written)).await?;
    let replies =
        batch.iter().zip(written).map(|(commit, written)| match (written, missed.remove(&commit.run)) {
            (true, _) => CommitReply::Committed { mail: mail.remove(&commit.run).unwrap_or_default() },
            (false, Some(mail)) => CommitReply::Unread { mail },
            (false, None) => CommitReply::Refused,
        });
    Ok(replies.collect())
}

/// The unread mail of those sagas whose pivot a batch would start although it does not consume all of it.
async fn missed(tx: &mut SqliteConnection, batch: &[Commit]) -> Result<HashMap<RunId, Vec<Mail>>> {
    let pivots: Vec<&Commit> = batch.iter().filter(|commit| commit.pivot).collect();
    if pivots.is_empty() {
        return Ok(HashMap::new());
    }
    let mut mail = unread(tx, ids(pivots.iter().map(|commit| commit.run.0))).await?;
    mail.retain(|run, mail| pivots.iter().any(|c| c.run == *run && mail.iter().any(|mail| c.misses(mail))));
    Ok(mail)
}

async fn losers(tx: &mut SqliteConnection, fence: Fence, batch: &[Commit]) -> Result<Vec<usize>> {
    let rows = sqlx::query(LOSERS)
        .bind(fence.worker.0)
        .bind(fence.epoch)
        .bind(None::<i64>)
        .bind(numbers(&batch.iter().collect::<Vec<_>>()))
        .fetch_all(&mut *tx)
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
async fn is_own(tx: &mut SqliteConnection, fence: Fence, commit: &Commit) -> Result<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM saga_journal WHERE run = ? AND number = ? AND worker = ? AND body = ?)",
    )
    .bind(commit.run.0)
    .bind(i64::from(commit.number))
    .bind(fence.worker.0)
    .bind(&*commit.body)
    .fetch_one(&mut *tx)
    .await
    .map_err(failed)
}
