//! Servers that ask who streams: passwords, certificates, sockets.

use outbox::Message;
use outbox_relay::{MemorySink, PostgresSource};
use sqlx::{AssertSqlSafe, Connection, PgConnection, query_scalar, raw_sql};
use std::time::Duration;
use tests::servers::Postgres;

use super::running::Running;

const TOPIC: &str = "outbox.event.order";

/// Of all roles. With what a URL has to encode, and a letter that is no ASCII.
const PASSWORD: &str = "it's p:ss/wörd@?";
const ENCODED: &str = "it%27s%20p%3Ass%2Fw%C3%B6rd%40%3F";

/// Who may come in how.
const RULES: &str = "local all all trust
host all postgres 127.0.0.1/32 trust
host all by_scram 127.0.0.1/32 scram-sha-256
host all by_password 127.0.0.1/32 password
hostssl all encrypted 127.0.0.1/32 scram-sha-256
";

const ROLES: [&str; 3] = ["by_scram", "by_password", "encrypted"];

/// A certificate for `localhost`, which signs nothing.
const CERTIFICATE: &str = "[req]
distinguished_name = name
x509_extensions = extensions
prompt = no
[name]
CN = localhost
[extensions]
subjectAltName = DNS:localhost
basicConstraints = CA:FALSE
";

/// Makes it of that, and a key.
const CERTIFY: &str =
    "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -config /dev/stdin -keyout server.key -out server.crt";

/// A server with an outbox that has these rules, roles and a certificate.
async fn guarded() -> (Postgres, PgConnection) {
    // In its own directory.
    let postgres = Postgres::start_with(&[("unix_socket_directories", ".")]).await;
    let mut operator = PgConnection::connect(&postgres.url()).await.unwrap();
    outbox::migrate(&mut operator).await.unwrap();
    let run = async |operator: &mut PgConnection, sql: String| {
        raw_sql(AssertSqlSafe(sql)).execute(operator).await.unwrap();
    };
    let lines = |text| format!("COPY (SELECT unnest(string_to_array('{text}', E'\\n'))) TO");
    // The server makes its files itself, so they are its own.
    run(&mut operator, format!("{} PROGRAM '{CERTIFY}'", lines(CERTIFICATE))).await;
    let rules: String = query_scalar("SHOW hba_file").fetch_one(&mut operator).await.unwrap();
    run(&mut operator, format!("{} '{rules}'", lines(RULES))).await;
    run(&mut operator, "ALTER SYSTEM SET ssl = on".into()).await;
    run(&mut operator, "SELECT pg_reload_conf()".into()).await;
    for role in ROLES {
        let password = PASSWORD.replace('\'', "''");
        run(&mut operator, format!("CREATE ROLE {role} SUPERUSER LOGIN PASSWORD '{password}'")).await;
    }
    let without_password = format!("postgres://by_scram@127.0.0.1:{}/postgres", postgres.port());
    while PgConnection::connect(&without_password).await.is_ok() {
        // The rules are read soon.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (postgres, operator)
}

async fn place(operator: &mut PgConnection) {
    outbox::enqueue(operator, Message::new("order", 7, "OrderPlaced").payload("{}")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_in_leads_to_the_stream() {
    let (postgres, mut operator) = guarded().await;
    let port = postgres.port();
    let home = tempfile::tempdir().unwrap();
    let authority = home.path().join("authority.pem");
    let certificate: String =
        query_scalar("SELECT pg_read_file('server.crt')").fetch_one(&mut operator).await.unwrap();
    std::fs::write(&authority, certificate).unwrap();
    let authority = authority.display();
    let sockets: String = query_scalar("SHOW data_directory").fetch_one(&mut operator).await.unwrap();
    let sockets = sockets.replace('/', "%2F");
    let by = |user: &str, rest: &str| format!("postgres://{user}:{ENCODED}@localhost:{port}/postgres{rest}");
    let ways = [
        (by("by_scram", "?sslmode=disable"), false),
        (by("by_password", "?sslmode=disable"), false),
        (by("by_scram", "?sslmode=require"), true),
        (by("encrypted", ""), true),
        (by("encrypted", &format!("?sslmode=verify-ca&sslrootcert={authority}")), true),
        (by("encrypted", &format!("?sslmode=verify-full&sslrootcert={authority}")), true),
        (format!("postgres://postgres@{sockets}:{port}/postgres"), false),
    ];
    let broker = MemorySink::new();
    for (count, (url, encrypted)) in ways.iter().enumerate() {
        let relay = Running::start(PostgresSource::connect(url).await.unwrap(), &broker);
        relay.until(async |stats| stats.is_streaming()).await;
        // The server takes a moment to notice that the one before has gone.
        let ssl =
            "SELECT coalesce(array_agg(ssl), '{}') FROM pg_stat_ssl JOIN pg_stat_replication USING (pid)";
        let mut found: Vec<bool> = Vec::new();
        while found.len() != 1 {
            found = query_scalar(ssl).fetch_one(&mut operator).await.unwrap();
        }
        assert_eq!(found, [*encrypted], "{url}");
        place(&mut operator).await;
        relay.until(async |_| broker.ids(TOPIC).len() > count).await;
        relay.stop().await;
    }
}
