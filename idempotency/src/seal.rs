//! Answers as they lie in the store: plain, or sealed.
//!
//! A sealed answer is encrypted (XChaCha20-Poly1305) with a key derived from the server's secret, the row's id
//! and the caller's own idempotency key, which is stored nowhere: a dump of the database reveals nothing, not
//! even to one who holds the server's secret. The row's id and half are authenticated with it, so that no
//! answer can be moved to another key.

use bytes::Bytes;

use crate::{Direction, KeyId};

#[cfg(feature = "seal")]
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};

#[cfg(feature = "seal")]
const SEALED: u8 = 0xe1;
#[cfg(feature = "seal")]
const NONCE_BYTES: usize = 24;
#[cfg(feature = "seal")]
const NAME_BYTES: usize = 4;

/// The encryption of stored answers, with rotation: new answers are sealed with the first secret, those sealed
/// with the others can still be read.
#[derive(Clone, Debug, Default)]
pub struct Seal {
    #[cfg(feature = "seal")]
    secrets: Vec<crate::Secret>,
}

/// What an answer belongs to.
#[cfg_attr(not(feature = "seal"), allow(dead_code, reason = "read by the cipher only"))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) id: &'a KeyId,
    pub(crate) direction: Direction,
    /// What only the caller knows; empty where nobody but the server does.
    pub(crate) caller_key: &'a [u8],
}

impl Seal {
    /// Answers stay plain.
    pub(crate) fn none() -> Self {
        Self::default()
    }

    /// Seals with `secret`.
    #[cfg(feature = "seal")]
    pub fn new(secret: &crate::Secret) -> Self {
        Self { secrets: vec![secret.clone()] }
    }

    /// Also reads what was sealed with an earlier secret.
    #[cfg(feature = "seal")]
    pub fn or_open(mut self, earlier: &crate::Secret) -> Self {
        self.secrets.push(earlier.clone());
        self
    }

    #[cfg(not(feature = "seal"))]
    pub(crate) fn close(&self, plain: Bytes, _: Place<'_>) -> Bytes {
        plain
    }

    #[cfg(not(feature = "seal"))]
    pub(crate) fn open(&self, stored: &Bytes, _: Place<'_>) -> Option<Bytes> {
        Some(stored.clone())
    }

    #[cfg(feature = "seal")]
    pub(crate) fn close(&self, plain: Bytes, place: Place<'_>) -> Bytes {
        let Some(secret) = self.secrets.first() else { return plain };
        let (key, name) = key(secret, place);
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let payload = Payload { msg: &plain, aad: &aad(place) };
        let sealed = XChaCha20Poly1305::new(&key.into())
            .encrypt(XNonce::from_slice(&nonce), payload)
            .expect("an answer is shorter than the cipher's limit of 256 GiB");
        let mut out = Vec::with_capacity(1 + NAME_BYTES + NONCE_BYTES + sealed.len());
        out.push(SEALED);
        out.extend_from_slice(&name);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&sealed);
        out.into()
    }

    /// The plain answer; `None` if it was sealed with a secret that is not among ours, or was tampered with.
    #[cfg(feature = "seal")]
    pub(crate) fn open(&self, stored: &Bytes, place: Place<'_>) -> Option<Bytes> {
        if stored.first() != Some(&SEALED) {
            // Written before sealing was turned on.
            return Some(stored.clone());
        }
        let rest = stored.get(1..)?;
        let (name, rest) = rest.split_at_checked(NAME_BYTES)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_BYTES)?;
        let (key, _) = self.secrets.iter().map(|secret| key(secret, place)).find(|(_, own)| own == name)?;
        let payload = Payload { msg: sealed, aad: &aad(place) };
        XChaCha20Poly1305::new(&key.into()).decrypt(XNonce::from_slice(nonce), payload).ok().map(Bytes::from)
    }
}

/// The key of one row, and a name by which it is recognised among several secrets.
#[cfg(feature = "seal")]
fn key(secret: &crate::Secret, place: Place<'_>) -> ([u8; 32], [u8; NAME_BYTES]) {
    let mut hasher = blake3::Hasher::new_keyed(secret.seal_key());
    hasher.update(&place.id.0).update(place.caller_key);
    let mut out = [0; 32 + NAME_BYTES];
    hasher.finalize_xof().fill(&mut out);
    let (mut key, mut name) = ([0; 32], [0; NAME_BYTES]);
    key.copy_from_slice(&out[..32]);
    name.copy_from_slice(&out[32..]);
    (key, name)
}

#[cfg(feature = "seal")]
fn aad(place: Place<'_>) -> [u8; 33] {
    let mut aad = [0; 33];
    aad[..32].copy_from_slice(&place.id.0);
    aad[32] = u8::from(place.direction == Direction::Compensation);
    aad
}

#[cfg(all(test, feature = "seal"))]
mod tests {
    use super::*;
    use crate::Secret;

    #[test]
    fn a_sealed_answer_opens_only_in_its_place_and_with_its_key() {
        let seal = Seal::new(&Secret::new([1; 32]));
        let (id, other) = (KeyId([1; 32]), KeyId([2; 32]));
        let place = Place { id: &id, direction: Direction::Action, caller_key: b"k" };
        let plain = Bytes::from_static(b"card 4242424242424242");
        let stored = seal.close(plain.clone(), place);
        assert!(!stored.windows(4).any(|window| window == b"4242"));
        assert_eq!(seal.open(&stored, place), Some(plain.clone()));
        assert_eq!(seal.open(&stored, Place { id: &other, ..place }), None);
        assert_eq!(seal.open(&stored, Place { direction: Direction::Compensation, ..place }), None);
        assert_eq!(seal.open(&stored, Place { caller_key: b"l", ..place }), None);
        let mut tampered = stored.to_vec();
        *tampered.last_mut().unwrap() ^= 1;
        assert_eq!(seal.open(&tampered.into(), place), None);
        for cut in 1..stored.len() {
            assert_eq!(seal.open(&stored.slice(..cut), place), None);
        }
        assert_eq!(Seal::none().open(&stored, place), None, "sealing was turned off");
    }

    #[test]
    fn a_rotated_secret_still_reads_old_answers_and_writes_with_the_new_one() {
        let (old, new) = (Secret::new([1; 32]), Secret::new([2; 32]));
        let id = KeyId([1; 32]);
        let place = Place { id: &id, direction: Direction::Action, caller_key: b"" };
        let plain = Bytes::from_static(b"answer");
        let rotated = Seal::new(&new).or_open(&old);
        assert_eq!(rotated.open(&Seal::new(&old).close(plain.clone(), place), place), Some(plain.clone()));
        let stored = rotated.close(plain.clone(), place);
        assert_eq!(Seal::new(&old).open(&stored, place), None);
        assert_eq!(Seal::new(&new).open(&stored, place), Some(plain.clone()));
        assert_eq!(rotated.open(&plain, place), Some(plain), "written before sealing was turned on");
    }
}
