//! No statement of a worker reads a whole table, whatever the server believes about its size.
//!
//! Statements are planned when a connection first sends them, and again when `ANALYZE` has looked: perhaps at night,
//! when nothing was under way, and then a full scan of an empty table looks as cheap as a look into its index. So the
//! public suite runs on tables about which the server knows nothing, and on some that it believes to hold one row,
//! and every plan that the server used is read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use saga_core::store::{Backend, PostgresStore};
use saga_core::testing::conformance::{self, Database};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tests::servers::{Postgres, postgres};

/// Every statement's plan goes to the server's log.
const EXPLAINED: &[(&str, &str)] = &[
    ("shared_preload_libraries", "auto_explain"),
    ("auto_explain.log_min_duration", "0"),
    ("auto_explain.log_format", "json"),
    ("auto_explain.log_settings", "on"),
    ("autovacuum", "off"),
];

/// What grows with the number of sagas.
const TABLES: [&str; 6] = ["start", "live", "journal", "mail", "key", "attribute"];

/// Indexes of what is to be looked at, which may be read from end to end: mail that is unread, sagas that begin to
/// wait for a key, keys that nobody holds.
const LISTS: [&str; 3] = ["mail_unread", "live_unseen", "key_free"];

struct Fresh(postgres::Database);

#[async_trait]
impl Database for Fresh {
    async fn open(&self) -> Backend {
        Arc::new(PostgresStore::connect(self.0.url()).await.expect("the schema is there")).into()
    }
}

/// What the server believes about the tables of a database.
#[derive(Clone, Copy, Debug)]
enum Belief {
    /// Nothing: they were never analyzed.
    Nothing,
    /// That each has one page and one row.
    OneRow,
}

impl Belief {
    async fn instil(self, connection: &mut PgConnection) {
        let Self::OneRow = self else { return };
        let rows = "
            INSERT INTO saga.start (run, definition, version, fingerprint, saga, digest)
                VALUES (gen_random_uuid(), 'none', 1, gen_random_uuid(), 'none', '');
            INSERT INTO saga.live (run, fingerprint, state) VALUES (gen_random_uuid(), gen_random_uuid(), 'blocked');
            INSERT INTO saga.journal (run, number, body) VALUES (gen_random_uuid(), 0, '');
            INSERT INTO saga.mail (run, id, body) VALUES (gen_random_uuid(), gen_random_uuid(), '');
            INSERT INTO saga.key (key) VALUES ('none');
            INSERT INTO saga.attribute VALUES (gen_random_uuid(), 'none', 'none')";
        connection.execute(rows).await.unwrap();
        for table in TABLES {
            connection.execute(AssertSqlSafe(format!("VACUUM ANALYZE saga.{table}"))).await.unwrap();
            connection.execute(AssertSqlSafe(format!("DELETE FROM saga.{table}"))).await.unwrap();
        }
    }
}

/// Runs the public suite on the server. (Whether its promises are kept is another test's.)
async fn run_suite(server: &Postgres, belief: Belief) {
    let report = conformance::run(async || {
        let database = server.database().await;
        PostgresStore::migrate(database.url()).await.expect("an empty database can be migrated");
        let mut connection = PgConnection::connect(database.url()).await.unwrap();
        belief.instil(&mut connection).await;
        Arc::new(Fresh(database)) as Arc<dyn Database>
    });
    report.await.assert_all_hold();
}

/// The plans that a server's log tells, of connections that workers write with.
fn plans(log: &str) -> Vec<Value> {
    let mut plans = Vec::new();
    for (at, _) in log.match_indices("  plan:\n") {
        let text = &log[at + "  plan:\n".len()..];
        let plan = match serde_json::Deserializer::from_str(text).into_iter::<Value>().next() {
            Some(Ok(plan)) => plan,
            // It is being written: some statement that nobody waits for.
            Some(Err(error)) if error.is_eof() => continue,
            other => panic!("a plan is JSON: {other:?}"),
        };
        if plan["Settings"]["plan_cache_mode"] == "force_generic_plan" {
            plans.push(plan);
        }
    }
    plans
}

