//! Mail of a newer version holds up its own saga until a worker reads it, and nothing else; damaged mail is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use saga_core::admin::{Admin, Unread};
use saga_core::engine::{Running, Settings};
use saga_core::id::MailId;
use saga_core::journal::{Answer, MailBody, Record};
use saga_core::store::{
    Backend, Claim, Commit, CommitReply, LastError, Loaded, Mail, MemoryStore, NewWorker, State, Summary,
    Then, UnreadMail,
};
use saga_core::{Client, Cx, Definition, Ended, RunId, StepError, Worker, WorkerId, step};
use tokio::sync::Semaphore;

const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone)]
struct App {
    /// What the first step waits for.
    gate: Arc<Semaphore>,
    begun: Arc<AtomicU32>,
    captured: Arc<AtomicU32>,
}

async fn charge(cx: Cx<App>, n: u64) -> Result<u64, StepError> {
    cx.state().begun.fetch_add(1, SeqCst);
    cx.state().gate.acquire().await.unwrap().forget();
    Ok(n)
}

async fn capture(cx: Cx<App>, n: u64) -> Result<u64, StepError> {
    cx.state().captured.fetch_add(1, SeqCst);
    Ok(n)
}

fn definition() -> Definition<App, u64, u64> {
    let (mut b, n) = Definition::build::<App, u64>("order", 1);
    let charged = b.add(step("charge", charge).no_compensation("it only counts"), n);
    let (b, captured) = b.pivot(step("capture", capture), charged);
    b.finish(captured).unwrap()
}

