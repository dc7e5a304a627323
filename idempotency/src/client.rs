//! The client's side: a key that stays the same across retries, and answers read for what they say.
//!
//! [`Outcome`] has a word for each thing a caller can know. The rule behind it: only what is definite is called
//! so. A refused connection, or an answer that the layer marked, tells that nothing was applied; everything
//! else that is not a success is [`Unknown`](Outcome::Unknown), because the effect may have happened and only
//! its answer was lost.
//!
//! | answer | outcome |
//! |---|---|
//! | connection refused | `NotApplied` |
//! | 2xx; 303 and others marked `kept` | `Applied` |
//! | 4xx marked `kept` | `Rejected` |
//! | `too-late` | `Rejected` |
//! | marked `not-begun` or `not-applied` | `NotApplied` |
//! | `mismatch` | `Mismatch` |
//! | 409 `in-flight` | `Unknown`, with its `Retry-After` |
//! | anything else: bare 429, 503, 5xx, 4xx or 308 that nobody marked, a broken answer | `Unknown` |
//!
//! A redirect is not followed ([`Http`]). Unmarked it says that the request is wanted elsewhere, and most often comes
//! from a proxy that has not let it through; only 303 is how a service answers what it has done.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use tower_layer::Layer;
use tower_service::Service;

use crate::Key;
use crate::barrier::Call;
use crate::headers::{IDEMPOTENCY_KEY, Status};

#[cfg(feature = "reqwest")]
mod send;

#[cfg(feature = "reqwest")]
pub use send::{Http, Retries, Send};

/// What became of a call, as far as the caller can know.
#[derive(Debug)]
#[must_use]
pub enum Outcome<R> {
    /// It took effect; `R` is its answer.
    Applied(R),
    /// It was refused for good: no attempt under this key was or will be applied.
    Rejected(R),
    /// This attempt had no effect. An earlier one may have had one.
    NotApplied {
        /// When to try again, if the server said so.
        retry_after: Option<Duration>,
        /// What stood in the way.
        why: String,
    },
    /// It may have taken effect, or still be running.
    Unknown {
        /// When to ask again, if the server said so.
        retry_after: Option<Duration>,
        /// What is unclear.
        why: String,
    },
    /// The key was used for another request: a mistake in the calling program, which no retry mends.
    Mismatch {
        /// What the server said.
        why: String,
    },
}

/// [`Outcome`] without its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// It took effect.
    Applied,
    /// It was refused for good.
    Rejected,
    /// This attempt had no effect.
    NotApplied,
    /// It may have taken effect, or still be running.
    Unknown,
    /// The key was used for another request.
    Mismatch,
}

/// Reads an answer's status and headers for what they say about the effect.
pub fn read(status: StatusCode, headers: &HeaderMap) -> Reading {
    match Status::of(headers) {
        Some(Status::NotBegun | Status::NotApplied) => Reading::NotApplied,
        Some(Status::Mismatch) => Reading::Mismatch,
        Some(Status::TooLate) => Reading::Rejected,
        Some(Status::InFlight | Status::Unknown) => Reading::Unknown,
        Some(Status::NothingToUndo | Status::NeverApplied | Status::Undone) => Reading::Applied,
        Some(Status::Kept) if status.is_client_error() => Reading::Rejected,
        Some(Status::Kept | Status::Unprotected) if status.is_redirection() => Reading::Applied,
        Some(Status::Kept | Status::Unprotected) | None => match status.as_u16() {
            200..=299 | 303 => Reading::Applied,
            _ => Reading::Unknown,
        },
    }
}

/// The server's `Retry-After`, if it is given in seconds.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    // A server that asks for more than a day is not asking for a retry.
    Some(Duration::from_secs(seconds.min(24 * 3600)))
}

impl<R> Outcome<R> {
    /// The outcome of an answer.
    pub fn of(status: StatusCode, headers: &HeaderMap, answer: R) -> Self {
        let retry_after = retry_after(headers);
        let why = || match Status::of(headers) {
            Some(word) => format!("{status}, {}", word.as_str()),
            None => status.to_string(),
        };
        match read(status, headers) {
            Reading::Applied => Self::Applied(answer),
            Reading::Rejected => Self::Rejected(answer),
            Reading::NotApplied => Self::NotApplied { retry_after, why: why() },
            Reading::Unknown => Self::Unknown { retry_after, why: why() },
            Reading::Mismatch => Self::Mismatch { why: why() },
        }
    }

