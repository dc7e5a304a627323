//! Plays one run: processes are started, hit, and followed by others, until the saga has come to rest
//! and every zombie has had its say.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::Serialize;

use super::evidence::Evidence;
use super::faulty::FaultyStore;
use super::ledger::Ledger;
use super::plan::Plan;
use super::process::Process;
use super::scene::{Event, Scene};
use super::{calls, rules};
use crate::client::Client;
use crate::clock::Clock;
use crate::engine::{Running, Settings, Worker, Wrap};
use crate::id::MailId;
use crate::journal::{MailBody, Record, Verb};
use crate::saga::Definition;
use crate::step::{Cx, StepError, step};
use crate::store::{Backend, Lender, Mail, MemoryStore, State};

/// What is played.
pub(super) struct Subject<A, In, Out> {
    pub(super) definition: Definition<A, In, Out>,
    pub(super) app: Box<dyn Fn(&Ledger) -> A + Send + Sync>,
    pub(super) input: In,
    /// The longest that a run may take, in virtual time.
    pub(super) limit: Duration,
    pub(super) seams: Seams,
    /// Whether it is started under a key that others need as well.
    pub(super) keyed: bool,
    /// The steps whose effects participants see, once that is known.
    pub(super) known: OnceLock<BTreeSet<String>>,
}

/// Where a test of the explorer itself breaks the engine or the store.
#[derive(Default)]
pub(super) struct Seams {
    /// Between the engine and the faults.
    pub(super) engine: Option<Seam<Backend>>,
    /// Between the faults and the store.
    pub(super) store: Option<Seam<Backend>>,
    /// In the transactions of the store in memory.
    #[cfg(test)]
    pub(super) transactions: Option<crate::store::memory::Bug>,
    /// Between the engine and a step's code.
    pub(super) code: Option<Box<dyn Fn() -> Wrap + Send + Sync>>,
}

type Seam<T> = Box<dyn Fn(T) -> T + Send + Sync>;

/// The saga's id in every run.
const SAGA: &str = "explored";

/// The key that it shares with its rivals.
const KEY: &str = "shared";

/// Leases, looks and polls: long enough that little happens beside the saga, short enough that a
/// takeover takes seconds of a time that costs nothing. The shortest retries are waited for in memory,
/// longer ones in the store.
fn settings() -> Settings {
    Settings {
        lease: Duration::from_secs(3),
        look: Duration::from_secs(1),
        poll: Duration::from_millis(50)..Duration::from_secs(1),
        hold: Duration::from_millis(80),
        ..Settings::default()
    }
}

