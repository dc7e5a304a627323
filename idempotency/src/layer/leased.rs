//! The [leased](crate::leased) guarantee behind HTTP.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http::request::Parts;
use http::{Request, Response, StatusCode, header};
use http_body::Body as HttpBody;
use tokio::time::Instant;
use tower_service::Service;

use super::body::{self, Body, BoxError, Read};
use super::classify::{Class, classify};
use super::execution::Execution;
use super::problem::Problem;
use super::request::Job;
use super::service::{Carrier, Guarantee, mark};
use super::{IdempotencyLayer, Question, Reconcile, Reconciled, Settings, grpc, replay};
use crate::flights::{Boarding, Flight, Flights};
use crate::headers::Status;
use crate::leased::{self, End, hold};
use crate::metrics::{self, Outcome};
use crate::{
    Answer, Claim, ClaimRequest, Content, Direction, Held, InDoubt, Kept, Ruling, Store, StoreError, Ticket,
    Verdict,
};

/// The leased guarantee: see [`crate::leased`].
#[derive(Clone, Debug)]
pub struct Leased {
    store: Arc<dyn Store>,
}

impl Leased {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }
}

impl Guarantee for Leased {
    async fn serve<S, R>(
        layer: Arc<IdempotencyLayer<Self>>,
        Carrier(job, parts): Carrier,
        inner: S,
    ) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<Body>, Response = Response<R>> + Send + 'static,
        S::Future: Send,
        S::Error: Send,
        R: HttpBody + Send + 'static,
        R::Data: Send,
        R::Error: Into<BoxError>,
    {
        let (settings, store) = (&layer.settings, &layer.guarantee.store);
        let mut waiting = Waiting::new(settings.wait, layer.flights.clone());
        let mut asked = false;
        loop {
            let flight = match waiting.board(&job).await {
                Ok(flight) => flight,
                Err(after) => return Ok(in_flight(settings, after)),
            };
            let hook = settings.reconcile.as_ref().filter(|_| !asked);
            let mut request = job.claim(settings);
            if hook.is_some() {
                // Nothing else is done about a doubt before the hook was asked.
                (request.in_doubt, request.undo_by_key) = (InDoubt::Unknown, false);
            }
            let claim = match leased::claim(store, &request).await {
                Ok(claim) => claim,
                Err(_) if settings.fail_open => return unprotected(job.request(parts), inner).await,
                Err(_) => return Ok(unavailable(settings)),
            };
            match (claim, hook) {
                (Claim::Acquired(ticket), _) => {
                    let run = Run { settings, store, job: &job, ticket: &ticket };
                    let result = Box::pin(run.handler(inner, job.request(parts))).await;
                    drop(flight);
                    return result;
                }
                (Claim::InFlight { retry_after }, _) => {
                    drop(flight);
                    if !waiting.pause().await {
                        return Ok(in_flight(settings, retry_after));
                    }
                }
                (Claim::Unknown { .. }, Some(hook)) => {
                    drop(flight);
                    asked = match reconcile(settings, store, &job, &parts, hook).await {
                        Ok(asked) => asked,
                        Err(error) => {
                            tracing::warn!(key = ?job.id, %error, "a key in doubt could not be put to the hook");
                            return Ok(unavailable(settings));
                        }
                    };
                }
                (claim, _) => return Ok(answered(settings, &job, claim, waiting.has_waited)),
            }
        }
    }
}

fn unavailable(settings: &Settings) -> Response<Body> {
    metrics::count(Outcome::StoreError);
    settings.problem(Problem::store_unavailable())
}

fn in_flight(settings: &Settings, after: Duration) -> Response<Body> {
    metrics::count(Outcome::InFlight);
    settings.problem(Problem::in_flight(after))
}

/// The answer to a claim that runs nothing.
pub(super) fn answered(settings: &Settings, job: &Job, claim: Claim, waited: bool) -> Response<Body> {
    let (outcome, response) = match claim {
        Claim::Replay(kept) => {
            let outcome = if waited { Outcome::ReplayedAfterWait } else { Outcome::Replayed };
            (outcome, replayed(settings, job, &kept))
        }
        Claim::Mismatch { part } => (Outcome::Mismatch, settings.problem(Problem::key_reused(part))),
        Claim::InFlight { retry_after } => {
            (Outcome::InFlight, settings.problem(Problem::in_flight(retry_after)))
        }
        Claim::Ruled(ruling) => (Outcome::Ruled, ruled(settings, ruling)),
        Claim::Unknown { .. } | Claim::Acquired(_) => {
            (Outcome::Unknown, settings.problem(Problem::unknown()))
        }
    };
    metrics::count(outcome);
    response
}

fn replayed(settings: &Settings, job: &Job, kept: &Kept) -> Response<Body> {
    let plain = settings.seal.open(&kept.answer, job.place(kept.direction));
    match plain.as_ref().and_then(Answer::decode) {
        Some(answer) => replay::response(answer, settings.docs.as_deref()),
        None => settings.problem(Problem::answer_unreadable()),
    }
}

