//! What is in flight, what waits for code, and whether a deploy would drive it.

use std::sync::Arc;

use chrono::TimeDelta;
use saga_core::admin::{Admin, Trouble};
#[cfg(feature = "sqlite")]
use saga_core::store::{
    Counts, Filter, InFlight, JournalRow, Result, SqliteStore, Summary, UnreadMail, WorkerInfo,
};
use saga_core::store::{Manifest, MemoryStore, Query, State};
use saga_core::{Client, Cx, Definition, StepError, step};
#[cfg(feature = "sqlite")]
use saga_core::{Name, RunId, Worker};

use super::{Office, booking};
use crate::shop::{Fault, Shop, place_order};

fn other_order() -> Definition<Shop, Vec<String>, String> {
    let (mut b, lines) = Definition::build::<Shop, Vec<String>>("place-order", 1);
    let greet = async |_: Cx<Shop>, _: Vec<String>| Ok::<_, StepError>("hello".to_owned());
    let greeted = b.add(step("ship", greet).no_compensation("a greeting harms nobody"), lines);
    b.finish(greeted).unwrap()
}

#[tokio::test]
async fn definitions_tell_what_is_in_flight() {
    let office = Office::open(Shop::default().fault("hotel", &[Fault::NotApplied; 2])).await;
    for id in ["trip-1", "trip-2"] {
        let run = office.book(id).await;
        office.until(run, State::Waiting).await;
    }
    let definitions = office.admin.definitions().await.unwrap();
    let told: Vec<_> = definitions.iter().map(|d| (d.name.as_str(), d.registered, d.waiting)).collect();
    assert_eq!(told, [("book-trip", true, 2), ("place-order", true, 0)]);
    assert!(definitions[0].overdue.is_none(), "what waits for a time is not overdue");
    assert_eq!(definitions[0].steps[1].as_str(), "seat");
    assert_eq!(office.admin.workers().await.unwrap().len(), 1);
    assert_eq!(office.admin.counts().await.unwrap()[0].runs, 2);
}

#[tokio::test]
async fn what_is_due_without_an_owner_is_overdue() {
    let store = Arc::new(MemoryStore::new());
    let client = Client::new(store.clone());
    for id in ["order-1", "order-2"] {
        client.start(&place_order(), id, &vec![]).await.unwrap();
    }
    // Half a minute is not waited for: what is due now is overdue as seen from later.
    let later = chrono::Utc::now() + TimeDelta::hours(1);
    let in_flight = store.in_flight(later).await.unwrap();
    assert_eq!(in_flight.len(), 1);
    assert_eq!((in_flight[0].runs, in_flight[0].owned, in_flight[0].overdue), (2, 0, 2));
    assert!(in_flight[0].overdue_since.unwrap() < later);
    let now = store.in_flight(chrono::Utc::now() - TimeDelta::hours(1)).await.unwrap();
    assert_eq!((now[0].overdue, now[0].overdue_since), (0, None));
}

#[tokio::test]
async fn a_deploy_that_drives_what_is_in_flight_is_fine() {
    let (office, _) = Office::blocked_on_the_way_back().await;
    let shipped = [Manifest::of(place_order().plan()), Manifest::of(booking().plan())];
    let report = office.admin.check(&shipped).await.unwrap();
    assert!(report.ok, "{report:?}");
    assert_eq!(report.findings[0].to_string(), "place-order version 1: 1 in flight, can be driven");
}

#[tokio::test]
async fn a_deploy_that_lacks_a_version_in_flight_is_told() {
    let (office, _) = Office::blocked_on_the_way_back().await;
    let report = office.admin.check(&[Manifest::of(booking().plan())]).await.unwrap();
    assert!(!report.ok);
    let missing = report.findings.iter().find(|f| f.trouble == Some(Trouble::Missing)).unwrap();
    assert_eq!(missing.to_string(), "place-order version 1: 1 in flight would wait for code");
}

