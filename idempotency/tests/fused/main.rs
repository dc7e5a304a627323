//! The fused guarantee, on SQLite and on a real Postgres: one suite for both.

#[path = "../server/mod.rs"]
mod server;

mod client;
mod proxy;
mod suite;

suite::fused!(sqlite, sqlx::Sqlite, SqliteStore, {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("shop.db").display());
    (SqliteStore::connect(&url).await.unwrap(), SqliteStore::connect(&url).await.unwrap(), Arc::new(dir))
});

suite::fused!(postgres, sqlx::Postgres, PostgresStore, {
    let server = crate::server::Postgres::start();
    let one = PostgresStore::connect(server.url()).await.unwrap();
    (one, PostgresStore::connect(server.url()).await.unwrap(), Arc::new(server))
});

mod connections;
mod grpc;
mod postgres_only;
