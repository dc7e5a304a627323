//! One process: asks for the keys that it is told, through the whole layer, until it is killed.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use idempotency::fused::{PgTx, SqliteTx};
use idempotency::headers::Status;
use idempotency::layer::Body;
use idempotency::{IdempotencyLayer, PostgresStore, Secret, SqliteStore, sqlx, store};
use tower::{Layer, ServiceExt, service_fn};

use super::{Guarantee, Outcome, now};

/// The variable that holds a worker's script.
pub(crate) const SCRIPT: &str = "IDEMPOTENCY_STORM_WORKER";
/// What stands before a worker's reports: who started it may print lines of its own.
pub(crate) const MARK: &str = "storm worker: ";

/// What a worker is told when it is started.
pub(crate) struct Script {
    pub(crate) guarantee: Guarantee,
    pub(crate) url: String,
    pub(crate) ledger: PathBuf,
    /// Tells the keys of this storm from those of others.
    pub(crate) storm: u64,
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}\n{}\n{}", self.guarantee.word(), self.url, self.ledger.display(), self.storm)
    }
}

/// The script, in a process that is a worker.
pub(crate) fn script() -> Option<String> {
    std::env::var(SCRIPT).ok()
}

type Answer = Result<Response<Full<Bytes>>, std::convert::Infallible>;
/// Sends one request under a key, and gives what its answer says.
type Ask = Arc<dyn Fn(u64) -> BoxFuture<'static, Told> + Send + Sync>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Charged,
    /// Nobody knows, and asking again will not tell.
    Unknown,
    /// Ask again.
    Later,
}

const LEASE: Duration = Duration::from_secs(2);

/// Reads lines `storm <from> <to> <times>` or `calm <from> <to>`, and answers each with a line of numbers.
pub(crate) async fn work(script: &str) -> Outcome {
    let [guarantee, url, ledger, storm] = script.split('\n').collect::<Vec<_>>()[..] else {
        return Err("not a worker's script".into());
    };
    // A handler's panic is part of the storm, and no news.
    std::panic::set_hook(Box::new(|_| {}));
    let ask = connect(guarantee.parse()?, url, ledger, storm.parse()?).await?;
    println!("{MARK}ready");
    let (say, mut lines) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        std::io::stdin().lines().map_while(Result::ok).try_for_each(|line| say.send(line))
    });
    while let Some(line) = lines.recv().await {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["storm", from, to, times] => {
                let (from, to, times): (u64, u64, u64) = (from.parse()?, to.parse()?, times.parse()?);
                let duplicates = (0..times).flat_map(|_| from..to);
                let heard = join_all(duplicates.map(|key| tokio::spawn(ask(key)))).await.len();
                println!("{MARK}{heard}");
            }
            ["calm", from, to] => {
                let keys = from.parse()?..to.parse()?;
                let told = join_all(keys.map(|key| settle(&ask, key))).await;
                let count = |what| told.iter().filter(|own| **own == what).count();
                println!("{MARK}{} {}", count(Told::Charged), count(Told::Unknown));
            }
            _ => return Err(format!("not a batch: {line}").into()),
        }
    }
    Ok(())
}

/// Asks until the answer is final. What is in flight is over when its holder's lease is.
async fn settle(ask: &Ask, key: u64) -> Told {
    loop {
        match ask(key).await {
            Told::Later => tokio::time::sleep(Duration::from_millis(100)).await,
            told => return told,
        }
    }
}

async fn connect(guarantee: Guarantee, url: &str, ledger: &str, storm: u64) -> Outcome<Ask> {
    let secret = Secret::new([9; 32]);
    if guarantee == Guarantee::Leased {
        let file = Arc::new(std::fs::File::options().append(true).create(true).open(ledger)?);
        let handler = service_fn(move |request: Request<Body>| charge_outside(file.clone(), request));
        let layer = IdempotencyLayer::leased(store::connect(url).await?, secret).global_keys().lease(LEASE);
        return Ok(asking(layer.layer(handler), storm));
    }
    if url.starts_with("sqlite") {
        let handler = service_fn(|mut request: Request<Body>| async move {
            let mut tx = SqliteTx::take(&mut request).expect("the layer lends a transaction");
            let key = key(&request);
            trouble();
            let charge = sqlx::query("INSERT INTO storm_charges (key) VALUES ($1)").bind(key);
            charge.execute(&mut *tx).await.expect("the file can be written");
            trouble();
            created()
        });
        let layer = IdempotencyLayer::fused(SqliteStore::connect(url).await?, secret).global_keys();
        return Ok(asking(layer.layer(handler), storm));
    }
    let handler = service_fn(|mut request: Request<Body>| async move {
        let mut tx = PgTx::take(&mut request).expect("the layer lends a transaction");
        let key = key(&request);
        trouble();
        let charge = sqlx::query("INSERT INTO storm_charges (key) VALUES ($1)").bind(key);
        charge.execute(&mut *tx).await.expect("the server answers");
        trouble();
        created()
    });
    let layer = IdempotencyLayer::fused(PostgresStore::connect(url).await?, secret).global_keys();
    Ok(asking(layer.layer(handler), storm))
}

fn asking<S, R>(service: S, storm: u64) -> Ask
where
    S: tower::Service<Request<Full<Bytes>>, Response = Response<R>, Error = std::convert::Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
{
    Arc::new(move |key| {
        let service = service.clone();
        Box::pin(async move {
            let request = Request::post("/charges").header("idempotency-key", format!("\"{storm}-{key}\""));
            let request =
                request.header("x-key", key.to_string()).body(Full::new(Bytes::from(key.to_string())));
            let Ok(response) = service.oneshot(request.expect("a valid request")).await;
            match (response.status(), Status::of(response.headers())) {
                (StatusCode::CREATED, _) => Told::Charged,
                // The answer to the one who was there when the doubt began says 500.
                (_, Some(Status::Unknown)) => Told::Unknown,
                _ => Told::Later,
            }
        })
    })
}

/// An effect outside the store: a line in a file, written by one call and therefore whole.
async fn charge_outside(ledger: Arc<std::fs::File>, request: Request<Body>) -> Answer {
    let line = format!("{} {}\n", key(&request), now());
    trouble();
    (&*ledger).write_all(line.as_bytes()).expect("the ledger can be written");
    tokio::time::sleep(Duration::from_micros(rand::random_range(0..2000))).await;
    trouble();
    created()
}

fn key(request: &Request<Body>) -> i64 {
    request.headers()["x-key"].to_str().ok().and_then(|key| key.parse().ok()).expect("a numbered key")
}

/// One handler in twenty dies before its effect, one in twenty after it.
fn trouble() {
    if rand::random_ratio(1, 20) {
        panic!("killed by the storm");
    }
}

fn created() -> Answer {
    let mut response = Response::new(Full::from("charged"));
    *response.status_mut() = StatusCode::CREATED;
    Ok(response)
}
