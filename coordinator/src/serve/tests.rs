//! The server as its callers meet it: every route, by everyone who could knock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use saga_core::admin::Admin;
use saga_core::engine::{Running, Worker};
use saga_core::store::{
    Backend, Counts, Error, Filter, JournalRow, Manifest, MemoryStore, Query, Result, State, Summary,
    UnreadMail, WorkerInfo,
};
use saga_core::{Client, Cx, Definition, Ended, MailId, Name, RunId, StepError, step};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::guard::Access;
use super::routes::routes;
use super::token::Tokens;
use super::{App, console};

const ANN: &str = "ann-0123456789abcdef0123456789";
const EVE: &str = "eve-0123456789abcdef0123456789";
const LONE: &str = "lone-0123456789abcdef012345678";

/// A server with one blocked saga behind it.
struct Server {
    app: App,
    run: RunId,
    _worker: Running,
}

impl Server {
    async fn new(tokens: Tokens) -> Self {
        let (mut b, order) = Definition::build::<(), String>("ship-order", 1);
        let ok = async |_: Cx<()>, order: String| Ok::<_, StepError>(order);
        let no = async |_: Cx<()>, _: String| {
            Err::<String, _>(StepError::rejected("<img src=x onerror=alert(1)>"))
        };
        let checked = b.add(step("check", ok).no_compensation("it only looks"), order);
        let (mut b, paid) = b.pivot(step("pay", ok), checked);
        let shipped = b.add(step("ship", no), paid);
        let definition = b.finish(shipped).unwrap();
        let store = Arc::new(MemoryStore::new());
        let worker = Worker::new(store.clone(), ()).register(&definition).unwrap().start().await.unwrap();
        let saga = worker.client().start(&definition, "order-1", &"secret address".to_owned());
        let saga = saga.attribute("customer", "17").attribute("channel", "a=b").key("till-1").await.unwrap();
        let admin = Admin::new(store);
        while admin.summary(saga.run()).await.unwrap().state != State::Blocked {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Self { app: App::new(admin, tokens, "test"), run: saga.run(), _worker: worker }
    }

    async fn named() -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, format!("ann operator {ANN}\neve viewer {EVE}\n")).unwrap();
        Self::new(Tokens::read(file.path()).unwrap()).await
    }

    async fn send(&self, request: Request<Body>) -> Response<Body> {
        self.app.clone().router().oneshot(request).await.unwrap()
    }

    async fn json(&self, request: Request<Body>) -> (StatusCode, Value) {
        let response = self.send(request).await;
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (
            status,
            serde_json::from_slice(&body)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into())),
        )
    }

    /// A route's path with its parameters filled in so that it is found.
    fn path(&self, path: &str) -> String {
        path.replace("{run}", &self.run.to_string())
            .replace("{mail}", &MailId::new().to_string())
            .replace("{definition}/{saga}", "ship-order/order-1")
            .replace("{group}", "0000000000")
    }

    fn ask_path(&self) -> String {
        format!("/api/runs/{}/requests", self.run)
    }
}

fn get(path: &str, token: Option<&str>) -> Request<Body> {
    let mut request = Request::get(path).header(header::HOST, "localhost:7400");
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    request.body(Body::empty()).unwrap()
}

fn post(path: &str, token: Option<&str>, body: &Value) -> Request<Body> {
    let (mut parts, _) = get(path, token).into_parts();
    parts.method = axum::http::Method::POST;
    parts.headers.insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
    Request::from_parts(parts, Body::from(body.to_string()))
}

