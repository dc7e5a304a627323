//! The README's code compiles: each of its Rust blocks stands below, line by line.

#![allow(dead_code, unused_variables, reason = "this is compiled, not run")]

use std::error::Error;

use axum::Router;
use axum::routing::post;
use idempotency::{IdempotencyLayer, Scope, Secret};
use outbox::Message;
use outbox_relay::{
    Consumer, ConsumerSettings, HandlerError, KafkaSink, PostgresSource, Received, Relay, handler,
};
use saga_core::{Cx, Definition, StepError, Worker, step};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

#[test]
fn the_readme_shows_what_compiles() {
    let lines = |text: &str| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
    let compiled = lines(include_str!("readme.rs"));
    let readme = include_str!("../../README.md");
    let blocks: Vec<&str> =
        readme.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 4);
    for block in blocks {
        // A block may hold an item and statements, which stand apart here.
        for part in block.split("\n}\n\n") {
            let wanted = lines(part);
            let stands = compiled.windows(wanted.len()).any(|window| window == wanted);
            assert!(stands, "this part of the README is not compiled:\n{part}");
        }
    }
}

#[derive(Clone)]
struct Bank;
#[derive(Clone, Serialize, Deserialize)]
struct Order {
    cents: u64,
}
type Payment = String;
#[derive(Clone)]
struct Tenant(String);

impl Bank {
    async fn charge(&self, key: &str, cents: u64) -> Result<Payment, std::io::Error> {
        std::future::ready(Ok(format!("{key}: {cents}"))).await
    }
}

async fn charge(cx: Cx<Bank>, order: Order) -> Result<Payment, StepError> {
    // The key is the same for every attempt: the bank recognises a repetition.
    Ok(cx.state().charge(&cx.key(), order.cents).await?)
}

async fn refund(_: Cx<Bank>, _: Order, _: Payment) -> Result<(), StepError> {
    std::future::ready(Ok(())).await
}

async fn ship(_: Cx<Bank>, (_, payment): (Order, Payment)) -> Result<String, StepError> {
    std::future::ready(Ok(payment)).await
}

#[rustfmt::skip]
async fn a_saga(bank: Bank) -> Result<(), Box<dyn Error>> {
    let (mut b, order) = Definition::build::<Bank, Order>("place-order", 1);
    let payment = b.add(step("charge", charge).compensate(refund), order);
    let (b, parcel) = b.pivot(step("ship", ship), (order, payment)); // no way back from here
    let place_order = b.finish(parcel)?;

    let store = saga_core::store::connect("sqlite:orders.db").await?; // or postgres://…
    let worker = Worker::new(store, bank).register(&place_order)?.start().await?;
    let saga = worker.client().start(&place_order, "order-536365", &Order { cents: 13912 }).await?;
    println!("{:?}", saga.wait().await?); // Completed(…) or Compensated(…), whatever dies meanwhile
    Ok(())
}

async fn take_payment() -> &'static str {
    std::future::ready("charged").await
}

#[rustfmt::skip]
async fn idempotency_keys() -> Result<(), Box<dyn Error>> {
    let keys = idempotency::store::connect("redis://127.0.0.1").await?; // or postgres://…, sqlite:keys.db
    let layer = IdempotencyLayer::leased(keys, Secret::from_env("IDEMPOTENCY_SECRET")?)
        .scope(|request| Some(Scope::of([&request.extensions.get::<Tenant>()?.0])))
        .required();
    let service: Router = Router::new().route("/charges", post(take_payment)).layer(layer);
    Ok(())
}

#[rustfmt::skip]
async fn an_event(pool: PgPool, id: i64, order: Order) -> Result<(), Box<dyn Error>> {
    let mut tx = pool.begin().await?;
    sqlx::query("UPDATE orders SET placed = true WHERE id = $1").bind(id).execute(&mut *tx).await?;
    outbox::enqueue(&mut *tx, Message::new("order", id, "OrderPlaced").json(&order)?).await?;
    tx.commit().await?; // both became true, or neither
    Ok(())
}

async fn book(_: &mut PgConnection, received: &Received) -> Result<(), HandlerError> {
    std::future::ready(received.json::<Order>()).await.map_err(HandlerError::park).map(drop)
}

#[rustfmt::skip]
async fn a_relay(pool: PgPool, stop: CancellationToken) -> Result<(), Box<dyn Error>> {
    let source = PostgresSource::connect("postgres://shop@localhost/shop").await?;
    let relay = Relay::new(source, KafkaSink::connect("localhost:9092")?);
    tokio::spawn(relay.run(stop.clone()));

    let settings = ConsumerSettings::new("localhost:9092", "accounting", ["outbox.event.order"]);
    let book = handler(|tx: &mut PgConnection, received| Box::pin(book(tx, received)));
    Consumer::new(settings, pool).run(book, stop).await?; // each event applied once, in its own transaction
    Ok(())
}
