//! What the cases are made of: workers, starts, commits and mail with plain defaults.

use std::sync::Arc;
use std::time::Duration;

use chrono::{SubsecRound, Utc};

use super::{Broken, Database};
use crate::attributes::Attributes;
use crate::id::{Fingerprint, MailId, Name, RunId, WorkerId};
use crate::journal::{EndKind, MailBody, Timestamp};
use crate::priority::Priority;
use crate::store::{
    Backend, Claim, Claimed, Commit, CommitReply, Error, Fence, LastError, Mail, NewWorker, Start,
    StartReply, Store, Then,
};

/// Fails the case unless two values are equal.
macro_rules! same {
    ($found:expr, $wanted:expr, $($why:tt)+) => {
        // A `match`, so that what the two are borrowed from lives to its end.
        match (&$found, &$wanted) {
            (found, wanted) => {
                if found != wanted {
                    let why = format!($($why)+);
                    let why = format!("{why}: found {found:?}, not {wanted:?}");
                    return Err($crate::testing::conformance::Broken(why));
                }
            }
        }
    };
}
/// Fails the case unless a condition holds.
macro_rules! holds {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err($crate::testing::conformance::Broken(format!($($why)+)));
        }
    };
}
pub(super) use {holds, same};

/// A database with one handle open.
pub(super) struct Rig {
    database: Arc<dyn Database>,
    /// The first handle.
    pub(super) a: Backend,
}

impl Rig {
    pub(super) async fn new(database: Arc<dyn Database>) -> Self {
        let a = database.open().await;
        Self { database, a }
    }

    /// The first handle's verbs.
    pub(super) fn store(&self) -> &dyn Store {
        &*self.a.store
    }

    /// Another process.
    pub(super) async fn other(&self) -> Backend {
        self.database.open().await
    }

    /// A worker that joined through the first handle.
    pub(super) async fn worker(&self) -> Result<Fence, Broken> {
        join(&self.a).await
    }

    /// A saga that a worker owns from its start.
    pub(super) async fn owned(&self, fence: Fence, saga: &str) -> Result<RunId, Broken> {
        let start = start(saga, true);
        same!(
            self.store().start(Some(fence), std::slice::from_ref(&start)).await?,
            [StartReply::Started],
            "a start"
        );
        Ok(start.run)
    }

    /// A saga that nobody owns.
    pub(super) async fn unowned(&self, saga: &str) -> Result<RunId, Broken> {
        let start = start(saga, false);
        same!(
            self.store().start(None, std::slice::from_ref(&start)).await?,
            [StartReply::Started],
            "a start"
        );
        Ok(start.run)
    }

    /// One commit that must be written; gives the mail that came with it.
    pub(super) async fn commit(&self, fence: Fence, commit: Commit) -> Result<Vec<Mail>, Broken> {
        match self.store().commit(fence, std::slice::from_ref(&commit)).await?.as_slice() {
            [CommitReply::Committed { mail }] => Ok(mail.clone()),
            other => Err(Broken(format!("commit {} of a saga that is owned: {other:?}", commit.number))),
        }
    }

    /// One commit that must be refused.
    pub(super) async fn refuses(&self, fence: Fence, commit: Commit, why: &str) -> Result<(), Broken> {
        let replies = self.store().commit(fence, std::slice::from_ref(&commit)).await?;
        same!(replies, [CommitReply::Refused], "{why}");
        Ok(())
    }

    /// Claims what the default definition has.
    pub(super) async fn claim(&self, fence: Fence) -> Result<Claimed, Broken> {
        Ok(self.store().claim(&claim(fence, 100)).await?)
    }

    /// Fails where a saga's journal does not hold exactly these bodies.
    pub(super) async fn journal_is(&self, run: RunId, bodies: &[&str]) -> Result<(), Broken> {
        let rows = self.a.query.journal(run).await?;
        same!(rows.iter().map(|row| &*row.body).collect::<Vec<_>>(), bodies, "the journal of {run}");
        let numbers: Vec<u32> = rows.iter().map(|row| row.number).collect();
        same!(numbers, (0..).take(bodies.len()).collect::<Vec<u32>>(), "the numbers of its commits");
        Ok(())
    }
}

/// The records of a start, as far as a store knows them.
pub(super) const BEGAN: &str = r#"["began"]"#;

pub(super) async fn join(backend: &Backend) -> Result<Fence, Broken> {
    Ok(backend.store.join(&new_worker()).await?)
}

pub(super) fn new_worker() -> NewWorker {
    NewWorker { id: WorkerId::new(), label: "host:1".into(), lease: Duration::from_secs(10) }
}

pub(super) fn named(name: &str) -> Name {
    Name::new(name).expect("the cases use good names")
}

pub(super) fn fingerprint(definition: &str) -> Fingerprint {
    Fingerprint::of(definition.as_bytes())
}

/// A start of the default definition.
pub(super) fn start(saga: &str, owned: bool) -> Start {
    start_of("place-order", saga, owned)
}

pub(super) fn start_of(definition: &str, saga: &str, owned: bool) -> Start {
    Start {
        run: RunId::new(),
        definition: named(definition),
        version: 3,
        fingerprint: fingerprint(definition),
        saga: saga.into(),
        digest: [7; 32],
        body: BEGAN.into(),
        owned,
        key: None,
        priority: Priority::Normal,
        attributes: Attributes::default(),
    }
}

pub(super) fn claim(fence: Fence, limit: usize) -> Claim {
    Claim { fence, fingerprints: vec![fingerprint("place-order")], limit, reads: MailBody::FORMAT }
}

/// A commit that goes on.
pub(super) fn go(run: RunId, number: u32) -> Commit {
    then(run, number, Then::Go)
}

pub(super) fn then(run: RunId, number: u32, then: Then) -> Commit {
    Commit {
        run,
        number,
        body: body(number).into(),
        mail: Vec::new(),
        then,
        key: None,
        error: LastError::Same,
        pivot: false,
    }
}

/// The text of a commit that [`go`] or [`then`] made.
pub(super) fn body(number: u32) -> String {
    format!(r#"["commit {number}"]"#)
}

pub(super) fn end(run: RunId, number: u32) -> Commit {
    then(run, number, Then::End(EndKind::Completed))
}

pub(super) fn cancel(run: RunId) -> Mail {
    Mail::new(MailId::new(), run, &MailBody::Cancel { reason: "changed my mind".into() })
}

/// Mail that this version of the crate cannot read.
pub(super) fn newer(run: RunId) -> Mail {
    Mail { format: MailBody::FORMAT + 1, body: "what comes one day".into(), ..cancel(run) }
}

/// A time that stores keep exactly, so many seconds from now.
pub(super) fn seconds(from_now: i64) -> Timestamp {
    (Utc::now() + chrono::TimeDelta::seconds(from_now)).trunc_subsecs(6)
}

/// Whether a verb told the worker that it was fenced.
pub(super) fn is_fenced<T>(answer: &Result<T, Error>) -> bool {
    matches!(answer, Err(Error::Fenced))
}

/// The runs that a claim gave, in its order.
pub(super) fn runs(claimed: &Claimed) -> Vec<RunId> {
    claimed.sagas.iter().map(|saga| saga.run).collect()
}
