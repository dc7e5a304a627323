//! Which topic an event goes to, and what its record looks like there.

mod cloudevents;
mod headers;
#[cfg(test)]
mod tests;
pub(crate) mod trace;

use crate::event::Event;
pub use headers::Headers;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

/// A record, borrowed from its event.
#[derive(Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The event's id.
    pub id: Uuid,
    /// The topic.
    pub topic: &'a str,
    /// The key: the aggregate's id.
    pub key: &'a str,
    /// The value; `None` is a tombstone.
    pub value: Option<Cow<'a, [u8]>>,
    /// The headers, in order. The first is always the event's `id`, and no other is called so.
    pub headers: &'a Headers,
    /// When the event was written, in milliseconds since the Unix epoch; `None` lets the broker say.
    pub timestamp: Option<i64>,
}

/// How an event is written as a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// As Debezium's outbox event router does: the payload as it is, the event's id in the header `id`.
    #[default]
    Debezium,
    /// A CloudEvent in binary mode: the payload as it is, the attributes in headers `ce_…`.
    CloudeventsBinary,
    /// A CloudEvent in structured mode: one JSON document with the payload inside.
    CloudeventsStructured,
}

/// Where the events of one aggregate type go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The topic; by default made by the rule of [`Routes::topic`].
    pub topic: Option<String>,
    /// How they are written; by default as [`Routes::format`] says.
    pub format: Option<Format>,
}

/// Where all events go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Routes {
    /// The topic's name; `{aggregatetype}` stands for the event's aggregate type.
    pub topic: String,
    /// How events are written.
    pub format: Format,
    /// What CloudEvents call their source, a URI reference.
    pub source: String,
    /// Exceptions by aggregate type.
    pub by_aggregate_type: HashMap<String, Route>,
}

impl Default for Routes {
    fn default() -> Self {
        Self {
            topic: "outbox.event.{aggregatetype}".into(),
            format: Format::default(),
            source: "/outbox".into(),
            by_aggregate_type: HashMap::new(),
        }
    }
}

impl Routes {
    /// The topic of an aggregate type's events.
    ///
    /// # Errors
    ///
    /// Why they cannot go anywhere.
    pub fn topic_of(&self, aggregate_type: &str) -> Result<String, String> {
        find(self, aggregate_type).map(|(topic, _)| topic)
    }
}

/// Aggregate types whose topics are remembered; services have a handful.
const REMEMBERED_MAX: usize = 10_000;

/// Where one aggregate type's events go.
#[derive(Clone, Debug)]
struct Target {
    topic: Arc<str>,
    format: Format,
}

/// Turns events into records.
#[derive(Debug)]
pub(crate) struct Router {
    routes: Routes,
    known: HashMap<String, Result<Target, String>>,
    /// The aggregate type that was asked for last: events of one type come in runs, and each is asked for
    /// several times.
    last: Option<(String, Target)>,
    /// Of the record that was made last.
    headers: Headers,
}

impl Router {
    pub(crate) fn new(routes: Routes) -> Self {
        Self { routes, known: HashMap::new(), last: None, headers: Headers::default() }
    }

    /// The topic that the event goes to.
    ///
    /// # Errors
    ///
    /// Why it cannot go anywhere: it is to be parked.
    pub(crate) fn route(&mut self, event: &Event) -> Result<&str, String> {
        self.target(event).map(|target| target.topic.as_ref())
    }

    /// The event's record.
    ///
    /// # Errors
    ///
    /// As [`Router::route`].
    pub(crate) fn record<'a>(&'a mut self, event: &'a Event) -> Result<Record<'a>, String> {
        let format = self.target(event)?.format;
        let topic = self.last.as_ref().map_or("", |(_, target)| target.topic.as_ref());
        let headers = &mut self.headers;
        headers.clear();
        let value = match format {
            Format::Debezium => plain(headers, event),
            Format::CloudeventsBinary => cloudevents::binary(headers, &self.routes.source, event),
            Format::CloudeventsStructured => cloudevents::structured(headers, &self.routes.source, event),
        };
        let timestamp = timestamp(event);
        Ok(Record { id: event.id, topic, key: event.aggregate_id(), value, headers, timestamp })
    }

    fn target(&mut self, event: &Event) -> Result<&Target, String> {
        if let Some(defect) = event.defect() {
            return Err(defect.to_owned());
        }
        if self.last.as_ref().is_none_or(|(last, _)| last.as_bytes() != event.key_bytes().0) {
            let kind = event.aggregate_type();
            self.last = Some((kind.to_owned(), self.look_up(kind)?));
        }
        Ok(&self.last.as_ref().expect("it was looked up").1)
    }

    fn look_up(&mut self, aggregate_type: &str) -> Result<Target, String> {
        if let Some(known) = self.known.get(aggregate_type) {
            return known.clone();
        }
        if self.known.len() >= REMEMBERED_MAX {
            self.known.clear();
        }
        let found =
            find(&self.routes, aggregate_type).map(|(topic, format)| Target { topic: topic.into(), format });
        self.known.insert(aggregate_type.to_owned(), found.clone());
        found
    }
}

fn find(routes: &Routes, aggregate_type: &str) -> Result<(String, Format), String> {
    let route = routes.by_aggregate_type.get(aggregate_type);
    let topic = route
        .and_then(|route| route.topic.clone())
        .unwrap_or_else(|| routes.topic.replace("{aggregatetype}", aggregate_type));
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if topic.is_empty() || topic.len() > 249 || topic == "." || topic == ".." || !topic.chars().all(legal) {
        return Err(format!("{topic:?} cannot be the name of a topic"));
    }
    Ok((topic, route.and_then(|route| route.format).unwrap_or(routes.format)))
}

fn plain<'a>(headers: &mut Headers, event: &'a Event) -> Option<Cow<'a, [u8]>> {
    push_id(headers, event);
    given(event).for_each(|(name, value)| headers.push(name, value));
    headers.push("eventType", event.event_type());
    if let Some(number) = event.key_seq() {
        headers.push("sequence", &number.to_string());
    }
    for (name, value) in event.trace().into_iter().flat_map(trace::properties) {
        headers.push(name, &value);
    }
    event.payload().map(Cow::Borrowed)
}

fn push_id(headers: &mut Headers, event: &Event) {
    headers.push("id", event.id.hyphenated().encode_lower(&mut [0; Hyphenated::LENGTH]));
}

/// The headers that the writer gave. What it calls `id` is left out: that is the event's, by which consumers know
/// duplicates, and of two headers of a name some take the last.
fn given(event: &Event) -> impl Iterator<Item = (&str, &str)> {
    event.headers().filter(|(name, _)| *name != "id")
}

fn timestamp(event: &Event) -> Option<i64> {
    (event.created_at > 0).then_some(event.created_at)
}
