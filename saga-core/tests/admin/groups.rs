//! Sagas blocked by the same failure are found, and retried, as one.

use saga_core::admin::{Answered, Error};
use saga_core::journal::EndKind;
use saga_core::store::State;

use super::{Office, PATIENCE, ann};
use crate::shop::{Fault, Shop};

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
    let group = office.admin.blocked(None).await.unwrap().groups()[0].id.clone();
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
