//! Twins of the store in memory that break one guarantee each: the suite must catch every one of them, by
//! the case that is named after the guarantee.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::{Database, run};
use crate::attributes::Attributes;
use crate::id::{MailId, Name, RunId, WorkerId};
use crate::journal::{MailBody, Timestamp};
use crate::priority::Priority;
use crate::store::{
    Backend, Claim, Claimed, Commit, CommitReply, Counts, Error, Fence, Filter, JournalRow, Kept, LastError,
    Loaded, Mail, Manifest, MemoryStore, NewWorker, Posted, Pruned, Query, Renewal, Result, Retain, Start,
    StartReply, Store, Summary, Then, UnreadMail, WorkerInfo,
};

/// What a twin does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    /// A zombie's commit slips in: the fence is looked at before the batch waits for its turn.
    LooksAtTheFenceTooEarly,
    /// Fenced commits are answered as if they had been written.
    AcknowledgesFencedCommits,
    /// A commit is answered before it is written.
    AnswersBeforeItWrites,
    /// A taken number is no obstacle: the next free one is used.
    WritesUnderTheNextNumber,
    /// A commit that is sent again is refused, because its number is taken.
    RefusesItsOwnCommit,
    /// Whatever this worker wrote under a number is taken for what it sends now.
    TakesAnyCommitForItsOwn,
    /// One refused commit refuses its batch.
    RefusesTheWholeBatch,
    /// The mail that a refused commit names is gone.
    ConsumesForTheRefused,
    /// A pivot starts, whatever mail there is.
    StartsPivotsPastMail,
    /// The answer to a commit comes without mail.
    ForgetsMailInReplies,
    /// A saga that ended goes on.
    IgnoresEnds,
    /// Sagas whose owner lives are given to others.
    StealsFromTheLiving,
    /// A wait is over at once.
    WakesEarly,
    /// A claim gives more than was asked for.
    IgnoresTheLimit,
    /// A claim gives the youngest first.
    ClaimsBackwards,
    /// A zombie may start sagas.
    LetsZombiesStart,
    /// A zombie is told that its lease runs on.
    RenewsZombies,
    /// An id joins as often as it likes.
    JoinsTwice,
    /// A second start under an id makes a second saga.
    StartsTwice,
    /// A taken id is told with the digest of the start that came too late.
    TellsTheWrongDigest,
    /// A taken id is told without its end.
    ForgetsTheEnd,
    /// Mail that was consumed can be posted again.
    DeliversMailTwice,
    /// Mail under an id that is taken replaces what is there.
    ReplacesMail,
    /// Mail for nobody is accepted.
    AcceptsMailForNobody,
    /// Journals are read newest first.
    ReadsJournalsBackwards,
    /// JSON is kept as its meaning, not as its text.
    NormalisesJson,
    /// A text ends at its first NUL character.
    CutsAtNul,
    /// The second page of a list is the first again.
    RepeatsPages,
    LooksAtMoreThanItIsToldTo,
    /// Mail is read, and what does not read is an error.
    ReadsMail,
    /// Sagas are given to workers that cannot read their mail.
    IgnoresFormats,
    /// All unread mail is counted as of one format.
    CountsMailOnce,
    /// A journal is removed before its time.
    ForgetsTooEarly,
    /// A child is not known by its id.
    ForgetsParents,
    /// What was not started yet is told to have been forgotten.
    TakesTheUnknownForForgotten,
    /// A manifest stays as it was when it was first registered.
    KeepsOldManifests,
    /// Ended sagas are not counted.
    CountsOnlyTheLiving,
    /// Every saga has the same priority.
    ForgetsPriorities,
    /// Attributes are not kept.
    ForgetsAttributes,
    /// The last error is kept only of sagas that wait for a person.
    ForgetsErrorsOfTheLiving,
    /// An error is never over.
    KeepsErrors,
    /// A list looks at one attribute, however many are given.
    LooksAtOneAttribute,
    /// A key is not given back at the end.
    KeepsKeys,
    /// A key is taken without a compare-and-set.
    TakesKeysBlindly,
    /// A saga without its key is given as if it held it.
    ForgetsTheQueue,
    /// An owned start that has to wait for its key is told that it is owned.
    OwnsWhatIsQueued,
    /// Deadlines of sagas that wait for their keys are not kept.
    ForgetsDeadlines,
}

