//! PgBouncer.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Connection};

use super::home::Home;
use super::port::free_port;
use super::postgres::{Database, unprivileged_user};
use super::supervised::{Exited, Supervised};

/// A pooler that this test owns, before the server of a database. It lends a session of the server for one
/// transaction at a time, to whoever comes first.
#[derive(Debug)]
pub struct PgBouncer {
    server: Supervised,
    port: u16,
}

impl PgBouncer {
    /// Whether it is installed; says so where it is not. It is the one server that a machine may lack: `scripts/test`
    /// brings it where it can.
    pub fn can_be_tried() -> bool {
        let installed = program().is_some();
        if !installed {
            eprintln!("NOT tested behind PgBouncer: it is not installed");
        }
        installed
    }

    /// A pooler with so many sessions of the server, ready, and further settings, as
    /// `ignore_startup_parameters = extra_float_digits`.
    pub async fn start(database: &Database, sessions: u32, settings: &[(&str, &str)]) -> Self {
        let mut pooler = Self { server: Supervised::new("PgBouncer", Home::new("pgbouncer")), port: 0 };
        loop {
            pooler.port = free_port();
            pooler.configure(database.port(), sessions, settings);
            match pooler.launch(database).await {
                Ok(()) => return pooler,
                Err(_) if pooler.server.home().log_tail().contains("Address already in use") => {}
                Err(exited) => pooler.server.fail(&exited),
            }
        }
    }

    /// A database of the server's, through the pooler.
    pub fn url(&self, database: &Database) -> String {
        let options = database.options().port(self.port);
        options.to_url_lossy().to_string()
    }

    fn configure(&self, server: u16, sessions: u32, settings: &[(&str, &str)]) {
        let mut text = format!(
            "[databases]\n* = host=127.0.0.1 port={server}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {}\nunix_socket_dir =\nauth_type = trust\nauth_file = users\npool_mode = transaction\n\
             default_pool_size = {sessions}\nmax_client_conn = 500\n",
            self.port
        );
        settings.iter().for_each(|(name, value)| text.push_str(&format!("{name} = {value}\n")));
        self.write("pgbouncer.ini", &text);
        self.write("users", "\"postgres\" \"\"\n");
    }

    /// A file that the pooler can read, whoever runs the tests.
    fn write(&self, name: &str, text: &str) {
        let home = self.server.home().dir();
        std::fs::write(home.join(name), text).expect("the server's directory is writable");
        if let Some(user) = unprivileged_user() {
            for path in [home, &home.join(name)] {
                chown(path, Some(user.id), Some(user.group)).expect("root may give its directory away");
            }
        }
    }

    async fn launch(&mut self, database: &Database) -> Result<(), Exited> {
        let mut command =
            Command::new(program().expect("it is installed: ask `PgBouncer::can_be_tried` first"));
        if let Some(user) = unprivileged_user() {
            use std::os::unix::process::CommandExt;
            command.uid(user.id).gid(user.group);
        }
        command.arg("pgbouncer.ini");
        self.server.spawn(&mut command);
        let options = database.options().port(self.port).extra_float_digits(None);
        self.server
            .answers(async || match PgConnection::connect_with(&options).await {
                Ok(mut connection) => connection.ping().await.is_ok(),
                Err(_) => false,
            })
            .await
    }
}

/// `pgbouncer`, on the `PATH` or where Debian puts what only root usually runs.
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    places.map(|place| place.join("pgbouncer")).find(|program| Path::is_file(program))
}
