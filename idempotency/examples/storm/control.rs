//! Sends the workers into the storm, kills them, and collects what they leave.

use std::process::Stdio;
use std::time::{Duration, Instant};

use idempotency::{PostgresStore, SqliteStore, sqlx};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::redis::Redis;
use super::report::Effect;
use super::worker::{MARK, SCRIPT, Script};
use super::{DUPLICATES_PER_KEY, Guarantee, Outcome, Plan, Report, WORKERS};

/// How a worker is started: this program again, which finds its script in the environment.
pub(crate) struct Launch {
    arguments: Vec<String>,
}

impl Launch {
    /// With these arguments.
    pub(crate) fn this_program(arguments: &[&str]) -> Self {
        Self { arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect() }
    }
}

/// Keys that are asked for at once when the storm is over.
const CALM_BATCH: u64 = 400;

struct Storm<'a> {
    plan: &'a Plan,
    launch: &'a Launch,
    script: Script,
    redis: Option<Redis>,
    workers: Vec<Worker>,
    random: StdRng,
    strikes: u64,
    killed: u64,
    heard: u64,
}

/// Storms, and reports; whether what is reported was promised is for [`Report::judge`].
pub(crate) async fn run(plan: &Plan, launch: &Launch) -> Outcome<Report> {
    let redis = Redis::of(&plan.store).await?;
    let url = redis.as_ref().map_or_else(|| plan.store.clone(), Redis::url);
    prepare(plan.guarantee, &url).await?;
    let ledger = tempfile::NamedTempFile::new()?.into_temp_path();
    let script =
        Script { guarantee: plan.guarantee, url, ledger: ledger.to_path_buf(), storm: rand::random() };
    let random = StdRng::seed_from_u64(plan.seed);
    let (workers, strikes, killed, heard) = (Vec::new(), 0, 0, 0);
    let mut storm = Storm { plan, launch, script, redis, workers, random, strikes, killed, heard };
    for _ in 0..WORKERS {
        let worker = storm.worker().await?;
        storm.workers.push(worker);
    }
    let begin = Instant::now();
    storm.blow().await?;
    let spent = begin.elapsed();
    let (answered, doubtful) = storm.calm().await?;
    Ok(Report {
        plan: plan.clone(),
        spent,
        killed: storm.killed,
        heard: storm.heard,
        answered,
        doubtful,
        effects: storm.script.effects().await?,
        deaths: storm.redis.map(|redis| redis.deaths.clone()).unwrap_or_default(),
    })
}