fn with(mut request: Request<Body>, name: &'static str, value: &str) -> Request<Body> {
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

#[tokio::test]
async fn every_route_asks_for_the_token_it_needs() {
    let server = Server::named().await;
    for route in routes() {
        let path = server.path(route.path);
        for (token, allowed) in [
            (None, Access::Open),
            (Some("wrong-0123456789abcdef01234567"), Access::Open),
            (Some(&ANN[..20]), Access::Open),
            (Some(EVE), Access::Viewer),
            (Some(ANN), Access::Operator),
        ] {
            let request = match route.method.as_str() {
                "GET" => get(&path, token),
                _ => post(&path, token, &json!({ "verb": "nonsense" })),
            };
            let status = server.send(request).await.status();
            let expected = match (route.access, allowed) {
                (Access::Open, _) | (_, Access::Operator) | (Access::Viewer, Access::Viewer) => None,
                (Access::Operator, Access::Viewer) => Some(StatusCode::FORBIDDEN),
                (_, Access::Open) => Some(StatusCode::UNAUTHORIZED),
            };
            let told = format!("{} {} with {token:?}: {status}", route.method, route.path);
            match expected {
                Some(refusal) => assert_eq!(status, refusal, "{told}"),
                None => {
                    assert!(status != StatusCode::UNAUTHORIZED && status != StatusCode::FORBIDDEN, "{told}")
                }
            }
        }
    }
}

#[tokio::test]
async fn every_write_refuses_what_a_foreign_page_could_send() {
    for server in [Server::new(Tokens::none()).await, Server::new(Tokens::one(LONE).unwrap()).await] {
        for route in routes().into_iter().filter(|route| route.method != "GET") {
            let write = || post(&server.path(route.path), Some(LONE), &json!({ "why": "x" }));
            for (request, refusal) in [
                (with(write(), "content-type", "text/plain"), StatusCode::UNSUPPORTED_MEDIA_TYPE),
                (
                    with(write(), "content-type", "application/x-www-form-urlencoded"),
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                ),
                (with(write(), "origin", "http://evil.example"), StatusCode::FORBIDDEN),
                (with(write(), "origin", "null"), StatusCode::FORBIDDEN),
                (with(write(), "origin", "http://localhost:7401"), StatusCode::FORBIDDEN),
                (with(write(), "sec-fetch-site", "cross-site"), StatusCode::FORBIDDEN),
                (with(write(), "sec-fetch-site", "same-site"), StatusCode::FORBIDDEN),
            ] {
                assert_eq!(server.send(request).await.status(), refusal, "{}", route.path);
            }
            let ours =
                with(with(write(), "origin", "http://localhost:7400"), "sec-fetch-site", "same-origin");
            let status = server.send(ours).await.status();
            assert!(
                status != StatusCode::FORBIDDEN && status != StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "{status}"
            );
        }
    }
}

#[tokio::test]
async fn without_tokens_a_foreign_name_for_this_machine_gets_nothing() {
    let server = Server::new(Tokens::none()).await;
    for route in routes().into_iter().filter(|route| route.method == "GET") {
        let request = with(get(&server.path(route.path), None), "host", "rebound.evil.example:7400");
        assert_eq!(server.send(request).await.status(), StatusCode::MISDIRECTED_REQUEST, "{}", route.path);
    }
}

#[tokio::test]
async fn every_answer_is_hardened() {
    let server = Server::named().await;
    let nowhere = get("/nowhere", None);
    let refused = get("/api/runs", None);
    for request in [get("/", None), get("/console.js", None), get("/api/runs", Some(EVE)), nowhere, refused] {
        let response = server.send(request).await;
        let headers = response.headers();
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["cache-control"], "no-store");
    }
}

#[test]
fn the_console_is_self_contained_and_writes_text_only() {
    for file in [console::PAGE, console::SCRIPT, console::GRAPH, console::STYLE] {
        for forbidden in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "https://",
            "javascript:",
        ] {
            assert!(!file.contains(forbidden), "{forbidden}");
        }
    }
    let page = console::PAGE;
    assert_eq!(page.matches("<script").count(), page.matches("<script type=\"module\" src=\"/").count());
    assert!(!page.contains("style=") && !page.contains("<style"), "no inline style");
    let handler = |word: &str| word.starts_with("on") && word.contains('=');
    assert!(!page.split_whitespace().any(handler), "no inline handler");
    assert!(!console::SCRIPT.contains("setAttribute(\"style\""));
}

#[test]
fn the_document_says_what_the_table_says() {
    let document: Value = serde_json::from_str(console::OPENAPI).unwrap();
    let paths = document["paths"].as_object().unwrap();
    for route in routes() {
        let operation = &paths[route.path][route.method.as_str().to_lowercase()];
        let access = format!("{:?}", route.access).to_lowercase();
        assert_eq!(operation["x-access"], access, "{} {}", route.method, route.path);
    }
    let documented: usize = paths.values().map(|methods| methods.as_object().unwrap().len()).sum();
    assert_eq!(documented, routes().len());
}

