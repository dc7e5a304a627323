//! Taking ownership of sagas that wait for a worker.
//!
//! Polling has to be cheap, so it looks first with a connection that only reads; only where there is
//! something to take does it wait for its turn to write, and looks again.

use chrono::Utc;
use sqlx::{Row, SqliteConnection};

use super::error::failed;
use super::insert::ids;
use super::read::{mail_row, micros, sagas};
use super::workers::check;
use super::{Db, keys};
use crate::id::RunId;
use crate::priority::Priority;
use crate::store::commit::Mail;
use crate::store::error::Result;
use crate::store::unheard::Sending;
use crate::store::worker::{Claim, Claimed, Fence};

pub(super) async fn claim(db: &Db, claim: &Claim, sent: &Sending) -> Result<Claimed> {
    let mut reader = db.readers.acquire().await.map_err(failed)?;
    check(&mut reader, claim.fence).await?;
    let mail = owned_mail(&mut reader, claim.fence).await?;
    let unsettled = keys::is_unsettled(&mut reader, claim).await?;
    if !unsettled && ready(&mut reader, claim, sent).await?.is_empty() {
        return Ok(Claimed { sagas: Vec::new(), mail });
    }
    drop(reader);

    let mut tx = db.begin().await?;
    check(&mut tx, claim.fence).await?;
    // Before ownership is taken: the mail of what is taken now comes with its journal.
    let mail = owned_mail(&mut tx, claim.fence).await?;
    if unsettled {
        keys::give_turns(&mut tx, claim).await?;
    }
    let runs = ready(&mut tx, claim, sent).await?;
    sqlx::query(
        "UPDATE saga_live SET owner = ?2, claimed = ?3, due = NULL,
             state = CASE WHEN turn IS NULL THEN 'running' ELSE state END,
             since = CASE WHEN turn IS NULL AND state <> 'running' THEN ?4 ELSE since END
         WHERE run IN (SELECT unhex(value) FROM json_each(?1))",
    )
    .bind(ids(runs.iter().map(|run| run.0)))
    .bind(claim.fence.worker.0)
    .bind(sent.number)
    .bind(micros(Utc::now()))
    .execute(&mut *tx)
    .await
    .map_err(failed)?;
    let sagas = sagas(&mut tx, &runs).await?;
    tx.commit().await?;
    let mail = mail.into_iter().filter(|mail| !runs.contains(&mail.run)).collect();
    Ok(Claimed { sagas, mail })
}

/// The sagas to take, in the order in which they are taken: those of claims whose answer was lost, then
/// by due time, moved by their priority, those without one first (their worker died, or mail reached a blocked saga), and by age.
async fn ready(conn: &mut SqliteConnection, claim: &Claim, sent: &Sending) -> Result<Vec<RunId>> {
    let known = ids(claim.fingerprints.iter().map(|fingerprint| fingerprint.0));
    let limit = i64::try_from(claim.limit).unwrap_or(i64::MAX);
    let mut found = Vec::new();
    if !sent.lost.is_empty() {
        let rows = sqlx::query(
            "SELECT run, NULL, 0 FROM saga_live WHERE owner = ?1
             AND claimed IN (SELECT value FROM json_each(?2)) ORDER BY run LIMIT ?3",
        );
        let lost = serde_json::to_string(&sent.lost).expect("numbers can be written");
        let rows = rows.bind(claim.fence.worker.0).bind(lost).bind(limit);
        found.extend(rows.fetch_all(&mut *conn).await.map_err(failed)?);
    }
    for text in [
        // Their owner is drained.
        "SELECT l.run, NULL, 1 FROM saga_worker w CROSS JOIN saga_live l ON l.owner = w.id
         WHERE w.drained AND l.fingerprint IN (SELECT unhex(value) FROM json_each(?1))
             AND NOT EXISTS (SELECT 1 FROM saga_mail n
                 WHERE n.run = l.run AND n.consumed IS NULL AND n.format > ?3)
         ORDER BY l.run LIMIT ?2",
        // Nobody owns them, and they have mail.
        "SELECT DISTINCT l.run, l.due, 1 FROM saga_mail m CROSS JOIN saga_live l ON l.run = m.run
         WHERE m.consumed IS NULL AND l.owner IS NULL
             AND l.fingerprint IN (SELECT unhex(value) FROM json_each(?1))
             AND NOT EXISTS (SELECT 1 FROM saga_mail n
                 WHERE n.run = l.run AND n.consumed IS NULL AND n.format > ?3)
         ORDER BY l.due, l.run LIMIT ?2",
    ] {
        let rows = sqlx::query(text).bind(known.clone()).bind(limit).bind(claim.reads);
        found.extend(rows.fetch_all(&mut *conn).await.map_err(failed)?);
    }
    // One question per definition and priority: each ends after `limit` rows of the index, however many are due.
    let now = Utc::now().timestamp_micros();
    for fingerprint in &claim.fingerprints {
        for priority in Priority::ALL {
            let rows = sqlx::query(
                "SELECT run, due - ?5, 1 FROM saga_live l
                 WHERE owner IS NULL AND fingerprint = ?1 AND priority = ?2 AND due <= ?3
                     AND NOT EXISTS (SELECT 1 FROM saga_mail n
                         WHERE n.run = l.run AND n.consumed IS NULL AND n.format > ?6)
                 ORDER BY due, run LIMIT ?4",
            );
            let rows = rows.bind(fingerprint.0).bind(priority.level()).bind(now).bind(limit);
            let rows = rows.bind(priority.head_start().num_microseconds()).bind(claim.reads);
            found.extend(rows.fetch_all(&mut *conn).await.map_err(failed)?);
        }
    }
    let mut order = Vec::with_capacity(found.len());
    for row in found {
        let run = RunId(row.try_get(0).map_err(failed)?);
        let due: Option<i64> = row.try_get(1).map_err(failed)?;
        order.push((row.try_get::<i64, _>(2).map_err(failed)?, due, run));
    }
    order.sort_unstable();
    let mut runs: Vec<RunId> = order.into_iter().map(|(.., run)| run).collect();
    let mut seen = std::collections::HashSet::new();
    runs.retain(|run| seen.insert(*run));
    runs.truncate(claim.limit);
    Ok(runs)
}

async fn owned_mail(conn: &mut SqliteConnection, fence: Fence) -> Result<Vec<Mail>> {
    let rows = sqlx::query(
        "SELECT m.run, m.id, m.body, m.format FROM saga_mail m CROSS JOIN saga_live l ON l.run = m.run
         WHERE m.consumed IS NULL AND l.owner = ? ORDER BY m.id",
    );
    let rows = rows.bind(fence.worker.0).fetch_all(conn).await.map_err(failed)?;
    rows.iter().map(mail_row).collect()
}
