//! Forgetting what is over.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::PostgresStore;
use super::error::failed;
use crate::id::RunId;
use crate::journal::Timestamp;
use crate::store::error::Result;
use crate::store::retain::{Kept, Pruned, Retain};
use crate::store::task::to_its_end;

/// Walks the journal's primary key from one run to the next, which reads one index entry per saga. A child is
/// recognised by its id: see [`Retain::prune`].
const PRUNE: &str = "WITH RECURSIVE old (run, n) AS (
    (SELECT run, 1 FROM saga.journal WHERE run > $1 ORDER BY run LIMIT 1)
    UNION ALL
    SELECT (SELECT j.run FROM saga.journal j WHERE j.run > old.run ORDER BY j.run LIMIT 1), n + 1
    FROM old WHERE old.run IS NOT NULL AND n < $3
), over AS MATERIALIZED (
    SELECT old.run FROM old CROSS JOIN LATERAL (
        SELECT 1 FROM saga.start s WHERE s.run = old.run AND s.ended_at < $2
            AND NOT EXISTS (SELECT FROM saga.live l WHERE l.run = CASE
                WHEN s.saga ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/' THEN left(s.saga, 36)::uuid END OFFSET 0)
        LIMIT 1) ended
), journal AS (
    DELETE FROM saga.journal WHERE run = ANY (ARRAY(SELECT run FROM over))
), mail AS (
    DELETE FROM saga.mail WHERE run = ANY (ARRAY(SELECT run FROM over))
)
SELECT (SELECT count(*) FROM over), (SELECT run FROM old WHERE run IS NOT NULL ORDER BY n DESC LIMIT 1)";

const KEPT: &str = "SELECT EXISTS (SELECT FROM saga.start s WHERE s.run = i.run OFFSET 0),
        EXISTS (SELECT FROM saga.journal j WHERE j.run = i.run OFFSET 0)
    FROM unnest($1::uuid[]) WITH ORDINALITY AS i (run, place) ORDER BY i.place";

#[async_trait]
impl Retain for PostgresStore {
    async fn prune(&self, ended_before: Timestamp, after: Option<RunId>, limit: usize) -> Result<Pruned> {
        let db = self.db.clone();
        to_its_end(async move {
            let statement = sqlx::query(PRUNE)
                .bind(after.map_or(Uuid::nil(), |run| run.0))
                .bind(ended_before)
                .bind(i32::try_from(limit).unwrap_or(i32::MAX));
            let answer = db.keepers.lend().await?.rows(statement).await?;
            let Some(row) = answer.first() else { return Ok(Pruned::default()) };
            let sagas: i64 = row.try_get(0).map_err(failed)?;
            let last: Option<Uuid> = row.try_get(1).map_err(failed)?;
            Ok(Pruned { sagas: sagas.unsigned_abs(), last: last.map(RunId) })
        })
        .await
    }

    async fn kept(&self, runs: &[RunId]) -> Result<Vec<Kept>> {
        let (db, runs) = (self.db.clone(), runs.iter().map(|run| run.0).collect::<Vec<Uuid>>());
        to_its_end(async move {
            let rows = db.keepers.lend().await?.rows(sqlx::query(KEPT).bind(runs)).await?;
            let kept =
                |row: &PgRow| Ok(Kept::of(row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?));
            rows.iter().map(kept).collect()
        })
        .await
    }
}
