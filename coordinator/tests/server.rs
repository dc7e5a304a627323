//! `saga serve` as a process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};

use crate::shop::{Bank, Shop, program, saga};

const TOKEN: &str = "canary-0123456789abcdef0123456789";

struct Served {
    child: Child,
    address: String,
    log: BufReader<std::process::ChildStderr>,
}

impl Served {
    fn start(shop: &Shop, token: Option<&str>) -> Self {
        let mut command = program(shop.dir.path(), Some("sqlite:sagas.db"));
        command.args(["serve", "--listen", "127.0.0.1:0"]).env("SAGA_LOG", "debug").stderr(Stdio::piped());
        if let Some(token) = token {
            command.env("SAGA_TOKEN", token);
        }
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("http://") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "it says where it listens");
        }
        let address = line.split("http://").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        Self { child, address, log }
    }

    fn get(&self, path: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let host = &self.address;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Ends it as an orchestrator would, and gives what it logged.
    fn stop(mut self) -> String {
        let id = self.child.id().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        assert!(self.child.wait().unwrap().success(), "a polite end is no failure");
        let mut log = String::new();
        self.log.read_to_string(&mut log).unwrap();
        log
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_the_console_and_ends_politely() {
    let shop = Shop::open(Bank::default()).await;
    let served = Served::start(&shop, None);
    assert!(served.get("/", "").starts_with("HTTP/1.1 200 OK"));
    assert!(served.get("/readyz", "").ends_with("ready\n"));
    assert!(served.get("/api/workers", "").contains(&shop.worker.id().unwrap().to_string()));
    served.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_needed_and_never_logged() {
    let shop = Shop::open(Bank::default()).await;
    let served = Served::start(&shop, Some(TOKEN));
    assert!(served.get("/api/runs", "").starts_with("HTTP/1.1 401"));
    assert!(served.get("/api/runs", "Authorization: Bearer nonsense\r\n").starts_with("HTTP/1.1 401"));
    let good = served.get("/api/runs", &format!("Authorization: Bearer {TOKEN}\r\n"));
    assert!(good.starts_with("HTTP/1.1 200"), "{good}");
    let log = served.stop();
    assert!(!log.contains("canary"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_refuses_to_be_reached_without_tokens() {
    let shop = Shop::open(Bank::default()).await;
    for address in ["0.0.0.0:0", "[::]:0"] {
        let refused = shop.saga(&["serve", "--listen", address]).await;
        assert_eq!(refused.exit, 2, "{refused:?}");
        assert!(
            refused.err.contains("refusing to listen") && refused.err.contains("--tokens"),
            "{}",
            refused.err
        );
    }
    std::fs::write(shop.dir.path().join("tokens"), "ann operator canary-short\n").unwrap();
    let weak = shop.saga(&["serve", "--listen", "127.0.0.1:0", "--tokens", "tokens"]).await;
    assert_eq!(weak.exit, 2);
    assert!(weak.err.contains("shorter than 20") && !weak.err.contains("canary"), "{}", weak.err);
    let missing = saga(shop.dir.path(), Some("sagas.db"), &["serve", "--tokens", "nowhere"]).await;
    assert!(missing.err.contains("nowhere cannot be read"), "{}", missing.err);
}
