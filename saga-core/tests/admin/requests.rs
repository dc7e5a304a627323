//! Every verb, accepted and refused, with the owner's answer and what the journal keeps.

use std::sync::Arc;
use std::time::Duration;

use saga_core::admin::{Admin, Answered, By, Error, Reply, Request};
use saga_core::journal::{EndKind, MailBody, Record, Verb};
use saga_core::store::{MemoryStore, State};
use saga_core::{Client, Definition, MailId, Payload, Place, RunId, Worker, step};

use super::{Office, PATIENCE, ann, worker};
use crate::shop::{Fault, Shop, act, place_order, undo};

const COMPENSATED: State = State::Ended(EndKind::Compensated);
const PARTIALLY: State = State::Ended(EndKind::PartiallyCompensated);

impl Office {
    async fn ask(&self, run: RunId, request: Request) -> Answered {
        self.admin.request(run, MailId::new(), &request, &ann(), PATIENCE).await.unwrap().answered
    }

    /// The requests that a run's journal keeps.
    async fn kept(&self, run: RunId) -> Vec<MailBody> {
        let records = self.admin.journal(run).await.unwrap().into_iter().flat_map(|entry| entry.records);
        records
            .filter_map(|r| if let Record::Received { body, .. } = r { Some(body) } else { None })
            .collect()
    }
}

fn at(place: &str) -> Place {
    serde_json::from_value(place.into()).unwrap()
}

fn retry(place: &str) -> Request {
    Request::Retry { at: at(place) }
}

fn skip(place: &str) -> Request {
    Request::Skip { at: at(place) }
}

fn resolve(place: &str, output: &str) -> Request {
    Request::Resolve { at: at(place), output: Payload::encode(output).unwrap() }
}

#[tokio::test]
async fn a_retry_goes_on_and_the_journal_says_who_and_why() {
    let (office, run) = Office::blocked_on_the_way_back().await;
    assert_eq!(office.ask(run, retry("charge")).await, Answered::Accepted);
    office.until(run, COMPENSATED).await;
    assert_eq!(office.shop.calls("undo payment"), 2);
    let (who, why) = ("ann".to_owned(), "the bank called back".to_owned());
    let said = MailBody::Operator { at: at("charge"), verb: Verb::Retry, who, why };
    assert_eq!(office.kept(run).await, [said]);
}

#[tokio::test]
async fn a_skip_leaves_the_effect_and_ends_partially_compensated() {
    let (office, run) = Office::blocked_on_the_way_back().await;
    assert_eq!(office.ask(run, skip("charge")).await, Answered::Accepted);
    office.until(run, PARTIALLY).await;
    assert_eq!(office.shop.calls("undo payment"), 1, "it was not tried again");
}

#[tokio::test]
async fn a_compensation_done_by_hand_is_resolved_as_undone() {
    let (office, run) = Office::blocked_on_the_way_back().await;
    assert_eq!(office.ask(run, resolve("charge", "refunded at the counter")).await, Answered::Accepted);
    office.until(run, COMPENSATED).await;
    assert_eq!(office.shop.calls("undo payment"), 1);
}

#[tokio::test]
async fn an_action_done_by_hand_is_resolved_with_its_output() {
    let (office, run) = Office::blocked_after_the_pivot().await;
    assert_eq!(office.ask(run, resolve("ship", "by bicycle")).await, Answered::Accepted);
    office.until(run, State::Ended(EndKind::Completed)).await;
    let view = office.admin.view(run).await.unwrap();
    let Some(saga_core::journal::End::Completed { output }) = view.end else { panic!("completed") };
    assert_eq!(output.decode::<String>().unwrap(), "by bicycle");
}

#[tokio::test]
async fn an_abandoned_saga_ends_as_it_stands() {
    let (office, run) = Office::blocked_after_the_pivot().await;
    assert_eq!(office.ask(run, Request::Abandon).await, Answered::Accepted);
    office.until(run, PARTIALLY).await;
    assert!(!office.shop.applied().iter().any(|effect| effect.starts_with("undo")), "nothing is undone");
}

