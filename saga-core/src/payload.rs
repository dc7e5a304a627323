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
#[derive(Clone)]
pub struct Payload(Arc<RawValue>);

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
        serde_json::value::to_raw_value(value).map(|raw| Self(raw.into()))
    }

    /// Takes text that is already JSON; fails where it is not.
    pub fn from_json(text: String) -> Result<Self, serde_json::Error> {
        RawValue::from_string(text).map(|raw| Self(raw.into()))
    }

    /// Reads the value back.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.as_str())
    }

    /// `null`, which is also how `()` is written.
    pub fn null() -> Self {
        Self(RawValue::NULL.to_owned().into())
    }

    /// Several values as one JSON array: how a tuple or a list of handles feeds a step.
    pub fn array<'a>(items: impl IntoIterator<Item = &'a Payload>) -> Self {
        let mut text = String::from("[");
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            text.push_str(item.as_str());
        }
        text.push(']');
        Self::from_json(text).expect("JSON values between brackets and commas are a JSON array")
    }

    /// The items of a JSON array; fails where the value is something else.
    pub fn items(&self) -> Result<Vec<Payload>, serde_json::Error> {
        self.decode::<Vec<Box<RawValue>>>()
            .map(|items| items.into_iter().map(|raw| Self(raw.into())).collect())
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// SHA-256 of the text: how a repeated start is told from another order under the same id.
    pub fn digest(&self) -> [u8; 32] {
        use sha2::Digest;
        sha2::Sha256::digest(self.as_str().as_bytes()).into()
    }
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
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(|raw| Self(raw.into()))
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
