//! Postgres.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use rustix::process::Signal;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Executor};
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::disk::{Disk, NoDisk};
use super::home::Home;
use super::port::free_port;
use super::supervised::Supervised;

/// Durable as in production, and open to everything a test may want: replication slots, prepared
/// transactions, many connections.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("unix_socket_directories", ""),
    ("fsync", "on"),
    ("synchronous_commit", "on"),
    ("max_connections", "300"),
    ("wal_level", "logical"),
    ("max_replication_slots", "40"),
    ("max_wal_senders", "40"),
    ("max_prepared_transactions", "20"),
    ("log_line_prefix", "%m [%p] %a "),
    ("timezone", "UTC"),
];

/// A Postgres server that this test owns.
#[derive(Debug)]
pub struct Postgres {
    server: Supervised,
    port: u16,
    settings: Vec<(String, String)>,
    /// Where its data lies, if not beside everybody's. Goes after the server.
    disk: Option<Disk>,
}

/// What of a server lies on its small disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDisk {
    /// All of it: the write-ahead log has no room either, and then Postgres panics.
    Everything,
    /// All but the write-ahead log: statements fail that need room.
    Tables,
}

impl Postgres {
    /// A new server with an empty cluster, ready.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with further settings, as `max_connections = 5`; they win over ours and outlive restarts.
    pub async fn start_with(settings: &[(&str, &str)]) -> Self {
        let home = Home::new("postgres");
        initialise(&home, None, &[]);
        Self::on(home, None, settings).await
    }

    /// A new server on a disk of so many bytes, which [`Disk::fill`] fills.
    pub async fn start_on_small_disk(bytes: u64, lies: OnDisk) -> Result<Self, NoDisk> {
        let home = Home::new("postgres");
        let at = data(&home);
        std::fs::create_dir(&at).expect("the home is writable");
        let owner = unprivileged_user().map(|user| (user.id, user.group));
        let disk = Disk::mount(&at, bytes, owner)?;
        // Small segments, so that the log needs room often.
        let mut arguments = vec!["--wal-segsize=1".to_owned()];
        if lies == OnDisk::Tables {
            arguments.push(format!("--waldir={}", home.dir().join("wal").display()));
        }
        initialise(&home, Some(&disk), &arguments);
        Ok(Self::on(home, Some(disk), &[("min_wal_size", "2MB")]).await)
    }

    async fn on(home: Home, disk: Option<Disk>, settings: &[(&str, &str)]) -> Self {
        let settings =
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut postgres = Self { server: Supervised::new("Postgres", home), port: 0, settings, disk };
        loop {
            postgres.port = free_port();
            match postgres.launch().await {
                Ok(()) => return postgres,
                Err(_) if postgres.server.home().log_tail().contains("Address already in use") => {}
                Err(exited) => postgres.server.fail(&exited),
            }
        }
    }

    /// The URL of the database `postgres`, as superuser. It stays the same over restarts.
    pub fn url(&self) -> String {
        url(self.port, "postgres")
    }

    /// The port it listens on, for a proxy in front of it.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path of one of the programs that belong to the server, such as `pg_recvlogical`.
    pub fn program(name: &str) -> PathBuf {
        programs().join(name)
    }

    /// The process id of the postmaster.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// A fresh database on this server. It ends with the server.
    pub async fn database(&self) -> Database {
        let name = create_database(&self.url()).await;
        Database { url: url(self.port, &name), _dropped_with: None }
    }

    /// SIGKILL for the postmaster and every backend at once.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// An immediate shutdown: no checkpoint, connections are dropped, the next start recovers.
    pub async fn stop_immediate(&mut self) {
        self.server.stop(Signal::QUIT).await;
    }

    /// An orderly shutdown that aborts the transactions in flight.
    pub async fn stop(&mut self) {
        self.server.stop(Signal::INT).await;
    }

