//! What flows between steps: JSON text, shared rather than copied.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::codec::envelope::Stored;

/// A value as JSON text.
///
/// It is written once, when a step returns it, and shared from there on: the journal embeds the same
/// text, the next step reads from it. `Debug` shows its length only, because payloads hold what
/// customers told the service.
///
/// Where a [`Codec`](crate::codec::Codec) closed it, what a journal keeps is another text; the value stays beside
/// it. A payload that was read from a journal and not opened is *closed*: it decodes as nothing, and its items are
/// closed as well. A value that looks like a closed one is written in a form that says it is none, with a codec and
/// without, so reading gives what was written.
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

    /// A value. Where its text could be taken for a closed one, a journal keeps it wrapped. That more are wrapped than
    /// need be is no harm; to look into lists of lists would be, because a sender chooses how deep they are.
    fn plain(raw: Box<RawValue>) -> Self {
        let ambiguous = is_closed(raw.get()) || may_have_closed_items(raw.get());
        let kept = ambiguous.then(|| Stored::plain(raw.get()).to_raw().into());
        Self { text: raw.into(), kept, closed: false }
    }

    /// As a journal holds it: it may be closed, or a value that was wrapped; so may its items, so `deep`.
    fn from_journal(raw: Box<RawValue>, deep: u8) -> Self {
        let text = raw.get();
        if deep > 0 && may_have_closed_items(text) {
            let items = parts(text, deep - 1).expect("JSON that begins with a bracket is an array");
            if items.iter().any(|item| item.closed || item.kept.is_some()) {
                return Self::array(&items);
            }
        }
        let closed = is_closed(text);
        match Stored::read(text).and_then(Stored::into_value) {
            Some(value) => Self { text: value.into(), kept: Some(raw.into()), closed: false },
            None => Self { text: raw.into(), kept: None, closed },
        }
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
            (true, true) => return self.parts(),
            (true, false) => {
                let items = Stored::read(self.as_str()).and_then(|stored| stored.items);
                let items = items.map(|items| vec![self.clone(); items]);
                return items.ok_or_else(|| serde::de::Error::custom("a closed payload is no list"));
            }
            (false, _) => {}
        }
        self.decode::<Vec<Box<RawValue>>>().map(|items| items.into_iter().map(Self::plain).collect())
    }

    /// The items of an array of which some are closed.
    pub(crate) fn parts(&self) -> Result<Vec<Payload>, serde_json::Error> {
        parts(self.kept(), DEPTH)
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
    pub(crate) fn kept_as(&self, kept: Box<RawValue>) -> Self {
        Self { kept: Some(kept.into()), ..self.clone() }
    }

    /// The same value, of which a journal keeps what it keeps of the closed one.
    pub(crate) fn kept_like(&self, closed: &Payload) -> Self {
        Self { kept: Some(closed.kept.as_ref().unwrap_or(&closed.text).clone()), ..self.clone() }
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

/// How deep in lists there may be closed payloads. Payloads are joined at most twice, outputs of one step for each item
/// and these with others; what lies deeper is a value's own, and a sender's choice.
const DEPTH: u8 = 2;

/// Whether a text is that of a closed payload.
pub(crate) fn is_closed(text: &str) -> bool {
    text.starts_with(CLOSED)
}

/// Whether a text is that of a list with closed items, or looks like one.
fn may_have_closed_items(text: &str) -> bool {
    text.starts_with('[') && text.contains(CLOSED)
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

fn parts(text: &str, deep: u8) -> Result<Vec<Payload>, serde_json::Error> {
    let items = serde_json::from_str::<Vec<Box<RawValue>>>(text)?;
    Ok(items.into_iter().map(|item| Payload::from_journal(item, deep)).collect())
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
        Box::<RawValue>::deserialize(deserializer).map(|raw| Self::from_journal(raw, DEPTH))
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

    /// What a journal keeps of a payload, read back.
    fn again(payload: &Payload) -> Payload {
        serde_json::from_str(&serde_json::to_string(payload).unwrap()).unwrap()
    }

    #[test]
    fn whatever_a_value_looks_like_it_is_read_back_as_itself() {
        let wrapped = r#"{"$stored":{"bytes":1,"held":{"plain":{"text":"1"}}}}"#;
        let listed = format!("[[{wrapped}],[2]]");
        for text in [
            wrapped,
            &listed,
            r#"{"$stored":1}"#,
            r#"{"$stored":{"bytes":1,"held":{"plain":{"text":"no JSON"}}}}"#,
            r#"{"$stored":{"bytes":1,"held":{"sealed":{"key":"k","data":""}}}}"#,
            r#"[ {"$stored":1}, 2 ]"#,
            r#"[[[{"$stored":1}]]]"#,
            r#"[{"a":{"$stored":1}},2]"#,
            r#"{ "$stored" : 1 }"#,
            r#"{"a":[{"$stored":1}]}"#,
            r#""{\"$stored\":1}""#,
        ] {
            let value = Payload::from_json(text.to_owned()).unwrap();
            let read = again(&value);
            assert_eq!((read.as_str(), read.is_closed()), (text, false));
            assert_eq!(again(&read).as_str(), text, "also the second time");
            // Beside others and their lists, as a step's input or a saga's output; and inside of another.
            let several = Payload::array([&read, &Payload::null(), &Payload::array([&value])]);
            let joined = again(&several);
            assert_eq!((joined.as_str(), joined.is_closed()), (several.as_str(), false));
            assert_eq!(joined.items().unwrap()[0].as_str(), text);
            assert_eq!(again(&Payload::encode(&value).unwrap()).decode::<Payload>().unwrap(), value);
        }
    }

    #[test]
    fn beside_a_closed_one_it_is_still_itself() {
        let sealed = r#"{"$stored":{"bytes":1,"held":{"sealed":{"key":"k","data":""}}}}"#;
        let closed: Payload = serde_json::from_str(sealed).unwrap();
        let value = Payload::from_json(r#"{"$stored":1}"#.to_owned()).unwrap();
        let read = again(&Payload::array([&closed, &value]));
        assert!(read.is_closed() && read.decode::<Vec<()>>().is_err());
        let items = again(&read).items().unwrap();
        assert_eq!(items.iter().map(Payload::is_closed).collect::<Vec<_>>(), [true, false]);
        assert_eq!((items[0].as_str(), items[1].as_str()), (sealed, value.as_str()));
    }

    #[test]
    fn a_value_of_any_depth_is_read_and_written() {
        let deep = format!("{}{}{}", "[".repeat(400_000), r#"{"$stored":1}"#, "]".repeat(400_000));
        let value = Payload::from_json(deep.clone()).unwrap();
        assert_eq!(again(&value).as_str(), deep);
        // And where nothing was wrapped, because an earlier version wrote it.
        assert_eq!(serde_json::from_str::<Payload>(&deep).unwrap().as_str(), deep);
    }

    #[test]
    fn debug_shows_no_content() {
        let secret = Payload::encode("4111 1111 1111 1111").unwrap();
        assert_eq!(format!("{secret:?}"), "Payload(21 bytes)");
    }
}
