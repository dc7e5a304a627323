//! Claims on stores that are killed, frozen, badly set up, or whose answers are lost.

mod failover;
mod harm;
mod lost_answers;
mod round_trips;
mod settings;
mod storm;
mod unreadable;

use std::sync::Arc;
use std::time::Duration;

use idempotency::{
    Answer, Claim, ClaimRequest, Fingerprint, KeyId, PostgresStore, RedisStore, Secret, Store, Ticket,
};
use tests::servers::{Postgres, Redis};

/// A server that a store lives on.
trait Server {
    fn url(&self) -> String;
    fn port(&self) -> u16;
    fn kill(&mut self);
    async fn restart(&mut self);
    fn freeze(&self);
    fn thaw(&self);
    async fn store(url: &str) -> Arc<dyn Store>;
}

impl Server for Postgres {
    fn url(&self) -> String {
        self.url()
    }

    fn port(&self) -> u16 {
        self.port()
    }

    fn kill(&mut self) {
        self.kill();
    }

    async fn restart(&mut self) {
        self.restart().await;
    }

    fn freeze(&self) {
        self.freeze();
    }

    fn thaw(&self) {
        self.thaw();
    }

    async fn store(url: &str) -> Arc<dyn Store> {
        Arc::new(PostgresStore::connect(url).await.unwrap())
    }
}

impl Server for Redis {
    fn url(&self) -> String {
        self.url()
    }

    fn port(&self) -> u16 {
        self.port()
    }

    fn kill(&mut self) {
        self.kill();
    }

    async fn restart(&mut self) {
        self.restart().await;
    }

    fn freeze(&self) {
        self.freeze();
    }

    fn thaw(&self) {
        self.thaw();
    }

    async fn store(url: &str) -> Arc<dyn Store> {
        Arc::new(RedisStore::connect(url).await.unwrap())
    }
}

const KEEP: Duration = Duration::from_secs(3600);

/// A claim with a lease that outlives the test.
fn request(id: KeyId) -> ClaimRequest {
    let fingerprint = Fingerprint::new(&Secret::new([7; 32]), b"POST", b"/charges", b"{}");
    ClaimRequest { lease: Duration::from_secs(600), ..ClaimRequest::new(id, fingerprint) }
}

fn answer(body: &str) -> bytes::Bytes {
    Answer::new(201, body.to_owned()).encode()
}

async fn acquire(store: &Arc<dyn Store>, request: &ClaimRequest) -> Ticket {
    match store.claim(request).await.unwrap() {
        Claim::Acquired(ticket) => ticket,
        other => panic!("expected to acquire, got {other:?}"),
    }
}

fn is_replay_of(claim: &Claim, expected: &bytes::Bytes) -> bool {
    matches!(claim, Claim::Replay(kept) if kept.answer == *expected)
}
