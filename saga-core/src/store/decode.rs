//! What the SQL stores keep as text or bytes, read back. What does not read was damaged, or written by a
//! newer version.

use super::error::{Error, Result};
use super::query::{Manifest, State};
use crate::attributes::Attributes;
use crate::error_id::ErrorId;
use crate::id::{Key, Name};
use crate::journal::EndKind;

pub(super) fn name(text: String) -> Result<Name> {
    Name::new(text).map_err(|e| Error::Unusable(e.to_string()))
}

pub(super) fn key(text: Option<String>) -> Result<Option<Key>> {
    text.map(Key::new).transpose().map_err(|e| Error::Unusable(e.to_string()))
}

/// A JSON object, where there are any.
pub(super) fn attributes(text: Option<&str>) -> Result<Attributes> {
    let read = |text| serde_json::from_str(text).map_err(|e| unread("attribute", &format!("{e}")));
    text.map_or(Ok(Attributes::default()), read)
}

pub(super) fn number(number: impl TryInto<u32> + Copy + std::fmt::Display) -> Result<u32> {
    number.try_into().map_err(|_| unread("number", &number.to_string()))
}

pub(super) fn state(text: &str) -> Result<State> {
    State::from_name(text).ok_or_else(|| unread("state", text))
}

pub(super) fn end(text: Option<&str>) -> Result<Option<EndKind>> {
    text.map(|text| EndKind::from_name(text).ok_or_else(|| unread("end", text))).transpose()
}

pub(super) fn digest(bytes: &[u8]) -> Result<[u8; 32]> {
    bytes.try_into().map_err(|_| unread("digest", &format!("{} bytes", bytes.len())))
}

pub(super) fn error(text: Option<&str>) -> Result<Option<ErrorId>> {
    text.map(|text| text.parse().map_err(|_| unread("error", text))).transpose()
}

pub(super) fn manifest(plan: &str) -> Result<Manifest> {
    let plan = serde_json::from_str(plan).map_err(|e| unread("manifest", &e.to_string()))?;
    Ok(Manifest::of(&plan))
}

pub(super) fn plan_text(manifest: &Manifest) -> String {
    serde_json::to_string(&manifest.plan).expect("a plan holds names and numbers: all of it can be written")
}

fn unread(what: &str, text: &str) -> Error {
    Error::Unusable(format!("a stored {what} does not read: {text:?}; was it written by a newer version?"))
}