impl<A, In, Out> Subject<A, In, Out>
where
    A: Clone + Send + Sync + 'static,
    In: Serialize + Clone + Send + Sync + 'static,
    Out: Send + 'static,
{
    /// Plays one run, and says what is known of it.
    pub(super) fn play(&self, plan: &Plan) -> Evidence {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O can always be built");
        let mut evidence = runtime.block_on(self.direct(plan));
        evidence.read();
        rules::judge(&mut evidence);
        evidence
    }

    /// The store in memory as the lender of transactions.
    #[cfg(test)]
    fn lending(&self, memory: &Arc<MemoryStore>) -> Arc<MemoryStore> {
        self.seams.transactions.map_or(memory.clone(), |bug| Arc::new(memory.with_bug(bug)))
    }

    #[cfg(not(test))]
    fn lending(&self, memory: &Arc<MemoryStore>) -> Arc<MemoryStore> {
        memory.clone()
    }

    async fn direct(&self, plan: &Plan) -> Evidence {
        let clock = Clock::virtual_time();
        let began = tokio::time::Instant::now();
        let memory = Arc::new(MemoryStore::with_clock(clock.clone()));
        let lender = Lender::new(self.lending(&memory));
        let mut real = Backend { lender: Some(lender), ..Backend::from(memory) };
        if let Some(twin) = &self.seams.store {
            real = twin(real);
        }
        let ledger = Ledger::new();
        ledger.play(&plan.script);
        let shape = self.definition.plan().clone();
        // Business rows know no key: whatever is written twice is there twice.
        for node in shape.nodes.iter().filter(|node| !node.idempotent || node.transactional) {
            ledger.not_idempotent(node.name.as_str());
        }
        let scene = Scene::new(real.clone(), plan.hits.clone());
        let mut cast = Cast {
            subject: self,
            plan,
            scene: &scene,
            ledger: &ledger,
            clock,
            players: Vec::new(),
            started: Arc::default(),
        };
        if self.keyed {
            cast.rival("before").await;
        }
        let settled = tokio::time::timeout(self.limit, cast.until_it_rests()).await.is_ok();
        cast.let_zombies_speak().await;
        drop(cast);

        let summary = real.query.find(&shape.name, SAGA).await.expect("the store in memory answers");
        let journal = match &summary {
            Some(summary) => real.query.journal(summary.run).await.expect("the store in memory answers"),
            None => Vec::new(),
        };
        let mut broken = scene.broken();
        for rival in scene.rivals() {
            let rival = real.query.summary(rival).await.expect("the store in memory answers");
            let fine = |state| match summary.as_ref().map(|summary| summary.state) {
                Some(State::Ended(_)) => matches!(state, State::Ended(_)),
                // It is blocked, and holds the key.
                _ => matches!(state, State::Ended(_) | State::Queued),
            };
            if let Some(rival) = rival.filter(|rival| !fine(rival.state)) {
                broken.push(format!("a saga that needs the same key is {}", rival.state.as_str()));
            }
        }
        broken.extend(
            scene.missed().into_iter().map(|point| format!("point {point} was never reached as planned")),
        );
        Evidence {
            plan: plan.clone(),
            shape,
            entries: ledger.entries(),
            ledger,
            run: summary.as_ref().map(|summary| summary.run),
            summary,
            journal,
            trace: scene.trace(),
            took: began.elapsed(),
            records: Vec::new(),
            cancels: scene.cancels(),
            settled,
            known: self.known.get().cloned().unwrap_or_default(),
            broken,
        }
    }
}

/// The processes of a run.
struct Cast<'a, A, In, Out> {
    subject: &'a Subject<A, In, Out>,
    plan: &'a Plan,
    scene: &'a Scene,
    ledger: &'a Ledger,
    clock: Clock,
    players: Vec<(Process, Option<Running>)>,
    /// Somebody was told that the saga is started.
    started: Arc<AtomicBool>,
}

