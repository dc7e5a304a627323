//! Transactions that are lent to steps: a suite of its own, for stores that are [`Transactional`].
//!
//! Besides the store it needs rows of a user of the store, which [`Business`] writes and counts.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;

use super::rig::{BEGAN, body, cancel, claim, end, go, holds, new_worker, runs, same, start};
use super::{Broken, Report, Verdict};
use crate::id::RunId;
use crate::journal::EndKind;
use crate::store::{
    Begun, Commit, CommitReply, Error, Fence, JournalRow, Query, StartReply, State, Store, Transactional,
};

/// A database of its own for one case, with a table that the store knows nothing of.
#[async_trait]
pub trait Business: Send + Sync + 'static {
    /// The store.
    type Store: Transactional + Query;

    /// Whether a transaction keeps everybody else from writing anything, as in SQLite.
    const ALONE: bool;

    /// Opens the store as another process would. The first call finds it empty.
    async fn open(&self) -> Arc<Self::Store>;

    /// Inserts a row through the open transaction.
    async fn insert(&self, tx: &mut <Self::Store as Transactional>::Tx, row: &str);

    /// Ends the transaction behind the store's back, by sending `COMMIT` through it.
    async fn commit_by_hand(&self, tx: &mut <Self::Store as Transactional>::Tx);

    /// The rows that everybody sees, in any order.
    async fn rows(&self) -> Vec<String>;
}

type Tx<B> = <<B as Business>::Store as Transactional>::Tx;

/// One worker with one saga, about to write commit 1.
struct Scene<B: Business> {
    business: Arc<B>,
    store: Arc<B::Store>,
    fence: Fence,
    run: RunId,
}

impl<B: Business> Scene<B> {
    async fn new(business: Arc<B>) -> Result<Self, Broken> {
        let store = business.open().await;
        let fence = store.join(&new_worker()).await?;
        let start = start("a", true);
        let replies = store.start(Some(fence), std::slice::from_ref(&start)).await?;
        same!(replies, [StartReply::Started], "a start");
        Ok(Self { business, store, fence, run: start.run })
    }

    async fn open(&self, next: u32) -> Result<Tx<B>, Broken> {
        match self.store.begin(self.fence, self.run, next).await? {
            Begun::Open(tx) => Ok(tx),
            Begun::Moved => Err(Broken(format!("the transaction of commit {next}, the next, was not begun"))),
        }
    }

    /// One that has written a row.
    async fn written(&self, next: u32, row: &str) -> Result<Tx<B>, Broken> {
        let mut tx = self.open(next).await?;
        self.business.insert(&mut tx, row).await;
        Ok(tx)
    }

    async fn commit(&self, tx: Tx<B>, commit: Commit) -> Result<CommitReply, Error> {
        self.store.commit_in(tx, self.fence, &commit).await
    }

    /// Fails unless everybody sees these rows and this many commits.
    async fn shows(&self, rows: &[&str], commits: u32, when: &str) -> Verdict {
        let mut seen = self.business.rows().await;
        seen.sort_unstable();
        same!(seen, rows, "the rows {when}");
        let journal: Vec<JournalRow> = self.store.journal(self.run).await?;
        let bodies: Vec<String> = journal.iter().map(|row| row.body.to_string()).collect();
        let wanted: Vec<String> = std::iter::once(BEGAN.into()).chain((1..=commits).map(body)).collect();
        same!(bodies, wanted, "the journal {when}");
        Ok(())
    }

    async fn is_moved(&self, fence: Fence, next: u32, why: &str) -> Verdict {
        let begun = self.store.begin(fence, self.run, next).await?;
        holds!(matches!(begun, Begun::Moved), "a transaction was begun {why}");
        Ok(())
    }
}

fn is_misused<T>(answer: &Result<T, Error>) -> bool {
    matches!(answer, Err(Error::Misused(_)))
}

async fn rows_and_journal_become_true_together<B: Business>(scene: &Scene<B>) -> Verdict {
    let tx = scene.written(1, "x").await?;
    scene.shows(&[], 0, "while the transaction is open").await?;
    let reply = scene.commit(tx, go(scene.run, 1)).await?;
    same!(reply, CommitReply::Committed { mail: vec![] }, "the commit of an open transaction");
    scene.shows(&["x"], 1, "once it is committed").await?;
    let tx = scene.written(2, "y").await?;
    scene.commit(tx, end(scene.run, 2)).await?;
    scene.shows(&["x", "y"], 2, "once the saga has ended in one").await?;
    let state = scene.store.summary(scene.run).await?.map(|saga| saga.state);
    same!(state, Some(State::Ended(EndKind::Completed)), "the saga that ended in a transaction");
    scene.is_moved(scene.fence, 3, "for a saga that has ended").await
}

