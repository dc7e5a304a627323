//! One suite for every store, public, so that a store written elsewhere is held to the same promises.
//!
//! Each [`Case`] is named after the guarantee that it checks, and runs on a database of its own. The suite
//! opens a database twice where a guarantee spans two processes. It asks for nothing but what
//! [`Store`](crate::store::Store) and [`Query`](crate::store::Query) promise: no case waits for a time to
//! pass, or asserts how long something took.
//!
//! ```
//! use std::sync::Arc;
//! use saga_core::store::{Backend, MemoryStore};
//! use saga_core::testing::conformance::{self, Database};
//!
//! # async fn check() {
//! let report = conformance::run(async || {
//!     let backend = Backend::from(Arc::new(MemoryStore::new()));
//!     Arc::new(backend) as Arc<dyn Database>
//! });
//! report.await.assert_all_hold();
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(check());
//! ```
//!
//! Stores that lend transactions to steps have a second suite, [`transactions`].
//!
//! The suite itself is checked by twins of the store in memory that break one guarantee each.

mod claims;
mod commits;
mod ends;
mod fences;
mod keys;
mod mails;
mod queries;
mod races;
mod retention;
mod rig;
mod starts;
mod texts;
pub mod transactions;
#[cfg(test)]
mod twins;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::store::{Backend, Error};
use rig::Rig;

/// A database of its own for one case.
#[async_trait]
pub trait Database: Send + Sync + 'static {
    /// Opens it as another process would. The first call finds it empty, with its tables in place.
    async fn open(&self) -> Backend;
}

/// For stores whose one handle is the database.
#[async_trait]
impl Database for Backend {
    async fn open(&self) -> Backend {
        self.clone()
    }
}

/// One guarantee, and how it is checked.
#[derive(Clone, Copy)]
pub struct Case {
    name: &'static str,
    check: for<'a> fn(&'a Rig) -> BoxFuture<'a, Verdict>,
}

/// What a check found: nothing, or how the guarantee is broken.
type Verdict = Result<(), Broken>;

/// How a guarantee is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken(String);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self(format!("the store failed: {error}"))
    }
}

/// A case that hangs has failed. Far beyond what any store needs, so that it tells nothing of speed.
const STUCK: Duration = Duration::from_secs(120);

impl Case {
    /// The guarantee, in words joined by `_`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Runs it on an empty database.
    pub async fn run(&self, database: Arc<dyn Database>) -> Result<(), Broken> {
        let (case, rig) = (*self, Rig::new(database).await);
        checked((case.check)(&rig)).await
    }
}

/// What a check found; one that panics or has no end has failed.
async fn checked(check: impl Future<Output = Verdict>) -> Verdict {
    match tokio::time::timeout(STUCK, std::panic::AssertUnwindSafe(check).catch_unwind()).await {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(panic)) => Err(Broken(format!("the store panicked: {}", said(&*panic)))),
        Err(_) => Err(Broken(format!("no end after {STUCK:?}"))),
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Case({})", self.name)
    }
}

