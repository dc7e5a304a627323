//! Streaming is an optimisation: whatever is done to it, the table has what it misses.

use outbox::Message;
use outbox_relay::sink::Failure;
use outbox_relay::sink::memory::Fault;
use outbox_relay::tokio_util::sync::CancellationToken;
use outbox_relay::{MemorySink, PostgresSource};
use sqlx::{Connection, PgConnection, query, query_scalar, raw_sql};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tests::proxy::Proxy;
use tests::servers::Postgres;
use tests::servers::postgres::{Database, fresh_database};
use uuid::Uuid;

use super::running::Running;

const TOPIC: &str = "outbox.event.order";
const PUBLICATION: &str = "outbox_relay_outbox_event";

async fn migrated() -> (Database, PgConnection) {
    let database = fresh_database().await;
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    outbox::migrate(&mut connection).await.unwrap();
    (database, connection)
}

async fn place(connection: &mut PgConnection) -> Uuid {
    let message = Message::new("order", 7, "OrderPlaced").payload("{}");
    let id = message.event_id();
    outbox::enqueue(connection, message).await.unwrap();
    id
}

/// Its publication outlives a table, and publishes nothing then: no row, and no error.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_dropped_and_made_anew_is_streamed() {
    let (database, mut connection) = migrated().await;
    let broker = MemorySink::new();
    let relay = Running::start(PostgresSource::connect(database.url()).await.unwrap(), &broker);
    relay.until(async |stats| stats.is_streaming()).await;
    relay.stop().await;
    raw_sql("DROP SCHEMA outbox CASCADE").execute(&mut connection).await.unwrap();
    outbox::migrate(&mut connection).await.unwrap();

    let relay = Running::start(PostgresSource::connect(database.url()).await.unwrap(), &broker);
    relay.until(async |stats| stats.is_streaming()).await;
    let id = place(&mut connection).await;
    relay.until(async |_| broker.ids(TOPIC) == [id]).await;
    relay.stop().await;
}

/// What a changed publication leaves out must not be acknowledged by a mark that comes after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_is_changed_under_the_stream_loses_nothing() {
    let (database, mut connection) = migrated().await;
    let broker = MemorySink::new();
    let relay = Running::start(PostgresSource::connect(database.url()).await.unwrap(), &broker);
    let mut placed = Vec::new();
    for change in [
        format!("ALTER PUBLICATION {PUBLICATION} DROP TABLE outbox.event"),
        format!("ALTER PUBLICATION {PUBLICATION} SET (publish = 'update')"),
        format!("DROP PUBLICATION {PUBLICATION}"),
    ] {
        relay.until(async |stats| stats.is_streaming()).await;
        placed.push(place(&mut connection).await);
        relay.until(async |_| broker.ids(TOPIC) == placed).await;
        raw_sql(sqlx::AssertSqlSafe(change)).execute(&mut connection).await.unwrap();
        placed.push(place(&mut connection).await);
        // As a person would who notices at once.
        let mend = format!(
            "DROP PUBLICATION IF EXISTS {PUBLICATION}; \
             CREATE PUBLICATION {PUBLICATION} FOR TABLE outbox.event WITH (publish = 'insert')"
        );
        raw_sql(sqlx::AssertSqlSafe(mend)).execute(&mut connection).await.unwrap();
        placed.push(place(&mut connection).await);
        relay.until(async |_| broker.ids(TOPIC).len() == placed.len()).await;
        assert_eq!(broker.ids(TOPIC), placed);
    }
    relay.stop().await;
}