struct Twin {
    real: MemoryStore,
    bug: Bug,
    eaten: Mutex<HashSet<MailId>>,
    sent: Mutex<HashSet<(RunId, u32)>>,
    started: Mutex<Vec<RunId>>,
    posted: Mutex<HashMap<MailId, Mail>>,
}

impl Twin {
    fn new(bug: Bug) -> Self {
        Self {
            real: MemoryStore::new(),
            bug,
            eaten: Mutex::default(),
            sent: Mutex::default(),
            started: Mutex::default(),
            posted: Mutex::default(),
        }
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == bug
    }

    fn without_eaten(&self, mail: &mut Vec<Mail>) {
        mail.retain(|mail| !self.eaten.lock().unwrap().contains(&mail.id));
    }

    fn decoded<'a>(&self, mut mail: impl Iterator<Item = &'a Mail>) -> Result<()> {
        let strange = |mail: &Mail| serde_json::from_str::<MailBody>(&mail.body).is_err();
        match self.has(Bug::ReadsMail) && mail.any(strange) {
            true => Err(Error::Unusable("a stored mail does not read".into())),
            false => Ok(()),
        }
    }

    async fn met(&self, fence: Fence) -> bool {
        matches!(self.real.renew(fence).await, Ok(Renewal::Renewed(_)))
    }

    fn spoilt(&self, commit: &Commit) -> Commit {
        let mut commit = commit.clone();
        commit.pivot &= !self.has(Bug::StartsPivotsPastMail);
        match (self.bug, commit.then) {
            (Bug::WakesEarly, Then::Wait(_)) => commit.then = Then::Wait(Timestamp::UNIX_EPOCH),
            (Bug::IgnoresEnds, Then::End(_)) => commit.then = Then::Go,
            (Bug::KeepsKeys, _) => commit.key = None,
            (Bug::ForgetsErrorsOfTheLiving, Then::Go | Then::Wait(_)) => commit.error = LastError::Same,
            (Bug::KeepsErrors, _) if commit.error == LastError::Gone => commit.error = LastError::Same,
            (Bug::NormalisesJson, _) => {
                if let Ok(value) = serde_json::from_str::<serde_json::Value>(&commit.body) {
                    commit.body = value.to_string().into();
                }
            }
            (Bug::CutsAtNul, _) => commit.body = commit.body.split('\0').next().unwrap().into(),
            _ => {}
        }
        commit
    }

    async fn one(&self, fence: Fence, commit: &Commit) -> Result<CommitReply> {
        let mut commit = self.spoilt(commit);
        let again = !self.sent.lock().unwrap().insert((commit.run, commit.number));
        let mut reply = self.real.commit(fence, std::slice::from_ref(&commit)).await?.remove(0);
        if self.has(Bug::RefusesItsOwnCommit) && again {
            return Ok(CommitReply::Refused);
        }
        if reply == CommitReply::Refused && again && self.has(Bug::TakesAnyCommitForItsOwn) {
            return Ok(CommitReply::Committed { mail: Vec::new() });
        }
        if reply == CommitReply::Refused && self.has(Bug::WritesUnderTheNextNumber) {
            commit.number = u32::try_from(self.real.journal(commit.run).await?.len()).unwrap();
            reply = self.real.commit(fence, std::slice::from_ref(&commit)).await?.remove(0);
        }
        if reply == CommitReply::Refused && self.has(Bug::ConsumesForTheRefused) {
            self.eaten.lock().unwrap().extend(&commit.mail);
        }
        Ok(reply)
    }
}

#[async_trait]
impl Store for Twin {
    async fn register(&self, manifests: &[Manifest]) -> Result<()> {
        let known = if self.has(Bug::KeepsOldManifests) { self.real.manifests().await? } else { Vec::new() };
        let is_new =
            |manifest: &&Manifest| !known.iter().any(|known| known.fingerprint == manifest.fingerprint);
        let manifests: Vec<Manifest> = manifests.iter().filter(is_new).cloned().collect();
        self.real.register(&manifests).await
    }

    async fn join(&self, worker: &NewWorker) -> Result<Fence> {
        match self.real.join(worker).await {
            Err(_) if self.has(Bug::JoinsTwice) => Ok(Fence { worker: worker.id, epoch: 1 }),
            joined => joined,
        }
    }

