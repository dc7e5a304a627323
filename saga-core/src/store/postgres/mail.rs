//! Inserting mail. It takes no lock that an owner could wait for.

use sqlx::Row;
use uuid::Uuid;

use super::Db;
use super::error::failed;
use crate::store::commit::{Mail, Posted};
use crate::store::decode;
use crate::store::error::Result;

/// A saga that ends while this runs may leave mail that nobody reads; the next claim clears it away.
const POST: &str = "WITH input AS MATERIALIZED (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::smallint[])
        WITH ORDINALITY AS i (run, id, body, format, place)
), kept AS (
    INSERT INTO saga.mail (run, id, body, format)
    SELECT i.run, i.id, i.body, i.format FROM input i CROSS JOIN LATERAL (
        SELECT 1 FROM saga.live l WHERE l.run = i.run LIMIT 1) l
    ORDER BY i.run, i.id
    ON CONFLICT DO NOTHING
)
SELECT s.run IS NOT NULL, s.ended FROM input i LEFT JOIN LATERAL (
    SELECT s.run, s.ended FROM saga.start s WHERE s.run = i.run LIMIT 1) s ON true
ORDER BY i.place";

pub(super) async fn post(db: &Db, batch: &[Mail]) -> Result<Vec<Posted>> {
    let mut connection = db.writers.lend().await?;
    let statement = sqlx::query(POST)
        .bind(batch.iter().map(|mail| mail.run.0).collect::<Vec<Uuid>>())
        .bind(batch.iter().map(|mail| mail.id.0).collect::<Vec<Uuid>>())
        .bind(batch.iter().map(|mail| &*mail.body).collect::<Vec<&str>>())
        .bind(batch.iter().map(|mail| mail.format).collect::<Vec<i16>>());
    let answers = connection.rows(statement).await?;
    let answers =
        answers.iter().map(|row| match (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?) {
            (false, _) => Ok(Posted::NoSuchSaga),
            (true, ended) => Ok(decode::end(ended)?.map_or(Posted::Accepted, Posted::Ended)),
        });
    answers.collect()
}
