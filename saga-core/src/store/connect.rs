//! A store from a URL.

use std::sync::Arc;

use super::error::{Error, Result};
use super::{Backend, MemoryStore};

/// Connects to the store that a URL names:
///
/// - `sqlite:path/to/file.db`, or just the path: created where it is missing, migrated by itself;
/// - `postgres://user:password@host/database`: its schema must have been migrated;
/// - `memory:`, which forgets everything with the process.
///
/// # Errors
///
/// [`Error::Unusable`] for a URL or a schema that cannot be used, [`Error::Unavailable`] for a database
/// that does not answer. The message names the URL without its password.
pub async fn connect(url: &str) -> Result<Backend> {
    let opened: Result<Backend> = match scheme(url) {
        Some("memory") => Ok(Arc::new(MemoryStore::new()).into()),
        #[cfg(feature = "postgres")]
        Some("postgres" | "postgresql") => {
            super::PostgresStore::connect(url).await.map(|store| Arc::new(store).into())
        }
        #[cfg(feature = "sqlite")]
        Some("sqlite") | None => super::SqliteStore::open(url).await.map(|store| Arc::new(store).into()),
        _ => Err(Error::Unusable("no store of this kind: use sqlite:, postgres:// or memory:".into())),
    };
    opened.map_err(|error| error.about(&redacted(url)))
}

/// What stands before the first `:`, unless it is a path.
fn scheme(url: &str) -> Option<&str> {
    let (scheme, _) = url.split_once(':')?;
    // `C:\sagas.db` is a path.
    let named = scheme.len() > 1 && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+');
    named.then_some(scheme)
}

/// The URL as it may be shown: without a password, wherever it stands.
pub(super) fn redacted(url: &str) -> String {
    let (head, parameters) = match url.split_once('?') {
        Some((head, parameters)) => (head, Some(parameters)),
        None => (url, None),
    };
    let mut shown = match (head.find("://"), head.rfind('@')) {
        (Some(scheme), Some(at)) if scheme + 3 <= at => {
            let user = &head[scheme + 3..at];
            let user = user.split_once(':').map_or(user.to_owned(), |(user, _)| format!("{user}:***"));
            format!("{}{user}{}", &head[..scheme + 3], &head[at..])
        }
        _ => head.to_owned(),
    };
    if let Some(parameters) = parameters {
        let shown_parameters = parameters.split('&').map(|pair| match pair.split_once('=') {
            Some((key, _)) if key.to_ascii_lowercase().contains("password") => format!("{key}=***"),
            _ => pair.to_owned(),
        });
        shown.push('?');
        shown.push_str(&shown_parameters.collect::<Vec<_>>().join("&"));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        for (url, shown) in [
            ("postgres://ann:s3cret@db/x", "postgres://ann:***@db/x"),
            (
                "postgres://ann:p@ss:w@db:5432/x?sslmode=require",
                "postgres://ann:***@db:5432/x?sslmode=require",
            ),
            ("postgres://db/x?user=ann&password=s3cret", "postgres://db/x?user=ann&password=***"),
            ("postgres://ann@db/x", "postgres://ann@db/x"),
            ("sqlite:orders.db", "sqlite:orders.db"),
        ] {
            assert_eq!(redacted(url), shown);
        }
    }

    #[test]
    fn a_path_needs_no_scheme() {
        assert_eq!(scheme("orders.db"), None);
        assert_eq!(scheme("/var/lib/a b/orders.db"), None);
        assert_eq!(scheme("C:\\orders.db"), None);
        assert_eq!(scheme("sqlite:orders.db"), Some("sqlite"));
        assert_eq!(scheme("mysql://db"), Some("mysql"));
    }

    #[tokio::test]
    async fn an_unknown_kind_is_named_without_its_password() {
        let error = connect("mysql://ann:s3cret@db/x").await.expect_err("there is no such store").to_string();
        assert!(error.contains("mysql://ann:***@db/x") && !error.contains("s3cret"), "{error}");
    }
}
