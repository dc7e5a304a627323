//! Attempts that are lent a transaction; see [`crate::store::Transactional`] for what the store does.
//!
//! They run one at a time, whichever of a saga's branches they belong to. While one runs the driver commits
//! nothing for the saga: attempts beside it go on and are heard afterwards, mail stays in the mailbox. What its
//! success makes true (the record of it, and all that follows from that, down to the saga's end) is one commit
//! *in* its transaction. Where that is not written, the machine is put back to before it, and the attempt was
//! not applied.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::StreamExt;
use tokio_util::sync::CancellationToken;

use super::Driver;
use super::leaving::reload;
use crate::engine::attempt;
use crate::engine::committer::Settled;
use crate::engine::keeping::Keeping;
use crate::engine::live::{Draft, Launch};
use crate::id::RunId;
use crate::journal::{Cause, Failure, Illegal, Outcome};
use crate::payload::Payload;
use crate::saga::Machine;
use crate::step::code::{Bound, Reply};
use crate::step::context::{Attempt, Deadline};
use crate::store::{Begun, Commit, CommitReply, Error, Fence, Lender, Loan, Mail, Store};

/// An attempt whose start is durable, and that waits for its turn.
pub(super) struct Waiting {
    pub(super) launch: Launch,
    pub(super) code: Bound,
    pub(super) attempt: Attempt,
    pub(super) input: Payload,
    pub(super) output: Option<Payload>,
}

/// An attempt that succeeded in a transaction that is still open.
pub(super) struct Open {
    bank: Bank,
    loan: Loan,
    launch: Launch,
    /// The machine before the attempt's end.
    before: Machine,
}

/// What a transaction's commit came to, where it came to nothing: the attempt, its outcome, and mail that came
/// before it.
pub(super) struct Undone {
    pub(super) launch: Launch,
    pub(super) outcome: Outcome,
    pub(super) before: Machine,
    pub(super) mail: Vec<Mail>,
}

/// How the commit of a saga was settled.
pub(super) enum Sent {
    Settled(Settled),
    /// The transaction that it belonged to was rolled back.
    RolledBack(Box<Undone>),
}

/// Where transactions come from, for one saga between two commits.
struct Bank {
    lender: Lender,
    store: Arc<dyn Store>,
    fence: Fence,
    run: RunId,
    next: u32,
    lost: CancellationToken,
}

/// What an attempt in a transaction came to.
enum Ran {
    /// It succeeded, and its transaction waits for its commit.
    Succeeded(Outcome, Loan),
    /// Nothing of it is there.
    Failed(Reply),
    /// The saga, or the lease, is another's.
    NotOurs,
}

impl Driver {
    /// Runs one attempt. False when the saga is not ours; otherwise its end is in the draft, and if it
    /// succeeded its transaction is open until that draft is committed.
    pub(super) async fn transact(&mut self, waiting: Waiting, draft: &mut Draft) -> Result<bool, Illegal> {
        let Waiting { launch, code, attempt, input, output } = waiting;
        let lender =
            self.shared.backend.lender.clone().expect("looked at when the definition was registered");
        let bank = Bank {
            lender,
            store: self.shared.backend.store.clone(),
            fence: self.incarnation.fence,
            run: self.saga.run,
            next: self.saga.next,
            lost: self.incarnation.lost.clone(),
        };
        // A third of the lease: it must end before anybody can take it for dead.
        let limit = attempt.deadline.timeout().min(self.shared.settings.lease / 3);
        let keeping = self.saga.keeping.clone();
        let mut run = Box::pin(async {
            let ran = bank.run(code, attempt, input, output, limit, &keeping).await;
            (bank, ran)
        });
        let (bank, ran) = loop {
            tokio::select! {
                biased;
                ran = &mut run => break ran,
                Some(early) = self.attempts.next() => self.early.push(early),
            }
        };
        drop(run);
        match ran {
            Ran::NotOurs => {
                self.give_back().await;
                return Ok(false);
            }
            Ran::Failed(reply) => self.finished(launch, reply, draft)?,
            Ran::Succeeded(outcome, loan) => {
                let before = self.saga.machine.clone();
                self.record_end(&launch, outcome, None, draft)?;
                self.open = Some(Open { bank, loan, launch, before });
            }
        }
        Ok(true)
    }
}