#[tokio::test]
async fn verbs_about_what_rests_nowhere_or_allows_them_not_are_refused() {
    let (office, run) = Office::blocked_after_the_pivot().await;
    for request in [
        retry("charge"),        // is done
        retry("reserve#7"),     // has no such item
        skip("reserve"),        // is no item
        retry("reserve#x"),     // the same
        resolve("ship#0", "x"), // runs over no list
        retry("nowhere"),       // no such step
        skip("ship"),           // nothing is skipped after the pivot
        skip("charge"),         // is done
        resolve("charge", "x"), // is done
    ] {
        let answered = office.ask(run, request.clone()).await;
        let Answered::Refused { why } = answered else { panic!("{request:?}: {answered:?}") };
        assert!(why.len() < 80 && !why.contains('{'), "in words: {why}");
    }
    let view = office.admin.view(run).await.unwrap();
    assert_eq!(view.summary.state, State::Blocked, "it is blocked as before");
    let rows = office.admin.blocked(None).await.unwrap().runs;
    let first_block = office
        .admin
        .journal(run)
        .await
        .unwrap()
        .into_iter()
        .find(|entry| entry.records.iter().any(|record| matches!(record, Record::Blocked { .. })));
    assert_eq!(rows[0].stuck.since, first_block.unwrap().at, "refused requests do not make it younger");
    assert_eq!(office.ask(run, retry("ship")).await, Answered::Accepted);
    office.until(run, State::Ended(EndKind::Completed)).await;
}

#[tokio::test]
async fn a_cancel_is_accepted_before_the_pivot() {
    let office = Office::open(Shop::default().fault("hotel", &[Fault::NotApplied])).await;
    let run = office.book("trip-1").await;
    office.until(run, State::Waiting).await;
    assert_eq!(office.ask(run, Request::Cancel).await, Answered::Accepted);
    office.until(run, COMPENSATED).await;
    let view = office.admin.view(run).await.unwrap();
    assert_eq!(view.cause.unwrap().message(), "cancelled: the bank called back (asked by ann)");
}

#[tokio::test]
async fn what_waits_can_be_asked_to_try_now() {
    let office = Office::open(Shop::default().fault("hotel", &[Fault::NotApplied])).await;
    let run = office.book("trip-1").await;
    office.until(run, State::Waiting).await;
    let view = office.admin.view(run).await.unwrap();
    let hotel =
        view.steps.iter().flat_map(|step| &step.items).find(|item| item.at.as_str() == "hotel").unwrap();
    assert_eq!(hotel.verbs, ["retry", "resolve", "skip"]);
    assert_eq!(office.ask(run, retry("hotel")).await, Answered::Accepted);
    office.until(run, State::Ended(EndKind::Completed)).await;
}

#[tokio::test]
async fn a_derivation_that_fails_is_retried() {
    let fixed = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (mut b, order) = Definition::build::<Shop, String>("price-order", 1);
    let price = fixed.clone();
    let priced = b.derive(
        "price",
        move |order: &String| {
            assert!(price.load(std::sync::atomic::Ordering::SeqCst), "no price is known");
            order.clone()
        },
        order,
    );
    let paid = b.add(step("pay", act).compensate(undo), priced);
    let definition = b.finish(paid).unwrap();
    let store = Arc::new(MemoryStore::new());
    let worker =
        Worker::new(store.clone(), Shop::default()).register(&definition).unwrap().start().await.unwrap();
    let run = worker.client().start(&definition, "order-1", &"tea".to_owned()).await.unwrap().run();
    let office = Office { worker, admin: Admin::new(store), shop: Shop::default() };
    office.until(run, State::Blocked).await;
    let view = office.admin.view(run).await.unwrap();
    let stuck: Vec<_> = view.stuck().map(|item| (item.at.as_str(), item.verbs.clone())).collect();
    assert_eq!(stuck, [("price", vec!["retry"])]);
    fixed.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(office.ask(run, retry("price")).await, Answered::Accepted);
    office.until(run, State::Ended(EndKind::Completed)).await;
}

