//! What was asked, as a digest: so that a key that is used again for something else is noticed.

use std::fmt;

use crate::Secret;

const VERSION: u8 = 1;
const DIGEST_BYTES: usize = 16;
/// The bytes of an encoded fingerprint: a version, then one digest per part.
pub(crate) const FINGERPRINT_BYTES: usize = 1 + 3 * DIGEST_BYTES;

/// A keyed digest (BLAKE3) of a request, with one digest each for method, target and body, so that a mismatch
/// can say what differs. Nothing of the request can be read from it, nor guessed without the [`Secret`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; FINGERPRINT_BYTES]);

impl Fingerprint {
    /// The fingerprint of a request.
    pub fn new(secret: &Secret, method: &[u8], target: &[u8], body: &[u8]) -> Self {
        let mut bytes = [0; FINGERPRINT_BYTES];
        bytes[0] = VERSION;
        let parts = [(Part::Method, method), (Part::Target, target), (Part::Body, body)];
        for (digest, (part, content)) in bytes[1..].chunks_exact_mut(DIGEST_BYTES).zip(parts) {
            // The part's number goes in first: equal bytes in two parts give two digests.
            let mut hasher = blake3::Hasher::new_keyed(secret.print_key());
            hasher.update(&[part as u8]).update(content);
            digest.copy_from_slice(&hasher.finalize().as_bytes()[..DIGEST_BYTES]);
        }
        Self(bytes)
    }

    /// The part in which two fingerprints differ; the most telling one if several do.
    pub fn difference(&self, other: &Self) -> Option<Part> {
        if self.0 == other.0 {
            return None;
        }
        if self.0[0] != other.0[0] {
            return Some(Part::Version);
        }
        let part = |i: usize| 1 + i * DIGEST_BYTES..1 + (i + 1) * DIGEST_BYTES;
        [Part::Method, Part::Target, Part::Body]
            .into_iter()
            .enumerate()
            .find(|(i, _)| self.0[part(*i)] != other.0[part(*i)])
            .map(|(_, part)| part)
    }

    /// The encoded form, for a store.
    pub fn as_bytes(&self) -> &[u8; FINGERPRINT_BYTES] {
        &self.0
    }

    /// Reads the encoded form. `None` if the length is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint(v{} {}…)", self.0[0], crate::secret::hex(&self.0[1..5]))
    }
}

/// A part of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The HTTP method, or the operation's name.
    Method = 1,
    /// The path with its query, or what the operation is applied to.
    Target = 2,
    /// The body, or the input.
    Body = 3,
    /// The fingerprint was made by another version of this library.
    Version = 4,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Method => "method",
            Self::Target => "target",
            Self::Body => "body",
            Self::Version => "fingerprint version",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_its_part() {
        let secret = Secret::new([1; 32]);
        let print =
            |m: &str, t: &str, b: &str| Fingerprint::new(&secret, m.as_bytes(), t.as_bytes(), b.as_bytes());
        let first = print("POST", "/orders/1/capture", "{}");
        assert_eq!(first.difference(&print("POST", "/orders/1/capture", "{}")), None);
        assert_eq!(first.difference(&print("PATCH", "/orders/1/capture", "{}")), Some(Part::Method));
        assert_eq!(first.difference(&print("POST", "/orders/2/capture", "{}")), Some(Part::Target));
        assert_eq!(first.difference(&print("POST", "/orders/1/capture", "{ }")), Some(Part::Body));
        assert_eq!(Fingerprint::from_bytes(first.as_bytes()), Some(first));
    }

    #[test]
    fn digests_are_keyed_and_stable_across_releases() {
        let print =
            |seed: u8| Fingerprint::new(&Secret::new([seed; 32]), b"POST", b"/charge", b"{\"cents\":5}");
        assert_ne!(print(1), print(2));
        assert_eq!(crate::secret::hex(print(7).as_bytes()), GOLDEN_PRINT);
    }

    const GOLDEN_PRINT: &str =
        "017135f0e29ad5789a9671bd3dbf2f91fe580b1dcb74b7abbf719d6367a532a67209948ac8fd1950969f4a8455a3fb713a";
}