#[tokio::test]
async fn a_viewer_sees_no_payloads_and_an_operator_only_those_asked_for() {
    let server = Server::named().await;
    let view = format!("/api/runs/{}", server.run);
    for (path, token, allowed, secret) in [
        (view.clone(), EVE, true, false),
        (view.clone() + "?payloads=true", EVE, false, false),
        (view.clone() + "/timeline", EVE, true, false),
        (view.clone() + "/journal", EVE, false, false),
        (view.clone(), ANN, true, false),
        (view.clone() + "?payloads=true", ANN, true, true),
        (view.clone() + "/journal", ANN, true, true),
    ] {
        let (status, body) = server.json(get(&path, Some(token))).await;
        assert_eq!(status == StatusCode::OK, allowed, "{path}");
        assert_eq!(body.to_string().contains("secret address"), secret, "{path}");
    }
}

#[tokio::test]
async fn requests_are_answered_and_kept_under_the_tokens_name() {
    let server = Server::named().await;
    let refused = json!({ "verb": "skip", "at": "ship", "who": "mallory", "why": "tired of it" });
    let (status, answer) = server.json(post(&server.ask_path(), Some(ANN), &refused)).await;
    assert_eq!((status, answer["answer"].as_str()), (StatusCode::OK, Some("refused")), "{answer}");
    let mail = MailId::new();
    let resolve = json!({ "verb": "resolve", "at": "ship", "output": "by bicycle", "why": "done by hand", "mail": mail });
    for _ in 0..2 {
        let (status, answer) = server.json(post(&server.ask_path(), Some(ANN), &resolve)).await;
        assert_eq!((status, answer["answer"].as_str()), (StatusCode::OK, Some("accepted")), "{answer}");
    }
    let again = format!("{}/{mail}", server.ask_path());
    assert_eq!(server.json(get(&again, Some(EVE))).await.1["answer"], "accepted");
    let (_, timeline) = server.json(get(&format!("/api/runs/{}/timeline", server.run), Some(EVE))).await;
    let timeline = timeline.to_string();
    assert!(timeline.contains("resolve by ann (done by hand): accepted"), "{timeline}");
    assert!(!timeline.contains("mallory"));
}

