//! Stores that break what the engine relies on.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;

use super::super::play::Seams;
use super::stores::{Habit, rewritten, with};
use super::{found, found_among_rivals, sagas};
use crate::id::{MailId, RunId, WorkerId};
use crate::journal::{Answer, Effect, MailBody, Outcome, Record, Timestamp};
use crate::store::{
    Claim, Claimed, Commit, CommitReply, Error, Fence, Mail, NewWorker, Result, Start, StartReply, Store,
    Then,
};

fn store<H: Habit>(habit: impl Fn() -> H + Send + Sync + 'static) -> Seams {
    Seams { store: Some(with(habit)), ..Seams::default() }
}

/// Writes what a fenced worker sends in the name of whoever owns the saga now.
#[derive(Default)]
struct NoEpoch {
    fences: Mutex<HashMap<WorkerId, Fence>>,
}

#[async_trait]
impl Habit for NoEpoch {
    async fn join(&self, real: &dyn Store, worker: &NewWorker) -> Result<Fence> {
        let fence = real.join(worker).await?;
        self.fences.lock().unwrap().insert(fence.worker, fence);
        Ok(fence)
    }

    async fn commit(&self, real: &dyn Store, fence: Fence, commits: &[Commit]) -> Result<Vec<CommitReply>> {
        match real.commit(fence, commits).await {
            Err(Error::Fenced) => {
                let owner = real.load(commits[0].run).await?.and_then(|loaded| loaded.owner);
                let owner = owner.and_then(|owner| self.fences.lock().unwrap().get(&owner).copied());
                real.commit(owner.ok_or(Error::Fenced)?, commits).await
            }
            replies => replies,
        }
    }
}

#[test]
fn a_lease_without_an_epoch() {
    let found = found(sagas::linear(), store(NoEpoch::default));
    assert!(found.contains("was written after it was fenced"), "{found}");
}

/// Its end rides beside the fence instead of behind it.
#[derive(Default)]
struct EndBesideTheFence {
    ended: Mutex<HashSet<RunId>>,
}

#[async_trait]
impl Habit for EndBesideTheFence {
    async fn commit(&self, real: &dyn Store, fence: Fence, commits: &[Commit]) -> Result<Vec<CommitReply>> {
        let replies = real.commit(fence, commits).await;
        if replies == Err(Error::Fenced) {
            let ended = commits.iter().filter(|commit| matches!(commit.then, Then::End(_)));
            self.ended.lock().unwrap().extend(ended.map(|commit| commit.run));
        }
        replies
    }

    async fn claim(&self, real: &dyn Store, claim: &Claim) -> Result<Claimed> {
        let mut claimed = real.claim(claim).await?;
        claimed.sagas.retain(|saga| !self.ended.lock().unwrap().contains(&saga.run));
        Ok(claimed)
    }
}

#[test]
fn an_end_that_is_applied_although_its_commit_is_refused() {
    let found = found(sagas::linear(), store(EndBesideTheFence::default));
    assert!(found.contains("it has not come to rest"), "{found}");
}

/// The mail that a commit consumes is gone, also where the commit is refused.
#[derive(Default)]
struct EatsMail {
    eaten: Mutex<HashSet<MailId>>,
}

impl EatsMail {
    fn hide(&self, mail: &mut Vec<Mail>) {
        mail.retain(|mail| !self.eaten.lock().unwrap().contains(&mail.id));
    }
}

#[async_trait]
impl Habit for EatsMail {
    async fn commit(&self, real: &dyn Store, fence: Fence, commits: &[Commit]) -> Result<Vec<CommitReply>> {
        let mut replies = real.commit(fence, commits).await;
        self.eaten.lock().unwrap().extend(commits.iter().flat_map(|commit| &commit.mail));
        for reply in replies.iter_mut().flatten() {
            if let CommitReply::Committed { mail } = reply {
                self.hide(mail);
            }
        }
        replies
    }

    async fn claim(&self, real: &dyn Store, claim: &Claim) -> Result<Claimed> {
        let mut claimed = real.claim(claim).await?;
        self.hide(&mut claimed.mail);
        claimed.sagas.iter_mut().for_each(|saga| self.hide(&mut saga.mail));
        Ok(claimed)
    }
}

#[test]
fn mail_that_is_consumed_although_its_commit_is_refused() {
    let explore = sagas::explored(sagas::linear()).seams(store(EatsMail::default));
    let stolen = (4..10).map(|point| explore.play(&format!("@3=cancel @{point}=steal-before")));
    let broken: Vec<String> = stolen.filter_map(|run| Some(run.err()?.broken.join("; "))).collect();
    assert!(broken.iter().any(|broken| broken.contains("is not answered")), "{broken:?}");
}

