//! The two databases a consumer can apply records to.

use crate::error::Result;
use sqlx::{PgConnection, PgPool, Postgres, Sqlite, SqliteConnection, SqlitePool, Transaction};
use std::ops::DerefMut;

/// A pool of connections to a database with an inbox: [`PgPool`] or [`SqlitePool`].
pub trait Database: Clone + Send + Sync + std::fmt::Debug + 'static {
    /// What handlers are lent.
    type Connection: outbox::Connection + Send + 'static;
    /// A transaction; dropping it rolls back.
    type Transaction: DerefMut<Target = Self::Connection> + Send;
    /// A connection outside a transaction.
    type Pooled: DerefMut<Target = Self::Connection> + Send;

    /// A connection.
    fn connection(&self) -> impl Future<Output = Result<Self::Pooled>> + Send;

    /// A transaction. Run it to its end: it must not be cancelled while it begins.
    fn begin(&self) -> impl Future<Output = Result<Self::Transaction>> + Send;

    /// Commits.
    fn commit(tx: Self::Transaction) -> impl Future<Output = Result<()>> + Send;
}

impl Database for PgPool {
    type Connection = PgConnection;
    type Transaction = Transaction<'static, Postgres>;
    type Pooled = sqlx::pool::PoolConnection<Postgres>;

    async fn connection(&self) -> Result<Self::Pooled> {
        Ok(self.acquire().await?)
    }

    async fn begin(&self) -> Result<Self::Transaction> {
        Ok(self.begin().await?)
    }

    async fn commit(tx: Self::Transaction) -> Result<()> {
        Ok(tx.commit().await?)
    }
}

impl Database for SqlitePool {
    type Connection = SqliteConnection;
    type Transaction = Transaction<'static, Sqlite>;
    type Pooled = sqlx::pool::PoolConnection<Sqlite>;

    async fn connection(&self) -> Result<Self::Pooled> {
        Ok(self.acquire().await?)
    }

    /// With the write lock from the beginning: one that reads first cannot always get it later.
    async fn begin(&self) -> Result<Self::Transaction> {
        Ok(self.begin_with("BEGIN IMMEDIATE").await?)
    }

    async fn commit(tx: Self::Transaction) -> Result<()> {
        Ok(tx.commit().await?)
    }
}
