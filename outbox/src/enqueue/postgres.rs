//! Enqueueing on Postgres.

use super::Outbox;
use crate::connection::sealed::Store;
use crate::error::Result;
use crate::message::{KeyOrder, Message};
use crate::migrations::{self, Migration};
use sqlx::{AssertSqlSafe, PgConnection};

impl Store for PgConnection {
    async fn insert(&mut self, outbox: &Outbox, messages: &[Message]) -> Result<()> {
        if messages.len() > 1 && messages.iter().all(|message| message.order == KeyOrder::Callers) {
            return insert_many(self, outbox, messages).await;
        }
        for message in messages {
            insert_one(self, outbox, message).await?;
        }
        Ok(())
    }

    async fn migrate(&mut self) -> Result<Vec<&'static Migration>> {
        migrations::postgres::migrate(self).await
    }

    async fn migrated(&mut self) -> Result<i32> {
        migrations::postgres::migrated(self).await
    }

    fn known() -> &'static [Migration] {
        migrations::POSTGRES
    }
}

async fn insert_one(connection: &mut PgConnection, outbox: &Outbox, message: &Message) -> Result<()> {
    let sql = match message.order {
        KeyOrder::Callers => &outbox.sql.plain,
        KeyOrder::Lock => &outbox.sql.locked,
        KeyOrder::Sequence => &outbox.sql.sequenced,
    };
    sqlx::query(AssertSqlSafe(sql.as_str()))
        .bind(message.id)
        .bind(&message.aggregate_type)
        .bind(&message.aggregate_id)
        .bind(&message.event_type)
        .bind(message.payload.as_deref())
        .bind(message.headers_json())
        .bind(message.trace.as_deref())
        .execute(connection)
        .await?;
    Ok(())
}

async fn insert_many(connection: &mut PgConnection, outbox: &Outbox, messages: &[Message]) -> Result<()> {
    fn column<'a, T>(messages: &'a [Message], of: impl Fn(&'a Message) -> T) -> Vec<T> {
        messages.iter().map(of).collect()
    }
    sqlx::query(AssertSqlSafe(outbox.sql.many.as_str()))
        .bind(column(messages, |m| m.id))
        .bind(column(messages, |m| m.aggregate_type.as_str()))
        .bind(column(messages, |m| m.aggregate_id.as_str()))
        .bind(column(messages, |m| m.event_type.as_str()))
        .bind(column(messages, |m| m.payload.as_deref()))
        .bind(column(messages, Message::headers_json))
        .bind(column(messages, |m| m.trace.as_deref()))
        .execute(connection)
        .await?;
    Ok(())
}