/// Reads the journal before the last commit of the worker that is taken over has come in.
struct ReadsBeforeTheDrain;

#[async_trait]
impl Habit for ReadsBeforeTheDrain {
    async fn claim(&self, real: &dyn Store, claim: &Claim) -> Result<Claimed> {
        let mut claimed = real.claim(claim).await?;
        for saga in &mut claimed.sagas {
            let by_another = |row: &crate::store::JournalRow| row.worker != Some(claim.fence.worker);
            if saga.journal.len() > 1 && saga.journal.last().is_some_and(by_another) {
                saga.journal.pop();
            }
        }
        Ok(claimed)
    }
}

#[test]
fn a_takeover_that_reads_the_journal_before_the_drain() {
    let found = found(sagas::linear(), store(|| ReadsBeforeTheDrain));
    assert!(found.contains("it has not come to rest") || found.contains("journaled as done"), "{found}");
}

/// Leaves starts out of the journal.
struct NoStarts;

fn no_starts(body: &str) -> std::sync::Arc<str> {
    rewritten(body, |record| !matches!(record, Record::Started { .. }))
}

#[async_trait]
impl Habit for NoStarts {
    async fn start(
        &self,
        real: &dyn Store,
        fence: Option<Fence>,
        starts: &[Start],
    ) -> Result<Vec<StartReply>> {
        let starts: Vec<_> =
            starts.iter().map(|start| Start { body: no_starts(&start.body), ..start.clone() }).collect();
        real.start(fence, &starts).await
    }

    async fn commit(&self, real: &dyn Store, fence: Fence, commits: &[Commit]) -> Result<Vec<CommitReply>> {
        let commits: Vec<_> =
            commits.iter().map(|commit| Commit { body: no_starts(&commit.body), ..commit.clone() }).collect();
        real.commit(fence, &commits).await
    }
}

#[test]
fn a_start_that_is_not_recorded() {
    let found = found(sagas::linear(), store(|| NoStarts));
    assert!(found.contains("was called before its start was durable"), "{found}");
}

/// Answers first and writes when the next commit comes; an end is written at once.
#[derive(Default)]
struct WritesBehind {
    waiting: Mutex<Option<(Fence, Vec<Commit>)>>,
}

#[async_trait]
impl Habit for WritesBehind {
    async fn commit(&self, real: &dyn Store, fence: Fence, commits: &[Commit]) -> Result<Vec<CommitReply>> {
        let waiting = self.waiting.lock().unwrap().take();
        if let Some((fence, commits)) = waiting {
            let _ = real.commit(fence, &commits).await;
        }
        if commits.iter().any(|commit| commit.then != Then::Go) {
            return real.commit(fence, commits).await;
        }
        *self.waiting.lock().unwrap() = Some((fence, commits.to_vec()));
        Ok(vec![CommitReply::Committed { mail: Vec::new() }; commits.len()])
    }
}

#[test]
fn a_start_that_is_acted_upon_before_it_is_durable() {
    let found = found(sagas::linear(), store(WritesBehind::default));
    assert!(found.contains("was called before its start was durable"), "{found}");
}

/// Whoever reads a journal again reads that an unknown outcome was none.
struct ForgetsDoubt;

#[async_trait]
impl Habit for ForgetsDoubt {
    async fn claim(&self, real: &dyn Store, claim: &Claim) -> Result<Claimed> {
        let mut claimed = real.claim(claim).await?;
        for row in claimed.sagas.iter_mut().flat_map(|saga| &mut saga.journal) {
            row.body = rewritten(&row.body, |record| {
                if let Record::Finished { at, effect: Effect::Action, outcome, due } = record
                    && at.as_str() == "pay"
                    && let Outcome::Unknown(failure) = outcome
                {
                    *outcome = Outcome::NotApplied(failure.clone());
                    due.get_or_insert(Timestamp::UNIX_EPOCH);
                }
                true
            });
        }
        Ok(claimed)
    }
}

#[test]
fn doubt_that_is_forgotten_after_a_later_rejection() {
    let found = found(sagas::not_idempotent(), store(|| ForgetsDoubt));
    assert!(found.contains("the effect of pay#0 stands"), "{found}");
}

/// Whoever reads a journal again does not see the attempts that had no effect.
struct ForgetsAttempts;

