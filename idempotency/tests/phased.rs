//! The phased guarantee: an order of three phases, killed everywhere.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use idempotency::fused::SqliteTx;
use idempotency::once::{OnceError, Ran};
use idempotency::phased::{Completed, Next, PhaseError, Phased};
use idempotency::{Key, KeyId, Scope, Seal, Secret, SqliteStore, Store, sqlx};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

const LEASE: Duration = Duration::from_millis(60);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    cents: u32,
    charge: Option<String>,
}

fn order() -> Order {
    Order { cents: 500, charge: None }
}

/// The payment provider: outside the database, idempotent by key.
#[derive(Clone, Default)]
struct Provider(Arc<Mutex<Vec<String>>>);

impl Provider {
    fn charge(&self, key: &Key) -> String {
        let mut charges = self.0.lock().unwrap();
        if !charges.iter().any(|own| own == key.expose()) {
            charges.push(key.expose().to_owned());
        }
        "charge-1".to_owned()
    }

    fn charges(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// Where a process stops for good, and how it tells that it has got there.
#[derive(Clone, Default)]
struct Stop {
    at: Option<&'static str>,
    reached: Arc<Notify>,
}

impl Stop {
    async fn here(&self, place: &str) {
        if self.at == Some(place) {
            self.reached.notify_one();
            std::future::pending().await
        }
    }
}

type Place = Phased<SqliteStore, Order, String>;

fn place_order(store: SqliteStore, provider: Provider, stop: Stop) -> Place {
    let secret = Secret::new([6; 32]);
    let (one, two, three) = (stop.clone(), stop.clone(), stop);
    Phased::new("place-order", store, secret.clone(), Scope::of(["shop"]))
        .lease(LEASE)
        .sealed(Seal::new(&secret))
        .transaction("create", move |_, mut tx: SqliteTx, order: Order| {
            let stop = one.clone();
            async move {
                stop.here("before create").await;
                sqlx::query("INSERT INTO orders VALUES ('created')").execute(&mut *tx).await?;
                stop.here("in create").await;
                Ok(Next::Go("charge", order))
            }
        })
        .phase("charge", move |cx, order: Order| {
            let (provider, stop) = (provider.clone(), two.clone());
            async move {
                stop.here("before charge").await;
                let charge = provider.charge(&cx.downstream_key("charge"));
                stop.here("after charge").await;
                Ok(Next::Go("confirm", Order { charge: Some(charge), ..order }))
            }
        })
        .transaction("confirm", move |_, mut tx: SqliteTx, order: Order| {
            let stop = three.clone();
            async move {
                let charge = order.charge.ok_or("the charge is not known")?;
                sqlx::query("INSERT INTO orders VALUES ('confirmed')").execute(&mut *tx).await?;
                stop.here("in confirm").await;
                Ok(Next::Done(format!("paid by {charge}")))
            }
        })
}

struct Shop {
    dir: tempfile::TempDir,
    provider: Provider,
}

impl Shop {
    async fn open() -> Self {
        let shop = Self { dir: tempfile::tempdir().unwrap(), provider: Provider::default() };
        sqlx::query("CREATE TABLE orders (what TEXT)").execute(shop.store().await.pool()).await.unwrap();
        shop
    }

    fn url(&self) -> String {
        format!("sqlite:{}", self.dir.path().join("shop.db").display())
    }

    async fn store(&self) -> SqliteStore {
        SqliteStore::connect(&self.url()).await.unwrap()
    }

    async fn rows(&self) -> Vec<String> {
        sqlx::query_scalar("SELECT what FROM orders").fetch_all(self.store().await.pool()).await.unwrap()
    }

    /// Runs the operation in a process of its own (a runtime with its own connections), which dies at `at`: no
    /// destructor of the operation runs before its connections are gone.
    fn die(&self, at: &'static str) {
        let (url, provider) = (self.url(), self.provider.clone());
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            let stop = Stop { at: Some(at), ..Stop::default() };
            let reached = stop.reached.clone();
            runtime.block_on(async move {
                let order_place = place_order(SqliteStore::connect(&url).await.unwrap(), provider, stop);
                tokio::spawn(async move { order_place.run(&key(), order()).await });
                reached.notified().await;
            });
            runtime.shutdown_timeout(Duration::from_secs(5));
        })
        .join()
        .unwrap();
    }
}

fn key() -> Key {
    Key::new("order-1").unwrap()
}