async fn what_is_rolled_back_leaves_no_trace<B: Business>(scene: &Scene<B>) -> Verdict {
    let tx = scene.written(1, "x").await?;
    scene.store.roll_back(tx).await?;
    scene.shows(&[], 0, "after a transaction was rolled back").await?;
    drop(scene.written(1, "y").await?);
    // Beginning waits for the one that was dropped.
    let tx = scene.written(1, "z").await?;
    scene.commit(tx, go(scene.run, 1)).await?;
    scene.shows(&["z"], 1, "after one was dropped and the next committed").await
}

async fn a_transaction_begins_only_where_its_saga_stands<B: Business>(scene: &Scene<B>) -> Verdict {
    let stranger = scene.store.join(&new_worker()).await?;
    scene.is_moved(scene.fence, 2, "for a commit whose predecessor is missing").await?;
    scene.is_moved(stranger, 1, "for a worker that does not own the saga").await?;
    scene.store.commit(scene.fence, &[go(scene.run, 1)]).await?;
    scene.is_moved(scene.fence, 1, "for a commit that is written").await?;
    scene.shows(&[], 1, "after nothing was begun").await?;
    let unknown = Fence { epoch: 7, ..scene.fence };
    let begun = scene.store.begin(unknown, scene.run, 2).await;
    holds!(matches!(begun, Err(Error::Fenced)), "a transaction was begun under a wrong epoch");
    Ok(())
}

/// The first one's COMMIT was not heard of: the second must not believe what it saw before it waited.
async fn a_second_transaction_waits_and_reads_the_number_again<B: Business>(scene: &Scene<B>) -> Verdict {
    let tx = scene.written(1, "x").await?;
    let second = tokio::spawn({
        let (store, fence, run) = (scene.store.clone(), scene.fence, scene.run);
        async move { store.begin(fence, run, 1).await.map(|begun| matches!(begun, Begun::Moved)) }
    });
    // Let it get as far as it can.
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    holds!(!second.is_finished(), "a second transaction of the same saga was begun beside the first");
    scene.commit(tx, go(scene.run, 1)).await?;
    let moved = second.await.map_err(|e| Broken(format!("the store panicked: {e}")))??;
    holds!(moved, "a transaction was begun for a number that had been written while it waited");
    scene.shows(&["x"], 1, "after both").await
}

/// On a store whose transactions are alone the fence waits; elsewhere it does not, and the commit is refused.
async fn a_worker_that_was_fenced_meanwhile_writes_nothing<B: Business>(scene: &Scene<B>) -> Verdict {
    let heir_store = scene.business.open().await;
    let heir = heir_store.join(&new_worker()).await?;
    let tx = scene.written(1, "x").await?;
    let fencing = tokio::spawn({
        let (store, worker) = (heir_store.clone(), scene.fence.worker);
        async move { store.fence(worker).await }
    });
    let panicked = |e| Broken(format!("the store panicked: {e}"));
    if B::ALONE {
        scene.commit(tx, go(scene.run, 1)).await?;
        fencing.await.map_err(panicked)??;
        scene.shows(&["x"], 1, "when a fence had waited for it").await?;
    } else {
        fencing.await.map_err(panicked)??;
        // While it is open nobody else may have its saga: what it wrote might yet come.
        let taken = heir_store.claim(&claim(heir, 10)).await?;
        same!(runs(&taken), [] as [RunId; 0], "what is claimed while a transaction of the dead is open");
        let answer = scene.commit(tx, go(scene.run, 1)).await;
        holds!(matches!(answer, Err(Error::Fenced)), "a zombie's transaction gave {answer:?}");
        scene.shows(&[], 0, "after a zombie's transaction").await?;
    }
    let taken = heir_store.claim(&claim(heir, 10)).await?;
    same!(runs(&taken), [scene.run], "what is claimed afterwards");
    Ok(())
}

async fn who_ends_it_by_hand_is_told<B: Business>(scene: &Scene<B>) -> Verdict {
    let mut tx = scene.written(1, "x").await?;
    scene.business.commit_by_hand(&mut tx).await;
    let answer = scene.commit(tx, go(scene.run, 1)).await;
    holds!(is_misused(&answer), "the commit of a transaction that its user had committed gave {answer:?}");
    scene.shows(&["x"], 0, "after its user committed it").await?;
    let mut tx = scene.written(1, "y").await?;
    scene.business.commit_by_hand(&mut tx).await;
    let answer = scene.store.roll_back(tx).await;
    holds!(is_misused(&answer), "rolling back what its user had committed gave {answer:?}");
    // And nothing of it is in the way of the next.
    let tx = scene.written(1, "z").await?;
    scene.commit(tx, go(scene.run, 1)).await?;
    scene.shows(&["x", "y", "z"], 1, "after an honest one").await
}

