//! The source that the settings name.

use super::Failed;
use super::config::Config;
use outbox_relay::source::Source;
use outbox_relay::{PostgresSource, SqliteSource};
use std::sync::Arc;

/// Which database, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    Postgres(&'a str),
    Sqlite(&'a str),
}

pub(super) fn kind(config: &Config) -> Result<Kind<'_>, Failed> {
    let url = config.source.url.as_str();
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        return Ok(Kind::Postgres(url));
    }
    if let Some(path) = url.strip_prefix("sqlite:") {
        return Ok(Kind::Sqlite(path.strip_prefix("//").unwrap_or(path)));
    }
    Err(if url.is_empty() {
        "source.url is not set: postgres://user@host/database or sqlite:/path/to/file".into()
    } else {
        "source.url must begin with postgres:// or sqlite:".into()
    })
}

pub(super) async fn postgres(config: &Config) -> Result<PostgresSource, Failed> {
    match kind(config)? {
        Kind::Postgres(url) => {
            config.table().check()?;
            Ok(fitted(connect(url, config.source.pooled).await?, config))
        }
        Kind::Sqlite(_) => Err("this verb works on Postgres only: SQLite keeps no rows that are done".into()),
    }
}

async fn connect(url: &str, pooled: bool) -> Result<PostgresSource, outbox_relay::Error> {
    if pooled { PostgresSource::connect_pooled(url).await } else { PostgresSource::connect(url).await }
}

fn fitted(source: PostgresSource, config: &Config) -> PostgresSource {
    let given = &config.source;
    let mut source = source.table(config.table()).poll_every(given.poll).keep(given.keep);
    source = if given.stream { source } else { source.never_stream() };
    source = if given.listen { source } else { source.never_listen() };
    source = if given.slot.is_empty() { source } else { source.slot(&given.slot) };
    if given.publication.is_empty() { source } else { source.publication(&given.publication) }
}

pub(super) async fn open(config: &Config) -> Result<Arc<dyn Source>, Failed> {
    Ok(match kind(config)? {
        Kind::Postgres(_) => Arc::new(postgres(config).await?),
        Kind::Sqlite(path) => Arc::new(SqliteSource::open(path).await?.poll_every(config.source.poll)),
    })
}
