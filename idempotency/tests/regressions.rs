//! Bugs that other libraries have shipped, each as a test that is named for its class. Those that are promises of
//! a store are in the public conformance suite; this list says where.
//!
//! | class | test |
//! |---|---|
//! | a live claim taken for an orphan | `http: a_slow_handler_keeps_its_claim`, `testing: a_missing_deadline_is_a_lock` |
//! | a missing deadline treated as free | `testing: a_missing_deadline_is_a_lock` |
//! | takeover while the holder still runs | `testing: taking_over_fences_the_old_holder` |
//! | completion without a check of ownership | `testing: taking_over_fences_the_old_holder` |
//! | two answers for one key | `http: who_was_taken_over_gives_the_winners_answer_and_not_its_own` |
//! | expiry during execution | `testing: sweeping_never_takes_a_running_row`, `claim: a_running_row_never_expires` |
//! | a sweeper that deletes what runs | `testing: sweeping_never_takes_a_running_row` |
//! | seconds compared with milliseconds | `testing: a_second_claim_is_in_flight_for_the_rest_of_the_lease` |
//! | a winner that commits after the loser's snapshot | `postgres_late_winner_is_seen`, `fused: many_duplicates_in_two_processes_take_effect_once` |
//! | get-then-delete on Redis | `testing: renewals_and_takeovers_never_both_win` (one script) |
//! | a failed completion that deletes the record | `http: a_lost_answer_of_the_completion_is_asked_again` |
//! | a lost race that surfaces as 503 | `testing: one_of_many_claims_wins` |
//! | 409 where 422 is due | `http: a_duplicate_in_flight_gets_409_with_retry_after_from_the_lease` |
//! | validation skipped on the fast path | `testing: another_request_under_the_key_is_a_mismatch_in_every_state` |
//! | the digest lost on completion | the same, "completed" |
//! | failures cached | `http: a_decline_is_kept_and_a_validation_error_is_not` |
//! | `Set-Cookie` replayed | `http: a_cookie_and_headers_not_on_the_list_are_never_replayed` |
//! | an oversized answer runs again | `http: an_answer_over_the_limit_reaches_the_first_and_leaves_a_tombstone` |
//! | the key freed on disconnect | `http: a_client_that_goes_away_frees_no_key_and_stops_no_handler` |
//! | a seed per process | `secret: two_processes_with_one_secret_agree_and_two_tenants_never_meet` |
//! | the header's quotes part of the key | `http: a_bare_token_and_a_quoted_string_are_one_key` |
//! | JSON's member order a mismatch | `http: canonical_json_compares_what_is_said` |
//! | a new key per retry | `client: a_key_that_is_there_stays`, `one_key_for_all_attempts` |
//! | a kept outcome that blocks a retry after compensation | `testing: a_compensation_after_its_action_runs_once` |

use std::io::Write;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderMap, Request, Response, StatusCode};
use axum::routing::post;
use http_body_util::BodyExt;
use idempotency::client::{Outcome, Retries, Send};
use idempotency::{IdempotencyLayer, Key, MemoryStore, Scope, Secret};
use tower::ServiceExt;

fn layer(store: &MemoryStore) -> IdempotencyLayer {
    IdempotencyLayer::leased(store.clone(), Secret::new([5; 32]))
        .scope(|request| Some(Scope::of([request.headers.get("x-tenant")?.to_str().ok()?])))
}

fn request(tenant: &str, path: &str, key: &str) -> Request<Body> {
    let request =
        Request::post(path).header("x-tenant", tenant).header("idempotency-key", format!("\"{key}\""));
    request.body(Body::empty()).unwrap()
}

