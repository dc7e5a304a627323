//! The program itself, as an operator has it: over the files of `examples/debezium`, against real servers.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Headers as _;
use rdkafka::{ClientConfig, Message as _};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection, PgConnection, query, query_scalar, raw_sql};
use tests::servers::postgres::{Database, fresh_database};
use tests::servers::{Kafka, free_port};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

const TOPIC: &str = "outbox.event.order";

/// The program, built as the tests are, with all that it can do.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "-p", "outbox-relay", "--features", "otlp", "--bin", "outbox-relay"])
            .status()
            .expect("cargo can be started");
        assert!(built.success(), "the sidecar does not build");
        let tests = std::env::current_exe().expect("this program has a path");
        tests.ancestors().nth(2).expect("it lies in target/…/deps").join("outbox-relay")
    })
}

fn example(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/debezium").join(file)
}

pub(super) struct Sidecar {
    settings: Vec<(&'static str, String)>,
}

impl Sidecar {
    pub(super) fn new(database: &Database, kafka: &Kafka) -> Self {
        let settings = vec![
            ("OUTBOX_RELAY_CONFIG", example("outbox-relay.toml").display().to_string()),
            ("OUTBOX_RELAY_SOURCE__URL", database.url().to_owned()),
            ("OUTBOX_RELAY_KAFKA__BROKERS", kafka.bootstrap()),
        ];
        Self { settings }
    }

