//! The address of a server as it may be shown: messages end up in logs, and passwords must not.

/// Scheme, host, port and path of a URL, without user, password and parameters. Where it is not plain which is
/// which, only the scheme.
pub fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.split_once(':').map_or_else(|| url.to_owned(), |(scheme, _)| format!("{scheme}:…"));
    };
    let (place, parameters) = rest.split_once(['?', '#']).unwrap_or((rest, ""));
    match place.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{host}"),
        // A password may hold a question mark.
        None if parameters.contains('@') => format!("{scheme}://…"),
        None => format!("{scheme}://{place}"),
    }
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn nothing_secret_is_shown() {
        for (url, expected) in [
            ("postgres://ann:s3cret@db:5432/shop?sslmode=require", "postgres://db:5432/shop"),
            ("redis://:s3cret@127.0.0.1:6379", "redis://127.0.0.1:6379"),
            ("postgres://ann:s3@cret@db/shop", "postgres://db/shop"),
            ("postgres://ann:s3?cret@db/shop", "postgres://…"),
            ("postgres://db/shop?password=s3cret", "postgres://db/shop"),
            ("postgres://db/shop?password=s3@cret", "postgres://…"),
            ("sqlite:keys.db", "sqlite:…"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(shown(url), expected);
        }
    }
}
