//! What `deploy/README.md` tells to type does what it says, now and after the next upgrade.

use std::sync::Arc;

use outbox::Message;
use outbox::migrations::POSTGRES as OUTBOX;
use outbox_relay::PostgresSource;
use outbox_relay::doctor::Severity;
use saga_core::store::PostgresStore;
use saga_core::{Cx, Definition, Ended, StepError, Worker, step};
use sqlx::{AssertSqlSafe, Connection, PgConnection, raw_sql};
use tests::servers::Postgres;

const README: &str = include_str!("../deploy/README.md");

/// The statements of its chapters, in their order.
fn statements() -> impl Iterator<Item = &'static str> {
    README.split("```sql\n").skip(1).map(|block| block.split("```").next().unwrap())
}

/// The tables as their first version made them, recorded as done.
fn first_version() -> String {
    let saga = PostgresStore::migrations().next().unwrap();
    let outbox = OUTBOX[0].sql;
    format!(
        "CREATE SCHEMA saga;
         CREATE TABLE saga.migration (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now());
         {saga};
         INSERT INTO saga.migration VALUES (1);
         CREATE SCHEMA outbox;
         CREATE TABLE outbox.migration (number integer PRIMARY KEY, name text NOT NULL,
             applied_at timestamptz NOT NULL DEFAULT now());
         {outbox};
         INSERT INTO outbox.migration VALUES (1, 'event')"
    )
}

async fn run(connection: &mut PgConnection, sql: impl Into<String>) {
    raw_sql(AssertSqlSafe(sql.into())).execute(connection).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_of_the_services_keeps_its_rights_when_the_tables_are_brought_up_to_date() {
    let server = Postgres::start().await;
    let mut superuser = PgConnection::connect(&server.url()).await.unwrap();
    let roles =
        "CREATE ROLE owner LOGIN; CREATE ROLE orders LOGIN; GRANT CREATE ON DATABASE postgres TO owner";
    run(&mut superuser, roles).await;
    let [owner, orders] =
        ["owner", "orders"].map(|role| server.url().replacen("postgres@", &format!("{role}@"), 1));
    let mut migrating = PgConnection::connect(&owner).await.unwrap();
    run(&mut migrating, first_version()).await;
    for statement in statements() {
        run(&mut migrating, statement).await;
    }

    PostgresStore::migrate(&owner).await.unwrap();
    outbox::migrate(&mut migrating).await.unwrap();

    let (mut b, order) = Definition::build::<(), u32>("place-order", 1);
    let placed = step("place", async |_: Cx<()>, order: u32| Ok::<_, StepError>(order + 1));
    let placed = b.add(placed.no_compensation("it only counts"), order);
    let definition = b.finish(placed).unwrap();
    let store = Arc::new(PostgresStore::connect(&orders).await.unwrap());
    let worker = Worker::new(store, ()).register(&definition).unwrap().start().await.unwrap();
    let saga = worker.client().start(&definition, "order-1", &1);
    let saga = saga.key("customer-17").attribute("customer", "17").await.unwrap();
    assert_eq!(saga.wait().await.unwrap(), Ended::Completed(2));
    worker.drain().await;

    let mut service = PgConnection::connect(&orders).await.unwrap();
    outbox::enqueue(&mut service, Message::new("order", 1, "OrderPlaced")).await.unwrap();
    let findings = PostgresSource::connect(&orders).await.unwrap().examine().await;
    let problems: Vec<_> = findings.iter().filter(|found| found.severity == Severity::Problem).collect();
    assert!(problems.is_empty(), "{problems:?}");
}
