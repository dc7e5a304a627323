//! What operators see, ask, and are answered.

mod deploy;
mod groups;
mod preview;
mod requests;
mod views;

use std::sync::Arc;
use std::time::Duration;

use saga_core::admin::{Admin, By};
use saga_core::engine::{Running, Worker};
use saga_core::store::{MemoryStore, State};
use saga_core::{Cx, Definition, Retry, RunId, StepError, step};

use crate::shop::{Fault, Shop, act, place_order, quick, undo};

/// Long enough for any answer; nothing waits for its end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A worker on a store of its own, and an operator.
pub(crate) struct Office {
    pub(crate) worker: Running,
    pub(crate) admin: Admin,
    pub(crate) shop: Shop,
}

impl Office {
    /// Opens with a worker that knows every definition of these tests.
    pub(crate) async fn open(shop: Shop) -> Self {
        let store = Arc::new(MemoryStore::new());
        let worker = worker(&store, &shop).await;
        let admin = Admin::new(store.clone());
        Self { worker, admin, shop }
    }

    pub(crate) async fn order(&self, id: &str, lines: &[&str]) -> RunId {
        let lines: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
        self.worker.client().start(&place_order(), id, &lines).await.unwrap().run()
    }

    pub(crate) async fn book(&self, id: &str) -> RunId {
        self.worker.client().start(&booking(), id, &"trip".to_owned()).await.unwrap().run()
    }

    /// Waits until a run is in a state.
    pub(crate) async fn until(&self, run: RunId, state: State) {
        let look = async {
            while self.admin.summary(run).await.unwrap().state != state {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, look).await.expect("the state is reached");
    }

    /// An order whose refund is rejected.
    pub(crate) async fn blocked_on_the_way_back() -> (Self, RunId) {
        let shop = Shop::default().fault("capture", &[Fault::Reject]).fault("undo payment", &[Fault::Reject]);
        Self::blocked(shop).await
    }

    /// An order whose shipment is rejected after the money was taken.
    pub(crate) async fn blocked_after_the_pivot() -> (Self, RunId) {
        Self::blocked(Shop::default().fault("shipment", &[Fault::Reject])).await
    }

    async fn blocked(shop: Shop) -> (Self, RunId) {
        let office = Self::open(shop).await;
        let run = office.order("order-1", &["a", "b"]).await;
        office.until(run, State::Blocked).await;
        (office, run)
    }
}

pub(crate) async fn worker(store: &Arc<MemoryStore>, shop: &Shop) -> Running {
    let worker = Worker::new(store.clone(), shop.clone()).register(&place_order()).unwrap();
    worker.register(&booking()).unwrap().start().await.unwrap()
}

pub(crate) fn ann() -> By {
    By::new("ann", "the bank called back").unwrap()
}

/// A greeting that nobody undoes, a seat and a meal side by side, then a hotel that waits an hour between
/// its attempts, then the pivot.
pub(crate) fn booking() -> Definition<Shop, String, String> {
    let (mut b, trip) = Definition::build::<Shop, String>("book-trip", 1);
    let greeted = b.add(named("greet", "greeting").no_compensation("a greeting harms nobody"), trip);
    let seat = b.add(named("seat", "seat").compensate(undo_named("seat")).retry(quick()), greeted);
    let meal = b.add(named("meal", "meal").compensate(undo_named("meal")).retry(quick()), greeted);
    let patient = Retry::exponential().base(Duration::from_secs(3600)).most(Duration::from_secs(3600));
    let hotel = named("hotel", "hotel").compensate(undo_named("hotel")).retry(patient);
    let hotel = b.add(hotel, seat);
    b.after(meal);
    let (b, paid) = b.pivot(named("pay", "pay"), hotel);
    b.finish(paid).unwrap()
}

type Named = saga_core::Step<Shop, String, String>;

/// A step whose effect has this name whatever its input is.
fn named(name: &str, effect: &'static str) -> Named {
    step(name, move |cx: Cx<Shop>, _: String| act(cx, effect.to_owned()))
}

fn undo_named(
    effect: &'static str,
) -> impl Fn(Cx<Shop>, String, String) -> futures::future::BoxFuture<'static, Result<(), StepError>> + Send + Sync
{
    move |cx, _, done| Box::pin(undo(cx, effect.to_owned(), done))
}
