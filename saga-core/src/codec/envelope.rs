//! What a journal holds in the place of a closed payload.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::Digest;

use super::CodecError;
use crate::id::RunId;
use crate::payload::is_closed;

/// A closed payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stored {
    /// How many items it has, where it is a list: so that steps that run over it are known without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) items: Option<usize>,
    /// How many bytes its text has.
    bytes: usize,
    pub(super) held: Held,
}

/// Where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Held {
    /// Here: a value that looks like a closed payload and is none.
    Plain {
        /// The text.
        text: String,
    },
    /// Here, sealed.
    Sealed {
        /// The key's name.
        key: String,
        /// Base64.
        data: String,
    },
    /// In the store of blobs.
    Blob {
        /// Its name.
        name: String,
        /// Of what lies there.
        sha256: String,
        /// The key's name, where it is sealed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
    },
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    #[serde(rename = "$stored")]
    stored: Stored,
}

impl Stored {
    /// Reads what a journal holds; `None` where that is no closed payload by itself.
    pub(crate) fn read(kept: &str) -> Option<Self> {
        let envelope = || serde_json::from_str::<Envelope>(kept).ok();
        is_closed(kept).then(envelope).flatten().map(|envelope| envelope.stored)
    }

    pub(crate) fn plain(text: &str) -> Self {
        Self::held(text, Held::Plain { text: text.to_owned() })
    }

    pub(super) fn sealed(text: &str, key: String, bytes: &[u8]) -> Self {
        Self::held(text, Held::Sealed { key, data: BASE64_STANDARD.encode(bytes) })
    }

    fn held(text: &str, held: Held) -> Self {
        let is_list = text.starts_with('[');
        let items =
            is_list.then(|| serde_json::from_str::<Vec<&RawValue>>(text).map_or(0, |items| items.len()));
        Self { items, bytes: text.len(), held }
    }

    /// The value that it wraps; `None` where there is more to opening it.
    pub(crate) fn into_value(self) -> Option<Box<RawValue>> {
        match self.held {
            Held::Plain { text } => RawValue::from_string(text).ok(),
            Held::Sealed { .. } | Held::Blob { .. } => None,
        }
    }

    /// The same, with what it holds moved out into a blob.
    pub(super) fn into_blob(self, run: RunId) -> (Self, Vec<u8>) {
        let (bytes, key) = match self.held {
            Held::Sealed { key, data } => (bytes(&data).expect("it was encoded here"), Some(key)),
            Held::Plain { text } => (text.into_bytes(), None),
            Held::Blob { .. } => unreachable!("it is moved out once"),
        };
        let sha256 = sha256(&bytes);
        let held = Held::Blob { name: format!("{run}/{sha256}"), sha256, key };
        (Self { held, ..self }, bytes)
    }

    pub(crate) fn to_raw(&self) -> Box<RawValue> {
        let envelope = Envelope { stored: self.clone() };
        serde_json::value::to_raw_value(&envelope).expect("strings and numbers can be written")
    }
}

pub(super) fn bytes(data: &str) -> Result<Vec<u8>, CodecError> {
    BASE64_STANDARD.decode(data).map_err(|e| CodecError::Unreadable(format!("its text is damaged: {e}")))
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