fn ruled(settings: &Settings, ruling: Ruling) -> Response<Body> {
    let status = match ruling {
        Ruling::TooLate => return settings.problem(Problem::too_late()),
        Ruling::NothingToUndo => Status::NothingToUndo,
        Ruling::NeverApplied => Status::NeverApplied,
        Ruling::Undone => Status::Undone,
    };
    let body = format!("{{\"outcome\":\"{}\"}}", status.as_str());
    let mut response = Response::new(Body::from(Bytes::from(body)));
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    mark(response, status)
}

/// Runs the handler although the store is down, because the server is told to.
async fn unprotected<S, R>(request: Request<Body>, mut inner: S) -> Result<Response<Body>, S::Error>
where
    S: Service<Request<Body>, Response = Response<R>>,
    R: HttpBody + Send + 'static,
    R::Data: Send,
    R::Error: Into<BoxError>,
{
    metrics::count(Outcome::Unprotected);
    let response = inner.call(request).await?;
    Ok(mark(response.map(Body::stream), Status::Unprotected))
}

/// Puts a key in doubt to the user's hook, and settles it by what the hook knows. `false` if somebody else has taken
/// it up meanwhile.
async fn reconcile(
    settings: &Settings,
    store: &Arc<dyn Store>,
    job: &Job,
    parts: &Parts,
    hook: &Reconcile,
) -> Result<bool, StoreError> {
    let Some(ticket) = store.resolve(&job.id, settings.lease).await? else { return Ok(false) };
    let execution = Execution::in_question(&settings.secret, &ticket, action_answer(settings, job, &ticket));
    let question = Question { execution: execution.clone(), request: parts.clone(), body: job.body.clone() };
    let answer = AssertUnwindSafe(hook(question)).catch_unwind();
    let found = hold(store, &ticket, execution.lost_flag(), answer).await.unwrap_or(Reconciled::Unknown);
    let keep = |verdict, answer: Answer| End::Keep {
        verdict,
        answer: settings.seal.close(answer.encode(), job.place(ticket.direction())),
        keep: job.keep(settings),
    };
    let end = match found {
        Reconciled::Applied(answer) => keep(Verdict::Applied, answer),
        Reconciled::Rejected(answer) => keep(Verdict::Rejected, answer),
        Reconciled::NotApplied => End::Release,
        Reconciled::Unknown => End::Doubt,
    };
    // Whether it still held does not matter here: the claim that follows sees what is stored.
    let _ = leased::end(store, &ticket, &end).await;
    Ok(true)
}

/// The body of the action's answer, for its compensation.
pub(super) fn action_answer(settings: &Settings, job: &Job, ticket: &Ticket) -> Option<Bytes> {
    let plain = settings.seal.open(ticket.action_answer()?, job.place(Direction::Action))?;
    match Answer::decode(&plain)?.body {
        Content::Kept(body) => Some(body),
        _ => None,
    }
}

/// One acquired claim.
struct Run<'a> {
    settings: &'a Settings,
    store: &'a Arc<dyn Store>,
    job: &'a Job,
    ticket: &'a Ticket,
}

