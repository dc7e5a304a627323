//! Taking ownership of sagas that wait for a worker.

use sqlx::Row;
use uuid::Uuid;

use super::Db;
use super::connections::Lent;
use super::error::failed;
use super::read::{mail_row, sagas};
use crate::id::RunId;
use crate::store::commit::Mail;
use crate::store::error::{Error, Result};
use crate::store::unheard::Sending;
use crate::store::worker::{Claim, Claimed};

/// Sagas of claims whose answer was lost come first, then those without a due time (their worker died, or
/// mail reached a blocked saga), then by due time. One look per definition ends after `$4` rows of the
/// index, however many are due; the worker's own sagas are looked through only where an answer was lost.
/// `SKIP LOCKED`: a transaction that hangs holds up its own saga only.
const CLAIM: &str = "WITH me AS MATERIALIZED (
    SELECT id FROM saga.worker WHERE id = $1 AND epoch = $2 AND NOT drained FOR KEY SHARE
), lost AS MATERIALIZED (
    SELECT run, NULL::timestamptz AS due FROM saga.live
    WHERE owner = $1 AND claimed = ANY ($5::bigint[]) AND cardinality($5) > 0 ORDER BY run LIMIT $4
), orphaned AS MATERIALIZED (
    SELECT l.run, NULL::timestamptz AS due FROM saga.worker w JOIN saga.live l ON l.owner = w.id
    WHERE w.drained AND l.fingerprint = ANY ($3::uuid[])
    ORDER BY l.run LIMIT $4 FOR NO KEY UPDATE OF l SKIP LOCKED
), unread AS MATERIALIZED (
    SELECT DISTINCT run FROM saga.mail WHERE consumed IS NULL
), mailed AS MATERIALIZED (
    SELECT l.run, l.due FROM unread u JOIN saga.live l ON l.run = u.run
    WHERE l.owner IS NULL AND l.fingerprint = ANY ($3::uuid[])
    ORDER BY l.due NULLS FIRST, l.run LIMIT $4 FOR NO KEY UPDATE OF l SKIP LOCKED
), due AS MATERIALIZED (
    SELECT d.run, d.due FROM unnest($3::uuid[]) AS f (fingerprint) CROSS JOIN LATERAL (
        SELECT l.run, l.due FROM saga.live l
        WHERE l.owner IS NULL AND l.due IS NOT NULL AND l.fingerprint = f.fingerprint AND l.due <= now()
        ORDER BY l.due LIMIT $4 FOR NO KEY UPDATE SKIP LOCKED) d
), ready AS MATERIALIZED (
    SELECT run, min(rank) AS rank, min(due) AS due FROM (
        SELECT 0 AS rank, * FROM lost UNION ALL SELECT 1, * FROM orphaned
        UNION ALL SELECT 1, * FROM mailed UNION ALL SELECT 1, * FROM due) candidates
    GROUP BY run ORDER BY 2, 3 NULLS FIRST, 1 LIMIT $4
), taken AS (
    UPDATE saga.live l SET owner = me.id, claimed = $6, state = 'running', due = NULL,
        since = CASE l.state WHEN 'running' THEN l.since ELSE now() END
    FROM me CROSS JOIN ready WHERE l.run = ready.run
    RETURNING l.run, ready.rank, ready.due
)
SELECT EXISTS (SELECT FROM me), t.run FROM (SELECT) one LEFT JOIN taken t ON true
ORDER BY t.rank, t.due NULLS FIRST, t.run";

/// Unread mail of what the worker owns, and of what has ended meanwhile.
const MAIL: &str = "SELECT l.run IS NULL, m.run, m.id, m.body
    FROM saga.mail m LEFT JOIN LATERAL (SELECT l.run, l.owner FROM saga.live l WHERE l.run = m.run LIMIT 1) l ON true
    WHERE m.consumed IS NULL AND (l.owner = $1 OR l.run IS NULL) ORDER BY m.id";

/// Whoever sees the mail sees its saga as well, or its end.
const CLEAR: &str = "UPDATE saga.mail m SET consumed = -1
    WHERE m.run = ANY ($1) AND m.consumed IS NULL AND NOT EXISTS (SELECT FROM saga.live l WHERE l.run = m.run)";

pub(super) async fn claim(db: &Db, claim: &Claim, sent: &Sending) -> Result<Claimed> {
    let mut connection = db.writers.lend().await?;
    let runs = take(&mut connection, claim, sent).await?;
    // In later statements: what a worker that is gone wrote last is surely seen.
    let mut mail = owned_mail(&mut connection, claim).await?;
    if runs.is_empty() {
        return Ok(Claimed { sagas: Vec::new(), mail });
    }
    mail.retain(|mail| !runs.contains(&mail.run));
    Ok(Claimed { sagas: sagas(&mut connection, &runs).await?, mail })
}

async fn take(connection: &mut Lent, claim: &Claim, sent: &Sending) -> Result<Vec<RunId>> {
    let statement = sqlx::query(CLAIM)
        .bind(claim.fence.worker.0)
        .bind(claim.fence.epoch)
        .bind(claim.fingerprints.iter().map(|fingerprint| fingerprint.0).collect::<Vec<Uuid>>())
        .bind(i64::try_from(claim.limit).unwrap_or(i64::MAX))
        .bind(sent.lost.clone())
        .bind(sent.number);
    let mut runs = Vec::new();
    for row in connection.rows(statement).await? {
        if !row.try_get::<bool, _>(0).map_err(failed)? {
            return Err(Error::Fenced);
        }
        runs.extend(row.try_get::<Option<Uuid>, _>(1).map_err(failed)?.map(RunId));
    }
    Ok(runs)
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
