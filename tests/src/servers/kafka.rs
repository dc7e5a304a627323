//! Apache Kafka: one process that is broker and controller (KRaft), from the project's own jars.

pub mod guarded;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::metadata::Metadata;
use rustix::process::Signal;
use tokio::sync::OnceCell;
use uuid::Uuid;

use self::guarded::Guard;
use super::home::Home;
use super::port::free_port;
use super::supervised::{Exited, Supervised};
use crate::proxy::Proxy;

/// The version whose jars `scripts/test` keeps.
const VERSION: &str = "4.3.0";

/// A small heap, and no time spent on optimising code that runs for seconds.
const SMALL: &[&str] =
    &["-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"];
/// As in production, for measuring.
const TUNED: &[&str] = &["-Xms1g", "-Xmx1g", "-XX:+UseParallelGC", "-XX:-UsePerfData"];

const SETTINGS: &[(&str, &str)] = &[
    ("process.roles", "broker,controller"),
    ("node.id", "1"),
    ("controller.listener.names", "CONTROLLER"),
    ("inter.broker.listener.name", "CLIENT"),
    ("offsets.topic.replication.factor", "1"),
    ("offsets.topic.num.partitions", "4"),
    ("transaction.state.log.replication.factor", "1"),
    ("transaction.state.log.min.isr", "1"),
    ("transaction.state.log.num.partitions", "4"),
    ("share.coordinator.state.topic.replication.factor", "1"),
    ("share.coordinator.state.topic.min.isr", "1"),
    ("group.initial.rebalance.delay.ms", "0"),
    ("auto.create.topics.enable", "false"),
    // A killed broker may not register again until its last session has run out: 9 s by default.
    ("broker.session.timeout.ms", "2000"),
    ("broker.heartbeat.interval.ms", "200"),
    // The cleaner's default buffer is half of our heap.
    ("log.cleaner.dedupe.buffer.size", "8388608"),
];

/// A Kafka broker that this test owns. Topics are not created by using them.
#[derive(Debug)]
pub struct Kafka {
    server: Supervised,
    ports: Ports,
    settings: Vec<(String, String)>,
    machine: &'static [&'static str],
}

/// Kafka tells its clients where to connect, so a proxy only helps if the broker names it: a second listener
/// tells its clients the proxy's address.
#[derive(Debug, Clone, Copy)]
struct Ports {
    client: u16,
    controller: u16,
    proxied: Option<(u16, SocketAddr)>,
    guarded: Option<(u16, Guard)>,
}

impl Ports {
    fn free() -> Self {
        Self { client: free_port(), controller: free_port(), proxied: None, guarded: None }
    }
}

