//! What operators see and ask of sagas in a real Postgres: the same as in any other store.

use std::sync::Arc;
use std::time::Duration;

use saga_core::admin::{Admin, Answered, By, Look, Request, Wanted};
use saga_core::journal::EndKind;
use saga_core::store::{Manifest, PostgresStore, Query, State};
use saga_core::{Client, Cx, Definition, MailId, Retry, RunId, StepError, Worker, step};
use tests::servers::postgres;

const PATIENCE: Duration = Duration::from_secs(30);

/// Orders whose id holds `closed` are rejected after their pivot, the first time; those whose id holds
/// `away` wait for an hour before it.
fn ship_order() -> Definition<(), String, String> {
    let (mut b, order) = Definition::build::<(), String>("ship-order", 1);
    let check = async |_: Cx<()>, order: String| {
        if order.contains("away") { Err(StepError::not_applied("nobody is there")) } else { Ok(order) }
    };
    let hour = Retry::exponential().base(Duration::from_secs(3600)).most(Duration::from_secs(3600));
    let checked = b.add(step("check", check).no_compensation("it only looks").retry(hour), order);
    let pay = async |_: Cx<()>, order: String| Ok::<_, StepError>(order);
    let (mut b, paid) = b.pivot(step("pay", pay), checked);
    let ship = async |_: Cx<()>, order: String| {
        if order.contains("closed") {
            Err(StepError::rejected(format!("the address of {order} is closed")))
        } else {
            Ok(order)
        }
    };
    let shipped = b.add(step("ship", ship), paid);
    b.finish(shipped).unwrap()
}

async fn until(admin: &Admin, run: RunId, state: State) {
    let look = async {
        while admin.summary(run).await.unwrap().state != state {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.expect("the state is reached");
}

#[tokio::test]
async fn sagas_in_postgres_are_seen_and_steered() {
    let database = postgres::fresh_database().await;
    PostgresStore::migrate(database.url()).await.unwrap();
    let store = Arc::new(PostgresStore::connect(database.url()).await.unwrap());
    let admin = Admin::new(store.clone());
    let worker = Worker::new(store.clone(), ()).register(&ship_order()).unwrap().start().await.unwrap();
    let client = worker.client();
    let start = async |id: &str| client.start(&ship_order(), id, &id.to_owned()).await.unwrap().run();
    let (good, away) = (start("good-1").await, start("away-1").await);
    let closed = [start("closed-1").await, start("closed-22").await];
    until(&admin, good, State::Ended(EndKind::Completed)).await;
    until(&admin, away, State::Waiting).await;
    for run in closed {
        until(&admin, run, State::Blocked).await;
    }

    let view = admin.view(closed[0]).await.unwrap();
    assert_eq!(view.stuck().map(|item| item.verbs.clone()).collect::<Vec<_>>(), [["retry", "resolve"]]);
    assert!(admin.view(good).await.unwrap().steps.iter().all(|step| step.look == Look::Done));
    let blocked = admin.blocked(None).await.unwrap();
    assert_eq!(blocked.groups().iter().map(|g| g.runs).collect::<Vec<_>>(), [2], "one reason, two sagas");
    let listed = admin.list(&Wanted { saga: Some("closed".into()), ..Wanted::default() }).await.unwrap();
    assert_eq!(listed.runs.iter().map(|run| run.run).collect::<Vec<_>>(), [closed[1], closed[0]]);

    let later = chrono::Utc::now() + chrono::TimeDelta::hours(2);
    let in_flight = store.in_flight(later).await.unwrap();
    let told: Vec<_> = in_flight.iter().map(|g| (g.state, g.runs, g.owned, g.overdue)).collect();
    assert_eq!(told, [(State::Blocked, 2, 0, 0), (State::Waiting, 1, 0, 1)]);
    assert_eq!(in_flight[1].overdue_since, admin.summary(away).await.unwrap().due);
    assert!(admin.check(&[Manifest::of(ship_order().plan())]).await.unwrap().ok);
    assert!(!admin.check(&[]).await.unwrap().ok);

    let ann = By::new("ann", "by hand").unwrap();
    let ask = async |run, request: Request| {
        admin.request(run, MailId::new(), &request, &ann, PATIENCE).await.unwrap().answered
    };
    let at = view.blocked.unwrap().at;
    assert!(matches!(ask(closed[0], Request::Skip { at: at.clone() }).await, Answered::Refused { .. }));
    let output = saga_core::Payload::encode("by bicycle").unwrap();
    assert_eq!(ask(closed[0], Request::Resolve { at, output }).await, Answered::Accepted);
    assert_eq!(ask(closed[1], Request::Abandon).await, Answered::Accepted);
    assert!(admin.preview_cancel(away).await.unwrap().accepted);
    assert_eq!(ask(away, Request::Cancel).await, Answered::Accepted);
    until(&admin, closed[0], State::Ended(EndKind::Completed)).await;
    until(&admin, closed[1], State::Ended(EndKind::PartiallyCompensated)).await;
    until(&admin, away, State::Ended(EndKind::Compensated)).await;
    assert_eq!(ask(good, Request::Cancel).await, Answered::Ended { end: EndKind::Completed });

    worker.drain().await;
    let run = Client::new(store).start(&ship_order(), "good-2", &"good-2".to_owned()).await.unwrap().run();
    let reply = admin.request(run, MailId::new(), &Request::Cancel, &ann, Duration::ZERO).await.unwrap();
    assert_eq!(reply.answered, Answered::Unanswered, "nobody is there to read it");
}
