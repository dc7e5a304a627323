//! The worker process: takes orders and drives their sagas. It is made to be killed.
//!
//! It is what a shop would run in several copies: orders come in (here by lines on its standard input, where a
//! shop has HTTP), each starts a saga, and when that has ended its customer is told (here by a line on standard
//! output). It keeps nothing of its own: whatever it knows is in the store. An order that is handed in again,
//! to this process or another, finds the saga that it started before.
//!
//! The first line that comes in is the [`Hire`]. When standard input ends, the worker drains and leaves; so it
//! never outlives the process that started it.

use std::io::{self, BufRead as _, BufWriter, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use saga_core::engine::{Settings, Worker};
use saga_core::{Client, Definition, Ended};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::definition::{Services, Shop, place_order};
use super::orders::Order;
use super::service::Receipt;

/// What a worker is told before it begins. It may hold a password, so it is not given as an argument.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hire {
    /// The definition's name.
    pub definition: String,
    /// The URL of the saga store.
    pub store: String,
    /// The services.
    pub services: Services,
    /// How long the worker's lease is.
    pub lease: Duration,
}

/// What a worker says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// It takes orders now.
    Ready,
    /// It cannot begin, for this reason.
    Failed(String),
    /// This order's saga has ended.
    Ended {
        /// The order.
        order: String,
        /// Whether it is completed; otherwise it is compensated.
        completed: bool,
    },
}

/// How often an order is handed to the store again before the worker gives it back.
const TRIES: u32 = 20;

/// Runs a worker until its standard input ends.
pub async fn run() -> ExitCode {
    let (line, mut lines) = mpsc::channel(64);
    let (said, saying) = mpsc::channel(1024);
    // Standard input and output block: each has a thread.
    std::thread::spawn(move || listen(&line));
    let speaker = std::thread::spawn(move || speak(saying));
    let done = serve(&mut lines, &said).await;
    if let Err(why) = &done {
        // Whoever started it may be gone.
        let _ = said.send(Said::Failed(why.clone())).await;
    }
    drop(said);
    let _ = tokio::task::spawn_blocking(|| speaker.join()).await;
    if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn serve(lines: &mut mpsc::Receiver<String>, said: &mpsc::Sender<Said>) -> Result<(), String> {
    let Some(first) = lines.recv().await else { return Ok(()) };
    let hire: Hire =
        serde_json::from_str(&first).map_err(|error| format!("the hire does not read: {error}"))?;
    let definition = place_order(&hire.definition).map_err(|error| error.to_string())?;
    let shop = Shop::new(hire.services).map_err(|error| error.to_string())?;
    let store = saga_core::store::connect(&hire.store).await.map_err(|error| error.to_string())?;
    let settings = Settings { lease: hire.lease, look: Duration::from_millis(100), ..Settings::default() };
    let worker = Worker::new(store, shop).register(&definition).map_err(|error| error.to_string())?;
    let worker = worker.settings(settings).start().await.map_err(|error| error.to_string())?;
    let _ = said.send(Said::Ready).await;

    let mut orders = tokio::task::JoinSet::new();
    while let Some(line) = lines.recv().await {
        let order: Order =
            serde_json::from_str(&line).map_err(|error| format!("an order does not read: {error}"))?;
        let (client, definition, said) = (worker.client(), definition.clone(), said.clone());
        orders.spawn(async move { take(&client, &definition, order, &said).await });
        while orders.try_join_next().is_some() {}
    }
    orders.abort_all();
    worker.drain().await;
    Ok(())
}

/// Starts an order's saga, or finds it, waits for its end, and tells.
async fn take(
    client: &Client,
    definition: &Definition<Shop, Order, Receipt>,
    order: Order,
    said: &mpsc::Sender<Said>,
) {
    for attempt in 1..=TRIES {
        let ended = async { client.start(definition, &order.id, &order).await?.wait().await };
        match ended.await {
            Ok(ended) => {
                let completed = matches!(ended, Ended::Completed(_));
                let _ = said.send(Said::Ended { order: order.id, completed }).await;
                return;
            }
            // The store was away. Starting again is safe: it is the same saga.
            Err(error) => {
                tracing::warn!(order = order.id, attempt, %error, "will be handed in again");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }
    let _ = said.send(Said::Failed(format!("order {} could not be started", order.id))).await;
}

/// Reads lines until standard input ends, or nobody wants them.
fn listen(lines: &mpsc::Sender<String>) {
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        if lines.blocking_send(line).is_err() {
            return;
        }
    }
}

/// Writes one line per thing said, until standard output is closed; several at once where several wait.
fn speak(mut saying: mpsc::Receiver<Said>) {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut batch = Vec::new();
    while saying.blocking_recv_many(&mut batch, 256) > 0 {
        for said in batch.drain(..) {
            let mut line = serde_json::to_vec(&said).expect("plain data is JSON");
            line.push(b'\n');
            if out.write_all(&line).is_err() {
                return;
            }
        }
        if out.flush().is_err() {
            return;
        }
    }
}
