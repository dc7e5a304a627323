//! Sagas blocked by the same failure are found, and retried, as one.

use saga_core::admin::{Answered, Error, Wanted};
use saga_core::journal::EndKind;
use saga_core::store::State;

use super::{Office, PATIENCE, ann};
use crate::shop::{Fault, Shop};
use saga_core::RunId;

/// Three orders that lack the same thing under different ids, one that fails in another way.
async fn office() -> Office {
    let mut shop = Shop::default().fault("shipment", &[Fault::Reject]);
    for line in ["line-1", "line-22", "line-333"] {
        shop = shop.fault(&format!("undo {line}"), &[Fault::Reject]);
    }
    let office = Office::open(shop.fault("capture", &[Fault::Reject; 3])).await;
    for (id, line) in [("order-1", "line-1"), ("order-2", "line-22"), ("order-3", "line-333")] {
        let run = office.order(id, &[line]).await;
        office.until(run, State::Blocked).await;
    }
    let run = office.order("order-4", &[]).await;
    office.until(run, State::Blocked).await;
    office
}

#[tokio::test]
async fn the_same_failure_is_one_group_whatever_ids_it_names() {
    let office = office().await;
    let blocked = office.admin.blocked(None).await.unwrap();
    assert!(blocked.complete);
    assert_eq!(
        blocked.runs.iter().map(|b| b.summary.saga.as_str()).collect::<Vec<_>>(),
        ["order-1", "order-2", "order-3", "order-4"]
    );
    let groups = blocked.groups();
    let told: Vec<_> = groups.iter().map(|g| (g.step.as_str(), g.message.as_str(), g.runs)).collect();
    assert_eq!(told, [("reserve", "undo … is refused", 3), ("ship", "shipment is refused", 1)]);
    assert_eq!(groups[0].example, "undo line-1 is refused");
    assert!(groups[0].first < groups[0].last);
    let other = saga_core::Name::new("book-trip").unwrap();
    assert!(office.admin.blocked(Some(&other)).await.unwrap().runs.is_empty());
}

#[tokio::test]
async fn a_group_is_retried_after_a_dry_run_first_one_then_all() {
    let office = office().await;
    let group = office.admin.blocked(None).await.unwrap().groups()[0].id.to_string();
    let retry =
        async |limit, dry_run| office.admin.retry_group(&group, limit, &ann(), dry_run, PATIENCE).await;
    let dry = retry(None, true).await.unwrap();
    assert!(dry.dry_run && dry.runs.iter().all(|run| run.answered.is_none() && run.error.is_none()));
    assert_eq!(dry.runs.len(), 3);
    assert_eq!(office.admin.blocked(None).await.unwrap().runs.len(), 4, "nothing was asked of anybody");

    let one = retry(Some(1), false).await.unwrap();
    assert_eq!((one.group.runs, one.runs.len()), (3, 1));
    assert_eq!(one.runs[0].saga, "order-1", "the longest blocked comes first");
    office.until(one.runs[0].run, State::Ended(EndKind::Compensated)).await;

    let rest = retry(None, false).await.unwrap();
    assert_eq!(rest.runs.len(), 2);
    for run in &rest.runs {
        assert_eq!(run.answered, Some(Answered::Accepted));
        office.until(run.run, State::Ended(EndKind::Compensated)).await;
    }
    assert!(matches!(retry(None, false).await, Err(Error::NoSuchGroup(id)) if id == group));
    assert_eq!(office.admin.blocked(None).await.unwrap().runs.len(), 1, "another failure is left alone");
}

/// Found while it is tried again, and when it needs a person for the same reason.
#[tokio::test]
async fn what_suffers_from_the_same_is_found_whether_it_is_tried_again_or_blocked() {
    let shop = Shop::default().fault("hotel", &[Fault::NotApplied; 2]).fault("shipment", &[Fault::Reject]);
    let office = Office::open(shop).await;
    let blocked = office.order("order-1", &["a"]).await;
    office.until(blocked, State::Blocked).await;
    let mut trips = Vec::new();
    for id in ["trip-1", "trip-2"] {
        let run = office.book(id).await;
        office.until(run, State::Waiting).await;
        trips.push(run);
    }
    let error_of = async |run: RunId| office.admin.summary(run).await.unwrap().error.expect("it suffers");
    let found = async |error, state| {
        let wanted = Wanted { error: Some(error), state, ..Wanted::default() };
        let mut found: Vec<_> =
            office.admin.list(&wanted).await.unwrap().runs.into_iter().map(|run| run.run).collect();
        found.sort_unstable();
        found
    };
    let away = error_of(trips[0]).await;
    assert_eq!(found(away, None).await, trips, "those that wait for their next attempt");
    assert_eq!(found(away, Some(State::Blocked)).await, []);
    let group = office.admin.blocked(None).await.unwrap().groups()[0].id;
    assert_eq!(error_of(blocked).await, group, "a group is an error");
    assert_eq!(found(group, None).await, [blocked]);
    let again = saga_core::admin::Request::Retry { at: serde_json::from_value("hotel".into()).unwrap() };
    for run in &trips {
        office.admin.request(*run, saga_core::MailId::new(), &again, &ann(), PATIENCE).await.unwrap();
        office.until(*run, State::Ended(EndKind::Completed)).await;
    }
    assert_eq!(found(away, None).await, [], "nobody suffers from it any more");
}