#[tokio::test]
async fn a_saga_is_given_what_was_sent_whatever_it_looks_like() {
    let wrapped = json!({ "$stored": { "bytes": 1, "held": { "plain": { "text": "1" } } } });
    for output in [wrapped, json!({ "$stored": 1 }), json!([{ "$stored": 1 }, 2])] {
        let server = Server::named().await;
        let resolve = json!({ "verb": "resolve", "at": "ship", "output": output, "why": "done by hand" });
        let (_, answer) = server.json(post(&server.ask_path(), Some(ANN), &resolve)).await;
        assert_eq!(answer["answer"], "accepted", "{answer}");
        let client = Client::new(server.app.admin.backend().clone());
        let end = client.saga::<Value>(server.run).wait().await.unwrap();
        assert_eq!(end, Ended::Completed(output));
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_told() {
    let server = Server::new(Tokens::one(LONE).unwrap()).await;
    for (body, told) in [
        (json!({ "verb": "retry", "at": "ship", "why": "x" }), "who asks"),
        (json!({ "verb": "retry", "at": "ship", "who": "ann" }), "why"),
        (json!({ "verb": "retry", "who": "ann", "why": "x" }), "which place"),
        (json!({ "verb": "explode", "who": "ann", "why": "x" }), "unknown variant"),
        (json!({ "verb": "cancel", "who": "ann", "why": "x", "wat": 1 }), "unknown field"),
        (json!({ "verb": "cancel", "who": "ann\u{0}", "why": "x" }), "no control characters"),
    ] {
        let (status, problem) = server.json(post(&server.ask_path(), Some(LONE), &body)).await;
        assert!(status.is_client_error(), "{body}: {status}");
        assert!(problem["detail"].as_str().unwrap().contains(told), "{body}: {problem}");
    }
    let (status, problem) = server.json(get(&format!("/api/runs/{}", RunId::new()), Some(LONE))).await;
    assert_eq!((status, problem["code"].as_str()), (StatusCode::NOT_FOUND, Some("not_found")));
    assert_eq!(server.send(get("/api/runs/nonsense", Some(LONE))).await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(server.json(get("/api/runs?state=odd", Some(LONE))).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn what_is_blocked_is_listed_grouped_and_retried() {
    let server = Server::named().await;
    let (_, blocked) = server.json(get("/api/blocked", Some(EVE))).await;
    assert_eq!(blocked["runs"][0]["summary"]["saga"], "order-1");
    let group = blocked["groups"][0]["id"].as_str().unwrap();
    let path = format!("/api/blocked/{group}/retry");
    let (status, dry) = server.json(post(&path, Some(ANN), &json!({ "why": "x", "dry_run": true }))).await;
    assert_eq!((status, dry["runs"].as_array().unwrap().len()), (StatusCode::OK, 1));
    let (_, done) = server.json(post(&path, Some(ANN), &json!({ "why": "x" }))).await;
    assert_eq!(done["runs"][0]["answer"], "accepted", "{done}");
}

#[tokio::test]
async fn metrics_and_health_say_how_it_is() {
    let server = Server::named().await;
    let (_, text) = server.json(get("/metrics", Some(EVE))).await;
    let text = text.as_str().unwrap();
    for line in [
        "saga_store_up 1",
        "saga_runs{definition=\"ship-order\",state=\"blocked\"} 1",
        "saga_blocked_oldest_age_seconds{definition=\"ship-order\",version=\"1\"} ",
        "saga_workers{state=\"serving\"} 1",
        "saga_workers{state=\"fenced\"} 0",
        "saga_worker_renewal_oldest_age_seconds ",
    ] {
        assert!(text.lines().any(|found| found.starts_with(line)), "{line} in {text}");
    }
    assert!(!text.contains("order-1"), "no ids in labels");
    assert_eq!(server.send(get("/livez", None)).await.status(), StatusCode::OK);
    assert_eq!(server.send(get("/readyz", None)).await.status(), StatusCode::OK);
}

/// A store whose history is too long to be counted.
struct Uncounted {
    store: Arc<dyn Query>,
    counted: AtomicU32,
    /// Whether it fails at last, or counts and counts.
    fails: bool,
}

#[async_trait]
impl Query for Uncounted {
    async fn counts(&self) -> Result<Vec<Counts>> {
        self.counted.fetch_add(1, SeqCst);
        match self.fails {
            true => Err(Error::Unknown("canceling statement due to statement timeout".into())),
            false => std::future::pending().await,
        }
    }
    async fn find(&self, definition: &Name, saga: &str) -> Result<Option<Summary>> {
        self.store.find(definition, saga).await
    }
    async fn summary(&self, run: RunId) -> Result<Option<Summary>> {
        self.store.summary(run).await
    }
    async fn list(&self, filter: &Filter) -> Result<Vec<Summary>> {
        self.store.list(filter).await
    }
    async fn journal(&self, run: RunId) -> Result<Vec<JournalRow>> {
        self.store.journal(run).await
    }
    async fn manifests(&self) -> Result<Vec<Manifest>> {
        self.store.manifests().await
    }
    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        self.store.workers().await
    }
    async fn unread_mail(&self) -> Result<Vec<UnreadMail>> {
        self.store.unread_mail().await
    }
}

#[tokio::test]
async fn a_history_that_cannot_be_counted_hides_nothing_of_what_needs_a_person() {
    for (fails, why) in [(true, "statement timeout"), (false, "still being counted")] {
        let mut server = Server::named().await;
        let backend = server.app.admin.backend().clone();
        let query = Arc::new(Uncounted { store: backend.query.clone(), counted: AtomicU32::new(0), fails });
        server.app.admin = Admin::new(Backend { query: query.clone(), ..backend });
        let (_, text) = server.json(get("/metrics", Some(EVE))).await;
        let text = text.as_str().unwrap();
        for line in [
            "saga_store_up 1",
            "saga_runs{definition=\"ship-order\",state=\"blocked\"} 1",
            "saga_blocked_oldest_age_seconds{definition=\"ship-order\",version=\"1\"} ",
            "saga_workers{state=\"serving\"} 1",
        ] {
            assert!(text.lines().any(|found| found.starts_with(line)), "{line} in {text}");
        }
        assert!(!text.contains("\nsaga_counted_age_seconds "), "{text}");
        let (status, problem) = server.json(get("/api/counts", Some(EVE))).await;
        assert_eq!((status, &problem["code"]), (StatusCode::SERVICE_UNAVAILABLE, &"not_counted".into()));
        assert!(problem["detail"].as_str().unwrap().contains(why), "{problem}");
        assert_eq!(query.counted.load(SeqCst), 1, "whoever asks does not begin it anew");
    }
}

#[tokio::test]
async fn who_asks_for_counts_is_told_how_old_they_are() {
    let server = Server::named().await;
    let answer = server.send(get("/api/counts", Some(EVE))).await;
    assert!(answer.headers()[header::AGE].to_str().unwrap().parse::<u64>().is_ok());
    let (_, counts) = server.json(get("/api/counts", Some(EVE))).await;
    assert_eq!(counts, json!([{ "definition": "ship-order", "state": "blocked", "runs": 1 }]));
    let (_, text) = server.json(get("/metrics", Some(EVE))).await;
    assert!(text.as_str().unwrap().contains("\nsaga_counted_age_seconds "), "{text}");
}

/// Every metric that a file of `deploy/` names.
fn metrics_in(file: &str) -> impl Iterator<Item = &str> {
    let words = file.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("saga_") || word.starts_with("outbox_"))
}

#[tokio::test]
async fn alerts_and_dashboard_name_metrics_that_exist() {
    let server = Server::named().await;
    let (_, ours) = server.json(get("/metrics", Some(EVE))).await;
    let ours = ours.as_str().unwrap().to_owned();
    // The relay's sidecar puts `outbox_` before each of these names, and `_total` behind a counter's.
    let relays = include_str!("../../../outbox-relay/src/stats.rs");
    let exists = |metric: &str| {
        let relays_own = metric.strip_prefix("outbox_").map(|name| name.trim_end_matches("_total"));
        ours.contains(&format!("# TYPE {metric} "))
            || relays_own.is_some_and(|name| relays.contains(&format!("\"{name}\"")))
    };
    let rules = include_str!("../../../deploy/prometheus/rules.yml");
    let dashboard = include_str!("../../../deploy/grafana/sagas.json");
    let named: Vec<_> =
        metrics_in(rules).chain(metrics_in(dashboard)).filter(|word| *word != "saga_").collect();
    assert!(named.len() > 30, "they are found");
    for metric in named.into_iter().filter(|word| *word != "outbox_") {
        assert!(exists(metric), "{metric}");
    }
    assert!(!exists("saga_runs_total") && !exists("outbox_lost_total"), "the check can fail");
    let runbook = include_str!("../../../deploy/runbook.md");
    for link in rules.split("deploy/runbook.md#").skip(1) {
        let chapter = link.split('"').next().unwrap().replace('-', " ");
        let found = runbook
            .lines()
            .any(|line| line.strip_prefix("## ").is_some_and(|title| title.to_lowercase() == chapter));
        assert!(found, "{chapter}");
    }
}

#[tokio::test]
async fn runs_are_filtered_by_what_is_asked() {
    let server = Server::named().await;
    let groups = server.json(get("/api/blocked", Some(EVE))).await.1;
    let group = groups["groups"][0]["id"].as_str().unwrap().to_owned();
    for (query, found) in [
        ("", 1),
        ("?state=blocked&definition=ship-order", 1),
        ("?state=queued", 0),
        ("?attribute=customer%3D17", 1),
        ("?attribute=customer=17&attribute=channel=a%3Db", 1),
        ("?attribute=customer=17&attribute=channel=b", 0),
        ("?attribute=", 1),
        (&format!("?error={group}"), 1),
        ("?error=0000000000", 0),
        ("?id=order&older_than_seconds=0&limit=5", 1),
    ] {
        let (status, page) = server.json(get(&format!("/api/runs{query}"), Some(EVE))).await;
        assert_eq!(status, StatusCode::OK, "{query}: {page}");
        assert_eq!(page["runs"].as_array().map(Vec::len), Some(found), "{query}: {page}");
    }
    let page = server.json(get("/api/runs", Some(EVE))).await.1;
    assert_eq!(
        (&page["runs"][0]["key"], &page["runs"][0]["attributes"]["customer"]),
        (&"till-1".into(), &"17".into())
    );
    for query in
        ["?state=odd", "?attribute=customer", "?attribute=a%20b=1", "?limit=many", "?before=x", "?colour=red"]
    {
        let (status, problem) = server.json(get(&format!("/api/runs{query}"), Some(EVE))).await;
        assert_eq!((status, &problem["code"]), (StatusCode::BAD_REQUEST, &"bad_request".into()), "{query}");
    }
}
