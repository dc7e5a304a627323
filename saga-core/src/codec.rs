//! Payloads that a journal must not hold: too large for it, or not for everybody's eyes.
//!
//! A [`Codec`] stands between the engine and the journal. Where a payload comes into being (an input at its start,
//! an output when its action returns, a derived value) it is *closed*: sealed by a [`Cipher`], offloaded to the
//! user's [`Blobs`], or both, in this order. What the journal keeps in its place is a small JSON object that
//! says where it is and under which key, never what it says. In memory the plain value stays beside it, so
//! that derivations, lists and joins work as without a codec. When a worker takes a saga over, it opens what
//! the journal keeps.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use saga_core::codec::{Blobs, Codec};
//! # fn example(objects: Arc<dyn Blobs>) {
//! let codec = Codec::new().offload_above(64 << 10, objects);
//! # let _ = codec;
//! # }
//! ```
//!
//! Every process that starts or drives such sagas needs the same codec: [`Worker::codec`](crate::Worker::codec),
//! [`Client::codec`](crate::Client::codec). One without it, the operator's program for instance, still sees
//! every step, attempt and failure, and how many items a list has; it never sees a value. A worker without it, or
//! without the key or the blob, blocks the saga with that reason and never takes a closed payload for a value.
//!
//! # What is not closed
//!
//! Failures, keys, attributes and ids are kept as they are: put nothing secret there. What an operator resolves an
//! action with is sealed by the worker that reads it, and lies open in its mail until then.
//!
//! # What a crash leaves
//!
//! A blob is written before the commit that refers to it, and removed after the journal that referred to it: see
//! [retention](crate::engine::Settings::retention). A crash in between leaves a blob that nobody refers to, never a
//! reference to nothing. Blobs are named by run, and a worker with a retention looks through the runs that there
//! are blobs of: so it finds all that is left of a forgotten saga, also what no journal ever referred to. What it
//! leaves, and tells of, are blobs of runs that the store never heard of: somebody offloaded an input and died before he
//! started its saga, or is about to start it.

mod blobs;
mod cipher;
pub(crate) mod envelope;
#[cfg(feature = "seal")]
mod keyring;

use std::fmt;
use std::sync::Arc;

pub use blobs::{BlobError, Blobs};
pub use cipher::{Cipher, CipherError};
#[cfg(feature = "seal")]
pub use keyring::Keyring;

use crate::id::RunId;
use crate::journal::{End, MailBody, Outcome, Record, Verb};
use crate::payload::Payload;
use envelope::{Held, Stored};

/// How payloads are closed and opened. Cheap to clone.
#[derive(Clone, Default)]
pub struct Codec {
    cipher: Option<Arc<dyn Cipher>>,
    offload: Option<Offload>,
}

#[derive(Clone)]
struct Offload {
    above: usize,
    blobs: Arc<dyn Blobs>,
}

/// Why a payload could not be closed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The blob store cannot be reached now; trying again may help.
    #[error("the store of payloads is unavailable: {0}")]
    Unavailable(String),
    /// The payload cannot be read back here: its key or its blob is missing, or it was changed.
    #[error("{0}")]
    Unreadable(String),
}

impl Codec {
    /// Closes nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Seals every payload.
    #[must_use]
    pub fn seal(mut self, cipher: impl Cipher) -> Self {
        self.cipher = Some(Arc::new(cipher));
        self
    }

    /// Keeps payloads of more than `bytes` (of what the journal would hold: sealed, if they are) in `blobs`, and a
    /// reference in the journal.
    #[must_use]
    pub fn offload_above(mut self, bytes: usize, blobs: Arc<dyn Blobs>) -> Self {
        self.offload = Some(Offload { above: bytes, blobs });
        self
    }

    /// What a starter compares inputs by: see [`Cipher::digest`].
    pub(crate) fn digest(&self, digest: [u8; 32]) -> [u8; 32] {
        self.cipher.as_ref().map_or(digest, |cipher| cipher.digest(digest))
    }

    /// Closes a payload that comes into being.
    pub(crate) async fn close(&self, payload: Payload, run: RunId) -> Result<Payload, CodecError> {
        let sealed = self.close_here(payload, run);
        let large = |offload: &&Offload| sealed.kept_bytes() > offload.above;
        let Some(Offload { blobs, .. }) = self.offload.as_ref().filter(large) else { return Ok(sealed) };
        let stored = Stored::read(sealed.kept()).unwrap_or_else(|| Stored::plain(sealed.as_str()));
        let (stored, bytes) = stored.into_blob(run);
        let Held::Blob { name, .. } = &stored.held else { unreachable!("it was just made one") };
        blobs.put(name, &bytes).await.map_err(|e| CodecError::Unavailable(format!("{name}: {e}")))?;
        Ok(sealed.kept_as(stored.to_raw()))
    }