    pub(super) fn set(mut self, name: &'static str, value: &str) -> Self {
        self.settings.push((name, value.to_owned()));
        self
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .args(words)
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Runs a verb to its end.
    pub(super) async fn run(&self, words: &[&str]) -> (bool, String) {
        let mut command = self.command(words);
        let Output { status, stdout, stderr } =
            tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        (status.success(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
    }

    /// Runs a verb that must succeed.
    pub(super) async fn does(&self, words: &[&str]) -> String {
        let (success, text) = self.run(words).await;
        assert!(success, "{words:?}: {text}");
        text
    }
}

/// `outbox-relay run`, until it is dropped.
pub(super) struct Running {
    process: Child,
    port: u16,
}

impl Running {
    pub(super) async fn start(sidecar: &Sidecar) -> Self {
        let port = free_port();
        let mut command = sidecar.command(&["run"]);
        command.env("OUTBOX_RELAY_HTTP__LISTEN", format!("127.0.0.1:{port}"));
        let running = Self { process: command.spawn().unwrap(), port };
        while running.get("/readyz").await.is_none_or(|answer| !answer.contains("leads")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        running
    }

    pub(super) async fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    }

    pub(super) async fn until_metric(&self, line: &str) {
        while !self.get("/metrics").await.is_some_and(|text| text.lines().any(|found| found == line)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// SIGTERM, and how it ends.
    pub(super) async fn terminate(mut self) -> bool {
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
        tokio::task::spawn_blocking(move || self.process.wait().unwrap().success()).await.unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A consumer that was written for Debezium's event router: header `id`, key and value.
pub(super) fn consumer_of_debezium(kafka: &Kafka) -> BaseConsumer {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka.bootstrap())
        .set("group.id", "shipping")
        .set("auto.offset.reset", "earliest")
        .create()
        .unwrap();
    consumer.subscribe(&[TOPIC]).unwrap();
    consumer
}

pub(super) fn consume(consumer: &BaseConsumer) -> (Uuid, String, String) {
    let record = loop {
        if let Some(record) = consumer.poll(Duration::from_secs(60)) {
            break record.unwrap();
        }
    };
    let headers = record.headers().unwrap();
    let id = headers.iter().find(|header| header.key == "id").and_then(|header| header.value).unwrap();
    let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
    (text(Some(id)).parse().unwrap(), text(record.key()), text(record.payload()))
}

/// The service, which knows nothing of any of this.
pub(super) async fn place(connection: &mut PgConnection, n: i64) -> Uuid {
    let id = Uuid::new_v4();
    query("INSERT INTO outboxevent VALUES ($1, 'order', '7', 'OrderPlaced', jsonb_build_object('n', $2::bigint))")
        .bind(id)
        .bind(n)
        .execute(connection)
        .await
        .unwrap();
    id
}

pub(super) async fn shop() -> (Database, PgConnection, Kafka) {
    let (database, kafka) = tokio::join!(fresh_database(), Kafka::start());
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    let table = std::fs::read_to_string(example("table.sql")).unwrap();
    raw_sql(sqlx::AssertSqlSafe(table)).execute(&mut connection).await.unwrap();
    kafka.create_topic(TOPIC, 3).await;
    (database, connection, kafka)
}

#[tokio::test(flavor = "multi_thread")]
async fn debezium_is_replaced_without_touching_table_or_consumer() {
    let (database, mut connection, kafka) = shop().await;
    let sidecar = Sidecar::new(&database, &kafka);
    // Debezium's own slot, which it has left behind with an event that it did not publish.
    raw_sql("CREATE PUBLICATION dbz_publication FOR ALL TABLES").execute(&mut connection).await.unwrap();
    query("SELECT pg_create_logical_replication_slot('debezium', 'pgoutput')")
        .execute(&mut connection)
        .await
        .unwrap();
    let left = place(&mut connection, 0).await;
    let sidecar = sidecar
        .set("OUTBOX_RELAY_SOURCE__SLOT", "debezium")
        .set("OUTBOX_RELAY_SOURCE__PUBLICATION", "dbz_publication");

    sidecar.does(&["migrate", "--own"]).await;
    let doctor = sidecar.does(&["doctor"]).await;
    assert!(doctor.contains("has no columns seq and xid: it is only streamed"), "{doctor}");
    assert!(doctor.contains("nothing bounds the log that the slot debezium may keep"), "{doctor}");
    let running = Running::start(&sidecar).await;
    let placed = place(&mut connection, 1).await;
    let consumer = consumer_of_debezium(&kafka);
    assert_eq!(consume(&consumer), (left, "7".into(), r#"{"n": 0}"#.into()));
    assert_eq!(consume(&consumer), (placed, "7".into(), r#"{"n": 1}"#.into()));
    assert!(running.terminate().await, "it drains and leaves");
    assert_eq!(columns(&mut connection).await, 5, "as it was");
}

async fn columns(connection: &mut PgConnection) -> i64 {
    let columns = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'outboxevent'";
    query_scalar(columns).fetch_one(connection).await.unwrap()
}

/// Debezium's readers keep their rows, and its consumers have no inbox.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_were_published_by_another_are_not_published_again() {
    let (database, mut connection, kafka) = shop().await;
    let sidecar = Sidecar::new(&database, &kafka);
    for n in 0..3 {
        place(&mut connection, n).await;
    }
    let (fine, refused) = sidecar.run(&["migrate"]).await;
    assert!(!fine && refused.contains("3 rows"), "{refused}");
    assert!(
        refused.contains("--existing-are-published") && refused.contains("--publish-existing"),
        "{refused}"
    );
    assert_eq!(columns(&mut connection).await, 5, "nothing was done to it");

    // One has begun before, and writes afterwards.
    let mut late = PgConnection::connect(database.url()).await.unwrap();
    raw_sql("BEGIN; SELECT pg_current_xact_id()").execute(&mut late).await.unwrap();
    sidecar.does(&["migrate", "--existing-are-published"]).await;
    let written = [place(&mut late, 3).await, place(&mut connection, 4).await];
    raw_sql("COMMIT").execute(&mut late).await.unwrap();
    let running = Running::start(&sidecar).await;
    let consumer = consumer_of_debezium(&kafka);
    let mut consumed = [consume(&consumer).0, consume(&consumer).0];
    consumed.sort_unstable();
    let mut expected = written;
    expected.sort_unstable();
    assert_eq!(consumed, expected);
    let again = sidecar.does(&["migrate", "--existing-are-published"]).await;
    assert!(again.contains("has what polling needs already"), "{again}");
    assert!(running.terminate().await, "it drains and leaves");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_published_to_those_who_ask_for_it() {
    let (database, mut connection, kafka) = shop().await;
    let sidecar = Sidecar::new(&database, &kafka);
    let placed = [place(&mut connection, 0).await, place(&mut connection, 1).await];
    sidecar.does(&["migrate", "--publish-existing"]).await;
    let running = Running::start(&sidecar).await;
    let consumer = consumer_of_debezium(&kafka);
    assert_eq!([consume(&consumer).0, consume(&consumer).0], placed);
    assert!(running.terminate().await, "it drains and leaves");
}

/// What a slot's relay has published, and what an operator has dropped, stays so.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_read_through_a_slot_becomes_one_that_is_polled() {
    let (database, mut connection, kafka) = shop().await;
    let sidecar = Sidecar::new(&database, &kafka);
    sidecar.does(&["migrate", "--own"]).await;
    let running = Running::start(&sidecar).await;
    running.until_metric("outbox_streaming 1").await;
    query("INSERT INTO outboxevent VALUES (gen_random_uuid(), 'no topic', 'x', 'OrderPlaced', '{}')")
        .execute(&mut connection)
        .await
        .unwrap();
    let consumer = consumer_of_debezium(&kafka);
    let first = place(&mut connection, 1).await;
    assert_eq!(consume(&consumer).0, first);
    running.until_metric("outbox_parked_keys 1").await;
    while !sidecar.does(&["parked", "drop", "--all"]).await.contains("1 events dropped") {}
    running.until_metric("outbox_parked_keys 0").await;

    let told = sidecar.does(&["migrate", "--existing-are-published"]).await;
    assert!(told.contains("confirmed_flush_lsn"), "it says how far the slot must be read: {told}");
    let second = place(&mut connection, 2).await;
    assert_eq!(consume(&consumer).0, second);
    assert!(running.terminate().await, "it drains and leaves");
    let running = Running::start(&sidecar).await;
    let third = place(&mut connection, 3).await;
    assert_eq!(consume(&consumer).0, third);
    assert!(sidecar.does(&["parked", "list"]).await.contains("nothing is parked"));
    assert!(running.terminate().await, "it drains and leaves");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_does_everything_with_the_sidecar() {
    let (database, mut connection, kafka) = shop().await;
    let sidecar = Sidecar::new(&database, &kafka).set("OUTBOX_RELAY_SOURCE__KEEP", "1h");
    let check = sidecar.does(&["check"]).await;
    assert!(
        check.contains("table = \"public.outboxevent\"") && check.contains("keep = \"3600s\""),
        "{check}"
    );
    let (fine, doctor) = sidecar.run(&["doctor"]).await;
    assert!(!fine && doctor.contains("run `outbox-relay migrate`"), "{doctor}");
    assert!(sidecar.does(&["migrate", "--print"]).await.contains("ADD COLUMN IF NOT EXISTS seq"));
    sidecar.does(&["migrate"]).await;
    assert!(sidecar.does(&["migrate"]).await.contains("the tables are up to date"));
    let doctor = sidecar.does(&["doctor"]).await;
    for expected in [
        "public.outboxevent has the columns it needs",
        "0 events wait",
        "no relay has ever run here",
        "Kafka at",
    ] {
        assert!(doctor.contains(expected), "{expected:?} is not in {doctor}");
    }

    let running = Running::start(&sidecar).await;
    let consumer = consumer_of_debezium(&kafka);
    let mut placed = Vec::new();
    for n in 0..5 {
        placed.push(place(&mut connection, n).await);
        assert_eq!(consume(&consumer).0, placed[n as usize]);
    }
    running.until_metric("outbox_published_total 5").await;
    assert!(running.get("/livez").await.unwrap().starts_with("HTTP/1.1 200"));
    while !sidecar.run(&["doctor"]).await.1.contains("0 events wait") {}

    let verify = sidecar.does(&["verify"]).await;
    assert!(verify.contains("5 rows, 5 of them published; 5 records"), "{verify}");
    assert!(verify.contains("lost 0, reordered 0"), "{verify}");
    let replay = sidecar.does(&["replay", "--from", "2", "--to", "3"]).await;
    assert!(replay.contains("2 rows will be published again"), "{replay}");
    assert_eq!([consume(&consumer).0, consume(&consumer).0], [placed[1], placed[2]]);
    let verify = sidecar.does(&["verify", "--json"]).await;
    assert!(verify.contains("\"duplicated\":2"), "{verify}");

    assert!(sidecar.does(&["parked", "list"]).await.contains("nothing is parked"));
    query("INSERT INTO outboxevent VALUES (gen_random_uuid(), 'no topic', 'x', 'OrderPlaced', '{}')")
        .execute(&mut connection)
        .await
        .unwrap();
    running.until_metric("outbox_parked_keys 1").await;
    while sidecar.does(&["parked", "list"]).await.contains("nothing is parked") {}
    let list = sidecar.does(&["parked", "list"]).await;
    assert!(list.contains("no topic/x") && list.contains("cannot be the name of a topic"), "{list}");
    let (fine, nonsense) = sidecar.run(&["parked", "drop", "--key", "nonsense"]).await;
    assert!(!fine && nonsense.contains("write AGGREGATETYPE/AGGREGATEID"), "{nonsense}");
    assert!(sidecar.does(&["parked", "drop", "--key", "no topic/x"]).await.contains("1 events dropped"));
    running.until_metric("outbox_parked_keys 0").await;
    assert!(running.terminate().await, "it drains and leaves");
}

#[tokio::test(flavor = "multi_thread")]
async fn help_teaches_and_bad_settings_are_named() {
    let (database, kafka) = tokio::join!(fresh_database(), Kafka::start());
    let sidecar = Sidecar::new(&database, &kafka);
    let help = sidecar.does(&["--help"]).await;
    for expected in ["FIRST STEPS", "SETTINGS", "migrate", "doctor", "verify", "replay", "parked"] {
        assert!(help.contains(expected), "{expected:?} is not in the help");
    }
    for (name, value, expected) in [
        ("OUTBOX_RELAY_RELAY__LEASE", "soon", "is no duration"),
        ("OUTBOX_RELAY_SOURCE__TABLE", "outboxevent; drop", "schema.table"),
        ("OUTBOX_RELAY_HTTP__LISTEN", "0.0.0.0:9464", "http.beyond_loopback"),
        ("OUTBOX_RELAY_KAFKA__PROPERTIES__ACKS", "1", "\"acks\" cannot be set"),
        ("OUTBOX_RELAY_SOURCE__URL", "mysql://localhost/shop", "must begin with postgres:// or sqlite:"),
    ] {
        let (fine, text) = Sidecar::new(&database, &kafka).set(name, value).run(&["run"]).await;
        assert!(!fine && text.contains(expected), "{name}={value}: {text}");
    }
    let secret = Sidecar::new(&database, &kafka)
        .set("OUTBOX_RELAY_KAFKA__PROPERTIES__SASL_PASSWORD", "hunter2")
        .set("OUTBOX_RELAY_SOURCE__URL", "postgres://relay:hunter2@localhost/shop");
    let check = secret.does(&["check"]).await;
    assert!(check.contains("***") && !check.contains("hunter2"), "{check}");
}