/// A firewall forgets the connection: nothing comes on it any more and nothing resets it, while the others go on and
/// the lease is renewed.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_falls_silent_is_not_waited_for() {
    const STANDBY_STATUS_UPDATE: &[u8] = b"d\0\0\0\x26r";
    let (database, mut connection) = migrated().await;
    let proxy = Proxy::start(database.port()).await;
    let broker = MemorySink::new();
    let source = PostgresSource::connect(&proxy.url(database.url())).await.unwrap();
    let relay = Running::start(source, &broker);
    relay.until(async |stats| stats.is_streaming()).await;
    proxy.strand(STANDBY_STATUS_UPDATE).sprung().await;
    let id = place(&mut connection).await;
    relay.until(async |_| broker.ids(TOPIC) == [id]).await;
    relay.until(async |stats| stats.is_streaming()).await;
    relay.stop().await;
}

/// Its name is a person's choice.
#[tokio::test(flavor = "multi_thread")]
async fn a_publication_of_any_name_is_streamed() {
    let (database, mut connection) = migrated().await;
    let create = r#"CREATE PUBLICATION "All, of O'Neill's ""Orders""" FOR TABLE outbox.event WITH (publish = 'insert')"#;
    raw_sql(create).execute(&mut connection).await.unwrap();
    let source = PostgresSource::connect(database.url()).await.unwrap();
    let broker = MemorySink::new();
    let relay = Running::start(source.publication(r#"All, of O'Neill's "Orders""#), &broker);
    relay.until(async |stats| stats.is_streaming()).await;
    let id = place(&mut connection).await;
    relay.until(async |_| broker.ids(TOPIC) == [id]).await;
    assert!(relay.stats.is_streaming());
    relay.stop().await;
}

/// While there is no room nobody reads the stream, but the server hears that its reader lives: else it would end the
/// stream, and after the pause all that waits would be read again.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_outlives_a_broker_that_takes_nothing_for_long() {
    const EVENTS: usize = 3_000;
    let postgres = Postgres::start_with(&[("wal_sender_timeout", "2s")]).await;
    let mut connection = PgConnection::connect(&postgres.url()).await.unwrap();
    outbox::migrate(&mut connection).await.unwrap();
    let broker = MemorySink::new();
    let relay = Running::start(PostgresSource::connect(&postgres.url()).await.unwrap(), &broker);
    relay.until(async |stats| stats.is_streaming()).await;
    let senders = "SELECT array_agg(pid) FROM pg_stat_replication";
    let before: Vec<i32> = query_scalar(senders).fetch_one(&mut connection).await.unwrap();

    // Some twelve seconds in all: each attempt pauses for twice as long as the one before.
    broker.fail(vec![Fault::Fails(Failure::Unknown("a broker that is away".into())); 9]);
    let mut tx = connection.begin().await.unwrap();
    for _ in 0..EVENTS {
        // More of them than the window and the sockets hold.
        let message = Message::new("order", 7, "OrderPlaced").payload(vec![b'x'; 4_096]);
        outbox::enqueue(&mut *tx, message).await.unwrap();
    }
    tx.commit().await.unwrap();
    relay.until(async |_| broker.ids(TOPIC).len() == EVENTS).await;
    let after: Vec<i32> = query_scalar(senders).fetch_one(&mut connection).await.unwrap();
    assert_eq!(after, before, "it is the same stream");
    relay.stop().await;
}

/// The same befalls the connection that reads pages.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_never_comes_is_read_by_another_connection() {
    let (database, mut connection) = migrated().await;
    let proxy = Proxy::start(database.port()).await;
    let broker = MemorySink::new();
    let source = PostgresSource::connect(&proxy.url(database.url())).await.unwrap().never_stream();
    let mut trap = proxy.strand(*b"COPY (");
    let mut placed = Vec::new();
    for _ in 0..2_000 {
        placed.push(place(&mut connection).await);
    }
    let relay = Running::start(source, &broker);
    trap.sprung().await;
    relay.until(async |_| broker.ids(TOPIC) == placed).await;
    relay.stop().await;
}