    async fn renew(&self, fence: Fence) -> Result<Renewal> {
        match self.real.renew(fence).await? {
            Renewal::Fenced if self.has(Bug::RenewsZombies) => Ok(Renewal::Renewed(vec![])),
            renewal => Ok(renewal),
        }
    }

    async fn fence(&self, worker: WorkerId) -> Result<()> {
        self.real.fence(worker).await
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        let mut asked = claim.clone();
        if self.has(Bug::IgnoresTheLimit) {
            asked.limit = usize::MAX;
        }
        if self.has(Bug::IgnoresFormats) {
            asked.reads = i16::MAX;
        }
        let mut claimed = self.real.claim(&asked).await?;
        self.decoded(claimed.mail.iter().chain(claimed.sagas.iter().flat_map(|saga| &saga.mail)))?;
        if self.has(Bug::ForgetsTheQueue) {
            claimed.sagas.iter_mut().for_each(|saga| saga.queued = false);
        }
        if self.has(Bug::ReplacesMail) {
            let posted = self.posted.lock().unwrap();
            claimed.mail.iter_mut().for_each(|mail| *mail = posted[&mail.id].clone());
        }
        if self.has(Bug::ClaimsBackwards) {
            claimed.sagas.reverse();
        }
        if self.has(Bug::StealsFromTheLiving) {
            let started = self.started.lock().unwrap().clone();
            for run in started {
                if let Some(saga) =
                    self.load(run).await?.filter(|s| s.owner.is_some_and(|o| o != claim.fence.worker))
                {
                    claimed.sagas.push(saga);
                }
            }
        }
        self.without_eaten(&mut claimed.mail);
        Ok(claimed)
    }

    async fn load(&self, run: RunId) -> Result<Option<Loaded>> {
        let mut loaded = self.real.load(run).await?;
        if let Some(loaded) = &mut loaded {
            self.without_eaten(&mut loaded.mail);
        }
        Ok(loaded)
    }

    async fn start(&self, fence: Option<Fence>, starts: &[Start]) -> Result<Vec<StartReply>> {
        let mut starts = starts.to_vec();
        if self.has(Bug::CutsAtNul) {
            for start in &mut starts {
                start.saga = start.saga.split('\0').next().unwrap().into();
            }
        }
        for start in &mut starts {
            match (self.bug, &mut start.key) {
                (Bug::TakesKeysBlindly, key) => *key = None,
                (Bug::ForgetsDeadlines, Some(key)) => key.until = None,
                (Bug::ForgetsParents, _) => start.saga = start.saga.replace('/', "-").into(),
                (Bug::ForgetsPriorities, _) => start.priority = Priority::Normal,
                (Bug::ForgetsAttributes, _) => start.attributes = Attributes::default(),
                _ => {}
            }
        }
        self.started.lock().unwrap().extend(starts.iter().map(|start| start.run));
        let mut replies = match self.real.start(fence, &starts).await {
            Err(Error::Fenced) if self.has(Bug::LetsZombiesStart) => self.real.start(None, &starts).await?,
            replies => replies?,
        };
        for (start, reply) in starts.iter_mut().zip(&mut replies) {
            if self.has(Bug::OwnsWhatIsQueued) && *reply == StartReply::Queued {
                *reply = StartReply::Started;
            }
            let StartReply::Exists { digest, end, .. } = reply else { continue };
            match self.bug {
                Bug::TellsTheWrongDigest => *digest = start.digest,
                Bug::ForgetsTheEnd => *end = None,
                Bug::StartsTwice => {
                    start.saga = format!("{} again", start.saga).into();
                    *reply = self.real.start(fence, std::slice::from_ref(start)).await?.remove(0);
                }
                _ => {}
            }
        }
        Ok(replies)
    }

