//! The order shop of `examples/`, as its reader runs it: real orders through every part, under every fault.
//!
//! The program compares its engine with its ledgers, its topic and its books, and says whether they agree.
//! [`ledgers`] does not take its word: it reads the services' ledgers itself.

mod bad_input;
mod ledgers;
mod runs;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::OnceCell;

/// What a run of the program came to.
struct Run {
    status: i32,
    stdout: String,
    stderr: String,
}

impl Run {
    /// The program's own account; fails if there is none.
    fn report(&self) -> Value {
        assert_eq!(self.status, 0, "{}\n{}", self.stdout, self.stderr);
        serde_json::from_str(&self.stdout).expect("--json prints JSON")
    }
}

/// Runs the program with its files in a directory of its own.
async fn order_shop(arguments: &[&str], home: &TempDir) -> Run {
    order_shop_reading(arguments, home, "").await
}

async fn order_shop_reading(arguments: &[&str], home: &TempDir, input: &str) -> Run {
    let (program, home) = (program().await, files(home));
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let input = input.to_owned();
    let run = move || {
        let mut shop = Command::new(program)
            .args(["--json", "--keep", "--dir"])
            .arg(home)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut stdin = shop.stdin.take().expect("a pipe");
        // A program that refuses its arguments does not read on.
        let _ = std::io::Write::write_all(&mut stdin, input.as_bytes());
        drop(stdin);
        let output = shop.wait_with_output().expect("the program ends");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        Run {
            status: output.status.code().expect("an exit status"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// Where a run keeps its files: a directory that does not exist yet.
fn files(home: &TempDir) -> PathBuf {
    home.path().join("shop")
}

/// The program, built by the cargo that runs these tests, into the same directory and for the same profile.
async fn program() -> &'static Path {
    static PROGRAM: OnceCell<PathBuf> = OnceCell::const_new();
    let build = || {
        let this = std::env::current_exe().expect("this program has a path");
        let profile = this.ancestors().nth(2).expect("…/target/debug/deps/all-…").to_owned();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--package", "examples", "--bin", "order-shop", "--target-dir"]);
        build.arg(profile.parent().expect("a target directory")).current_dir(env!("CARGO_MANIFEST_DIR"));
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo can be started").success(), "the order shop does not build");
        profile.join("order-shop")
    };
    PROGRAM.get_or_init(|| async { tokio::task::spawn_blocking(build).await.unwrap() }).await
}
