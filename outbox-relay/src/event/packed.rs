//! An event in little memory.

use super::Key;
use uuid::Uuid;

/// One committed outbox row.
///
/// Thousands are held at once, so all that has a length of its own lies in one allocation of exactly its size, and
/// what most rows do not have takes no room. Made of its [`Fields`].
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    /// By which relays and inboxes recognise duplicates.
    pub id: Uuid,
    /// The row's number; orders the events of a key whose writers take turns.
    pub seq: i64,
    /// When it was written, in milliseconds since the Unix epoch by the database's clock.
    pub created_at: i64,
    /// Aggregate type, aggregate id, event type and payload, one behind the other; then the [`Extra`]s.
    bytes: Box<[u8]>,
    /// Where each of the first four ends.
    ends: [u32; 4],
}

/// What an [`Event`] is made of.
///
/// ```
/// use outbox_relay::{Event, Fields};
///
/// let event = Event::from(Fields {
///     seq: 42,
///     aggregate_type: "order",
///     aggregate_id: "536365",
///     event_type: "Placed",
///     payload: Some(b"{}"),
///     ..Fields::default()
/// });
/// assert_eq!((event.aggregate_id(), event.payload(), event.trace()), ("536365", Some(&b"{}"[..]), None));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields<'a> {
    /// By which relays and inboxes recognise duplicates.
    pub id: Uuid,
    /// The row's number; orders the events of a key whose writers take turns.
    pub seq: i64,
    /// When it was written, in milliseconds since the Unix epoch by the database's clock.
    pub created_at: i64,
    /// Decides the topic.
    pub aggregate_type: &'a str,
    /// The record's key.
    pub aggregate_id: &'a str,
    /// What happened.
    pub event_type: &'a str,
    /// The record's value; `None` is a tombstone.
    pub payload: Option<&'a [u8]>,
    /// Headers the writer gave it.
    pub headers: &'a [(String, String)],
    /// The trace context in which it was written, as Java properties text.
    pub trace: Option<&'a str>,
    /// Its number within its key, where the writer asked for one.
    pub key_seq: Option<i64>,
    /// Why it can never be published: what a writer put into the row is no event.
    pub defect: Option<&'a str>,
}

/// What few events have. Each lies behind the payload as this byte, its length, and itself.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Extra {
    /// The payload is none, rather than empty.
    Tombstone,
    HeaderName,
    /// Of the name before it.
    HeaderValue,
    Trace,
    KeySeq,
    Defect,
}

impl From<Fields<'_>> for Event {
    /// # Panics
    ///
    /// If the fields are of more than four gibibytes together, which no database makes a row of.
    fn from(fields: Fields<'_>) -> Self {
        let key_seq = fields.key_seq.map(i64::to_be_bytes);
        let headers = fields.headers.iter().flat_map(|(name, value)| {
            [(Extra::HeaderName, Some(name.as_bytes())), (Extra::HeaderValue, Some(value.as_bytes()))]
        });
        let extras = [
            (Extra::Tombstone, fields.payload.is_none().then_some(&[][..])),
            (Extra::Trace, fields.trace.map(str::as_bytes)),
            (Extra::KeySeq, key_seq.as_ref().map(<[u8; 8]>::as_slice)),
            (Extra::Defect, fields.defect.map(str::as_bytes)),
        ];
        let extras = extras.into_iter().chain(headers).filter_map(|(extra, bytes)| Some((extra, bytes?)));

        let payload = fields.payload.unwrap_or_default();
        let texts = [fields.aggregate_type, fields.aggregate_id, fields.event_type].map(str::as_bytes);
        let parts = [texts[0], texts[1], texts[2], payload];
        let extra_bytes: usize = extras.clone().map(|(_, bytes)| EXTRA_HEAD + bytes.len()).sum();
        let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len()).sum::<usize>() + extra_bytes);
        let ends = parts.map(|part| {
            bytes.extend_from_slice(part);
            length(bytes.len())
        });
        for (extra, content) in extras {
            bytes.push(extra as u8);
            bytes.extend_from_slice(&length(content.len()).to_be_bytes());
            bytes.extend_from_slice(content);
        }
        let Fields { id, seq, created_at, .. } = fields;
        Self { id, seq, created_at, bytes: bytes.into_boxed_slice(), ends }
    }
}

/// A byte that says which one, and a length.
const EXTRA_HEAD: usize = 5;

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("no row is of four gibibytes")
}

impl Event {
    /// Decides the topic.
    pub fn aggregate_type(&self) -> &str {
        text(self.part(0))
    }

    /// The record's key.
    pub fn aggregate_id(&self) -> &str {
        text(self.part(1))
    }

