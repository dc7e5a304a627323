//! A Postgres of the tests' own: on a free port, in a directory that goes with it. Tests that run at the same
//! time share the server, each with a database of its own; the last one stops it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

/// A database on the shared server.
pub(crate) struct Postgres {
    url: String,
    _server: Arc<Server>,
}

impl Postgres {
    pub(crate) fn start() -> Self {
        static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        static DATABASES: AtomicU32 = AtomicU32::new(0);
        let server = {
            let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let server = shared.upgrade().unwrap_or_else(|| Arc::new(Server::start()));
            *shared = Arc::downgrade(&server);
            server
        };
        let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let port = server.port.to_string();
        let arguments = ["-h", "127.0.0.1", "-p", &port, "-U", "postgres", &name];
        run(&server.programs, "createdb", &arguments);
        Self { url: format!("postgres://postgres@127.0.0.1:{port}/{name}"), _server: server }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

struct Server {
    dir: tempfile::TempDir,
    programs: PathBuf,
    port: u16,
}

impl Server {
    fn start() -> Self {
        let programs = programs();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = dir.path().join("data");
        std::fs::create_dir(&data).expect("a new directory");
        if is_root() {
            // Postgres refuses to run as root.
            let owned = Command::new("chown").args(["-R", "postgres"]).arg(dir.path()).status();
            assert!(
                owned.is_ok_and(|status| status.success()),
                "the user postgres is needed to test as root"
            );
        }
        run(&programs, "initdb", &["-D", path(&data), "-A", "trust", "-U", "postgres", "--no-sync"]);
        let port = free_port();
        let options = format!(
            "-p {port} -k {} -c listen_addresses=127.0.0.1 -c max_connections=200 -c shared_buffers=32MB",
            path(&data)
        );
        let log = data.join("log");
        run(&programs, "pg_ctl", &["-D", path(&data), "-l", path(&log), "-w", "-o", &options, "start"]);
        Self { dir, programs, port }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.dir.path().join("data");
        run(&self.programs, "pg_ctl", &["-D", path(&data), "-m", "immediate", "-w", "stop"]);
    }
}

fn run(programs: &Path, program: &str, arguments: &[&str]) {
    let program = programs.join(program);
    let mut command = match is_root() {
        true => {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(&program);
            command
        }
        false => Command::new(&program),
    };
    let output = command.args(arguments).current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{} cannot be run: {error}", program.display()));
    assert!(output.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
}

/// The newest server's programs, which Debian keeps out of the search path.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
    found.sort();
    found
        .pop()
        .or_else(|| pg_config("--bindir"))
        .expect("a Postgres server is needed for these tests: install postgresql")
}

fn pg_config(what: &str) -> Option<PathBuf> {
    let output = Command::new("pg_config").arg(what).output().ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n")
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|socket| socket.local_addr())
        .expect("a free port")
        .port()
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a readable path")
}