impl Storm<'_> {
    async fn blow(&mut self) -> Outcome {
        let (keys, batch) = (self.plan.keys(), self.plan.batch());
        let share = DUPLICATES_PER_KEY / WORKERS;
        // Somebody is killed at a random moment of a batch, which takes about as long as the last one.
        let mut usual = Duration::from_millis(30);
        for from in (0..keys).step_by(batch as usize) {
            let begin = Instant::now();
            for worker in &mut self.workers {
                worker.say(&format!("storm {from} {} {share}\n", (from + batch).min(keys))).await;
            }
            // The first two batches for certain: a small storm is one, too.
            if from < 2 * batch || self.random.random_ratio(1, 2) {
                tokio::time::sleep(usual.mul_f64(self.random.random())).await;
                self.strike().await?;
            } else {
                usual = begin.elapsed().max(usual / 2);
            }
            for at in 0..self.workers.len() {
                if let Some(counts) = self.workers[at].hear().await {
                    self.heard += counts[0];
                }
                // It may have been killed after its last word.
                if self.workers[at].killed {
                    self.workers[at] = self.worker().await?;
                }
            }
            usual = begin.elapsed().min(Duration::from_secs(2)).max(usual / 2);
        }
        Ok(())
    }

    /// Kills one worker, or two; or every second time the store, if it is the storm's own.
    async fn strike(&mut self) -> Outcome {
        self.strikes += 1;
        if let Some(redis) = self.redis.as_mut().filter(|_| self.strikes.is_multiple_of(2)) {
            return redis.kill_and_restart().await;
        }
        for _ in 0..self.random.random_range(1..=2) {
            let victim = self.random.random_range(0..self.workers.len());
            let victim = &mut self.workers[victim];
            victim.child.kill().await?;
            self.killed += u64::from(!std::mem::replace(&mut victim.killed, true));
        }
        Ok(())
    }

    /// Asks for every key until its answer is final: how many have one, and how many are in doubt for good.
    async fn calm(&mut self) -> Outcome<(u64, u64)> {
        let (mut answered, mut doubtful) = (0, 0);
        let keys = self.plan.keys();
        for from in (0..keys).step_by(CALM_BATCH as usize) {
            let worker = &mut self.workers[0];
            worker.say(&format!("calm {from} {}\n", (from + CALM_BATCH).min(keys))).await;
            let counts = worker.hear().await.ok_or("a worker died in peace")?;
            answered += counts[0];
            doubtful += counts[1];
        }
        Ok((answered, doubtful))
    }

    async fn worker(&self) -> Outcome<Worker> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(&self.launch.arguments)
            .env(SCRIPT, self.script.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let to = child.stdin.take().ok_or("no stdin")?;
        let from = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
        let mut worker = Worker { child, to, from, killed: false };
        worker.hear().await.ok_or("a worker did not start: is the store reachable?")?;
        Ok(worker)
    }
}

struct Worker {
    child: Child,
    to: ChildStdin,
    from: Lines<BufReader<ChildStdout>>,
    killed: bool,
}

impl Worker {
    /// To a dead worker nothing can be said, and its silence is heard later.
    async fn say(&mut self, line: &str) {
        let _ = self.to.write_all(line.as_bytes()).await;
    }

    /// The numbers of its next report; `None` from a dead worker.
    async fn hear(&mut self) -> Option<Vec<u64>> {
        loop {
            let line = self.from.next_line().await.ok().flatten()?;
            if let Some((_, report)) = line.split_once(MARK) {
                return Some(report.split(' ').filter_map(|count| count.parse().ok()).collect());
            }
        }
    }
}

impl Script {
    async fn effects(&self) -> Outcome<Vec<Effect>> {
        let of_row = |key: i64| Effect { key, at: 0 };
        let all = "SELECT key FROM storm_charges";
        if self.guarantee == Guarantee::Leased {
            let lines = std::fs::read_to_string(&self.ledger)?;
            let effect = |line: &str| {
                let (key, at) = line.split_once(' ')?;
                Some(Effect { key: key.parse().ok()?, at: at.parse().ok()? })
            };
            return Ok(lines.lines().filter_map(effect).collect());
        }
        let keys: Vec<i64> = match self.url.starts_with("sqlite") {
            true => {
                let store = SqliteStore::connect(&self.url).await?;
                sqlx::query_scalar(all).fetch_all(store.pool()).await?
            }
            false => {
                let store = PostgresStore::connect(&self.url).await?;
                sqlx::query_scalar(all).fetch_all(store.pool()).await?
            }
        };
        Ok(keys.into_iter().map(of_row).collect())
    }
}

async fn prepare(guarantee: Guarantee, url: &str) -> Outcome {
    if guarantee == Guarantee::Leased {
        return Ok(());
    }
    for statement in
        ["DROP TABLE IF EXISTS storm_charges", "CREATE TABLE storm_charges (key BIGINT NOT NULL)"]
    {
        match url.starts_with("sqlite") {
            true => {
                sqlx::query(statement).execute(SqliteStore::connect(url).await?.pool()).await.map(drop)?
            }
            false => {
                sqlx::query(statement).execute(PostgresStore::connect(url).await?.pool()).await.map(drop)?
            }
        }
    }
    Ok(())
}
