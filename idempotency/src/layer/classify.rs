//! What an answer says about its effect.

use http::StatusCode;

use super::execution::Said;

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

/// The default judgement of an answer of this HTTP status and, if it is gRPC's and tells, of this one's.
///
/// 2xx and 3xx took effect. 5xx, 408, 425, 429 and 499 may have. The other 4xx are refusals for good, except
/// those with which a request is turned away before execution (validation, authentication, routing): they are
/// not kept unless the handler said that it had begun.
pub(super) fn classify(http: StatusCode, grpc: Option<u16>, said: Said, explicit: bool) -> Class {
    if said == Said::NothingHappened {
        return Class::NotApplied;
    }
    match grpc.map_or_else(|| by_http(http), by_grpc) {
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
        classify(StatusCode::from_u16(status).unwrap(), None, said, explicit)
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
        for (code, class) in
            [(0, Class::Applied), (9, Class::Rejected), (3, Class::NotApplied), (13, Class::Unknown)]
        {
            assert_eq!(classify(StatusCode::OK, Some(code), Said::Nothing, false), class, "{code}");
        }
    }
}