fn id() -> KeyId {
    Secret::new([6; 32]).key_id(&Scope::of(["shop"]), &key())
}

async fn until_in_doubt(store: &SqliteStore) {
    while !store.inspect(&id()).await.unwrap().unwrap().in_doubt() {
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_runs_through_and_is_replayed() {
    let shop = Shop::open().await;
    let place = place_order(shop.store().await, shop.provider.clone(), Stop::default());
    let paid = "paid by charge-1".to_owned();
    assert_eq!(place.run(&key(), order()).await.unwrap(), Ran::First(paid.clone()));
    assert_eq!(place.run(&key(), order()).await.unwrap(), Ran::Replayed(paid));
    let other = place.run(&key(), Order { cents: 501, ..order() }).await;
    assert!(matches!(other, Err(OnceError::Mismatch { .. })));
    assert_eq!((shop.rows().await, shop.provider.charges()), (vec!["created".into(), "confirmed".into()], 1));
    assert_eq!(place.complete_unfinished(10).await.unwrap(), Completed::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_a_process_dies_the_completer_finishes() {
    for at in ["before create", "in create", "before charge", "after charge", "in confirm"] {
        let shop = Shop::open().await;
        tokio::task::block_in_place(|| shop.die(at));
        let store = shop.store().await;
        until_in_doubt(&store).await;
        let place = place_order(store, shop.provider.clone(), Stop::default());
        let completed = place.complete_unfinished(10).await.unwrap();
        assert_eq!(completed, Completed { done: 1, ..Completed::default() }, "{at}");
        assert_eq!(shop.rows().await, ["created", "confirmed"], "{at}");
        assert_eq!(shop.provider.charges(), 1, "{at}");
        let replayed = place.run(&key(), order()).await.unwrap();
        assert_eq!(replayed, Ran::Replayed("paid by charge-1".into()), "{at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_request_goes_on_as_well_as_the_completer() {
    let shop = Shop::open().await;
    tokio::task::block_in_place(|| shop.die("after charge"));
    let store = shop.store().await;
    until_in_doubt(&store).await;
    let place = place_order(store, shop.provider.clone(), Stop::default());
    assert_eq!(place.run(&key(), order()).await.unwrap(), Ran::First("paid by charge-1".into()));
    assert_eq!((shop.rows().await.len(), shop.provider.charges()), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_was_taken_over_commits_nothing() {
    let shop = Shop::open().await;
    let store = shop.store().await;
    let (entered, open) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (own_entered, own_open) = (entered.clone(), open.clone());
    let runs = Arc::new(AtomicU32::new(0));
    // The outside phase is slow the first time: its holder is taken over in the middle of it.
    let place: Phased<SqliteStore, Order, String> =
        Phased::new("slow", store.clone(), Secret::new([6; 32]), Scope::of(["shop"])).lease(LEASE).phase(
            "wait",
            move |_, _| {
                let (entered, open, first) =
                    (own_entered.clone(), own_open.clone(), runs.fetch_add(1, Ordering::SeqCst) == 0);
                async move {
                    if first {
                        entered.notify_one();
                        open.notified().await;
                        return Ok(Next::Done("the zombie's".into()));
                    }
                    Ok(Next::Done("the successor's".into()))
                }
            },
        );
    let zombie = tokio::spawn({
        let place = place.clone();
        async move { place.run(&key(), order()).await }
    });
    entered.notified().await;
    // It seems dead: somebody ends its lease, as the clock would had its renewals stopped.
    let dated = store.inspect(&id()).await.unwrap().unwrap().dated;
    let put = idempotency::Put { row: dated.row, lease: Some(Duration::ZERO), keep: None, fresh: false };
    let held = idempotency::store::Expected::Held(put.row.stamp);
    store.swap(&id(), &held, &idempotency::store::Change::Put(put)).await.unwrap();
    let completed = place.complete_unfinished(10).await.unwrap();
    open.notify_one();
    let zombie = zombie.await.unwrap();
    // A renewal may have come in between; then nothing was taken over, and the first one's result counts.
    let kept = place.run(&key(), order()).await.unwrap().into_inner();
    match completed.done {
        1 => {
            assert!(matches!(zombie, Err(OnceError::InFlight { .. })));
            assert_eq!(kept, "the successor's");
        }
        _ => assert_eq!((zombie.unwrap(), kept), (Ran::First("the zombie's".into()), "the zombie's".into())),
    }
}

/// An operation of one phase, which fails until it is healed, and notes each time whether it is in doubt.
fn failing(store: &SqliteStore, phase: &'static str, healed: &Arc<AtomicBool>, doubts: &Doubts) -> Place {
    let (healed, doubts) = (healed.clone(), doubts.clone());
    let place = Phased::new("fails", store.clone(), Secret::new([6; 32]), Scope::of(["shop"]));
    place.attempts_max(2).phase(phase, move |cx, _| {
        doubts.lock().unwrap().push(cx.in_doubt());
        let healed = healed.load(Ordering::SeqCst);
        async move { if healed { Ok(Next::Done("done".into())) } else { Err("the provider is gone".into()) } }
    })
}

type Doubts = Arc<Mutex<Vec<bool>>>;

async fn fail(place: &Place, key: &str) {
    let failed = place.run(&Key::new(key).unwrap(), order()).await;
    assert!(matches!(failed, Err(OnceError::Failed(_))), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_goes_on_is_told_of_the_doubt() {
    let shop = Shop::open().await;
    let (store, healed, doubts) = (shop.store().await, Arc::default(), Doubts::default());
    let place = failing(&store, "charge", &healed, &doubts);
    for key in ["by the completer", "by a duplicate"] {
        fail(&place, key).await;
    }
    healed.store(true, Ordering::SeqCst);
    place.run(&Key::new("by a duplicate").unwrap(), order()).await.unwrap();
    assert_eq!(place.complete_unfinished(10).await.unwrap().done, 1);
    assert_eq!(*doubts.lock().unwrap(), [false, false, true, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_keeps_nobody_else_waiting() {
    let shop = Shop::open().await;
    let (store, healed) = (shop.store().await, Arc::default());
    let place = failing(&store, "charge", &healed, &Doubts::default());
    for key in ["a", "a", "b", "b", "c"] {
        fail(&place, key).await;
    }
    healed.store(true, Ordering::SeqCst);
    let mut done = 0;
    for _ in 0..3 {
        done += place.complete_unfinished(2).await.unwrap().done;
    }
    assert_eq!(done, 1);
    assert_eq!(store.count().await.unwrap().in_doubt, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_nobody_can_read_keeps_nobody_else_waiting() {
    let shop = Shop::open().await;
    let (store, healed) = (shop.store().await, Arc::default());
    let place = failing(&store, "charge", &healed, &Doubts::default());
    fail(&place, "a").await;
    let damage = sqlx::query("UPDATE idempotency_keys SET action_print = x'00'").execute(store.pool()).await;
    assert_eq!(damage.unwrap().rows_affected(), 1);
    fail(&place, "b").await;
    healed.store(true, Ordering::SeqCst);
    let completed = place.complete_unfinished(10).await.unwrap();
    assert_eq!((completed.done, completed.failed), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phase_of_another_release_costs_no_attempt() {
    let shop = Shop::open().await;
    let (store, healed) = (shop.store().await, Arc::default());
    let place = |phase| failing(&store, phase, &healed, &Doubts::default());
    fail(&place("charge by card"), "order-1").await;
    healed.store(true, Ordering::SeqCst);
    let older = place("charge");
    for _ in 0..5 {
        let left = Completed { foreign: 1, ..Completed::default() };
        assert_eq!(older.complete_unfinished(10).await.unwrap(), left);
    }
    assert_eq!(place("charge by card").complete_unfinished(10).await.unwrap().done, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_too_often_is_left_to_a_person() {
    let shop = Shop::open().await;
    let store = shop.store().await;
    let place: Phased<SqliteStore, Order, String> =
        Phased::new("fails", store.clone(), Secret::new([6; 32]), Scope::of(["shop"]))
            .attempts_max(3)
            .phase("fail", |_, _| async {
                Err::<Next<Order, String>, PhaseError>("the provider is gone".into())
            });
    let failed = place.run(&key(), order()).await;
    assert!(matches!(failed, Err(OnceError::Failed(error)) if error.to_string() == "the provider is gone"));
    for expected in [(1, 0), (1, 0), (0, 1), (0, 1)] {
        let completed = place.complete_unfinished(10).await.unwrap();
        assert_eq!((completed.failed, completed.given_up), expected);
    }
    assert_eq!(store.count().await.unwrap().in_doubt, 1);
}
