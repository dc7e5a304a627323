//! Commands that change something, with their answers and exit codes.

use saga_core::journal::{EndKind, MailBody};
use saga_core::store::{Mail, SqliteStore, State, Store};
use saga_core::{MailId, StepError};

use crate::shop::{Bank, Shop};

const COMPENSATED: State = State::Ended(EndKind::Compensated);
const PARTIALLY: State = State::Ended(EndKind::PartiallyCompensated);

fn no_refund(times: usize) -> Bank {
    let rejected = |n: usize| StepError::rejected(format!("account {n} is closed"));
    let expired = (0..times).map(|_| StepError::rejected("card expired")).collect();
    Bank::default().fails("capture", expired).fails("refund", (0..times).map(rejected).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saga_is_started_once_and_waited_for() {
    let shop = Shop::open(Bank::default()).await;
    let start = shop.saga(&["start", "place-order", "order-1", r#"["a"]"#, "--wait", "60s"]).await;
    assert_eq!((start.exit, start.out.as_str()), (0, "completed: \"did ship\"\n"));
    let run = shop.saga(&["list", "--json"]).await.json()["runs"][0]["run"].clone();
    let again = shop.saga(&["start", "place-order", "order-1", r#"["a"]"#, "--json"]).await;
    assert_eq!(again.json()["run"], run);
    let other = shop.saga(&["start", "place-order", "order-1", r#"["b"]"#]).await;
    assert_eq!(other.exit, 1);
    assert!(other.err.contains("another input"), "{}", other.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_finds_the_place_by_itself_and_keeps_who_and_why() {
    let shop = Shop::open(no_refund(1)).await;
    let run = shop.order("order-1", &["a"], State::Blocked).await;
    let retry =
        shop.saga(&["retry", "place-order/order-1", "--why", "the bank called", "--wait", "60s"]).await;
    assert_eq!((retry.exit, retry.out.as_str()), (0, "accepted\n"), "{retry:?}");
    shop.until(run, COMPENSATED).await;
    let journal = shop.saga(&["journal", "place-order/order-1"]).await;
    assert!(journal.out.contains("charge: retry by ann (the bank called): accepted"), "{}", journal.out);
    let wait = shop.saga(&["wait", "place-order/order-1"]).await;
    assert_eq!((wait.exit, wait.out.as_str()), (1, "compensated: capture: card expired\n"));
    let late = shop.saga(&["retry", "place-order/order-1", "--why", "again"]).await;
    assert_eq!((late.exit, late.err.contains("there is nothing to retry")), (1, true), "{late:?}");
    let ended = shop.saga(&["retry", "place-order/order-1", "charge", "--why", "again"]).await;
    assert_eq!((ended.exit, ended.out.contains("has ended (compensated)")), (1, true), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_effects_in_the_world_has_to_be_meant() {
    let shop = Shop::open(no_refund(2)).await;
    for (id, verb) in [
        ("order-1", &["skip", "place-order/order-1", "charge"][..]),
        ("order-2", &["abandon", "place-order/order-2"]),
    ] {
        let run = shop.order(id, &[], State::Blocked).await;
        let asked = [verb, &["--why", "written off", "--wait", "60s"]].concat();
        let unsure = shop.saga(&asked).await;
        assert_eq!((unsure.exit, unsure.err.contains("say --yes if you mean it")), (2, true), "{unsure:?}");
        let sure = shop.saga(&[&asked[..], &["--yes"]].concat()).await;
        assert_eq!((sure.exit, sure.out.as_str()), (0, "accepted\n"));
        shop.until(run, PARTIALLY).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolve_is_answered_and_a_wrong_place_refused() {
    let shop = Shop::open(no_refund(1)).await;
    let run = shop.order("order-1", &[], State::Blocked).await;
    let wrong = shop.saga(&["resolve", "place-order/order-1", "ship", "--why", "x", "--wait", "60s"]).await;
    assert_eq!(wrong.exit, 1);
    assert!(wrong.out.starts_with("refused: "), "{}", wrong.out);
    let right = shop
        .saga(&["resolve", "place-order/order-1", "charge", "--why", "cash", "--wait", "60s", "--json"])
        .await;
    assert_eq!((right.exit, right.json()["answer"].as_str()), (0, Some("accepted")));
    shop.until(run, COMPENSATED).await;
    let silent = shop.saga(&["resolve", "place-order/order-1", "charge"]).await;
    assert_eq!((silent.exit, silent.err.starts_with("saga: why?")), (2, true), "{silent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_is_previewed_and_accepted() {
    let shop =
        Shop::open(Bank::default().fails("charge", vec![StepError::not_applied("bank is down")])).await;
    let run = shop.order("order-1", &["a", "b"], State::Waiting).await;
    let preview = shop.saga(&["cancel", "place-order/order-1", "--preview"]).await;
    assert_eq!(
        (preview.exit, preview.out.as_str()),
        (
            0,
            "\
1       undo reserve#0
1       undo reserve#1
stays   greet: a greeting harms nobody
then    it is compensated
"
        )
    );
    let show = shop.saga(&["show", "place-order/order-1"]).await;
    assert!(
        show.out.contains("… charge  next action in 59 min: bank is down")
            || show.out.contains("next action in "),
        "{}",
        show.out
    );
    let cancel = shop
        .saga(&["cancel", "place-order/order-1", "--why", "a test", "--who", "eve", "--wait", "60s"])
        .await;
    assert_eq!((cancel.exit, cancel.out.as_str()), (0, "accepted\n"));
    shop.until(run, COMPENSATED).await;
    let preview = shop.saga(&["cancel", "place-order/order-1", "--preview"]).await;
    assert_eq!(
        (preview.exit, preview.out.as_str()),
        (1, "a cancel would be refused: it has ended: compensated\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_worker_a_request_stays_asked() {
    let shop =
        Shop::open(Bank::default().fails("charge", vec![StepError::not_applied("bank is down")])).await;
    shop.order("order-1", &[], State::Waiting).await;
    let Shop { dir, worker, .. } = shop;
    worker.drain().await;
    let cancel = ["cancel", "place-order/order-1", "--why", "x", "--wait", "0s"];
    let unanswered = crate::shop::saga(dir.path(), Some("sagas.db"), &cancel).await;
    assert_eq!(unanswered.exit, 5);
    assert!(
        unanswered.out.starts_with("no answer yet: the request is kept until a worker"),
        "{unanswered:?}"
    );
    let show = crate::shop::saga(dir.path(), Some("sagas.db"), &["show", "place-order/order-1"]).await;
    assert!(show.out.contains("not read by its owner yet: cancel (x (asked by ann))"), "{}", show.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_tried_first_with_one_and_then_with_all() {
    let shop = Shop::open(no_refund(3)).await;
    let mut runs = Vec::new();
    for id in ["order-1", "order-2", "order-3"] {
        runs.push(shop.order(id, &[], State::Blocked).await);
    }
    let groups = shop.saga(&["blocked", "--json"]).await.json();
    assert_eq!(groups["groups"].as_array().unwrap().len(), 1, "closed accounts are one group: {groups}");
    let group = groups["groups"][0]["id"].as_str().unwrap().to_owned();
    let retry = ["blocked", "retry", &group, "--why", "reopened", "--wait", "60s"];
    let dry = shop.saga(&[&retry[..], &["--dry-run"]].concat()).await;
    assert!(dry.out.ends_with("3 of 3 would be asked; nothing was\n"), "{}", dry.out);
    let one = shop.saga(&[&retry[..], &["--limit", "1"]].concat()).await;
    assert_eq!((one.exit, one.out.contains("order-1  charge  accepted")), (0, true), "{one:?}");
    shop.until(runs[0], COMPENSATED).await;
    let all = shop.saga(&retry).await;
    assert!(all.out.ends_with("2 of 2 asked\n"), "{all:?}");
    for run in runs {
        shop.until(run, COMPENSATED).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_asked_to_try_now() {
    let shop =
        Shop::open(Bank::default().fails("charge", vec![StepError::not_applied("bank is down")])).await;
    let run = shop.order("order-1", &[], State::Waiting).await;
    let retry =
        shop.saga(&["retry", "place-order/order-1", "--why", "the bank is back", "--wait", "60s"]).await;
    assert_eq!((retry.exit, retry.out.as_str()), (0, "accepted\n"), "{retry:?}");
    shop.until(run, State::Ended(EndKind::Completed)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sagas_wait_their_turn_and_are_found_by_what_they_are_about() {
    let shop =
        Shop::open(Bank::default().fails("charge", vec![StepError::not_applied("bank is down")])).await;
    let start = |id: &'static str, customer: &'static str| {
        ["start", "place-order", id, "[]", "--key", "till-1", "--attribute", customer, "--priority", "high"]
    };
    let first = shop.saga(&start("order-1", "customer=17")).await;
    assert_eq!(first.exit, 0, "{first:?}");
    let holder = first.out.trim().to_owned();
    shop.until(holder.parse().unwrap(), State::Waiting).await;
    let second = shop.saga(&start("order-2", "customer=18")).await;
    shop.until(second.out.trim().parse().unwrap(), State::Queued).await;

    let found = shop.saga(&["list", "--attribute", "customer=17", "--json"]).await.json();
    let runs = found["runs"].as_array().unwrap();
    assert_eq!((runs.len(), runs[0]["run"].as_str()), (1, Some(holder.as_str())), "{found}");
    assert_eq!(runs[0]["attributes"]["customer"], "17");
    assert_eq!(runs[0]["priority"], "high");
    let nobody = ["list", "--attribute", "customer=17", "--attribute", "channel=web"];
    assert_eq!(shop.saga(&nobody).await.out, "no such sagas\n");
    let queued = shop.saga(&["list", "--state", "queued"]).await;
    assert!(
        queued.out.contains(&format!("key till-1, held by {holder}, high priority, customer=18")),
        "{queued:?}"
    );
    let show = shop.saga(&["show", "place-order/order-2"]).await;
    let told = format!("waits for key till-1, which run {holder} holds\n  high priority\n  customer=18\n");
    assert!(show.out.contains(&told), "{}", show.out);
    assert!(shop.saga(&["show", "place-order/order-1"]).await.out.contains("  holds key till-1\n"));

    // Who waits can be cancelled while the other holds the key.
    let cancel = ["cancel", "place-order/order-2", "--why", "a test", "--who", "eve", "--wait", "60s"];
    let cancel = shop.saga(&cancel).await;
    assert_eq!((cancel.exit, cancel.out.as_str()), (0, "accepted\n"));
    shop.until(second.out.trim().parse().unwrap(), COMPENSATED).await;
    let wrong = shop.saga(&["start", "place-order", "order-3", "[]", "--attribute", "customer="]).await;
    assert_eq!((wrong.exit, wrong.err.contains("the value of attribute customer")), (2, true), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn blocked_sagas_are_listed_by_their_error() {
    let rejected = |why: &str| vec![StepError::rejected(why)];
    let bank = Bank::default().fails("charge", rejected("no funds")).fails("release a", rejected("gone"));
    let shop = Shop::open(bank).await;
    let run = shop.order("order-1", &["a"], State::Blocked).await;
    let groups = shop.saga(&["blocked", "--json"]).await.json();
    let group = groups["groups"][0]["id"].as_str().unwrap().to_owned();
    let found = shop.saga(&["list", "--error", &group, "--json"]).await.json();
    assert_eq!(found["runs"][0]["run"].as_str(), Some(run.to_string().as_str()), "{found}");
    assert_eq!(shop.saga(&["list", "--error", "0000000000"]).await.out, "no such sagas\n");
    assert_eq!(shop.saga(&["list", "--error", &group, "--state", "waiting"]).await.out, "no such sagas\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn sagas_are_listed_by_an_error_that_is_still_tried_again() {
    let away = StepError::not_applied("connect 10.0.0.7:5432: refused");
    let shop = Shop::open(Bank::default().fails("charge", vec![away])).await;
    // Its next attempt is in an hour.
    let run = shop.order("order-1", &[], State::Waiting).await;
    shop.order("order-2", &[], State::Ended(EndKind::Completed)).await;
    let listed = shop.saga(&["list", "--state", "waiting", "--json"]).await.json();
    let error = listed["runs"][0]["error"].as_str().expect("it is told").to_owned();
    let found = shop.saga(&["list", "--error", &error]).await;
    assert_eq!(found.out.lines().count(), 2, "a head and one saga: {}", found.out);
    assert!(
        found.out.contains(&run.to_string()) && found.out.contains(&format!("error {error}")),
        "{}",
        found.out
    );
    let bad = shop.saga(&["list", "--error", "connection refused"]).await;
    assert_eq!(bad.exit, 2);
    assert!(bad.err.contains("ten hexadecimal digits"), "{}", bad.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saga_that_was_told_something_newer_is_shown_and_found_by_the_doctor() {
    let away = StepError::not_applied("refused");
    let shop = Shop::open(Bank::default().fails("charge", vec![away])).await;
    let run = shop.order("order-1", &[], State::Waiting).await;
    let store = SqliteStore::open(shop.dir.path().join("sagas.db")).await.unwrap();
    let mail = Mail { id: MailId::new(), run, format: MailBody::FORMAT + 1, body: "{}".into() };
    store.post(&[mail]).await.unwrap();
    let doctor = shop.saga(&["doctor"]).await;
    assert_eq!(doctor.exit, 1);
    assert!(
        doctor.out.contains("ILL  mail: 1 sagas were told something that only newer workers read"),
        "{}",
        doctor.out
    );
    let shown = shop.saga(&["show", "place-order/order-1"]).await.out;
    assert!(shown.contains("waits for a newer worker"), "{shown}");
    let view = shop.saga(&["show", "place-order/order-1", "--json"]).await.json();
    assert_eq!(view["unread"][0]["newer"], MailBody::FORMAT + 1);
}
