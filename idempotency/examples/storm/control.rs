//! The process that sends the others into the storm, kills them, and counts.

use std::collections::HashMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use idempotency::{PostgresStore, SqliteStore, sqlx};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::{DUPLICATES_PER_KEY, Outcome, WORKERS};

/// Keys that are in the storm at the same time.
const BATCH: u64 = 16;

struct Worker {
    child: Child,
    to: ChildStdin,
    from: Lines<BufReader<ChildStdout>>,
}

struct Storm {
    guarantee: String,
    url: String,
    ledger: tempfile::TempPath,
    number: u64,
}

pub(crate) async fn run(guarantee: &str, url: &str, duplicates: u64, seed: u64) -> Outcome {
    println!("storm: {guarantee}, {duplicates} duplicates, seed {seed}");
    let storm = Storm {
        guarantee: guarantee.to_owned(),
        url: url.to_owned(),
        ledger: tempfile::NamedTempFile::new()?.into_temp_path(),
        number: rand::random(),
    };
    prepare(guarantee, url).await?;
    let mut random = StdRng::seed_from_u64(seed);
    let keys = duplicates.div_ceil(DUPLICATES_PER_KEY);
    let begin = Instant::now();
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(storm.worker().await?);
    }
    let mut killed = 0;
    for from in (0..keys).step_by(BATCH as usize) {
        let to = (from + BATCH).min(keys);
        for worker in &mut workers {
            worker.say(&format!("{from} {to}\n")).await;
        }
        let victim = random.random_ratio(1, 3).then(|| random.random_range(0..workers.len()));
        if let Some(victim) = victim {
            tokio::time::sleep(Duration::from_micros(random.random_range(0..60_000))).await;
            workers[victim].child.kill().await?;
            killed += 1;
        }
        for worker in &mut workers {
            if worker.hear().await.is_none() {
                *worker = storm.worker().await?;
            }
        }
    }
    let spent = begin.elapsed();
    println!(
        "storm: {killed} processes killed, {:.0} duplicates/s; asking in peace",
        duplicates as f64 / spent.as_secs_f64()
    );
    let (applied, doubtful) = calm(&mut workers[0], keys).await?;
    let effects = storm.effects(keys).await?;
    let most = effects.values().copied().max().unwrap_or(0);
    let twice = effects.values().filter(|count| **count > 1).count();
    println!(
        "storm: {keys} keys: {applied} answered, {doubtful} in doubt, {} took effect, {twice} more than once",
        effects.len()
    );
    storm.judge(keys, applied, doubtful, effects.len() as u64, twice, most)
}

async fn calm(worker: &mut Worker, keys: u64) -> Outcome<(u64, u64)> {
    let (mut applied, mut doubtful) = (0, 0);
    for from in (0..keys).step_by(BATCH as usize) {
        worker.say(&format!("calm {from} {}\n", (from + BATCH).min(keys))).await;
        let line = worker.hear().await.ok_or("a worker died in peace")?;
        let counts: Vec<u64> = line.split(' ').skip(1).filter_map(|count| count.parse().ok()).collect();
        applied += counts[0];
        doubtful += counts[1];
    }
    Ok((applied, doubtful))
}

impl Storm {
    async fn worker(&self) -> Outcome<Worker> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["worker", &self.guarantee, &self.url])
            .arg(&self.ledger)
            .arg(self.number.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let to = child.stdin.take().ok_or("no stdin")?;
        let from = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
        let mut worker = Worker { child, to, from };
        worker.hear().await.ok_or("a worker did not start: is the store reachable?")?;
        Ok(worker)
    }

    /// How often each key took effect.
    async fn effects(&self, keys: u64) -> Outcome<HashMap<i64, u64>> {
        let all: Vec<i64> = match (self.guarantee.as_str(), self.url.starts_with("sqlite")) {
            ("leased", _) => {
                std::fs::read_to_string(&self.ledger)?.lines().filter_map(|key| key.parse().ok()).collect()
            }
            (_, true) => {
                let store = SqliteStore::connect(&self.url).await?;
                sqlx::query_scalar("SELECT key FROM storm_charges").fetch_all(store.pool()).await?
            }
            (_, false) => {
                let store = PostgresStore::connect(&self.url).await?;
                sqlx::query_scalar("SELECT key FROM storm_charges").fetch_all(store.pool()).await?
            }
        };
        let mut effects = HashMap::with_capacity(keys as usize);
        for key in all {
            *effects.entry(key).or_default() += 1;
        }
        Ok(effects)
    }

    fn judge(
        &self,
        keys: u64,
        applied: u64,
        doubtful: u64,
        effects: u64,
        twice: usize,
        most: u64,
    ) -> Outcome {
        let redis = self.url.starts_with("redis");
        if twice > 0 && redis {
            println!(
                "storm: {twice} keys ran again because redis forgot them: that is what its durability lost"
            );
        } else if twice > 0 {
            return Err(format!("{twice} keys took effect more than once, one of them {most} times").into());
        }
        if self.guarantee == "fused" && (applied, effects) != (keys, keys) {
            return Err(format!("{applied} answers and {effects} effects for {keys} keys").into());
        }
        if applied + doubtful != keys || effects < applied {
            return Err(format!(
                "{applied} answered + {doubtful} in doubt of {keys}, with {effects} effects"
            )
            .into());
        }
        println!("storm: kept");
        Ok(())
    }
}

impl Worker {
    /// To a dead worker nothing can be said, and its silence is heard later.
    async fn say(&mut self, line: &str) {
        let _ = self.to.write_all(line.as_bytes()).await;
    }

    async fn hear(&mut self) -> Option<String> {
        self.from.next_line().await.ok().flatten()
    }
}

async fn prepare(guarantee: &str, url: &str) -> Outcome {
    if guarantee == "leased" {
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
