//! The settings: defaults, then the file, then the environment.

use super::{Failed, duration};
use figment::Figment;
use figment::providers::{Env, Format as _, Serialized, Toml};
use outbox_relay::source::postgres::Table;
use outbox_relay::{KafkaSettings, RelaySettings, Routes};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Config {
    pub(super) source: Source,
    pub(super) kafka: Kafka,
    pub(super) relay: Relay,
    pub(super) routes: Routes,
    pub(super) http: Http,
    pub(super) log: Log,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Source {
    /// `postgres://user:password@host/database` or `sqlite:/path/to/file`.
    pub(super) url: String,
    /// Postgres: the table, `schema.table`.
    pub(super) table: String,
    /// Postgres: what columns are called there, by their names in `outbox.event`.
    pub(super) columns: HashMap<String, String>,
    /// The longest wait between two looks for new events.
    #[serde(with = "duration")]
    pub(super) poll: Duration,
    /// Postgres: whether to stream from the write-ahead log where the server allows it.
    pub(super) stream: bool,
    /// Postgres: whether to listen for `outbox::Notifier`.
    pub(super) listen: bool,
    /// Postgres: whether a pooler such as PgBouncer lends the sessions, one transaction at a time. Then the relay
    /// neither streams nor listens.
    pub(super) pooled: bool,
    /// Postgres, a table without `seq` and `xid`: the replication slot to read; "" for one of our own.
    pub(super) slot: String,
    /// Postgres: the publication to stream; "" for one of our own.
    pub(super) publication: String,
    /// Postgres: how long done rows are kept, for `replay` and `verify`.
    #[serde(with = "duration")]
    pub(super) keep: Duration,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Kafka {
    pub(super) brokers: String,
    #[serde(with = "duration")]
    pub(super) message_timeout: Duration,
    pub(super) queue_kib: u32,
    /// librdkafka's own properties: TLS, SASL, compression.
    pub(super) properties: BTreeMap<String, Property>,
}

/// A property's value, however it was written.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub(super) enum Property {
    Text(String),
    Number(i64),
    Fraction(f64),
    Truth(bool),
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Relay {
    #[serde(with = "duration")]
    pub(super) lease: Duration,
    pub(super) window_events: usize,
    pub(super) window_bytes: usize,
    pub(super) page_events: usize,
    #[serde(with = "duration")]
    pub(super) refused_for: Duration,
    #[serde(with = "duration")]
    pub(super) drain: Duration,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Http {
    /// Where `/livez`, `/readyz` and `/metrics` are answered.
    pub(super) listen: Option<SocketAddr>,
    /// Allows an address beyond this machine; the answers hold numbers only, and need no login.
    pub(super) beyond_loopback: bool,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Log {
    /// As RUST_LOG: `info`, `outbox_relay=debug`, …
    pub(super) level: String,
    pub(super) json: bool,
}

impl Default for Source {
    fn default() -> Self {
        Self {
            url: String::new(),
            table: Table::default().name,
            columns: HashMap::new(),
            poll: Duration::from_millis(20),
            stream: true,
            listen: true,
            pooled: false,
            slot: String::new(),
            publication: String::new(),
            keep: Duration::ZERO,
        }
    }
}

impl Default for Kafka {
    fn default() -> Self {
        let defaults = KafkaSettings::new("");
        Self {
            brokers: defaults.brokers,
            message_timeout: defaults.message_timeout,
            queue_kib: defaults.queue_kib,
            properties: BTreeMap::new(),
        }
    }
}

impl Default for Relay {
    fn default() -> Self {
        let RelaySettings { lease, window_events, window_bytes, page_events, refused_for, drain, .. } =
            RelaySettings::default();
        Self { lease, window_events, window_bytes, page_events, refused_for, drain }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: Some(SocketAddr::from(([127, 0, 0, 1], 9464))), beyond_loopback: false }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), json: false }
    }
}

impl Config {
    pub(super) fn load(file: Option<&Path>) -> Result<Self, Failed> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        let default_file = Path::new("outbox-relay.toml");
        if let Some(file) = file {
            if !file.is_file() {
                return Err(format!("the settings file {} does not exist", file.display()).into());
            }
            figment = figment.merge(Toml::file_exact(file));
        } else if default_file.is_file() {
            figment = figment.merge(Toml::file_exact(default_file));
        }
        let environment = Env::prefixed("OUTBOX_RELAY_").ignore(&["CONFIG"]).split("__");
        let config: Self = figment.merge(environment).extract().map_err(|error| one_line(&error))?;
        config.sound()
    }

    /// Checks what can be checked without connecting.
    fn sound(mut self) -> Result<Self, Failed> {
        if let Some(listen) = self.http.listen
            && !listen.ip().is_loopback()
            && !self.http.beyond_loopback
        {
            return Err(format!(
                "http.listen = \"{listen}\" can be reached from other machines without a login: use 127.0.0.1, or \
                 allow it with http.beyond_loopback = true"
            )
            .into());
        }
        // Environment variables have no dots.
        let undotted = |name: String| if name.contains('.') { name } else { name.replace('_', ".") };
        self.kafka.properties =
            self.kafka.properties.into_iter().map(|(name, value)| (undotted(name), value)).collect();
        Ok(self)
    }

    pub(super) fn kafka(&self) -> KafkaSettings {
        let mut settings = KafkaSettings::new(&self.kafka.brokers);
        settings.message_timeout = self.kafka.message_timeout;
        settings.queue_kib = self.kafka.queue_kib;
        for (name, value) in &self.kafka.properties {
            settings.properties.insert(name.clone(), value.to_string());
        }
        settings
    }

    pub(super) fn relay(&self) -> RelaySettings {
        let Relay { lease, window_events, window_bytes, page_events, refused_for, drain } = self.relay;
        let routes = self.routes.clone();
        let defaults = RelaySettings::default();
        RelaySettings {
            lease,
            window_events,
            window_bytes,
            page_events,
            refused_for,
            drain,
            routes,
            ..defaults
        }
    }

    pub(super) fn table(&self) -> Table {
        Table { name: self.source.table.clone(), columns: self.source.columns.clone() }
    }
}

impl std::fmt::Display for Property {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => write!(f, "{number}"),
            Self::Fraction(number) => write!(f, "{number}"),
            Self::Truth(truth) => write!(f, "{truth}"),
        }
    }
}

/// The first error in one line that names the setting and where it comes from.
fn one_line(error: &figment::Error) -> Failed {
    let setting = error.path.join(".");
    let origin = error.metadata.as_ref().map(|metadata| match &metadata.source {
        Some(source) => format!(" in {source}"),
        None => format!(" in {}", metadata.name),
    });
    let setting = if setting.is_empty() { String::new() } else { format!("setting {setting}: ") };
    format!("{setting}{}{}", error.kind, origin.unwrap_or_default()).into()
}
