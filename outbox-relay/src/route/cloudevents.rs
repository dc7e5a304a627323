//! CloudEvents 1.0 over Kafka, in both of its modes.
//!
//! The stored trace context is the one in which the event came to be: it travels as the extension
//! attributes `traceparent` and `tracestate`. `partitionkey` repeats the record's key, as the binding
//! asks, and `sequence` the number within it.

use super::{Record, common_headers, timestamp, trace};
use crate::event::Event;
use chrono::{DateTime, SecondsFormat};
use serde_json::{Map, Value, json};
use std::borrow::Cow;

/// Payload as it is, attributes in headers.
pub(super) fn binary<'a>(topic: &'a str, source: &'a str, event: &'a Event) -> Record<'a> {
    let mut headers = common_headers(event);
    headers.retain(|(name, _)| !is_extension(name));
    let attributes = attributes(source, event).into_iter();
    headers.extend(attributes.map(|(name, value)| (format!("ce_{name}").into(), value)));
    Record {
        topic,
        key: &event.aggregate_id,
        value: event.payload.as_deref().map(Cow::Borrowed),
        headers,
        timestamp: timestamp(event),
    }
}

/// One JSON document. A payload that is JSON is nested as it is, other bytes as base64.
pub(super) fn structured<'a>(topic: &'a str, source: &'a str, event: &'a Event) -> Record<'a> {
    let mut document = Map::new();
    for (name, value) in attributes(source, event) {
        document.insert(name.into_owned(), value.into());
    }
    let content_type = event.headers.iter().find(|(name, _)| name == "content-type").map(|(_, value)| value);
    if let Some(content_type) = content_type {
        document.insert("datacontenttype".into(), json!(content_type));
    }
    if let Some(payload) = &event.payload {
        let is_json = content_type.is_none_or(|kind| kind.contains("json"));
        match serde_json::from_slice::<Value>(payload) {
            Ok(value) if is_json => document.insert("data".into(), value),
            _ => document.insert("data_base64".into(), json!(base64(payload))),
        };
    }
    let mut headers = common_headers(event);
    headers.retain(|(name, _)| name != "content-type");
    headers.push(("content-type".into(), "application/cloudevents+json; charset=UTF-8".into()));
    let bytes = serde_json::to_vec(&document).expect("a JSON document is always JSON");
    Record {
        topic,
        key: &event.aggregate_id,
        value: Some(bytes.into()),
        headers,
        timestamp: timestamp(event),
    }
}

fn attributes<'a>(source: &'a str, event: &'a Event) -> Vec<(Cow<'a, str>, Cow<'a, str>)> {
    let mut attributes: Vec<(Cow<'a, str>, Cow<'a, str>)> = vec![
        ("specversion".into(), "1.0".into()),
        ("id".into(), event.id.hyphenated().to_string().into()),
        ("source".into(), source.into()),
        ("type".into(), event.event_type.as_str().into()),
        ("subject".into(), event.aggregate_id.as_str().into()),
        ("partitionkey".into(), event.aggregate_id.as_str().into()),
    ];
    if let Some(time) = timestamp(event).and_then(DateTime::from_timestamp_millis) {
        attributes.push(("time".into(), time.to_rfc3339_opts(SecondsFormat::Millis, true).into()));
    }
    if let Some(number) = event.key_seq {
        attributes.push(("sequence".into(), format!("{number:020}").into()));
    }
    for (name, value) in &event.headers {
        if is_extension(name) {
            attributes.push((name.as_str().into(), value.as_str().into()));
        }
    }
    let trace = event.trace.iter().flat_map(|trace| trace::properties(trace));
    attributes.extend(trace.map(|(name, value)| (name.into(), value)));
    attributes
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
