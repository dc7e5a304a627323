//! What is wrong with a row that a writer filled by mistake.
//!
//! Writers in any language fill the table. A row that is no event must not stop the others: it is read as
//! far as it goes, with its defect, and parked with that as the reason.

use uuid::Uuid;

/// Collects what is wrong with one row; the first defect is told.
#[derive(Debug, Default)]
pub(crate) struct Defects {
    first: Option<String>,
}

impl Defects {
    /// The first defect, when all columns have been read.
    pub(crate) fn first(&mut self) -> Option<String> {
        self.first.take()
    }

    /// What a column holds, if that is of the type that it should be.
    ///
    /// # Errors
    ///
    /// If there is no such column.
    pub(crate) fn value<T>(
        &mut self,
        column: &str,
        value: sqlx::Result<Option<T>>,
    ) -> sqlx::Result<Option<T>> {
        match value {
            Err(sqlx::Error::ColumnDecode { source, .. }) => {
                self.note(|| format!("the {column} cannot be read: {source}"));
                Ok(None)
            }
            value => value,
        }
    }

    /// The event's id, from its text.
    pub(crate) fn id(&mut self, text: Option<&[u8]>) -> Uuid {
        let Some(text) = text else { return self.missing("id") };
        Uuid::try_parse_ascii(text).unwrap_or_else(|error| {
            self.note(|| format!("the id is no UUID: {error}"));
            Uuid::nil()
        })
    }

    /// A column that every event has.
    pub(crate) fn name<'a>(&mut self, column: &str, text: Option<&'a str>) -> &'a str {
        text.unwrap_or_else(|| self.missing(column))
    }

    /// Headers as they are stored: a JSON object of strings. Other values are published as JSON text.
    pub(crate) fn headers(&mut self, text: Option<&str>) -> Vec<(String, String)> {
        let Some(text) = text else { return Vec::new() };
        let as_text = |value| match value {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text) {
            Ok(object) => object.into_iter().map(|(name, value)| (name, as_text(value))).collect(),
            Err(error) => {
                self.note(|| format!("the headers are no JSON object: {error}"));
                Vec::new()
            }
        }
    }

    fn missing<T: Default>(&mut self, column: &str) -> T {
        self.note(|| format!("the row has no {column}"));
        T::default()
    }

    fn note(&mut self, defect: impl FnOnce() -> String) {
        self.first.get_or_insert_with(defect);
    }
}
