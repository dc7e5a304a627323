//! The hot path: a batch of commits as one statement.
//!
//! Everything in it hangs on `won`, the journal rows that it could insert, and those hang on `me`, the
//! worker's row with the worker's epoch. Rows are touched in the order of their runs.
//!
//! Four things look odd, and are there for the planner:
//!
//! - tables are probed by `LATERAL (… LIMIT 1)`, which can only be done through an index, row by row;
//! - `(run IN (SELECT run FROM won)) IS TRUE` is hashed once, where a join of two lists of unknown length
//!   would compare each with each;
//! - `(owner = …) IS TRUE` keeps the index of owners out: beside a million sagas that wait it looks as good as
//!   the key, and then each row would read all that its worker owns;
//! - a batch in which every saga goes on is a shorter statement than one in which some wait or end.
//!
//! A row that is there already is rare: a commit that is sent again, or a zombie. Room for it in the
//! statement (`ON CONFLICT`) would cost every row a quarter more; so the batch is sent without, and again
//! with it where the key was violated.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use sqlx::{AssertSqlSafe, Row};
use uuid::Uuid;

use super::Db;
use super::connections::Lent;
use super::error::failed;
use super::read::{mail_row, rounded, unread};
use crate::id::{Key, RunId};
use crate::store::commit::{Commit, CommitReply, LastError, Mail, Then};
use crate::store::error::{Error, Result};
use crate::store::query::State;
use crate::store::worker::Fence;

/// Writes the rows.
const WON: &str = "WITH me AS MATERIALIZED (
    SELECT id FROM saga.worker WHERE id = $1 AND epoch = $2 AND NOT drained FOR KEY SHARE
), won AS (
    INSERT INTO saga.journal (run, number, worker, body)
    SELECT b.run, b.number, me.id, b.body
    FROM me CROSS JOIN unnest($3::uuid[], $4::int[], $5::text[]) AS b (run, number, body)
        CROSS JOIN LATERAL (
            SELECT 1 FROM saga.live l WHERE l.run = b.run AND (l.owner = $1) IS TRUE LIMIT 1) owned
        CROSS JOIN LATERAL (
            SELECT 1 FROM saga.journal j WHERE j.run = b.run AND j.number = b.number - 1 LIMIT 1) previous
    RETURNING run
)";

/// Marks the mail that was read.
const READ: &str = ", read AS (
    UPDATE saga.mail m SET consumed = r.number
    FROM unnest($6::uuid[], $7::uuid[], $8::int[]) AS r (run, id, number)
    WHERE m.run = r.run AND m.id = r.id AND (r.run IN (SELECT run FROM won)) IS TRUE
)";

/// Gives sagas up, or ends them; one without a new state stays, with another error. A row is written once in a
/// statement, so these are one.
const THEN: &str = ", released AS (
    UPDATE saga.live l SET owner = CASE WHEN t.state IS NULL THEN l.owner END, state = coalesce(t.state, l.state),
        due = CASE WHEN t.state IS NULL THEN l.due WHEN t.state = 'queued' THEN l.until ELSE t.due END,
        since = CASE WHEN t.state IS NULL OR t.state = 'queued' THEN l.since ELSE now() END,
        error = CASE WHEN t.error IS NULL THEN l.error ELSE nullif(t.error, '') END
    FROM unnest($9::uuid[], $10::text[], $11::timestamptz[], $12::text[]) AS t (run, state, due, error)
    WHERE l.run = t.run AND (t.run IN (SELECT run FROM won)) IS TRUE
), ended AS (
    UPDATE saga.start s SET ended = e.ended, ended_at = now()
    FROM unnest($13::uuid[], $14::text[]) AS e (run, ended)
    WHERE s.run = e.run AND (e.run IN (SELECT run FROM won)) IS TRUE
), removed AS (
    DELETE FROM saga.live l USING unnest($13::uuid[]) AS e (run)
    WHERE l.run = e.run AND (e.run IN (SELECT run FROM won)) IS TRUE
), answered AS (
    UPDATE saga.mail m SET consumed = -1 FROM unnest($13::uuid[]) AS e (run)
    WHERE m.run = e.run AND m.consumed IS NULL AND m.id <> ALL ($7::uuid[])
        AND (e.run IN (SELECT run FROM won)) IS TRUE
)";

