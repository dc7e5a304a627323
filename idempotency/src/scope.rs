//! Whose key it is: the tenant, the caller, whatever separates those who must not see each other's answers.

use std::fmt;

/// The namespace of a key. The same key in two scopes is two keys.
///
/// Build it from what was *verified* about the caller (a token's subject, a certificate's name), never from a
/// header that the caller can choose freely.
///
/// ```
/// use idempotency::Scope;
/// assert_ne!(Scope::of(["ab", "c"]), Scope::of(["a", "bc"]));
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Scope(Vec<u8>);

impl Scope {
    /// A scope of one or more parts, such as tenant and caller. The parts keep their borders.
    pub fn of<I>(parts: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut bytes = Vec::new();
        for part in parts {
            let part = part.as_ref().as_bytes();
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        Self(bytes)
    }

    /// One scope for everybody: for a service with a single caller, or for keys that no caller chooses.
    pub fn global() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scope(<{} bytes>)", self.0.len())
    }
}