impl Open {
    /// Writes the commit in the transaction and ends it, until it is known what became of it.
    pub(super) async fn commit(self, commit: Commit) -> Sent {
        let Self { bank, loan, launch, before } = self;
        let undone = |outcome, mail| Sent::RolledBack(Box::new(Undone { launch, outcome, before, mail }));
        let not_applied = |why: String| Outcome::NotApplied(Failure::new(why));
        match bank.lender.commit_in(loan, bank.fence, &commit).await {
            Ok(CommitReply::Committed { mail }) => Sent::Settled(Settled::Committed(mail)),
            Ok(CommitReply::Refused) => Sent::Settled(Settled::Refused),
            Ok(CommitReply::Unread { mail }) => {
                undone(not_applied("mail had come before the pivot".into()), mail)
            }
            Err(Error::Fenced) => {
                bank.lost.cancel();
                Sent::Settled(Settled::Lost)
            }
            Err(Error::Unknown(why)) => match bank.ask(&commit).await {
                Some(settled) => Sent::Settled(settled),
                None => undone(
                    not_applied(format!("its COMMIT was not answered and did not happen: {why}")),
                    vec![],
                ),
            },
            Err(Error::Misused(why)) => undone(misused(why), vec![]),
            Err(error) => undone(not_applied(format!("its transaction was rolled back: {error}")), vec![]),
        }
    }
}

impl Bank {
    async fn run(
        &self,
        code: Bound,
        mut attempt: Attempt,
        input: Payload,
        output: Option<Payload>,
        limit: Duration,
        keeping: &Keeping,
    ) -> Ran {
        let loan = match self.begin().await {
            Ok(Begun::Open(loan)) => loan,
            Ok(Begun::Moved) => return Ran::NotOurs,
            Err(Error::Fenced) => {
                self.lost.cancel();
                return Ran::NotOurs;
            }
            Err(error) => {
                let failure = Failure::new(format!("its transaction could not be begun: {error}"));
                return Ran::Failed((Outcome::NotApplied(failure), None));
            }
        };
        attempt.deadline = Deadline::fixed(limit);
        let desk = attempt.desk.clone();
        desk.put(loan);
        let (outcome, pause) = attempt::run(code, attempt, input, output).await;
        let outcome = keeping.lent(outcome, self.run);
        let Some(loan) = desk.take() else {
            // It was not given back, so nobody commits it.
            let failure = Failure::new("the step's code kept its transaction beyond its own end");
            return Ran::Failed((Outcome::NotApplied(failure), None));
        };
        match outcome {
            Outcome::Ok(_) => Ran::Succeeded(outcome, loan),
            outcome => match self.lender.roll_back(loan).await {
                Err(Error::Misused(why)) => Ran::Failed((misused(why), None)),
                Err(_) | Ok(()) => Ran::Failed((without_effect(outcome), pause)),
            },
        }
    }

    /// Begins a transaction as soon as the store can. A definite error is given back.
    async fn begin(&self) -> Result<Begun<Loan>, Error> {
        let mut pause = Duration::from_millis(5);
        loop {
            match self.lender.begin(self.fence, self.run, self.next).await {
                Err(error) if error.is_transient() => {
                    tracing::warn!(run = %self.run, %error, "a transaction could not be begun yet");
                }
                answer => return answer,
            }
            let _ = tokio::time::timeout(pause, self.lost.cancelled()).await;
            if self.lost.is_cancelled() {
                return Err(Error::Fenced);
            }
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// What became of a COMMIT that was not answered: the saga's row is waited for, and then the journal tells.
    /// `None` when nothing of it is there.
    async fn ask(&self, commit: &Commit) -> Option<Settled> {
        let mut pause = Duration::from_millis(100);
        loop {
            match self.begin().await {
                Ok(Begun::Open(loan)) => {
                    if let Err(error) = self.lender.roll_back(loan).await {
                        tracing::debug!(run = %self.run, %error, "a transaction that was begun to ask did not end well");
                    }
                    return None;
                }
                Ok(Begun::Moved) => break,
                Err(Error::Fenced) => {
                    self.lost.cancel();
                    return Some(Settled::Lost);
                }
                Err(error) => {
                    tracing::warn!(run = %self.run, %error, "it cannot be asked yet whether a COMMIT happened");
                }
            }
            let _ = tokio::time::timeout(pause, self.lost.cancelled()).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
        let Some(loaded) = reload(&self.store, self.run).await else { return Some(Settled::Refused) };
        let row = loaded.journal.into_iter().find(|row| row.number == commit.number);
        let ours = row.is_some_and(|row| row.worker == Some(self.fence.worker) && row.body == commit.body);
        Some(if ours { Settled::Committed(loaded.mail) } else { Settled::Refused })
    }
}

/// What was rolled back had no effect, whatever its code thought of it.
fn without_effect(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Unknown(failure) => Outcome::NotApplied(failure),
        Outcome::Malformed { failure, .. } => Outcome::Malformed { failure, applied: false },
        outcome => outcome,
    }
}

fn misused(why: String) -> Outcome {
    let failure =
        format!("the step's code ended the transaction that it was lent, so its rows may be there: {why}");
    Outcome::Halted { cause: Cause::Misused, failure: Failure::new(failure) }
}
