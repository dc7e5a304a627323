//! Sagas in a real Postgres: the public suite, and zombies, lost answers and dead servers.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use saga_core::id::Fingerprint;
use saga_core::journal::MailBody;
use saga_core::store::{
    Backend, Claim, Commit, CommitReply, Error, Fence, LastError, Mail, NewWorker, PostgresStore, Query,
    Renewal, Start, StartReply, Store, Then, connect,
};
use saga_core::testing::conformance::{self, Database};
use saga_core::{Attributes, MailId, Name, Priority, RunId, WorkerId};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, Row};
use tests::proxy::Proxy;
use tests::servers::{PgBouncer, Postgres, postgres};

struct Fresh(postgres::Database);

#[async_trait]
impl Database for Fresh {
    async fn open(&self) -> Backend {
        Arc::new(PostgresStore::connect(self.0.url()).await.expect("the schema is there")).into()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_keeps_every_promise_of_a_store() {
    let report = conformance::run(async || {
        let database = postgres::fresh_database().await;
        PostgresStore::migrate(database.url()).await.expect("an empty database can be migrated");
        Arc::new(Fresh(database)) as Arc<dyn Database>
    });
    report.await.assert_all_hold();
}

/// A database with the schema, and a store on it.
async fn migrated() -> (postgres::Database, PostgresStore) {
    let database = postgres::fresh_database().await;
    PostgresStore::migrate(database.url()).await.unwrap();
    let store = PostgresStore::connect(database.url()).await.unwrap();
    (database, store)
}

async fn join(store: &PostgresStore) -> Fence {
    let worker = NewWorker { id: WorkerId::new(), label: "test".into(), lease: Duration::from_secs(10) };
    store.join(&worker).await.unwrap()
}

fn start(saga: &str, owned: bool) -> Start {
    Start {
        run: RunId::new(),
        definition: Name::new("place-order").unwrap(),
        version: 1,
        fingerprint: Fingerprint::of(b"place-order"),
        saga: saga.into(),
        digest: [7; 32],
        body: "[]".into(),
        owned,
        key: None,
        priority: Priority::Normal,
        attributes: Attributes::default(),
    }
}

async fn owned(store: &PostgresStore, fence: Fence, saga: &str) -> RunId {
    let start = start(saga, true);
    assert_eq!(store.start(Some(fence), std::slice::from_ref(&start)).await.unwrap(), [StartReply::Started]);
    start.run
}

fn go(run: RunId, number: u32) -> Commit {
    Commit {
        run,
        number,
        body: "[]".into(),
        mail: Vec::new(),
        then: Then::Go,
        key: None,
        error: LastError::Same,
        pivot: false,
    }
}

fn everything(fence: Fence) -> Claim {
    Claim { fence, fingerprints: vec![Fingerprint::of(b"place-order")], limit: 100, reads: 1 }
}

const COMMITTED: [CommitReply; 1] = [CommitReply::Committed { mail: Vec::new() }];

/// Takes a commit's number and does not say whether it keeps it, so that the batch with that commit is in
/// flight: it has passed the fence and waits.
async fn hold_number(database: &postgres::Database, run: RunId, number: i32) -> PgConnection {
    let mut holder = PgConnection::connect(database.url()).await.unwrap();
    holder.execute("BEGIN").await.unwrap();
    sqlx::query("INSERT INTO saga.journal (run, number, body) VALUES ($1, $2, '[]')")
        .bind(run.0)
        .bind(number)
        .execute(&mut holder)
        .await
        .unwrap();
    holder
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_awaits_the_batch_in_flight_and_sees_it() {
    let (database, zombie) = migrated().await;
    let heir = PostgresStore::connect(database.url()).await.unwrap();
    let (fence, mine) = (join(&zombie).await, join(&heir).await);
    let (run, other) = (owned(&zombie, fence, "a").await, owned(&zombie, fence, "b").await);

    // A batch has passed the fence and is under way.
    let mut holder = hold_number(&database, run, 1).await;
    let batch = tokio::spawn({
        let zombie = zombie.clone();
        async move { zombie.commit(fence, &[go(run, 1)]).await }
    });
    database.until_blocked(1).await;
    let fencing = tokio::spawn({
        let heir = heir.clone();
        async move { heir.fence(fence.worker).await }
    });
    database.until_blocked(2).await;

    // The epoch has moved on, so nothing new passes, although the old batch still runs.
    assert_eq!(zombie.commit(fence, &[go(other, 1)]).await, Err(Error::Fenced));
    assert_eq!(zombie.start(Some(fence), &[start("c", true)]).await, Err(Error::Fenced));
    assert_eq!(zombie.claim(&everything(fence)).await, Err(Error::Fenced));
    assert_eq!(zombie.renew(fence).await, Ok(Renewal::Fenced));
    // It is not drained, so nobody may have its sagas, and whoever asks is told to fence it to its end.
    assert_eq!(heir.claim(&everything(mine)).await.unwrap().sagas, []);
    match heir.renew(mine).await.unwrap() {
        Renewal::Renewed(peers) => assert!(matches!(peers.as_slice(), [peer] if peer.gone), "{peers:?}"),
        Renewal::Fenced => panic!("the heir lives"),
    }
    assert!(!fencing.is_finished() && !batch.is_finished());

    // The batch ends; what the heir then reads holds it.
    holder.execute("ROLLBACK").await.unwrap();
    assert_eq!(batch.await.unwrap().unwrap(), COMMITTED);
    fencing.await.unwrap().unwrap();
    let mut taken = heir.claim(&everything(mine)).await.unwrap().sagas;
    taken.sort_by_key(|saga| saga.run);
    let lengths: Vec<_> = taken.iter().map(|saga| (saga.run, saga.journal.len())).collect();
    assert_eq!(lengths, [(run, 2), (other, 1)]);
    assert_eq!(heir.commit(mine, &[go(run, 2)]).await.unwrap(), COMMITTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_worker_that_wakes_up_writes_nothing() {
    let (database, heir) = migrated().await;
    let proxy = Proxy::start(database.port()).await;
    let zombie = PostgresStore::connect(&proxy.url(database.url())).await.unwrap();
    let (fence, mine) = (join(&zombie).await, join(&heir).await);
    let run = owned(&zombie, fence, "a").await;
    zombie.commit(fence, &[go(run, 1)]).await.unwrap();

    // It has decided on its next commit, and freezes before the bytes leave.
    let mut held = proxy.hold_request(run.0.as_bytes().to_vec());
    let late = tokio::spawn({
        let zombie = zombie.clone();
        async move { zombie.commit(fence, &[go(run, 2)]).await }
    });
    held.sprung().await;
    heir.fence(fence.worker).await.unwrap();
    let taken = heir.claim(&everything(mine)).await.unwrap().sagas;
    assert_eq!(taken.iter().map(|saga| (saga.run, saga.journal.len())).collect::<Vec<_>>(), [(run, 2)]);
    held.release();
    assert_eq!(late.await.unwrap(), Err(Error::Fenced));
    assert_eq!(heir.commit(mine, &[go(run, 2)]).await.unwrap(), COMMITTED);
    let writers: Vec<_> = heir.journal(run).await.unwrap().into_iter().map(|row| row.worker).collect();
    assert_eq!(writers, [Some(fence.worker), Some(fence.worker), Some(mine.worker)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_cured_by_asking_again() {
    let (database, direct) = migrated().await;
    let proxy = Proxy::start(database.port()).await;
    let store = PostgresStore::connect(&proxy.url(database.url())).await.unwrap();
    let fence = join(&store).await;
    let run = owned(&store, fence, "prepared").await;
    store.commit(fence, &[go(run, 1)]).await.unwrap();
    store.claim(&everything(fence)).await.unwrap();

    // Of a commit.
    let mut lost = proxy.lose_answer(run.0.as_bytes().to_vec());
    let unheard = store.commit(fence, &[go(run, 2)]).await;
    assert!(matches!(unheard, Err(Error::Unknown(_))), "{unheard:?}");
    lost.sprung().await;
    assert_eq!(store.commit(fence, &[go(run, 2)]).await.unwrap(), COMMITTED);
    assert_eq!(direct.journal(run).await.unwrap().len(), 3);

    // Of a start.
    let started = [start("started", true)];
    let mut lost = proxy.lose_answer(started[0].run.0.as_bytes().to_vec());
    let unheard = store.start(Some(fence), &started).await;
    assert!(matches!(unheard, Err(Error::Unknown(_))), "{unheard:?}");
    lost.sprung().await;
    assert_eq!(store.start(Some(fence), &started).await.unwrap(), [StartReply::Started]);
    assert_eq!(direct.journal(started[0].run).await.unwrap().len(), 1);

    // Of a claim: the sagas are ours, and without another answer nobody would ever drive them.
    let waiting = start("waiting", false);
    direct.start(None, std::slice::from_ref(&waiting)).await.unwrap();
    let mut lost = proxy.lose_answer(fence.worker.0.as_bytes().to_vec());
    let unheard = store.claim(&everything(fence)).await;
    assert!(matches!(unheard, Err(Error::Unknown(_))), "{unheard:?}");
    lost.sprung().await;
    let owner = direct.summary(waiting.run).await.unwrap().unwrap().owner;
    assert_eq!(owner, Some(fence.worker), "the claim was made");
    let heard: Vec<RunId> =
        store.claim(&everything(fence)).await.unwrap().sagas.iter().map(|s| s.run).collect();
    assert_eq!(heard, [waiting.run]);
    assert_eq!(store.claim(&everything(fence)).await.unwrap().sagas, [], "and only once");
}

/// A repetition that is left out because of mail waits for nobody; so the first attempt may still be on its way.
#[tokio::test(flavor = "multi_thread")]
async fn a_word_that_was_on_its_way_is_not_taken_for_the_one_that_followed_it() {
    let (database, store) = migrated().await;
    let fence = join(&store).await;
    let run = owned(&store, fence, "a").await;
    let pivot = Commit { body: r#"["the pivot"]"#.into(), pivot: true, ..go(run, 1) };
    let mut on_its_way = PgConnection::connect(database.url()).await.unwrap();
    on_its_way.execute("BEGIN").await.unwrap();
    sqlx::query("INSERT INTO saga.journal (run, number, worker, body) VALUES ($1, 1, $2, $3)")
        .bind(run.0)
        .bind(fence.worker.0)
        .bind(&*pivot.body)
        .execute(&mut on_its_way)
        .await
        .unwrap();
    let cancel = Mail::new(MailId::new(), run, &MailBody::Cancel { reason: "changed my mind".into() });
    store.post(std::slice::from_ref(&cancel)).await.unwrap();
    let told = store.commit(fence, std::slice::from_ref(&pivot)).await.unwrap();
    assert_eq!(told, [CommitReply::Unread { mail: vec![cancel.clone()] }]);
    on_its_way.execute("COMMIT").await.unwrap();
    let next = Commit { body: r#"["cancelled"]"#.into(), mail: vec![cancel.id], ..go(run, 1) };
    assert_eq!(store.commit(fence, &[next]).await.unwrap(), [CommitReply::Refused]);
    let journal = store.journal(run).await.unwrap();
    assert_eq!(journal.last().map(|row| &*row.body), Some(&*pivot.body));
    assert_eq!(store.load(run).await.unwrap().unwrap().mail, [cancel], "it was not read");
    // Sent again as it was, it is what is there.
    assert!(matches!(&store.commit(fence, &[pivot]).await.unwrap()[..], [CommitReply::Committed { .. }]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_sees_the_winner_that_committed_after_it_began() {
    let (database, store) = migrated().await;
    let (early, late) = (start("a", false), start("a", false));
    let mut winner = PgConnection::connect(database.url()).await.unwrap();
    for text in ["BEGIN", "SET LOCAL search_path = saga"] {
        winner.execute(text).await.unwrap();
    }
    sqlx::query("INSERT INTO start (run, definition, version, fingerprint, saga, digest) VALUES ($1, 'place-order', 1, $1, 'a', $2)")
        .bind(early.run.0)
        .bind(&early.digest[..])
        .execute(&mut winner)
        .await
        .unwrap();
    let starting = tokio::spawn({
        let store = store.clone();
        async move { store.start(None, &[late]).await }
    });
    database.until_blocked(1).await;
    winner.execute("COMMIT").await.unwrap();
    let told = StartReply::Exists { run: early.run, digest: early.digest, end: None };
    assert_eq!(starting.await.unwrap().unwrap(), [told]);

    // And where that one takes it back, the later one has it.
    let (early, late) = (start("b", false), start("b", false));
    winner.execute("BEGIN").await.unwrap();
    sqlx::query("INSERT INTO saga.start (run, definition, version, fingerprint, saga, digest) VALUES ($1, 'place-order', 1, $1, 'b', $2)")
        .bind(early.run.0)
        .bind(&early.digest[..])
        .execute(&mut winner)
        .await
        .unwrap();
    let starting = tokio::spawn({
        let (store, late) = (store.clone(), late.clone());
        async move { store.start(None, &[late]).await }
    });
    database.until_blocked(1).await;
    winner.execute("ROLLBACK").await.unwrap();
    assert_eq!(starting.await.unwrap().unwrap(), [StartReply::Started]);
    assert_eq!(store.summary(late.run).await.unwrap().unwrap().saga, "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_hangs_holds_up_its_own_saga_only() {
    let (database, store) = migrated().await;
    let fence = join(&store).await;
    let starts = [start("held", false), start("free", false)];
    store.start(None, &starts).await.unwrap();
    let mut holder = PgConnection::connect(database.url()).await.unwrap();
    holder.execute("BEGIN").await.unwrap();
    let lock = sqlx::query("SELECT FROM saga.live WHERE run = $1 FOR UPDATE").bind(starts[0].run.0);
    lock.execute(&mut holder).await.unwrap();
    let claimed =
        |claimed: saga_core::store::Claimed| claimed.sagas.iter().map(|s| s.run).collect::<Vec<_>>();
    assert_eq!(claimed(store.claim(&everything(fence)).await.unwrap()), [starts[1].run]);
    holder.execute("COMMIT").await.unwrap();
    assert_eq!(claimed(store.claim(&everything(fence)).await.unwrap()), [starts[0].run]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_outlives_its_server() {
    let mut server = Postgres::start().await;
    PostgresStore::migrate(&server.url()).await.unwrap();
    let store = PostgresStore::connect(&server.url()).await.unwrap();
    let fence = join(&store).await;
    let run = owned(&store, fence, "a").await;
    store.commit(fence, &[go(run, 1)]).await.unwrap();
    server.kill();
    let dead = store.commit(fence, &[go(run, 2)]).await;
    assert!(dead.as_ref().is_err_and(Error::is_transient), "{dead:?}");
    server.restart().await;
    let replies = loop {
        match store.commit(fence, &[go(run, 2)]).await {
            Ok(replies) => break replies,
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
    };
    assert_eq!(replies, COMMITTED);
    assert_eq!(store.journal(run).await.unwrap().len(), 3);
    let renewal = loop {
        match store.renew(fence).await {
            Ok(renewal) => break renewal,
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
    };
    assert_eq!(renewal, Renewal::Renewed(vec![]), "the lease runs on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_does_not_fit_is_named_with_what_to_do() {
    let database = postgres::fresh_database().await;
    let url = database.url();
    let missing = connect(url).await.unwrap_err();
    assert!(
        matches!(&missing, Error::Unusable(why) if why.contains("does not exist") && why.contains("saga migrate"))
    );
    // Any number of processes may migrate at once.
    let migrations = (0..4).map(|_| PostgresStore::migrate(url));
    for migrated in futures::future::join_all(migrations).await {
        migrated.unwrap();
    }
    connect(url).await.unwrap();
    let pool = database.pool(1).await;
    sqlx::query("INSERT INTO saga.migration (version) VALUES (999)").execute(&pool).await.unwrap();
    for refused in [connect(url).await.map(drop), PostgresStore::migrate(url).await] {
        assert!(matches!(&refused, Err(Error::Unusable(why)) if why.contains("999")), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_named_without_its_password() {
    let port = tests::servers::free_port();
    let error = connect(&format!("postgres://ann:s3cret@127.0.0.1:{port}/shop")).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Unavailable(_)), "{text}");
    assert!(
        text.contains(&format!("postgres://ann:***@127.0.0.1:{port}/shop")) && !text.contains("s3cret"),
        "{text}"
    );
}

/// What others rely on in the sessions of the server that a pooler lends.
async fn left_behind(pooler: &str) -> (String, i64) {
    let options: PgConnectOptions = pooler.parse().unwrap();
    let mut business = options.extra_float_digits(None).connect().await.unwrap();
    let text = "SELECT current_setting('enable_seqscan') || current_setting('statement_timeout'), \
                    (SELECT count(*) FROM pg_prepared_statements)";
    let row = sqlx::raw_sql(text).fetch_one(&mut business).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_shares_sessions_is_refused_and_one_that_keeps_them_apart_is_not() {
    if !PgBouncer::can_be_tried() {
        return;
    }
    let (database, _) = migrated().await;
    for settings in [&[][..], &[("server_round_robin", "1")]] {
        let pooler = PgBouncer::start(&database, 2, settings).await;
        let url = pooler.url(&database);
        // Both its sessions are there, to be lent in turn.
        let mut holder =
            PgConnectOptions::from_str(&url).unwrap().extra_float_digits(None).connect().await.unwrap();
        holder.execute("BEGIN").await.unwrap();
        let before = left_behind(&url).await;
        holder.execute("COMMIT").await.unwrap();
        let refused = connect(&url).await.unwrap_err();
        assert!(
            matches!(&refused, Error::Unusable(why) if why.contains("pool_mode = session")),
            "{settings:?}: {refused}"
        );
        for _ in 0..2 {
            assert_eq!(left_behind(&url).await, before, "nothing is left in the business's sessions");
        }
    }
    let pooler = PgBouncer::start(&database, 30, &[("pool_mode", "session")]).await;
    let store = PostgresStore::connect(&pooler.url(&database)).await.unwrap();
    let fence = join(&store).await;
    let run = owned(&store, fence, "a").await;
    assert_eq!(store.commit(fence, &[go(run, 1)]).await.unwrap(), COMMITTED);
}