/// Gives back the keys of sagas that end.
const FREED: &str = ", freed AS (
    UPDATE saga.key k SET run = NULL FROM unnest($16::text[], $17::uuid[]) AS f (key, run)
    WHERE k.key = f.key AND k.run = f.run AND (f.run IN (SELECT run FROM won)) IS TRUE
)";

/// The first row tells whether the fence was met and who won; the others are unread mail.
const TOLD: &str =
    " SELECT EXISTS (SELECT FROM me), ARRAY(SELECT run FROM won), NULL::uuid, NULL::uuid, NULL::text, NULL::smallint
UNION ALL
SELECT NULL, NULL, m.run, m.id, m.body, m.format FROM won CROSS JOIN LATERAL (
    SELECT m.run, m.id, m.body, m.format FROM saga.mail m WHERE m.run = won.run AND m.consumed IS NULL OFFSET 0) m";

/// For a batch in which every saga goes on, for any in which no pivot starts and no key is given back, for any in
/// which no key is given back, and for any; each without and with room for conflicts.
static GO: LazyLock<[String; 2]> = LazyLock::new(|| both(&format!("{WON}{TOLD}")));
static ANY: LazyLock<[String; 2]> = LazyLock::new(|| both(&format!("{WON}{READ}{THEN}{TOLD}")));
static PIVOT: LazyLock<[String; 2]> = LazyLock::new(|| both(&format!("{}{READ}{THEN}{TOLD}", unless_mail())));
static KEYED: LazyLock<[String; 2]> =
    LazyLock::new(|| both(&format!("{}{READ}{THEN}{FREED}{TOLD}", unless_mail())));

/// Writes the rows, but no pivot's start past mail.
fn unless_mail() -> String {
    WON.replace(
        "$5::text[]) AS b (run, number, body)",
        "$5::text[], $15::bool[]) AS b (run, number, body, pivot)",
    )
    .replace("    RETURNING run\n", &format!("{UNLESS_MAIL}    RETURNING run\n"))
}

/// There is no way back from a pivot, so a cancel that can be seen comes first.
const UNLESS_MAIL: &str = "    WHERE NOT b.pivot OR NOT EXISTS (SELECT FROM saga.mail m
        WHERE m.run = b.run AND m.consumed IS NULL AND m.id <> ALL ($7::uuid[]))
";

fn both(text: &str) -> [String; 2] {
    let returning = "    RETURNING run\n";
    [text.to_owned(), text.replacen(returning, &format!("    ON CONFLICT DO NOTHING\n{returning}"), 1)]
}

/// Whether a journal row may be there already.
#[derive(Clone, Copy)]
pub(super) enum Conflicts {
    Unexpected,
    Expected,
}