    /// Seals a payload; what is offloaded otherwise stays here.
    pub(crate) fn close_here(&self, payload: Payload, run: RunId) -> Payload {
        let Some(cipher) = &self.cipher else { return payload };
        let (key, bytes) = cipher.seal(payload.as_str().as_bytes(), run.0.as_bytes());
        payload.kept_as(Stored::sealed(payload.as_str(), key, &bytes).to_raw())
    }

    /// Reads a payload back.
    pub(crate) async fn open(&self, payload: &Payload, run: RunId) -> Result<Payload, CodecError> {
        if !payload.is_closed() {
            return Ok(payload.clone());
        }
        let Some(stored) = Stored::read(payload.kept()) else {
            // Several as one: each by itself.
            let damaged = |e| CodecError::Unreadable(format!("what the journal keeps of it is damaged: {e}"));
            let mut parts = Vec::new();
            for part in payload.parts().map_err(damaged)? {
                parts.push(Box::pin(self.open(&part, run)).await?);
            }
            return Ok(Payload::array(&parts));
        };
        let bytes = match stored.held {
            Held::Plain { text } => text.into_bytes(),
            Held::Sealed { key, data } => self.unseal(&key, &envelope::bytes(&data)?, run)?,
            Held::Blob { name, sha256, key } => {
                let bytes = self.fetch(&name, &sha256).await?;
                match key {
                    Some(key) => self.unseal(&key, &bytes, run)?,
                    None => bytes,
                }
            }
        };
        let text = String::from_utf8(bytes).map_err(|e| CodecError::Unreadable(e.to_string()))?;
        let plain =
            Payload::from_json(text).map_err(|e| CodecError::Unreadable(format!("no JSON inside: {e}")))?;
        Ok(plain.kept_like(payload))
    }

    /// Where payloads are offloaded to.
    pub(crate) fn blobs(&self) -> Option<&Arc<dyn Blobs>> {
        self.offload.as_ref().map(|offload| &offload.blobs)
    }

    /// Removes the blob of an input whose run will never exist. It is garbage, so failing costs nothing but room.
    pub(crate) async fn discard(&self, input: &Payload, run: RunId) {
        let offloaded =
            Stored::read(input.kept()).is_some_and(|stored| matches!(stored.held, Held::Blob { .. }));
        let Some(blobs) = self.blobs().filter(|_| offloaded) else { return };
        if let Err(error) = blobs.remove(&run.to_string()).await {
            tracing::warn!(%run, %error, "an input that was not needed stays in the store of blobs");
        }
    }

    fn unseal(&self, key: &str, bytes: &[u8], run: RunId) -> Result<Vec<u8>, CodecError> {
        let Some(cipher) = &self.cipher else {
            return Err(CodecError::Unreadable(format!(
                "it is sealed under key {key:?}, and there is no cipher here"
            )));
        };
        cipher.open(key, bytes, run.0.as_bytes()).map_err(|e| CodecError::Unreadable(e.to_string()))
    }

    async fn fetch(&self, name: &str, sha256: &str) -> Result<Vec<u8>, CodecError> {
        let Some(Offload { blobs, .. }) = &self.offload else {
            return Err(CodecError::Unreadable(format!(
                "it is blob {name}, and there is no store of blobs here"
            )));
        };
        let found = blobs.get(name).await.map_err(|e| CodecError::Unavailable(format!("{name}: {e}")))?;
        let bytes = found.ok_or_else(|| CodecError::Unreadable(format!("blob {name} is gone")))?;
        match envelope::sha256(&bytes) == sha256 {
            true => Ok(bytes),
            false => {
                Err(CodecError::Unreadable(format!("blob {name} was changed: its SHA-256 is not {sha256}")))
            }
        }
    }

    /// Opens everything in a commit's records that is closed. What cannot be read stays closed, and the first
    /// reason is told; an unavailable store ends it.
    pub(crate) async fn open_records(
        &self,
        records: &mut [Record],
        run: RunId,
    ) -> Result<Option<CodecError>, CodecError> {
        let mut unreadable = None;
        for payload in records.iter_mut().filter_map(payload_of).filter(|payload| payload.is_closed()) {
            match self.open(payload, run).await {
                Ok(open) => *payload = open,
                Err(error @ CodecError::Unavailable(_)) => return Err(error),
                Err(error) => drop(unreadable.get_or_insert(error)),
            }
        }
        Ok(unreadable)
    }
}

/// The payload that a record holds.
pub(crate) fn payload_of(record: &mut Record) -> Option<&mut Payload> {
    match record {
        Record::Began { input, .. } => Some(input),
        Record::Derived { value, .. } => Some(value),
        Record::Finished { outcome: Outcome::Ok(output), .. } => Some(output),
        Record::Received { body: MailBody::Operator { verb: Verb::Resolve(output), .. }, .. } => Some(output),
        Record::Closed { end: End::Completed { output } } => Some(output),
        _ => None,
    }
}

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let above = self.offload.as_ref().map(|offload| offload.above);
        f.debug_struct("Codec")
            .field("seals", &self.cipher.is_some())
            .field("offloads_above", &above)
            .finish()
    }
}
