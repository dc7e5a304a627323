//! Engines that misread what a store tells them.

use async_trait::async_trait;

use super::super::play::Seams;
use super::stores::{Habit, TakesItForLost, with};
use super::{found, sagas};
use crate::id::RunId;
use crate::store::{Commit, CommitReply, Error, Fence, Loaded, Result, Store};

fn engine<H: Habit>(habit: impl Fn() -> H + Send + Sync + 'static) -> Seams {
    Seams { engine: Some(with(habit)), ..Seams::default() }
}

/// Takes a lost answer for a no, and does not look whose the saga is.
struct TakesSilenceForNo;

#[async_trait]
impl Habit for TakesSilenceForNo {
    async fn commit(&self, real: &dyn Store, fence: Fence, commits: &[Commit]) -> Result<Vec<CommitReply>> {
        match real.commit(fence, commits).await {
            Err(Error::Unknown(_)) => Ok(vec![CommitReply::Refused; commits.len()]),
            replies => replies,
        }
    }

    async fn load(&self, real: &dyn Store, run: RunId) -> Result<Option<Loaded>> {
        TakesItForLost.load(real, run).await
    }
}

#[test]
fn a_lost_answer_that_is_taken_as_refused() {
    let found = found(sagas::linear(), engine(|| TakesSilenceForNo));
    assert!(found.contains("it has not come to rest"), "{found}");
}

/// Sends what was not answered as the commit after it.
struct SendsUnderAnotherNumber;

#[async_trait]
impl Habit for SendsUnderAnotherNumber {
    async fn commit(&self, real: &dyn Store, fence: Fence, commits: &[Commit]) -> Result<Vec<CommitReply>> {
        match real.commit(fence, commits).await {
            Err(Error::Unknown(_)) => {
                let next =
                    commits.iter().map(|commit| Commit { number: commit.number + 1, ..commit.clone() });
                let next: Vec<_> = next.collect();
                real.commit(fence, &next).await
            }
            replies => replies,
        }
    }
}

#[test]
fn a_commit_that_is_sent_again_under_another_number() {
    let found = found(sagas::linear(), engine(|| SendsUnderAnotherNumber));
    assert!(found.contains("is not legal") || found.contains("it has not come to rest"), "{found}");
}

/// Forgets to say that it was fenced, and goes on as if its commit were durable.
struct GoesOnWhenFenced;

#[async_trait]
impl Habit for GoesOnWhenFenced {
    async fn commit(&self, real: &dyn Store, fence: Fence, commits: &[Commit]) -> Result<Vec<CommitReply>> {
        match real.commit(fence, commits).await {
            Err(Error::Fenced) => Ok(vec![CommitReply::Committed { mail: Vec::new() }; commits.len()]),
            replies => replies,
        }
    }
}

#[test]
fn a_worker_that_goes_on_when_it_was_fenced() {
    let found = found(sagas::linear(), engine(|| GoesOnWhenFenced));
    let called = ["was called before its start was durable", "was called twice"];
    assert!(called.iter().any(|what| found.contains(what)), "{found}");
}
