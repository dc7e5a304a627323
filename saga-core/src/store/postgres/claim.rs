//! Taking ownership of sagas that wait for a worker.

use sqlx::Row;
use uuid::Uuid;

use super::connections::Lent;
use super::error::failed;
use super::read::{mail_row, sagas};
use super::{Db, keys};
use crate::id::RunId;
use crate::priority::Priority;
use crate::store::commit::Mail;
use crate::store::error::{Error, Result};
use crate::store::unheard::Sending;
use crate::store::worker::{Claim, Claimed};

/// Sagas of claims whose answer was lost come first, then those without a due time (their worker died, or
/// mail reached a blocked saga), then by due time, moved by their priority. One look per definition and priority ends after `$4` rows of the
/// index, however many are due, but for those whose mail it cannot read (`$9`); the worker's own sagas are looked through only where an answer was lost.
/// `SKIP LOCKED`: a transaction that hangs holds up its own saga only. The last column tells whether there may
/// be turns to give.
const CLAIM: &str = "WITH me AS MATERIALIZED (
    SELECT id FROM saga.worker WHERE id = $1 AND epoch = $2 AND NOT drained FOR KEY SHARE
), lost AS MATERIALIZED (
    SELECT run, NULL::timestamptz AS due FROM saga.live
    WHERE owner = $1 AND claimed = ANY ($5::bigint[]) AND cardinality($5) > 0 LIMIT $4
), unread AS MATERIALIZED (
    SELECT run, max(format) > $9 AS newer FROM saga.mail WHERE consumed IS NULL GROUP BY run
), orphaned AS MATERIALIZED (
    SELECT l.run, NULL::timestamptz AS due FROM saga.worker w CROSS JOIN LATERAL (
        SELECT l.run FROM saga.live l WHERE l.owner = w.id AND l.fingerprint = ANY ($3::uuid[])
            AND (l.run IN (SELECT run FROM unread WHERE newer)) IS NOT TRUE
        LIMIT $4 FOR NO KEY UPDATE SKIP LOCKED) l
    WHERE w.drained LIMIT $4
), mailed AS MATERIALIZED (
    SELECT l.run, l.due FROM unread u CROSS JOIN LATERAL (
        SELECT l.run, l.due FROM saga.live l
        WHERE l.run = u.run AND l.owner IS NULL AND l.fingerprint = ANY ($3::uuid[])
        LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED) l
    WHERE NOT u.newer LIMIT $4
), due AS MATERIALIZED (
    SELECT d.run, d.due - p.level * $7::interval AS due
    FROM unnest($3::uuid[]) AS f (fingerprint) CROSS JOIN unnest($8::smallint[]) AS p (level) CROSS JOIN LATERAL (
        SELECT l.run, l.due FROM saga.live l
        WHERE l.owner IS NULL AND l.due IS NOT NULL AND l.fingerprint = f.fingerprint AND l.priority = p.level
            AND l.due <= now() AND (l.run IN (SELECT run FROM unread WHERE newer)) IS NOT TRUE
        ORDER BY l.due LIMIT $4 FOR NO KEY UPDATE SKIP LOCKED) d
), ready AS MATERIALIZED (
    SELECT run, min(rank) AS rank, min(due) AS due FROM (
        SELECT 0 AS rank, * FROM lost UNION ALL SELECT 1, * FROM orphaned
        UNION ALL SELECT 1, * FROM mailed UNION ALL SELECT 1, * FROM due) candidates
    GROUP BY run ORDER BY 2, 3 NULLS FIRST, 1 LIMIT $4
), taken AS (
    UPDATE saga.live l SET owner = me.id, claimed = $6, due = NULL,
        state = CASE WHEN l.turn IS NULL THEN 'running' ELSE l.state END,
        since = CASE WHEN l.turn IS NULL AND l.state <> 'running' THEN now() ELSE l.since END
    FROM me WHERE l.run = ANY (ARRAY(SELECT run FROM ready))
    RETURNING l.run
)
SELECT EXISTS (SELECT FROM me), r.run, EXISTS (SELECT FROM saga.live WHERE turn = 0 AND owner IS NULL)
    OR EXISTS (SELECT FROM saga.key WHERE run IS NULL)