    /// The outcome without its answer.
    pub fn reading(&self) -> Reading {
        match self {
            Self::Applied(_) => Reading::Applied,
            Self::Rejected(_) => Reading::Rejected,
            Self::NotApplied { .. } => Reading::NotApplied,
            Self::Unknown { .. } => Reading::Unknown,
            Self::Mismatch { .. } => Reading::Mismatch,
        }
    }
}

impl<B> From<Response<B>> for Outcome<Response<B>> {
    fn from(response: Response<B>) -> Self {
        let (parts, body) = response.into_parts();
        let (status, headers) = (parts.status, parts.headers.clone());
        Self::of(status, &headers, Response::from_parts(parts, body))
    }
}

/// Puts the key, and the saga's headers if there are any, on a request. A key that is already there stays: a
/// retry must never get a new one.
pub fn sign(headers: &mut HeaderMap, key: &Key, call: Option<&Call>) {
    headers.entry(IDEMPOTENCY_KEY).or_insert_with(|| {
        let mut value = HeaderValue::try_from(key.to_header()).expect("a key is printable ASCII");
        value.set_sensitive(true);
        value
    });
    for (name, value) in call.into_iter().flat_map(Call::headers) {
        headers.insert(name, HeaderValue::try_from(value).expect("printable ASCII, by the wire contract"));
    }
}

/// A [`tower::Layer`](tower_layer::Layer) that gives every request a key, and keeps it across retries. Requests that
/// only read (GET, HEAD, …) need none, unless they are a saga's.
///
/// Put it *outside* the layer that retries: what is retried then carries its key already. The key is taken from
/// the request's extensions (a [`Key`], and a [`Call`] for a saga's headers), or else made up, which protects
/// the retries inside but not those of a process that died: give a key of your own where it matters.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientLayer;

/// What [`ClientLayer`] makes of a service.
#[derive(Clone, Debug)]
pub struct Client<S>(S);

impl<S> Layer<S> for ClientLayer {
    type Service = Client<S>;

    fn layer(&self, inner: S) -> Client<S> {
        Client(inner)
    }
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for Client<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        let call = request.extensions().get::<Call>().cloned();
        // A saga may settle by a GET.
        if call.is_some() || !request.method().is_safe() {
            let key = request.extensions().get::<Key>().cloned().unwrap_or_else(Key::random);
            sign(request.headers_mut(), &key, call.as_ref());
        }
        self.0.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::IDEMPOTENCY_STATUS;

    fn reading(status: u16, word: Option<Status>) -> Reading {
        let mut headers = HeaderMap::new();
        if let Some(word) = word {
            headers.insert(IDEMPOTENCY_STATUS, word.value());
        }
        read(StatusCode::from_u16(status).unwrap(), &headers)
    }

    #[test]
    fn only_what_is_definite_is_called_so() {
        use Reading::{Applied, Mismatch, NotApplied, Rejected, Unknown};
        #[rustfmt::skip]
        let table = [
            (200, None, Applied), (303, None, Applied), (201, Some(Status::Kept), Applied),
            (301, None, Unknown), (308, None, Unknown), (308, Some(Status::Kept), Applied),
            (402, Some(Status::Kept), Rejected), (402, None, Unknown), (422, None, Unknown),
            (422, Some(Status::Mismatch), Mismatch), (410, Some(Status::TooLate), Rejected),
            (409, Some(Status::InFlight), Unknown), (409, Some(Status::Unknown), Unknown), (409, None, Unknown),
            (503, Some(Status::NotBegun), NotApplied), (503, None, Unknown), (429, None, Unknown),
            (429, Some(Status::NotBegun), NotApplied), (503, Some(Status::NotApplied), NotApplied),
            (500, None, Unknown), (500, Some(Status::Kept), Unknown), (100, None, Unknown),
            (200, Some(Status::Unprotected), Applied), (500, Some(Status::Unprotected), Unknown),
            (200, Some(Status::NothingToUndo), Applied), (400, Some(Status::NotBegun), NotApplied),
        ];
        for (status, word, expected) in table {
            assert_eq!(reading(status, word), expected, "{status} {word:?}");
        }
    }

    #[test]
    fn a_key_that_is_there_stays() {
        let mut headers = HeaderMap::new();
        sign(&mut headers, &Key::new("first").unwrap(), None);
        sign(&mut headers, &Key::new("second").unwrap(), None);
        assert_eq!(headers[IDEMPOTENCY_KEY], "\"first\"");
        assert!(!format!("{headers:?}").contains("first"), "a key is a secret");
    }

    #[test]
    fn retry_after_is_read_in_seconds_and_bounded() {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("3"));
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(3)));
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("99999999999"));
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(86_400)));
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("Fri, 31 Dec 2027 23:59:59 GMT"));
        assert_eq!(retry_after(&headers), None);
    }
}