pub(super) async fn commit(db: &Db, fence: Fence, batch: &[Commit]) -> Result<Vec<CommitReply>> {
    let mut connection = db.writers.lend().await?;
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

pub(super) fn statement(fence: Fence, batch: &[Commit], conflicts: Conflicts) -> super::Binding {
    let mut commits: Vec<&Commit> = batch.iter().collect();
    commits.sort_unstable_by_key(|commit| commit.run);
    let pivot = commits.iter().any(|commit| commit.pivot);
    let plain = !pivot && commits.iter().all(|commit| commit.is_plain());
    // In the order of the keys, so that two batches wait for each other in one order.
    let mut keys: Vec<(&Key, Uuid)> = commits.iter().filter_map(|commit| given_back(commit)).collect();
    keys.sort_unstable();
    let texts = match (plain, pivot, keys.is_empty()) {
        (true, ..) => &*GO,
        (false, _, false) => &*KEYED,
        (false, true, true) => &*PIVOT,
        (false, false, true) => &*ANY,
    };
    let text = &texts[conflicts as usize];
    let statement = sqlx::query(AssertSqlSafe(text.as_str()))
        .bind(fence.worker.0)
        .bind(fence.epoch)
        .bind(commits.iter().map(|c| c.run.0).collect::<Vec<Uuid>>())
        .bind(commits.iter().map(|c| c.number.cast_signed()).collect::<Vec<i32>>())
        .bind(commits.iter().map(|c| &*c.body).collect::<Vec<&str>>());
    let statement = if plain { statement } else { consequences(statement, &commits) };
    if !pivot && keys.is_empty() {
        return statement;
    }
    let statement = statement.bind(commits.iter().map(|c| c.pivot).collect::<Vec<bool>>());
    if keys.is_empty() {
        return statement;
    }
    statement
        .bind(keys.iter().map(|(key, _)| key.as_str()).collect::<Vec<&str>>())
        .bind(keys.iter().map(|(_, run)| *run).collect::<Vec<Uuid>>())
}

/// The key that a commit gives back.
fn given_back(commit: &Commit) -> Option<(&Key, Uuid)> {
    let key = commit.key.as_ref().filter(|_| matches!(commit.then, Then::End(_)))?;
    Some((key, commit.run.0))
}

fn consequences(statement: super::Binding, commits: &[&Commit]) -> super::Binding {
    let read = || commits.iter().flat_map(|c| c.mail.iter().map(move |id| (c, id.0)));
    let (mut released, mut states, mut dues, mut errors) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut ended, mut ends) = (Vec::new(), Vec::new());
    for commit in commits {
        let (state, due) = match commit.then {
            Then::Go if commit.error == LastError::Same => continue,
            Then::Go => (None, None),
            Then::Wait(due) => (Some(State::Waiting), Some(rounded(due))),
            Then::Block => (Some(State::Blocked), None),
            Then::Queue => (Some(State::Queued), None),
            Then::End(kind) => {
                ended.push(commit.run.0);
                ends.push(kind.as_str());
                continue;
            }
        };
        released.push(commit.run.0);
        states.push(state.map(State::as_str));
        dues.push(due);
        errors.push(commit.error.text());
    }
    statement
        .bind(read().map(|(commit, _)| commit.run.0).collect::<Vec<Uuid>>())
        .bind(read().map(|(_, id)| id).collect::<Vec<Uuid>>())
        .bind(read().map(|(commit, _)| commit.number.cast_signed()).collect::<Vec<i32>>())
        .bind(released)
        .bind(states)
        .bind(dues)
        .bind(errors)
        .bind(ended)
        .bind(ends)
}

/// The mail of the answer's rows, without what the batch itself consumed: all parts of a statement see
/// the database as it was before the statement.
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
/// in a later statement, because the row that was in the way may be newer than the batch's snapshot.
async fn resent(
    connection: &mut Lent,
    fence: Fence,
    batch: &[Commit],
    written: &mut [bool],
) -> Result<HashMap<RunId, Vec<Mail>>> {
    let lost =
        || batch.iter().zip(written.iter()).filter(|(_, written)| !**written).map(|(commit, _)| commit);
    let text = "SELECT j.run FROM unnest($2::uuid[], $3::int[]) AS b (run, number) CROSS JOIN LATERAL (
        SELECT j.run FROM saga.journal j WHERE j.run = b.run AND j.number = b.number AND j.worker = $1 LIMIT 1) j";
    let statement = sqlx::query(text)
        .bind(fence.worker.0)
        .bind(lost().map(|commit| commit.run.0).collect::<Vec<Uuid>>())
        .bind(lost().map(|commit| commit.number.cast_signed()).collect::<Vec<i32>>());
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
