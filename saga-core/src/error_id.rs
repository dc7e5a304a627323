//! The fingerprint of an error: by it those sagas are found that fail in the same way.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest;

use crate::id::{Name, Place};
use crate::journal::Failure;

/// The fingerprint of an error: the same for the same failure at the same step of a definition, whatever ids,
/// numbers and addresses its message carries, whether it is tried again or waits for a person. Shown as ten
/// hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ErrorId([u8; 5]);

/// A text that is no error's fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "an error's fingerprint has ten hexadecimal digits, as `saga blocked` and `saga list` show them; {0:?} has not"
)]
pub struct BadErrorId(String);

impl ErrorId {
    /// Of a failure somewhere in a saga.
    pub fn of(definition: &Name, at: &Place, failure: &Failure) -> Self {
        let text = serde_json::to_vec(&(definition, at.parts().0, normalised(failure.message())));
        let digest = sha2::Sha256::digest(text.expect("names and text can be written"));
        let mut id = [0; 5];
        id.copy_from_slice(&digest[..5]);
        Self(id)
    }
}

/// A message with what varies from saga to saga replaced: words that hold a digit are ids (`…`) when they
/// hold letters as well, else numbers (`0`).
pub(crate) fn normalised(message: &str) -> String {
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_');
    let mut text = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| is_word(c) != is_word(first)).unwrap_or(rest.len());
        let (run, tail) = rest.split_at(end);
        rest = tail;
        match (run.contains(|c: char| c.is_ascii_digit()), run.contains(char::is_alphabetic)) {
            (false, _) => text.push_str(run),
            (true, false) => text.push('0'),
            (true, true) => text.push('…'),
        }
    }
    text
}

impl fmt::Display for ErrorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ErrorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ErrorId {
    type Err = BadErrorId;

    fn from_str(text: &str) -> Result<Self, BadErrorId> {
        let bad = || BadErrorId(text.chars().take(80).collect());
        if text.len() != 10 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad());
        }
        let mut id = [0; 5];
        for (byte, digits) in id.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| bad())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| bad())?;
        }
        Ok(Self(id))
    }
}

impl TryFrom<String> for ErrorId {
    type Error = BadErrorId;

    fn try_from(text: String) -> Result<Self, BadErrorId> {
        text.parse()
    }
}

impl From<ErrorId> for String {
    fn from(id: ErrorId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_varies_between_sagas_does_not_part_them() {
        for (message, same) in [
            ("status 503 after 1200 ms", "status 0 after 0 ms"),
            ("order-17: no such account 7f3a-11", "…: no such account …"),
            ("connect 10.0.0.7:5432: refused", "connect 0.0.0.0:0: refused"),
            ("id 0192f0c1-7d2e-7000-8000-0123456789ab is gone", "id … is gone"),
            ("out of stock", "out of stock"),
            ("größe 12, naïve", "größe 0, naïve"),
            ("", ""),
        ] {
            assert_eq!(normalised(message), same);
        }
    }

    #[test]
    fn a_fingerprint_reads_back() {
        let name = Name::new("place-order").unwrap();
        let at = Place::of(&Name::new("charge").unwrap());
        let id = ErrorId::of(&name, &at, &Failure::new("status 503"));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id, ErrorId::of(&name, &at, &Failure::new("status 504")));
        assert_ne!(id, ErrorId::of(&name, &at, &Failure::new("no route")));
        for bad in ["", "0123", "01234567890", "0123456é8", "g123456789"] {
            assert!(bad.parse::<ErrorId>().unwrap_err().to_string().contains(bad), "{bad}");
        }
    }
}
