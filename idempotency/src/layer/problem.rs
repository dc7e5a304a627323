//! What the layer answers by itself: `application/problem+json` (RFC 9457) with a stable code.
//!
//! | code | status | retryable | meaning |
//! |---|---|---|---|
//! | `key-missing` | 400 | no | the operation needs an `Idempotency-Key` |
//! | `key-malformed` | 400 | no | the header is not a valid key |
//! | `saga-headers-malformed` | 400 | no | the `saga-*` headers are incomplete or wrong |
//! | `body-unreadable` | 400 | yes | the request's body broke off |
//! | `scope-missing` | 403 | no | the server could not tell whose key it is |
//! | `request-in-flight` | 409 | yes | the first request is still running; see `Retry-After` |
//! | `outcome-unknown` | 409 | no | an attempt was begun and nobody knows how it ended |
//! | `too-late` | 410 | no | the action comes after its own compensation or settlement |
//! | `body-too-large` | 413 | no | the request's body is larger than the server accepts under a key |
//! | `key-reused` | 422 | no | the key was used for another request |
//! | `handler-failed` | 500 | no | the handler ended without an answer; the outcome is unknown, or undone |
//! | `answer-unreadable` | 500 | no | the kept answer cannot be read |
//! | `store-unavailable` | 503 | yes | the store did not answer; nothing was begun |
//! | `answer-not-retained` | the first answer's | no | the effect took place; its answer was too large to keep |
//!
//! A gRPC call gets the same as a gRPC status, in words that its clients know: see `grpc.rs`.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use super::body::Body;
use crate::headers::{IDEMPOTENCY_STATUS, Status};

/// An answer of the layer's own.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) title: &'static str,
    pub(crate) detail: String,
    pub(crate) retryable: bool,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) outcome: Status,
}

/// Travels with a problem's response, for whom JSON is not the language.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) code: &'static str,
    pub(crate) detail: String,
}

#[derive(Serialize)]
struct Json<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    retryable: bool,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, title: &'static str, outcome: Status) -> Self {
        Self { status, code, title, detail: String::new(), retryable: false, retry_after: None, outcome }
    }

    fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    fn retryable(mut self, after: Duration) -> Self {
        (self.retryable, self.retry_after) = (true, Some(after));
        self
    }

    pub(crate) fn key_missing() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "key-missing", "Idempotency-Key is missing", Status::NotBegun)
            .detail("this operation requires an Idempotency-Key header, such as a UUID in double quotes")
    }

    pub(crate) fn key_malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "key-malformed", "Idempotency-Key is malformed", Status::NotBegun)
            .detail(detail)
    }

    pub(crate) fn saga_headers(detail: impl Into<String>) -> Self {
        let title = "the saga headers are malformed";
        Self::new(StatusCode::BAD_REQUEST, "saga-headers-malformed", title, Status::NotBegun).detail(detail)
    }

    pub(crate) fn body_unreadable() -> Self {
        let title = "the request body could not be read";
        Self::new(StatusCode::BAD_REQUEST, "body-unreadable", title, Status::NotBegun)
            .detail("the body broke off; nothing was begun")
            .retryable(Duration::ZERO)
    }

    pub(crate) fn scope_missing() -> Self {
        Self::new(StatusCode::FORBIDDEN, "scope-missing", "the caller is not known", Status::NotBegun)
            .detail("an Idempotency-Key is only accepted from a caller whose identity was verified")
    }

    pub(crate) fn in_flight(after: Duration) -> Self {
        let title = "A request is outstanding for this Idempotency-Key";
        Self::new(StatusCode::CONFLICT, "request-in-flight", title, Status::InFlight)
            .detail("the first request with this key is still running")
            .retryable(after)
    }

    pub(crate) fn unknown() -> Self {
        let title = "the outcome is unknown";
        Self::new(StatusCode::CONFLICT, "outcome-unknown", title, Status::Unknown).detail(
            "an attempt with this key was begun, and it is not known whether it took effect; it is not run again",
        )
    }

    pub(crate) fn too_late() -> Self {
        Self::new(StatusCode::GONE, "too-late", "the action comes too late", Status::TooLate)
            .detail("it was compensated or settled before; it did not run and never will")
    }

    pub(crate) fn body_too_large(limit: usize) -> Self {
        let title = "the request body is too large";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", title, Status::NotBegun)
            .detail(format!("at most {limit} bytes are accepted with an Idempotency-Key"))
    }

    pub(crate) fn key_reused(part: crate::Part) -> Self {
        let title = "Idempotency-Key is already used";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "key-reused", title, Status::Mismatch)
            .detail(format!("this key was used for another request: the {part} differs"))
    }

    pub(crate) fn handler_failed(outcome: Status) -> Self {
        let title = "the request failed";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "handler-failed", title, outcome).detail(match outcome {
            Status::Unknown => "it is not known whether it took effect",
            _ => "nothing took effect",
        })
    }

    pub(crate) fn answer_unreadable() -> Self {
        let title = "the kept answer cannot be read";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "answer-unreadable", title, Status::Kept)
            .detail("the effect took place; its answer was written by a newer release or with another secret")
    }

    pub(crate) fn store_unavailable() -> Self {
        let title = "the idempotency store is unavailable";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "store-unavailable", title, Status::NotBegun)
            .detail("nothing was begun")
            .retryable(Duration::from_secs(1))
    }

    pub(crate) fn not_retained(status: StatusCode) -> Self {
        Self::new(status, "answer-not-retained", "the answer was not retained", Status::Kept)
            .detail("the effect took place; its answer was too large to keep, or broke off")
    }

    /// The response. `docs` is the page that describes the codes, if there is one.
    pub(crate) fn into_response(self, docs: Option<&str>) -> Response<Body> {
        let kind = match docs {
            Some(docs) => format!("{docs}#{}", self.code),
            None => format!("urn:idempotency:{}", self.code),
        };
        let json = Json {
            r#type: &kind,
            title: self.title,
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
            retryable: self.retryable,
        };
        let body = serde_json::to_vec(&json).expect("a problem is plain strings");
        let mut response = Response::new(Body::from(Bytes::from(body)));
        *response.status_mut() = self.status;
        response.extensions_mut().insert(Told { code: self.code, detail: self.detail });
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(IDEMPOTENCY_STATUS, self.outcome.value());
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(after)));
        }
        if let Some(link) =
            docs.and_then(|docs| HeaderValue::try_from(format!("<{docs}>; rel=\"describedby\"")).ok())
        {
            headers.insert(header::LINK, link);
        }
        response
    }
}

/// Rounded up: who comes a second late meets the answer, who comes early only meets another 409.
fn whole_seconds(after: Duration) -> u64 {
    after.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)
}
