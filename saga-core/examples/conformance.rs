//! Holds a store to the public suite: `conformance postgres://user@host/empty-database`.
//!
//! Every guarantee gets a database of its own, named after the one in the URL, and dropped afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use saga_core::store::{Backend, PostgresStore};
use saga_core::testing::conformance::{self, Database};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

struct Fresh {
    url: String,
}

#[async_trait]
impl Database for Fresh {
    async fn open(&self) -> Backend {
        Arc::new(PostgresStore::connect(&self.url).await.expect("the fresh database can be used")).into()
    }
}

#[tokio::main]
async fn main() {
    let Some(url) = std::env::args().nth(1) else {
        eprintln!("which database? give its URL");
        std::process::exit(2);
    };
    let (server, name) = url.rsplit_once('/').expect("a URL ends in /database");
    let mut admin = PgConnection::connect(&url).await.expect("the server answers");
    let made = AtomicU32::new(0);
    let (server, name) = (server.to_owned(), name.to_owned());
    let mut names = Vec::new();
    for number in 0..conformance::cases().len() {
        let fresh = format!("{name}_{number}");
        let drop = AssertSqlSafe(format!("DROP DATABASE IF EXISTS \"{fresh}\" WITH (FORCE)"));
        admin.execute(drop).await.expect("the user may drop databases");
        let create = AssertSqlSafe(format!("CREATE DATABASE \"{fresh}\""));
        admin.execute(create).await.expect("the user may create databases");
        names.push(fresh);
    }
    let report = conformance::run(async || {
        let url = format!("{server}/{}", names[made.fetch_add(1, Ordering::Relaxed) as usize]);
        PostgresStore::migrate(&url).await.expect("the fresh database can be migrated");
        Arc::new(Fresh { url }) as Arc<dyn Database>
    })
    .await;
    for name in &names {
        let drop = AssertSqlSafe(format!("DROP DATABASE \"{name}\" WITH (FORCE)"));
        admin.execute(drop).await.expect("the user may drop databases");
    }
    println!("{report}");
    std::process::exit(i32::from(!report.broken().is_empty()));
}
