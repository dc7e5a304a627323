//! The shipping service: hands parcels to the carrier, and tells the world.
//!
//! The shipment's row and the event "OrderShipped" become true in one transaction of this service's own
//! database: the event is published if, and only if, the parcel is on its way. A repeated call writes neither.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use outbox::Message;
use serde::{Deserialize, Serialize};

use super::amount::Amount;
use super::faults::Faults;
use super::ledger::{Effect, Ledger, Verdict};
use super::service::{Demand, KeyOf, answer};

/// What events of this service are about.
pub const AGGREGATE: &str = "order";

/// The event that says that an order is on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderShipped {
    /// The order's id.
    pub order: String,
    /// What it cost, in cents.
    pub cents: Amount,
}

/// `POST /shipments`.
pub fn service(ledger: Ledger, faults: Faults) -> Router {
    Router::new().route("/shipments", post(ship)).with_state((ledger, faults))
}

async fn ship(
    State((ledger, faults)): State<(Ledger, Faults)>,
    KeyOf(key): KeyOf,
    Json(demand): Json<Demand>,
) -> Response {
    let call = demand.call(key, Effect::Ship);
    if faults.undeliverable(&demand.order) {
        // Decided by the order alone: whatever comes under this key is refused again.
        return answer(ledger.note(call, Verdict::Refused).await, demand.receipt(Effect::Ship));
    }
    let event = OrderShipped { order: demand.order.clone(), cents: demand.cents };
    match Message::new(AGGREGATE, &demand.order, "OrderShipped").json(&event) {
        Ok(message) => answer(ledger.apply(call, Some(message)).await, demand.receipt(Effect::Ship)),
        Err(invalid) => (StatusCode::BAD_REQUEST, invalid.to_string()).into_response(),
    }
}
