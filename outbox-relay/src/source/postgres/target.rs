//! The replication connection's settings, from the database's URL.

use pgwire_replication::{SslMode, TlsConfig};
use std::collections::HashMap;
use std::path::PathBuf;

/// By which our connections are told from others'.
pub(super) const APPLICATION: &str = "outbox-relay";

/// Where to stream from.
#[derive(Clone)]
pub(super) struct Target {
    /// A name or an address, or the directory of a socket.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) password: String,
    pub(super) database: String,
    pub(super) tls: TlsConfig,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, port, user, database, .. } = self;
        write!(f, "Target(postgres://{user}:***@{host}:{port}/{database})")
    }
}

/// Reads it out of a URL. `None` if the URL does not say it all (a password from elsewhere, a URL without
/// a user): then the relay polls.
pub(super) fn parse(url: &str) -> Option<Target> {
    let (_, rest) = url.split_once("://")?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let parameters: HashMap<String, String> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| Some((name.to_owned(), decode(value)?)))
        .collect::<Option<_>>()?;
    let (login, place) = rest.rsplit_once('@')?;
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let (address, database) = place.split_once('/')?;
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (address, 5432),
    };
    let host = host.trim_matches(['[', ']']);
    Some(Target {
        host: decode(host)?,
        port,
        user: decode(user)?,
        password: decode(password)?,
        database: decode(database)?,
        tls: tls(&parameters)?,
    })
}

/// The same meaning of `sslmode` as the other connections have.
fn tls(parameters: &HashMap<String, String>) -> Option<TlsConfig> {
    let mode = parameters.get("sslmode").or_else(|| parameters.get("ssl-mode"));
    let authority =
        parameters.get("sslrootcert").or_else(|| parameters.get("ssl-root-cert")).map(PathBuf::from);
    match mode.map_or("prefer", String::as_str) {
        "disable" | "allow" => Some(TlsConfig::disabled()),
        "prefer" => Some(TlsConfig { mode: SslMode::Prefer, ..TlsConfig::default() }),
        "require" => Some(TlsConfig::require()),
        "verify-ca" => Some(TlsConfig::verify_ca(authority)),
        "verify-full" => Some(TlsConfig::verify_full(authority)),
        _ => None,
    }
}

/// Undoes the URL's percent encoding.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first == b'%' {
            let (hex, tail) = rest.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?);
            rest = tail;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_other_connections_read() {
        let target =
            parse("postgres://re%40lay:p%3Ass@db.example:6543/shop?sslmode=verify-full").expect("whole");
        assert_eq!((target.host.as_str(), target.port), ("db.example", 6543));
        assert_eq!((target.user.as_str(), target.password.as_str()), ("re@lay", "p:ss"));
        assert!(target.tls.mode.verifies_hostname());
        assert_eq!(parse("postgres://relay@[::1]/shop").expect("whole").host, "::1");
        assert!(!format!("{target:?}").contains("p:ss"));
        for url in ["postgres://localhost/shop", "postgres://relay@localhost", "postgres://a:%zz@h/d", "x"] {
            assert!(parse(url).is_none(), "{url}");
        }
    }
}
