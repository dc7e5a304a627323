//! The [fused](crate::fused) guarantee behind HTTP.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use http::{Request, Response};
use http_body::Body as HttpBody;
use sqlx::{Database, Transaction};
use tokio::time::Instant;
use tower_service::Service;

use super::body::{self, Body, BoxError, Read};
use super::classify::{Class, classify};
use super::execution::Execution;
use super::leased::{action_answer, answered, endless};
use super::problem::Problem;
use super::request::Job;
use super::service::{Carrier, Guarantee, mark};
use super::{IdempotencyLayer, Settings, Unscoped, grpc, replay};
use crate::flights::{Boarding, Flight, Flights};
use crate::fused::{CompleteError, Fused, FusedStore, Slot};
use crate::headers::Status;
use crate::metrics::{self, Outcome};
use crate::row::Stamp;
use crate::{Claim, ClaimRequest, Content, Secret, StoreError, StoreErrorKind, Ticket, Verdict};

impl<F: FusedStore> IdempotencyLayer<Fused<F>> {
    /// The [fused](crate::fused) guarantee, on a store that shares the handler's database.
    ///
    /// Duplicates [wait](Self::wait) for the first, by default up to 2 s.
    pub fn fused(store: F, secret: Secret) -> Unscoped<Fused<F>> {
        let Unscoped(layer) = Self::with(Fused { store }, secret);
        Unscoped(layer.wait(Duration::from_secs(2)))
    }
}

impl<F: FusedStore> Guarantee for Fused<F> {
    async fn serve<S, R>(
        layer: Arc<IdempotencyLayer<Self>>,
        Carrier(job, parts): Carrier,
        mut inner: S,
    ) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<Body>, Response = Response<R>> + Send + 'static,
        S::Future: Send,
        S::Error: Send,
        R: HttpBody + Send + 'static,
        R::Data: Send,
        R::Error: Into<BoxError>,
    {
        let run = Run { settings: &layer.settings, store: &layer.guarantee.store, job: &job };
        let until = Instant::now() + run.settings.wait;
        let Some((flight, waited)) = board(&layer.flights, &job, until).await else {
            let claim = Claim::InFlight { retry_after: Duration::from_secs(1) };
            return Ok(answered(run.settings, &job, claim, true));
        };
        let (transaction, ticket) = match run.claim(until, waited).await {
            Ok(Begun::Acquired(transaction, ticket)) => (transaction, ticket),
            Ok(Begun::Answer(claim)) => return Ok(answered(run.settings, &job, claim, waited)),
            Err(error) => {
                tracing::warn!(key = ?job.id, %error, "the idempotency store did not answer a claim");
                metrics::count(Outcome::StoreError);
                return Ok(run.settings.problem(Problem::store_unavailable()));
            }
        };
        let slot = Slot::new(transaction);
        let request = job.request(parts);
        let work = AssertUnwindSafe(run.handler(&mut inner, request, slot.clone(), &ticket)).catch_unwind();
        let outcome = Box::pin(work).await;
        let response = run.settle(slot, &ticket, outcome).await;
        drop(flight);
        response
    }
}

/// Waits in memory while the key runs in this process, whatever is asked under it: the first one's request is
/// not visible to the database before it commits, and waiting there would cost a connection. `None`: too long.
async fn board(flights: &Arc<Flights>, job: &Job, until: Instant) -> Option<(Flight, bool)> {
    let mut waited = false;
    loop {
        match flights.board(job.id, job.fingerprint) {
            Boarding::First(flight) => return Some((flight, waited)),
            Boarding::Wait(mut landed) | Boarding::Other(mut landed) => {
                waited = true;
                tokio::time::timeout_at(until, landed.changed()).await.err().map_or(Some(()), |_| None)?;
            }
        }
    }
}

enum Begun<D: Database> {
    Acquired(Transaction<'static, D>, Ticket),
    Answer(Claim),
}

/// What a handler gave: its answer read, or its error, and what it said.
type Given<E> = Result<(http::response::Parts, Read, Execution), E>;

struct Run<'a, F> {
    settings: &'a Settings,
    store: &'a F,
    job: &'a Job,
}

