//! Enqueueing on Postgres.
//!
//! `seq` is drawn by the column's default, which Postgres evaluates for a row that the `FROM` clause
//! has already given: so where the key's lock stands in the `FROM` clause, the number is drawn under it.

use crate::connection::sealed::Store;
use crate::error::Result;
use crate::message::{KeyOrder, Message};
use crate::migrations::{self, Migration};
use sqlx::PgConnection;

const PLAIN: &str = "INSERT INTO outbox.event \
    (id, aggregatetype, aggregateid, type, payload, headers, tracingspancontext) \
    VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7)";

const LOCKED: &str = "WITH lock AS MATERIALIZED (\
        SELECT pg_advisory_xact_lock(hashtextextended($3, hashtext($2))) AS taken) \
    INSERT INTO outbox.event (id, aggregatetype, aggregateid, type, payload, headers, tracingspancontext) \
    SELECT $1, $2, $3, $4, $5, $6::jsonb, $7 FROM lock";

const SEQUENCED: &str = "WITH next AS (\
        INSERT INTO outbox.key AS k (aggregatetype, aggregateid, last_seq) VALUES ($2, $3, 1) \
        ON CONFLICT (aggregatetype, aggregateid) DO UPDATE SET last_seq = k.last_seq + 1 \
        RETURNING last_seq) \
    INSERT INTO outbox.event \
        (id, aggregatetype, aggregateid, type, payload, headers, tracingspancontext, key_seq) \
    SELECT $1, $2, $3, $4, $5, $6::jsonb, $7, next.last_seq FROM next";

const MANY: &str = "INSERT INTO outbox.event \
        (id, aggregatetype, aggregateid, type, payload, headers, tracingspancontext) \
    SELECT id, aggregatetype, aggregateid, type, payload, headers::jsonb, trace \
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::text[]) \
        AS m (id, aggregatetype, aggregateid, type, payload, headers, trace)";

impl Store for PgConnection {
    async fn insert(&mut self, messages: &[Message]) -> Result<()> {
        if messages.len() > 1 && messages.iter().all(|message| message.order == KeyOrder::Callers) {
            return insert_many(self, messages).await;
        }
        for message in messages {
            insert_one(self, message).await?;
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

async fn insert_one(connection: &mut PgConnection, message: &Message) -> Result<()> {
    let sql = match message.order {
        KeyOrder::Callers => PLAIN,
        KeyOrder::Lock => LOCKED,
        KeyOrder::Sequence => SEQUENCED,
    };
    sqlx::query(sql)
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

async fn insert_many(connection: &mut PgConnection, messages: &[Message]) -> Result<()> {
    fn column<'a, T>(messages: &'a [Message], of: impl Fn(&'a Message) -> T) -> Vec<T> {
        messages.iter().map(of).collect()
    }
    sqlx::query(MANY)
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