/// The first column of each index.
async fn first_columns(server: &Postgres) -> BTreeMap<String, String> {
    let database = server.database().await;
    PostgresStore::migrate(database.url()).await.unwrap();
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    let text = "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid, 1, true) FROM pg_index
        WHERE indrelid::regclass::text LIKE 'saga.%'";
    let rows: Vec<(String, String)> = sqlx::query_as(text).fetch_all(&mut connection).await.unwrap();
    rows.into_iter().map(|(index, column)| (index.replace("saga.", ""), column)).collect()
}

/// Every scan of a table that is no look into an index by its first column. Commits have no business with lists.
fn full_scans(node: &Value, first: &BTreeMap<String, String>, commits: bool, found: &mut BTreeSet<String>) {
    let text = |key: &str| node[key].as_str().unwrap_or_default();
    let (kind, table, index) = (text("Node Type"), text("Relation Name"), text("Index Name"));
    let bounded = first.get(index).is_some_and(|column| text("Index Cond").contains(&format!("{column} ")));
    let of_ours = first.contains_key(index) || TABLES.contains(&table);
    let exempt = !commits && LISTS.contains(&index) || first.contains_key(index) && !grows(index);
    if of_ours && kind.contains("Scan") && kind != "Bitmap Heap Scan" && !bounded && !exempt {
        found.insert(format!("{kind} of {table} {index} if {}", text("Index Cond")));
    }
    for child in node["Plans"].as_array().into_iter().flatten() {
        full_scans(child, first, commits, found);
    }
}

/// Whether an index belongs to one of the tables that grow.
fn grows(index: &str) -> bool {
    TABLES.iter().any(|table| index.starts_with(&format!("{table}_")))
}

/// The statements in a log that read whole tables, with what they read.
fn suspects(log: &str, first: &BTreeMap<String, String>) -> BTreeMap<String, BTreeSet<String>> {
    let mut suspects = BTreeMap::<String, BTreeSet<String>>::new();
    for plan in plans(log) {
        let text = plan["Query Text"].as_str().expect("a plan tells its statement");
        let mut found = BTreeSet::new();
        full_scans(&plan["Plan"], first, text.contains("INSERT INTO saga.journal"), &mut found);
        if !found.is_empty() {
            suspects.entry(text.to_owned()).or_default().extend(found);
        }
    }
    suspects
}

#[tokio::test(flavor = "multi_thread")]
async fn no_statement_of_a_worker_reads_a_whole_table_whatever_the_server_believes() {
    let server = Postgres::start_with(EXPLAINED).await;
    let first = first_columns(&server).await;
    let mut told = Vec::new();
    for belief in [Belief::Nothing, Belief::OneRow] {
        let before = server.log().len();
        run_suite(&server, belief).await;
        let log = &server.log()[before..];
        let seen = plans(log).len();
        assert!(seen > 500, "only {seen} plans were logged");
        let suspects = suspects(log, &first).into_iter();
        told.extend(suspects.map(|(text, scans)| format!("{belief:?}: {scans:#?} in {text}")));
    }
    assert!(told.is_empty(), "{}", told.join("\n\n"));
}

/// The twin: statements as they would be written without a thought of it, in a session as a worker's.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_lets_the_server_read_a_whole_table_is_found() {
    let server = Postgres::start_with(EXPLAINED).await;
    let first = first_columns(&server).await;
    let database = server.database().await;
    PostgresStore::migrate(database.url()).await.unwrap();
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    Belief::OneRow.instil(&mut connection).await;
    let session = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off; \
        SET enable_mergejoin = off; SET enable_bitmapscan = off";
    connection.execute(session).await.unwrap();
    let good = "DELETE FROM saga.live WHERE run = ANY ($1::uuid[])";
    let bad = [
        "DELETE FROM saga.live l USING unnest($1::uuid[]) AS e (run) WHERE l.run = e.run",
        "SELECT * FROM unnest($1::uuid[]) AS i (run) JOIN saga.journal j ON j.run = i.run",
        "SELECT EXISTS (SELECT FROM saga.start s WHERE s.run = i.run) FROM unnest($1::uuid[]) AS i (run)",
    ];
    for text in bad.into_iter().chain([good]) {
        sqlx::query(text).bind(vec![uuid::Uuid::nil()]).execute(&mut connection).await.unwrap();
    }
    let found = suspects(&server.log(), &first);
    for text in bad {
        assert!(found.contains_key(text), "{text} is not among {found:#?}");
    }
    assert_eq!(found.len(), bad.len(), "{found:#?}");
}