/// A version that is newer than all there is.
fn newer(run: RunId) -> Mail {
    Mail { id: MailId::new(), run, format: MailBody::FORMAT + 1, body: r#"{"sleep":{}}"#.into() }
}

struct Scene {
    backend: Backend,
    app: App,
    client: Client,
    admin: Admin,
    worker: Running,
}

impl Scene {
    async fn new() -> Self {
        let backend = Backend::from(Arc::new(MemoryStore::new()));
        let app = App { gate: Arc::new(Semaphore::new(0)), begun: Arc::default(), captured: Arc::default() };
        let worker = Worker::new(backend.clone(), app.clone()).register(&definition()).unwrap();
        let poll = Duration::from_millis(1)..Duration::from_millis(2);
        let worker = worker.settings(Settings { poll, ..Settings::default() }).start().await.unwrap();
        Self { client: worker.client(), admin: Admin::new(backend.clone()), backend, app, worker }
    }

    /// Whose first step is under way.
    async fn begun(&self, id: &str) -> RunId {
        let before = self.app.begun.load(SeqCst);
        let run = self.client.start(&definition(), id, &1).await.unwrap().run();
        self.until(|| self.app.begun.load(SeqCst) > before).await;
        run
    }

    async fn until(&self, mut holds: impl FnMut() -> bool) {
        let waited = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waited).await.expect("it comes about");
    }

    async fn until_state(&self, run: RunId, state: State) -> Summary {
        let waited = async {
            loop {
                let summary = self.client.status(run).await.unwrap();
                if summary.state == state && summary.owner.is_none() {
                    return summary;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waited).await.expect("it is given up")
    }

    /// The worker looks for sagas again and again, and takes others.
    async fn a_neighbour_ends(&self, id: &str) {
        let neighbour = Client::new(self.backend.clone()).start(&definition(), id, &2).await.unwrap();
        self.app.gate.add_permits(1);
        let ended = tokio::time::timeout(PATIENCE, neighbour.wait()).await.expect("it ends").unwrap();
        assert!(matches!(ended, Ended::Completed(2)), "{ended:?}");
    }

    /// Takes the saga as a worker of the newer version would, reads its mail, and gives it back.
    async fn a_newer_worker_reads(&self, run: RunId) {
        let store = &self.backend.store;
        let lease = Duration::from_secs(60);
        let worker = NewWorker { id: WorkerId::new(), label: "newer".into(), lease };
        let fence = store.join(&worker).await.unwrap();
        let fingerprints = vec![definition().plan().fingerprint()];
        let claim = Claim { fence, fingerprints, limit: 10, reads: MailBody::FORMAT + 1 };
        let Loaded { journal, mail, .. } = store.claim(&claim).await.unwrap().sagas.remove(0);
        let commit = Commit {
            run,
            number: u32::try_from(journal.len()).unwrap(),
            body: "[]".into(),
            mail: mail.iter().map(|mail| mail.id).collect(),
            then: Then::Wait(chrono::Utc::now()),
            key: None,
            error: LastError::Same,
            pivot: false,
        };
        assert_eq!(store.commit(fence, &[commit]).await.unwrap(), [CommitReply::Committed { mail: vec![] }]);
        store.fence(worker.id).await.unwrap();
    }
}

#[tokio::test]
async fn a_saga_whose_mail_is_newer_is_given_up_and_left_alone() {
    let scene = Scene::new().await;
    let run = scene.begun("told").await;
    scene.backend.store.post(&[newer(run)]).await.unwrap();
    // What is under way ends, and is kept; the pivot does not start.
    scene.app.gate.add_permits(1);
    scene.until_state(run, State::Waiting).await;
    let kept = scene.admin.journal(run).await.unwrap().into_iter().flat_map(|entry| entry.records);
    assert!(kept.into_iter().any(|record| matches!(record, Record::Finished { .. })), "charge has ended");
    assert_eq!(scene.app.captured.load(SeqCst), 0);
    for id in ["one", "two", "three"] {
        scene.a_neighbour_ends(id).await;
    }
    assert_eq!(scene.client.status(run).await.unwrap().owner, None, "it is passed over");
    assert_eq!(scene.app.captured.load(SeqCst), 3, "only its neighbours went on");
    // It is told.
    let view = scene.admin.view(run).await.unwrap();
    assert_eq!(view.unread, [Unread::Foreign { newer: MailBody::FORMAT + 1 }]);
    let unread = UnreadMail { format: MailBody::FORMAT + 1, runs: 1 };
    assert_eq!(scene.admin.unread_mail().await.unwrap(), [unread]);
    // A worker of that version reads it; then any may go on.
    scene.a_newer_worker_reads(run).await;
    scene.until_state(run, State::Ended(saga_core::journal::EndKind::Completed)).await;
    assert_eq!((scene.app.begun.load(SeqCst), scene.app.captured.load(SeqCst)), (4, 4), "each once");
    scene.worker.drain().await;
}

#[tokio::test]
async fn a_saga_that_was_told_before_it_is_taken_is_not_taken() {
    let scene = Scene::new().await;
    scene.worker.pause();
    let run = Client::new(scene.backend.clone()).start(&definition(), "told", &1).await.unwrap().run();
    scene.backend.store.post(&[newer(run)]).await.unwrap();
    scene.worker.resume();
    scene.a_neighbour_ends("one").await;
    assert_eq!(scene.admin.journal(run).await.unwrap().len(), 1, "nothing of it has begun");
    scene.a_newer_worker_reads(run).await;
    scene.app.gate.add_permits(1);
    scene.until_state(run, State::Ended(saga_core::journal::EndKind::Completed)).await;
}

#[tokio::test]
async fn damaged_mail_is_refused_and_harms_nobody() {
    let scene = Scene::new().await;
    let run = scene.begun("told").await;
    let text = r#"{"cancel":{"reas"#;
    let mail = Mail { format: 1, body: text.into(), ..newer(run) };
    let id = mail.id;
    scene.backend.store.post(&[mail]).await.unwrap();
    scene.app.gate.add_permits(1);
    scene.until_state(run, State::Ended(saga_core::journal::EndKind::Completed)).await;
    let kept = scene.admin.journal(run).await.unwrap().into_iter().flat_map(|entry| entry.records);
    let received = kept.into_iter().find_map(|record| match record {
        Record::Received { mail, body, answer } if mail == id => Some((body, answer)),
        _ => None,
    });
    let (body, answer) = received.expect("it was read");
    assert_eq!(body, MailBody::Damaged { text: text.into() });
    assert!(matches!(&answer, Answer::Refused(why) if why.contains("does not read")), "{answer:?}");
}
