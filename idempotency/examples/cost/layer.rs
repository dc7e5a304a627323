//! The layer's own overhead, in memory.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use idempotency::{IdempotencyLayer, MemoryStore, Secret, layer::Body};
use tower::{Layer, Service, service_fn};

const REQUESTS: u32 = 50_000;

/// Measured in a task of the runtime's, as a server's connections are: from outside, each call would also pay for
/// waking another thread.
pub(crate) async fn overhead() {
    tokio::spawn(measure()).await.expect("the measurement does not panic");
}

async fn measure() {
    let mut bare = service_fn(|_: Request<Body>| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("charged")))
    });
    let layer = IdempotencyLayer::leased(MemoryStore::new(), Secret::new([1; 32])).global_keys();
    let mut service = layer.layer(bare);
    let mut times = [Duration::ZERO; 4];
    for i in 0..REQUESTS {
        let unprotected = request(None).map(|_| Body::empty());
        let begin = Instant::now();
        let response = bare.call(unprotected).await.expect("it cannot fail");
        times[0] += begin.elapsed();
        assert_eq!(response.status(), 200);
        for (time, key) in times[1..].iter_mut().zip([None, Some(i), Some(i)]) {
            let protected = request(key);
            let begin = Instant::now();
            let response = service.call(protected).await.expect("it cannot fail");
            *time += begin.elapsed();
            assert_eq!(response.status(), 200);
        }
    }
    let [bare, pass, first, replay] = times.map(|time| time.as_secs_f64() * 1e6 / f64::from(REQUESTS));
    println!(
        "the layer in memory adds {:.1} µs to a first call, {:.1} µs to one without a key; a replay takes \
         {replay:.1} µs",
        first - bare,
        pass - bare,
    );
}

fn request(key: Option<u32>) -> Request<Full<Bytes>> {
    let request = Request::post("/charges").header("content-type", "application/json");
    let request = match key {
        Some(key) => request.header("idempotency-key", format!("\"{key:032}\"")),
        None => request,
    };
    request.body(Full::new(Bytes::from_static(b"{\"cents\":500}"))).expect("a valid request")
}