impl Kafka {
    /// A new broker without topics, ready.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with further settings, as `message.max.bytes = 1000`; they win over ours.
    pub async fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::start_on(SMALL, settings).await
    }

    /// A broker to be measured: with memory, and with a compiler that takes its time.
    pub async fn start_tuned() -> Self {
        Self::start_on(TUNED, &[]).await
    }

    async fn start_on(machine: &'static [&'static str], settings: &[(&str, &str)]) -> Self {
        loop {
            if let Some(kafka) = Self::try_start(Ports::free(), machine, settings).await {
                return kafka;
            }
        }
    }

    /// A broker that also listens where it asks who is there ([`guarded`]): by SASL alone.
    pub async fn start_guarded() -> Self {
        Self::start_guarded_by(Guard::Plain).await
    }

    /// The same over TLS; [`Self::certificate`] is to be trusted.
    pub async fn start_guarded_by_tls() -> Self {
        Self::start_guarded_by(Guard::Tls).await
    }

    async fn start_guarded_by(guard: Guard) -> Self {
        loop {
            let ports = Ports { guarded: Some((free_port(), guard)), ..Ports::free() };
            if let Some(kafka) = Self::try_start(ports, SMALL, &[]).await {
                return kafka;
            }
        }
    }

    /// A new broker with a proxy in front of it. Clients that bootstrap from the proxy's address reach the
    /// broker only through the proxy; those that use [`bootstrap`](Self::bootstrap) reach it directly.
    pub async fn start_with_proxy() -> (Self, Proxy) {
        loop {
            let behind = free_port();
            let proxy = Proxy::start(behind).await;
            let proxied = Some((behind, proxy.address()));
            let ports = Ports { proxied, ..Ports::free() };
            if let Some(kafka) = Self::try_start(ports, SMALL, &[]).await {
                return (kafka, proxy);
            }
        }
    }

    /// `host:port` for clients. It stays the same over restarts.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.ports.client)
    }

    /// `host:port` of the guarded listener.
    pub fn guarded_bootstrap(&self) -> String {
        let (port, _) = self.ports.guarded.expect("the broker was started with a guarded listener");
        format!("localhost:{port}")
    }

    /// The file with the certificate of the guarded listener.
    pub fn certificate(&self) -> PathBuf {
        guarded::certificate(self.server.home().dir())
    }

    /// The broker's process id.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Creates a topic and waits until its partitions have a leader.
    pub async fn create_topic(&self, name: &str, partitions: i32) {
        create_topic(&self.bootstrap(), name, partitions).await;
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// An orderly shutdown.
    pub async fn stop(&mut self) {
        self.server.stop(Signal::TERM).await;
    }

    /// Starts it again with its data, on its ports, and waits until every partition has a leader. A running
    /// one is stopped first.
    pub async fn restart(&mut self) {
        if self.server.is_running() {
            self.stop().await;
        }
        if let Err(exited) = self.launch().await {
            self.server.fail(&exited);
        }
    }

    /// Stops the process: connections stay open, nothing answers.
    pub fn freeze(&self) {
        self.server.freeze();
    }

    /// Lets a frozen broker go on.
    pub fn thaw(&self) {
        self.server.thaw();
    }

    /// None if one of the ports was taken meanwhile.
    async fn try_start(
        ports: Ports,
        machine: &'static [&'static str],
        settings: &[(&str, &str)],
    ) -> Option<Self> {
        let settings =
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let home = Home::new("kafka");
        let mut kafka = Self { server: Supervised::new("Kafka", home), ports, settings, machine };
        kafka.format();
        match kafka.launch().await {
            Ok(()) => Some(kafka),
            Err(_) if kafka.server.home().log_tail().contains("Address already in use") => None,
            Err(exited) => kafka.server.fail(&exited),
        }
    }

    fn format(&self) {
        std::fs::write(self.properties(), self.render()).expect("the server's directory can be written");
        // Of version 7, because it begins with the time: one that began with a dash would pass for an option.
        let cluster = BASE64_URL_SAFE_NO_PAD.encode(Uuid::now_v7().as_bytes());
        let mut format = java(SMALL, "kafka.tools.StorageTool");
        format.args(["format", "-t", &cluster, "-c"]).arg(self.properties()).stdin(Stdio::null());
        if let Some((_, guard)) = self.ports.guarded {
            guard.certify(self.server.home().dir());
            guard.format(&mut format);
        }
        let output = format.output().expect("java can be started");
        assert!(
            output.status.success(),
            "Kafka's storage is not formatted: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn render(&self) -> String {
        let Ports { client, controller, proxied, guarded } = self.ports;
        let mut listeners = format!("CLIENT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}");
        let mut advertised = format!("CLIENT://127.0.0.1:{client}");
        let mut protocols = "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned();
        if let Some((behind, proxy)) = proxied {
            listeners += &format!(",PROXIED://127.0.0.1:{behind}");
            advertised += &format!(",PROXIED://{proxy}");
            protocols += ",PROXIED:PLAINTEXT";
        }
        let home = self.server.home().dir();
        let mut given = self.settings.clone();
        if let Some((port, guard)) = guarded {
            listeners += &format!(",GUARDED://127.0.0.1:{port}");
            advertised += &format!(",GUARDED://localhost:{port}");
            protocols += &format!(",GUARDED:{}", guard.protocol());
            given.extend(guard.settings(home));
        }
        let data = home.join("data");
        let own = [
            ("listeners", listeners),
            ("advertised.listeners", advertised),
            ("listener.security.protocol.map", protocols),
            ("controller.quorum.voters", format!("1@127.0.0.1:{controller}")),
            ("log.dirs", data.display().to_string()),
        ];
        let fixed = SETTINGS.iter().map(|(name, value)| format!("{name}={value}\n"));
        let own = own.iter().map(|(name, value)| format!("{name}={value}\n"));
        let given = given.iter().map(|(name, value)| format!("{name}={value}\n"));
        fixed.chain(own).chain(given).collect()
    }

    fn properties(&self) -> PathBuf {
        self.server.home().dir().join("server.properties")
    }

    async fn launch(&mut self) -> Result<(), Exited> {
        let mut command = java(self.machine, "kafka.Kafka");
        command.arg(self.properties());
        self.server.spawn(&mut command);
        let bootstrap = self.bootstrap();
        self.server
            .answers(async || {
                metadata(&bootstrap).await.is_some_and(|metadata| every_leader_is_there(&metadata))
            })
            .await
    }
}

