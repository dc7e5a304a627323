//! Transactional steps on a real Postgres: workers are killed and frozen inside the transaction, COMMITs are not
//! heard of, and every booking is there once or not at all, with its event.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use outbox::Message;
use saga_core::engine::{Settings, Worker};
use saga_core::id::Fingerprint;
use saga_core::store::postgres::PgTransaction;
use saga_core::store::{
    Begun, Claim, Commit, Error, Fence, LastError, NewWorker, PostgresStore, Query, Start, Store, Then,
    Transactional, connect,
};
use saga_core::testing::conformance::transactions::{self, Business};
use saga_core::{
    Client, Cx, Definition, Ended, Name, PgTx, Retry, RunId, Saga, StepError, WorkerId, transactional,
};
use sqlx::{Connection, Executor, PgConnection};
use tests::actor::{self, Actor};
use tests::proxy::Proxy;
use tests::servers::postgres;

use super::{ENDS_WITHIN, LEASE};

const ROLE: &str = "booker";
const SAGAS: usize = 40;
/// The lock that every booking shares, and that a test takes for itself to hold all of them inside their
/// transactions.
const GATE: i64 = 7;

async fn book(_: Cx<()>, mut tx: PgTx, order: String) -> Result<i64, StepError> {
    let booked = "INSERT INTO booking (saga) VALUES ($1) RETURNING id";
    let id: i64 = sqlx::query_scalar(booked).bind(&order).fetch_one(&mut *tx).await?;
    outbox::enqueue(&mut *tx, Message::new("booking", id, "Booked").json(&order)?).await?;
    sqlx::query("SELECT pg_advisory_xact_lock_shared($1)").bind(GATE).execute(&mut *tx).await?;
    if order.ends_with('7') { Err(StepError::rejected("no room")) } else { Ok(id) }
}

async fn unbook(_: Cx<()>, mut tx: PgTx, _: String, id: i64) -> Result<(), StepError> {
    sqlx::query("DELETE FROM booking WHERE id = $1").bind(id).execute(&mut *tx).await?;
    outbox::enqueue(&mut *tx, Message::new("booking", id, "Unbooked").json(&id)?).await?;
    Ok(())
}

async fn invoice(_: Cx<()>, mut tx: PgTx, (order, booking): (String, i64)) -> Result<i64, StepError> {
    let invoiced = "INSERT INTO invoice (booking) VALUES ($1) RETURNING id";
    let id = sqlx::query_scalar(invoiced).bind(booking).fetch_one(&mut *tx).await?;
    if order.ends_with('3') { Err(StepError::rejected("no credit")) } else { Ok(id) }
}

fn definition() -> Definition<(), String, i64> {
    let soon = || Retry::forever().base(Duration::from_millis(5)).most(Duration::from_millis(100));
    let (mut b, order) = Definition::build::<(), String>("book", 1);
    let booked = b.add(transactional("book", book).compensate_transactional(unbook).retry(soon()), order);
    let (b, invoiced) = b.pivot(transactional("invoice", invoice).retry(soon()), (order, booked));
    b.finish(invoiced).unwrap()
}

/// Plays a worker if this process was started for that; until it is killed.
async fn plays_booker() -> bool {
    let Some(url) = actor::role(ROLE) else { return false };
    let settings = Settings { lease: LEASE, look: Duration::from_millis(100), ..Settings::default() };
    loop {
        let Ok(backend) = connect(&url).await else { continue };
        let worker = Worker::new(backend, ()).register(&definition()).unwrap().settings(settings.clone());
        if let Ok(_running) = worker.start().await {
            std::future::pending::<()>().await;
        }
    }
}

struct Hotel {
    database: postgres::Database,
    client: Client,
    direct: PgConnection,
}

impl Hotel {
    async fn open() -> Self {
        let database = postgres::fresh_database().await;
        PostgresStore::migrate(database.url()).await.unwrap();
        let mut direct = PgConnection::connect(database.url()).await.unwrap();
        outbox::migrate(&mut direct).await.unwrap();
        direct.execute("CREATE TABLE booking (id bigserial, saga text)").await.unwrap();
        direct.execute("CREATE TABLE invoice (id bigserial, booking bigint)").await.unwrap();
        let store = Arc::new(PostgresStore::connect(database.url()).await.unwrap());
        Self { client: Client::new(store), database, direct }
    }

    fn worker(&self) -> Actor {
        Actor::start(ROLE, self.database.url())
    }

    async fn start(&self) -> Vec<(String, Saga<i64>)> {
        join_all((0..SAGAS).map(|n| async move {
            let order = format!("order-{n}");
            loop {
                match self.client.start(&definition(), &order, &order).await {
                    Ok(saga) => return (order, saga),
                    Err(saga_core::client::Error::NotRegistered { .. }) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    Err(error) => panic!("{order}: {error}"),
                }
            }
        }))
        .await
    }

    /// Nobody who books gets through, from here on.
    async fn close_the_gate(&mut self) {
        sqlx::query("SELECT pg_advisory_lock($1)").bind(GATE).execute(&mut self.direct).await.unwrap();
    }

