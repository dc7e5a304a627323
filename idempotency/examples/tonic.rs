//! A tonic server behind the layer, and a client that asks it twice.
//!
//! `cargo run -p idempotency --example tonic`
//!
//! The service is written by hand and speaks JSON, so that nothing has to be generated. A generated `ChargesServer`
//! takes its place as it is: what matters is how the layer is put before the routes. Only unary calls belong
//! behind it: a request is read whole before it is compared.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf, BufMut};
use futures::future::BoxFuture;
use idempotency::{IdempotencyLayer, MemoryStore, Secret, layer};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::NamedService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};
use tower::{Service, ServiceBuilder};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Charge {
    cents: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Receipt {
    pub(crate) number: u64,
    pub(crate) cents: u64,
}

/// Serves until its task is ended.
pub(crate) async fn serve(listener: TcpListener) -> Result<(), tonic::transport::Error> {
    let idempotency =
        IdempotencyLayer::leased(MemoryStore::new(), Secret::new([7; 32])).global_keys().required();
    let layers = ServiceBuilder::new()
        .layer(idempotency)
        // tonic's routes take tonic's body.
        .map_request(|request: http::Request<layer::Body>| request.map(tonic::body::Body::new))
        .into_inner();
    Server::builder()
        .layer(layers)
        .add_service(Charges::default())
        .serve_with_incoming(TcpIncoming::from(listener))
        .await
}

/// Charges under a key. The key stays the same however often the call is repeated.
pub(crate) async fn charge(
    channel: Channel,
    key: Option<&str>,
    cents: u64,
) -> Result<Response<Receipt>, Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut request = Request::new(Charge { cents });
    if let Some(key) = key {
        let header =
            idempotency::Key::new(key).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let header = header.to_header().parse().map_err(|_| Status::invalid_argument("not a header"))?;
        request.metadata_mut().insert("idempotency-key", header);
    }
    let path = http::uri::PathAndQuery::from_static("/shop.Charges/Charge");
    client.unary(request, path, Json::default()).await
}

#[allow(dead_code, reason = "a test plays it, too")]
#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", listener.local_addr()?);
    let server = tokio::spawn(serve(listener));
    let channel = Channel::from_shared(address)?.connect().await?;
    for (key, cents) in [(Some("order-1"), 500), (Some("order-1"), 500), (Some("order-1"), 501), (None, 500)]
    {
        match charge(channel.clone(), key, cents).await {
            Ok(answer) => {
                let replayed = answer.metadata().contains_key("idempotent-replayed");
                println!(
                    "{key:?}, {cents} cents: {:?}{}",
                    answer.get_ref(),
                    if replayed { ", replayed" } else { "" }
                );
            }
            Err(status) => println!("{key:?}, {cents} cents: {:?}: {}", status.code(), status.message()),
        }
    }
    server.abort();
    Ok(())
}

/// The service `shop.Charges`, as a generator would write it.
#[derive(Clone, Default)]
pub(crate) struct Charges {
    charged: Arc<AtomicU64>,
}

impl NamedService for Charges {
    const NAME: &'static str = "shop.Charges";
}

impl Service<http::Request<tonic::body::Body>> for Charges {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let charged = self.charged.clone();
        // The handler knows nothing of repetitions: whatever reaches it takes effect.
        let charge = tower::service_fn(move |request: Request<Charge>| {
            let number = charged.fetch_add(1, Ordering::Relaxed) + 1;
            let cents = request.into_inner().cents;
            std::future::ready(match cents {
                0 => Err(Status::invalid_argument("nothing to charge")),
                _ => Ok(Response::new(Receipt { number, cents })),
            })
        });
        Box::pin(async move { Ok(tonic::server::Grpc::new(Json::default()).unary(charge, request).await) })
    }
}

/// Messages as JSON.
struct Json<E, D>(PhantomData<fn(E) -> D>);

impl<E, D> Default for Json<E, D> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<E, D> Codec for Json<E, D>
where
    E: Serialize + Send + 'static,
    D: DeserializeOwned + Send + 'static,
{
    type Encode = E;
    type Decode = D;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self::default()
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<E: Serialize, D> Encoder for Json<E, D> {
    type Item = E;
    type Error = Status;

    fn encode(&mut self, item: E, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        serde_json::to_writer(into.writer(), &item).map_err(|error| Status::internal(error.to_string()))
    }
}

impl<E, D: DeserializeOwned> Decoder for Json<E, D> {
    type Item = D;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<D>, Status> {
        let message = serde_json::from_reader(from.reader());
        message.map(Some).map_err(|error| Status::invalid_argument(error.to_string()))
    }
}