#[tokio::test]
async fn a_deploy_that_changes_a_version_silently_is_told_what_changed() {
    let (office, _) = Office::blocked_on_the_way_back().await;
    let report = office.admin.check(&[Manifest::of(other_order().plan())]).await.unwrap();
    let [changed] = &report.findings[..] else { panic!("one finding: {report:?}") };
    assert_eq!(changed.trouble, Some(Trouble::Changed));
    assert_eq!(changed.in_flight, 1);
    assert!(changed.differences.contains(&"charge is gone".to_owned()), "{:?}", changed.differences);
    assert!(changed.differences.contains(&"ship reads other steps".to_owned()), "{:?}", changed.differences);

    // Also when nothing is in flight: two plans would share one name and version.
    let office = Office::open(Shop::default()).await;
    assert!(!office.admin.check(&[Manifest::of(other_order().plan())]).await.unwrap().ok);
    let empty = Admin::new(Arc::new(MemoryStore::new()));
    assert!(empty.check(&[Manifest::of(other_order().plan())]).await.unwrap().ok);
}

/// A store that answers as the trait does where it is not overridden.
#[cfg(feature = "sqlite")]
struct Listing(saga_core::store::SqliteStore);

#[cfg(feature = "sqlite")]
#[async_trait::async_trait]
impl Query for Listing {
    async fn find(&self, definition: &Name, saga: &str) -> Result<Option<Summary>> {
        self.0.find(definition, saga).await
    }
    async fn summary(&self, run: RunId) -> Result<Option<Summary>> {
        self.0.summary(run).await
    }
    async fn list(&self, filter: &Filter) -> Result<Vec<Summary>> {
        self.0.list(filter).await
    }
    async fn journal(&self, run: RunId) -> Result<Vec<JournalRow>> {
        self.0.journal(run).await
    }
    async fn manifests(&self) -> Result<Vec<Manifest>> {
        self.0.manifests().await
    }
    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        self.0.workers().await
    }
    async fn counts(&self) -> Result<Vec<Counts>> {
        self.0.counts().await
    }
    async fn unread_mail(&self) -> Result<Vec<UnreadMail>> {
        self.0.unread_mail().await
    }
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_store_that_groups_says_what_listing_says() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path().join("sagas.db")).await.unwrap();
    let shop = Shop::default().fault("hotel", &[Fault::NotApplied; 3]).fault("shipment", &[Fault::Reject]);
    let worker = Worker::new(Arc::new(store.clone()), shop).register(&place_order()).unwrap();
    let worker = worker.register(&booking()).unwrap().start().await.unwrap();
    let client = worker.client();
    let mut runs =
        vec![(client.start(&place_order(), "order-1", &vec![]).await.unwrap().run(), State::Blocked)];
    for id in ["trip-1", "trip-2", "trip-3"] {
        runs.push((client.start(&booking(), id, &"trip".to_owned()).await.unwrap().run(), State::Waiting));
    }
    for (run, state) in runs {
        while store.summary(run).await.unwrap().unwrap().state != state {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
    worker.drain().await;
    let client = Client::new(Arc::new(store.clone()));
    client.start(&place_order(), "order-2", &vec![]).await.unwrap();
    for hours in [-1, 0, 2] {
        let due_before = chrono::Utc::now() + TimeDelta::hours(hours);
        let key = |group: &InFlight| (group.definition.clone(), group.state.as_str());
        let mut grouped = store.in_flight(due_before).await.unwrap();
        let mut listed = Listing(store.clone()).in_flight(due_before).await.unwrap();
        grouped.sort_by_key(key);
        listed.sort_by_key(key);
        assert_eq!(grouped, listed);
        assert_eq!(grouped.len(), 3);
    }
}

#[tokio::test]
async fn a_worker_refuses_a_definition_that_was_changed_silently() {
    let store = Arc::new(MemoryStore::new());
    let start = async |definition: &Definition<Shop, Vec<String>, String>| {
        saga_core::Worker::new(store.clone(), Shop::default()).register(definition).unwrap().start().await
    };
    start(&place_order()).await.unwrap().drain().await;
    // Nothing is in flight of it: it may go.
    start(&other_order()).await.unwrap().drain().await;
    let saga = Client::new(store.clone()).start(&place_order(), "order-1", &vec![]).await.unwrap();
    let refused = start(&other_order()).await.expect_err("its sagas would wait for ever").to_string();
    assert!(refused.contains("place-order version 1 was changed without a new version"), "{refused}");
    assert!(
        refused.contains("charge is gone") && refused.contains("1 of its sagas are in flight"),
        "{refused}"
    );
    let worker = start(&place_order()).await.unwrap();
    saga.wait().await.unwrap();
    worker.drain().await;
    start(&other_order()).await.unwrap().drain().await;
}