FROM (SELECT) one LEFT JOIN ready r ON (r.run IN (SELECT run FROM taken)) IS TRUE
ORDER BY r.rank, r.due NULLS FIRST, r.run";

/// Unread mail of what the worker owns, and of what has ended meanwhile.
const MAIL: &str = "SELECT l.run IS NULL, m.run, m.id, m.body, m.format
    FROM saga.mail m LEFT JOIN LATERAL (SELECT l.run, l.owner FROM saga.live l WHERE l.run = m.run LIMIT 1) l ON true
    WHERE m.consumed IS NULL AND (l.owner = $1 OR l.run IS NULL) ORDER BY m.id";

/// Whoever sees the mail sees its saga as well, or its end.
const CLEAR: &str = "UPDATE saga.mail m SET consumed = -1
    WHERE m.run = ANY ($1) AND m.consumed IS NULL
        AND NOT EXISTS (SELECT FROM saga.live l WHERE l.run = m.run OFFSET 0)";

pub(super) async fn claim(db: &Db, claim: &Claim, sent: &Sending) -> Result<Claimed> {
    let mut connection = db.writers.lend().await?;
    let (mut runs, unsettled) = take(&mut connection, claim, sent).await?;
    let room = claim.limit - runs.len();
    if unsettled && room > 0 && keys::give_turns(&mut connection, claim).await? {
        let rest = Claim { limit: room, ..claim.clone() };
        runs.extend(take(&mut connection, &rest, sent).await?.0);
    }
    // In later statements: what a worker that is gone wrote last is surely seen.
    let mut mail = owned_mail(&mut connection, claim).await?;
    if runs.is_empty() {
        return Ok(Claimed { sagas: Vec::new(), mail });
    }
    mail.retain(|mail| !runs.contains(&mail.run));
    Ok(Claimed { sagas: sagas(&mut connection, &runs).await?, mail })
}

async fn take(connection: &mut Lent, claim: &Claim, sent: &Sending) -> Result<(Vec<RunId>, bool)> {
    let statement = sqlx::query(CLAIM)
        .bind(claim.fence.worker.0)
        .bind(claim.fence.epoch)
        .bind(claim.fingerprints.iter().map(|fingerprint| fingerprint.0).collect::<Vec<Uuid>>())
        .bind(i64::try_from(claim.limit).unwrap_or(i64::MAX))
        .bind(sent.lost.clone())
        .bind(sent.number)
        .bind(Priority::HEAD_START)
        .bind(Priority::ALL.map(Priority::level).to_vec())
        .bind(claim.reads);
    let (mut runs, mut unsettled) = (Vec::new(), false);
    for row in connection.rows(statement).await? {
        if !row.try_get::<bool, _>(0).map_err(failed)? {
            return Err(Error::Fenced);
        }
        runs.extend(row.try_get::<Option<Uuid>, _>(1).map_err(failed)?.map(RunId));
        unsettled = row.try_get(2).map_err(failed)?;
    }
    Ok((runs, unsettled))
}

async fn owned_mail(connection: &mut Lent, claim: &Claim) -> Result<Vec<Mail>> {
    let (mut mail, mut stray) = (Vec::new(), Vec::new());
    for row in connection.rows(sqlx::query(MAIL).bind(claim.fence.worker.0)).await? {
        if row.try_get(0).map_err(failed)? {
            stray.push(row.try_get::<Uuid, _>(1).map_err(failed)?);
        } else {
            mail.push(mail_row(&row, 1)?);
        }
    }
    if !stray.is_empty() {
        connection.rows(sqlx::query(CLEAR).bind(stray)).await?;
    }
    Ok(mail)
}
