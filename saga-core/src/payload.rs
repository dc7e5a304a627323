//! What flows between steps: JSON text, shared rather than copied.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// A value as JSON text.
///
/// It is written once, when a step returns it, and shared from there on: the journal embeds the same
/// text, the next step reads from it. `Debug` shows its length only, because payloads hold what
/// customers told the service.
///
/// Where a [`Codec`](crate::codec::Codec) closed it, what a journal keeps is another text; the value stays beside
/// it. A payload that was read from a journal and not opened is *closed*: it decodes as nothing, and its items are
/// closed as well.
#[derive(Clone)]
pub struct Payload {
    text: Arc<RawValue>,
    /// What a journal keeps instead.
    kept: Option<Arc<RawValue>>,
    closed: bool,
}

impl Payload {
    /// How much JSON text one value may have unless a worker says otherwise: 1 MiB. A history is read
    /// whole, so what is larger belongs into an object store, and its address into the saga.
    pub const BYTES_MAX: usize = 1 << 20;

    /// How many bytes its text has.
    pub fn bytes(&self) -> usize {
        self.as_str().len()
    }

    /// Writes a value as JSON.
    pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        serde_json::value::to_raw_value(value).map(Self::plain)
    }

    /// Takes text that is already JSON; fails where it is not.
    pub fn from_json(text: String) -> Result<Self, serde_json::Error> {
        RawValue::from_string(text).map(Self::plain)
    }

    fn plain(raw: Box<RawValue>) -> Self {
        Self { text: raw.into(), kept: None, closed: false }
    }

    /// As a journal holds it: it may be closed.
    fn from_journal(raw: Box<RawValue>) -> Self {
        let text = raw.get();
        let closed = is_closed(text)
            || (text.starts_with('[') && text.contains(CLOSED) && parts(text).iter().any(Self::is_closed));
        Self { closed, ..Self::plain(raw) }
    }

    /// Reads the value back.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        if self.closed {
            return Err(serde::de::Error::custom(
                "it is sealed or stored elsewhere and could not be opened here: its key or its blob is missing, \
                 it was changed, or this process has no codec",
            ));
        }
        serde_json::from_str(self.as_str())
    }

    /// `null`, which is also how `()` is written.
    pub fn null() -> Self {
        Self::plain(RawValue::NULL.to_owned())
    }

    /// Whether it is `null`.
    pub fn is_null(&self) -> bool {
        self.as_str() == "null"
    }

    /// Several values as one JSON array: how a tuple or a list of handles feeds a step.
    pub fn array<'a>(items: impl IntoIterator<Item = &'a Payload>) -> Self {
        let items: Vec<&Payload> = items.into_iter().collect();
        let text = joined(items.iter().map(|item| item.as_str()));
        let other = items.iter().any(|item| item.kept.is_some());
        let kept = other.then(|| joined(items.iter().map(|item| item.kept())));
        Self { text, kept, closed: items.iter().any(|item| item.is_closed()) }
    }

    /// The items of a JSON array; fails where the value is something else.
    pub fn items(&self) -> Result<Vec<Payload>, serde_json::Error> {
        match (self.closed, self.as_str().starts_with('[')) {
            (true, true) => return Ok(self.parts()),
            (true, false) => {
                let items = closed_items(self.as_str()).map(|items| vec![self.clone(); items]);
                return items.ok_or_else(|| serde::de::Error::custom("a closed payload is no list"));
            }
            (false, _) => {}
        }
        self.decode::<Vec<Box<RawValue>>>().map(|items| items.into_iter().map(Self::plain).collect())
    }

    /// The items of an array of which some are closed.
    pub(crate) fn parts(&self) -> Vec<Payload> {
        parts(self.as_str())
    }

    /// Whether it was read from a journal and not opened.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// What a journal keeps of it.
    pub(crate) fn kept(&self) -> &str {
        self.kept.as_ref().map_or(self.as_str(), |kept| kept.get())
    }

    /// How many bytes a journal keeps of it.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.kept().len()
    }

    /// The same value, of which a journal keeps this JSON instead.
    pub(crate) fn kept_as(&self, json: String) -> Self {
        let kept = RawValue::from_string(json).expect("what was written as JSON is JSON");
        Self { kept: Some(kept.into()), ..self.clone() }
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        self.text.get()
    }

    /// SHA-256 of the text: how a repeated start is told from another order under the same id.
    pub fn digest(&self) -> [u8; 32] {
        use sha2::Digest;
        sha2::Sha256::digest(self.as_str().as_bytes()).into()
    }
}

/// How the text begins that a journal holds in the place of a closed payload.
pub(crate) const CLOSED: &str = "{\"$stored\":";

/// Whether a text is that of a closed payload.
pub(crate) fn is_closed(text: &str) -> bool {
    text.starts_with(CLOSED)
}

/// How many items a closed list has: that much is told of it, so that steps which run over it can be counted.
fn closed_items(text: &str) -> Option<usize> {
    #[derive(Deserialize)]
    struct Closed {
        #[serde(rename = "$stored")]
        stored: List,
    }
    #[derive(Deserialize)]
    struct List {
        items: Option<usize>,
    }
    serde_json::from_str::<Closed>(text).ok()?.stored.items
}

/// JSON values between brackets and commas.
fn joined<'a>(items: impl Iterator<Item = &'a str>) -> Arc<RawValue> {
    let mut text = String::from("[");
    for (index, item) in items.enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(item);
    }
    text.push(']');
    RawValue::from_string(text).expect("JSON values between brackets and commas are a JSON array").into()
}

fn parts(text: &str) -> Vec<Payload> {
    let items = serde_json::from_str::<Vec<Box<RawValue>>>(text).unwrap_or_default();
    items.into_iter().map(Payload::from_journal).collect()
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}
impl Eq for Payload {}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.as_str().len())
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.kept.as_ref().unwrap_or(&self.text).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(Self::from_journal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_join_to_what_a_tuple_reads() {
        let joined =
            Payload::array([&Payload::encode("a").unwrap(), &Payload::encode(&7).unwrap(), &Payload::null()]);
        assert_eq!(joined.decode::<(String, u32, ())>().unwrap(), ("a".into(), 7, ()));
        assert_eq!(joined.items().unwrap()[1].as_str(), "7");
        assert_eq!(Payload::array([]).decode::<Vec<u8>>().unwrap(), Vec::<u8>::new());
    }

    #[test]
    fn debug_shows_no_content() {
        let secret = Payload::encode("4111 1111 1111 1111").unwrap();
        assert_eq!(format!("{secret:?}"), "Payload(21 bytes)");
    }
}
