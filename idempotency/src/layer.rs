//! The server's side: a [`tower::Layer`](tower_layer::Layer) for axum, hyper and tonic.
//!
//! The layer reads the `Idempotency-Key`, buffers the request's body, and runs the handler to its end whether or not
//! its client is still there, so that a client that goes away frees no key. What it answers by itself is described in [`problem`].
//!
//! With the header as a structured-field string, as the IETF draft has it:
//!
//! ```text
//! POST /charges HTTP/1.1
//! Idempotency-Key: "8e03978e-40d5-43e8-bc93-6894a57f9324"
//! ```

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use http::request::Parts;
use http::{HeaderName, Method};
use tokio_util::task::TaskTracker;

use crate::flights::Flights;
use crate::{Answer, InDoubt, Scope, Seal, Secret, Store, Syntax};

pub(crate) mod body;
mod classify;
mod execution;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod fused;
mod grpc;
mod json;
mod leased;
pub mod problem;
mod replay;
mod request;
mod service;
mod target;

pub use body::{Body, BoxError};
pub use classify::Class;
pub use execution::Execution;
pub use leased::Leased;
pub use service::Idempotency;

/// Protects what it wraps: a request that is repeated under its key takes effect once.
///
/// `G` is the guarantee: [`Leased`], for effects outside the database, or [`Fused`](crate::fused::Fused), for
/// effects in it. Every setting has a safe default; its method says which.
#[derive(Clone)]
pub struct IdempotencyLayer<G = Leased> {
    guarantee: G,
    settings: Settings,
    flights: Arc<Flights>,
    tasks: TaskTracker,
}

/// A layer that does not know yet whose keys it sees, and is therefore none.
///
/// ```compile_fail
/// # use idempotency::{IdempotencyLayer, MemoryStore, Secret};
/// # use tower_layer::Layer;
/// let layer = IdempotencyLayer::leased(MemoryStore::new(), Secret::new([7; 32]));
/// let service = layer.layer(()); // whose keys are these? it does not compile
/// ```
///
/// With a scope, it does:
///
/// ```
/// # use idempotency::{IdempotencyLayer, MemoryStore, Secret};
/// # use tower_layer::Layer;
/// let layer = IdempotencyLayer::leased(MemoryStore::new(), Secret::new([7; 32])).global_keys();
/// let service = layer.layer(());
/// ```
#[derive(Clone)]
#[must_use = "say whose keys these are: `.scope(…)`, or `.global_keys()` for a single caller"]
pub struct Unscoped<G>(IdempotencyLayer<G>);

type ScopeOf = Arc<dyn Fn(&Parts) -> Option<Scope> + Send + Sync>;
type Classify = Arc<dyn Fn(&http::response::Parts) -> Option<Class> + Send + Sync>;
type Reconcile = Arc<dyn Fn(Question) -> BoxFuture<'static, Reconciled> + Send + Sync>;

#[derive(Clone)]
pub(crate) struct Settings {
    secret: Secret,
    scope: ScopeOf,
    required: bool,
    syntax: Syntax,
    methods: Vec<Method>,
    lease: Duration,
    keep: Duration,
    keep_barrier: Duration,
    wait: Duration,
    body_max: usize,
    answer_max: usize,
    kept_headers: Vec<HeaderName>,
    classify: Option<Classify>,
    explicit_begin: bool,
    canonical_json: bool,
    in_doubt: InDoubt,
    undo_by_key: bool,
    reconcile: Option<Reconcile>,
    barrier: bool,
    fail_open: bool,
    seal: Seal,
    docs: Option<Arc<str>>,
}

/// A key in doubt, put to a [reconcile hook](IdempotencyLayer::reconcile).
#[derive(Debug)]
pub struct Question {
    /// The execution in doubt. Its [direction](Execution::direction) says which half it is.
    pub execution: Execution,
    /// The request that meets the doubt.
    pub request: Parts,
    /// Its body.
    pub body: bytes::Bytes,
}

/// What a [reconcile hook](IdempotencyLayer::reconcile) found out.
#[derive(Clone, Debug)]
pub enum Reconciled {
    /// It took effect; this is the answer from now on.
    Applied(Answer),
    /// It was refused for good; this is the answer from now on.
    Rejected(Answer),
    /// It did not take effect and never will: the request may run.
    NotApplied,
    /// Still nobody knows.
    Unknown,
}

