//! The inbox in SQLite: the first write of a transaction takes the only write lock there is.

use super::store::{InboxStore, fenced, headers_from, headers_text};
use super::{Assignment, ParkedRecord, Release};
use crate::error::Result;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use std::time::Duration;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

impl InboxStore for SqliteConnection {
    async fn assign(&mut self, group: &str, topic: &str, partition: i32, owner: &str) -> Result<Assignment> {
        let row = sqlx::query(
            "INSERT INTO inbox_partition AS p (consumer_group, topic, partition, epoch, owner) \
             VALUES (?1, ?2, ?3, 1, ?4) \
             ON CONFLICT (consumer_group, topic, partition) \
                 DO UPDATE SET epoch = p.epoch + 1, owner = excluded.owner \
             RETURNING epoch, next_offset, last_id",
        )
        .bind(group)
        .bind(topic)
        .bind(partition)
        .bind(owner)
        .fetch_one(self)
        .await?;
        Ok(Assignment {
            topic: topic.to_owned(),
            partition,
            epoch: row.try_get("epoch")?,
            next_offset: row.try_get("next_offset")?,
            last_id: row.try_get::<Option<Hyphenated>, _>("last_id")?.map(Hyphenated::into_uuid),
        })
    }

    async fn enter(&mut self, group: &str, at: &Assignment) -> Result<Option<i64>> {
        sqlx::query_scalar(
            "UPDATE inbox_partition SET epoch = epoch \
             WHERE consumer_group = ?1 AND topic = ?2 AND partition = ?3 AND epoch = ?4 \
             RETURNING next_offset",
        )
        .bind(group)
        .bind(&at.topic)
        .bind(at.partition)
        .bind(at.epoch)
        .fetch_optional(self)
        .await?
        .ok_or_else(|| fenced(at))
    }

    async fn first_time(&mut self, group: &str, ids: &[Uuid]) -> Result<Vec<Uuid>> {
        let list = serde_json::to_string(ids).expect("a list of uuids is always JSON");
        // `WHERE true`: without it SQLite reads ON CONFLICT as part of a join.
        let fresh: Vec<Hyphenated> = sqlx::query_scalar(
            "INSERT INTO inbox_seen (consumer_group, id) SELECT ?1, value FROM json_each(?2) WHERE true \
             ON CONFLICT DO NOTHING RETURNING id",
        )
        .bind(group)
        .bind(list)
        .fetch_all(self)
        .await?;
        Ok(fresh.into_iter().map(Hyphenated::into_uuid).collect())
    }

    async fn draw_sequence(&mut self, group: &str, source: &str, key: &str, number: i64) -> Result<i64> {
        // The insert takes the write lock before the number is read.
        sqlx::query(
            "INSERT INTO inbox_key (consumer_group, source, key, last_seq) VALUES (?1, ?2, ?3, 0) \
             ON CONFLICT DO NOTHING",
        )
        .bind(group)
        .bind(source)
        .bind(key)
        .execute(&mut *self)
        .await?;
        let before: i64 = sqlx::query_scalar(
            "SELECT last_seq FROM inbox_key \
             WHERE consumer_group = ?1 AND source = ?2 AND key = ?3",
        )
        .bind(group)
        .bind(source)
        .bind(key)
        .fetch_one(&mut *self)
        .await?;
        if before < number {
            sqlx::query(
                "UPDATE inbox_key SET last_seq = ?4 \
                 WHERE consumer_group = ?1 AND source = ?2 AND key = ?3",
            )
            .bind(group)
            .bind(source)
            .bind(key)
            .bind(number)
            .execute(self)
            .await?;
        }
        Ok(before)
    }

    async fn advance(
        &mut self,
        group: &str,
        at: &Assignment,
        next_offset: i64,
        last_id: Option<Uuid>,
    ) -> Result<()> {
        let moved = sqlx::query(
            "UPDATE inbox_partition SET next_offset = max(coalesce(next_offset, ?5), ?5), \
                 last_id = CASE WHEN next_offset > ?5 THEN last_id ELSE ?6 END \
             WHERE consumer_group = ?1 AND topic = ?2 AND partition = ?3 AND epoch = ?4",
        )
        .bind(group)
        .bind(&at.topic)
        .bind(at.partition)
        .bind(at.epoch)
        .bind(next_offset)
        .bind(last_id.map(Uuid::hyphenated))
        .execute(self)
        .await?;
        if moved.rows_affected() == 1 { Ok(()) } else { Err(fenced(at)) }
    }

    async fn forget(&mut self, group: &str, age: Duration, limit: u32) -> Result<u64> {
        let forgotten = sqlx::query(
            "DELETE FROM inbox_seen WHERE (consumer_group, id) IN (\
                 SELECT consumer_group, id FROM inbox_seen WHERE consumer_group = ?1 \
                     AND seen_at < CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - ?2 \
                 ORDER BY seen_at LIMIT ?3)",
        )
        .bind(group)
        .bind(i64::try_from(age.as_millis()).unwrap_or(i64::MAX))
        .bind(i64::from(limit))
        .execute(self)
        .await?;
        Ok(forgotten.rows_affected())
    }

