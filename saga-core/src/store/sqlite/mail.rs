//! Inserting mail.

use std::collections::HashMap;

use chrono::Utc;
use sqlx::Row;

use super::Db;
use super::error::failed;
use super::insert::{Into, ids, insert};
use super::read::micros;
use crate::id::RunId;
use crate::store::commit::{Mail, Posted};
use crate::store::decode;
use crate::store::error::Result;

const MAIL: Into =
    Into { head: "INSERT OR IGNORE INTO saga_mail (run, id, body, format, posted_at) VALUES ", columns: 5 };

pub(super) async fn post(db: &Db, batch: &[Mail]) -> Result<Vec<Posted>> {
    let mut tx = db.begin().await?;
    let rows =
        sqlx::query("SELECT run, ended FROM saga_start WHERE run IN (SELECT unhex(value) FROM json_each(?))")
            .bind(ids(batch.iter().map(|mail| mail.run.0)))
            .fetch_all(&mut *tx)
            .await
            .map_err(failed)?;
    let mut found = HashMap::with_capacity(rows.len());
    for row in rows {
        let end = decode::end(row.try_get(1).map_err(failed)?)?;
        found.insert(RunId(row.try_get(0).map_err(failed)?), end.map_or(Posted::Accepted, Posted::Ended));
    }
    let answers: Vec<Posted> =
        batch.iter().map(|mail| found.get(&mail.run).copied().unwrap_or(Posted::NoSuchSaga)).collect();
    let accepted = batch.iter().zip(&answers).filter(|(_, answer)| **answer == Posted::Accepted);
    let accepted: Vec<&Mail> = accepted.map(|(mail, _)| mail).collect();
    let now = micros(Utc::now());
    insert(&mut tx, MAIL, &accepted, |query, mail| {
        query.bind(mail.run.0).bind(mail.id.0).bind(mail.body.to_string()).bind(mail.format).bind(now)
    })
    .await?;
    tx.commit().await?;
    Ok(answers)
}
