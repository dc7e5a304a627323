//! A round that dies between any two of its lines, and the one that comes after it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use async_trait::async_trait;

use super::{BATCH, Blobs, Broken, Kept, Retain, leftovers, round, within};
use crate::codec::BlobError;
use crate::id::{Fingerprint, Name, RunId, WorkerId};
use crate::journal::{EndKind, Timestamp};
use crate::priority::Priority;
use crate::store::{Commit, LastError, MemoryStore, NewWorker, Pruned, Query, Result, Start, Store, Then};

/// A store and a shelf of blobs; the process that uses them dies at a point: before a call, or after it.
struct Scene {
    store: MemoryStore,
    shelf: Mutex<BTreeMap<String, Vec<u8>>>,
    live: RunId,
    over: [RunId; 2],
    passed: AtomicUsize,
    dies_at: usize,
}

/// Beyond every point at which a process is to die.
const NEVER: usize = usize::MAX / 2;

impl Scene {
    /// Two sagas that are over and one in flight, each with a blob that its journal refers to, and one of the first
    /// with a blob that nothing refers to.
    async fn new(dies_at: usize) -> Self {
        let store = MemoryStore::new();
        let worker = NewWorker { id: WorkerId::new(), label: "w".into(), lease: Duration::from_secs(60) };
        let fence = store.join(&worker).await.unwrap();
        let (mut shelf, mut runs) = (BTreeMap::new(), Vec::new());
        for saga in ["a", "b", "c"] {
            let run = RunId::new();
            let blob = format!("{run}/{saga}");
            store.start(Some(fence), &[start(run, saga, &blob)]).await.unwrap();
            shelf.insert(blob, saga.into());
            runs.push(run);
        }
        shelf.insert(format!("{}/nobody", runs[0]), vec![]);
        for run in &runs[..2] {
            let then = Then::End(EndKind::Completed);
            let commit = Commit {
                run: *run,
                number: 1,
                body: "[]".into(),
                mail: vec![],
                then,
                key: None,
                error: LastError::Same,
                pivot: false,
            };
            store.commit(fence, &[commit]).await.unwrap();
        }
        let (passed, shelf) = (AtomicUsize::new(0), Mutex::new(shelf));
        Self { store, shelf, live: runs[2], over: [runs[0], runs[1]], passed, dies_at }
    }

    async fn point(&self) {
        if self.passed.fetch_add(1, SeqCst) == self.dies_at {
            std::future::pending().await
        }
    }

    fn runs_with_blobs(&self) -> BTreeSet<String> {
        self.shelf.lock().unwrap().keys().map(|name| name.split('/').next().unwrap().to_owned()).collect()
    }

    /// References to blobs that are gone.
    async fn dangling(&self) -> Vec<String> {
        let mut dangling = Vec::new();
        for run in self.over.iter().chain([&self.live]) {
            for row in self.store.journal(*run).await.unwrap() {
                let blob = row.body.strip_prefix("blob ").map(str::to_owned);
                dangling.extend(blob.filter(|name| !self.shelf.lock().unwrap().contains_key(name)));
            }
        }
        dangling
    }
}

fn start(run: RunId, saga: &str, blob: &str) -> Start {
    Start {
        run,
        definition: Name::new("count").unwrap(),
        version: 1,
        fingerprint: Fingerprint::of(b"count"),
        saga: saga.into(),
        digest: [0; 32],
        body: format!("blob {blob}").into(),
        owned: true,
        key: None,
        priority: Priority::Normal,
        attributes: crate::Attributes::default(),
    }
}

#[async_trait]
impl Retain for Scene {
    async fn prune(&self, ended_before: Timestamp, after: Option<RunId>, limit: usize) -> Result<Pruned> {
        self.point().await;
        let pruned = self.store.prune(ended_before, after, limit).await;
        self.point().await;
        pruned
    }
    async fn kept(&self, runs: &[RunId]) -> Result<Vec<Kept>> {
        self.point().await;
        self.store.kept(runs).await
    }
}

