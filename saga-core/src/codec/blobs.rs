//! Where large payloads are kept: the user's object store, file system or table.

use async_trait::async_trait;

/// Why a blob could not be written or read now.
pub type BlobError = Box<dyn std::error::Error + Send + Sync>;

/// A store of blobs under names, such as `01a2…/9f86…`: the run, then a digest. Names are made of
/// `0-9 a-f - /`.
///
/// The engine calls it again when it fails, and gives up a call that takes longer than a quarter of a minute.
#[async_trait]
pub trait Blobs: Send + Sync + 'static {
    /// Keeps the bytes durably before it returns. The same name always comes with the same content, so a
    /// blob that is there already may stay as it is.
    async fn put(&self, name: &str, bytes: &[u8]) -> Result<(), BlobError>;

    /// The bytes; `None` where there certainly is no such blob. They are checked against their digest.
    async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, BlobError>;

    /// The runs that there are blobs of, without repetition: of the names' parts before the `/`, in their order, the
    /// first `limit` after `after`. Fewer than `limit` are the last ones.
    async fn runs(&self, after: Option<&str>, limit: usize) -> Result<Vec<String>, BlobError>;

    /// Removes every blob of a run. Its saga was forgotten, so nobody asks for them any more; there may be none
    /// left, because several workers do this, and each of them again after a crash.
    async fn remove(&self, run: &str) -> Result<(), BlobError>;
}