    /// What happened.
    pub fn event_type(&self) -> &str {
        text(self.part(2))
    }

    /// The record's value; `None` is a tombstone.
    pub fn payload(&self) -> Option<&[u8]> {
        let payload = self.part(3);
        (!payload.is_empty() || self.extra(Extra::Tombstone).is_none()).then_some(payload)
    }

    /// Headers the writer gave it, in order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut extras = self.extras();
        std::iter::from_fn(move || {
            let (_, name) = extras.find(|(extra, _)| *extra == Extra::HeaderName as u8)?;
            let (_, value) = extras.next()?;
            Some((text(name), text(value)))
        })
    }

    /// The trace context in which it was written, as Java properties text.
    pub fn trace(&self) -> Option<&str> {
        self.extra(Extra::Trace).map(text)
    }

    /// Its number within its key, where the writer asked for one.
    pub fn key_seq(&self) -> Option<i64> {
        let bytes = self.extra(Extra::KeySeq)?;
        Some(i64::from_be_bytes(bytes.try_into().expect("it was made of a number")))
    }

    /// Why it can never be published: what a writer put into the row is no event.
    pub fn defect(&self) -> Option<&str> {
        self.extra(Extra::Defect).map(text)
    }

    /// Aggregate type and id as bytes, for whoever compares and hashes them: it need not be looked again whether they
    /// are text.
    pub(crate) fn key_bytes(&self) -> (&[u8], &[u8]) {
        (self.part(0), self.part(1))
    }

    /// The key that keeps its order: the aggregate.
    pub fn key(&self) -> Key {
        Key { aggregate_type: self.aggregate_type().to_owned(), aggregate_id: self.aggregate_id().to_owned() }
    }

    /// How much memory it holds.
    pub fn bytes(&self) -> usize {
        std::mem::size_of::<Self>() + self.bytes.len()
    }

    fn part(&self, index: usize) -> &[u8] {
        let begin = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[begin as usize..self.ends[index] as usize]
    }

    fn extras(&self) -> impl Iterator<Item = (u8, &[u8])> {
        let mut rest = &self.bytes[self.ends[3] as usize..];
        std::iter::from_fn(move || {
            let (&extra, behind) = rest.split_first()?;
            let (length, behind) = behind.split_first_chunk()?;
            let (content, behind) = behind.split_at_checked(u32::from_be_bytes(*length) as usize)?;
            rest = behind;
            Some((extra, content))
        })
    }

    fn extra(&self, which: Extra) -> Option<&[u8]> {
        self.extras().find(|(extra, _)| *extra == which as u8).map(|(_, content)| content)
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("it was made of text")
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Event")
            .field("id", &self.id)
            .field("seq", &self.seq)
            .field("created_at", &self.created_at)
            .field("aggregate_type", &self.aggregate_type())
            .field("aggregate_id", &self.aggregate_id())
            .field("event_type", &self.event_type())
            .field("payload", &self.payload())
            .field("headers", &self.headers().collect::<Vec<_>>())
            .field("trace", &self.trace())
            .field("key_seq", &self.key_seq())
            .field("defect", &self.defect())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_event_holds_what_it_was_made_of_and_no_more(
            numbers: (u128, i64, i64),
            texts: (String, String, String),
            payload: Option<Vec<u8>>,
            headers: Vec<(String, String)>,
            trace: Option<String>,
            key_seq: Option<i64>,
            defect: Option<String>,
        ) {
            let fields = Fields {
                id: Uuid::from_u128(numbers.0),
                seq: numbers.1,
                created_at: numbers.2,
                aggregate_type: &texts.0,
                aggregate_id: &texts.1,
                event_type: &texts.2,
                payload: payload.as_deref(),
                headers: &headers,
                trace: trace.as_deref(),
                key_seq,
                defect: defect.as_deref(),
            };
            let event = Event::from(fields);
            let found: Vec<_> = event.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            let read = Fields {
                id: event.id,
                seq: event.seq,
                created_at: event.created_at,
                aggregate_type: event.aggregate_type(),
                aggregate_id: event.aggregate_id(),
                event_type: event.event_type(),
                payload: event.payload(),
                headers: &found,
                trace: event.trace(),
                key_seq: event.key_seq(),
                defect: event.defect(),
            };
            prop_assert_eq!(read, fields);
        }
    }

    #[test]
    fn what_most_events_do_not_have_takes_no_room() {
        let event =
            Event::from(Fields { aggregate_type: "order", payload: Some(b"{}"), ..Fields::default() });
        assert_eq!((size_of::<Event>(), event.bytes()), (64, 64 + 5 + 2));
    }
}