/// And whatever else it waits for: when it begins, takes over, and removes what is done.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_never_comes_is_not_waited_for() {
    let without = async |statement: &'static str| {
        let (database, mut connection) = migrated().await;
        let proxy = Proxy::start(database.port()).await;
        let broker = MemorySink::new();
        let source = PostgresSource::connect(&proxy.url(database.url())).await.unwrap().poll_only();
        let mut trap = proxy.strand(statement);
        let id = place(&mut connection).await;
        let relay = Running::start(source, &broker);
        trap.sprung().await;
        relay.until(async |_| broker.ids(TOPIC) == [id]).await;
        let rows = "SELECT count(*) FROM outbox.event";
        relay
            .until(async |_| query_scalar::<_, i64>(rows).fetch_one(&mut connection).await.unwrap() == 0)
            .await;
        relay.stop().await;
    };
    tokio::join!(without("INSERT INTO outbox.relay"), without("FOR UPDATE"), without("DELETE FROM"));
}

/// The slot goes with its connection; a relay whose connection is ended polls and streams again.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_dropped_again_and_again_loses_nothing() {
    let (database, mut connection) = migrated().await;
    let broker = MemorySink::new();
    let relay = Running::start(PostgresSource::connect(database.url()).await.unwrap(), &broker);
    let mut placed = Vec::new();
    for _ in 0..3 {
        relay.until(async |stats| stats.is_streaming()).await;
        placed.push(place(&mut connection).await);
        let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
                   WHERE database = current_database() AND active";
        query(end).execute(&mut connection).await.unwrap();
        placed.push(place(&mut connection).await);
        relay.until(async |_| broker.ids(TOPIC).len() == placed.len()).await;
        assert_eq!(broker.ids(TOPIC), placed);
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notifier_brings_a_look_forward() {
    let (database, mut connection) = migrated().await;
    let broker = MemorySink::new();
    let source = PostgresSource::connect(database.url()).await.unwrap().never_stream();
    let relay = Running::start(source, &broker);
    let notifier = outbox::Notifier::start(database.pool(1).await);
    // Which of the two comes first is chance each time; that the notification always comes second is not.
    relay
        .until(async |stats| {
            place(&mut connection).await;
            notifier.committed();
            stats.woken.get() > 0
        })
        .await;
    relay.stop().await;
}

/// The grants that the README names are enough, and with one less the doctor says which.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_with_no_right_too_many_relays() {
    let (database, mut connection) = migrated().await;
    let broker = MemorySink::new();
    let role = format!("relay_{}", Uuid::new_v4().simple());
    let grants = format!(
        "CREATE ROLE {role} LOGIN REPLICATION; \
         GRANT USAGE ON SCHEMA outbox TO {role}; \
         GRANT SELECT, DELETE ON outbox.event TO {role}; \
         GRANT SELECT, INSERT, UPDATE ON outbox.relay TO {role}; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON outbox.parked TO {role}; \
         GRANT SELECT ON outbox.migration TO {role}; \
         CREATE PUBLICATION {PUBLICATION} FOR TABLE outbox.event WITH (publish = 'insert')"
    );
    raw_sql(sqlx::AssertSqlSafe(grants)).execute(&mut connection).await.unwrap();
    let url = database.url().replacen("postgres@", &format!("{role}@"), 1);
    let source = PostgresSource::connect(&url).await.unwrap();
    let findings = source.examine().await;
    let problems: Vec<_> =
        findings.iter().filter(|f| f.severity == outbox_relay::doctor::Severity::Problem).collect();
    assert!(problems.is_empty(), "{problems:?}");

    let relay = Running::start(source, &broker);
    relay.until(async |stats| stats.is_streaming()).await;
    let id = place(&mut connection).await;
    relay.until(async |_| broker.ids(TOPIC) == [id]).await;
    let rows = "SELECT count(*) FROM outbox.event";
    relay
        .until(async |_| sqlx::query_scalar::<_, i64>(rows).fetch_one(&mut connection).await.unwrap() == 0)
        .await;
    relay.stop().await;

    let revoke = format!("REVOKE DELETE ON outbox.event FROM {role}; ALTER ROLE {role} NOREPLICATION");
    raw_sql(sqlx::AssertSqlSafe(revoke)).execute(&mut connection).await.unwrap();
    let findings = PostgresSource::connect(&url).await.unwrap().examine().await;
    let found: Vec<String> = findings.iter().map(ToString::to_string).collect();
    for expected in [
        "PROBLEM this role lacks DELETE on outbox.event\n        → GRANT DELETE ON outbox.event",
        "warning this role may not stream: events are polled\n        → ALTER ROLE … REPLICATION",
    ] {
        assert!(found.iter().any(|finding| finding.contains(expected)), "{expected:?} is not in {found:#?}");
    }
    let clean = format!("DROP OWNED BY {role}; DROP ROLE {role}");
    raw_sql(sqlx::AssertSqlSafe(clean)).execute(&mut connection).await.unwrap();
}

