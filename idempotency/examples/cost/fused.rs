//! The fused guarantee against the same SQL written by hand, at 1 and at 10 business statements; and what it
//! adds in round trips and commits, counted by the server.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use idempotency::fused::{FusedStore, PgTx};
use idempotency::{IdempotencyLayer, PostgresStore, Secret, sqlx};
use sqlx::postgres::{PgPool, PgPoolOptions};
use tower::ServiceExt;

use crate::measure::{Outcome, compare};

async fn business(connection: &mut sqlx::PgConnection, statements: usize) {
    for _ in 0..statements {
        let insert = sqlx::query("INSERT INTO business (note) VALUES ($1)").bind("a row of the business");
        insert.execute(&mut *connection).await.expect("the server answers");
    }
}

/// What a careful team writes by hand into its HTTP handler: the key's id, a fingerprint, claim, savepoint, business,
/// answer, commit.
async fn by_hand(pool: PgPool, statements: usize, request: Request<Full<Bytes>>) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let key = parts.headers["idempotency-key"].to_str().expect("a key of letters and digits");
    let id = *blake3::hash(key.as_bytes()).as_bytes();
    let body = body.collect().await.expect("a whole body").to_bytes();
    let print = [parts.method.as_str().as_bytes(), parts.uri.path().as_bytes(), &body];
    let print = print.into_iter().fold(blake3::Hasher::new(), |mut hasher, part| {
        hasher.update(part);
        hasher
    });
    let mut tx = pool.begin().await.expect("the server answers");
    let claim = "INSERT INTO by_hand (id, print, created_at) VALUES ($1, $2, now()) ON CONFLICT DO NOTHING";
    let claim = sqlx::query(claim)
        .bind(id.to_vec())
        .bind(print.finalize().as_bytes().to_vec())
        .execute(&mut *tx)
        .await;
    assert_eq!(claim.expect("the server answers").rows_affected(), 1);
    sqlx::raw_sql("SAVEPOINT by_hand").execute(&mut *tx).await.expect("the server answers");
    business(&mut tx, statements).await;
    let answer =
        sqlx::query("UPDATE by_hand SET answer = $2, expires_at = now() + interval '1 day' WHERE id = $1");
    let response = answer_of_the_business();
    let kept = response.body().clone().collect().await.expect("a whole body").to_bytes();
    answer.bind(id.to_vec()).bind(&kept[..]).execute(&mut *tx).await.expect("the server answers");
    tx.commit().await.expect("the server answers");
    response
}

fn answer_of_the_business() -> Response<Full<Bytes>> {
    let answer = Response::builder().status(StatusCode::CREATED).body(Full::from(vec![b'x'; 512]));
    answer.expect("a valid answer")
}

fn request() -> Request<Full<Bytes>> {
    let key: u128 = rand::random();
    let request = Request::post("/charges").header("idempotency-key", format!("\"{key:032x}\""));
    request.body(Full::new(Bytes::from_static(b"{}"))).expect("a valid request")
}

pub(crate) async fn postgres(url: &str) -> Outcome {
    let pool = PgPoolOptions::new().max_connections(16).connect(url).await?;
    for table in [
        "DROP TABLE IF EXISTS business, by_hand",
        "CREATE TABLE business (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text)",
        "CREATE TABLE by_hand (id bytea PRIMARY KEY, print bytea, answer bytea, created_at timestamptz, \
         expires_at timestamptz)",
        "CREATE INDEX ON by_hand (expires_at) WHERE expires_at IS NOT NULL",
    ] {
        sqlx::query(table).execute(&pool).await?;
    }
    let store = PostgresStore::connect(url).await?;
    let layer = IdempotencyLayer::fused(store.clone(), Secret::new([1; 32])).global_keys();
    for statements in [1_usize, 10] {
        let handler = tower::service_fn(move |mut request: Request<idempotency::layer::Body>| async move {
            let mut tx = PgTx::take(&mut request).expect("the layer lends a transaction");
            business(&mut tx, statements).await;
            Ok::<_, std::convert::Infallible>(answer_of_the_business())
        });
        let service = tower::Layer::layer(&layer, handler);
        for tasks in [1, 16] {
            let (limit, ours) = (pool.clone(), service.clone());
            let fused = move || {
                let service = ours.clone();
                async move {
                    let response = service.oneshot(request()).await.expect("it cannot fail");
                    assert_eq!(response.status(), StatusCode::CREATED);
                }
            };
            let what = format!("postgres, fused, {statements} business statement(s)");
            let by_hand = move || {
                let pool = limit.clone();
                async move {
                    let response = by_hand(pool, statements, request()).await;
                    assert_eq!(response.status(), StatusCode::CREATED);
                }
            };
            let limit = ("the same by hand", by_hand);
            compare(&what, tasks, limit.clone(), ("the layer", fused)).await;
            let own = store.clone();
            let without_http = move || {
                let store = own.clone();
                async move { transaction(&store, statements, true).await.expect("the server answers") }
            };
            compare(&what, tasks, limit, ("claim_in, complete_in", without_http)).await;
        }
    }
    commits(&pool, &store).await
}

/// The business in a transaction, with a key or without, where there is no HTTP.
async fn transaction(store: &PostgresStore, statements: usize, with_key: bool) -> Outcome {
    let mut tx = store.begin().await?;
    if !with_key {
        business(&mut tx, statements).await;
        return Ok(tx.commit().await?);
    }
    let print = idempotency::Fingerprint::new(&Secret::new([1; 32]), b"m", b"t", b"b");
    let request = idempotency::ClaimRequest::new(idempotency::KeyId(rand::random()), print);
    let claim = store.claim_in(&mut tx, &request, Duration::from_secs(1)).await?;
    let idempotency::Claim::Acquired(ticket) = claim else { return Err("not acquired".into()) };
    business(&mut tx, statements).await;
    let (keep, answer) = (Duration::from_secs(3600), Bytes::from(vec![b'x'; 512]));
    store.complete_in(&mut tx, &ticket, idempotency::Verdict::Applied, answer, keep).await?;
    Ok(tx.commit().await?)
}

/// Counted by the server, not by us.
async fn commits(pool: &PgPool, store: &PostgresStore) -> Outcome {
    let count = || async {
        // A session reports its statistics at the latest when it was idle for ten seconds.
        tokio::time::sleep(Duration::from_secs(11)).await;
        let count = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
        sqlx::query_scalar::<_, i64>(count).fetch_one(pool).await
    };
    const CALLS: i64 = 500;
    let start = count().await?;
    for _ in 0..CALLS {
        transaction(store, 1, false).await?;
    }
    let alone = count().await? - start;
    let start = count().await?;
    for _ in 0..CALLS {
        transaction(store, 1, true).await?;
    }
    let fused = count().await? - start;
    // The pool's own pings count as commits too, in both.
    println!("postgres, fused: {fused} commits for {CALLS} calls; the business alone: {alone}");
    Ok(())
}
