//! Names and ids: what a definition, a saga, a step and a worker are called.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The internal id of one run of a definition (UUIDv7): never reused, even when a user's saga id is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub Uuid);

impl RunId {
    /// A fresh id, ordered by time of creation.
    #[expect(clippy::new_without_default, reason = "every call gives another id")]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }
}

/// One incarnation of a worker process: random, never reused after a restart, so that what an earlier
/// incarnation left in flight can never be mistaken for the work of the present one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(pub Uuid);

impl WorkerId {
    /// A fresh incarnation.
    #[expect(clippy::new_without_default, reason = "every call gives another id")]
    pub fn new() -> Self {
        Self(Uuid::new_v4())
    }
}

/// The id of one piece of mail, chosen by its sender: posting the same mail again changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MailId(pub Uuid);

impl MailId {
    /// A fresh id.
    #[expect(clippy::new_without_default, reason = "every call gives another id")]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }
}

macro_rules! shown_as_uuid {
    ($($id:ident),*) => {$(
        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl FromStr for $id {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    )*};
}
shown_as_uuid!(RunId, WorkerId, MailId);

/// The name of a definition or of a step: 1 to 64 characters of `a-z A-Z 0-9 . _ -`.
///
/// `#` and `/` are left out on purpose: they separate a step from its occurrence and a key's parts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

impl Name {
    /// Checks and keeps a name.
    pub fn new(text: impl AsRef<str>) -> Result<Self, BadName> {
        let text = text.as_ref();
        let fine = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if fine { Ok(Self(text.into())) } else { Err(BadName(text.into())) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl TryFrom<String> for Name {
    type Error = BadName;
    fn try_from(text: String) -> Result<Self, BadName> {
        Self::new(text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.as_ref().into()
    }
}

/// A name that is empty, too long, or holds a character other than `a-z A-Z 0-9 . _ -`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name: use 1 to 64 characters of a-z, A-Z, 0-9, '.', '_' and '-'")]
pub struct BadName(pub String);

/// What sagas exclude each other by: of all sagas in a store that were started under one key, whatever their
/// definitions, one is under way at a time. 1 to 255 characters, none of them a control character.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(Arc<str>);

impl Key {
    /// The longest key, in characters.
    pub const CHARS_MAX: usize = 255;

    /// Checks and keeps a key.
    pub fn new(text: impl AsRef<str>) -> Result<Self, BadKey> {
        let text = text.as_ref();
        let fine =
            (1..=Self::CHARS_MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control);
        if fine { Ok(Self(text.into())) } else { Err(BadKey(text.into())) }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl TryFrom<String> for Key {
    type Error = BadKey;
    fn try_from(text: String) -> Result<Self, BadKey> {
        Self::new(text)
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.0.as_ref().into()
    }
}

/// A key that is empty, too long, or holds a control character.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a key has 1 to 255 characters and no control characters; this one has not: {0:?}")]
pub struct BadKey(pub String);

/// Where in a saga an effect happens: a step's name, and the occurrence where a step has several
/// (`reserve#3` is item 3 of the list that `reserve` runs over).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Place(Arc<str>);

impl Place {
    /// The only occurrence of a step.
    pub fn of(step: &Name) -> Self {
        Self(step.0.clone())
    }

    /// One item of a step that runs over a list; items count from 0.
    pub fn item(step: &Name, index: usize) -> Self {
        Self(format!("{step}#{index}").into())
    }

    /// The step's name, and the item's index where there is one.
    pub fn parts(&self) -> (&str, Option<usize>) {
        match self.0.split_once('#') {
            Some((step, index)) => (step, index.parse().ok()),
            None => (&self.0, None),
        }
    }

    /// The place as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A digest of everything about a definition that a saga in flight relies on: its name, its version,
/// the names, kinds and wiring of its steps. A worker claims sagas by it, so code never drives a
/// journal that another plan wrote.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(pub Uuid);

impl Fingerprint {
    /// The digest of a canonical text: the first 128 bits of its SHA-256.
    pub fn of(text: &[u8]) -> Self {
        use sha2::Digest;
        let digest = sha2::Sha256::digest(text);
        let mut half = [0; 16];
        half.copy_from_slice(&digest[..16]);
        Self(Uuid::from_bytes(half))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.simple().fmt(f)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_refuse_the_separators_of_places_and_keys() {
        for bad in ["", "a#1", "a/b", "ä", "a b", &"x".repeat(65)] {
            assert_eq!(Name::new(bad), Err(BadName(bad.into())));
        }
        for good in ["charge", "place-order", "v1.2_x", &"x".repeat(64)] {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn keys_are_short_lines() {
        for bad in ["", "a\nb", "a\0", &"ä".repeat(256)] {
            assert_eq!(Key::new(bad), Err(BadKey(bad.into())));
        }
        for good in ["customer-17", "a/b#c d", &"ä".repeat(255)] {
            assert_eq!(Key::new(good).unwrap().as_str(), good);
        }
        assert!(serde_json::from_str::<Key>("\"\"").is_err());
    }

    #[test]
    fn a_place_tells_its_parts() {
        let reserve = Name::new("reserve").unwrap();
        assert_eq!(Place::of(&reserve).parts(), ("reserve", None));
        assert_eq!(Place::item(&reserve, 12).parts(), ("reserve", Some(12)));
    }
}
