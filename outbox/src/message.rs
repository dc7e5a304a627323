//! One event, as a service writes it.

use crate::error::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Longest aggregate type, aggregate id and event type, in bytes; Debezium's table has the same limit.
pub const NAME_BYTES_MAX: usize = 255;

/// One event to be published if, and only if, the transaction that enqueues it commits.
///
/// The aggregate type decides the topic, the aggregate id is the record's key: events of one
/// aggregate arrive in the order in which they were enqueued, as long as its writers take turns
/// (they lock the aggregate's row before they enqueue, or use [`Message::serialized`] or
/// [`Message::sequenced`]).
///
/// ```
/// # use serde::Serialize;
/// # #[derive(Serialize)] struct Placed { total_cents: i64 }
/// let message = outbox::Message::new("order", "536365", "OrderPlaced")
///     .json(&Placed { total_cents: 13912 })?
///     .header("tenant", "acme");
/// # Ok::<(), outbox::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Message {
    pub(crate) id: Uuid,
    pub(crate) aggregate_type: String,
    pub(crate) aggregate_id: String,
    pub(crate) event_type: String,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) trace: Option<String>,
    pub(crate) order: KeyOrder,
}

/// How the writers of one key take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyOrder {
    /// The caller holds a lock on the aggregate already, or does not need order.
    Callers,
    /// A lock on the key, held to the end of the transaction.
    Lock,
    /// A gapless number within the key; drawing it locks the key to the end of the transaction.
    Sequence,
}

impl Message {
    /// An event of type `event_type` of one aggregate, with a new time-ordered id and no payload.
    ///
    /// A message without a payload is published as a tombstone (a null value).
    pub fn new(
        aggregate_type: impl Into<String>,
        aggregate_id: impl ToString,
        event_type: impl Into<String>,
    ) -> Self {
        Self {
            id: Uuid::now_v7(),
            aggregate_type: aggregate_type.into(),
            aggregate_id: aggregate_id.to_string(),
            event_type: event_type.into(),
            payload: None,
            headers: BTreeMap::new(),
            trace: None,
            order: KeyOrder::Callers,
        }
    }

    /// The payload as JSON, with `content-type: application/json`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the value cannot be written as JSON (a map with keys that are no
    /// strings, for example).
    pub fn json<T: Serialize + ?Sized>(mut self, payload: &T) -> Result<Self> {
        match serde_json::to_vec(payload) {
            Ok(bytes) => {
                self.payload = Some(bytes);
                Ok(self.header("content-type", "application/json"))
            }
            Err(error) => Err(self.invalid(format!("the payload cannot be written as JSON: {error}"))),
        }
    }

    /// The payload as bytes, published as they are.
    pub fn payload(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.payload = Some(bytes.into());
        self
    }

    /// A header of the published record; a second one of the same name replaces the first.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// What this event belongs to (a saga's id), carried as the header `correlationid`.
    pub fn correlation(self, id: impl ToString) -> Self {
        self.header("correlationid", id.to_string())
    }

    /// The event that led to this one, carried as the header `causationid`.
    pub fn causation(self, id: impl ToString) -> Self {
        self.header("causationid", id.to_string())
    }

    /// The W3C trace context in which the event came to be. The relay publishes it, and links its
    /// own span to it.
    pub fn trace(mut self, traceparent: &str, tracestate: Option<&str>) -> Self {
        let mut properties = format!("traceparent={traceparent}\n");
        if let Some(tracestate) = tracestate {
            properties.push_str("tracestate=");
            properties.push_str(tracestate);
            properties.push('\n');
        }
        self.trace = Some(properties);
        self
    }

    /// An id of the caller's own choosing, by which relays and inboxes recognise duplicates. Two
    /// different events must never share one.
    pub fn id(mut self, id: Uuid) -> Self {
        self.id = id;
        self
    }

    /// Takes a lock on the key before the event gets its place in the order, so that writers of one
    /// key need no lock of their own. Held to the end of the transaction.
    ///
    /// Two transactions that enqueue for the same two keys in opposite order deadlock, and Postgres
    /// ends one of them. SQLite has one writer at a time anyway.
    pub fn serialized(mut self) -> Self {
        if self.order == KeyOrder::Callers {
            self.order = KeyOrder::Lock;
        }
        self
    }

    /// Gives the event a gapless number within its key, published as the header `sequence`, by which
    /// an inbox can recognise duplicates with one row per key. Also serialises the key's writers.
    pub fn sequenced(mut self) -> Self {
        self.order = KeyOrder::Sequence;
        self
    }

    /// The event's id, by which relays and inboxes recognise duplicates.
    pub fn event_id(&self) -> Uuid {
        self.id
    }

    pub(crate) fn check(&self) -> Result<()> {
        for (what, text) in [
            ("aggregate type", &self.aggregate_type),
            ("aggregate id", &self.aggregate_id),
            ("event type", &self.event_type),
        ] {
            if text.is_empty() {
                return Err(self.invalid(format!("the {what} is empty")));
            }
            if text.len() > NAME_BYTES_MAX {
                return Err(self.invalid(format!(
                    "the {what} is {} bytes long, the limit is {NAME_BYTES_MAX}",
                    text.len()
                )));
            }
            if text.contains('\0') {
                return Err(self.invalid(format!("the {what} contains a NUL character")));
            }
        }
        for (name, value) in &self.headers {
            if name.is_empty() || name == "id" {
                return Err(self.invalid(format!("a header cannot be named {name:?}")));
            }
            if name.contains('\0') || value.contains('\0') {
                return Err(self.invalid(format!("the header {name:?} contains a NUL character")));
            }
        }
        if self.trace.as_ref().is_some_and(|trace| trace.contains('\0')) {
            return Err(self.invalid("the trace context contains a NUL character".into()));
        }
        Ok(())
    }

    pub(crate) fn is_sequenced(&self) -> bool {
        self.order == KeyOrder::Sequence
    }

    pub(crate) fn headers_json(&self) -> Option<String> {
        (!self.headers.is_empty())
            .then(|| serde_json::to_string(&self.headers).expect("a map of strings is always JSON"))
    }

    fn invalid(&self, problem: String) -> Error {
        Error::Invalid { event_type: self.event_type.clone(), problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_stored_or_published_is_refused_by_name() {
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for (message, problem) in [
            (Message::new("", "1", "Placed"), "the aggregate type is empty"),
            (Message::new("order", "", "Placed"), "the aggregate id is empty"),
            (Message::new("order", "1", ""), "the event type is empty"),
            (Message::new("order", &long, "Placed"), "the aggregate id is 256 bytes long"),
            (Message::new("or\0der", "1", "Placed"), "the aggregate type contains a NUL"),
            (Message::new("order", "1", "Placed").header("id", "x"), "a header cannot be named \"id\""),
            (Message::new("order", "1", "Placed").header("a", "\0"), "the header \"a\" contains a NUL"),
        ] {
            let text = message.check().expect_err(problem).to_string();
            assert!(text.contains(problem), "{text}");
        }
        Message::new("order", "1", "Placed").check().expect("a sound message");
    }

    #[test]
    fn a_payload_that_is_no_json_is_the_callers_fault() {
        let map = BTreeMap::from([((1, 2), "a tuple is no JSON key")]);
        let error = Message::new("order", "1", "Placed").json(&map).expect_err("no JSON");
        assert!(error.to_string().starts_with("event \"Placed\": the payload cannot be written as JSON"));
    }
}
