//! What becomes of a saga's live row.

use chrono::Utc;
use uuid::Uuid;

use super::Tx;
use super::error::failed;
use super::insert::ids;
use super::read::micros;
use crate::journal::{EndKind, Timestamp};
use crate::store::commit::{Commit, Then};
use crate::store::error::Result;

/// Applies the [`Then`] of commits that were written: at most one statement for each kind of it, whatever
/// the number of commits.
pub(super) async fn apply(tx: &mut Tx, won: &[&Commit]) -> Result<()> {
    let now = micros(Utc::now());
    let of = |then: fn(&Then) -> bool| won.iter().filter(move |c| then(&c.then)).map(|c| c.run.0);

    let waits = won.iter().filter_map(|c| match c.then {
        Then::Wait(due) => Some((c.run.0, due)),
        _ => None,
    });
    wait(tx, waits, now).await?;
    block(tx, of(|then| matches!(then, Then::Block)), now).await?;
    end(tx, EndKind::Completed, of(|then| *then == Then::End(EndKind::Completed)), now).await?;
    end(tx, EndKind::Compensated, of(|then| *then == Then::End(EndKind::Compensated)), now).await?;
    let partial = of(|then| *then == Then::End(EndKind::PartiallyCompensated));
    end(tx, EndKind::PartiallyCompensated, partial, now).await
}

async fn wait(tx: &mut Tx, waits: impl Iterator<Item = (Uuid, Timestamp)>, now: i64) -> Result<()> {
    // 32 hexadecimal digits of the run, then the time.
    let waits: Vec<String> = waits.map(|(run, due)| format!("{}{}", run.simple(), micros(due))).collect();
    if waits.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE saga_live SET owner = NULL, state = 'waiting', since = ?2,
             due = CAST(substr(w.value, 33) AS INTEGER)
         FROM json_each(?1) w WHERE run = unhex(substr(w.value, 1, 32))",
    )
    .bind(serde_json::to_string(&waits).expect("strings can be written"))
    .bind(now)
    .execute(&mut **tx)
    .await
    .map_err(failed)?;
    Ok(())
}

async fn block(tx: &mut Tx, runs: impl Iterator<Item = Uuid> + Clone, now: i64) -> Result<()> {
    if runs.clone().next().is_none() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE saga_live SET owner = NULL, state = 'blocked', since = ?2, due = NULL
         WHERE run IN (SELECT unhex(value) FROM json_each(?1))",
    )
    .bind(ids(runs))
    .bind(now)
    .execute(&mut **tx)
    .await
    .map_err(failed)?;
    Ok(())
}

async fn end(tx: &mut Tx, kind: EndKind, runs: impl Iterator<Item = Uuid> + Clone, now: i64) -> Result<()> {
    if runs.clone().next().is_none() {
        return Ok(());
    }
    let runs = ids(runs);
    for text in [
        "DELETE FROM saga_live WHERE run IN (SELECT unhex(value) FROM json_each(?1))",
        "UPDATE saga_start SET ended = ?2, ended_at = ?3
         WHERE run IN (SELECT unhex(value) FROM json_each(?1))",
        // What nobody read is answered from the end.
        "UPDATE saga_mail SET consumed = -1 WHERE consumed IS NULL
         AND run IN (SELECT unhex(value) FROM json_each(?1))",
    ] {
        let mut query = sqlx::query(text).bind(runs.clone());
        if text.contains("?2") {
            query = query.bind(kind.as_str()).bind(now);
        }
        query.execute(&mut **tx).await.map_err(failed)?;
    }
    Ok(())
}
