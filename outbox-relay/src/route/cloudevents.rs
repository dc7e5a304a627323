//! CloudEvents 1.0 over Kafka, in both of its modes.
//!
//! The stored trace context is the one in which the event came to be: it travels as the extension
//! attributes `traceparent` and `tracestate`. `partitionkey` repeats the record's key, as the binding
//! asks, and `sequence` the number within it.

use super::{Headers, given, push_id, timestamp, trace};
use crate::event::Event;
use chrono::{DateTime, SecondsFormat};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use uuid::fmt::Hyphenated;

/// Payload as it is, attributes in headers.
pub(super) fn binary<'a>(headers: &mut Headers, source: &str, event: &'a Event) -> Option<Cow<'a, [u8]>> {
    push_id(headers, event);
    let own = given(event).filter(|(name, _)| !is_extension(name));
    own.for_each(|(name, value)| headers.push(name, value));
    attributes(source, event, |name, value| headers.push_prefixed("ce_", name, value));
    event.payload().map(Cow::Borrowed)
}

/// One JSON document. A payload that is JSON is nested as it is, other bytes as base64.
pub(super) fn structured<'a>(headers: &mut Headers, source: &str, event: &'a Event) -> Option<Cow<'a, [u8]>> {
    let mut document = Map::new();
    attributes(source, event, |name, value| {
        document.insert(name.to_owned(), value.into());
    });
    let content_type = event.headers().find(|(name, _)| *name == "content-type").map(|(_, value)| value);
    if let Some(content_type) = content_type {
        document.insert("datacontenttype".into(), json!(content_type));
    }
    if let Some(payload) = event.payload() {
        let is_json = content_type.is_none_or(|kind| kind.contains("json"));
        match serde_json::from_slice::<Value>(payload) {
            Ok(value) if is_json => document.insert("data".into(), value),
            _ => document.insert("data_base64".into(), json!(base64(payload))),
        };
    }
    push_id(headers, event);
    let own = given(event).filter(|(name, _)| *name != "content-type");
    own.for_each(|(name, value)| headers.push(name, value));
    headers.push("content-type", "application/cloudevents+json; charset=UTF-8");
    Some(serde_json::to_vec(&document).expect("a JSON document is always JSON").into())
}

fn attributes(source: &str, event: &Event, mut each: impl FnMut(&str, &str)) {
    each("specversion", "1.0");
    each("id", event.id.hyphenated().encode_lower(&mut [0; Hyphenated::LENGTH]));
    each("source", source);
    each("type", event.event_type());
    each("subject", event.aggregate_id());
    each("partitionkey", event.aggregate_id());
    if let Some(time) = timestamp(event).and_then(DateTime::from_timestamp_millis) {
        each("time", &time.to_rfc3339_opts(SecondsFormat::Millis, true));
    }
    if let Some(number) = event.key_seq() {
        each("sequence", &format!("{number:020}"));
    }
    event.headers().filter(|(name, _)| is_extension(name)).for_each(|(name, value)| each(name, value));
    for (name, value) in event.trace().into_iter().flat_map(trace::properties) {
        each(name, &value);
    }
}

/// Headers that CloudEvents knows as extension attributes.
fn is_extension(name: &str) -> bool {
    name == "correlationid" || name == "causationid"
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group =
            u32::from_be_bytes([0, chunk[0], *chunk.get(1).unwrap_or(&0), *chunk.get(2).unwrap_or(&0)]);
        for place in 0..4 {
            let digit = (group >> (18 - 6 * place)) & 63;
            text.push(if place <= chunk.len() { char::from(ALPHABET[digit as usize]) } else { '=' });
        }
    }
    text
}
