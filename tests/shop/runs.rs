//! Runs without faults and with all of them, on the embedded defaults and on real servers.

use serde_json::Value;
use tempfile::TempDir;
use tests::servers::{kafka, postgres, redis};

use super::ledgers::{applied, audit};
use super::{files, order_shop};

const ORDERS: usize = 600;
const FAULTS: [&str; 8] = ["--reject", "5%", "--undeliverable", "5%", "--lost-answers", "5%", "--kill", "4"];

#[tokio::test]
async fn without_faults_every_order_is_whole() {
    let home = tempfile::tempdir().unwrap();
    let report = order_shop(&["--first", "600"], &home).await.report();
    let audit = audit(&applied(&files(&home)).await);
    assert_eq!((audit.whole, audit.undone, audit.broken), (ORDERS, 0, vec![]));
    assert_eq!(report["completed"], ORDERS);
    assert_eq!(report["charged_cents"], audit.kept);
    assert_eq!(report["ordered_cents"], audit.kept, "to the penny");
    assert_eq!((&report["events_published"], &report["events_received"]), (&ORDERS.into(), &ORDERS.into()));
}

#[tokio::test]
async fn with_faults_every_order_is_whole_or_undone_on_the_embedded_defaults() {
    with_faults(&[]).await;
}

/// Runs with every fault, and holds the program's account against the ledgers.
async fn with_faults(servers: &[&str]) {
    let home = tempfile::tempdir().unwrap();
    // The seed is shown when the run fails; the program takes it.
    let seed = rand::random::<u32>().to_string();
    eprintln!("repeat with --seed {seed}");
    let arguments = [&["--first", "600", "--seed", &seed], &FAULTS[..], servers].concat();
    let report = order_shop(&arguments, &home).await.report();
    agrees_with_the_ledgers(&report, &home).await;
    assert_eq!(report["kills"], 4, "the faults were injected");
    assert!(report["answers_lost"].as_u64() > Some(0) && report["refunds"].as_u64() > Some(0), "{report}");
}

async fn agrees_with_the_ledgers(report: &Value, home: &TempDir) {
    let audit = audit(&applied(&files(home)).await);
    assert_eq!(audit.broken, Vec::<String>::new());
    assert_eq!(report["agrees"], true);
    assert_eq!(report["completed"], audit.whole);
    assert_eq!(report["compensated"], ORDERS - audit.whole, "every order has ended");
    let kept = report["charged_cents"].as_i64().unwrap() - report["refunded_cents"].as_i64().unwrap();
    assert_eq!(kept, audit.kept, "to the penny");
    assert_eq!(
        report["events_received"], audit.whole,
        "an event for each order that was shipped, and no other"
    );
}

#[tokio::test]
async fn with_faults_every_order_is_whole_or_undone_on_real_servers() {
    let (database, keys, kafka) =
        tokio::join!(postgres::fresh_database(), redis::fresh_keyspace(), kafka::shared());
    // Every run has a topic of its own, on a broker that creates none by itself.
    let topic = kafka::fresh_topic(&kafka, 3).await;
    let servers =
        ["--store", database.url(), "--idempotency", &keys.url, "--kafka", &kafka, "--topic", &topic];
    with_faults(&[&servers[..], &["--workers", "2"]].concat()).await;
}
