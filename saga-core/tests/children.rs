//! Child sagas.

use std::sync::Arc;
use std::time::Duration;

use saga_core::engine::{Running, Settings};
use saga_core::journal::EndKind;
use saga_core::store::{MemoryStore, Query, State};
use saga_core::{Client, Cx, Definition, Ended, Provides, StepError, Worker, step, step::child};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::shop::{Fault, Shop, quick};

#[derive(Clone)]
struct App {
    shop: Shop,
    client: Client,
    packing: Arc<Notify>,
}

impl Provides<Client> for App {
    fn provide(&self) -> Client {
        self.client.clone()
    }
}

async fn act(cx: Cx<App>, what: String) -> Result<String, StepError> {
    cx.state().shop.call(cx.key(), what)
}

async fn undo(cx: Cx<App>, what: String, _: String) -> Result<(), StepError> {
    cx.state().shop.call(cx.key(), format!("undo {what}")).map(drop)
}

/// Packs, then waits until it is told that it may go on or that the saga turns back.
async fn pack(cx: Cx<App>, what: String) -> Result<String, StepError> {
    let done = cx.state().shop.call(cx.key(), what)?;
    cx.state().packing.notify_one();
    Ok(done)
}

fn parcel(hold: bool) -> Definition<App, String, String> {
    let (mut b, what) = Definition::build::<App, String>("parcel", 1);
    let packed = b.add(step("pack", pack).compensate(undo), what);
    let label = step("label", move |cx: Cx<App>, _: String| async move {
        if hold {
            cx.turned_back().cancelled().await;
            return Err(StepError::rejected("it was told to stop"));
        }
        cx.state().shop.call(cx.key(), "label".into())
    });
    let labelled = b.add(label.no_compensation("a label is paper"), packed);
    b.finish(labelled).unwrap()
}

fn order(parcel: &Definition<App, String, String>) -> Definition<App, String, String> {
    let (mut b, what) = Definition::build::<App, String>("order", 1);
    let paid = b.derive("pay-what", |_: &String| "payment".to_owned(), what);
    let charged = b.add(step("charge", act).compensate(undo).retry(quick()), paid);
    let sent = b.add(child("send", parcel).compensate(async |_, _, _| Ok(())), what);
    let all = b.derive("all", |(_, sent): &(String, String)| sent.clone(), (charged, sent));
    b.finish(all).unwrap()
}

async fn worker(shop: Shop, hold: bool) -> (Running, Arc<MemoryStore>, Definition<App, String, String>) {
    let store = Arc::new(MemoryStore::new());
    let app = App { shop, client: Client::new(store.clone()), packing: Arc::default() };
    let (parcel, poll) = (parcel(hold), Duration::from_millis(1)..Duration::from_millis(5));
    let order = order(&parcel);
    let worker = Worker::new(store.clone(), app).settings(Settings { poll, ..Settings::default() });
    let worker = worker.register(&parcel).unwrap().register(&order).unwrap().start().await.unwrap();
    (worker, store, order)
}

#[tokio::test]
async fn a_child_that_completes_is_its_steps_output() {
    let shop = Shop::default();
    let (worker, _, order) = worker(shop.clone(), false).await;
    let saga = worker.client().start(&order, "1", &"box".to_owned()).await.unwrap();
    assert_eq!(saga.wait().await.unwrap(), Ended::Completed("did label".into()));
    worker.drain().await;
}

#[tokio::test]
async fn a_child_that_compensates_is_its_steps_rejection() {
    let shop = Shop::default().fault("label", &[Fault::Reject]);
    let (worker, _, order) = worker(shop.clone(), false).await;
    let saga = worker.client().start(&order, "1", &"box".to_owned()).await.unwrap();
    let Ended::Compensated(cause) = saga.wait().await.unwrap() else { panic!("compensates") };
    assert!(cause.message().contains("label is refused"), "{cause}");
    let mut applied = shop.applied();
    applied.sort();
    assert_eq!(applied, ["box", "payment", "undo box", "undo payment"]);
    worker.drain().await;
}

#[tokio::test]
async fn a_failing_sibling_cancels_the_child_and_awaits_its_end() {
    let shop = Shop::default().fault("payment", &[Fault::NotApplied, Fault::NotApplied, Fault::NotApplied]);
    let (worker, store, order) = worker(shop.clone(), true).await;
    let saga = worker.client().start(&order, "1", &"box".to_owned()).await.unwrap();
    assert!(matches!(saga.wait().await.unwrap(), Ended::Compensated(_)));
    let child = store.list(&saga_core::store::Filter::default()).await.unwrap();
    let child = child.iter().find(|summary| summary.definition.as_str() == "parcel").unwrap();
    assert_eq!(child.state, State::Ended(EndKind::Compensated), "the child ended before its parent");
    assert!(matches!(shop.applied().as_slice(), [] | [_, _]), "{:?}", shop.applied());
    worker.drain().await;
}

/// What is sent, as one release writes it.
#[derive(Serialize, Deserialize)]
struct Box1 {
    what: String,
}

/// The same in the next release, which reads what the last one wrote.
#[derive(Serialize, Deserialize)]
struct Box2 {
    what: String,
    note: Option<String>,
}

/// An order that is a parcel, and the parcel, which is packed once somebody says so.
fn sending<In>() -> (Definition<App, In, String>, Definition<App, In, String>)
where
    In: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    let pack = step("pack", async |cx: Cx<App>, _: In| {
        tokio::select! {
            () = cx.cancelled().cancelled() => Err(StepError::not_applied("the worker drains")),
            () = cx.state().packing.notified() => cx.state().shop.call(cx.key(), "pack".into()),
        }
    });
    let (mut b, what) = Definition::build::<App, In>("parcel", 1);
    let packed = b.add(pack.retry(quick()).no_compensation("whoever finds it unpacks it"), what);
    let parcel = b.finish(packed).unwrap();
    let (mut b, what) = Definition::build::<App, In>("order", 1);
    let sent = b.add(child("send", &parcel).no_compensation("whoever gets it sends it back"), what);
    (b.finish(sent).unwrap(), parcel)
}

#[tokio::test]
async fn a_child_is_the_same_where_a_later_release_writes_its_input_otherwise() {
    let store = Arc::new(MemoryStore::new());
    let (shop, packing) = (Shop::default(), Arc::<Notify>::default());
    let app = App { shop: shop.clone(), client: Client::new(store.clone()), packing: packing.clone() };
    let settings =
        || Settings { poll: Duration::from_millis(1)..Duration::from_millis(5), ..Settings::default() };
    let (order, parcel) = sending::<Box1>();
    let worker = Worker::new(store.clone(), app.clone()).settings(settings());
    let worker = worker.register(&order).unwrap().register(&parcel).unwrap().start().await.unwrap();
    let run = worker.client().start(&order, "1", &Box1 { what: "tea".into() }).await.unwrap().run();
    let started = async || store.list(&saga_core::store::Filter::default()).await.unwrap().len() == 2;
    while !started().await {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    worker.drain().await;

    let (order, parcel) = sending::<Box2>();
    let worker = Worker::new(store.clone(), app).settings(settings());
    let worker = worker.register(&order).unwrap().register(&parcel).unwrap().start().await.unwrap();
    packing.notify_one();
    let saga = worker.client().saga::<String>(run);
    assert_eq!(saga.wait().await.unwrap(), Ended::Completed("did pack".into()));
    assert_eq!(shop.calls("pack"), 1);
    worker.drain().await;
}