#[tokio::test]
async fn a_cancel_brings_a_blocked_saga_onto_its_way_back() {
    let (mut b, order) = Definition::build::<Shop, String>("price-order", 1);
    let seat = b.add(step("seat", act).compensate(undo), order);
    let priced = b.derive("price", |_: &String| -> String { panic!("no price is known") }, seat);
    let paid = b.add(step("pay", act).compensate(undo), priced);
    let definition = b.finish(paid).unwrap();
    let (store, shop) = (Arc::new(MemoryStore::new()), Shop::default());
    let worker =
        Worker::new(store.clone(), shop.clone()).register(&definition).unwrap().start().await.unwrap();
    let run = worker.client().start(&definition, "order-1", &"seat".to_owned()).await.unwrap().run();
    let office = Office { worker, admin: Admin::new(store), shop };
    office.until(run, State::Blocked).await;
    let preview = office.admin.preview_cancel(run).await.unwrap();
    assert_eq!((preview.accepted, preview.end), (true, Some(EndKind::Compensated)));
    assert_eq!(office.ask(run, Request::Cancel).await, Answered::Accepted);
    office.until(run, COMPENSATED).await;
    assert_eq!(office.shop.applied(), ["seat", "undo seat"]);
}

#[tokio::test]
async fn a_cancel_is_too_late_after_the_pivot_and_on_the_way_back() {
    let (office, run) = Office::blocked_after_the_pivot().await;
    assert_eq!(office.ask(run, Request::Cancel).await, Answered::TooLate);
    let (office, run) = Office::blocked_on_the_way_back().await;
    assert_eq!(office.ask(run, Request::Cancel).await, Answered::TooLate);
}

#[tokio::test]
async fn a_saga_that_ended_answers_with_its_end() {
    let office = Office::open(Shop::default()).await;
    let run = office.order("order-1", &[]).await;
    office.until(run, State::Ended(EndKind::Completed)).await;
    for request in [Request::Cancel, Request::Abandon, retry("ship"), skip("ship"), resolve("ship", "x")] {
        assert_eq!(office.ask(run, request).await, Answered::Ended { end: EndKind::Completed });
    }
    let nobody = RunId::new();
    let asked = office.admin.request(nobody, MailId::new(), &Request::Cancel, &ann(), PATIENCE).await;
    assert!(matches!(asked, Err(Error::NoSuchRun(run)) if run == nobody));
}

#[tokio::test]
async fn without_a_worker_a_request_waits_and_is_answered_later() {
    let store = Arc::new(MemoryStore::new());
    let admin = Admin::new(store.clone());
    let saga =
        Client::new(store.clone()).start(&place_order(), "order-1", &vec!["a".to_owned()]).await.unwrap();
    let (run, mail) = (saga.run(), MailId::new());
    let reply = admin.request(run, mail, &Request::Cancel, &ann(), Duration::ZERO).await.unwrap();
    assert_eq!(reply, Reply { mail, answered: Answered::Unanswered });
    assert_eq!(admin.view(run).await.unwrap().unread.len(), 1);

    let shop = Shop::default();
    let worker = worker(&store, &shop).await;
    let reply = admin.answer(run, mail, PATIENCE).await.unwrap();
    assert_eq!(reply.answered, Answered::Accepted, "it was read before anything started");
    saga.wait().await.unwrap();
    assert!(shop.applied().is_empty());
    worker.drain().await;
}

#[tokio::test]
async fn the_same_request_sent_twice_is_answered_once() {
    let (office, run) = Office::blocked_on_the_way_back().await;
    let mail = MailId::new();
    for _ in 0..3 {
        let reply = office.admin.request(run, mail, &retry("charge"), &ann(), PATIENCE).await.unwrap();
        assert_eq!(reply.answered, Answered::Accepted);
    }
    office.until(run, COMPENSATED).await;
    assert_eq!(office.kept(run).await.len(), 1);
}