fn said(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

/// What the suite found.
#[derive(Debug)]
pub struct Report {
    /// The name of every case, with how its guarantee is broken, if it is.
    pub cases: Vec<(&'static str, Result<(), Broken>)>,
}

impl Report {
    /// The names of the guarantees that do not hold.
    pub fn broken(&self) -> Vec<&'static str> {
        self.cases.iter().filter(|(_, verdict)| verdict.is_err()).map(|(case, _)| *case).collect()
    }

    /// Panics with every broken guarantee, if there is one.
    pub fn assert_all_hold(&self) {
        assert!(self.broken().is_empty(), "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let broken = self.broken().len();
        writeln!(f, "{broken} of {} guarantees are broken", self.cases.len())?;
        for (case, verdict) in &self.cases {
            if let Err(broken) = verdict {
                writeln!(f, "  {case}: {broken}")?;
            }
        }
        Ok(())
    }
}

/// Runs every case, each on a fresh database.
pub async fn run<Fresh>(fresh: Fresh) -> Report
where
    Fresh: AsyncFn() -> Arc<dyn Database>,
{
    let mut found = Vec::new();
    for case in cases() {
        found.push((case.name, case.run(fresh().await).await));
    }
    Report { cases: found }
}

/// Builds the list: `module::check` becomes a case of that name.
macro_rules! listed {
    ($($module:ident: $($check:ident),+;)+) => {
        vec![$($(Case { name: stringify!($check), check: |rig| Box::pin($module::$check(rig)) },)+)+]
    };
}

/// Every case, for harnesses that run each as a test of its own.
pub fn cases() -> Vec<Case> {
    listed! {
        commits:
            a_commit_is_a_compare_and_set,
            a_commit_leaves_no_gap,
            a_commit_sent_again_is_success,
            another_commit_under_a_number_of_ones_own_is_refused,
            only_the_owner_commits,
            a_refused_commit_leaves_no_trace,
            a_refused_commit_harms_no_other_of_its_batch,
            each_commit_of_a_batch_has_its_own_consequence,
            a_journal_keeps_its_order_and_its_writers,
            a_batch_holds_hundreds_of_commits,
            a_pivot_does_not_start_past_unread_mail;
        ends:
            nothing_follows_an_end,
            an_end_keeps_the_journal,
            an_end_sent_again_is_success;
        fences:
            a_worker_joins_once,
            a_renewal_moves_the_counter_and_tells_of_the_others,
            a_fenced_worker_cannot_commit,
            a_fenced_worker_cannot_start,
            a_fenced_worker_cannot_claim,
            a_fenced_worker_cannot_renew,
            a_wrong_epoch_is_fenced,
            fencing_again_changes_nothing,
            the_sagas_of_a_fenced_worker_are_taken_over_with_its_last_commit;
        claims:
            a_worker_that_lives_keeps_its_sagas,
            a_claim_takes_only_definitions_it_has_code_for,
            a_claim_respects_its_limit_and_takes_the_oldest_due_first,
            priority_counts_as_time_in_a_claim,
            a_waiting_saga_is_not_claimed_before_it_is_due,
            a_waiting_saga_is_claimed_once_due,
            mail_wakes_a_waiting_saga,
            only_mail_wakes_a_blocked_saga,
            a_claim_gives_unread_mail,
            a_claim_that_nobody_heard_of_is_given_again;
        starts:
            a_start_is_owned_or_waits_for_a_claim,
            a_start_sent_again_is_started,
            a_taken_id_is_told_with_run_digest_and_end,
            one_id_under_two_definitions_is_two_sagas,
            two_starts_of_one_id_in_a_batch_are_one_saga,
            a_batch_of_starts_is_answered_in_order;
        keys:
            a_key_is_held_by_one_saga,
            an_end_gives_its_key_to_the_next_in_order,
            an_owned_start_takes_a_free_key_only,
            a_key_outlives_the_worker_of_its_saga,
            mail_reaches_a_saga_that_waits_for_its_key,
            a_deadline_reaches_a_saga_that_waits_for_its_key,
            a_key_is_not_given_to_a_saga_that_nobody_here_can_drive,
            a_key_is_not_given_to_a_saga_with_newer_mail,
            keys_exclude_also_in_a_race;
        mails:
            mail_is_kept_once,
            consumed_mail_stays_consumed,
            mail_for_nobody_is_told,
            mail_for_an_ended_saga_is_answered_from_its_end,
            a_commit_gives_the_unread_mail_of_its_saga,
            a_commit_consumes_only_the_mail_it_names,
            a_refused_commit_consumes_no_mail,
            mail_that_cannot_be_read_harms_nobody,
            a_saga_with_newer_mail_is_left_to_newer_workers,
            unread_mail_is_counted_by_format;
        texts:
            every_text_is_kept_as_it_was,
            a_huge_body_is_kept,
            a_nul_character_harms_nobody;
        retention:
            a_journal_goes_once_its_saga_ended_long_enough_ago,
            a_child_keeps_its_journal_while_its_parent_is_in_flight,
            a_start_outlives_its_journal,
            what_is_kept_of_a_run_is_told;
        queries:
            a_saga_is_found_in_every_state,
            a_list_is_filtered_and_paged,
            a_list_is_filtered_by_attributes,
            a_list_is_filtered_by_the_last_error,
            counts_are_by_definition_and_state,
            manifests_are_kept_once_as_they_are_now,
            workers_are_listed_with_what_they_own,
            what_does_not_exist_is_not_found;
        races:
            starts_of_one_id_at_once_make_one_saga,
            claims_at_once_take_each_saga_once,
            commits_at_once_are_all_kept,
            a_fence_waits_for_what_is_in_flight;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    #[tokio::test]
    async fn the_store_in_memory_holds() {
        let report = run(async || Arc::new(Backend::from(Arc::new(MemoryStore::new()))) as Arc<dyn Database>);
        report.await.assert_all_hold();
    }

    #[test]
    fn every_case_has_a_name_of_its_own() {
        let names: std::collections::HashSet<_> = cases().iter().map(Case::name).collect();
        assert_eq!(names.len(), cases().len());
    }
}
