//! A store from a URL.

use std::sync::Arc;

use super::{Store, StoreError, StoreErrorKind};

/// Connects to the store that `url` names:
///
/// - `sqlite:keys.db` (created if it is missing) or `sqlite::memory:`
/// - `postgres://user@host/database`
/// - `redis://host`, `rediss://host`, `redis-cluster://host1,host2`, `redis-sentinel://host1,host2/master`
/// - `memory:` for tests
///
/// The schema is brought up to date, and unsafe settings of the server are refused by name.
pub async fn connect(url: &str) -> Result<Arc<dyn Store>, StoreError> {
    let scheme = url.split(':').next().unwrap_or_default();
    match scheme {
        "memory" => Ok(Arc::new(super::MemoryStore::new())),
        #[cfg(feature = "sqlite")]
        "sqlite" => Ok(Arc::new(super::SqliteStore::connect(url).await?)),
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" => Ok(Arc::new(super::PostgresStore::connect(url).await?)),
        #[cfg(feature = "redis")]
        "redis" | "rediss" | "redis-cluster" | "redis-sentinel" => {
            Ok(Arc::new(super::RedisStore::connect(url).await?))
        }
        _ => Err(StoreError::new(
            StoreErrorKind::Settings,
            format!(
                "no store for a URL that begins with {scheme:?}: give sqlite:…, postgres://…, redis://… or \
                 memory:, and build with that store's feature"
            ),
        )),
    }
}
