//! What can go wrong, and what to do about it.

/// The result of everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the relay, the consumer or one of the verbs did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration cannot work; a person must change it.
    #[error("{0}")]
    Config(String),

    /// Another relay has taken the lease since; nothing was acknowledged.
    #[error("another relay has taken over {outbox:?}: epoch {epoch} is fenced")]
    Fenced {
        /// The outbox.
        outbox: String,
        /// The epoch that is no longer the current one.
        epoch: i64,
    },

    /// The topic is not the one that this group has read so far; going on would skip or repeat.
    #[error("{0}")]
    OtherTopic(String),

    /// The outbox or inbox tables.
    #[error(transparent)]
    Outbox(#[from] outbox::Error),

    /// The database refused or did not answer.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),

    /// The broker or its client.
    #[error("kafka: {0}")]
    Kafka(#[from] rdkafka::error::KafkaError),

    /// The producer is beyond repair and is replaced.
    #[error("kafka producer: {0}")]
    ProducerDead(String),

    /// The replication stream ended.
    #[error("replication: {0}")]
    Replication(String),

    /// A stored value does not read back; somebody else wrote it.
    #[error("{what} does not read back: {problem}")]
    Corrupt {
        /// Which stored thing.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl Error {
    /// Whether trying again later may help. What is not transient needs a person.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Config(_) | Self::OtherTopic(_) | Self::Corrupt { .. } => false,
            Self::Fenced { .. } | Self::ProducerDead(_) | Self::Replication(_) | Self::Kafka(_) => true,
            Self::Outbox(outbox::Error::Database(error)) | Self::Database(error) => {
                database_is_transient(error)
            }
            Self::Outbox(outbox::Error::Fenced { .. }) => true,
            Self::Outbox(_) => false,
        }
    }
}

/// A refused statement stays refused (a missing table, a missing right), except for what Postgres
/// says of itself (shutting down, out of connections), of locks, and of a standby that was promoted.
fn database_is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Configuration(_) | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => false,
        sqlx::Error::Database(database) => database.code().is_none_or(|code| {
            let class = code.get(..2).unwrap_or_default();
            !matches!(class, "42" | "28" | "3D" | "3F" | "22" | "23")
        }),
        _ => true,
    }
}
