//! A service's HTTP server on the loopback interface, which can lose its answers.
//!
//! An answer is lost as a network loses it: the request was carried out, and then the connection breaks
//! before a byte of the answer was sent. The caller cannot tell that from a request that never arrived.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use idempotency::barrier::SAGA_ATTEMPT;
use idempotency::headers::IDEMPOTENCY_KEY;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::faults::Faults;

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    lost: Arc<AtomicU64>,
    stop: CancellationToken,
    connections: TaskTracker,
}

impl Server {
    /// Serves a service on a free port that only this machine can reach.
    pub async fn start(service: Router, faults: Faults) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let server = Self {
            address: listener.local_addr()?,
            lost: Arc::default(),
            stop: CancellationToken::new(),
            connections: TaskTracker::new(),
        };
        let door = Door { service, faults, lost: server.lost.clone(), stop: server.stop.clone() };
        server.connections.spawn(accept(listener, door, server.connections.clone()));
        Ok(server)
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many answers were lost.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Takes no more requests, and returns when those under way are answered.
    pub async fn stop(self) {
        self.stop.cancel();
        self.connections.close();
        self.connections.wait().await;
    }
}

/// What every connection needs.
#[derive(Clone)]
struct Door {
    service: Router,
    faults: Faults,
    lost: Arc<AtomicU64>,
    stop: CancellationToken,
}

/// The answer is lost on purpose; hyper closes the connection when it meets an error.
#[derive(Debug, thiserror::Error)]
#[error("the answer is lost")]
struct Lost;

async fn accept(listener: TcpListener, door: Door, connections: TaskTracker) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = door.stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(serve(stream, door.clone()));
            }
            // A connection that broke before it was taken, or no file descriptor for it: others may fare
            // better, after the others had time to end.
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, door: Door) {
    // Answers are small: none should wait for a second one to share its packet.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "answers may be delayed");
    }
    let stop = door.stop.clone();
    let service = service_fn(move |request| answer(door.clone(), request));
    let mut connection =
        std::pin::pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}

async fn answer(door: Door, request: Request<Incoming>) -> Result<Response<Body>, Lost> {
    let loses = loses_answer(&door.faults, request.headers());
    let Ok(response) = door.service.oneshot(request.map(Body::new)).await;
    if loses {
        door.lost.fetch_add(1, Ordering::Relaxed);
        return Err(Lost);
    }
    Ok(response)
}

fn loses_answer(faults: &Faults, headers: &HeaderMap) -> bool {
    let text = |value: Option<&axum::http::HeaderValue>| value?.to_str().ok().map(str::to_owned);
    let key = text(headers.get(IDEMPOTENCY_KEY));
    let attempt = text(headers.get(SAGA_ATTEMPT));
    key.zip(attempt).is_some_and(|(key, attempt)| faults.loses_answer(&key, &attempt))
}
