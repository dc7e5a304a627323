//! What can go wrong with a store, by whose fault it is.

use std::error::Error;
use std::fmt;

/// A store's refusal. Nothing is known about whether the operation took effect, unless the kind says so.
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    what: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// Whose fault it is, and what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// The store cannot be reached, or is overloaded: try again later.
    Unavailable,
    /// The settings are wrong or unsafe: a person must change them.
    Settings,
    /// What is stored cannot be read: written by a newer release, or damaged.
    Corrupt,
}

impl StoreError {
    /// A new one; `what` names the thing and says what to do.
    pub fn new(kind: StoreErrorKind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), source: None }
    }

    /// With what caused it.
    pub fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Whose fault it is.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    #[cfg_attr(
        not(any(feature = "postgres", feature = "sqlite", feature = "redis")),
        allow(dead_code, reason = "for stores")
    )]
    pub(crate) fn unavailable(store: &str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(StoreErrorKind::Unavailable, format!("the {store} store did not answer")).caused_by(source)
    }

    #[cfg_attr(
        not(any(feature = "postgres", feature = "sqlite", feature = "redis")),
        allow(dead_code, reason = "for stores")
    )]
    pub(crate) fn corrupt(store: &str, what: &str) -> Self {
        Self::new(
            StoreErrorKind::Corrupt,
            format!(
                "a row in the {store} store has an unreadable {what}: was it written by a newer release?"
            ),
        )
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as &(dyn Error + 'static))
    }
}
