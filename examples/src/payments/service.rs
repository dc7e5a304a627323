//! The payment service: a charge is a row in its ledger.
//!
//! The handler knows nothing of repetitions. It writes in the transaction that the layer lends it, and the layer
//! commits charge, key and answer together; whoever comes again under the key gets that answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::post;
use axum::{Json, Router};
use idempotency::fused::SqliteTx;
use idempotency::headers::IDEMPOTENCY_KEY;
use idempotency::{IdempotencyLayer, Scope, Secret, SqliteStore};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteConnection, SqlitePool};

use super::Failure;

/// What is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Charge {
    /// Whose.
    pub payment: String,
    /// How much.
    pub cents: i64,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The charge's number in the ledger.
    pub charge: i64,
    /// How much.
    pub cents: i64,
}

/// One line of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Charged {
    /// The charge's number.
    pub id: i64,
    /// Whose.
    pub payment: String,
    /// How much.
    pub cents: i64,
}

/// `POST /charges`, behind the layer.
pub fn protected(store: &SqliteStore, seen: &Seen) -> Router {
    // A real service reads its secret from the environment: every replica must have the same.
    let layer = IdempotencyLayer::fused(store.clone(), Secret::new(rand::random()))
        .scope(|_| Some(Scope::of(["the shop"])))
        .required();
    Router::new().route("/charges", post(charge)).layer(layer).layer(from_fn_with_state(seen.clone(), look))
}

async fn charge(
    mut tx: SqliteTx,
    Json(charge): Json<Charge>,
) -> Result<(StatusCode, Json<Receipt>), StatusCode> {
    write(&mut tx, &charge).await
}

/// The same without the layer: what it takes a lost answer to charge twice.
pub fn unprotected(store: &SqliteStore, seen: &Seen) -> Router {
    let charge = |State(pool): State<SqlitePool>, Json(charge): Json<Charge>| async move {
        let mut connection = pool.acquire().await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
        write(&mut connection, &charge).await
    };
    Router::new()
        .route("/charges", post(charge))
        .with_state(store.pool().clone())
        .layer(from_fn_with_state(seen.clone(), look))
}

async fn write(
    connection: &mut SqliteConnection,
    charge: &Charge,
) -> Result<(StatusCode, Json<Receipt>), StatusCode> {
    let insert = "INSERT INTO charges (payment, cents) VALUES (?, ?) RETURNING id";
    let id = sqlx::query_scalar(insert).bind(&charge.payment).bind(charge.cents).fetch_one(connection).await;
    let id = id.map_err(|error| {
        tracing::error!(%error, "the ledger cannot be written");
        StatusCode::INTERNAL_SERVER_ERROR
    })?;
    Ok((StatusCode::CREATED, Json(Receipt { charge: id, cents: charge.cents })))
}

/// Makes the ledger, beside the keys.
pub async fn create_ledger(store: &SqliteStore) -> Result<(), Failure> {
    let table =
        "CREATE TABLE charges (id INTEGER PRIMARY KEY, payment TEXT NOT NULL, cents INTEGER NOT NULL)";
    sqlx::query(table).execute(store.pool()).await?;
    Ok(())
}

/// Reads the ledger.
pub async fn charges(store: &SqliteStore) -> Result<Vec<Charged>, Failure> {
    Ok(sqlx::query_as("SELECT id, payment, cents FROM charges ORDER BY id").fetch_all(store.pool()).await?)
}

/// How often the service was asked under each key.
#[derive(Clone, Debug, Default)]
pub struct Seen(Arc<Mutex<HashMap<Vec<u8>, u64>>>);

impl Seen {
    /// How often in all.
    pub fn total(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }
}

async fn look(State(seen): State<Seen>, request: Request, next: Next) -> Response {
    if let Some(key) = request.headers().get(IDEMPOTENCY_KEY) {
        let mut seen = seen.0.lock().unwrap_or_else(PoisonError::into_inner);
        *seen.entry(key.as_bytes().to_vec()).or_default() += 1;
    }
    next.run(request).await
}
