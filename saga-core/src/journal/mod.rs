//! The history of a saga: what is recorded, and which histories are legal.
//!
//! A journal is a sequence of *commits*; a commit is a list of [`Record`]s that became true together.
//! [`stage`] holds the one `match` that says which record may follow which.

pub mod record;
pub mod stage;

pub use record::{Answer, Bound, Cause, Effect, End, EndKind, Failure, MailBody, Outcome, Record, Verb};
pub use stage::{Contract, Illegal, Stage};

/// A point in time as journals and stores keep it.
pub type Timestamp = chrono::DateTime<chrono::Utc>;

/// What "for ever" comes to: the end of the year 9999, which every store can keep, and reckon with.
pub(crate) const LATEST: Timestamp =
    Timestamp::from_timestamp(253_402_300_799, 0).expect("the year 9999 is in range");

/// Writes the records of one commit as the JSON text that a store keeps.
pub fn encode(records: &[Record]) -> String {
    serde_json::to_string(records).expect("records hold strings, numbers and JSON: all of it can be written")
}

/// Reads the records of one commit.
pub fn decode(text: &str) -> Result<Vec<Record>, serde_json::Error> {
    serde_json::from_str(text)
}
