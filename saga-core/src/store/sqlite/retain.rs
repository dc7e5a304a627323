//! Forgetting what is over.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::SqliteStore;
use super::error::failed;
use super::insert::ids;
use super::read::micros;
use crate::id::RunId;
use crate::journal::Timestamp;
use crate::store::error::Result;
use crate::store::retain::{Kept, Pruned, Retain};
use crate::store::task::to_its_end;

/// The next runs that have a journal, and whether each is over. A child is recognised by its id: see
/// [`Retain::prune`].
const LOOK: &str = "SELECT j.run, EXISTS (
        SELECT 1 FROM saga_start s WHERE s.run = j.run AND s.ended_at < ?2
            AND NOT (substr(s.saga, 37, 1) = '/' AND EXISTS (
                SELECT 1 FROM saga_live l WHERE l.run = unhex(replace(substr(s.saga, 1, 36), '-', '')))))
    FROM (SELECT DISTINCT run FROM saga_journal WHERE run > ?1 ORDER BY run LIMIT ?3) j ORDER BY j.run";

const KEPT: &str = "SELECT EXISTS (SELECT 1 FROM saga_start s WHERE s.run = unhex(i.value)),
        EXISTS (SELECT 1 FROM saga_journal j WHERE j.run = unhex(i.value))
    FROM json_each(?) i ORDER BY i.key";

#[async_trait]
impl Retain for SqliteStore {
    async fn prune(&self, ended_before: Timestamp, after: Option<RunId>, limit: usize) -> Result<Pruned> {
        let db = self.db.clone();
        to_its_end(async move {
            // What is over stays over, and its parent too, so the look needs no lock: readers never wait for the writer.
            let looked = sqlx::query(LOOK)
                .bind(after.map_or(Uuid::nil(), |run| run.0))
                .bind(micros(ended_before))
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .fetch_all(&db.readers)
                .await
                .map_err(failed)?;
            let mut over = Vec::new();
            let mut last = None;
            for row in looked {
                let run: Uuid = row.try_get(0).map_err(failed)?;
                last = Some(RunId(run));
                if row.try_get(1).map_err(failed)? {
                    over.push(run);
                }
            }
            if !over.is_empty() {
                let mut tx = db.begin().await?;
                for text in [
                    "DELETE FROM saga_journal WHERE run IN (SELECT unhex(value) FROM json_each(?))",
                    "DELETE FROM saga_mail WHERE run IN (SELECT unhex(value) FROM json_each(?))",
                ] {
                    sqlx::query(text)
                        .bind(ids(over.iter().copied()))
                        .execute(&mut *tx)
                        .await
                        .map_err(failed)?;
                }
                tx.commit().await?;
            }
            Ok(Pruned { sagas: over.len() as u64, last })
        })
        .await
    }

    async fn kept(&self, runs: &[RunId]) -> Result<Vec<Kept>> {
        let (db, runs) = (self.db.clone(), ids(runs.iter().map(|run| run.0)));
        to_its_end(async move {
            let rows = sqlx::query(KEPT).bind(runs).fetch_all(&db.readers).await.map_err(failed)?;
            let kept = |row: &SqliteRow| {
                Ok(Kept::of(row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?))
            };
            rows.iter().map(kept).collect()
        })
        .await
    }
}