    async fn park(&mut self, group: &str, record: &ParkedRecord) -> Result<()> {
        sqlx::query(
            "INSERT INTO inbox_parked \
                 (consumer_group, topic, partition, record_offset, key, payload, headers, reason) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING",
        )
        .bind(group)
        .bind(&record.topic)
        .bind(record.partition)
        .bind(record.offset)
        .bind(record.key.as_deref())
        .bind(record.payload.as_deref())
        .bind(headers_text(&record.headers))
        .bind(&record.reason)
        .execute(self)
        .await?;
        Ok(())
    }

    async fn parked_keys(&mut self, group: &str, at: &Assignment) -> Result<Vec<Option<Vec<u8>>>> {
        Ok(sqlx::query_scalar(
            "SELECT DISTINCT key FROM inbox_parked \
             WHERE consumer_group = ?1 AND topic = ?2 AND partition = ?3",
        )
        .bind(group)
        .bind(&at.topic)
        .bind(at.partition)
        .fetch_all(self)
        .await?)
    }

    async fn released(&mut self, group: &str, at: &Assignment) -> Result<Option<ParkedRecord>> {
        let released = sqlx::query(
            "UPDATE inbox_parked AS p SET released = 1 \
             FROM (SELECT key FROM inbox_parked \
                   WHERE consumer_group = ?1 AND topic = ?2 AND partition = ?3 AND released \
                   ORDER BY record_offset LIMIT 1) AS r \
             WHERE p.consumer_group = ?1 AND p.topic = ?2 AND p.partition = ?3 \
                 AND p.key IS r.key",
        )
        .bind(group)
        .bind(&at.topic)
        .bind(at.partition)
        .execute(&mut *self)
        .await?;
        if released.rows_affected() == 0 {
            return Ok(None);
        }
        let row = sqlx::query(
            "SELECT topic, partition, record_offset, key, payload, headers, reason \
             FROM inbox_parked \
             WHERE consumer_group = ?1 AND topic = ?2 AND partition = ?3 AND released \
             ORDER BY record_offset LIMIT 1",
        )
        .bind(group)
        .bind(&at.topic)
        .bind(at.partition)
        .fetch_optional(self)
        .await?;
        row.map(|row| record(&row)).transpose()
    }

    async fn hold(&mut self, group: &str, parked: &ParkedRecord, reason: &str) -> Result<()> {
        sqlx::query(
            "UPDATE inbox_parked SET released = 0, \
                 reason = CASE WHEN record_offset = ?5 THEN ?6 ELSE reason END \
             WHERE consumer_group = ?1 AND topic = ?2 AND partition = ?3 AND key IS ?4",
        )
        .bind(group)
        .bind(&parked.topic)
        .bind(parked.partition)
        .bind(parked.key.as_deref())
        .bind(parked.offset)
        .bind(reason)
        .execute(self)
        .await?;
        Ok(())
    }

    async fn unpark(&mut self, group: &str, parked: &ParkedRecord) -> Result<bool> {
        sqlx::query(
            "DELETE FROM inbox_parked \
             WHERE consumer_group = ?1 AND topic = ?2 AND partition = ?3 AND record_offset = ?4",
        )
        .bind(group)
        .bind(&parked.topic)
        .bind(parked.partition)
        .bind(parked.offset)
        .execute(&mut *self)
        .await?;
        Ok(sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM inbox_parked WHERE consumer_group = ?1 AND topic = ?2 \
                 AND partition = ?3 AND key IS ?4)",
        )
        .bind(group)
        .bind(&parked.topic)
        .bind(parked.partition)
        .bind(parked.key.as_deref())
        .fetch_one(self)
        .await?)
    }

    async fn parked(&mut self, group: &str, limit: u32) -> Result<Vec<ParkedRecord>> {
        let rows = sqlx::query(
            "SELECT topic, partition, record_offset, key, payload, headers, reason \
             FROM inbox_parked WHERE consumer_group = ?1 \
             ORDER BY topic, partition, record_offset LIMIT ?2",
        )
        .bind(group)
        .bind(i64::from(limit))
        .fetch_all(self)
        .await?;
        rows.iter().map(record).collect()
    }

    async fn release(
        &mut self,
        group: &str,
        topic: &str,
        key: Option<&[u8]>,
        decision: Release,
    ) -> Result<u64> {
        let sql = match decision {
            Release::Retry => {
                "UPDATE inbox_parked SET released = 1 \
                 WHERE consumer_group = ?1 AND topic = ?2 AND key IS ?3"
            }
            Release::Drop => {
                "DELETE FROM inbox_parked \
                 WHERE consumer_group = ?1 AND topic = ?2 AND key IS ?3"
            }
        };
        Ok(sqlx::query(sql).bind(group).bind(topic).bind(key).execute(self).await?.rows_affected())
    }
}

fn record(row: &SqliteRow) -> Result<ParkedRecord> {
    Ok(ParkedRecord {
        topic: row.try_get("topic")?,
        partition: row.try_get("partition")?,
        offset: row.try_get("record_offset")?,
        key: row.try_get("key")?,
        payload: row.try_get("payload")?,
        headers: headers_from(row.try_get("headers")?)?,
        reason: row.try_get("reason")?,
    })
}
