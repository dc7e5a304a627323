//! What a handler may know and say about the key that it runs under.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use bytes::Bytes;

use crate::{Direction, Key, KeyId, Secret, Ticket};

/// The execution of one key, for its handler: an axum extractor, and an extension of every request that runs
/// under a key.
///
/// By default the layer judges by the answer's status what took effect. A handler that knows better says so:
/// [`begin`](Self::begin) before its first effect, [`nothing_happened`](Self::nothing_happened) when it gives up
/// without one.
#[derive(Clone)]
pub struct Execution(Arc<Inner>);

struct Inner {
    id: KeyId,
    direction: Direction,
    fence: u64,
    in_doubt: bool,
    action_answer: Option<Bytes>,
    secret: Secret,
    lost: AtomicBool,
    stage: AtomicU8,
}

const UNMARKED: u8 = 0;
const BEGUN: u8 = 1;
const NOTHING: u8 = 2;

/// What the handler has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Nothing,
    Begun,
    NothingHappened,
}

impl Execution {
    pub(crate) fn new(secret: &Secret, ticket: &Ticket, action_answer: Option<Bytes>) -> Self {
        Self::with(secret, ticket, ticket.in_doubt(), action_answer)
    }

    /// One that is put to a hook: its ticket is of whoever will know what happened, and has no doubt.
    pub(crate) fn in_question(secret: &Secret, ticket: &Ticket, action_answer: Option<Bytes>) -> Self {
        Self::with(secret, ticket, true, action_answer)
    }

    fn with(secret: &Secret, ticket: &Ticket, in_doubt: bool, action_answer: Option<Bytes>) -> Self {
        Self(Arc::new(Inner {
            id: *ticket.id(),
            direction: ticket.direction(),
            fence: ticket.fence(),
            in_doubt,
            action_answer,
            secret: secret.clone(),
            lost: AtomicBool::new(false),
            stage: AtomicU8::new(UNMARKED),
        }))
    }

    /// Says that execution begins now: from here on a 4xx is an outcome and is kept, whatever its status. What
    /// is refused before (validation, authentication) never burns the key.
    pub fn begin(&self) {
        self.0.stage.store(BEGUN, Ordering::Release);
    }

    /// Says that nothing took effect and nothing will: the key is freed, whatever the answer is.
    pub fn nothing_happened(&self) {
        self.0.stage.store(NOTHING, Ordering::Release);
    }

    /// What stores and logs know the key by.
    pub fn id(&self) -> &KeyId {
        &self.0.id
    }

    /// Which half of a saga's step this is. Without a saga, always the action.
    pub fn direction(&self) -> Direction {
        self.0.direction
    }

    /// Rises with every claim of this key: hand it to whoever can refuse an older one.
    pub fn fence(&self) -> u64 {
        self.0.fence
    }

    /// Whether an earlier attempt may have taken effect.
    pub fn in_doubt(&self) -> bool {
        self.0.in_doubt
    }

    /// Whether somebody else has taken the claim over: what is not yet begun had better not be.
    pub fn lost(&self) -> bool {
        self.0.lost.load(Ordering::Acquire)
    }

    /// In a compensation: the body that the action answered, if it is known.
    pub fn action_answer(&self) -> Option<&Bytes> {
        self.0.action_answer.as_ref()
    }

    /// A key for a call to somebody else, the same for every attempt: pass it on instead of the caller's own.
    pub fn downstream_key(&self, call: &str) -> Key {
        self.0.secret.downstream_key(&self.0.id, call)
    }

    pub(crate) fn said(&self) -> Said {
        match self.0.stage.load(Ordering::Acquire) {
            BEGUN => Said::Begun,
            NOTHING => Said::NothingHappened,
            _ => Said::Nothing,
        }
    }

    pub(crate) fn lost_flag(&self) -> &AtomicBool {
        &self.0.lost
    }
}

impl std::fmt::Debug for Execution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Execution")
            .field("id", &self.0.id)
            .field("said", &self.said())
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "axum")]
impl<S: Sync> axum::extract::FromRequestParts<S> for Execution {
    type Rejection = (http::StatusCode, &'static str);

    async fn from_request_parts(parts: &mut http::request::Parts, _: &S) -> Result<Self, Self::Rejection> {
        parts.extensions.get::<Self>().cloned().ok_or((
            http::StatusCode::INTERNAL_SERVER_ERROR,
            "this handler runs without an idempotency key: put the route behind an IdempotencyLayer that is required()",
        ))
    }
}
