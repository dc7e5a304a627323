//! The workers, as the shop sees them: child processes that take orders, are killed, and are replaced.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;

use super::orders::Order;
use super::worker::{Hire, Said};

/// The subcommand that makes this program a worker.
pub const WORKER: &str = "worker";

/// How long a worker may take to drain.
const GRACE: Duration = Duration::from_secs(15);

/// What a worker said, or that it is gone.
#[derive(Debug)]
pub enum News {
    /// It said this.
    Said(Said),
    /// The process of this worker (its place and its incarnation) has closed its output.
    Gone(usize, u32),
}

/// The worker processes of one shop.
#[derive(Debug)]
pub struct Crew {
    hire: Hire,
    /// Where each worker writes what it logs.
    logs: PathBuf,
    hands: Vec<Hand>,
    teller: mpsc::Sender<News>,
    news: mpsc::Receiver<News>,
}

/// One worker process and the orders that it was handed.
#[derive(Debug)]
struct Hand {
    child: Child,
    orders_in: ChildStdin,
    incarnation: u32,
    orders: HashMap<String, Order>,
}

impl Crew {
    /// Starts so many workers.
    pub async fn hire(workers: usize, hire: Hire, logs: PathBuf) -> io::Result<Self> {
        let (teller, news) = mpsc::channel(1024);
        let mut crew = Self { hire, logs, hands: Vec::new(), teller, news };
        for place in 0..workers {
            let hand = crew.start(place, 1).await?;
            crew.hands.push(hand);
        }
        Ok(crew)
    }

    /// Hands an order to the worker that has the fewest.
    pub async fn hand(&mut self, order: &Order) -> io::Result<()> {
        let least = self.hands.iter_mut().min_by_key(|hand| hand.orders.len());
        least.expect("a crew has at least one worker").hand(order).await
    }

    /// The next news.
    pub async fn news(&mut self) -> News {
        self.news.recv().await.expect("the crew itself holds a sender")
    }

    /// An order has ended, whoever said so.
    pub fn ended(&mut self, order: &str) {
        for hand in &mut self.hands {
            hand.orders.remove(order);
        }
    }

    /// Whether this incarnation is the present one, and so was not killed by us.
    pub fn is_present(&self, place: usize, incarnation: u32) -> bool {
        self.hands[place].incarnation == incarnation
    }

    /// How many workers there are.
    pub fn size(&self) -> usize {
        self.hands.len()
    }

    /// Kills a worker with SIGKILL, wherever it stands, starts another in its place, and hands it the orders
    /// whose end was not heard of.
    pub async fn kill(&mut self, place: usize) -> io::Result<()> {
        self.hands[place].child.kill().await?;
        let incarnation = self.hands[place].incarnation + 1;
        let hand = self.start(place, incarnation).await?;
        let killed = std::mem::replace(&mut self.hands[place], hand);
        for order in killed.orders.values() {
            self.hands[place].hand(order).await?;
        }
        Ok(())
    }

    /// Lets every worker drain and leave; kills those that do not in time. Names the ones that ended badly.
    pub async fn dismiss(self) -> io::Result<Vec<(usize, ExitStatus)>> {
        let Self { hands, mut news, teller, .. } = self;
        drop(teller);
        // What they still say must not fill the pipe.
        let listener = tokio::spawn(async move { while news.recv().await.is_some() {} });
        let mut children = Vec::new();
        for Hand { child, orders_in, .. } in hands {
            drop(orders_in);
            children.push(child);
        }
        let mut bad = Vec::new();
        for (place, mut child) in children.into_iter().enumerate() {
            let status = match tokio::time::timeout(GRACE, child.wait()).await {
                Ok(status) => status?,
                Err(_) => {
                    child.kill().await?;
                    child.wait().await?
                }
            };
            if !status.success() {
                bad.push((place, status));
            }
        }
        let _ = listener.await;
        Ok(bad)
    }

    async fn start(&self, place: usize, incarnation: u32) -> io::Result<Hand> {
        let log = self.logs.join(format!("worker-{}.log", place + 1));
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg(WORKER)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // Ctrl-C at a terminal reaches the whole group; when to leave is the shop's decision.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let mut orders_in = child.stdin.take().expect("it is piped");
        let out = child.stdout.take().expect("it is piped");
        write_line(&mut orders_in, &self.hire).await?;
        tokio::spawn(listen(out, place, incarnation, self.teller.clone()));
        Ok(Hand { child, orders_in, incarnation, orders: HashMap::new() })
    }
}

impl Hand {
    async fn hand(&mut self, order: &Order) -> io::Result<()> {
        self.orders.insert(order.id.clone(), order.clone());
        match write_line(&mut self.orders_in, order).await {
            // It died; that is told by its output's end, and its orders are kept here.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }
}

async fn write_line(into: &mut ChildStdin, value: &impl serde::Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    into.write_all(&line).await
}

async fn listen(out: ChildStdout, place: usize, incarnation: u32, teller: mpsc::Sender<News>) {
    let mut lines = BufReader::new(out).lines();
    // A line cut short by a kill does not read; its order is handed out again.
    while let Ok(Some(line)) = lines.next_line().await {
        if let Ok(said) = serde_json::from_str(&line)
            && teller.send(News::Said(said)).await.is_err()
        {
            return;
        }
    }
    let _ = teller.send(News::Gone(place, incarnation)).await;
}