    async fn open_the_gate(&mut self) {
        sqlx::query("SELECT pg_advisory_unlock($1)").bind(GATE).execute(&mut self.direct).await.unwrap();
    }

    /// Waits for all ends; fails unless rows and events fit them.
    async fn check(&mut self, started: &[(String, Saga<i64>)]) {
        let ends = join_all(started.iter().map(|(_, saga)| saga.wait()));
        let ends = tokio::time::timeout(ENDS_WITHIN, ends).await.expect("every saga ends");
        let mut completed = 0;
        for ((order, saga), end) in started.iter().zip(ends) {
            let of = |what: &'static str| sqlx::query_scalar::<_, i64>(what).bind(order.clone());
            let bookings = of("SELECT count(*) FROM booking WHERE saga = $1");
            let bookings = bookings.fetch_one(&mut self.direct).await.unwrap();
            let invoices =
                of("SELECT count(*) FROM invoice i JOIN booking b ON b.id = i.booking WHERE b.saga = $1");
            let invoices = invoices.fetch_one(&mut self.direct).await.unwrap();
            let booked = of(
                "SELECT count(*) FROM outbox.event WHERE type = 'Booked' AND convert_from(payload, 'UTF8') = to_json($1)::text",
            );
            let booked = booked.fetch_one(&mut self.direct).await.unwrap();
            let has = (bookings, invoices, booked);
            match end.unwrap() {
                Ended::Completed(_) => {
                    completed += 1;
                    assert_eq!(
                        has,
                        (1, 1, 1),
                        "bookings, invoices and events of {order}, run {}",
                        saga.run()
                    );
                }
                // Refused at the booking nothing was ever there; refused at the invoice, the booking was undone.
                Ended::Compensated(_) => {
                    let undone = i64::from(order.ends_with('3'));
                    assert_eq!(
                        has,
                        (0, 0, undone),
                        "bookings, invoices and events of {order}, run {}",
                        saga.run()
                    );
                }
                other => panic!("{order}: {other:?}"),
            }
        }
        assert!(completed > 0 && completed < SAGAS, "{completed} of {SAGAS}: nothing was refused");
        let whole: i64 =
            sqlx::query_scalar("SELECT count(*) FROM invoice").fetch_one(&mut self.direct).await.unwrap();
        assert_eq!(
            usize::try_from(whole).unwrap(),
            completed,
            "invoices beside those of sagas that completed"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_killed_inside_its_transactions() {
    if plays_booker().await {
        return;
    }
    let mut hotel = Hotel::open().await;
    hotel.close_the_gate().await;
    let victim = hotel.worker();
    let started = hotel.start().await;
    // Some booking stands before the gate, inside its transaction.
    hotel.database.until_blocked(1).await;
    victim.kill();
    let _successor = hotel.worker();
    hotel.open_the_gate().await;
    hotel.check(&started).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_freezes_inside_its_transactions_and_wakes_up_beside_its_successor() {
    if plays_booker().await {
        return;
    }
    let mut hotel = Hotel::open().await;
    hotel.close_the_gate().await;
    let zombie = hotel.worker();
    let started = hotel.start().await;
    hotel.database.until_blocked(1).await;
    zombie.freeze();
    let _successor = hotel.worker();
    hotel.open_the_gate().await;
    // The successor has taken over, and has gone on with what the zombie had begun.
    for (_, saga) in started.iter().take(3) {
        saga.wait().await.unwrap();
    }
    zombie.thaw();
    hotel.check(&started).await;
}

/// Rows that a user of the store writes.
struct Rows(postgres::Database);

impl Rows {
    async fn new() -> Self {
        let database = postgres::fresh_database().await;
        PostgresStore::migrate(database.url()).await.unwrap();
        let mut connection = PgConnection::connect(database.url()).await.unwrap();
        connection.execute("CREATE TABLE business (what text)").await.unwrap();
        Self(database)
    }
}

#[async_trait]
impl Business for Rows {
    type Store = PostgresStore;
    const ALONE: bool = false;

    async fn open(&self) -> Arc<PostgresStore> {
        Arc::new(PostgresStore::connect(self.0.url()).await.unwrap())
    }

    async fn insert(&self, tx: &mut PgTransaction, row: &str) {
        sqlx::query("INSERT INTO business VALUES ($1)")
            .bind(row.to_owned())
            .execute(&mut **tx)
            .await
            .unwrap();
    }

    async fn commit_by_hand(&self, tx: &mut PgTransaction) {
        sqlx::query("COMMIT").execute(&mut **tx).await.unwrap();
    }

    async fn rows(&self) -> Vec<String> {
        let mut connection = PgConnection::connect(self.0.url()).await.unwrap();
        sqlx::query_scalar("SELECT what FROM business").fetch_all(&mut connection).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_in_postgres_hold() {
    transactions::run(async || Rows::new().await).await.assert_all_hold();
}

async fn owned(store: &PostgresStore, lease: Duration) -> (Fence, RunId) {
    let worker = NewWorker { id: WorkerId::new(), label: "test".into(), lease };
    let fence = store.join(&worker).await.unwrap();
    let start = Start {
        run: RunId::new(),
        definition: Name::new("book").unwrap(),
        version: 1,
        fingerprint: Fingerprint::of(b"book"),
        saga: "a".into(),
        digest: [7; 32],
        body: "[]".into(),
        owned: true,
        key: None,
        priority: saga_core::Priority::Normal,
        attributes: saga_core::Attributes::default(),
    };
    store.start(Some(fence), std::slice::from_ref(&start)).await.unwrap();
    (fence, start.run)
}

fn go(run: RunId) -> Commit {
    Commit {
        run,
        number: 1,
        body: "[]".into(),
        mail: Vec::new(),
        then: Then::Go,
        key: None,
        error: LastError::Same,
        pivot: false,
    }
}

async fn opened(store: &PostgresStore, fence: Fence, run: RunId) -> PgTransaction {
    match store.begin(fence, run, 1).await.unwrap() {
        Begun::Open(tx) => tx,
        Begun::Moved => panic!("the saga has moved"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lost_answer_of_a_commit_is_decided_by_the_journal() {
    let rows = Rows::new().await;
    let proxy = Proxy::start(rows.0.port()).await;
    let store = PostgresStore::connect(&proxy.url(rows.0.url())).await.unwrap();
    let (fence, run) = owned(&store, Duration::from_secs(15)).await;

    // The COMMIT never arrives.
    let mut tx = opened(&store, fence, run).await;
    rows.insert(&mut tx, "lost").await;
    let mut lost = proxy.lose_request("COMMIT");
    let unheard = store.commit_in(tx, fence, &go(run)).await;
    assert!(matches!(unheard, Err(Error::Unknown(_))), "{unheard:?}");
    lost.sprung().await;
    // Beginning again waits for it, and finds that nothing happened.
    let mut tx = opened(&store, fence, run).await;
    assert_eq!(rows.rows().await, [] as [String; 0]);

    // It arrives and its answer does not.
    rows.insert(&mut tx, "kept").await;
    let mut lost = proxy.lose_answer("COMMIT");
    let unheard = store.commit_in(tx, fence, &go(run)).await;
    assert!(matches!(unheard, Err(Error::Unknown(_))), "{unheard:?}");
    lost.sprung().await;
    assert!(matches!(store.begin(fence, run, 1).await.unwrap(), Begun::Moved));
    assert_eq!(rows.rows().await, ["kept"]);
    assert_eq!(store.journal(run).await.unwrap().len(), 2);
}

/// A statement of the step's failed and its code went on: Postgres would answer COMMIT with ROLLBACK, and no error.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_was_aborted_is_not_taken_for_committed() {
    let rows = Rows::new().await;
    let store = rows.open().await;
    let (fence, run) = owned(&store, Duration::from_secs(15)).await;
    let mut tx = opened(&store, fence, run).await;
    rows.insert(&mut tx, "x").await;
    sqlx::query("INSERT INTO nowhere VALUES (1)").execute(&mut *tx).await.unwrap_err();
    let answer = store.commit_in(tx, fence, &go(run)).await;
    assert!(
        matches!(&answer, Err(Error::Unavailable(why)) if why.contains("went on as if it had not")),
        "{answer:?}"
    );
    assert_eq!((rows.rows().await.len(), store.journal(run).await.unwrap().len()), (0, 1));
    // A constraint that is only looked at in COMMIT.
    let mut direct = PgConnection::connect(rows.0.url()).await.unwrap();
    direct.execute("CREATE TABLE late (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)").await.unwrap();
    let mut tx = opened(&store, fence, run).await;
    tx.execute("INSERT INTO late VALUES (1), (1)").await.unwrap();
    let answer = store.commit_in(tx, fence, &go(run)).await;
    assert!(matches!(answer, Err(Error::Refused(_))), "{answer:?}");
    assert_eq!(store.journal(run).await.unwrap().len(), 1);
}

/// A process that freezes inside a transaction does not hold its saga up: the server ends what stands idle.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_stands_idle_is_ended_well_within_the_lease() {
    let rows = Rows::new().await;
    let (zombie, heir_store) = (rows.open().await, rows.open().await);
    let (fence, run) = owned(&zombie, Duration::from_millis(900)).await;
    let mut tx = opened(&zombie, fence, run).await;
    rows.insert(&mut tx, "x").await;
    let worker = NewWorker { id: WorkerId::new(), label: "heir".into(), lease: Duration::from_secs(15) };
    let heir = heir_store.join(&worker).await.unwrap();
    heir_store.fence(fence.worker).await.unwrap();
    let claim = Claim { fence: heir, fingerprints: vec![Fingerprint::of(b"book")], limit: 10, reads: 1 };
    while heir_store.claim(&claim).await.unwrap().sagas.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let answer = zombie.commit_in(tx, fence, &go(run)).await;
    assert!(answer.is_err(), "{answer:?}");
    assert_eq!((rows.rows().await.len(), zombie.journal(run).await.unwrap().len()), (0, 1));
}