    /// Starts it again with its data, on its port, and waits until it answers. A running one is stopped first.
    pub async fn restart(&mut self) {
        if self.server.is_running() {
            self.stop().await;
        }
        if let Err(exited) = self.launch().await {
            self.server.fail(&exited);
        }
    }

    /// The small disk that it was started on.
    pub fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("it was started on a small disk")
    }

    /// Whether the server has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.server.has_ended()
    }

    /// How often this stands in its log.
    pub fn said(&self, what: &str) -> usize {
        self.log().matches(what).count()
    }

    /// What its log says so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.server.home().log()).expect("the log can be read")
    }

    /// Stops every process of the server, as a machine that hangs: connections stay open, nothing answers.
    pub fn freeze(&self) {
        self.server.freeze();
    }

    /// Lets a frozen server go on.
    pub fn thaw(&self) {
        self.server.thaw();
    }

    async fn launch(&mut self) -> Result<(), super::supervised::Exited> {
        let mut command = unprivileged("postgres", self.disk.as_ref());
        command.arg("-D").arg(data(self.server.home())).arg("-p").arg(self.port.to_string());
        for (name, value) in SETTINGS {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        for (name, value) in &self.settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        self.server.spawn(&mut command);
        let url = self.url();
        self.server.answers(async || answers(&url).await).await
    }
}

/// A database that no other test knows.
#[derive(Debug)]
pub struct Database {
    url: String,
    _dropped_with: Option<Given>,
}

impl Database {
    /// Its URL, with a user who may do everything in it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The port of its server, for a proxy in front of it.
    pub fn port(&self) -> u16 {
        self.options().get_port()
    }

    /// How to connect to it.
    pub(super) fn options(&self) -> PgConnectOptions {
        PgConnectOptions::from_str(&self.url).expect("a URL that has worked")
    }

    /// A pool of at most `connections`.
    pub async fn pool(&self, connections: u32) -> PgPool {
        PgPoolOptions::new()
            .max_connections(connections)
            .connect(&self.url)
            .await
            .expect("a fresh database answers")
    }

    /// Waits until this many of the database's sessions wait for a lock: the moment at which a second
    /// transaction has reached the row that a first one holds.
    pub async fn until_blocked(&self, sessions: i64) {
        let mut connection = PgConnection::connect(&self.url).await.expect("a fresh database answers");
        let waiting = "SELECT count(*) FROM pg_stat_activity \
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut connection).await.expect("it answers")
            < sessions
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A database on a server that is not ours: it is dropped when the test ends.
#[derive(Debug)]
struct Given {
    server: String,
    name: String,
}

impl Drop for Given {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async move {
                let mut connection = PgConnection::connect(&server).await?;
                let drop = format!(r#"DROP DATABASE IF EXISTS "{name}" WITH (FORCE)"#);
                connection.execute(AssertSqlSafe(drop)).await?;
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
            })
        });
        if let Ok(Err(error)) = dropped.join() {
            eprintln!("database {} on the given Postgres is left behind: {error}", self.name);
        }
    }
}

/// A fresh database on the server that `TEST_POSTGRES_URL` names, else on one that all tests of this process
/// share. Its user must be allowed to create databases.
pub async fn fresh_database() -> Database {
    if let Ok(server) = std::env::var("TEST_POSTGRES_URL") {
        let name = create_database(&server).await;
        let url = with_database(&server, &name);
        return Database { url, _dropped_with: Some(Given { server, name }) };
    }
    static SHARED: OnceCell<Postgres> = OnceCell::const_new();
    SHARED.get_or_init(Postgres::start).await.database().await
}

