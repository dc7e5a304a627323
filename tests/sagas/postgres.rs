//! What only the store in Postgres promises.

use std::sync::Arc;

use futures::future::join_all;
use saga_core::admin::{Admin, Wanted};
use saga_core::journal::EndKind;
use saga_core::store::{Error, PostgresStore, State, connect};
use sqlx::{Connection, PgConnection, raw_sql};
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

/// A hundred thousand sagas that have ended, one of them in a rare way. Each hundredth takes a hundredth of a second to
/// read: all of them take longer than the 8 s that a statement has.
const LONG_HISTORY: &str = "
    INSERT INTO saga.start (run, definition, version, fingerprint, saga, digest, ended, ended_at)
        SELECT lpad(to_hex(n), 32, '0')::uuid, 'place-order', 1, gen_random_uuid(), n::text,
            decode(repeat('00', 32), 'hex'),
            CASE n WHEN 70000 THEN 'partially_compensated' ELSE 'completed' END, now()
        FROM generate_series(1, 100000) n;
    ANALYZE saga.start;
    ALTER TABLE saga.start RENAME TO history;
    CREATE FUNCTION saga.slowly(saga text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$
        BEGIN IF saga LIKE '%00' THEN PERFORM pg_sleep(0.01); END IF; RETURN true; END $$;
    CREATE VIEW saga.start AS SELECT * FROM saga.history WHERE saga.slowly(saga) IS NOT UNKNOWN";

#[tokio::test(flavor = "multi_thread")]
async fn a_long_history_is_counted_and_searched_a_piece_after_the_other() {
    let database = postgres::fresh_database().await;
    PostgresStore::migrate(database.url()).await.unwrap();
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    raw_sql(LONG_HISTORY).execute(&mut connection).await.unwrap();
    let admin = Admin::new(Arc::new(PostgresStore::connect(database.url()).await.unwrap()));

    let counts = admin.counts().await.unwrap();
    let counts: Vec<_> = counts.iter().map(|count| (count.state.as_str(), count.runs)).collect();
    assert_eq!(counts, [("completed", 99_999), ("partially_compensated", 1)]);

    let state = Some(State::Ended(EndKind::PartiallyCompensated));
    let mut wanted = Wanted { state, limit: 2, ..Wanted::default() };
    let found = loop {
        let page = admin.list(&wanted).await.unwrap();
        if let Some(found) = page.runs.into_iter().next() {
            break found;
        }
        wanted.before = Some(page.next.expect("there is more to look at"));
    };
    assert_eq!(found.saga, "70000");
}
