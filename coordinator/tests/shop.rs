//! A worker with blocked, waiting and finished sagas in a SQLite file, and the program run on it.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use saga_core::admin::Admin;
use saga_core::engine::{Running, Worker};
use saga_core::store::{Manifest, SqliteStore, State};
use saga_core::{Cx, Definition, Retry, RunId, StepError, step};

/// What calls answer, by effect: `Err` once, then `Ok`.
#[derive(Clone, Default)]
pub(crate) struct Bank {
    faults: Arc<Mutex<HashMap<String, Vec<StepError>>>>,
}

impl Bank {
    pub(crate) fn fails(self, effect: &str, errors: Vec<StepError>) -> Self {
        self.faults.lock().unwrap().insert(effect.into(), errors);
        self
    }

    fn call(&self, effect: &str) -> Result<String, StepError> {
        match self.faults.lock().unwrap().get_mut(effect).and_then(Vec::pop) {
            Some(error) => Err(error),
            None => Ok(format!("did {effect}")),
        }
    }
}

/// `greet`, then `reserve` for each line beside `charge` (whose retries wait an hour), the pivot
/// `capture`, then `ship`.
pub(crate) fn place_order() -> Definition<Bank, Vec<String>, String> {
    let (mut b, lines) = Definition::build::<Bank, Vec<String>>("place-order", 1);
    let greet = async |_: Cx<Bank>, _: Vec<String>| Ok::<_, StepError>("hello".to_owned());
    let greeted = b.add(step("greet", greet).no_compensation("a greeting harms nobody"), lines);
    let reserve = async |cx: Cx<Bank>, line: String| cx.state().call(&format!("reserve {line}"));
    let release =
        async |cx: Cx<Bank>, line: String, _: String| cx.state().call(&format!("release {line}")).map(drop);
    let reserved = b.each(step("reserve", reserve).compensate(release), lines);
    let charge = async |cx: Cx<Bank>, _: String| cx.state().call("charge");
    let refund = async |cx: Cx<Bank>, _: String, _: String| cx.state().call("refund").map(drop);
    let hour = Retry::exponential().base(Duration::from_secs(3600)).most(Duration::from_secs(3600));
    let charged = b.add(step("charge", charge).compensate(refund).retry(hour), greeted);
    let capture = async |cx: Cx<Bank>, _: (Vec<String>, String)| cx.state().call("capture");
    let (mut b, captured) = b.pivot(step("capture", capture), (reserved, charged));
    let ship = async |cx: Cx<Bank>, _: String| cx.state().call("ship");
    let shipped = b.add(step("ship", ship), captured);
    b.finish(shipped).unwrap()
}

/// A directory with a store, and perhaps a worker on it.
pub(crate) struct Shop {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) admin: Admin,
    pub(crate) worker: Running,
}

impl Shop {
    pub(crate) async fn open(bank: Bank) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(dir.path().join("sagas.db")).await.unwrap());
        let worker =
            Worker::new(store.clone(), bank).register(&place_order()).unwrap().start().await.unwrap();
        Self { dir, admin: Admin::new(store), worker }
    }

    /// Starts an order and waits until it is in a state.
    pub(crate) async fn order(&self, id: &str, lines: &[&str], state: State) -> RunId {
        let lines: Vec<String> = lines.iter().map(|&line| line.into()).collect();
        let run = self.worker.client().start(&place_order(), id, &lines).await.unwrap().run();
        self.until(run, state).await;
        run
    }

    pub(crate) async fn until(&self, run: RunId, state: State) {
        let look = async {
            while self.admin.summary(run).await.unwrap().state != state {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), look).await.expect("the state is reached");
    }

    /// Writes the manifests of what this shop ships.
    pub(crate) fn manifests(&self) -> String {
        let path = self.dir.path().join("manifests.json");
        std::fs::write(&path, serde_json::to_vec(&[Manifest::of(place_order().plan())]).unwrap()).unwrap();
        path.to_str().unwrap().into()
    }

    /// Runs the program on this store. The worker goes on meanwhile.
    pub(crate) async fn saga(&self, arguments: &[&str]) -> Said {
        saga(self.dir.path(), Some("sqlite:sagas.db"), arguments).await
    }
}

/// What the program said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) exit: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// What was printed, with what changes from run to run replaced: ids by `<id>`, times by `<time>`,
    /// ages by `<age>`.
    pub(crate) fn steady(&self) -> String {
        steady(&self.out)
    }
}

pub(crate) async fn saga(dir: &Path, store: Option<&str>, arguments: &[&str]) -> Said {
    let mut command = program(dir, store);
    command.args(arguments).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let Output { status, stdout, stderr } = output;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { exit: status.code().unwrap(), out: text(stdout), err: text(stderr) }
}

/// The program in a directory, with nothing of this process's environment that it reads.
pub(crate) fn program(dir: &Path, store: Option<&str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_saga"));
    for name in
        ["SAGA_STORE", "SAGA_TOKEN", "SAGA_TOKENS", "SAGA_WHO", "SAGA_LOG", "SAGA_LISTEN", "SAGA_TITLE"]
    {
        command.env_remove(name);
    }
    if let Some(store) = store {
        command.env("SAGA_STORE", store);
    }
    command.current_dir(dir).env("USER", "ann");
    command
}

fn steady(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let mut words: Vec<String> = Vec::new();
        for word in line.split(' ') {
            let (bare, tail) = word.split_at(word.trim_end_matches([',', ':', ')']).len());
            let kept = if bare.parse::<RunId>().is_ok() {
                "<id>"
            } else if is_date(bare) {
                "<date>"
            } else if is_clock(bare) {
                "<time>"
            } else if matches!(bare, "s" | "ms" | "min") && words.last().is_some_and(|last| is_number(last)) {
                words.pop();
                "<age>"
            } else if bare == "commits" && words.last().is_some_and(|last| is_number(last)) {
                // Outcomes that come together share a commit, and which do is chance.
                words.pop();
                "<n> commits"
            } else {
                bare
            };
            words.push(format!("{kept}{tail}"));
        }
        words.join(" ").trim_end().to_owned()
    });
    lines.map(|line| line + "\n").collect()
}

fn is_number(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit())
}

fn is_date(word: &str) -> bool {
    word.len() == 10 && word.split('-').all(is_number)
}

fn is_clock(word: &str) -> bool {
    word.ends_with('Z') && word.contains(':') && word.trim_end_matches('Z').split([':', '.']).all(is_number)
}
