//! The server's secret, and the digests made with it.
//!
//! One secret of 32 bytes is given by the user and must be the same in every replica: with a seed of its own
//! per process, two replicas would disagree about what a key means. From it one key is derived per purpose.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::{Key, Scope};

/// The server's secret. Every replica, and every completer, must hold the same one.
///
/// Changing it makes every stored key unknown: do it only when no key needs protection any more.
#[derive(Clone)]
pub struct Secret {
    lookup: [u8; 32],
    print: [u8; 32],
    #[cfg_attr(not(feature = "seal"), allow(dead_code, reason = "used by the seal"))]
    seal: [u8; 32],
    derive: [u8; 32],
}

impl Secret {
    /// From 32 random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        let key = |purpose: &str| blake3::derive_key(purpose, &bytes);
        Self {
            lookup: key("idempotency 2026 lookup of keys"),
            print: key("idempotency 2026 fingerprints"),
            seal: key("idempotency 2026 sealed answers"),
            derive: key("idempotency 2026 downstream keys"),
        }
    }

    /// From a text of at least 32 bytes, such as `openssl rand -hex 32` prints.
    pub fn from_text(text: &str) -> Result<Self, SecretError> {
        let text = text.trim();
        if text.len() < 32 {
            return Err(SecretError::Short { bytes: text.len() });
        }
        Ok(Self::new(blake3::derive_key("idempotency 2026 secret from text", text.as_bytes())))
    }

    /// From the environment variable `name`, read as [`from_text`](Self::from_text) reads it.
    pub fn from_env(name: &str) -> Result<Self, SecretError> {
        let text = std::env::var(name).map_err(|_| SecretError::Missing { name: name.to_owned() })?;
        Self::from_text(&text)
    }

    /// What stores know a key by.
    pub fn key_id(&self, scope: &Scope, key: &Key) -> KeyId {
        self.id(b"key", &[scope.bytes(), key.expose().as_bytes()])
    }

    /// What stores know a saga's step by; see [`barrier`](crate::barrier).
    pub(crate) fn id(&self, kind: &[u8], parts: &[&[u8]]) -> KeyId {
        let mut mac = hmac(&self.lookup);
        for part in std::iter::once(&kind).chain(parts) {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        KeyId(mac.finalize().into_bytes().into())
    }

    /// A key for a call that is made further down while `id` is worked on: the same for every attempt, and
    /// never the caller's own key.
    pub fn downstream_key(&self, id: &KeyId, call: &str) -> Key {
        let mut mac = hmac(&self.derive);
        mac.update(&id.0);
        mac.update(call.as_bytes());
        let bytes: [u8; 32] = mac.finalize().into_bytes().into();
        Key::new(hex(&bytes[..16])).expect("hex digits are printable")
    }

    pub(crate) fn print_key(&self) -> &[u8; 32] {
        &self.print
    }

    #[cfg(feature = "seal")]
    pub(crate) fn seal_key(&self) -> &[u8; 32] {
        &self.seal
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// Why a secret was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The environment variable is not set.
    #[error("the environment variable {name} is not set: give it a secret of at least 32 random bytes")]
    Missing {
        /// The variable.
        name: String,
    },
    /// Too short to be a secret.
    #[error("the secret has {bytes} bytes: at least 32 are needed, such as `openssl rand -hex 32` prints")]
    Short {
        /// How many bytes were given.
        bytes: usize,
    },
}

/// What a store knows a key by: an HMAC of scope and key. Safe to log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 32]);

impl KeyId {
    /// The id as 64 hexadecimal digits.
    pub fn to_hex(self) -> String {
        hex(&self.0)
    }

    /// Reads what [`to_hex`](Self::to_hex) wrote.
    pub fn from_hex(text: &str) -> Option<Self> {
        let text = text.as_bytes();
        if text.len() != 64 || !text.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let mut id = [0; 32];
        for (byte, pair) in id.iter_mut().zip(text.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(id))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", hex(&self.0[..8]))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

fn hmac(key: &[u8; 32]) -> Hmac<Sha256> {
    <Hmac<Sha256> as Mac>::new_from_slice(key).expect("HMAC takes a key of any length")
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)] as char);
        text.push(DIGITS[usize::from(byte & 15)] as char);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_processes_with_one_secret_agree_and_two_tenants_never_meet() {
        let text = "0123456789abcdef0123456789abcdef";
        let (one, two) = (Secret::from_text(text).unwrap(), Secret::from_text(text).unwrap());
        let key = Key::new("k").unwrap();
        let (a, b) = (Scope::of(["tenant-a"]), Scope::of(["tenant-b"]));
        assert_eq!(one.key_id(&a, &key), two.key_id(&a, &key));
        assert_ne!(one.key_id(&a, &key), one.key_id(&b, &key));
        assert_ne!(one.key_id(&Scope::of(["ab", "c"]), &key), one.key_id(&Scope::of(["a", "bc"]), &key));
    }

    #[test]
    fn ids_are_stable_across_releases() {
        // A changed digest would make every stored key unknown. This value must never change.
        let secret = Secret::new([7; 32]);
        let id = secret.key_id(&Scope::of(["acme", "alice"]), &Key::new("order-1").unwrap());
        assert_eq!(id.to_hex(), GOLDEN_ID);
        assert_eq!(KeyId::from_hex(&id.to_hex()), Some(id));
    }

    const GOLDEN_ID: &str = "e356c43dc7b344d79952f6d68c236e71f4083a53bc9daae29d541e7eb6f731cf";

    #[test]
    fn a_secret_hides_and_a_short_one_is_refused() {
        assert_eq!(format!("{:?}", Secret::new([1; 32])), "Secret(***)");
        assert_eq!(Secret::from_text("hunter2").unwrap_err(), SecretError::Short { bytes: 7 });
        assert!(matches!(Secret::from_env("IDEMPOTENCY_NOT_SET"), Err(SecretError::Missing { .. })));
    }
}
