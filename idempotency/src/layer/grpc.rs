//! The layer's own answers to gRPC calls.
//!
//! A client of gRPC reads no `problem+json`: an HTTP status other than 200 it can only guess at. So a problem is
//! told as a gRPC status in a response without a body, as servers do whose call was refused before it began.
//! `Idempotency-Status` and `Retry-After` are there as metadata.

use http::{HeaderMap, HeaderValue, Response, header};

use super::body::Body;
use super::problem::Told;
use crate::headers::{IDEMPOTENCY_STATUS, IDEMPOTENT_REPLAYED};

/// Whether a request or an answer speaks gRPC.
pub(super) fn is_spoken(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
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
    headers.insert("grpc-status", HeaderValue::from_static(status(told.code)));
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
    fn a_message_is_printable() {
        assert_eq!(percent_encoded("50 % of \u{e9}\n"), "50 %25 of %C3%A9%0A");
    }
}
