//! What an operator dropped stays dropped, and what he replays is published, whatever relays have read before.

use outbox::Message;
use outbox_relay::history::compare;
use outbox_relay::outbox::Outbox;
use outbox_relay::sink::Failure;
use outbox_relay::sink::memory::Fault;
use outbox_relay::source::postgres::Table;
use outbox_relay::source::{Decision, Source};
use outbox_relay::{MemorySink, PostgresSource, Routes};
use sqlx::{Connection, PgConnection, query_scalar, raw_sql};
use std::time::Duration;
use tests::servers::postgres::{Database, fresh_database};
use uuid::Uuid;

use super::running::Running;

const TOPIC: &str = "outbox.event.order";
const PARKED: &str = "SELECT count(*) FROM outbox.parked";
/// As in Debezium's documentation.
const DEBEZIUM: &str = "CREATE TABLE public.outboxevent (\
    id uuid NOT NULL PRIMARY KEY, aggregatetype varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL, \
    type varchar(255) NOT NULL, payload jsonb)";

/// A table, its service and its broker.
struct Shop {
    database: Database,
    connection: PgConnection,
    broker: MemorySink,
    polls: bool,
}

impl Shop {
    async fn open(polls: bool) -> Self {
        let database = fresh_database().await;
        let mut connection = PgConnection::connect(database.url()).await.unwrap();
        outbox::migrate(&mut connection).await.unwrap();
        if !polls {
            raw_sql(DEBEZIUM).execute(&mut connection).await.unwrap();
        }
        Self { database, connection, broker: MemorySink::new(), polls }
    }

    async fn source(&self) -> PostgresSource {
        let source = PostgresSource::connect(self.database.url()).await.unwrap();
        if self.polls { source.poll_only() } else { source.table(Table::named("public.outboxevent")) }
    }

    /// A relay that has begun to read: a table that is only streamed has no events of before.
    async fn relay(&self) -> Running {
        let relay = Running::start(self.source().await, &self.broker);
        relay.until(async |stats| if self.polls { stats.is_leading() } else { stats.is_streaming() }).await;
        relay
    }

    async fn place(&mut self, key: &str) -> Uuid {
        let message = Message::new("order", key, "OrderPlaced").payload("{}");
        let id = message.event_id();
        if self.polls {
            outbox::enqueue(&mut self.connection, message).await.unwrap();
            return id;
        }
        let table = Outbox::table("public.outboxevent").without("headers").without("tracingspancontext");
        let table = table.without("key_seq").json_payload().build().unwrap();
        table.enqueue(&mut self.connection, message).await.unwrap();
        id
    }

    async fn count(&mut self, sql: &'static str) -> i64 {
        query_scalar(sql).fetch_one(&mut self.connection).await.unwrap()
    }

    async fn until(&mut self, sql: &'static str, expected: i64) {
        for _ in 0..2_000 {
            if self.count(sql).await == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("waited in vain for {expected}: {sql}");
    }
}

fn rejected() -> Fault {
    Fault::Fails(Failure::Rejected("too large".into()))
}

/// What is set aside is durable before the mark behind it is, so a relay that crashed in between reads it again.
async fn outlives_a_crash(polls: bool) {
    let mut shop = Shop::open(polls).await;
    shop.broker.fail([rejected(), Fault::Silence]);
    let relay = shop.relay().await;
    // In one transaction, or the mark would pass one of them.
    raw_sql("BEGIN").execute(&mut shop.connection).await.unwrap();
    shop.place("a").await;
    let unanswered = shop.place("b").await;
    raw_sql("COMMIT").execute(&mut shop.connection).await.unwrap();
    shop.until(PARKED, 1).await;
    relay.until(async |_| shop.broker.ids(TOPIC) == [unanswered]).await;
    relay.kill().await;

    let operator = shop.source().await;
    assert_eq!(operator.decide(None, Decision::Drop).await.unwrap(), 1);
    assert_eq!(operator.decide(None, Decision::Release).await.unwrap(), 0, "it is decided");
    assert!(operator.list_parked(9).await.unwrap().is_empty());
    let relay = Running::start(shop.source().await, &shop.broker);
    let next = shop.place("a").await;
    relay.until(async |_| shop.broker.ids(TOPIC).contains(&next)).await;
    shop.until(PARKED, 0).await;
    if polls {
        shop.until("SELECT count(*) FROM outbox.event", 0).await;
    }
    relay.stop().await;
    assert_eq!(shop.broker.ids(TOPIC), [unanswered, next]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_outlives_a_crash_before_the_mark() {
    outlives_a_crash(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_outlives_a_crash_before_the_mark_of_a_slot() {
    outlives_a_crash(false).await;
}

/// As long as its row is kept, `verify` must know that it was not to be published.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_dropped_is_not_lost_and_can_be_replayed() {
    let mut shop = Shop::open(true).await;
    shop.broker.fail([rejected()]);
    let keep = Duration::from_secs(3_600);
    let relay = Running::start(shop.source().await.keep(keep), &shop.broker);
    let dropped = shop.place("a").await;
    shop.until(PARKED, 1).await;
    let operator = shop.source().await;
    assert_eq!(operator.decide(None, Decision::Drop).await.unwrap(), 1);
    relay.until(async |stats| stats.parked_keys.get() == 0).await;
    relay.kill().await;

    let relay = Running::start(shop.source().await.keep(keep), &shop.broker);
    let next = shop.place("a").await;
    relay.until(async |_| shop.broker.ids(TOPIC) == [next]).await;
    let due = |written: Vec<outbox_relay::history::Written>| {
        assert!(compare(&written, &[], false).lost.iter().all(|event| event.id == next));
        written.iter().filter(|event| event.due).count()
    };
    relay.until(async |_| due(operator.written(&Routes::default()).await.unwrap().0) == 1).await;

    assert_eq!(operator.replay(1, 1).await.unwrap(), 1);
    relay.until(async |_| shop.broker.ids(TOPIC) == [next, dropped]).await;
    relay.stop().await;
}

/// The relay remembers what it has published of what may be read again; a replay is no such reading.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_released_can_be_replayed() {
    let mut shop = Shop::open(true).await;
    shop.broker.fail([rejected()]);
    let relay = Running::start(shop.source().await.keep(Duration::from_secs(3_600)), &shop.broker);
    let released = shop.place("a").await;
    shop.until(PARKED, 1).await;
    let operator = shop.source().await;
    assert_eq!(operator.decide(None, Decision::Release).await.unwrap(), 1);
    relay.until(async |_| shop.broker.ids(TOPIC) == [released]).await;
    shop.until(PARKED, 0).await;
    assert_eq!(operator.replay(1, 1).await.unwrap(), 1);
    relay.until(async |_| shop.broker.ids(TOPIC) == [released, released]).await;
    relay.stop().await;
}
