//! Behind PgBouncer, which lends the server's sessions one transaction at a time, to the service and to the
//! relay beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection, Row, query, query_scalar, raw_sql};
use tests::servers::PgBouncer;
use tests::servers::postgres::Database;

use super::sidecar::{Running, Sidecar, consume, consumer_of_debezium, place, shop};

/// The service's own connection through the pooler, by the user and to the database that are the relay's too.
async fn service(pooler: &PgBouncer, database: &Database) -> PgConnection {
    let options: PgConnectOptions = pooler.url(database).parse().unwrap();
    options.extra_float_digits(None).connect().await.unwrap()
}

/// What the business relies on in the sessions that it shares with the relay.
async fn settings(service: &mut PgConnection) -> Vec<String> {
    let sql = "SELECT concat_ws(' ', current_setting('synchronous_commit'), current_setting('enable_seqscan'), \
                   current_setting('jit'), current_setting('statement_timeout')), \
                   (SELECT count(*) FROM pg_prepared_statements)::text";
    let row = raw_sql(sql).fetch_one(service).await.unwrap();
    vec![row.get(0), row.get(1)]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_behind_pgbouncer_publishes_everything_and_leaves_nothing_in_the_sessions() {
    if !PgBouncer::can_be_tried() {
        return;
    }
    let (database, mut direct, kafka) = shop().await;
    // One session for everybody: whoever needed two at a time would wait for ever.
    let pooler = PgBouncer::start(&database, 1, &[]).await;
    let mut business = service(&pooler, &database).await;
    let before = settings(&mut business).await;
    let quiet = Arc::new(AtomicBool::new(false));
    let watching = tokio::spawn({
        let (before, quiet) = (before.clone(), quiet.clone());
        async move {
            while !quiet.load(Ordering::Relaxed) {
                assert_eq!(settings(&mut business).await, before, "the relay left something behind");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });

    let sidecar = Sidecar::new(&database, &kafka)
        .set("OUTBOX_RELAY_SOURCE__URL", &pooler.url(&database))
        .set("OUTBOX_RELAY_SOURCE__POOLED", "true")
        .set("OUTBOX_RELAY_SOURCE__KEEP", "1h");
    sidecar.does(&["migrate"]).await;
    let doctor = sidecar.does(&["doctor"]).await;
    assert!(doctor.contains("has the columns it needs") && !doctor.contains("could not look"), "{doctor}");
    // A backlog of many pages, then what comes one by one.
    query(
        "INSERT INTO outboxevent SELECT gen_random_uuid(), 'order', (n % 50)::text, 'OrderPlaced', \
             jsonb_build_object('n', n) FROM generate_series(1, 5000) AS n",
    )
    .execute(&mut direct)
    .await
    .unwrap();
    let running = Running::start(&sidecar).await;
    running.until_metric("outbox_published_total 5000").await;
    let consumer = consumer_of_debezium(&kafka);
    for n in 0..20 {
        place(&mut direct, n).await;
    }
    running.until_metric("outbox_published_total 5020").await;
    let mut seen = 0;
    while seen < 5_020 {
        consume(&consumer);
        seen += 1;
    }

    query("INSERT INTO outboxevent VALUES (gen_random_uuid(), 'no topic', 'x', 'OrderPlaced', '{}')")
        .execute(&mut direct)
        .await
        .unwrap();
    running.until_metric("outbox_parked_keys 1").await;
    while !sidecar.does(&["parked", "drop", "--all"]).await.contains("1 events dropped") {}
    running.until_metric("outbox_parked_keys 0").await;
    while !sidecar.does(&["doctor"]).await.contains("0 events wait") {}
    let verify = sidecar.does(&["verify"]).await;
    assert!(verify.contains("lost 0, reordered 0") && verify.contains("5020 records"), "{verify}");
    assert!(sidecar.does(&["replay", "--from", "1", "--to", "2"]).await.contains("2 rows"));
    running.until_metric("outbox_published_total 5022").await;
    assert!(running.terminate().await, "it drains and leaves");
    let holder = "SELECT holder IS NULL FROM outbox.relay";
    assert!(query_scalar::<_, bool>(holder).fetch_one(&mut direct).await.unwrap(), "the lease is given up");
    quiet.store(true, Ordering::Relaxed);
    watching.await.unwrap();
}

/// A pooler that nobody told the relay about: its settings would be everybody's, so it refuses to begin.
#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_was_not_told_of_is_named() {
    if !PgBouncer::can_be_tried() {
        return;
    }
    let (database, mut direct, kafka) = shop().await;
    outbox::migrate(&mut direct).await.unwrap();
    let lenient = [("ignore_startup_parameters", "extra_float_digits,options")];
    for (settings, expected) in
        [(&[][..], "unsupported startup parameter"), (&lenient[..], "there is a pooler before the database")]
    {
        let pooler = PgBouncer::start(&database, 2, settings).await;
        let mut business = service(&pooler, &database).await;
        let before = self::settings(&mut business).await;
        let sidecar = Sidecar::new(&database, &kafka).set("OUTBOX_RELAY_SOURCE__URL", &pooler.url(&database));
        for verb in ["run", "doctor"] {
            let (fine, text) = sidecar.run(&[verb]).await;
            assert!(
                !fine && text.contains(expected) && text.contains("source.pooled = true"),
                "{verb}: {text}"
            );
        }
        assert_eq!(self::settings(&mut business).await, before);
    }
}
