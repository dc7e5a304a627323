//! The outbox table as a service has it: its name, and what its columns are called.

use super::sql::Sql;
use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::message::Message;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// The columns that can have other names, or be missing where it says so.
pub(super) const COLUMNS: [&str; 8] =
    ["id", "aggregatetype", "aggregateid", "type", "payload", "headers", "tracingspancontext", "key_seq"];
const OPTIONAL: [&str; 3] = ["headers", "tracingspancontext", "key_seq"];
/// What [`Message::json`] says by itself.
const IMPLIED: (&str, &str) = ("content-type", "application/json");

/// A table of events other than `outbox.event`: one made for Debezium, for example.
///
/// ```
/// # fn outbox() -> outbox::Result<outbox::Outbox> {
/// let outbox = outbox::Outbox::table("public.outboxevent")
///     .column("aggregatetype", "kind")
///     .without("headers")
///     .without("tracingspancontext")
///     .without("key_seq")
///     .json_payload()
///     .build()?;
/// # Ok(outbox) }
/// # outbox().unwrap();
/// ```
///
/// Give the relay the same name and columns (`source.table`, `source.columns`).
#[derive(Clone, Debug)]
pub struct Outbox {
    columns: BTreeMap<&'static str, String>,
    pub(super) sql: Sql,
}

/// Says what an [`Outbox`] is like.
#[derive(Clone, Debug)]
pub struct Builder {
    name: String,
    columns: BTreeMap<String, Option<String>>,
    json: bool,
}

impl Outbox {
    /// A table by its name: `schema.table` on Postgres, `table` on SQLite. Columns have the names
    /// that they have in `outbox.event` unless told otherwise.
    pub fn table(name: impl Into<String>) -> Builder {
        Builder { name: name.into(), columns: BTreeMap::new(), json: false }
    }

    /// `outbox.event`, or `outbox_event` on SQLite, as [`migrate`](crate::migrate) makes it.
    pub(crate) fn standard() -> &'static Self {
        static STANDARD: LazyLock<Outbox> = LazyLock::new(|| {
            let columns = COLUMNS.iter().map(|column| (*column, (*column).to_owned())).collect();
            Outbox { sql: Sql::standard(&columns), columns }
        });
        &STANDARD
    }

    /// As [`enqueue`](crate::enqueue), into this table.
    ///
    /// # Errors
    ///
    /// Also [`Error::Invalid`] if the message has something for which the table has no column.
    pub async fn enqueue<C: Connection>(&self, connection: &mut C, message: Message) -> Result<()> {
        self.enqueue_all(connection, std::slice::from_ref(&message)).await
    }

    /// As [`enqueue_all`](crate::enqueue_all), into this table.
    ///
    /// # Errors
    ///
    /// As [`Self::enqueue`].
    pub async fn enqueue_all<C: Connection>(&self, connection: &mut C, messages: &[Message]) -> Result<()> {
        for message in messages {
            message.check()?;
            self.fits(message)?;
        }
        if messages.is_empty() { Ok(()) } else { connection.insert(self, messages).await }
    }

    /// Whether the table has a column for all that the message has.
    fn fits(&self, message: &Message) -> Result<()> {
        let explicit = message.headers.iter().any(|(name, value)| (name.as_str(), value.as_str()) != IMPLIED);
        for (column, is_used) in [
            ("headers", explicit),
            ("tracingspancontext", message.trace.is_some()),
            ("key_seq", message.is_sequenced()),
        ] {
            if is_used && !self.columns.contains_key(column) {
                return Err(Error::Invalid {
                    event_type: message.event_type.clone(),
                    problem: format!(
                        "this outbox table was said to have no column {column:?}, which it needs"
                    ),
                });
            }
        }
        Ok(())
    }
}

impl Builder {
    /// Says what one of `outbox.event`'s columns is called in this table.
    pub fn column(mut self, standard: impl Into<String>, here: impl Into<String>) -> Self {
        self.columns.insert(standard.into(), Some(here.into()));
        self
    }

    /// Says that the table lacks one of `headers`, `tracingspancontext` and `key_seq`.
    pub fn without(mut self, standard: impl Into<String>) -> Self {
        self.columns.insert(standard.into(), None);
        self
    }

    /// Says that the payload's column is of type `jsonb` (text on SQLite): then payloads must be JSON.
    pub fn json_payload(mut self) -> Self {
        self.json = true;
        self
    }

    /// The outbox.
    ///
    /// # Errors
    ///
    /// [`Error::Table`] if a name is not one, or a column is none of an outbox.
    pub fn build(self) -> Result<Outbox> {
        let parts: Vec<&str> = self.name.split('.').collect();
        if parts.len() > 2 || !parts.iter().all(|part| is_identifier(part)) {
            return Err(Error::Table(format!("{:?} is no name of a table: {NAMES}", self.name)));
        }
        let mut columns: BTreeMap<&'static str, String> =
            COLUMNS.iter().map(|column| (*column, (*column).to_owned())).collect();
        for (standard, here) in &self.columns {
            let known = COLUMNS.iter().find(|column| *column == standard);
            match (known, here) {
                (Some(known), Some(here)) if is_identifier(here) => {
                    columns.insert(known, here.clone());
                }
                (Some(_), Some(here)) => {
                    return Err(Error::Table(format!("{here:?} is no name of a column: {NAMES}")));
                }
                (Some(known), None) if OPTIONAL.contains(known) => {
                    columns.remove(known);
                }
                (Some(_), None) => {
                    return Err(Error::Table(format!("no outbox can be without a column {standard:?}")));
                }
                (None, _) => {
                    return Err(Error::Table(format!(
                        "{standard:?} is no column of an outbox; there are {COLUMNS:?}"
                    )));
                }
            }
        }
        Ok(Outbox { sql: Sql::new(&self.name, &self.name, &columns, self.json), columns })
    }
}

const NAMES: &str = "lower-case letters, digits and _, 63 at most";

fn is_identifier(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_')
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && text.len() <= 63
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_table_is_refused_by_name() {
        for (builder, problem) in [
            (Outbox::table("a.b.c"), "is no name of a table"),
            (Outbox::table("event; drop table x"), "is no name of a table"),
            (Outbox::table("a.b").column("type", "x\" --"), "is no name of a column"),
            (Outbox::table("a.b").column("topic", "x"), "\"topic\" is no column of an outbox"),
            (Outbox::table("a.b").without("payload"), "no outbox can be without a column \"payload\""),
        ] {
            let error = builder.build().expect_err(problem).to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn nothing_is_dropped_for_which_there_is_no_column() {
        let outbox = Outbox::table("public.outboxevent").without("headers").without("key_seq").build();
        let outbox = outbox.expect("sound");
        let message = || Message::new("order", "1", "Placed").json(&1).expect("JSON");
        outbox.fits(&message()).expect("the content type goes without saying");
        for message in [message().header("tenant", "acme"), message().sequenced()] {
            outbox.fits(&message).expect_err("there is no column");
        }
    }
}
