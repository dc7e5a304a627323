//! What only the store in Postgres promises.

use futures::future::join_all;
use saga_core::store::{Error, PostgresStore, connect};
use tests::servers::{Postgres, postgres};

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_migrate_once() {
    let database = postgres::fresh_database().await;
    for migrated in join_all((0..8).map(|_| PostgresStore::migrate(database.url()))).await {
        migrated.unwrap();
    }
    PostgresStore::connect(database.url()).await.unwrap();
}

#[tokio::test]
async fn a_database_without_the_schema_is_refused_with_what_to_do() {
    let database = postgres::fresh_database().await;
    let missing = PostgresStore::connect(database.url()).await.unwrap_err();
    assert!(matches!(missing, Error::Unusable(_)), "{missing:?}");
    assert!(missing.to_string().contains("migrate"), "it says what to do: {missing}");
}

#[tokio::test]
async fn a_server_that_is_gone_is_unavailable_and_its_password_is_not_repeated() {
    let mut postgres = Postgres::start().await;
    let url = postgres.url().replace("postgres@", "postgres:s3cret@");
    postgres.kill();
    let gone = connect(&url).await.unwrap_err();
    assert!(matches!(gone, Error::Unavailable(_)), "{gone:?}");
    assert!(!format!("{gone} {gone:?}").contains("s3cret"), "{gone}");
}