/// `host:port` of the broker that `TEST_KAFKA` names, else of one that all tests of this process share.
pub async fn shared() -> String {
    if let Ok(given) = std::env::var("TEST_KAFKA") {
        return given;
    }
    static SHARED: OnceCell<Kafka> = OnceCell::const_new();
    SHARED.get_or_init(Kafka::start).await.bootstrap()
}

/// A new topic that no other test knows, on a broker that is [`shared`].
pub async fn fresh_topic(bootstrap: &str, partitions: i32) -> String {
    let name = format!("t-{}", Uuid::new_v4().simple());
    create_topic(bootstrap, &name, partitions).await;
    name
}

/// Creates a topic and waits until its partitions have a leader.
pub async fn create_topic(bootstrap: &str, name: &str, partitions: i32) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", bootstrap).create().expect("an admin client of Kafka");
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    let created = admin
        .create_topics([&topic], &AdminOptions::new().operation_timeout(Some(Duration::from_secs(60))))
        .await
        .unwrap_or_else(|error| panic!("Kafka at {bootstrap} does not create topics: {error}"));
    for topic in created {
        topic.unwrap_or_else(|(name, code)| panic!("Kafka does not create the topic {name}: {code}"));
    }
    let leads = |metadata: Metadata| {
        metadata.topics().iter().any(|topic| topic.name() == name) && every_leader_is_there(&metadata)
    };
    while !metadata(bootstrap).await.is_some_and(leads) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What a broker tells of itself; none if it does not answer.
async fn metadata(bootstrap: &str) -> Option<Metadata> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap);
    tokio::task::spawn_blocking(move || {
        let client: BaseConsumer = config.create().expect("a client of Kafka");
        client.fetch_metadata(None, Duration::from_secs(1)).ok()
    })
    .await
    .expect("asking for metadata does not panic")
}

/// The broker is in its own list only once the controller has let it in.
fn every_leader_is_there(metadata: &Metadata) -> bool {
    let partitions = || metadata.topics().iter().flat_map(|topic| topic.partitions());
    !metadata.brokers().is_empty() && partitions().all(|partition| partition.leader() >= 0)
}

fn java(machine: &[&str], class: &str) -> Command {
    let mut command = Command::new(java_home().map_or_else(|| "java".into(), |home| home.join("bin/java")));
    command.args(machine).arg("-cp").arg(jars().join("*")).arg(class);
    command
}

fn java_home() -> Option<PathBuf> {
    std::env::var_os("JAVA_HOME").map(PathBuf::from)
}

/// Where the jars are: `TEST_KAFKA_JARS`, else the cache that `scripts/test` fills.
fn jars() -> PathBuf {
    let jars = std::env::var_os("TEST_KAFKA_JARS").map_or_else(cached_jars, PathBuf::from);
    let found = std::fs::read_dir(&jars).is_ok_and(|mut jars| jars.next().is_some());
    assert!(
        found,
        "the jars of Apache Kafka {VERSION} are not in {}. `./scripts/test --prepare` puts them there (it needs \
         Java 17 and Maven), or name their directory in TEST_KAFKA_JARS",
        jars.display()
    );
    jars
}

fn cached_jars() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let cache = cache.or_else(|| Some(std::env::home_dir()?.join(".cache"))).expect("a home directory");
    cache.join("saga-toolkit").join(format!("kafka-{VERSION}"))
}