impl<A, In, Out> Cast<'_, A, In, Out>
where
    A: Clone + Send + Sync + 'static,
    In: Serialize + Clone + Send + Sync + 'static,
    Out: Send + 'static,
{
    /// Goes on until the saga has ended, or needs a person whom the script does not send.
    async fn until_it_rests(&mut self) {
        let mut retries = self.plan.script.retries;
        self.enter().await;
        loop {
            match self.scene.event().await {
                Event::Ended if self.alone().await => return,
                Event::Ended => {}
                Event::Died(number) => {
                    self.players[number].1 = None;
                    self.enter().await;
                }
                Event::Leaves(number) => {
                    if let Some(running) = self.players[number].1.take() {
                        tokio::spawn(running.drain());
                    }
                    self.enter().await;
                }
                Event::Frozen => self.enter().await,
                Event::Blocked if retries > 0 => {
                    retries -= 1;
                    self.retry().await;
                }
                Event::Blocked if self.rests().await => return,
                Event::Blocked => {}
            }
        }
    }

    /// Whether no rival is left.
    async fn alone(&self) -> bool {
        let query = &self.scene.real().query;
        for rival in self.scene.rivals() {
            let rival = query.summary(rival).await.expect("the store in memory answers");
            if !rival.is_some_and(|rival| matches!(rival.state, State::Ended(_))) {
                return false;
            }
        }
        true
    }

    /// Whether a blocked saga stays so: mail that waits for it may yet set it going.
    async fn rests(&self) -> bool {
        tokio::time::sleep(settings().poll.end * 3).await;
        let Some(run) = self.scene.run() else { return false };
        let summary = self.scene.real().query.summary(run).await.expect("the store in memory answers");
        summary.is_some_and(|summary| summary.state == State::Blocked)
    }

    /// A process begins, as a supervisor would begin it anew. Whoever wanted the saga started asks
    /// again, until somebody has said that it is.
    async fn enter(&mut self) {
        let process = Process::new(self.players.len());
        let Seams { engine, code, .. } = &self.subject.seams;
        let mut backend = FaultyStore::backend(self.scene, &process);
        if let Some(twin) = engine {
            backend = twin(backend);
        }
        let shape = self.subject.definition.plan().clone();
        let points = calls::wrap(self.scene.clone(), process.clone(), shape, self.plan.script.repeat);
        let wrap = match code {
            None => points,
            Some(twin) => {
                let twin = twin();
                Arc::new(move |code| points(twin(code))) as Wrap
            }
        };
        let running = Worker::new(backend, (self.subject.app)(self.ledger))
            .clock(self.clock.clone())
            .settings(settings())
            .wrap_code(wrap)
            .register(&self.subject.definition)
            .and_then(|worker| worker.register(&rival()))
            .expect("an explored step takes no database's transactions, but `testing::MemoryTx`")
            .start()
            .await
            .expect("a new process reaches the store");
        if !self.started.load(Relaxed) {
            tokio::spawn(start(
                running.client(),
                self.subject.definition.clone(),
                self.subject.input.clone(),
                self.subject.keyed.then(|| Rivalry { scene: self.scene.clone() }),
                self.started.clone(),
            ));
        }
        self.players.push((process, Some(running)));
    }

    /// Somebody starts a saga under the same key.
    async fn rival(&self, id: &str) {
        Rivalry { scene: self.scene.clone() }.begin::<A>(id).await;
    }

    /// An operator has the blocked place tried again.
    async fn retry(&self) {
        let Some(run) = self.scene.run() else { return };
        let Backend { store, query, .. } = self.scene.real();
        let rows = query.journal(run).await.expect("the store in memory answers");
        let records = rows.iter().flat_map(|row| crate::journal::decode(&row.body).unwrap_or_default());
        let at = records
            .filter_map(|record| if let Record::Blocked { at, .. } = record { Some(at) } else { None });
        let Some(at) = at.last() else { return };
        let body =
            MailBody::Operator { at, verb: Verb::Retry, who: "the script".into(), why: "by plan".into() };
        store.post(&[Mail::new(MailId::new(), run, &body)]).await.expect("the store in memory answers");
    }

    /// The frozen are thawed, and everybody has time to find out what became of the saga.
    async fn let_zombies_speak(&self) {
        let zombies = self.players.iter().filter(|(process, _)| process.was_zombie()).count();
        self.players.iter().for_each(|(process, _)| process.thaw());
        if zombies > 0 {
            tokio::time::sleep(settings().lease * 2).await;
        } else {
            // Siblings that were on their way arrive.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Starts sagas that need the key of the one that is explored.
struct Rivalry {
    scene: Scene,
}

impl Rivalry {
    async fn begin<A: Clone + Send + Sync + 'static>(&self, id: &str) {
        let start = crate::client::prepare(&rival::<A>(), id, &()).key(KEY).build().expect("a good start");
        self.scene.rival(start.run);
        let started = self.scene.real().store.start(None, &[start]).await;
        started.expect("the store in memory answers");
    }
}

/// A saga that only takes time.
fn rival<A: Clone + Send + Sync + 'static>() -> Definition<A, (), ()> {
    let (mut b, input) = Definition::build::<A, ()>("rival-of-the-explored", 1);
    let hold = step("hold", async |_: Cx<A>, ()| {
        tokio::time::sleep(Duration::from_millis(30)).await;
        Ok::<_, StepError>(())
    });
    let held = b.add(hold.no_compensation("time does not come back"), input);
    b.finish(held).expect("a good definition")
}

async fn start<A: Clone + Send + Sync + 'static, In: Serialize, Out: 'static>(
    client: Client,
    definition: Definition<A, In, Out>,
    input: In,
    rivalry: Option<Rivalry>,
    started: Arc<AtomicBool>,
) {
    while !started.load(Relaxed) {
        let mut starting = client.start(&definition, SAGA, &input);
        if rivalry.is_some() {
            starting = starting.key(KEY);
        }
        match starting.await {
            Ok(_) => {
                let first = !started.swap(true, Relaxed);
                if let Some(rivalry) = rivalry.as_ref().filter(|rivalry| first && !rivalry.scene.has_ended())
                {
                    rivalry.begin::<A>("after").await;
                }
            }
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
}
