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
        let mut headers = BTreeMap::new();
        for header in message.headers().map(|headers| headers.iter()).into_iter().flatten() {
            let text = header.value.and_then(|value| std::str::from_utf8(value).ok());
            let Some(text) = text.filter(|text| !text.contains('\0')) else { continue };
            // Of two of a name the last one counts; but the first id is the relay's.
            if header.key != "id" || !headers.contains_key("id") {
                headers.insert(header.key.to_owned(), text.to_owned());
            }
        }
        Self {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
            id: headers.get("id").and_then(|id: &String| Uuid::parse_str(id).ok()),
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

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::Timestamp;
    use rdkafka::message::{Header, OwnedHeaders, OwnedMessage};

    #[test]
    fn the_first_id_is_the_events_and_what_is_no_text_is_left_out() {
        let id = Uuid::from_u128(7).to_string();
        let other = Uuid::from_u128(9).to_string();
        let headers = [
            ("id", id.as_bytes()),
            ("id", other.as_bytes()),
            ("tenant", b"first"),
            ("tenant", b"acme"),
            ("number", &[0, 0, 0, 1]),
            ("bytes", &[0xff]),
        ];
        let headers = headers.into_iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value) })
        });
        let (topic, time) = ("orders".to_owned(), Timestamp::NotAvailable);
        let message = OwnedMessage::new(None, None, topic, time, 0, 3, Some(headers));
        let received = Received::from_message(&message);
        assert_eq!(received.id, Some(Uuid::from_u128(7)));
        let headers: Vec<(&str, &str)> =
            received.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(headers, [("id", id.as_str()), ("tenant", "acme")]);
    }
}
