//! The service: one route, one effect, and a way to hang just before or after it.

use std::fs::File;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use idempotency::{Direction, Execution, IdempotencyLayer, InDoubt, Secret, store};

use super::LEASE;

/// Serves until it is killed.
pub(super) async fn serve(store: &str, port: u16, ledger: PathBuf, again: bool) {
    let store = store::connect(store).await.expect("the store answers");
    let layer =
        IdempotencyLayer::leased(store, Secret::new([7; 32])).global_keys().required().barrier().lease(LEASE);
    let layer = layer.in_doubt(if again { InDoubt::RunAgain } else { InDoubt::Unknown });
    let app = Router::new()
        .route("/charges", post(charge))
        .layer(layer)
        .route("/open", get(|| async { "yes" }))
        .with_state(Arc::new(ledger));
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("a free port");
    axum::serve(listener, app).await.expect("serves");
}

async fn charge(
    State(ledger): State<Arc<PathBuf>>,
    execution: Execution,
    headers: HeaderMap,
) -> (StatusCode, String) {
    let stop = headers.get("x-stop").map(|stop| stop.to_str().expect("text"));
    if stop == Some("before") {
        hang(&ledger).await;
    }
    let effect = match execution.direction() {
        Direction::Compensation => "refunded",
        _ => "charged",
    };
    write(&ledger, effect);
    if stop == Some("after") {
        hang(&ledger).await;
    }
    (StatusCode::CREATED, format!("{effect} by {}", std::process::id()))
}

/// Until the process is killed, or was frozen and a file named `thawed` lies beside the ledger.
async fn hang(ledger: &PathBuf) {
    write(ledger, "hangs");
    let thawed = ledger.with_file_name("thawed");
    while !thawed.exists() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

fn write(ledger: &PathBuf, line: &str) {
    let mut file = File::options().create(true).append(true).open(ledger).expect("the ledger opens");
    file.write_all(format!("{line}\n").as_bytes()).expect("the ledger takes a line");
}