async fn a_refused_commit_takes_its_rows_along<B: Business>(scene: &Scene<B>) -> Verdict {
    let tx = scene.written(1, "x").await?;
    let reply = scene.commit(tx, go(scene.run, 2)).await?;
    same!(reply, CommitReply::Refused, "a commit that is not the next");
    scene.shows(&[], 0, "after a refused commit").await?;
    let mail = cancel(scene.run);
    scene.store.post(std::slice::from_ref(&mail)).await?;
    let pivot = |mail: &[_]| Commit { pivot: true, mail: mail.to_vec(), ..go(scene.run, 1) };
    let tx = scene.written(1, "y").await?;
    let reply = scene.commit(tx, pivot(&[])).await?;
    same!(reply, CommitReply::Unread { mail: vec![mail.clone()] }, "a pivot's start past unread mail");
    scene.shows(&[], 0, "after a pivot that did not start").await?;
    let tx = scene.written(1, "z").await?;
    let reply = scene.commit(tx, pivot(&[mail.id])).await?;
    same!(reply, CommitReply::Committed { mail: vec![] }, "a pivot's start that reads the mail");
    scene.shows(&["z"], 1, "after the pivot's start").await
}

type Check<B> = for<'a> fn(&'a Scene<B>) -> BoxFuture<'a, Verdict>;

/// Runs every case, each on a fresh database.
pub async fn run<B: Business>(fresh: impl AsyncFn() -> B) -> Report {
    macro_rules! listed {
        ($($check:ident),+ $(,)?) => { vec![$((stringify!($check), (|scene| Box::pin($check(scene))) as Check<B>)),+] };
    }
    let cases = listed![
        rows_and_journal_become_true_together,
        what_is_rolled_back_leaves_no_trace,
        a_transaction_begins_only_where_its_saga_stands,
        a_second_transaction_waits_and_reads_the_number_again,
        a_worker_that_was_fenced_meanwhile_writes_nothing,
        who_ends_it_by_hand_is_told,
        a_refused_commit_takes_its_rows_along,
    ];
    let mut found = Vec::new();
    for (name, check) in cases {
        let business = Arc::new(fresh().await);
        let checked = super::checked(async { check(&Scene::new(business).await?).await });
        found.push((name, checked.await));
    }
    Report { cases: found }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::store::MemoryStore;
    use crate::store::memory::{Bug, MemoryTransaction};

    #[derive(Default)]
    struct Memory {
        store: Arc<MemoryStore>,
        rows: Arc<Mutex<Vec<String>>>,
    }

    #[async_trait]
    impl Business for Memory {
        type Store = MemoryStore;
        const ALONE: bool = false;

        async fn open(&self) -> Arc<MemoryStore> {
            self.store.clone()
        }

        async fn insert(&self, tx: &mut MemoryTransaction, row: &str) {
            let (rows, row) = (self.rows.clone(), row.to_owned());
            tx.push(move || rows.lock().unwrap().push(row));
        }

        async fn commit_by_hand(&self, tx: &mut MemoryTransaction) {
            tx.commit_by_hand();
        }

        async fn rows(&self) -> Vec<String> {
            self.rows.lock().unwrap().clone()
        }
    }

    #[tokio::test]
    async fn transactions_in_memory_hold() {
        run(async || Memory::default()).await.assert_all_hold();
    }

    #[tokio::test]
    async fn every_twin_is_caught_by_the_guarantee_that_it_breaks() {
        for (bug, guarantee) in [
            (Bug::ReadsTheFenceFirst, "a_worker_that_was_fenced_meanwhile_writes_nothing"),
            (Bug::ReadsNoNumber, "a_second_transaction_waits_and_reads_the_number_again"),
            (Bug::LocksNothing, "a_second_transaction_waits_and_reads_the_number_again"),
            (Bug::TrustsItsUser, "who_ends_it_by_hand_is_told"),
            (Bug::KeepsWhatItRollsBack, "what_is_rolled_back_leaves_no_trace"),
            (Bug::CommitsWithoutTheJournal, "a_refused_commit_takes_its_rows_along"),
            (Bug::ForgetsTheRows, "rows_and_journal_become_true_together"),
        ] {
            let broken =
                async || Memory { store: Arc::new(MemoryStore::new().with_bug(bug)), ..Memory::default() };
            let report = run(broken).await;
            assert!(
                report.broken().contains(&guarantee),
                "{bug:?} broke {:?}, not {guarantee}",
                report.broken()
            );
        }
    }
}
