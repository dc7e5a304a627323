//! The names of headers, and the words of `Idempotency-Status`.

use http::{HeaderMap, HeaderName, HeaderValue};

/// `Idempotency-Key`, of a request.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// `Idempotent-Replayed: true`, of an answer that is given again.
pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// `Idempotency-Status`, of every answer under a key: a [`Status`].
pub const IDEMPOTENCY_STATUS: HeaderName = HeaderName::from_static("idempotency-status");

/// What an answer means for its key: the value of `Idempotency-Status`.
///
/// The layer sets it on every answer it has to do with, and replaces whatever the handler put there, so that a
/// client may rely on it: see [`client`](crate::client).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// This answer is final, and every duplicate gets it.
    Kept,
    /// The handler was not entered. The key is as it was.
    NotBegun,
    /// The handler was entered and has said that nothing took effect. The key is free.
    NotApplied,
    /// Another request with this key is running.
    InFlight,
    /// Something was begun and nobody knows how it ended.
    Unknown,
    /// The key was used for another request.
    Mismatch,
    /// The action comes after its own compensation or settlement, and is refused for ever.
    TooLate,
    /// The compensation found nothing to undo, and the action is refused from now on.
    NothingToUndo,
    /// The settlement found that nothing was applied, and the action is refused from now on.
    NeverApplied,
    /// The settlement found the action undone.
    Undone,
    /// The handler ran without protection, because the store was down and the server is told to go on.
    Unprotected,
}

impl Status {
    const ALL: [(Self, &'static str); 11] = [
        (Self::Kept, "kept"),
        (Self::NotBegun, "not-begun"),
        (Self::NotApplied, "not-applied"),
        (Self::InFlight, "in-flight"),
        (Self::Unknown, "unknown"),
        (Self::Mismatch, "mismatch"),
        (Self::TooLate, "too-late"),
        (Self::NothingToUndo, "nothing-to-undo"),
        (Self::NeverApplied, "never-applied"),
        (Self::Undone, "undone"),
        (Self::Unprotected, "unprotected"),
    ];

    /// The word.
    pub fn as_str(self) -> &'static str {
        Self::ALL.into_iter().find(|(status, _)| *status == self).map_or("", |(_, word)| word)
    }

    /// The word in an answer's headers.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(IDEMPOTENCY_STATUS)?.as_bytes();
        Self::ALL.into_iter().find(|(_, word)| word.as_bytes() == value).map(|(status, _)| status)
    }

    pub(crate) fn value(self) -> HeaderValue {
        HeaderValue::from_static(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_a_word_of_its_own() {
        let mut headers = HeaderMap::new();
        for (status, word) in Status::ALL {
            headers.insert(IDEMPOTENCY_STATUS, status.value());
            assert_eq!((Status::of(&headers), status.as_str()), (Some(status), word));
        }
    }
}
