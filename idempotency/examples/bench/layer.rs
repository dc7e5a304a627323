//! The layer's own overhead, in memory.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use idempotency::{IdempotencyLayer, MemoryStore, Secret, layer::Body};
use tower::{Layer, Service, service_fn};

pub(crate) async fn overhead() {
    let handler = service_fn(|_: Request<Body>| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("charged")))
    });
    let store = MemoryStore::new();
    let mut service = IdempotencyLayer::leased(store, Secret::new([1; 32])).global_keys().layer(handler);
    let (mut first, mut replay, mut pass) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    const REQUESTS: u32 = 50_000;
    for i in 0..REQUESTS {
        let request = |key: Option<u32>| {
            let request = Request::post("/charges");
            let request = match key {
                Some(key) => request.header("idempotency-key", format!("\"{key:032}\"")),
                None => request,
            };
            request.body(Full::new(Bytes::from_static(b"{\"cents\":500}"))).expect("a valid request")
        };
        for (time, request) in
            [(&mut first, request(Some(i))), (&mut replay, request(Some(i))), (&mut pass, request(None))]
        {
            let begin = Instant::now();
            let response = service.call(request).await.expect("it cannot fail");
            *time += begin.elapsed();
            assert_eq!(response.status(), 200);
        }
    }
    let micros = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(REQUESTS);
    println!(
        "the layer in memory: first call {:.1} µs, replay {:.1} µs, without a key {:.1} µs",
        micros(first),
        micros(replay),
        micros(pass)
    );
}
