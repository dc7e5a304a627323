//! Keys with names: XChaCha20-Poly1305, with rotation.

use std::collections::BTreeMap;
use std::fmt;

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac};

use super::{Cipher, CipherError};

const NONCE_BYTES: usize = 24;

/// Named keys of 32 random bytes, one of which seals; the others still open what was sealed before.
///
/// To rotate, give every process the new key with [`Keyring::opens`], then make it the one that seals. An old key
/// may go once no saga in flight and no journal that is kept was sealed under it.
///
/// Inputs are recognised by a keyed digest; its key is separate, because it has to stay the same: with another
/// one, a start that is repeated counts as another order under a taken id.
#[derive(Clone)]
pub struct Keyring {
    present: String,
    keys: BTreeMap<String, [u8; 32]>,
    digest_key: [u8; 32],
}

impl Keyring {
    /// Seals under `key`, whose name is kept beside what it sealed.
    pub fn new(digest_key: [u8; 32], name: impl Into<String>, key: [u8; 32]) -> Self {
        let present = name.into();
        Self { keys: BTreeMap::from([(present.clone(), key)]), present, digest_key }
    }

    /// Also opens what was sealed under another key.
    #[must_use]
    pub fn opens(mut self, name: impl Into<String>, key: [u8; 32]) -> Self {
        self.keys.entry(name.into()).or_insert(key);
        self
    }

    fn cipher(&self, name: &str) -> Option<XChaCha20Poly1305> {
        self.keys.get(name).map(|key| XChaCha20Poly1305::new(key.into()))
    }
}

impl Cipher for Keyring {
    fn seal(&self, plain: &[u8], about: &[u8]) -> (String, Vec<u8>) {
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let cipher = self.cipher(&self.present).expect("the present key is always there");
        let sealed = cipher
            .encrypt(XNonce::from_slice(&nonce), Payload { msg: plain, aad: about })
            .expect("a payload is shorter than the cipher's limit of 256 GiB");
        (self.present.clone(), [&nonce[..], &sealed].concat())
    }

    fn open(&self, key: &str, sealed: &[u8], about: &[u8]) -> Result<Vec<u8>, CipherError> {
        let cipher = self.cipher(key).ok_or_else(|| CipherError::NoSuchKey(key.into()))?;
        let damaged = || CipherError::DoesNotOpen(key.into());
        let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES).ok_or_else(damaged)?;
        let payload = Payload { msg: sealed, aad: about };
        cipher.decrypt(XNonce::from_slice(nonce), payload).map_err(|_| damaged())
    }

    fn digest(&self, sha256: [u8; 32]) -> [u8; 32] {
        let mut mac =
            <Hmac<sha2::Sha256> as Mac>::new_from_slice(&self.digest_key).expect("any length of key will do");
        mac.update(&sha256);
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.keys.keys().collect();
        f.debug_struct("Keyring")
            .field("seals_under", &self.present)
            .field("opens", &names)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_under_its_key_and_for_its_run_only() {
        let ring = Keyring::new([0; 32], "2027", [1; 32]);
        let (key, sealed) = ring.seal(b"4111 1111", b"run 1");
        assert_eq!(key, "2027");
        assert!(!sealed.windows(4).any(|part| part == b"4111"));
        assert_eq!(ring.open("2027", &sealed, b"run 1").unwrap(), b"4111 1111");
        assert_eq!(ring.open("2027", &sealed, b"run 2"), Err(CipherError::DoesNotOpen("2027".into())));
        assert_eq!(ring.open("2026", &sealed, b"run 1"), Err(CipherError::NoSuchKey("2026".into())));
        let mut changed = sealed.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(ring.open("2027", &changed, b"run 1").is_err());
        for cut in 0..sealed.len() {
            assert!(ring.open("2027", &sealed[..cut], b"run 1").is_err());
        }
        let shown = format!("{ring:?}");
        assert!(shown.contains("2027") && !shown.contains("1, 1"), "{shown}");
    }

    #[test]
    fn a_rotated_ring_opens_what_is_old_and_recognises_the_same_input() {
        let old = Keyring::new([7; 32], "2026", [1; 32]);
        let new = Keyring::new([7; 32], "2027", [2; 32]).opens("2026", [1; 32]);
        let (key, sealed) = old.seal(b"x", b"");
        assert_eq!(new.open(&key, &sealed, b"").unwrap(), b"x");
        assert_eq!(new.seal(b"x", b"").0, "2027");
        assert_eq!(old.digest([3; 32]), new.digest([3; 32]));
        assert_ne!(old.digest([3; 32]), Keyring::new([8; 32], "2026", [1; 32]).digest([3; 32]));
    }
}
