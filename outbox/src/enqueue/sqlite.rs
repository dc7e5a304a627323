//! Enqueueing on SQLite, whose single writer makes `seq` the order of commits.

use super::Outbox;
use crate::connection::sealed::Store;
use crate::error::Result;
use crate::message::{KeyOrder, Message};
use crate::migrations::{self, Migration};
use sqlx::{AssertSqlSafe, SqliteConnection};

const NEXT_IN_KEY: &str = "INSERT INTO outbox_key (aggregatetype, aggregateid, last_seq) VALUES (?1, ?2, 1) \
    ON CONFLICT (aggregatetype, aggregateid) DO UPDATE SET last_seq = last_seq + 1 RETURNING last_seq";

impl Store for SqliteConnection {
    async fn insert(&mut self, outbox: &Outbox, messages: &[Message]) -> Result<()> {
        for message in messages {
            let key_seq = match message.order {
                KeyOrder::Callers | KeyOrder::Lock => None,
                KeyOrder::Sequence => Some(next_in_key(self, message).await?),
            };
            sqlx::query(AssertSqlSafe(outbox.sql.sqlite.as_str()))
                .bind(message.id.hyphenated())
                .bind(&message.aggregate_type)
                .bind(&message.aggregate_id)
                .bind(&message.event_type)
                .bind(message.payload.as_deref())
                .bind(message.headers_json())
                .bind(message.trace.as_deref())
                .bind(key_seq)
                .execute(&mut *self)
                .await?;
        }
        Ok(())
    }

    async fn migrate(&mut self) -> Result<Vec<&'static Migration>> {
        migrations::sqlite::migrate(self).await
    }

    async fn migrated(&mut self) -> Result<i32> {
        migrations::sqlite::migrated(self).await
    }

    fn known() -> &'static [Migration] {
        migrations::SQLITE
    }
}

async fn next_in_key(connection: &mut SqliteConnection, message: &Message) -> Result<i64> {
    let number = sqlx::query_scalar(NEXT_IN_KEY)
        .bind(&message.aggregate_type)
        .bind(&message.aggregate_id)
        .fetch_one(connection)
        .await?;
    Ok(number)
}