#[async_trait]
impl Habit for ForgetsAttempts {
    async fn claim(&self, real: &dyn Store, claim: &Claim) -> Result<Claimed> {
        let mut claimed = real.claim(claim).await?;
        for saga in &mut claimed.sagas {
            let mut failed = HashSet::new();
            for row in &saga.journal {
                rewritten(&row.body, |record| {
                    if let Record::Finished { at, outcome: Outcome::NotApplied(_), .. } = record {
                        failed.insert(at.clone());
                    }
                    true
                });
            }
            for row in &mut saga.journal {
                row.body = rewritten(&row.body, |record| match record {
                    Record::Started { at, .. } | Record::Finished { at, .. } => !failed.contains(at),
                    _ => true,
                });
            }
        }
        Ok(claimed)
    }
}

#[test]
fn retry_counts_that_a_crash_resets() {
    let found = found(sagas::linear(), store(|| ForgetsAttempts));
    assert!(found.contains("is not legal") || found.contains("was called twice"), "{found}");
}

/// Accepts every cancel.
struct HonoursEveryCancel;

#[async_trait]
impl Habit for HonoursEveryCancel {
    async fn commit(&self, real: &dyn Store, fence: Fence, commits: &[Commit]) -> Result<Vec<CommitReply>> {
        let honoured = |commit: &Commit| {
            let body = rewritten(&commit.body, |record| {
                if let Record::Received { body: MailBody::Cancel { .. }, answer, .. } = record {
                    *answer = Answer::Accepted;
                }
                true
            });
            Commit { body, ..commit.clone() }
        };
        let commits: Vec<_> = commits.iter().map(honoured).collect();
        real.commit(fence, &commits).await
    }
}

#[test]
fn a_cancel_that_is_honoured_after_the_pivot() {
    let found = found(sagas::pivot(), store(|| HonoursEveryCancel));
    assert!(found.contains("accepts a cancel after the pivot began"), "{found}");
}

/// Starts the pivot, whatever mail is waiting.
struct StartsPivotsPastMail;

#[async_trait]
impl Habit for StartsPivotsPastMail {
    async fn commit(&self, real: &dyn Store, fence: Fence, commits: &[Commit]) -> Result<Vec<CommitReply>> {
        let blind: Vec<_> = commits.iter().map(|commit| Commit { pivot: false, ..commit.clone() }).collect();
        real.commit(fence, &blind).await
    }
}

#[test]
fn a_pivot_that_starts_past_a_cancel() {
    let found = found(sagas::pivot(), store(|| StartsPivotsPastMail));
    assert!(found.contains("although a cancel was waiting to be read"), "{found}");
}

/// Wakes nobody: what waits is never due.
struct NeverDue;

#[async_trait]
impl Habit for NeverDue {
    async fn commit(&self, real: &dyn Store, fence: Fence, commits: &[Commit]) -> Result<Vec<CommitReply>> {
        let later = |commit: &Commit| match commit.then {
            Then::Wait(due) => {
                Commit { then: Then::Wait(due + Duration::from_secs(86_400)), ..commit.clone() }
            }
            _ => commit.clone(),
        };
        let commits: Vec<_> = commits.iter().map(later).collect();
        real.commit(fence, &commits).await
    }
}

#[test]
fn a_wait_from_which_nobody_wakes() {
    let found = found(sagas::linear(), store(|| NeverDue));
    assert!(found.contains("it has not come to rest"), "{found}");
}

/// Keeps the keys of sagas that have ended.
struct KeepsKeys;

#[async_trait]
impl Habit for KeepsKeys {
    async fn commit(&self, real: &dyn Store, fence: Fence, commits: &[Commit]) -> Result<Vec<CommitReply>> {
        let commits: Vec<Commit> = commits.iter().map(|c| Commit { key: None, ..c.clone() }).collect();
        real.commit(fence, &commits).await
    }
}

#[test]
fn a_key_that_is_not_given_back_at_the_end() {
    let found = found_among_rivals(store(|| KeepsKeys));
    assert!(found.contains("it has not come to rest within 120s: it is queued"), "{found}");
}

/// Gives a saga its worker without looking at its key.
struct TakesKeysBlindly;

#[async_trait]
impl Habit for TakesKeysBlindly {
    async fn start(
        &self,
        real: &dyn Store,
        fence: Option<Fence>,
        starts: &[Start],
    ) -> Result<Vec<StartReply>> {
        let starts: Vec<Start> = starts.iter().map(|start| Start { key: None, ..start.clone() }).collect();
        real.start(fence, &starts).await
    }
}

#[test]
fn a_key_that_is_taken_without_a_compare_and_set() {
    let found = found_among_rivals(store(|| TakesKeysBlindly));
    assert!(found.contains("two sagas of one key had calls under way at once"), "{found}");
}
