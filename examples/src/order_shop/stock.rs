//! The stock service: sets goods aside, and puts them back. Idempotent by its ledger.

use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use axum::{Json, Router};

use super::ledger::{Effect, Ledger};
use super::service::{Demand, KeyOf, answer};

/// `POST /reservations` and `POST /releases`.
pub fn service(ledger: Ledger) -> Router {
    Router::new().route("/reservations", post(reserve)).route("/releases", post(release)).with_state(ledger)
}

async fn reserve(state: State<Ledger>, key: KeyOf, demand: Json<Demand>) -> Response {
    apply(state, key, demand, Effect::Reserve).await
}

async fn release(state: State<Ledger>, key: KeyOf, demand: Json<Demand>) -> Response {
    apply(state, key, demand, Effect::Release).await
}

async fn apply(
    State(ledger): State<Ledger>,
    KeyOf(key): KeyOf,
    Json(demand): Json<Demand>,
    effect: Effect,
) -> Response {
    let verdict = ledger.apply(demand.call(key, effect), None).await;
    answer(verdict, demand.receipt(effect))
}
