//! What can go wrong with a store, by what may be done about it.

/// The outcome of a store verb.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a verb failed, by what may be done about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It had no effect and may work later: no connection, a lock timeout, a serialization failure, a
    /// deadlock, too many connections, a server that shuts down or is read-only.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The connection broke before the answer: repeat it.
    #[error("the store's answer was lost: {0}")]
    Unknown(String),
    /// The database refused the data itself: one of the batch is at fault, and no repetition helps.
    #[error("the store refused the data: {0}")]
    Refused(String),
    /// The worker's epoch was moved on: another took over, nothing was written, the worker must stop.
    #[error("this worker was fenced: another has taken over its sagas")]
    Fenced,
    /// A step's code has ended the transaction that it was lent, so its rows may be there without the saga's
    /// journal.
    #[error("the step's code ended its transaction by itself: {0}")]
    Misused(String),
    /// The store is not what this version expects: its schema is missing, older or newer.
    #[error("the store cannot be used: {0}")]
    Unusable(String),
}

impl Error {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Unknown(_))
    }

    /// The same, naming what it is about.
    pub(super) fn about(self, what: &str) -> Self {
        match self {
            Self::Unavailable(why) => Self::Unavailable(format!("{what}: {why}")),
            Self::Unknown(why) => Self::Unknown(format!("{what}: {why}")),
            Self::Refused(why) => Self::Refused(format!("{what}: {why}")),
            Self::Unusable(why) => Self::Unusable(format!("{what}: {why}")),
            Self::Misused(why) => Self::Misused(format!("{what}: {why}")),
            Self::Fenced => Self::Fenced,
        }
    }
}
