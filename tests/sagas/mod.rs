//! Workers in processes of their own share the sagas of one Postgres or one SQLite file, and everything dies or
//! hangs in its turn.
//!
//! What the services did is written in a [`ledger`] in another database, which the engine never sees. When all
//! sagas have ended, ledger and ends must fit: all effects or none, each at most once.

mod disk;
mod errors;
mod faults;
mod ledger;
mod order;
mod postgres;
mod transactional;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use saga_core::engine::{Settings, Worker};
use saga_core::store::{Backend, PostgresStore, State, connect};
use saga_core::{Client, Ended, Saga};
use tests::actor::{self, Actor};

use self::ledger::{Ledger, audit};
use self::order::place_order;

const ROLE: &str = "worker";

/// Short, so that a dead worker's successor does not take the test's time.
const LEASE: Duration = Duration::from_secs(2);

/// Far longer than anything here takes; what has not ended by then never will.
const ENDS_WITHIN: Duration = Duration::from_secs(90);

/// Plays a worker if this process was started for that; until it is killed.
async fn plays_worker() -> bool {
    let Some(script) = actor::role(ROLE) else { return false };
    let (store, ledger) = script.split_once(' ').expect("a script of two words");
    let ledger = Ledger::open(ledger).await;
    let settings = Settings { lease: LEASE, look: Duration::from_millis(100), ..Settings::default() };
    loop {
        let Ok(backend) = connect(store).await else { continue };
        let worker = Worker::new(backend, ledger.clone()).register(&place_order()).unwrap();
        if let Ok(_running) = worker.settings(settings.clone()).start().await {
            std::future::pending::<()>().await;
        }
    }
}

/// The engine's database and the services' ledger.
struct Town {
    store: String,
    ledger: Ledger,
    backend: Backend,
    client: Client,
}

/// A saga that was started: its user's id, and what to wait for.
type Started = Vec<(String, Saga<String>)>;

impl Town {
    /// Makes the tables, and the definition known.
    async fn open(store: &str, ledger: &str) -> Self {
        PostgresStore::migrate(store).await.unwrap();
        let ledger = Ledger::create(ledger).await;
        let backend: Backend = Arc::new(PostgresStore::connect(store).await.unwrap()).into();
        Self { store: store.to_owned(), ledger, client: Client::new(backend.clone()), backend }
    }

    /// The same on a SQLite file.
    async fn on_sqlite(file: &Path, ledger: &str) -> Self {
        let ledger = Ledger::create(ledger).await;
        let store = format!("sqlite:{}", file.display());
        let backend = connect(&store).await.unwrap();
        Self { store, ledger, client: Client::new(backend.clone()), backend }
    }

    /// A worker in a process of its own, over any way to the engine's database.
    fn worker_over(&self, store: &str) -> Actor {
        Actor::start(ROLE, format!("{store} {}", self.ledger.url()))
    }

    fn worker(&self) -> Actor {
        self.worker_over(&self.store)
    }

    /// Starts sagas under these ids, each until it is known to be started, as a careful client does.
    async fn start(&self, ids: impl IntoIterator<Item = usize>) -> Started {
        let starts = ids.into_iter().map(|id| async move {
            let id = format!("order-{id}");
            loop {
                match self.client.start(&place_order(), &id, &id).await {
                    Ok(saga) => return (id, saga),
                    Err(
                        saga_core::client::Error::Store(_) | saga_core::client::Error::NotRegistered { .. },
                    ) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    Err(error) => panic!("{id} is not started: {error}"),
                }
            }
        });
        futures::future::join_all(starts).await
    }

    /// Waits for all ends, and fails unless the ledger fits them. Answers how many were completed.
    async fn check(&self, started: &Started) -> usize {
        self.check_beside(started, "").await
    }

    /// The same, with one saga left aside.
    async fn check_beside(&self, started: &Started, aside: &str) -> usize {
        let ends = futures::future::join_all(started.iter().map(|(id, saga)| async move {
            loop {
                match saga.wait().await {
                    Ok(Ended::Completed(_)) => return (id.clone(), true),
                    Ok(Ended::Compensated(_)) => return (id.clone(), false),
                    Ok(other) => panic!("{id}: {other:?}"),
                    Err(saga_core::client::Error::Store(_)) => {
                        tokio::time::sleep(Duration::from_millis(50)).await
                    }
                    Err(error) => panic!("{id}: {error}"),
                }
            }
        }));
        let Ok(ends) = tokio::time::timeout(ENDS_WITHIN, ends).await else {
            panic!("sagas without an end: {:#?}", self.unended(started).await)
        };
        let mut effects = self.ledger.effects().await;
        effects.retain(|effect| effect.saga != aside);
        let broken = audit(&ends, &effects);
        assert!(broken.is_empty(), "{} of {} sagas are broken: {broken:#?}", broken.len(), ends.len());
        ends.iter().filter(|(_, completed)| *completed).count()
    }
    /// The first few sagas that have no end, and where they stand.
    async fn unended(&self, started: &Started) -> Vec<String> {
        let mut unended = Vec::new();
        for (id, saga) in started {
            let summary = self.backend.query.summary(saga.run()).await.unwrap().expect("it was started");
            if !matches!(summary.state, State::Ended(_)) && unended.len() < 5 {
                let last = self.backend.query.journal(saga.run()).await.unwrap().pop().map(|row| row.body);
                unended.push(format!("{id}: {:?}, owner {:?}, {last:?}", summary.state, summary.owner));
            }
        }
        unended
    }
}
