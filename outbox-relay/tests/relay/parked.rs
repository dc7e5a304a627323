//! What the broker refuses waits with its key, until an operator decides, and what he decided holds.

use crate::shop::{Shop, TOPIC, eventually, quick};
use outbox::Message;
use outbox::sqlx;
use outbox_relay::RelaySettings;
use outbox_relay::sink::Failure;
use outbox_relay::sink::memory::Fault;
use outbox_relay::source::{Decision, Source as _};

fn rejected() -> Fault {
    Fault::Fails(Failure::Rejected("too large".into()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poison_event_parks_its_key_durably_and_no_other() {
    let shop = Shop::open().await;
    shop.broker.fail([rejected()]);
    let poison = shop.place("a").await;
    let (behind, other) = (shop.place("a").await, shop.place("b").await);
    let relay = shop.relay(quick()).await;
    shop.until_rows("outbox_parked", 2).await;
    shop.until_rows("outbox_event", 2).await;
    relay.kill().await;

    let relay = shop.relay(quick()).await;
    let later = shop.place("a").await;
    shop.until_rows("outbox_parked", 3).await;
    assert_eq!(shop.broker.ids(TOPIC), [other]);

    sqlx::query("UPDATE outbox_parked SET released = 1 WHERE id = ?1")
        .bind(poison.to_string())
        .execute(&shop.db)
        .await
        .expect("releases");
    shop.until_rows("outbox_event", 0).await;
    shop.until_rows("outbox_parked", 0).await;
    let newest = shop.place("a").await;
    shop.until_published(5).await;
    relay.stop().await;
    assert_eq!(shop.broker.ids(TOPIC), [other, poison, behind, later, newest]);
}

/// What was set aside is durable before the mark behind it is, so a relay that crashed in between reads it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operators_release_outlives_a_crash_before_the_mark() {
    let shop = Shop::open().await;
    shop.broker.fail([rejected(), Fault::Silence]);
    let poison = shop.place("a").await;
    let unanswered = shop.place("b").await;
    let relay = shop.relay(quick()).await;
    shop.until_rows("outbox_parked", 1).await;
    shop.until_published(1).await;
    relay.kill().await;
    assert_eq!(shop.rows("outbox_event").await, 2, "no mark was passed");

    assert_eq!(shop.decide(Decision::Release).await, 1);
    let relay = shop.relay(quick()).await;
    shop.until_rows("outbox_event", 0).await;
    shop.until_rows("outbox_parked", 0).await;
    relay.stop().await;
    assert_eq!(shop.broker.ids(TOPIC), [unanswered, poison]);
}

/// Also those of its key that no page had room for: else the key would be tried again for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_fails_again_waits_for_the_next_decision() {
    let shop = Shop::open().await;
    shop.broker.fail([rejected(), rejected()]);
    for _ in 0..5 {
        shop.place("a").await;
    }
    let relay = shop.relay(RelaySettings { page_events: 2, ..quick() }).await;
    shop.until_rows("outbox_parked", 5).await;
    shop.decide(Decision::Release).await;
    let source = shop.source().await;
    eventually("none is released", async || {
        source.list_parked(9).await.expect("lists").iter().all(|parked| !parked.released)
    })
    .await;
    assert_eq!(shop.rows("outbox_parked").await, 5);
    assert!(shop.broker.ids(TOPIC).is_empty());
    shop.decide(Decision::Release).await;
    shop.until_published(5).await;
    shop.until_rows("outbox_parked", 0).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_key_flows_again() {
    let shop = Shop::open().await;
    shop.broker.fail([Fault::Fails(Failure::Refused("unknown topic".into()))]);
    shop.place("a").await;
    let relay = shop.relay(quick()).await;
    shop.until_rows("outbox_parked", 1).await;
    assert_eq!(shop.decide(Decision::Drop).await, 1);
    assert_eq!(shop.decide(Decision::Drop).await, 0, "it is decided");
    eventually("the relay knows", async || relay.stats.parked_keys.get() == 0).await;
    let next = shop.place("a").await;
    shop.until_published(1).await;
    shop.until_rows("outbox_event", 0).await;
    relay.stop().await;
    assert_eq!(shop.broker.ids(TOPIC), [next]);
    assert_eq!(shop.rows("outbox_parked").await, 0, "nothing is left of what was dropped");
}

/// As a release does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operators_drop_outlives_a_crash_before_the_mark() {
    let shop = Shop::open().await;
    shop.broker.fail([rejected(), Fault::Silence]);
    shop.place("a").await;
    let unanswered = shop.place("b").await;
    let relay = shop.relay(quick()).await;
    shop.until_rows("outbox_parked", 1).await;
    shop.until_published(1).await;
    relay.kill().await;
    assert_eq!(shop.rows("outbox_event").await, 2, "no mark was passed");

    assert_eq!(shop.decide(Decision::Drop).await, 1);
    assert!(shop.source().await.list_parked(9).await.expect("lists").is_empty());
    let relay = shop.relay(quick()).await;
    let next = shop.place("a").await;
    shop.until_rows("outbox_event", 0).await;
    shop.until_rows("outbox_parked", 0).await;
    relay.stop().await;
    assert_eq!(shop.broker.ids(TOPIC), [unanswered, next]);
}

/// Decided while the next relay runs, but has not come to the row again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drop_reaches_a_relay_before_it_reads_the_row_again() {
    let shop = Shop::open().await;
    let unknown = || Fault::Fails(Failure::Unknown("timed out".into()));
    shop.broker.fail([unknown(), rejected()]);
    shop.broker.fail((0..100).map(|_| unknown()));
    let first = shop.place("b").await;
    shop.place("a").await;
    let relay = shop.relay(quick()).await;
    shop.until_rows("outbox_parked", 1).await;
    relay.kill().await;

    let relay = shop.relay(RelaySettings { window_events: 1, page_events: 1, ..quick() }).await;
    eventually("it knows the key", async || relay.stats.parked_keys.get() == 1).await;
    assert_eq!(shop.decide(Decision::Drop).await, 1);
    eventually("it knows the decision", async || relay.stats.parked_keys.get() == 0).await;
    assert_eq!(shop.rows("outbox_event").await, 2, "no mark was passed");
    shop.broker.heal();
    let next = shop.place("a").await;
    shop.until_rows("outbox_event", 0).await;
    relay.stop().await;
    assert_eq!(shop.broker.ids(TOPIC), [first, next]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_event_is_parked_with_the_reason() {
    let shop = Shop::open().await;
    sqlx::query(
        "INSERT INTO outbox_event (id, aggregatetype, aggregateid, type) VALUES ('no id', 'order', 'a', 'x')",
    )
    .execute(&shop.db)
    .await
    .expect("inserts");
    let bad_topic = Message::new("or der", "1", "x");
    outbox::enqueue(&mut *shop.db.acquire().await.expect("connects"), bad_topic).await.expect("enqueues");
    let good = shop.place("b").await;
    let relay = shop.relay(quick()).await;
    shop.until_published(1).await;
    shop.until_rows("outbox_parked", 2).await;
    relay.stop().await;
    let reasons: Vec<String> = sqlx::query_scalar("SELECT reason FROM outbox_parked ORDER BY seq")
        .fetch_all(&shop.db)
        .await
        .expect("reads");
    assert!(reasons[0].starts_with("the id is no UUID"), "{reasons:?}");
    assert!(reasons[1].contains("cannot be the name of a topic"), "{reasons:?}");
    assert_eq!(shop.broker.ids(TOPIC), [good]);
}

/// SQLite keeps what it is given, in any column.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_of_another_type_is_a_defect_of_its_row_only() {
    let shop = Shop::open().await;
    let odd = [
        ("id", "x'00'"),
        ("aggregatetype", "x'00'"),
        ("aggregateid", "CAST(x'ff' AS TEXT)"),
        ("type", "x'00'"),
        ("payload", "42"),
        ("headers", "x'7b7d'"),
        ("tracingspancontext", "x'00'"),
        ("key_seq", "'many'"),
    ];
    let rows = odd.iter().enumerate().chain([(99, &("created_at", "'yesterday'"))]);
    for (n, (column, value)) in rows {
        let id = shop.place(&n.to_string()).await;
        let spoil = format!("UPDATE outbox_event SET {column} = {value} WHERE id = ?1");
        sqlx::query(sqlx::AssertSqlSafe(spoil))
            .bind(id.to_string())
            .execute(&shop.db)
            .await
            .expect("updates");
    }
    let good = shop.place("good").await;
    let relay = shop.relay(quick()).await;
    shop.until_rows("outbox_parked", odd.len() as i64).await;
    shop.until_published(2).await;
    relay.stop().await;
    let ids = shop.broker.ids(TOPIC);
    assert!(
        ids.len() == 2 && ids[1] == good,
        "when it was written is nothing that it could not go without: {ids:?}"
    );
    let parked = shop.source().await.list_parked(99).await.expect("lists");
    for (parked, (column, _)) in parked.iter().zip(odd) {
        assert!(parked.park.reason.starts_with(&format!("the {column} cannot be read")), "{parked:?}");
    }
}

/// It is in the topic, and nobody has been told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_a_crash_interrupted_publishes_once() {
    let shop = Shop::open().await;
    shop.broker.fail([rejected()]);
    let poison = shop.place("a").await;
    let relay = shop.relay(quick()).await;
    shop.until_rows("outbox_parked", 1).await;
    let other = shop.place("b").await;
    shop.until_published(1).await;
    shop.until_rows("outbox_event", 1).await;
    shop.broker.fail([Fault::Silence]);
    assert_eq!(shop.decide(Decision::Release).await, 1);
    shop.until_published(2).await;
    relay.kill().await;

    let relay = shop.relay(quick()).await;
    shop.until_rows("outbox_parked", 0).await;
    shop.until_rows("outbox_event", 0).await;
    relay.stop().await;
    assert_eq!(shop.broker.ids(TOPIC), [other, poison]);
}
