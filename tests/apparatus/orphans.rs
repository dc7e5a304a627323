//! A test process that is killed leaves nothing behind.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tests::servers::{Postgres, Redis};

const ROLE: &str = "TEST_ORPHANS_ROLE";
const TEST: &str = "apparatus::orphans::servers_end_with_a_test_process_that_is_killed";

/// This test starts itself a second time. The second process starts servers, tells of them and is killed.
#[tokio::test]
async fn servers_end_with_a_test_process_that_is_killed() {
    if std::env::var_os(ROLE).is_some() {
        return start_servers_and_wait().await;
    }
    let mut second = Command::new(std::env::current_exe().unwrap())
        .args([TEST, "--exact", "--nocapture", "--test-threads=1"])
        .env(ROLE, "second")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(second.stdout.take().unwrap()).lines().map_while(Result::ok);
    let servers: Vec<u32> =
        lines.filter_map(|line| line.split_once("server ")?.1.parse().ok()).take(2).collect();
    let homes: Vec<PathBuf> = servers.iter().map(|pid| home(*pid).expect("the server runs")).collect();

    second.kill().unwrap();
    second.wait().unwrap();
    for (pid, home) in servers.into_iter().zip(homes) {
        assert!(home.starts_with(std::env::temp_dir()), "{} is the server's own", home.display());
        while home_is_used_by(pid, &home) || home.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn start_servers_and_wait() {
    let (redis, postgres) = (Redis::start().await, Postgres::start().await);
    println!("\nserver {}\nserver {}", redis.pid(), postgres.pid());
    std::future::pending().await
}

/// A server's working directory lies in its home.
fn home(pid: u32) -> Option<PathBuf> {
    let directory = std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    directory
        .ancestors()
        .find(|dir| dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with("saga-tests-")))
        .map(Path::to_path_buf)
}

fn home_is_used_by(pid: u32, expected: &Path) -> bool {
    home(pid).is_some_and(|home| home == expected)
}
