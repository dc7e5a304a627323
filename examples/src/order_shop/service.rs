//! What the three services have in common: how they are asked, and how they answer.
//!
//! A request names an order and an amount, and carries an `Idempotency-Key`. An answer says in
//! `Idempotency-Status` what it means for the key, in the words of [`idempotency::headers`], so that callers
//! of all three can read it with [`idempotency::client`]. Payment has that from the idempotency layer; stock
//! and shipping, whose ledgers keep their keys, say it themselves, here.

use axum::Json;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use idempotency::headers::{IDEMPOTENCY_KEY, IDEMPOTENCY_STATUS, IDEMPOTENT_REPLAYED, Status};
use idempotency::{Key, KeyError, Syntax};
use serde::{Deserialize, Serialize};

use super::amount::Amount;
use super::ledger::{Call, Effect, Unwritten, Verdict};

/// What a service is asked: an effect for this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// The order's id.
    pub order: String,
    /// What it costs, in cents.
    pub cents: Amount,
}

/// What a service answers when the effect took place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The number under which the service knows the effect.
    pub number: String,
}

/// What a service answers when it says no.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Why.
    pub refused: String,
}

/// The key of a request, which must have one.
#[derive(Clone, Debug)]
pub(super) struct KeyOf(pub(super) String);

impl<S: Sync> FromRequestParts<S> for KeyOf {
    type Rejection = (StatusCode, &'static str);

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let header = parts.headers.get(IDEMPOTENCY_KEY);
        let header = header.ok_or((StatusCode::BAD_REQUEST, "an Idempotency-Key is required"))?;
        Self::read(header).map_err(|_| (StatusCode::BAD_REQUEST, "the Idempotency-Key is malformed"))
    }
}

impl KeyOf {
    pub(super) fn read(header: &HeaderValue) -> Result<Self, KeyError> {
        Key::from_header(header.as_bytes(), Syntax::Strict).map(|key| Self(key.expose().to_owned()))
    }
}

impl Demand {
    /// The call that this demand is, for the ledger.
    pub(super) fn call(&self, key: String, effect: Effect) -> Call {
        Call { key, order: self.order.clone(), effect, amount: self.cents }
    }

    /// The receipt of an effect: the same for every repetition.
    pub(super) fn receipt(&self, effect: Effect) -> Receipt {
        Receipt { number: format!("{}-{}", effect.as_str(), self.order) }
    }
}

/// The answer of a service whose ledger keeps the keys.
pub(super) fn answer(verdict: Result<Verdict, Unwritten>, receipt: Receipt) -> Response {
    const KEPT: (HeaderName, &str) = (IDEMPOTENCY_STATUS, "kept");
    match verdict {
        Ok(Verdict::Applied) => (StatusCode::CREATED, [KEPT], Json(receipt)).into_response(),
        Ok(Verdict::Duplicate) => {
            (StatusCode::CREATED, [KEPT, (IDEMPOTENT_REPLAYED, "true")], Json(receipt)).into_response()
        }
        Ok(Verdict::Refused) => {
            let refusal = Refusal { refused: format!("{} is refused", receipt.number) };
            (StatusCode::CONFLICT, [KEPT], Json(refusal)).into_response()
        }
        Ok(Verdict::Mismatch) => {
            let status = [(IDEMPOTENCY_STATUS, Status::Mismatch.as_str())];
            (StatusCode::UNPROCESSABLE_ENTITY, status, "the key stands for another effect").into_response()
        }
        // Nobody knows whether it was written: no status, which callers read as unknown.
        Err(unwritten) => (StatusCode::SERVICE_UNAVAILABLE, unwritten.to_string()).into_response(),
    }
}
