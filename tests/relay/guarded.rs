//! A broker that asks who is there, and what he may do.

use std::time::Duration;

use outbox::Message;
use outbox_relay::sink::kafka::Reader;
use outbox_relay::tokio_util::sync::CancellationToken;
use outbox_relay::{KafkaSettings, KafkaSink, PostgresSource, Relay, RelaySettings};
use sqlx::{Connection, PgConnection};
use tests::servers::Kafka;
use tests::servers::kafka::guarded::{PASSWORD, STRANGER, USER};
use tests::servers::postgres::fresh_database;

use super::LEASE;

const TOPIC: &str = "outbox.event.order";

fn plain(kafka: &Kafka, user: &str) -> KafkaSettings {
    KafkaSettings::new(kafka.guarded_bootstrap())
        .property("security.protocol", "SASL_PLAINTEXT")
        .property("sasl.mechanism", "PLAIN")
        .property("sasl.username", user)
        .property("sasl.password", PASSWORD)
}

/// Publishes an event with these settings, and reads it where nobody asks.
async fn publishes(kafka: &Kafka, settings: KafkaSettings) {
    let database = fresh_database().await;
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    outbox::migrate(&mut connection).await.unwrap();
    let event = Message::new("order", 7, "OrderPlaced").payload("{}");
    let id = event.event_id();
    outbox::enqueue(&mut connection, event).await.unwrap();
    let source = PostgresSource::connect(database.url()).await.unwrap();
    let settings = KafkaSettings { message_timeout: Duration::from_secs(2), ..settings };
    let stop = CancellationToken::new();
    let relay = Relay::new(source, KafkaSink::with_settings(settings).unwrap())
        .settings(RelaySettings { lease: LEASE, ..RelaySettings::default() });
    let relay = tokio::spawn(relay.run(stop.clone()));
    let reader = Reader::new(KafkaSettings::new(kafka.bootstrap()));
    while !reader.events(&[TOPIC.to_owned()]).await.unwrap().iter().any(|event| event.id == id) {
        assert!(!relay.is_finished(), "{:?}", relay.await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.cancel();
    relay.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_asked_for_and_rights_are_looked_at() {
    let kafka = Kafka::start_guarded().await;
    kafka.create_topic(TOPIC, 2).await;
    let topics = [TOPIC.to_owned(), "outbox.event.none".to_owned()];
    let examine = async |settings: KafkaSettings| -> Vec<String> {
        Reader::new(settings).examine(&topics).await.iter().map(ToString::to_string).collect()
    };
    let fine = examine(plain(&kafka, USER)).await;
    assert!(
        fine[1].starts_with("ok      the topic outbox.event.order can be read and written to; 2 part"),
        "{fine:?}"
    );
    assert!(fine[2].starts_with("warning the topic outbox.event.none is not there"), "{fine:?}");
    publishes(&kafka, plain(&kafka, USER)).await;
    let reader = Reader::new(KafkaSettings::new(kafka.bootstrap()));
    let written = reader.events(&[TOPIC.to_owned()]).await.unwrap().len();
    assert_eq!(written, 1, "looking has written nothing");

    let stranger = examine(plain(&kafka, STRANGER)).await;
    assert!(stranger[1].starts_with("PROBLEM this principal may not describe the topic"), "{stranger:?}");
    assert!(
        stranger[1].contains("kafka-acls --add --operation Describe --topic outbox.event.order"),
        "{stranger:?}"
    );

    let wrong = examine(plain(&kafka, USER).property("sasl.password", "wrong")).await;
    assert!(wrong[0].starts_with("PROBLEM Kafka at localhost:"), "{wrong:?}");
    assert!(wrong[0].contains("the credentials"), "{wrong:?}");
}

/// Needs a librdkafka with OpenSSL: `cargo test -p tests --features tls guarded`.
#[cfg(feature = "tls")]
mod tls {
    use super::*;
    use axum::Json;
    use axum::routing::post;
    use base64::Engine as _;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use serde_json::json;

    fn tls(kafka: &Kafka, mechanism: &str) -> KafkaSettings {
        KafkaSettings::new(kafka.guarded_bootstrap())
            .property("security.protocol", "SASL_SSL")
            .property("ssl.ca.location", kafka.certificate().display().to_string())
            .property("sasl.mechanism", mechanism)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_mechanism_publishes_over_tls() {
        let kafka = Kafka::start_guarded_by_tls().await;
        kafka.create_topic(TOPIC, 2).await;
        for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
            let settings = tls(&kafka, mechanism).property("sasl.username", USER);
            publishes(&kafka, settings.property("sasl.password", PASSWORD)).await;
        }
        let unsecured = tls(&kafka, "OAUTHBEARER")
            .property("enable.sasl.oauthbearer.unsecure.jwt", "true")
            .property("sasl.oauthbearer.config", format!("principal={USER}"));
        publishes(&kafka, unsecured).await;
        let oidc = tls(&kafka, "OAUTHBEARER")
            .property("sasl.oauthbearer.method", "oidc")
            .property("sasl.oauthbearer.client.id", USER)
            .property("sasl.oauthbearer.client.secret", PASSWORD)
            .property("sasl.oauthbearer.token.endpoint.url", token_endpoint().await);
        publishes(&kafka, oidc).await;
        let compressed =
            tls(&kafka, "PLAIN").property("sasl.username", USER).property("compression.type", "zstd");
        publishes(&kafka, compressed.property("sasl.password", PASSWORD)).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_broker_with_a_certificate_of_nobody_is_not_talked_to() {
        let kafka = Kafka::start_guarded_by_tls().await;
        let mut settings =
            tls(&kafka, "PLAIN").property("sasl.username", USER).property("sasl.password", PASSWORD);
        settings.properties.remove("ssl.ca.location");
        let found = Reader::new(settings).examine(&[]).await[0].to_string();
        assert!(found.starts_with("PROBLEM"), "{found}");
    }

    /// Gives tokens that nobody has signed, which is what this broker believes.
    async fn token_endpoint() -> String {
        async fn token() -> Json<serde_json::Value> {
            let now = chrono::Utc::now().timestamp();
            let part = |json: serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
            let claims = part(json!({ "sub": USER, "iat": now, "exp": now + 300 }));
            let token = format!("{}.{claims}.", part(json!({ "alg": "none" })));
            Json(json!({ "access_token": token, "token_type": "Bearer", "expires_in": 300 }))
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = axum::Router::new().route("/token", post(token));
        tokio::spawn(async move { axum::serve(listener, app).await });
        format!("http://{address}/token")
    }
}
