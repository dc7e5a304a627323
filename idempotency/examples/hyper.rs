//! Plain hyper behind the layer: no framework, one service.
//!
//! `cargo run -p idempotency --example hyper`, then twice:
//!
//! `curl -i -X POST -H 'Idempotency-Key: "order-1"' -d 500 http://127.0.0.1:3000/charges`

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use idempotency::layer::Body;
use idempotency::{IdempotencyLayer, MemoryStore, Secret};
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt};

/// The handler knows nothing of repetitions: whatever reaches it takes effect.
async fn charge(request: Request<Body>) -> Result<Response<Full<Bytes>>, Infallible> {
    static CHARGES: AtomicU64 = AtomicU64::new(0);
    let number = CHARGES.fetch_add(1, Ordering::Relaxed) + 1;
    let cents = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut receipt =
        Response::new(Full::from(format!("charge {number}: {}\n", String::from_utf8_lossy(&cents))));
    *receipt.status_mut() = StatusCode::CREATED;
    Ok(receipt)
}

pub(crate) async fn serve(listener: TcpListener) -> std::io::Result<()> {
    let layer = IdempotencyLayer::leased(MemoryStore::new(), Secret::new([7; 32])).global_keys().required();
    let service = layer.layer(tower::service_fn(charge));
    loop {
        let (socket, _) = listener.accept().await?;
        let service = service.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| service.clone().oneshot(request));
            if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(socket), service).await {
                eprintln!("a connection broke: {error}");
            }
        });
    }
}

#[allow(dead_code, reason = "a test serves it, too")]
#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("charging at http://{}/charges", listener.local_addr()?);
    serve(listener).await
}