/// A transaction is in the log before others see it. One that committed before the slot begins is not streamed; if
/// it is not seen yet by the snapshot that polling ends with, either, nobody would ever read it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_log_and_not_seen_yet_when_the_slot_begins_is_not_lost() {
    let postgres = Postgres::start().await;
    let connect = async || PgConnection::connect(&postgres.url()).await.unwrap();
    let (mut operator, mut late, mut oldest, mut older) =
        (connect().await, connect().await, connect().await, connect().await);
    outbox::migrate(&mut operator).await.unwrap();
    let begin = async |connection: &mut PgConnection| -> String {
        raw_sql("BEGIN").execute(&mut *connection).await.unwrap();
        query_scalar("SELECT pg_current_xact_id()::text").fetch_one(connection).await.unwrap()
    };
    let waits_for = async |operator: &mut PgConnection, transaction: &str| {
        let waits = "SELECT EXISTS (SELECT FROM pg_locks JOIN pg_stat_activity USING (pid) \
                     WHERE backend_type = 'walsender' AND NOT granted AND transactionid::text = $1)";
        while !query_scalar::<_, bool>(waits).bind(transaction).fetch_one(&mut *operator).await.unwrap() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // The slot is made in two steps, each of which waits for the transactions that are open.
    let first = begin(&mut oldest).await;
    let broker = MemorySink::new();
    let relay = Running::start(PostgresSource::connect(&postgres.url()).await.unwrap(), &broker);
    waits_for(&mut operator, &first).await;
    let second = begin(&mut older).await;
    raw_sql("ROLLBACK").execute(&mut oldest).await.unwrap();
    waits_for(&mut operator, &second).await;

    // Now one commits, into the log and to the disk, and waits there for a standby that does not come.
    raw_sql("SET synchronous_commit = off").execute(&mut operator).await.unwrap();
    raw_sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").execute(&mut operator).await.unwrap();
    raw_sql("SELECT pg_reload_conf()").execute(&mut operator).await.unwrap();
    let process: i32 = query_scalar("SELECT pg_backend_pid()").fetch_one(&mut late).await.unwrap();
    let enough = CancellationToken::new();
    let committing = tokio::spawn({
        let enough = enough.clone();
        async move {
            // The server learns of its setting in its own time: until then nothing waits.
            let mut ids = Vec::new();
            while !enough.is_cancelled() {
                ids.push(place(&mut late).await);
            }
            ids
        }
    });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'SyncRep'";
    while query_scalar::<_, i64>(waits).bind(process).fetch_one(&mut operator).await.unwrap() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    raw_sql("ROLLBACK").execute(&mut older).await.unwrap();
    let begun =
        "SELECT count(*) FROM pg_replication_slots WHERE temporary AND confirmed_flush_lsn IS NOT NULL";
    while query_scalar::<_, i64>(begun).fetch_one(&mut operator).await.unwrap() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut seen = Vec::new();
    while seen.len() < 50 && !relay.stats.is_streaming() {
        seen.push(place(&mut operator).await);
        relay.until(async |_| seen.iter().all(|id| broker.ids(TOPIC).contains(id))).await;
    }

    enough.cancel();
    raw_sql("ALTER SYSTEM RESET synchronous_standby_names").execute(&mut operator).await.unwrap();
    raw_sql("SELECT pg_reload_conf()").execute(&mut operator).await.unwrap();
    let hidden = committing.await.unwrap();
    relay.until(async |_| hidden.iter().all(|id| broker.ids(TOPIC).contains(id))).await;
    relay.until(async |stats| stats.is_streaming()).await;
    relay.stop().await;
    assert_eq!(broker.ids(TOPIC).len(), seen.len() + hidden.len(), "each once");
}

