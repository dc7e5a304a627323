//! The payment service: charges and refunds, protected by the idempotency layer.
//!
//! The handlers know nothing of repetitions: whatever reaches them takes effect. That none reaches them twice
//! is the layer's work. It claims the key before the handler runs and keeps the answer afterwards; a repeated
//! request gets that answer again. Outside the layer, a witness writes each repetition into the ledger.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use idempotency::headers::IDEMPOTENT_REPLAYED;
use idempotency::{IdempotencyLayer, Secret, Store};

use super::faults::Faults;
use super::ledger::{Effect, Ledger, Unwritten, Verdict};
use super::service::{Demand, KeyOf, Refusal};

/// Handlers may take so long before a repeated request is told to come back: a duplicate is usually answered
/// within the time that the first one needs.
const WAIT: std::time::Duration = std::time::Duration::from_secs(2);

/// `POST /charges` and `POST /refunds`.
pub fn service(ledger: Ledger, faults: Faults, keys: Arc<dyn Store>, secret: Secret) -> Router {
    // One caller, the shop: its keys need no further scope.
    let layer = IdempotencyLayer::leased(keys, secret).global_keys().required().wait(WAIT);
    Router::new()
        .route("/charges", post(charge))
        .route("/refunds", post(refund))
        .with_state((ledger.clone(), faults))
        .layer(layer)
        .layer(from_fn_with_state(ledger, witness))
}

async fn charge(
    State((ledger, faults)): State<(Ledger, Faults)>,
    KeyOf(key): KeyOf,
    Json(demand): Json<Demand>,
) -> Response {
    let call = demand.call(key, Effect::Charge);
    if !faults.rejects(&demand.order) {
        return receipt(ledger.apply(call, None).await, &demand, Effect::Charge);
    }
    match ledger.note(call, Verdict::Refused).await {
        Ok(_) => {
            let refusal = Refusal { refused: "the bank refuses the card".into() };
            (StatusCode::PAYMENT_REQUIRED, Json(refusal)).into_response()
        }
        Err(unwritten) => failed(&unwritten),
    }
}

async fn refund(
    State((ledger, _)): State<(Ledger, Faults)>,
    KeyOf(key): KeyOf,
    Json(demand): Json<Demand>,
) -> Response {
    receipt(ledger.apply(demand.call(key, Effect::Refund), None).await, &demand, Effect::Refund)
}

fn receipt(written: Result<Verdict, Unwritten>, demand: &Demand, effect: Effect) -> Response {
    match written {
        Ok(_) => (StatusCode::CREATED, Json(demand.receipt(effect))).into_response(),
        Err(unwritten) => failed(&unwritten),
    }
}

/// A 500: the layer does not keep it, because nobody knows whether the charge was written.
fn failed(unwritten: &Unwritten) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, unwritten.to_string()).into_response()
}

/// The largest request that is read, in bytes; demands are far smaller.
const REQUEST_MOST: usize = 64 * 1024;

/// Writes into the ledger that a request was answered from memory.
async fn witness(State(ledger): State<Ledger>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, REQUEST_MOST).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let effect = if parts.uri.path() == "/refunds" { Effect::Refund } else { Effect::Charge };
    let header = parts.headers.get(idempotency::headers::IDEMPOTENCY_KEY).cloned();
    let response = next.run(Request::from_parts(parts, Body::from(body.clone()))).await;
    if response.headers().contains_key(IDEMPOTENT_REPLAYED) {
        let key = header.and_then(|header| KeyOf::read(&header).ok());
        if let (Some(KeyOf(key)), Ok(demand)) = (key, serde_json::from_slice::<Demand>(&body))
            && let Err(error) = ledger.note(demand.call(key, effect), Verdict::Duplicate).await
        {
            tracing::warn!(%error, "a repetition is missing from the ledger");
        }
    }
    response
}
