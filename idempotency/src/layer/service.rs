//! The service around a handler.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::request::Parts;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tower_layer::Layer;
use tower_service::Service;
use tracing::Instrument;

use super::body::{Body, BoxError};
use super::problem::Problem;
use super::request::{Entry, Job, enter};
use super::{IdempotencyLayer, Settings, grpc};
use crate::headers::{IDEMPOTENCY_STATUS, Status};
use crate::metrics::{self, Outcome};
use crate::trace::traced;
use crate::unstoppable::Unstoppable;

/// What an [`IdempotencyLayer`] makes of a service.
#[derive(Clone)]
pub struct Idempotency<S, G> {
    inner: S,
    layer: Arc<IdempotencyLayer<G>>,
}

impl<S, G> std::fmt::Debug for Idempotency<S, G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Idempotency").finish_non_exhaustive()
    }
}

/// How a job is carried out: one of the guarantees.
pub trait Guarantee: Clone + Send + Sync + 'static {
    /// Answers a request under a key.
    #[doc(hidden)]
    fn serve<S, R>(
        layer: Arc<IdempotencyLayer<Self>>,
        job: Carrier,
        inner: S,
    ) -> impl Future<Output = Result<Response<Body>, S::Error>> + Send
    where
        S: Service<Request<Body>, Response = Response<R>> + Send + 'static,
        S::Future: Send,
        S::Error: Send,
        R: HttpBody + Send + 'static,
        R::Data: Send,
        R::Error: Into<BoxError>;
}

/// A job on its way to its guarantee.
#[doc(hidden)]
#[allow(missing_debug_implementations, reason = "not part of the interface")]
pub struct Carrier(pub(crate) Box<Job>, pub(crate) Parts);

impl<S, G: Clone> Layer<S> for IdempotencyLayer<G> {
    type Service = Idempotency<S, G>;

    fn layer(&self, inner: S) -> Self::Service {
        Idempotency { inner, layer: Arc::new(self.clone()) }
    }
}

impl<S, G, B, R> Service<Request<B>> for Idempotency<S, G>
where
    S: Service<Request<Body>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    G: Guarantee,
    B: HttpBody + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
    R: HttpBody + Send + 'static,
    R::Data: Send,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The instance that is ready is the one to call; its clone waits for the next request.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let layer = self.layer.clone();
        let speaks_grpc = grpc::is_spoken(request.headers());
        Box::pin(async move {
            let response = match enter(&layer.settings, request).await {
                Entry::Pass(request) => return Ok(inner.call(request).await?.map(Body::stream)),
                Entry::Refuse(problem) => {
                    metrics::count(Outcome::Refused);
                    layer.settings.problem(problem)
                }
                Entry::Run(job, parts) => run(layer, Carrier(job, parts), inner).await?,
            };
            Ok(if speaks_grpc { grpc::translated(response) } else { response })
        })
    }
}

/// Runs a job to its end, whether or not its client is still there.
async fn run<S, G, R>(
    layer: Arc<IdempotencyLayer<G>>,
    carrier: Carrier,
    inner: S,
) -> Result<Response<Body>, S::Error>
where
    S: Service<Request<Body>, Response = Response<R>> + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    G: Guarantee,
    R: HttpBody + Send + 'static,
    R::Data: Send,
    R::Error: Into<BoxError>,
{
    let (id, direction) = (carrier.0.id, carrier.0.direction);
    // For the logs of whoever reads them at this level; OpenTelemetry has a span of its own.
    let span = tracing::debug_span!("idempotency", key = ?id, ?direction);
    let running = layer.tasks.token();
    // In a box at once: what is built around a future moves all of it.
    let served = Box::pin(G::serve(layer, carrier, inner));
    let work = traced(&id, direction, served.instrument(span));
    Unstoppable::run(async move {
        let answer = work.await;
        drop(running);
        answer
    })
    .await
}

impl Settings {
    pub(super) fn problem(&self, problem: Problem) -> Response<Body> {
        problem.into_response(self.docs.as_deref())
    }
}

/// Marks an answer with what it means for its key, in place of whatever the handler put there.
pub(super) fn mark(mut response: Response<Body>, status: Status) -> Response<Body> {
    response.headers_mut().insert(IDEMPOTENCY_STATUS, status.value());
    response
}
