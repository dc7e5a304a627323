//! What a declared saga promises, seen from outside.

use std::sync::Arc;

use saga_core::Ended;
use saga_core::engine::{Running, Worker};
use saga_core::store::MemoryStore;

use crate::shop::{Fault, Shop, place_order};

async fn worker(shop: &Shop) -> Running {
    Worker::new(Arc::new(MemoryStore::new()), shop.clone())
        .register(&place_order())
        .unwrap()
        .start()
        .await
        .unwrap()
}

async fn run(shop: &Shop, lines: &[&str]) -> Ended<String> {
    let worker = worker(shop).await;
    let lines: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
    let saga = worker.client().start(&place_order(), "order-1", &lines).await.unwrap();
    let end = saga.wait().await.unwrap();
    worker.drain().await;
    end
}

fn sorted(mut effects: Vec<String>) -> Vec<String> {
    effects.sort();
    effects
}

#[tokio::test]
async fn all_effects_happen_once_and_the_output_comes_back() {
    let shop = Shop::default();
    assert_eq!(run(&shop, &["a", "b"]).await, Ended::Completed("did shipment".into()));
    assert_eq!(sorted(shop.applied()), ["a", "b", "capture", "payment", "shipment"]);
    assert_eq!(shop.applied()[3..], ["capture", "shipment"], "the pivot waits for every earlier step");
}

#[tokio::test]
async fn an_empty_list_is_done_at_once() {
    let shop = Shop::default();
    assert_eq!(run(&shop, &[]).await, Ended::Completed("did shipment".into()));
    assert_eq!(shop.applied(), ["payment", "capture", "shipment"]);
}

#[tokio::test]
async fn a_rejected_item_undoes_its_siblings_and_nothing_else_starts() {
    let shop = Shop::default().fault("b", &[Fault::Reject]);
    let Ended::Compensated(cause) = run(&shop, &["a", "b", "c"]).await else { panic!("compensates") };
    assert_eq!(cause.message(), "reserve#1: b is refused");
    assert_eq!(
        sorted(shop.applied()),
        ["a", "c", "payment", "undo a", "undo c", "undo payment"],
        "each success is undone once, the refused item never"
    );
}

#[tokio::test]
async fn a_rejected_pivot_undoes_everything_before_it() {
    let shop = Shop::default().fault("capture", &[Fault::Reject]);
    assert!(matches!(run(&shop, &["a"]).await, Ended::Compensated(_)));
    assert_eq!(sorted(shop.applied()), ["a", "payment", "undo a", "undo payment"]);
}

#[tokio::test]
async fn lost_answers_are_settled_by_asking_again_under_the_same_key() {
    let shop = Shop::default()
        .fault("payment", &[Fault::LoseAnswer, Fault::LoseAnswer])
        .fault("shipment", &[Fault::LoseAnswer, Fault::NotApplied, Fault::LoseAnswer]);
    assert_eq!(run(&shop, &["a"]).await, Ended::Completed("did shipment".into()));
    assert_eq!(sorted(shop.applied()), ["a", "capture", "payment", "shipment"]);
    assert_eq!(shop.calls("payment"), 3);
}

#[tokio::test]
async fn a_panic_is_in_doubt_and_settled() {
    let shop = Shop::default().fault("payment", &[Fault::Panic]);
    assert_eq!(run(&shop, &["a"]).await, Ended::Completed("did shipment".into()));
    assert_eq!(shop.calls("payment"), 2);
}

#[tokio::test]
async fn an_outage_without_doubt_compensates_when_the_attempts_are_used_up() {
    let shop = Shop::default().fault("payment", &[Fault::NotApplied; 3]);
    let Ended::Compensated(cause) = run(&shop, &["a"]).await else { panic!("compensates") };
    assert_eq!(cause.message(), "charge: connection refused");
    assert_eq!(sorted(shop.applied()), ["a", "undo a"]);
}

#[tokio::test]
async fn doubt_outlives_the_attempts_it_is_settled_and_then_undone() {
    // Three attempts: unknown, refused connection, refused connection. The first may have charged.
    let shop = Shop::default()
        .fault("payment", &[Fault::LoseAnswer, Fault::NotApplied, Fault::NotApplied])
        .fault("a", &[Fault::Reject]);
    assert!(matches!(run(&shop, &["a"]).await, Ended::Compensated(_)));
    assert_eq!(shop.applied(), ["payment", "undo payment"]);
}

#[tokio::test]
async fn a_compensation_is_tried_until_it_succeeds() {
    let shop = Shop::default()
        .fault("capture", &[Fault::Reject])
        .fault("undo payment", &[Fault::NotApplied, Fault::LoseAnswer, Fault::Panic]);
    assert!(matches!(run(&shop, &["a"]).await, Ended::Compensated(_)));
    assert_eq!(sorted(shop.applied()), ["a", "payment", "undo a", "undo payment"]);
    assert_eq!(shop.calls("undo payment"), 4);
}

#[tokio::test]
async fn the_same_id_and_input_is_the_same_saga_and_another_input_is_refused() {
    let shop = Shop::default();
    let worker = worker(&shop).await;
    let client = worker.client();
    let first = client.start(&place_order(), "order-1", &vec!["a".to_owned()]).await.unwrap();
    first.wait().await.unwrap();
    let again = client.start(&place_order(), "order-1", &vec!["a".to_owned()]).await.unwrap();
    assert_eq!(again.run(), first.run());
    assert_eq!(again.wait().await.unwrap(), Ended::Completed("did shipment".into()));
    assert_eq!(shop.calls("payment"), 1, "a late start runs nothing twice");
    let other = client.start(&place_order(), "order-1", &vec!["b".to_owned()]).await.unwrap_err();
    assert!(other.to_string().contains("another input"), "{other}");
    worker.drain().await;
}

#[tokio::test]
async fn a_thousand_sagas_share_batches_and_keep_apart() {
    let shop = Shop::default();
    let worker = worker(&shop).await;
    let client = worker.client();
    let definition = place_order();
    let runs = (0..1000).map(|n| {
        let (client, definition) = (client.clone(), definition.clone());
        async move {
            let saga =
                client.start(&definition, &format!("order-{n}"), &vec![format!("line {n}")]).await.unwrap();
            saga.wait().await.unwrap()
        }
    });
    let ends = futures::future::join_all(runs).await;
    assert!(ends.iter().all(|end| *end == Ended::Completed("did shipment".into())));
    assert_eq!(shop.applied().iter().filter(|effect| *effect == "payment").count(), 1000);
    worker.drain().await;
}
