//! What a preview of cancelling says, and that cancelling does it.

use saga_core::admin::{Answered, Preview, Request};
use saga_core::journal::{Cause, Effect, EndKind};
use saga_core::store::State;
use saga_core::{Cx, Definition, MailId, StepError, step};

use super::{Office, PATIENCE, ann};
use crate::shop::{Fault, Shop, act, undo};

fn waves(preview: &Preview) -> Vec<Vec<(&str, bool)>> {
    let waves = preview.undone.iter();
    waves
        .map(|wave| wave.iter().map(|undone| (undone.at.as_str(), undone.if_it_happened)).collect())
        .collect()
}

#[tokio::test]
async fn it_says_what_is_undone_in_which_order_and_what_stays() {
    let office = Office::open(Shop::default().fault("hotel", &[Fault::NotApplied])).await;
    let run = office.book("trip-1").await;
    office.until(run, State::Waiting).await;
    let preview = office.admin.preview_cancel(run).await.unwrap();
    assert!(preview.accepted && preview.in_doubt.is_empty() && preview.blocks.is_none());
    assert_eq!(preview.waits, None);
    assert_eq!(waves(&preview), [[("meal", false), ("seat", false)]], "the hotel was never booked");
    let stays: Vec<_> = preview.stays.iter().map(|s| (s.at.as_str(), s.why.as_str())).collect();
    assert_eq!(stays, [("greet", "a greeting harms nobody")]);
    assert_eq!(preview.end, Some(EndKind::Compensated));

    let cancelled =
        office.admin.request(run, MailId::new(), &Request::Cancel, &ann(), PATIENCE).await.unwrap();
    assert_eq!(cancelled.answered, Answered::Accepted);
    office.until(run, State::Ended(preview.end.unwrap())).await;
    let mut undone: Vec<_> = office.shop.applied().into_iter().filter(|e| e.starts_with("undo")).collect();
    undone.sort();
    assert_eq!(undone, ["undo meal", "undo seat"]);
}

#[tokio::test]
async fn what_is_in_doubt_is_settled_first_and_undone_before_what_it_needed() {
    let office = Office::open(Shop::default().fault("hotel", &[Fault::LoseAnswer])).await;
    let run = office.book("trip-1").await;
    office.until(run, State::Waiting).await;
    let preview = office.admin.preview_cancel(run).await.unwrap();
    let doubt: Vec<_> = preview.in_doubt.iter().map(|d| (d.at.as_str(), d.settled_by)).collect();
    assert_eq!(doubt, [("hotel", Effect::Action)]);
    assert_eq!(preview.waits, office.admin.summary(run).await.unwrap().due, "its policy waits up to an hour");
    assert_eq!(waves(&preview), vec![vec![("hotel", true)], vec![("meal", false), ("seat", false)]]);
}

#[tokio::test]
async fn it_says_why_a_cancel_would_be_refused() {
    let (office, run) = Office::blocked_after_the_pivot().await;
    let preview = office.admin.preview_cancel(run).await.unwrap();
    assert!(!preview.accepted && preview.undone.is_empty());
    assert_eq!(preview.why.unwrap(), "capture has started, and from there on there is no way back");

    let (office, run) = Office::blocked_on_the_way_back().await;
    let preview = office.admin.preview_cancel(run).await.unwrap();
    assert!(!preview.accepted);
    assert_eq!(preview.why.unwrap(), "it undoes what it did already: capture: capture is refused");

    let office = Office::open(Shop::default()).await;
    let run = office.order("order-1", &[]).await;
    office.until(run, State::Ended(EndKind::Completed)).await;
    assert_eq!(office.admin.preview_cancel(run).await.unwrap().why.unwrap(), "it has ended: completed");
}

#[tokio::test]
async fn it_says_where_a_person_would_be_needed() {
    let (mut b, order) = Definition::build::<Shop, String>("pay-once", 1);
    let seat = b.add(step("seat", act).compensate(undo), order);
    let pay = step("pay", |cx: Cx<Shop>, _: String| act(cx, "payment".into()));
    let refund = async |_: Cx<Shop>, _: String, _: String| Ok::<_, StepError>(());
    let paid = b.add(pay.compensate(refund).not_idempotent(), seat);
    let definition = b.finish(paid).unwrap();
    let shop = Shop::default().fault("payment", &[Fault::LoseAnswer]);
    let store = std::sync::Arc::new(saga_core::store::MemoryStore::new());
    let worker = saga_core::Worker::new(store.clone(), shop.clone()).register(&definition).unwrap();
    let worker = worker.start().await.unwrap();
    let run = worker.client().start(&definition, "order-1", &"seat".to_owned()).await.unwrap().run();
    let office = Office { admin: saga_core::admin::Admin::new(store), worker, shop };
    office.until(run, State::Blocked).await;

    let preview = office.admin.preview_cancel(run).await.unwrap();
    assert!(preview.accepted);
    let blocks = preview.blocks.unwrap();
    assert_eq!((blocks.at.as_str(), blocks.cause), ("pay", Cause::InDoubt));
    assert_eq!(preview.end, None);
}