impl Run<'_> {
    async fn handler<S, R>(self, mut inner: S, mut request: Request<Body>) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<Body>, Response = Response<R>>,
        R: HttpBody + Send + 'static,
        R::Data: Send,
        R::Error: Into<BoxError>,
    {
        let settings = self.settings;
        let action_answer = action_answer(settings, self.job, self.ticket);
        let execution = Execution::new(&settings.secret, self.ticket, action_answer);
        request.extensions_mut().insert(execution.clone());
        // The answer is read under the claim too: a body that is still being made is still an effect.
        let work = AssertUnwindSafe(async {
            let response = inner.call(request).await?;
            let (parts, body) = response.into_parts();
            let limit = if endless(&parts) { 0 } else { settings.answer_max };
            Ok((parts, body::read(body, limit).await))
        });
        let outcome = hold(self.store, self.ticket, execution.lost_flag(), work.catch_unwind()).await;
        let (parts, read) = match outcome {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                self.end(&End::Doubt).await;
                metrics::count(Outcome::Unknown);
                return Err(error);
            }
            Err(_panic) => {
                tracing::error!(key = ?self.job.id, "a handler panicked; its key is in doubt");
                self.end(&End::Doubt).await;
                metrics::count(Outcome::Unknown);
                return Ok(settings.problem(Problem::handler_failed(Status::Unknown)));
            }
        };
        Ok(self.settle(parts, read, &execution).await)
    }

    /// Keeps what the answer says, and only then gives it out.
    async fn settle(
        &self,
        parts: http::response::Parts,
        read: Read,
        execution: &Execution,
    ) -> Response<Body> {
        let settings = self.settings;
        let (content, body, trailers) = match read {
            Read::Whole(bytes, trailers) => {
                (Content::Kept(bytes.clone()), Body::whole(bytes, trailers.clone()), trailers)
            }
            Read::TooLarge(body) => (Content::TooLarge, body, None),
            Read::Broken(error) => (Content::Broken, Body::stream(Failing(Some(error))), None),
        };
        let class = settings.classify.as_ref().and_then(|judge| judge(&parts));
        let class = class.unwrap_or_else(|| {
            let grpc = grpc::ended(&parts, trailers.as_ref(), &content);
            classify(parts.status, grpc, execution.said(), settings.explicit_begin)
        });
        let tombstone = !matches!(content, Content::Kept(_));
        let (end, status) = match class {
            Class::NotApplied => (End::Release, Status::NotApplied),
            Class::Unknown => (End::Doubt, Status::Unknown),
            Class::Applied | Class::Rejected => {
                let verdict = if class == Class::Applied { Verdict::Applied } else { Verdict::Rejected };
                let answer = replay::answer(&parts, content, trailers.as_ref(), &settings.kept_headers);
                let answer = settings.seal.close(answer.encode(), self.job.place(self.ticket.direction()));
                (End::Keep { verdict, answer, keep: self.job.keep(settings) }, Status::Kept)
            }
        };
        let held = self.end(&end).await;
        if held == Some(Held::Lost) {
            return self.lost().await;
        }
        let outcome = match class {
            Class::NotApplied => Outcome::Released,
            Class::Unknown => Outcome::Unknown,
            _ if tombstone => Outcome::Tombstoned,
            _ if self.ticket.in_doubt() => Outcome::TakenOver,
            _ => Outcome::Executed,
        };
        metrics::count(outcome);
        // An answer that could not be kept is true all the same, but nobody will be given it again.
        let status = if held.is_none() { Status::Unknown } else { status };
        mark(Response::from_parts(parts, body), status)
    }

    /// `None` if the store did not say.
    async fn end(&self, end: &End) -> Option<Held> {
        leased::end(self.store, self.ticket, end).await.ok()
    }

    /// The claim was taken over: there must be one answer to a key, and it is not this one.
    async fn lost(&self) -> Response<Body> {
        let request = ClaimRequest { in_doubt: InDoubt::Unknown, ..self.job.claim(self.settings) };
        match leased::claim(self.store, &request).await {
            // The one who took over has given it back, so nobody holds it: this attempt's outcome is lost.
            Ok(Claim::Acquired(ticket)) => {
                let _ = leased::end(self.store, &ticket, &End::Doubt).await;
                metrics::count(Outcome::Unknown);
                self.settings.problem(Problem::unknown())
            }
            Ok(claim) => answered(self.settings, self.job, claim, false),
            Err(_) => self.settings.problem(Problem::unknown()),
        }
    }
}

/// Whether the body is known to have no end worth waiting for.
pub(super) fn endless(parts: &http::response::Parts) -> bool {
    let kind = parts.headers.get(header::CONTENT_TYPE).map_or(&b""[..], |kind| kind.as_bytes());
    kind.starts_with(b"text/event-stream") || parts.status == StatusCode::SWITCHING_PROTOCOLS
}

/// A body that breaks off, as the handler's own did.
struct Failing(Option<BoxError>);

impl HttpBody for Failing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
        std::task::Poll::Ready(self.0.take().map(Err))
    }
}

/// How long a duplicate waits for the first.
struct Waiting {
    until: Option<Instant>,
    flights: Arc<Flights>,
    pause: Duration,
    has_waited: bool,
}

impl Waiting {
    fn new(wait: Duration, flights: Arc<Flights>) -> Self {
        let until = (!wait.is_zero()).then(|| Instant::now() + wait);
        Self { until, flights, pause: Duration::from_millis(20), has_waited: false }
    }

    /// Waits in memory while the same request runs in this process. `Err`: for too long.
    async fn board(&mut self, job: &Job) -> Result<Option<Flight>, Duration> {
        let Some(until) = self.until else { return Ok(None) };
        loop {
            match self.flights.board(job.id, job.fingerprint) {
                Boarding::First(flight) => return Ok(Some(flight)),
                // A mismatch is told at once, by the store.
                Boarding::Other(_) => return Ok(None),
                Boarding::Wait(mut landed) => {
                    self.has_waited = true;
                    if tokio::time::timeout_at(until, landed.changed()).await.is_err() {
                        return Err(Duration::from_secs(1));
                    }
                }
            }
        }
    }

    /// Pauses before the store is asked again: the first runs in another process. `false`: for too long.
    async fn pause(&mut self) -> bool {
        let Some(until) = self.until.filter(|until| Instant::now() < *until) else { return false };
        self.has_waited = true;
        // Spread out: duplicates that came together must not come back together.
        let pause = self.pause.mul_f64(0.5 + rand::random::<f64>());
        tokio::time::sleep_until(until.min(Instant::now() + pause)).await;
        self.pause = (self.pause * 2).min(Duration::from_millis(500));
        true
    }
}
