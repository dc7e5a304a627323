//! One process: runs the keys that it is told, through the whole layer, until it is killed.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use idempotency::fused::{PgTx, SqliteTx};
use idempotency::layer::Body;
use idempotency::{IdempotencyLayer, PostgresStore, Secret, SqliteStore, sqlx, store};
use tower::{Layer, ServiceExt, service_fn};

use super::{DUPLICATES_PER_KEY, Outcome, WORKERS};

type Answer = Result<Response<Full<Bytes>>, std::convert::Infallible>;
/// Sends one request under a key, and gives the status of its answer.
type Ask = Arc<dyn Fn(u64) -> BoxFuture<'static, StatusCode> + Send + Sync>;

const LEASE: Duration = Duration::from_secs(2);

/// Reads lines `<from> <to>` (keys of a batch) or `calm <from> <to>`, and answers each with a line.
pub(crate) async fn run(guarantee: &str, url: &str, ledger: &str, storm: &str) -> Outcome {
    // A handler's panic is part of the storm, and no news.
    std::panic::set_hook(Box::new(|_| {}));
    let storm: u64 = storm.parse()?;
    let ask = connect(guarantee, url, ledger, storm).await?;
    println!("ready");
    let (say, mut lines) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        std::io::stdin().lines().map_while(Result::ok).try_for_each(|line| say.send(line))
    });
    while let Some(line) = lines.recv().await {
        let words: Vec<&str> = line.split(' ').collect();
        let (calm, from, to) = match words[..] {
            ["calm", from, to] => (true, from.parse()?, to.parse()?),
            [from, to] => (false, from.parse()?, to.parse()?),
            _ => return Err(format!("not a batch: {line}").into()),
        };
        let keys = from..to;
        if calm {
            let answers = join_all(keys.map(|key| settle(&ask, key))).await;
            let count = |status| answers.iter().filter(|own| **own == status).count();
            println!("done {} {}", count(StatusCode::CREATED), count(StatusCode::CONFLICT));
        } else {
            join_all(
                keys.flat_map(|key| (0..DUPLICATES_PER_KEY / WORKERS + 1).map(move |_| key))
                    .map(|key| ask(key)),
            )
            .await;
            println!("done 0 0");
        }
    }
    Ok(())
}

/// Asks until the answer is final: applied, or in doubt for good.
async fn settle(ask: &Ask, key: u64) -> StatusCode {
    let mut doubts = 0;
    loop {
        match ask(key).await {
            StatusCode::CREATED => return StatusCode::CREATED,
            // In flight turns into unknown when its holder's lease ends; unknown never turns into anything.
            StatusCode::CONFLICT if doubts > 40 => return StatusCode::CONFLICT,
            StatusCode::CONFLICT => doubts += 1,
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn connect(guarantee: &str, url: &str, ledger: &str, storm: u64) -> Outcome<Ask> {
    let secret = Secret::new([9; 32]);
    if guarantee == "leased" {
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
            let response = service.oneshot(request.expect("a valid request")).await;
            response.map_or(StatusCode::INTERNAL_SERVER_ERROR, |response| response.status())
        })
    })
}

/// An effect outside the store: a line in a file, written by one call and therefore whole.
async fn charge_outside(ledger: Arc<std::fs::File>, request: Request<Body>) -> Answer {
    trouble();
    let line = format!("{}\n", key(&request));
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
