//! The saga of one order: reserve stock, charge, ship.
//!
//! ```text
//!   reserve ────▶ charge ────▶ ship
//!   ◁ release     ◁ refund     the pivot
//! ```
//!
//! Shipping is the pivot, not one more compensable step: a parcel that left cannot be called back, and the event
//! that says so cannot be unsaid. It waits until goods and money are certain, nothing stands after it that could
//! fail, and from its start on the order can no longer be cancelled. If the carrier refuses the parcel, nothing
//! was shipped, and charge and reservation are undone in reverse order.
//!
//! Each step asks its service over HTTP under a key of its own, the same for every attempt; see
//! [`super::service`] for what the answers mean.

use std::time::Duration;

use idempotency::Key;
use idempotency::barrier::Call;
use idempotency::client::{Http, Outcome, Send};
use reqwest::Response;
use saga_core::saga::builder::BadDefinition;
use saga_core::{Cx, Definition, Retry, StepError, step};
use serde::{Deserialize, Serialize};

use super::orders::Order;
use super::service::{Demand, Receipt, Refusal};

/// What the steps need: the way to the services.
#[derive(Clone, Debug)]
pub struct Shop {
    http: Http,
    services: Services,
}

/// Where the services are: URLs without a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Services {
    /// The stock service.
    pub stock: String,
    /// The payment service.
    pub payment: String,
    /// The shipping service.
    pub shipping: String,
}

/// The plan of an order. The name is the run's own, so that shops that share a database never drive each
/// other's orders: their services are others.
pub fn place_order(name: &str) -> Result<Definition<Shop, Order, Receipt>, BadDefinition> {
    let (mut b, order) = Definition::build::<Shop, Order>(name, 1);
    let reserve = step("reserve", reserve).compensate(release);
    let reservation = b.add(patient(reserve), order);
    let charge = step("charge", charge).compensate(refund);
    let payment = b.add(patient(charge), (order, reservation));
    let (b, shipment) = b.pivot(patient(step("ship", ship)), (order, payment));
    b.finish(shipment)
}

/// The services are near and fail on purpose: come back soon, and often.
fn patient<In, Out, K>(step: saga_core::Step<Shop, In, Out, K>) -> saga_core::Step<Shop, In, Out, K> {
    let soon = |retry: Retry| retry.base(Duration::from_millis(20)).most(Duration::from_secs(2));
    step.retry(soon(Retry::exponential().attempts(20)))
        .compensation_retry(soon(Retry::forever()))
        .attempt_timeout(Duration::from_secs(15))
}

async fn reserve(cx: Cx<Shop>, order: Order) -> Result<Receipt, StepError> {
    let url = format!("{}/reservations", cx.state().services.stock);
    ask(&cx, url, &order).await
}

async fn release(cx: Cx<Shop>, order: Order, _: Receipt) -> Result<(), StepError> {
    let url = format!("{}/releases", cx.state().services.stock);
    ask(&cx, url, &order).await.map(drop)
}

async fn charge(cx: Cx<Shop>, (order, _): (Order, Receipt)) -> Result<Receipt, StepError> {
    let url = format!("{}/charges", cx.state().services.payment);
    ask(&cx, url, &order).await
}

async fn refund(cx: Cx<Shop>, (order, _): (Order, Receipt), _: Receipt) -> Result<(), StepError> {
    let url = format!("{}/refunds", cx.state().services.payment);
    ask(&cx, url, &order).await.map(drop)
}

async fn ship(cx: Cx<Shop>, (order, _): (Order, Receipt)) -> Result<Receipt, StepError> {
    let url = format!("{}/shipments", cx.state().services.shipping);
    ask(&cx, url, &order).await
}

/// Asks a service for an effect under the step's key, and says what is known of it afterwards. The engine
/// decides when to ask again: this asks once.
async fn ask(cx: &Cx<Shop>, url: String, order: &Order) -> Result<Receipt, StepError> {
    let request = cx.state().http.post(url).json(&Demand { order: order.id.clone(), cents: order.amount });
    let call = call(cx)?;
    match Send::new(Key::new(cx.key())?).call(call).request(&cx.state().http, request).await {
        // A receipt that does not arrive whole is an answer that was lost: unknown, by `?`.
        Outcome::Applied(response) => Ok(response.json().await?),
        Outcome::Rejected(response) => Err(StepError::rejected(reason(response).await)),
        Outcome::NotApplied { retry_after, why } => Err(later(StepError::not_applied(why), retry_after)),
        Outcome::Unknown { retry_after, why } => Err(later(StepError::unknown(why), retry_after)),
        // A mistake in this program. Nothing that is definite about the effect can be said.
        Outcome::Mismatch { why } => Err(StepError::unknown(why)),
    }
}

/// What the step's headers say, as the client's layer wants it.
fn call(cx: &Cx<Shop>) -> Result<Call, StepError> {
    let headers = cx.headers();
    let value = |name| headers.iter().find(|(header, _)| *header == name).map(|(_, value)| value.as_bytes());
    Call::read(value)?.ok_or_else(|| StepError::not_applied("a step has a run"))
}

fn later(error: StepError, pause: Option<Duration>) -> StepError {
    match pause {
        Some(pause) => error.retry_after(pause),
        None => error,
    }
}

async fn reason(response: Response) -> String {
    let status = response.status();
    response.json::<Refusal>().await.map_or_else(|_| status.to_string(), |refusal| refusal.refused)
}

impl Shop {
    /// A shop whose services are there.
    pub fn new(services: Services) -> Result<Self, reqwest::Error> {
        // A proxy has no place between a step and its service.
        let http = reqwest::Client::builder().no_proxy().tcp_nodelay(true).timeout(Duration::from_secs(10));
        Ok(Self { http: Http::new(http)?, services })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipping_is_the_pivot_and_everything_before_it_can_be_undone() {
        let definition = place_order("place-order").expect("is sound");
        let steps: Vec<String> =
            definition.plan().nodes.iter().map(|node| format!("{} {:?}", node.name, node.kind)).collect();
        assert_eq!(steps, ["input Input", "reserve Step", "charge Step", "ship Pivot"]);
    }
}
