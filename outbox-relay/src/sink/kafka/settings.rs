//! What the producer is told, and why.

use crate::error::{Error, Result};
use rdkafka::ClientConfig;
use std::collections::BTreeMap;
use std::time::Duration;

/// How to reach the cluster and how to produce.
#[derive(Clone)]
pub struct KafkaSettings {
    /// `host:port,…`.
    pub brokers: String,
    /// For how long a record may be tried. Must be below the relay's lease, so that a relay that lost
    /// it has nothing left to send when the next one reads the topic's tail.
    pub message_timeout: Duration,
    /// The largest queue of records in the producer, in kibibytes.
    pub queue_kib: u32,
    /// Anything else librdkafka understands: `security.protocol`, `sasl.mechanism`, `sasl.username`,
    /// `ssl.ca.location`, `compression.type`, `linger.ms`, …
    pub properties: BTreeMap<String, String>,
}

/// What makes the relay's promises hold.
const FIXED: [(&str, &str); 2] = [("acks", "all"), ("enable.idempotence", "true")];

/// The names, librdkafka's second ones too, of what is fixed or has a setting of its own: such a property is refused.
const REFUSED: [&str; 5] =
    ["acks", "request.required.acks", "enable.idempotence", "message.timeout.ms", "delivery.timeout.ms"];

/// How many requests one broker is sent before it answers the first.
///
/// A broker works on one request of a connection at a time, so that a second one on its way keeps it busy; and while
/// both are under way the next ones grow, which spares either side more than a third request gains. Each holds a copy of
/// its records: with five of them the relay needed 3 to 4 MiB more and was no faster. A broker that is far and
/// has many partitions gains by more of them.
const IN_FLIGHT: &str = "2";

impl KafkaSettings {
    /// The default settings for these brokers.
    pub fn new(brokers: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            message_timeout: Duration::from_secs(6),
            queue_kib: 16 * 1024,
            properties: BTreeMap::new(),
        }
    }

    /// Sets one of librdkafka's properties.
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.insert(name.into(), value.into());
        self
    }

    /// The settings shared by everything that talks to this cluster.
    pub(crate) fn client(&self) -> Result<ClientConfig> {
        if self.brokers.trim().is_empty() {
            return Err(Error::Config("kafka: no brokers are given, host:port,…".into()));
        }
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers).set("client.id", "outbox-relay");
        for (name, value) in &self.properties {
            if REFUSED.contains(&name.as_str()) {
                return Err(Error::Config(format!(
                    "kafka: {name:?} cannot be set: the relay's guarantees rest on it"
                )));
            }
            config.set(name, value);
        }
        Ok(config)
    }

    pub(super) fn producer(&self) -> Result<ClientConfig> {
        let mut config = self.client()?;
        for (names, value) in [
            (["partitioner"; 2], "murmur2_random"),
            (["linger.ms", "queue.buffering.max.ms"], "0"),
            (["max.in.flight.requests.per.connection", "max.in.flight"], IN_FLIGHT),
            (["queue.buffering.max.messages"; 2], "200000"),
            (["queue.buffering.max.kbytes"; 2], &self.queue_kib.to_string()),
        ] {
            if !names.iter().any(|name| self.properties.contains_key(*name)) {
                config.set(names[0], value);
            }
        }
        for (name, value) in FIXED {
            config.set(name, value);
        }
        config.set("message.timeout.ms", self.message_timeout.as_millis().to_string());
        Ok(config)
    }

    /// A consumer that belongs to no group, with the same way to the cluster.
    pub(crate) fn reader(&self) -> Result<ClientConfig> {
        const PRODUCERS_ONLY: [&str; 8] = [
            "partitioner",
            "linger.ms",
            "compression.type",
            "compression.codec",
            "batch.size",
            "batch.num.messages",
            "queue.buffering.max.messages",
            "queue.buffering.max.kbytes",
        ];
        let mut config = self.client()?;
        for name in PRODUCERS_ONLY {
            config.remove(name);
        }
        config
            .set("group.id", "outbox-relay-reader")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_uncommitted")
            .set("enable.partition.eof", "true")
            .set("queued.max.messages.kbytes", "16384");
        Ok(config)
    }
}

impl std::fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown: BTreeMap<&str, &str> = self
            .properties
            .iter()
            .map(|(name, value)| (name.as_str(), if is_secret(name) { "***" } else { value }))
            .collect();
        f.debug_struct("KafkaSettings")
            .field("brokers", &self.brokers)
            .field("message_timeout", &self.message_timeout)
            .field("queue_kib", &self.queue_kib)
            .field("properties", &shown)
            .finish()
    }
}

/// Whether the value of a property of this name must not be shown.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["password", "secret", "token", "key.pem", "jaas", "sasl.oauthbearer.config"]
        .iter()
        .any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_promises_rest_on_cannot_be_changed_and_secrets_are_not_shown() {
        let settings = KafkaSettings::new("localhost:9092").property("acks", "1");
        let error = settings.producer().expect_err("refused");
        KafkaSettings::new("b:1")
            .property("delivery.timeout.ms", "1")
            .producer()
            .expect_err("by its second name");
        assert_eq!(error.to_string(), "kafka: \"acks\" cannot be set: the relay's guarantees rest on it");
        let settings = KafkaSettings::new("b:1")
            .property("sasl.password", "hunter2")
            .property("ssl.key.password", "hunter2")
            .property("linger.ms", "3");
        let shown = format!("{settings:?}");
        assert!(!shown.contains("hunter2") && shown.contains("linger.ms"), "{shown}");
        let config = settings.producer().expect("sound");
        assert_eq!(config.get("linger.ms"), Some("3"));
        assert_eq!(config.get("max.in.flight.requests.per.connection"), Some(IN_FLIGHT));
        let config = settings.property("max.in.flight", "5").producer().expect("sound");
        assert_eq!(
            config.get("max.in.flight.requests.per.connection"),
            None,
            "it is given by its second name"
        );
        assert_eq!(config.get("partitioner"), Some("murmur2_random"));
        assert_eq!(config.get("sasl.password"), Some("hunter2"), "the producer needs it");
        KafkaSettings::new(" ").producer().expect_err("no brokers");
    }
}
