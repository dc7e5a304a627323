//! What seals payloads: the user's, or [`Keyring`](super::Keyring).

/// Encrypts and decrypts payloads. Authenticated encryption is needed: what was changed must not open.
pub trait Cipher: Send + Sync + 'static {
    /// Encrypts under the present key, and names that key. `about` has to be authenticated with it: it ties the
    /// payload to its saga's run.
    fn seal(&self, plain: &[u8], about: &[u8]) -> (String, Vec<u8>);

    /// Decrypts what was sealed under a key.
    ///
    /// # Errors
    ///
    /// What is wrong, in words that may be logged: the key is not there, or the content was changed.
    fn open(&self, key: &str, sealed: &[u8], about: &[u8]) -> Result<Vec<u8>, CipherError>;

    /// What is kept of an input's SHA-256, by which a repeated start is told from another order. Where inputs
    /// could be guessed, it should be keyed, by a key that never changes; as given it is not.
    fn digest(&self, sha256: [u8; 32]) -> [u8; 32] {
        sha256
    }
}

/// Why a sealed payload does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CipherError {
    /// The key is not at hand.
    #[error("it is sealed under key {0:?}, which is not at hand here")]
    NoSuchKey(String),
    /// It is not what was sealed under that key for that run.
    #[error("it was changed, or sealed for another run: it does not open under key {0:?}")]
    DoesNotOpen(String),
}
