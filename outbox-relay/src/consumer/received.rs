//! One record as a handler sees it.

use outbox::ParkedRecord;
use rdkafka::message::Headers as _;
use serde::de::DeserializeOwned;
use std::borrow::Cow;
use std::collections::BTreeMap;
use uuid::Uuid;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The topic.
    pub topic: String,
    /// The partition within it.
    pub partition: i32,
    /// The offset within that.
    pub offset: i64,
    /// The event's id, from the header `id`. Records without one are recognised by their offset only.
    pub id: Option<Uuid>,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
    /// The headers that are text: UTF-8 without NUL, which no database stores as text.
    pub headers: BTreeMap<String, String>,
}

impl Received {
    pub(super) fn from_message(message: &impl rdkafka::Message) -> Self {
        let headers = message.headers().map(|headers| headers.iter()).into_iter().flatten();
        let headers: BTreeMap<String, String> = headers
            .filter_map(|header| {
                let text = std::str::from_utf8(header.value?).ok()?;
                (!text.contains('\0')).then(|| (header.key.to_owned(), text.to_owned()))
            })
            .collect();
        Self {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
            id: headers.get("id").and_then(|id| Uuid::parse_str(id).ok()),
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().map(<[u8]>::to_vec),
            headers,
        }
    }

    /// The key as text; empty without one.
    pub fn key_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.key.as_deref().unwrap_or_default())
    }

    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// What happened: Debezium's `eventType` or a CloudEvent's `ce_type`.
    pub fn event_type(&self) -> Option<&str> {
        self.header("eventType").or_else(|| self.header("ce_type"))
    }

    /// The value read as JSON. A tombstone reads as `null`.
    ///
    /// # Errors
    ///
    /// If it is no JSON, or none of this type: usually a reason to
    /// [park](super::HandlerError::park) the record.
    pub fn json<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_slice(self.payload.as_deref().unwrap_or(b"null"))
    }

    pub(super) fn to_parked(&self, reason: String) -> ParkedRecord {
        ParkedRecord {
            topic: self.topic.clone(),
            partition: self.partition,
            offset: self.offset,
            key: self.key.clone(),
            payload: self.payload.clone(),
            headers: self.headers.clone(),
            reason,
        }
    }

    pub(super) fn from_parked(parked: &ParkedRecord) -> Self {
        Self {
            topic: parked.topic.clone(),
            partition: parked.partition,
            offset: parked.offset,
            id: parked.headers.get("id").and_then(|id| Uuid::parse_str(id).ok()),
            key: parked.key.clone(),
            payload: parked.payload.clone(),
            headers: parked.headers.clone(),
        }
    }
}
