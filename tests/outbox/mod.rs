//! Events on Postgres: written with the business change or not at all, and applied once.

mod enqueue;
mod exactly_once;
mod inbox;
mod migrations;

use outbox::sqlx::{Connection, PgConnection};
use tests::servers::postgres::{Database, fresh_database};

/// A fresh database with the outbox's tables, and a connection to it.
async fn migrated() -> (Database, PgConnection) {
    let database = fresh_database().await;
    let mut connection = connect(&database).await;
    outbox::migrate(&mut connection).await.unwrap();
    (database, connection)
}

async fn connect(database: &Database) -> PgConnection {
    PgConnection::connect(database.url()).await.unwrap()
}