impl<F: FusedStore> Run<'_, F> {
    /// Claims in a new transaction. A broken connection is met here first, while nothing is begun: another one
    /// is tried.
    async fn claim(&self, until: Instant, again: bool) -> Result<Begun<F::Db>, StoreError> {
        match self.try_claim(until, again).await {
            Err(error) if error.kind() == StoreErrorKind::Unavailable => {
                tracing::debug!(key = ?self.job.id, %error, "a claim is tried again");
                self.try_claim(until, again).await
            }
            result => result,
        }
    }

    async fn try_claim(&self, until: Instant, again: bool) -> Result<Begun<F::Db>, StoreError> {
        let request = self.job.claim(self.settings);
        if let Some(claim) = self.store.look(&request, again).await? {
            return Ok(Begun::Answer(claim));
        }
        let mut transaction = self.store.begin().await?;
        let wait = until.saturating_duration_since(Instant::now());
        let claim = self.store.claim_alone(&mut transaction, &request, wait).await?;
        match claim {
            Claim::Acquired(ticket) => Ok(Begun::Acquired(transaction, ticket)),
            Claim::Ruled(_) => {
                transaction.commit().await.map_err(unavailable)?;
                Ok(Begun::Answer(claim))
            }
            claim => {
                // Nothing was written: a failed rollback loses nothing.
                let _ = transaction.rollback().await;
                Ok(Begun::Answer(claim))
            }
        }
    }

    async fn handler<S, R>(
        &self,
        inner: &mut S,
        mut request: Request<Body>,
        slot: Slot<F::Db>,
        ticket: &Ticket,
    ) -> Given<S::Error>
    where
        S: Service<Request<Body>, Response = Response<R>>,
        R: HttpBody + Send + 'static,
        R::Data: Send,
        R::Error: Into<BoxError>,
    {
        let action_answer = action_answer(self.settings, self.job, ticket);
        let execution = Execution::new(&self.settings.secret, ticket, action_answer);
        request.extensions_mut().insert(execution.clone());
        request.extensions_mut().insert(slot);
        let (parts, body) = inner.call(request).await?.into_parts();
        let limit = if endless(&parts) { 0 } else { self.settings.answer_max };
        let read = body::read(body, limit).await;
        Ok((parts, read, execution))
    }

    /// Ends the transaction as the answer says, and only then gives the answer out.
    async fn settle<E>(
        &self,
        slot: Slot<F::Db>,
        ticket: &Ticket,
        outcome: Result<Given<E>, Box<dyn std::any::Any + Send>>,
    ) -> Result<Response<Body>, E> {
        let Some(transaction) = slot.close() else {
            tracing::error!(key = ?self.job.id, "a handler kept its Tx beyond its end; all of it is rolled back");
            return Ok(self.failed(Status::NotApplied));
        };
        let (parts, read, execution) = match outcome {
            Ok(Ok(given)) => given,
            Ok(Err(error)) => {
                self.roll_back(transaction).await;
                return Err(error);
            }
            Err(_panic) => {
                tracing::error!(key = ?self.job.id, "a handler panicked; its transaction is rolled back");
                self.roll_back(transaction).await;
                return Ok(self.failed(Status::NotApplied));
            }
        };
        let (content, body, trailers) = match read {
            Read::Whole(bytes, trailers) => {
                (Content::Kept(bytes.clone()), Body::whole(bytes, trailers.clone()), trailers)
            }
            Read::TooLarge(body) => (Content::TooLarge, body, None),
            Read::Broken(error) => {
                // Whatever made the body failed: the handler as a whole has.
                tracing::error!(key = ?self.job.id, %error, "an answer broke off; its transaction is rolled back");
                self.roll_back(transaction).await;
                return Ok(self.failed(Status::NotApplied));
            }
        };
        let class = self.settings.classify.as_ref().and_then(|judge| judge(&parts)).unwrap_or_else(|| {
            let grpc = grpc::ended(&parts, trailers.as_ref(), &content);
            classify(parts.status, grpc, execution.said(), self.settings.explicit_begin)
        });
        let verdict = match class {
            Class::Applied => Verdict::Applied,
            Class::Rejected => Verdict::Rejected,
            // All that it did is in this transaction: there is nothing to be in doubt about.
            Class::NotApplied | Class::Unknown => {
                self.roll_back(transaction).await;
                metrics::count(Outcome::Released);
                return Ok(mark(Response::from_parts(parts, body), Status::NotApplied));
            }
        };
        let tombstone = !matches!(content, Content::Kept(_));
        let answer = replay::answer(&parts, content, trailers.as_ref(), &self.settings.kept_headers);
        let answer = self.settings.seal.close(answer.encode(), self.job.place(ticket.direction()));
        let committed = if verdict == Verdict::Rejected && !F::SAVEPOINT {
            self.refuse(transaction, ticket, answer).await
        } else {
            self.commit(transaction, ticket, verdict, answer).await
        };
        match committed {
            Commit::Done => {
                metrics::count(if tombstone { Outcome::Tombstoned } else { Outcome::Executed });
                Ok(mark(Response::from_parts(parts, body), Status::Kept))
            }
            Commit::Answer(claim) => Ok(answered(self.settings, self.job, claim, false)),
            Commit::Refused => Ok(self.failed(Status::NotApplied)),
            Commit::Unknown => Ok(self.failed(Status::Unknown)),
        }
    }

    /// Keeps a refusal, once what the handler did is undone. The key was free for a moment: who has claimed it since
    /// decides, and its answer is everybody's.
    async fn refuse(
        &self,
        mut transaction: Transaction<'static, F::Db>,
        ticket: &Ticket,
        answer: bytes::Bytes,
    ) -> Commit {
        if let Err(error) = self.store.still_holds(&mut transaction, ticket).await {
            return self.broken(transaction, error).await;
        }
        self.roll_back(transaction).await;
        match self.claim_again().await {
            Ok((transaction, Claim::Acquired(ticket))) => {
                self.commit(transaction, &ticket, Verdict::Rejected, answer).await
            }
            Ok((transaction, claim)) => {
                self.roll_back(transaction).await;
                Commit::Answer(claim)
            }
            Err(error) => {
                tracing::warn!(key = ?self.job.id, %error, "a refusal could not be kept");
                Commit::Refused
            }
        }
    }

    async fn commit(
        &self,
        mut transaction: Transaction<'static, F::Db>,
        ticket: &Ticket,
        verdict: Verdict,
        answer: bytes::Bytes,
    ) -> Commit {
        let keep = self.job.keep(self.settings);
        let completed = self.store.complete_in(&mut transaction, ticket, verdict, answer, keep).await;
        if let Err(error) = completed {
            return self.broken(transaction, error).await;
        }
        match transaction.commit().await {
            Ok(()) => Commit::Done,
            // Even what reads like the database's own no may be a pooler's, which lost it after it had committed.
            Err(error) => {
                tracing::error!(key = ?self.job.id, %error, "a commit was not confirmed; asking for the key");
                self.confirm().await
            }
        }
    }

    async fn broken(&self, transaction: Transaction<'static, F::Db>, error: CompleteError) -> Commit {
        self.roll_back(transaction).await;
        match error {
            CompleteError::Refused(_) => {
                tracing::error!(key = ?self.job.id, %error, "a handler's transaction is rolled back");
                Commit::Refused
            }
            CompleteError::Ended => {
                tracing::error!(key = ?self.job.id, %error, "the key is in doubt");
                Commit::Unknown
            }
        }
    }

    /// A COMMIT was refused, or its answer lost. Whoever can claim the key knows that it was rolled back; who finds
    /// an answer knows that it was not. A commit that is still under way is waited for: it holds the key.
    async fn confirm(&self) -> Commit {
        for pause in [0, 100, 500, 2000, 5000] {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            match self.probe().await {
                Ok(Claim::Acquired(_)) => return Commit::Refused,
                Ok(Claim::InFlight { .. }) => {}
                Ok(claim) => return Commit::Answer(claim),
                Err(error) => tracing::warn!(key = ?self.job.id, %error, "the key could not be asked for"),
            }
        }
        Commit::Unknown
    }

    async fn probe(&self) -> Result<Claim, StoreError> {
        let (transaction, claim) = self.claim_again().await?;
        // The probe leaves nothing behind, least of all a claim.
        self.roll_back(transaction).await;
        Ok(claim)
    }

    /// Claims the key anew, in a transaction of its own, with a savepoint.
    async fn claim_again(&self) -> Result<(Transaction<'static, F::Db>, Claim), StoreError> {
        let request = ClaimRequest { stamp: Stamp::random(), ..self.job.claim(self.settings) };
        let mut transaction = self.store.begin().await?;
        let claim = self.store.claim_in(&mut transaction, &request, Duration::from_secs(2)).await?;
        Ok((transaction, claim))
    }

    /// A rollback that fails is done by the database when the connection goes.
    async fn roll_back(&self, transaction: Transaction<'static, F::Db>) {
        if let Err(error) = transaction.rollback().await {
            tracing::debug!(key = ?self.job.id, %error, "a rollback was left to the server");
        }
    }

    fn failed(&self, status: Status) -> Response<Body> {
        metrics::count(if status == Status::Unknown { Outcome::Unknown } else { Outcome::Released });
        self.settings.problem(Problem::handler_failed(status))
    }
}

/// How a transaction ended.
#[allow(clippy::large_enum_variant, reason = "returned and matched at once")]
enum Commit {
    Done,
    /// The database was asked, and this is what it keeps.
    Answer(Claim),
    /// Nothing took effect.
    Refused,
    Unknown,
}

fn unavailable(error: sqlx::Error) -> StoreError {
    StoreError::unavailable("fused", error)
}