async fn create_database(server: &str) -> String {
    let name = format!("t_{}", Uuid::new_v4().simple());
    let mut connection = PgConnection::connect(server)
        .await
        .unwrap_or_else(|error| panic!("Postgres at {server} does not answer: {error}"));
    let create = format!(r#"CREATE DATABASE "{name}" TEMPLATE template0"#);
    connection.execute(AssertSqlSafe(create)).await.expect("the user may create databases");
    name
}

async fn answers(url: &str) -> bool {
    match PgConnection::connect(url).await {
        Ok(mut connection) => connection.ping().await.is_ok(),
        Err(_) => false,
    }
}

fn url(port: u16, database: &str) -> String {
    format!("postgres://postgres@127.0.0.1:{port}/{database}")
}

/// The same server, another database: the URL's path is replaced, its query is kept.
fn with_database(server: &str, name: &str) -> String {
    PgConnectOptions::from_str(server)
        .unwrap_or_else(|error| panic!("TEST_POSTGRES_URL is not a URL of Postgres: {error}"));
    let (base, query) = server.split_once('?').map_or((server, None), |(base, query)| (base, Some(query)));
    let (scheme, rest) = base.split_once("://").expect("a URL has a scheme");
    let authority = rest.split('/').next().unwrap_or_default();
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{scheme}://{authority}/{name}{query}")
}

/// Writes an empty cluster. It need not be synced: no test has used it yet.
fn initialise(home: &Home, disk: Option<&Disk>, arguments: &[String]) {
    if let Some(user) = unprivileged_user() {
        chown(home.dir(), Some(user.id), Some(user.group)).expect("root may give its directory away");
    }
    let output = unprivileged("initdb", disk)
        .args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "-D"])
        .arg(data(home))
        .args(arguments)
        .current_dir(home.dir())
        .stdin(Stdio::null())
        .output()
        .expect("initdb can be started");
    assert!(output.status.success(), "initdb failed: {}", String::from_utf8_lossy(&output.stderr));
}

fn data(home: &Home) -> PathBuf {
    home.dir().join("data")
}

/// A program of Postgres, run by a user it accepts: it refuses root.
fn unprivileged(program: &str, disk: Option<&Disk>) -> Command {
    let program = programs().join(program);
    let mut command = match disk {
        Some(disk) => disk.inside(&program),
        None => Command::new(program),
    };
    if let (Some(user), None) = (unprivileged_user(), disk) {
        command.uid(user.id).gid(user.group);
    }
    command.env_remove("PGDATA").env_remove("PGPORT").env("LC_ALL", "C");
    command
}

pub(super) struct User {
    pub(super) id: u32,
    pub(super) group: u32,
}

/// The user to become, when the tests run as root: `postgres`, else `nobody`.
pub(super) fn unprivileged_user() -> Option<User> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd can be read");
    let find = |name: &str| {
        let mut fields = users
            .lines()
            .map(|line| line.split(':'))
            .find_map(|mut fields| (fields.next() == Some(name)).then_some(fields))?;
        Some(User { id: fields.nth(1)?.parse().ok()?, group: fields.next()?.parse().ok()? })
    };
    Some(
        find("postgres")
            .or_else(|| find("nobody"))
            .expect("a user `postgres` or `nobody`: Postgres refuses root"),
    )
}

/// Where Postgres is installed: `TEST_POSTGRES_BIN`, else the newest of Debian's, else the `PATH`.
fn programs() -> PathBuf {
    if let Ok(given) = std::env::var("TEST_POSTGRES_BIN") {
        return given.into();
    }
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(|entry| {
        let path = entry.ok()?.path();
        let version: u32 = path.file_name()?.to_str()?.parse().ok()?;
        has_postgres(&path.join("bin")).then(|| (version, path.join("bin")))
    });
    if let Some((_, newest)) = debian.max() {
        return newest;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).find(|dir| has_postgres(dir)).unwrap_or_else(|| {
        panic!(
            "Postgres is not installed. `./scripts/test --prepare` installs it on Debian and Ubuntu; elsewhere \
             install Postgres 14 or newer and put its `initdb` and `postgres` on the PATH, or name their \
             directory in TEST_POSTGRES_BIN"
        )
    })
}

fn has_postgres(dir: &Path) -> bool {
    dir.join("initdb").is_file() && dir.join("postgres").is_file()
}
