//! What is shown of one run, and of many.

use std::sync::Arc;
use std::time::Duration;

use saga_core::admin::{Admin, Entry, Error, Look, Wanted, tell};
use saga_core::journal::{Cause, Effect};
use saga_core::saga::Kind;
use saga_core::store::{MemoryStore, State};
use saga_core::{Client, Name, RunId};

use super::{Office, booking};
use crate::shop::{Fault, Shop, place_order};

fn looks(view: &saga_core::admin::View) -> Vec<(String, Look)> {
    view.steps.iter().map(|step| (step.name.to_string(), step.look)).collect()
}

#[tokio::test]
async fn a_completed_saga_shows_every_step_and_attempt() {
    let office = Office::open(Shop::default().fault("payment", &[Fault::LoseAnswer])).await;
    let run = office.order("order-1", &["a", "b"]).await;
    office.until(run, State::Ended(saga_core::journal::EndKind::Completed)).await;
    let view = office.admin.view(run).await.unwrap();
    assert!(view.steps.iter().all(|step| step.look == Look::Done), "{:?}", looks(&view));
    assert_eq!(view.output, [Name::new("ship").unwrap()]);
    assert!(!view.cancellable && view.blocked.is_none() && view.unfit.is_none());

    let reserve = view.steps.iter().find(|step| step.name.as_str() == "reserve").unwrap();
    assert_eq!(reserve.kind, Kind::Each);
    assert_eq!(
        reserve.items.iter().map(|i| i.at.to_string()).collect::<Vec<_>>(),
        ["reserve#0", "reserve#1"]
    );
    assert_eq!(reserve.items[1].input.as_ref().unwrap().as_str(), r#""b""#);
    assert_eq!(reserve.items[1].output.as_ref().unwrap().as_str(), r#""did b""#);

    let charge = &view.steps.iter().find(|step| step.name.as_str() == "charge").unwrap().items[0];
    let outcomes: Vec<_> = charge.attempts.iter().map(|a| (a.effect, a.number, a.outcome)).collect();
    assert_eq!(outcomes, [(Effect::Action, 1, Some("unknown")), (Effect::Action, 2, Some("ok"))]);
    assert_eq!(charge.attempts[0].failure.as_ref().unwrap().message(), "the connection broke");
    assert_eq!(charge.attempts[0].worker, office.worker.id());

    let hidden = serde_json::to_string(&view.without_payloads()).unwrap();
    assert!(!hidden.contains("did "), "{hidden}");
}

#[tokio::test]
async fn a_blocked_saga_shows_where_why_and_what_can_be_done() {
    let (office, run) = Office::blocked_on_the_way_back().await;
    let view = office.admin.view(run).await.unwrap();
    let blocked = view.blocked.as_ref().unwrap();
    assert_eq!((blocked.at.as_str(), blocked.cause), ("charge", Cause::CompensationRejected));
    assert_eq!(blocked.failure.message(), "undo payment is refused");
    assert_eq!(view.cause.as_ref().unwrap().message(), "capture: capture is refused");
    let stuck: Vec<_> = view.stuck().map(|item| (item.at.as_str(), item.verbs.clone())).collect();
    assert_eq!(stuck, [("charge", vec!["retry", "resolve", "skip"])]);
    let look = |name: &str| looks(&view).into_iter().find(|(step, _)| step == name).unwrap().1;
    assert_eq!(look("charge"), Look::Stuck);
    assert_eq!(look("reserve"), Look::Undone);
    assert_eq!(look("capture"), Look::Refused);
    assert_eq!(look("ship"), Look::Idle);
}

#[tokio::test]
async fn a_step_after_the_pivot_can_be_retried_or_resolved_but_not_skipped() {
    let (office, run) = Office::blocked_after_the_pivot().await;
    let view = office.admin.view(run).await.unwrap();
    assert_eq!(view.blocked.as_ref().unwrap().cause, Cause::RejectedAfterPivot);
    let stuck: Vec<_> = view.stuck().map(|item| (item.at.as_str(), item.verbs.clone())).collect();
    assert_eq!(stuck, [("ship", vec!["retry", "resolve"])]);
    assert!(!view.cancellable);
}

#[tokio::test]
async fn an_empty_list_and_what_waits_are_shown_as_they_are() {
    let office = Office::open(Shop::default().fault("hotel", &[Fault::NotApplied])).await;
    let order = office.order("order-1", &[]).await;
    office.until(order, State::Ended(saga_core::journal::EndKind::Completed)).await;
    let view = office.admin.view(order).await.unwrap();
    assert!(view.steps.iter().all(|step| step.look == Look::Done), "{:?}", looks(&view));

    let trip = office.book("trip-1").await;
    office.until(trip, State::Waiting).await;
    let view = office.admin.view(trip).await.unwrap();
    let hotel = &view.steps.iter().find(|step| step.name.as_str() == "hotel").unwrap().items[0];
    assert_eq!(hotel.look, Look::Resting);
    assert!(hotel.due.unwrap() > chrono::Utc::now() && !hotel.in_doubt);
    assert!(view.cancellable);
}

#[tokio::test]
async fn a_plan_that_nobody_registered_is_said_to_be_unknown() {
    let store = Arc::new(MemoryStore::new());
    let saga =
        Client::new(store.clone()).start(&place_order(), "order-1", &vec!["a".to_owned()]).await.unwrap();
    let admin = Admin::new(store);
    let view = admin.view(saga.run()).await.unwrap();
    assert!(view.steps.is_empty());
    assert!(view.unfit.unwrap().contains("no worker has registered place-order version 1"));
    assert!(matches!(admin.preview_cancel(saga.run()).await, Err(Error::NoManifest { .. })));
}

#[tokio::test]
async fn a_journal_is_exported_line_by_line_and_told_in_words() {
    let (office, run) = Office::blocked_on_the_way_back().await;
    let entries = office.admin.journal(run).await.unwrap();
    for (number, entry) in entries.iter().enumerate() {
        let line = entry.to_line();
        assert!(!line.contains('\n'));
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (read["number"].as_u64(), read["run"].as_str()),
            (Some(number as u64), Some(&*run.to_string()))
        );
    }
    let told: Vec<String> = entries.iter().flat_map(|e: &Entry| &e.records).map(|r| tell(r).text).collect();
    assert_eq!(told[0], "place-order version 1 began as order-1");
    assert!(told.contains(&"compensation was rejected: undo payment is refused".to_owned()), "{told:?}");
    assert_eq!(told.last().unwrap(), "blocked: the compensation was rejected: undo payment is refused");
}

#[tokio::test]
async fn runs_are_listed_page_by_page_with_filters() {
    let office = Office::open(Shop::default()).await;
    let mut runs = Vec::new();
    for n in 0..25 {
        let run = office.order(&format!("order-{n}"), &[]).await;
        office.until(run, State::Ended(saga_core::journal::EndKind::Completed)).await;
        runs.push(run);
    }
    runs.reverse();
    let (mut listed, mut before): (Vec<RunId>, _) = (Vec::new(), None);
    loop {
        let page = office.admin.list(&Wanted { before, limit: 10, ..Wanted::default() }).await.unwrap();
        listed.extend(page.runs.iter().map(|run| run.run));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(listed, runs);
    let of = async |wanted: Wanted| office.admin.list(&wanted).await.unwrap().runs.len();
    assert_eq!(
        of(Wanted { saga: Some("er-2".into()), ..Wanted::default() }).await,
        6,
        "order-2, order-20 to 24"
    );
    assert_eq!(of(Wanted { older_than: Some(Duration::from_secs(3600)), ..Wanted::default() }).await, 0);
    assert_eq!(of(Wanted { older_than: Some(Duration::MAX), ..Wanted::default() }).await, 0);
    assert_eq!(of(Wanted { older_than: Some(Duration::ZERO), ..Wanted::default() }).await, 25);
    assert_eq!(of(Wanted { state: Some(State::Blocked), ..Wanted::default() }).await, 0);
    assert_eq!(of(Wanted { definition: Some(booking().plan().name.clone()), ..Wanted::default() }).await, 0);
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let office = Office::open(Shop::default()).await;
    let run = RunId::new();
    assert!(matches!(office.admin.view(run).await, Err(Error::NoSuchRun(missing)) if missing == run));
    assert!(matches!(office.admin.journal(run).await, Err(Error::NoSuchRun(_))));
    let name = Name::new("place-order").unwrap();
    let error = office.admin.find(&name, "order-x").await.unwrap_err();
    assert_eq!(error.to_string(), r#"there is no saga "order-x" of definition place-order"#);
}
