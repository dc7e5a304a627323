//! A service behind the idempotency layer whose process is killed or frozen in the middle of a request.
//!
//! The service runs in a process of its own. Its effects go to a ledger outside of everything: a file to which it
//! appends a line. What clients are told must fit what the ledger says.

mod killed;
mod service;

use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tests::actor::{self, Actor};
use tests::servers::free_port;

const ROLE: &str = "participant";
/// Short, so that a dead process's claim ends within the test; it is renewed while a handler runs.
const LEASE: Duration = Duration::from_millis(800);

/// What a client gets.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    status: u16,
    /// The header `idempotency-status`.
    meaning: String,
    body: String,
}

impl Answer {
    fn is(&self, status: u16, meaning: &str) -> bool {
        (self.status, self.meaning.as_str()) == (status, meaning)
    }
}

/// The ledger, and what starts services over one store.
struct Town {
    ledger: TempDir,
    store: String,
    /// Whether an action in doubt is run again.
    again: bool,
}

impl Town {
    fn new(store: &str) -> Self {
        Self { ledger: tempfile::tempdir().unwrap(), store: store.into(), again: false }
    }

    fn ledger(&self) -> PathBuf {
        self.ledger.path().join("ledger")
    }

    /// What happened, line by line.
    fn happened(&self) -> Vec<String> {
        let ledger = std::fs::read_to_string(self.ledger()).unwrap_or_default();
        ledger.lines().map(str::to_owned).collect()
    }

    async fn until_happened(&self, line: &str) {
        while !self.happened().iter().any(|happened| happened == line) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until the effect has happened this often.
    async fn until_charged(&self, times: usize) {
        while self.happened().iter().filter(|happened| *happened == "charged").count() < times {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Starts a process of the service and waits until it answers.
    async fn open(&self) -> Service {
        let port = free_port();
        let script = format!("{} {port} {} {}", self.store, self.ledger().display(), self.again);
        let service =
            Service { process: Actor::start(ROLE, script), address: format!("http://127.0.0.1:{port}") };
        while reqwest::get(format!("{}/open", service.address)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        service
    }
}

/// Plays the service if this process was started for that.
async fn plays_participant() -> bool {
    let Some(script) = actor::role(ROLE) else { return false };
    let words: Vec<&str> = script.split(' ').collect();
    let [store, port, ledger, again] = words[..] else { panic!("a script of four words: {script}") };
    service::serve(store, port.parse().unwrap(), ledger.into(), again.parse().unwrap()).await;
    true
}

struct Service {
    process: Actor,
    address: String,
}

impl Service {
    /// A request under a key. `stop` tells the handler to hang `before` or `after` its effect.
    async fn charge(&self, key: &str, stop: Option<&str>) -> Option<Answer> {
        let request = reqwest::Client::new()
            .post(format!("{}/charges", self.address))
            .header("idempotency-key", format!("{key:?}"))
            .body("{}");
        send(match stop {
            Some(stop) => request.header("x-stop", stop),
            None => request,
        })
        .await
    }

    /// A saga's call of its step `charge`.
    async fn call(&self, run: &str, direction: &str, stop: Option<&str>) -> Option<Answer> {
        let request = reqwest::Client::new()
            .post(format!("{}/charges", self.address))
            .header("saga-run", run)
            .header("saga-step", "charge")
            .header("saga-occurrence", "0")
            .header("saga-direction", direction)
            .header("saga-attempt", "1")
            .body("{}");
        send(match stop {
            Some(stop) => request.header("x-stop", stop),
            None => request,
        })
        .await
    }

    /// Repeats a request until it is no longer in flight.
    async fn settled(&self, key: &str) -> Answer {
        loop {
            let answer = self.charge(key, None).await.expect("the service answers");
            if answer.meaning != "in-flight" {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The answer; none if it was lost.
async fn send(request: reqwest::RequestBuilder) -> Option<Answer> {
    let response = request.send().await.ok()?;
    let meaning =
        response.headers().get("idempotency-status").map(|value| value.to_str().unwrap().to_owned());
    let status = response.status().as_u16();
    Some(Answer { status, meaning: meaning.unwrap_or_default(), body: response.text().await.ok()? })
}