    async fn commit(&self, fence: Fence, commits: &[Commit]) -> Result<Vec<CommitReply>> {
        if self.has(Bug::LooksAtTheFenceTooEarly) {
            if !self.met(fence).await {
                return Err(Error::Fenced);
            }
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            return Ok(self.real.commit_unfenced(fence.worker, commits));
        }
        if !self.met(fence).await {
            return match self.bug {
                Bug::AcknowledgesFencedCommits => {
                    Ok(vec![CommitReply::Committed { mail: vec![] }; commits.len()])
                }
                _ => Err(Error::Fenced),
            };
        }
        if self.has(Bug::AnswersBeforeItWrites) && commits.iter().all(|commit| commit.number % 3 == 2) {
            return Ok(vec![CommitReply::Committed { mail: vec![] }; commits.len()]);
        }
        let mut replies = Vec::new();
        for commit in commits {
            replies.push(self.one(fence, commit).await?);
        }
        if self.has(Bug::RefusesTheWholeBatch) && replies.contains(&CommitReply::Refused) {
            replies.fill(CommitReply::Refused);
        }
        for reply in &mut replies {
            if let CommitReply::Committed { mail } = reply {
                self.decoded(mail.iter())?;
                self.without_eaten(mail);
                if self.has(Bug::ForgetsMailInReplies) {
                    mail.clear();
                }
            }
        }
        Ok(replies)
    }

    async fn post(&self, mail: &[Mail]) -> Result<Vec<Posted>> {
        let mut answers = self.real.post(mail).await?;
        self.posted.lock().unwrap().extend(mail.iter().map(|mail| (mail.id, mail.clone())));
        if self.has(Bug::AcceptsMailForNobody) {
            answers.fill(Posted::Accepted);
        }
        if self.has(Bug::DeliversMailTwice) {
            for mail in mail {
                self.real.post(&[Mail { id: MailId::new(), ..mail.clone() }]).await?;
            }
        }
        Ok(answers)
    }
}

#[async_trait]
impl Retain for Twin {
    async fn prune(&self, ended_before: Timestamp, after: Option<RunId>, limit: usize) -> Result<Pruned> {
        let before = if self.has(Bug::ForgetsTooEarly) { Timestamp::MAX_UTC } else { ended_before };
        self.real.prune(before, after, limit).await
    }
    async fn kept(&self, runs: &[RunId]) -> Result<Vec<Kept>> {
        let mut kept = self.real.kept(runs).await?;
        if self.has(Bug::TakesTheUnknownForForgotten) {
            kept.iter_mut().filter(|kept| **kept == Kept::Nothing).for_each(|kept| *kept = Kept::Forgotten);
        }
        Ok(kept)
    }
}

#[async_trait]
impl Query for Twin {
    async fn find(&self, definition: &Name, saga: &str) -> Result<Option<Summary>> {
        self.real.find(definition, saga).await
    }
    async fn summary(&self, run: RunId) -> Result<Option<Summary>> {
        self.real.summary(run).await
    }
    async fn list(&self, filter: &Filter) -> Result<Vec<Summary>> {
        let mut filter = filter.clone();
        if self.has(Bug::RepeatsPages) && filter.limit != 0 {
            filter.before = None;
        }
        if self.has(Bug::LooksAtMoreThanItIsToldTo) {
            filter.from = None;
        }
        if self.has(Bug::LooksAtOneAttribute) {
            let mut one = Attributes::default();
            if let Some((name, value)) = filter.attributes.iter().next() {
                one.set(name.as_str(), value).unwrap();
            }
            filter.attributes = one;
        }
        self.real.list(&filter).await
    }
    async fn journal(&self, run: RunId) -> Result<Vec<JournalRow>> {
        let mut rows = self.real.journal(run).await?;
        if self.has(Bug::ReadsJournalsBackwards) {
            rows.reverse();
        }
        Ok(rows)
    }
    async fn manifests(&self) -> Result<Vec<Manifest>> {
        self.real.manifests().await
    }
    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        self.real.workers().await
    }
    async fn counts(&self) -> Result<Vec<Counts>> {
        let mut counts = self.real.counts().await?;
        if self.has(Bug::CountsOnlyTheLiving) {
            counts.retain(|count| !matches!(count.state, crate::store::State::Ended(_)));
        }
        Ok(counts)
    }
    async fn unread_mail(&self) -> Result<Vec<UnreadMail>> {
        let mut unread = self.real.unread_mail().await?;
        if self.has(Bug::CountsMailOnce) {
            unread.truncate(1);
        }
        Ok(unread)
    }
}