#[async_trait]
impl Blobs for Scene {
    async fn put(&self, _: &str, _: &[u8]) -> Result<(), BlobError> {
        unreachable!("a round puts nothing")
    }
    async fn get(&self, _: &str) -> Result<Option<Vec<u8>>, BlobError> {
        unreachable!("a round reads nothing")
    }
    async fn runs(&self, after: Option<&str>, limit: usize) -> Result<Vec<String>, BlobError> {
        self.point().await;
        let runs =
            self.runs_with_blobs().into_iter().filter(|run| after.is_none_or(|after| run.as_str() > after));
        Ok(runs.take(limit).collect())
    }
    async fn remove(&self, run: &str) -> Result<(), BlobError> {
        self.point().await;
        // One after the other, as most stores of blobs do it.
        loop {
            let next = self.shelf.lock().unwrap().keys().find(|name| name.starts_with(run)).cloned();
            let Some(name) = next else { break };
            self.shelf.lock().unwrap().remove(&name);
            self.point().await;
        }
        Ok(())
    }
}

/// Plays a round until it dies at each of its points in turn; gives what was found broken, and how many points
/// there were.
async fn dies_everywhere<'s, R>(round: impl Fn(&'s Scene) -> R) -> (Vec<String>, usize)
where
    R: Future<Output = std::result::Result<(), Broken>>,
{
    let mut broken = Vec::new();
    for point in 0.. {
        // Borrowed by a future that is dropped where it stands; a test may leak a few.
        let scene: &'s Scene = Box::leak(Box::new(Scene::new(point).await));
        let died = tokio::time::timeout(Duration::from_secs(1), round(scene)).await.is_err();
        let dangling = scene.dangling().await;
        if !dangling.is_empty() {
            broken.push(format!("died at point {point}: {dangling:?} are gone and referred to"));
        }
        // The next round is anybody's, and lives.
        scene.passed.store(NEVER, SeqCst);
        super::round(scene, Some(scene), Timestamp::MAX_UTC).await.unwrap();
        let left = scene.runs_with_blobs();
        if left != BTreeSet::from([scene.live.to_string()]) {
            broken.push(format!("died at point {point}: blobs of {left:?} are left"));
        }
        if !died {
            return (broken, point);
        }
    }
    unreachable!("every round has an end")
}

#[tokio::test(start_paused = true)]
async fn a_round_that_dies_anywhere_leaves_nothing_but_garbage_that_the_next_one_removes() {
    let (broken, points) = dies_everywhere(|scene| round(scene, Some(scene), Timestamp::MAX_UTC)).await;
    assert_eq!(broken, Vec::<String>::new());
    assert!(points >= 10, "it could die at {points} points only");
}

/// The twin: blobs first, while the journals still refer to them.
async fn backwards(scene: &Scene) -> std::result::Result<(), Broken> {
    for run in &scene.over {
        within(scene.remove(&run.to_string())).await?;
    }
    super::journals(scene, Timestamp::MAX_UTC).await
}

#[tokio::test(start_paused = true)]
async fn a_round_in_the_wrong_order_is_caught() {
    let (broken, _) = dies_everywhere(backwards).await;
    assert!(broken.iter().any(|broken| broken.contains("referred to")), "{broken:?}");
}

#[tokio::test(start_paused = true)]
async fn a_round_goes_through_all_pages() {
    let scene = Scene::new(usize::MAX).await;
    let strangers: Vec<RunId> = (0..BATCH * 2 + 1).map(|_| RunId::new()).collect();
    scene.shelf.lock().unwrap().extend(strangers.iter().map(|run| (format!("{run}/x"), vec![])));
    super::journals(&scene, Timestamp::MAX_UTC).await.unwrap();
    leftovers(&scene, &scene).await.unwrap();
    let wanted = strangers.iter().chain([&scene.live]).map(ToString::to_string);
    assert_eq!(scene.runs_with_blobs(), wanted.collect(), "what the store does not know is left alone");
}