impl IdempotencyLayer<Leased> {
    /// The [leased](crate::leased) guarantee, on any store.
    pub fn leased(store: impl Store, secret: Secret) -> Unscoped<Leased> {
        Self::with(Leased::new(Arc::new(store)), secret)
    }

    /// What becomes of a request whose earlier attempt is in doubt: by default it is answered
    /// `outcome-unknown`. [`InDoubt::RunAgain`] runs it again: only for effects that are idempotent by
    /// themselves.
    pub fn in_doubt(mut self, in_doubt: InDoubt) -> Self {
        self.settings.in_doubt = in_doubt;
        self
    }

    /// Asks `hook` about a key in doubt before anything else is done about it; what it does not know is left to
    /// [`in_doubt`](Self::in_doubt) and [`undo_by_key`](Self::undo_by_key). While it looks, the claim is held:
    /// `NotApplied` must be true of an attempt that was sent and may still arrive, too.
    pub fn reconcile<F, O>(mut self, hook: F) -> Self
    where
        F: Fn(Question) -> O + Send + Sync + 'static,
        O: Future<Output = Reconciled> + Send + 'static,
    {
        self.settings.reconcile = Some(Arc::new(move |question| Box::pin(hook(question))));
        self
    }

    /// Says that compensations can undo, or refuse, their action *by its key* even if nobody knows how it
    /// ended. Without this, a compensation that meets an action in doubt is answered `outcome-unknown`.
    pub fn undo_by_key(mut self) -> Self {
        self.settings.undo_by_key = true;
        self
    }

    /// How long a claim outlives its holder. Default: 30 s. It is renewed while the handler runs, so a slow
    /// handler needs no long lease.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease.max(Duration::from_millis(10));
        self
    }

    /// Runs requests although the store is down. Then a repeated request may take effect twice; every one that
    /// ran so is counted as `unprotected` and marked so.
    pub fn fail_open(mut self) -> Self {
        self.settings.fail_open = true;
        self
    }
}

impl<G> IdempotencyLayer<G> {
    pub(crate) fn with(guarantee: G, secret: Secret) -> Unscoped<G> {
        Unscoped(Self {
            guarantee,
            settings: Settings {
                secret,
                scope: Arc::new(|_| None),
                required: false,
                syntax: Syntax::Strict,
                methods: vec![Method::POST, Method::PATCH],
                lease: Duration::from_secs(30),
                // A day is the shortest that payment APIs promise; a retry that comes later is a new intent.
                keep: Duration::from_secs(24 * 3600),
                keep_barrier: Duration::from_secs(90 * 24 * 3600),
                wait: Duration::ZERO,
                body_max: 1 << 20,
                answer_max: 1 << 20,
                kept_headers: replay::DEFAULT_HEADERS.to_vec(),
                classify: None,
                explicit_begin: false,
                canonical_json: false,
                in_doubt: InDoubt::Unknown,
                undo_by_key: false,
                reconcile: None,
                barrier: false,
                fail_open: false,
                seal: Seal::none(),
                docs: None,
            },
            flights: Arc::default(),
            tasks: TaskTracker::new(),
        })
    }

    /// Refuses requests without a key (400). Default: they pass unprotected.
    pub fn required(mut self) -> Self {
        self.settings.required = true;
        self
    }

    /// Also takes the bare token that many clients send in place of a quoted string. Both mean the same key.
    pub fn bare_tokens(mut self) -> Self {
        self.settings.syntax = Syntax::Lenient;
        self
    }