/// It is streamed and published, and a mark that comes later does not stand for it: a relay that begins again reads it
/// once more, and finds it in the topic.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_streamed_before_others_saw_it_is_not_repeated_by_a_restart() {
    let postgres = Postgres::start().await;
    let connect = async || PgConnection::connect(&postgres.url()).await.unwrap();
    let (mut operator, mut late) = (connect().await, connect().await);
    outbox::migrate(&mut operator).await.unwrap();
    // Sees first and last what is committed; waits for no standby itself.
    raw_sql("SET synchronous_commit = off").execute(&mut operator).await.unwrap();
    let broker = MemorySink::new();
    let source = async || PostgresSource::connect(&postgres.url()).await.unwrap();
    let relay = Running::start(source().await, &broker);
    relay.until(async |stats| stats.is_streaming()).await;

    // One commits, into the log and to the disk, and waits there for a standby that does not come.
    raw_sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").execute(&mut operator).await.unwrap();
    raw_sql("SELECT pg_reload_conf()").execute(&mut operator).await.unwrap();
    let process: i32 = query_scalar("SELECT pg_backend_pid()").fetch_one(&mut late).await.unwrap();
    let (enough, begun) = (CancellationToken::new(), Arc::new(Mutex::new(Vec::new())));
    let committing = tokio::spawn({
        let (enough, begun) = (enough.clone(), begun.clone());
        async move {
            // The server learns of its setting in its own time: until then nothing waits.
            while !enough.is_cancelled() {
                let message = Message::new("order", 7, "OrderPlaced").payload("{}");
                begun.lock().unwrap().push(message.event_id());
                outbox::enqueue(&mut late, message).await.unwrap();
            }
        }
    });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'SyncRep'";
    while query_scalar::<_, i64>(waits).bind(process).fetch_one(&mut operator).await.unwrap() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let hidden = *begun.lock().unwrap().last().expect("it waits");
    relay.until(async |_| broker.ids(TOPIC).contains(&hidden)).await;
    let later: String =
        query_scalar("SELECT pg_current_xact_id()::text").fetch_one(&mut operator).await.unwrap();
    let passed =
        "SELECT coalesce(pg_visible_in_snapshot($1::text::xid8, base::pg_snapshot), false) FROM outbox.relay";
    // Marks come with events.
    while !query_scalar::<_, bool>(passed).bind(&later).fetch_one(&mut operator).await.unwrap() {
        let id = place(&mut operator).await;
        relay.until(async |_| broker.ids(TOPIC).contains(&id)).await;
    }
    relay.stop().await;

    enough.cancel();
    raw_sql("ALTER SYSTEM RESET synchronous_standby_names").execute(&mut operator).await.unwrap();
    raw_sql("SELECT pg_reload_conf()").execute(&mut operator).await.unwrap();
    committing.await.unwrap();
    let relay = Running::start(source().await, &broker);
    relay.until(async |stats| stats.is_streaming()).await;
    let last = place(&mut operator).await;
    relay.until(async |_| broker.ids(TOPIC).contains(&last)).await;
    relay.stop().await;
    let mut ids = broker.ids(TOPIC);
    let published = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(published, ids.len(), "each once");
}
