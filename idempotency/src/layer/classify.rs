//! What an answer says about its effect.

use http::response::Parts;
use http::{HeaderMap, StatusCode};

use super::execution::Said;
use super::grpc;

/// What an answer says about its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It took effect: the answer is kept.
    Applied,
    /// It was refused for good, and nothing took effect: the answer is kept.
    Rejected,
    /// Nothing took effect: nothing is kept, the key is free.
    NotApplied,
    /// Nobody knows: the key is in doubt.
    Unknown,
}

/// The default judgement.
///
/// 2xx and 3xx took effect. 5xx, 408, 425, 429 and 499 may have. The other 4xx are refusals for good, except
/// those with which a request is turned away before execution (validation, authentication, routing): they are
/// not kept unless the handler said that it had begun.
pub(super) fn classify(parts: &Parts, trailers: Option<&HeaderMap>, said: Said, explicit: bool) -> Class {
    if said == Said::NothingHappened {
        return Class::NotApplied;
    }
    let class = match grpc_status(parts, trailers) {
        Some(code) => by_grpc(code),
        None => by_http(parts.status),
    };
    match class {
        Judgement::Applied => Class::Applied,
        _ if explicit && said == Said::Nothing => Class::NotApplied,
        Judgement::TurnedAway if said == Said::Nothing => Class::NotApplied,
        Judgement::TurnedAway | Judgement::Refused => Class::Rejected,
        Judgement::Unclear => Class::Unknown,
    }
}

enum Judgement {
    Applied,
    Refused,
    TurnedAway,
    Unclear,
}

fn by_http(status: StatusCode) -> Judgement {
    match status.as_u16() {
        100..=399 => Judgement::Applied,
        400 | 401 | 403 | 404 | 405 | 406 | 411 | 413 | 414 | 415 | 416 | 417 | 421 | 422 | 426 | 428
        | 431 => Judgement::TurnedAway,
        408 | 425 | 429 | 499 => Judgement::Unclear,
        402..=498 => Judgement::Refused,
        _ => Judgement::Unclear,
    }
}

/// gRPC answers 200 whatever happens; its own status is in the headers or the trailers.
fn grpc_status(parts: &Parts, trailers: Option<&HeaderMap>) -> Option<u16> {
    if !grpc::is_spoken(&parts.headers) {
        return None;
    }
    let status = parts.headers.get("grpc-status").or_else(|| trailers?.get("grpc-status"));
    // Without a status the call broke off: 2 is gRPC's "unknown".
    Some(status.and_then(|status| status.to_str().ok()?.parse().ok()).unwrap_or(2))
}

fn by_grpc(code: u16) -> Judgement {
    match code {
        0 => Judgement::Applied,
        // Invalid argument, not found, permission denied, unimplemented, unauthenticated.
        3 | 5 | 7 | 12 | 16 => Judgement::TurnedAway,
        // Already exists, failed precondition, out of range.
        6 | 9 | 11 => Judgement::Refused,
        _ => Judgement::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(status: u16, said: Said, explicit: bool) -> Class {
        let parts = http::Response::builder().status(status).body(()).unwrap().into_parts().0;
        classify(&parts, None, said, explicit)
    }

    #[test]
    fn a_status_is_judged_by_what_it_says_about_the_effect() {
        use Class::{Applied, NotApplied, Rejected, Unknown};
        #[rustfmt::skip]
        let table = [
            // status, unmarked, begun, unmarked where begin is explicit
            (200, Applied,    Applied,  Applied),
            (302, Applied,    Applied,  Applied),
            (400, NotApplied, Rejected, NotApplied),
            (401, NotApplied, Rejected, NotApplied),
            (402, Rejected,   Rejected, NotApplied),
            (409, Rejected,   Rejected, NotApplied),
            (422, NotApplied, Rejected, NotApplied),
            (429, Unknown,    Unknown,  NotApplied),
            (500, Unknown,    Unknown,  NotApplied),
            (503, Unknown,    Unknown,  NotApplied),
            (504, Unknown,    Unknown,  NotApplied),
        ];
        for (status, unmarked, begun, explicit) in table {
            assert_eq!(class(status, Said::Nothing, false), unmarked, "{status}");
            assert_eq!(class(status, Said::Begun, false), begun, "{status} begun");
            assert_eq!(class(status, Said::Begun, true), begun, "{status} begun, explicit");
            assert_eq!(class(status, Said::Nothing, true), explicit, "{status} explicit");
            assert_eq!(class(status, Said::NothingHappened, false), NotApplied, "{status} nothing happened");
        }
    }

    #[test]
    fn a_grpc_call_is_judged_by_its_own_status() {
        let response = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let parts = response.into_parts().0;
        let mut trailers = HeaderMap::new();
        for (code, class) in
            [("0", Class::Applied), ("9", Class::Rejected), ("3", Class::NotApplied), ("13", Class::Unknown)]
        {
            trailers.insert("grpc-status", code.parse().unwrap());
            assert_eq!(classify(&parts, Some(&trailers), Said::Nothing, false), class, "{code}");
        }
        assert_eq!(classify(&parts, None, Said::Nothing, false), Class::Unknown, "no status at all");
    }
}