async fn text(response: Response<impl http_body::Body<Error: std::fmt::Debug>>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// Nested routers strip their prefix from the URI: siblings looked the same, and replayed each other's answers.
#[tokio::test]
async fn nested_routers_do_not_share_keys() {
    let capture = |name: &'static str| move |Path(id): Path<u32>| async move { format!("{name} {id}") };
    let layer = layer(&MemoryStore::new());
    let nested = |name| Router::new().route("/{id}/capture", post(capture(name))).layer(layer.clone());
    let app = Router::new().nest("/orders", nested("order")).nest("/invoices", nested("invoice"));
    let send = |path| app.clone().oneshot(request("acme", path, "k"));
    assert_eq!(text(send("/orders/1/capture").await.unwrap()).await, "order 1");
    assert_eq!(send("/invoices/1/capture").await.unwrap().status(), StatusCode::UNPROCESSABLE_ENTITY);
    // The route's template is the same, the target is not.
    assert_eq!(send("/orders/2/capture").await.unwrap().status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(text(send("/orders/1/capture").await.unwrap()).await, "order 1");
}

/// The default scope was everybody's: one tenant read another's answer.
#[tokio::test]
async fn tenants_never_see_each_others_answers() {
    let handler = |headers: HeaderMap| async move { headers["x-tenant"].to_str().unwrap().to_owned() };
    let app = Router::new().route("/charges", post(handler)).layer(layer(&MemoryStore::new()));
    for _ in 0..2 {
        for tenant in ["acme", "globex"] {
            let response = app.clone().oneshot(request(tenant, "/charges", "same-key")).await.unwrap();
            assert_eq!(text(response).await, tenant);
        }
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A raw key in a log gives whoever reads it the stored answers.
#[tokio::test(flavor = "current_thread")]
async fn raw_keys_are_in_no_log_and_no_debug_output() {
    const CANARY: &str = "canary-7f3a";
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let handler = |execution: idempotency::Execution, body: String| async move {
        tracing::info!(?execution, "in the handler");
        if body == "fail" { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::CREATED }
    };
    let layer = layer(&MemoryStore::new()).required();
    let app = Router::new().route("/charges", post(handler)).layer(layer.clone());
    for body in ["ok", "ok", "other", "fail", "fail"] {
        let key = format!("{CANARY}-{}", body == "fail");
        let (parts, _) = request(CANARY, "/charges", &key).into_parts();
        let response = app.clone().oneshot(Request::from_parts(parts, Body::from(body))).await.unwrap();
        assert!(!text(response).await.contains(CANARY));
    }
    tracing::info!(?layer, key = ?Key::new(CANARY).unwrap(), scope = ?Scope::of([CANARY]), "debug");
    let written = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(written.contains("in the handler"), "the log is on");
    assert!(!written.contains(CANARY), "{written}");
}

/// Every attempt of one call carries one key; what a died process retries, its caller names.
#[tokio::test]
async fn one_key_for_all_attempts() {
    let keys: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = keys.clone();
    let handler = move |headers: HeaderMap| async move {
        let mut seen = seen.lock().unwrap();
        seen.push(headers["idempotency-key"].to_str().unwrap().to_owned());
        // Its effect is unknown twice; the third answer is definite.
        if seen.len() < 3 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::CREATED }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/charges", listener.local_addr().unwrap());
    let server =
        tokio::spawn(
            async move { axum::serve(listener, Router::new().route("/charges", post(handler))).await },
        );
    let retries = Retries { pause: std::time::Duration::from_millis(1), ..Retries::default() };
    let send = Send::new(Key::new("order-1/charge").unwrap()).retries(retries);
    let outcome = send.request(reqwest::Client::new().post(&url)).await;
    assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
    assert_eq!(*keys.lock().unwrap(), ["\"order-1/charge\""; 3]);
    server.abort();
}

/// A refused connection has no effect, but it does not undo an earlier doubt.
#[tokio::test]
async fn doubt_survives_a_refused_connection() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/charges", listener.local_addr().unwrap());
    let client = reqwest::Client::new();
    // The first connection is taken, and broken once the request has come; the later ones find nobody.
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        drop(listener);
        let mut request = [0; 64];
        tokio::io::AsyncReadExt::read_exact(&mut socket, &mut request).await.unwrap();
    });
    let retries = Retries { pause: std::time::Duration::from_millis(1), ..Retries::default() };
    let doubtful =
        Send::new(Key::random()).retries(retries).request(client.post(&url).body("x".repeat(100))).await;
    assert!(matches!(doubtful, Outcome::Unknown { .. }), "{doubtful:?}");
    server.await.unwrap();
    let refused = Send::new(Key::random()).retries(retries).request(client.post(&url)).await;
    assert!(matches!(refused, Outcome::NotApplied { .. }), "{refused:?}");
}

/// `ON CONFLICT DO NOTHING` with a read in the same statement sees neither row when the winner commits after its
/// snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn postgres_late_winner_is_seen() {
    use idempotency::{Claim, ClaimRequest, Fingerprint, PostgresStore, Store, sqlx, testing};
    let server = server::Postgres::start();
    let store = PostgresStore::connect(server.url()).await.unwrap();
    let print = Fingerprint::new(&Secret::new([5; 32]), b"POST", b"/charges", b"");
    let request = ClaimRequest::new(testing::key_id("late"), print);
    let mut winner = store.pool().begin().await.unwrap();
    let insert = "INSERT INTO idempotency.keys (id, action, undo, refused, doubt, running, stamp, fence, \
                  action_print, action_answer, created_at, expires_at) \
                  VALUES ($1, 2, 0, false, false, false, $2, 1, $3, 'won', now(), now() + interval '1 hour')";
    let insert =
        sqlx::query(insert).bind(request.id.0.to_vec()).bind(vec![7_u8; 16]).bind(print.as_bytes().to_vec());
    insert.execute(&mut *winner).await.unwrap();
    let loser = tokio::spawn({
        let (store, request) = (store.clone(), request.clone());
        async move { store.claim(&request).await.unwrap() }
    });
    // The loser has its snapshot, and waits on the index for the winner's row.
    let waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)";
    while !sqlx::query_scalar::<_, bool>(waiting).fetch_one(store.pool()).await.unwrap() {
        tokio::task::yield_now().await;
    }
    winner.commit().await.unwrap();
    let Claim::Replay(kept) = loser.await.unwrap() else { panic!("the winner's answer is there") };
    assert_eq!(&kept.answer[..], b"won");
}

#[path = "server/mod.rs"]
mod server;