    /// The methods that are protected; others pass, but for a saga's calls at a [barrier](Self::barrier). Default:
    /// POST and PATCH.
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.settings.methods = methods.into_iter().collect();
        self
    }

    /// How long an answer is kept. Default: 24 h. It must exceed the time over which clients retry.
    pub fn keep_for(mut self, keep: Duration) -> Self {
        self.settings.keep = keep;
        self
    }

    /// Waits so long for a running first request before answering 409. Default: not at all. Duplicates in this
    /// process wait in memory and cost the store nothing.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.settings.wait = wait;
        self
    }

    /// The largest request body accepted under a key, in bytes; above it 413. Default: 1 MiB.
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.settings.body_max = bytes;
        self
    }

    /// The largest answer that is kept, in bytes. A larger or endless one is passed on to the first caller and
    /// leaves a tombstone: later ones learn that it took effect, without the body. Default: 1 MiB.
    pub fn answer_limit(mut self, bytes: usize) -> Self {
        self.settings.answer_max = bytes;
        self
    }

    /// Keeps this response header too. Default: those that describe the body, and `Location`, `ETag`, `Link`,
    /// `Last-Modified`, `Retry-After`.
    ///
    /// # Panics
    /// For headers that carry credentials (`Set-Cookie`, `Authorization`, …): they belong to the first caller's
    /// session, and are never kept.
    pub fn keep_header(mut self, name: HeaderName) -> Self {
        assert!(!replay::is_secret(&name), "the header {name} carries credentials and is never kept");
        self.settings.kept_headers.push(name);
        self
    }

    /// Judges an answer; `None` leaves it to the default: 2xx and 3xx [took effect](Class::Applied), 5xx, 408,
    /// 425, 429 [may have](Class::Unknown), refusals before execution (400, 401, 403, 404, 422 and the like)
    /// [did not](Class::NotApplied), other 4xx are [refusals for good](Class::Rejected).
    pub fn classify(
        mut self,
        judge: impl Fn(&http::response::Parts) -> Option<Class> + Send + Sync + 'static,
    ) -> Self {
        self.settings.classify = Some(Arc::new(judge));
        self
    }

    /// Nothing but a success is kept unless the handler called [`Execution::begin`]. Default: refusals are told
    /// from validation by their status.
    pub fn explicit_begin(mut self) -> Self {
        self.settings.explicit_begin = true;
        self
    }

    /// Compares JSON bodies by what they say (RFC 8785), not byte for byte.
    pub fn canonical_json(mut self) -> Self {
        self.settings.canonical_json = true;
        self
    }

    /// Takes part in sagas: requests with `saga-*` headers go through the [barrier](crate::barrier), whatever their
    /// method.
    pub fn barrier(mut self) -> Self {
        self.settings.barrier = true;
        self
    }

    /// How long the barrier's rows are kept. Default: 90 days. It must exceed the longest saga.
    pub fn keep_barrier_for(mut self, keep: Duration) -> Self {
        self.settings.keep_barrier = keep;
        self
    }

    /// Encrypts stored answers.
    #[cfg(feature = "seal")]
    pub fn sealed(mut self, seal: Seal) -> Self {
        self.settings.seal = seal;
        self
    }

    /// The page that documents this API's use of keys: problems link to it.
    pub fn docs(mut self, url: impl Into<String>) -> Self {
        self.settings.docs = Some(url.into().into());
        self
    }

    /// Waits until every handler that runs under a key has ended, for a graceful stop. Handlers go on although
    /// their clients have gone, so the server's own drain does not see them.
    pub async fn drain(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl<G> Unscoped<G> {
    /// Tells whose key it is, from what was verified about the caller. `None` refuses the request (403).
    ///
    /// ```
    /// # use idempotency::{IdempotencyLayer, MemoryStore, Scope, Secret};
    /// #[derive(Clone)]
    /// struct Tenant(String); // put there by the authentication layer outside this one
    ///
    /// let layer = IdempotencyLayer::leased(MemoryStore::new(), Secret::new([7; 32]))
    ///     .scope(|request| Some(Scope::of([&request.extensions.get::<Tenant>()?.0])));
    /// ```
    pub fn scope(
        mut self,
        scope: impl Fn(&Parts) -> Option<Scope> + Send + Sync + 'static,
    ) -> IdempotencyLayer<G> {
        self.0.settings.scope = Arc::new(scope);
        self.0
    }

    /// One scope for all callers. Whoever learns another's key can read the answer stored under it: only for a
    /// service with a single caller.
    pub fn global_keys(mut self) -> IdempotencyLayer<G> {
        self.0.settings.scope = Arc::new(|_| Some(Scope::global()));
        self.0
    }
}

impl<G> std::fmt::Debug for IdempotencyLayer<G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdempotencyLayer").field("running", &self.tasks.len()).finish_non_exhaustive()
    }
}

impl<G> std::fmt::Debug for Unscoped<G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unscoped")
    }
}
