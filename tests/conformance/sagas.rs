//! The store of sagas in Postgres keeps the promises of [`saga_core::store::Store`].

use std::sync::Arc;

use saga_core::store::{Backend, PostgresStore};
use saga_core::testing::conformance::{self, Database};
use tests::servers::postgres;

/// A database, opened by every handle with connections of its own, as another process would.
struct Fresh(postgres::Database);

#[async_trait::async_trait]
impl Database for Fresh {
    async fn open(&self) -> Backend {
        Arc::new(PostgresStore::connect(self.0.url()).await.expect("a migrated database")).into()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_conforms() {
    let fresh = async || {
        let database = postgres::fresh_database().await;
        PostgresStore::migrate(database.url()).await.expect("migrates");
        Arc::new(Fresh(database)) as Arc<dyn Database>
    };
    conformance::run(fresh).await.assert_all_hold();
}
