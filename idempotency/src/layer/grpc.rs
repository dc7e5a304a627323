//! What gRPC's answers say, and the layer's own answers to its calls.
//!
//! gRPC answers 200 whatever happens; its own status is in the headers or the trailers, and gRPC-Web's in the body.
//!
//! A client of gRPC reads no `problem+json`: an HTTP status other than 200 it can only guess at. So a problem is
//! told as a gRPC status in a response without a body, as servers do whose call was refused before it began.
//! `Idempotency-Status` and `Retry-After` are there as metadata.

use http::response::Parts;
use http::{HeaderMap, HeaderValue, Response, header};

use super::body::Body;
use super::problem::Told;
use crate::Content;
use crate::headers::{IDEMPOTENCY_STATUS, IDEMPOTENT_REPLAYED};

mod web;

const STATUS: &str = "grpc-status";

/// A call that broke off, as its client sees it.
const UNKNOWN: u16 = 2;

/// Whether a request or an answer speaks gRPC.
pub(super) fn is_spoken(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// How an answer says that its call ended. `None`: HTTP's status has to do, because the answer is not gRPC's, or too
/// large to be read as far as its trailers.
pub(super) fn ended(parts: &Parts, trailers: Option<&HeaderMap>, content: &Content) -> Option<u16> {
    if !is_spoken(&parts.headers) {
        return None;
    }
    let status = parts.headers.get(STATUS).or_else(|| trailers?.get(STATUS));
    let status = status.and_then(|status| status.to_str().ok()?.parse().ok());
    match content {
        Content::TooLarge => status,
        Content::Kept(body) => status.or_else(|| web::status(&parts.headers, body)).or(Some(UNKNOWN)),
        Content::Broken => status.or(Some(UNKNOWN)),
    }
}

/// The numbers are gRPC's.
fn status(code: &str) -> &'static str {
    match code {
        "key-missing" | "key-malformed" | "saga-headers-malformed" | "body-unreadable" => "3", // invalid argument
        "key-reused" => "6",           // already exists
        "scope-missing" => "7",        // permission denied
        "body-too-large" => "8",       // resource exhausted
        "too-late" => "9",             // failed precondition
        "request-in-flight" => "10",   // aborted: another is running, try the whole again
        "store-unavailable" => "14",   // unavailable
        "answer-not-retained" => "15", // data loss
        "outcome-unknown" => "2",      // unknown
        _ => "13",                     // internal
    }
}

/// A problem as gRPC tells it; every other answer as it is.
pub(super) fn translated(mut response: Response<Body>) -> Response<Body> {
    let Some(told) = response.extensions_mut().remove::<Told>() else { return response };
    let mut refusal = Response::new(Body::empty());
    let headers = refusal.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(STATUS, HeaderValue::from_static(status(told.code)));
    let message = percent_encoded(&format!("{}: {}", told.code, told.detail));
    headers.insert("grpc-message", HeaderValue::try_from(message).expect("only printable ASCII is left"));
    for name in [IDEMPOTENCY_STATUS, IDEMPOTENT_REPLAYED, header::RETRY_AFTER] {
        if let Some(value) = response.headers().get(&name) {
            headers.insert(name, value.clone());
        }
    }
    refusal
}

/// As gRPC wants its messages: whatever is not printable ASCII, and the percent sign.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | 0..=0x1f | 0x7f.. => encoded.push_str(&format!("%{byte:02X}")),
            _ => encoded.push(char::from(byte)),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::layer::problem::Problem;

    #[test]
    fn a_problem_is_a_status_with_its_reason_and_an_answer_stays_as_it_is() {
        let problem = translated(Problem::in_flight(Duration::from_secs(3)).into_response(None));
        assert_eq!(problem.status(), 200);
        assert_eq!(problem.headers()["grpc-status"], "10");
        assert_eq!(problem.headers()[header::RETRY_AFTER], "3");
        assert_eq!(problem.headers()[IDEMPOTENCY_STATUS], "in-flight");
        assert!(problem.headers()["grpc-message"].to_str().unwrap().starts_with("request-in-flight: "));
        let answer = Response::builder().status(503).body(Body::empty()).unwrap();
        assert_eq!(translated(answer).status(), 503, "the handler's own");
    }

    #[test]
    fn an_answer_says_how_its_call_ended_unless_it_was_not_read_so_far() {
        let parts =
            |kind: &str| Response::builder().header("content-type", kind).body(()).unwrap().into_parts().0;
        let (grpc, whole) = (parts("application/grpc"), Content::Kept("message".into()));
        let trailers = HeaderMap::from_iter([(STATUS.parse().unwrap(), HeaderValue::from(9))]);
        assert_eq!(ended(&grpc, Some(&trailers), &whole), Some(9));
        assert_eq!(ended(&grpc, None, &whole), Some(UNKNOWN), "it has none");
        assert_eq!(ended(&grpc, None, &Content::Broken), Some(UNKNOWN));
        assert_eq!(ended(&grpc, None, &Content::TooLarge), None, "it may have one");
        let mut refused = grpc;
        refused.headers.insert(STATUS, HeaderValue::from(3));
        assert_eq!(ended(&refused, None, &Content::TooLarge), Some(3), "in the headers");
        assert_eq!(ended(&parts("application/json"), Some(&trailers), &whole), None);
    }

    #[test]
    fn a_message_is_printable() {
        assert_eq!(percent_encoded("50 % of \u{e9}\n"), "50 %25 of %C3%A9%0A");
    }
}