#[tokio::test]
async fn a_decision_about_a_list_names_its_item() {
    let office =
        Office::open(Shop::default().fault("undo b", &[Fault::Reject]).fault("capture", &[Fault::Reject]))
            .await;
    let run = office.order("order-1", &["a", "b"]).await;
    office.until(run, State::Blocked).await;
    for wrong in ["reserve", "reserve#", "reserve#x", "reserve#01", "reserve#99999999999999999999"] {
        let answered = office.ask(run, skip(wrong)).await;
        let Answered::Refused { why } = answered else { panic!("{wrong}: {answered:?}") };
        assert!(why.contains("runs over a list"), "{wrong}: {why}");
    }
    assert_eq!(office.admin.view(run).await.unwrap().summary.state, State::Blocked);
    assert_eq!(office.ask(run, skip("reserve#1")).await, Answered::Accepted);
    office.until(run, PARTIALLY).await;
}

#[tokio::test]
async fn an_id_that_stands_for_another_request_is_not_answered_with_that() {
    let store = Arc::new(MemoryStore::new());
    let (admin, client) = (Admin::new(store.clone()), Client::new(store.clone()));
    let run = client.start(&place_order(), "order-1", &vec!["a".to_owned()]).await.unwrap().run();
    let mail = MailId::new();
    let ask = async |request: &Request, by: &By| admin.request(run, mail, request, by, Duration::ZERO).await;
    let withdrawn = resolve("ship", "by bicycle");
    assert_eq!(ask(&withdrawn, &ann()).await.unwrap().answered, Answered::Unanswered);
    let bob = By::new("bob", "the bank called back").unwrap();
    let unread = [(resolve("ship", "by car"), ann()), (Request::Cancel, ann()), (withdrawn.clone(), bob)];
    for (other, by) in &unread {
        let error = ask(other, by).await.expect_err("it was never stored");
        assert!(matches!(error, Error::OtherRequest { .. }), "{error}");
    }
    // The same where it was read already.
    let worker = worker(&store, &Shop::default()).await;
    let answered = admin.answer(run, mail, PATIENCE).await.unwrap().answered;
    assert!(matches!(answered, Answered::Refused { .. }), "nothing rests there: {answered:?}");
    assert_eq!(ask(&withdrawn, &ann()).await.unwrap().answered, answered, "sent again it is the same");
    ask(&resolve("ship", "by car"), &ann()).await.expect_err("it is another");
    worker.drain().await;
}

#[test]
fn who_and_why_are_needed() {
    for (who, why) in [("", "x"), ("ann", "  "), ("ann\n", "x\ny"), ("a\u{0}nn", "x")] {
        assert!(By::new(who, why).is_err(), "{who:?} {why:?}");
    }
    assert!(By::new("a".repeat(101), "x").is_err());
    assert!(By::new("ann", "x".repeat(501)).is_err());
    let by = By::new(" ann ", "ä".repeat(500)).unwrap();
    assert_eq!((by.who(), by.why().chars().count()), ("ann", 500));
}

#[test]
fn requests_are_written_as_plain_json() {
    for (request, json) in [
        (Request::Cancel, r#"{"verb":"cancel"}"#),
        (Request::Abandon, r#"{"verb":"abandon"}"#),
        (retry("reserve#1"), r#"{"verb":"retry","at":"reserve#1"}"#),
        (skip("charge"), r#"{"verb":"skip","at":"charge"}"#),
        (resolve("charge", "x"), r#"{"verb":"resolve","at":"charge","output":"x"}"#),
    ] {
        assert_eq!(serde_json::to_string(&request).unwrap(), json);
    }
    let reply = Reply { mail: MailId::new(), answered: Answered::Refused { why: "no".into() } };
    let json = serde_json::to_value(&reply).unwrap();
    assert_eq!((json["answer"].as_str(), json["why"].as_str()), (Some("refused"), Some("no")));
    assert_eq!(serde_json::from_value::<Reply>(json).unwrap(), reply);
}