#[tokio::test]
async fn every_twin_is_caught_by_the_guarantee_that_it_breaks() {
    use Bug::*;
    for (bug, guarantee) in [
        (LooksAtTheFenceTooEarly, "a_fence_waits_for_what_is_in_flight"),
        (AcknowledgesFencedCommits, "a_fenced_worker_cannot_commit"),
        (AnswersBeforeItWrites, "a_journal_keeps_its_order_and_its_writers"),
        (WritesUnderTheNextNumber, "a_commit_leaves_no_gap"),
        (RefusesItsOwnCommit, "a_commit_sent_again_is_success"),
        (TakesAnyCommitForItsOwn, "another_commit_under_a_number_of_ones_own_is_refused"),
        (RefusesTheWholeBatch, "a_refused_commit_harms_no_other_of_its_batch"),
        (ConsumesForTheRefused, "a_refused_commit_consumes_no_mail"),
        (StartsPivotsPastMail, "a_pivot_does_not_start_past_unread_mail"),
        (ForgetsMailInReplies, "a_commit_gives_the_unread_mail_of_its_saga"),
        (IgnoresEnds, "nothing_follows_an_end"),
        (StealsFromTheLiving, "a_worker_that_lives_keeps_its_sagas"),
        (WakesEarly, "a_waiting_saga_is_not_claimed_before_it_is_due"),
        (IgnoresTheLimit, "a_claim_respects_its_limit_and_takes_the_oldest_due_first"),
        (ClaimsBackwards, "a_claim_respects_its_limit_and_takes_the_oldest_due_first"),
        (LetsZombiesStart, "a_fenced_worker_cannot_start"),
        (RenewsZombies, "a_fenced_worker_cannot_renew"),
        (JoinsTwice, "a_worker_joins_once"),
        (StartsTwice, "starts_of_one_id_at_once_make_one_saga"),
        (TellsTheWrongDigest, "a_taken_id_is_told_with_run_digest_and_end"),
        (ForgetsTheEnd, "a_taken_id_is_told_with_run_digest_and_end"),
        (DeliversMailTwice, "mail_is_kept_once"),
        (ReplacesMail, "mail_is_kept_once"),
        (AcceptsMailForNobody, "mail_for_nobody_is_told"),
        (ReadsJournalsBackwards, "a_journal_keeps_its_order_and_its_writers"),
        (NormalisesJson, "every_text_is_kept_as_it_was"),
        (CutsAtNul, "a_nul_character_harms_nobody"),
        (RepeatsPages, "a_list_is_filtered_and_paged"),
        (LooksAtMoreThanItIsToldTo, "a_list_is_filtered_and_paged"),
        (ReadsMail, "mail_that_cannot_be_read_harms_nobody"),
        (IgnoresFormats, "a_saga_with_newer_mail_is_left_to_newer_workers"),
        (IgnoresFormats, "a_key_is_not_given_to_a_saga_with_newer_mail"),
        (CountsMailOnce, "unread_mail_is_counted_by_format"),
        (ForgetsTooEarly, "a_journal_goes_once_its_saga_ended_long_enough_ago"),
        (ForgetsParents, "a_child_keeps_its_journal_while_its_parent_is_in_flight"),
        (TakesTheUnknownForForgotten, "what_is_kept_of_a_run_is_told"),
        (KeepsOldManifests, "manifests_are_kept_once_as_they_are_now"),
        (CountsOnlyTheLiving, "counts_are_by_definition_and_state"),
        (ForgetsPriorities, "priority_counts_as_time_in_a_claim"),
        (ForgetsAttributes, "a_list_is_filtered_by_attributes"),
        (ForgetsErrorsOfTheLiving, "a_list_is_filtered_by_the_last_error"),
        (KeepsErrors, "a_list_is_filtered_by_the_last_error"),
        (LooksAtOneAttribute, "a_list_is_filtered_by_attributes"),
        (KeepsKeys, "an_end_gives_its_key_to_the_next_in_order"),
        (TakesKeysBlindly, "a_key_is_held_by_one_saga"),
        (TakesKeysBlindly, "keys_exclude_also_in_a_race"),
        (ForgetsTheQueue, "mail_reaches_a_saga_that_waits_for_its_key"),
        (OwnsWhatIsQueued, "an_owned_start_takes_a_free_key_only"),
        (ForgetsDeadlines, "a_deadline_reaches_a_saga_that_waits_for_its_key"),
    ] {
        let report =
            run(async || Arc::new(Backend::from(Arc::new(Twin::new(bug)))) as Arc<dyn Database>).await;
        assert!(report.broken().contains(&guarantee), "{bug:?} broke {:?}, not {guarantee}", report.broken());
    }
}
