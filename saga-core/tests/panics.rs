//! Code that is neither ours nor a step's own may panic: its saga is heard of, and no other is harmed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use async_trait::async_trait;
use saga_core::admin::{Admin, Answered, By, Request};
use saga_core::codec::{BlobError, Blobs, Cipher, CipherError, Codec};
use saga_core::engine::{Running, Settings};
use saga_core::store::{MemoryStore, Query, State};
use saga_core::{Cx, Definition, Ended, MailId, Payload, Place, RunId, StepError, Worker, step};

use crate::shop::quick;

/// A shelf whose first answers are panics.
#[derive(Default)]
struct Shaky(AtomicU32);

#[async_trait]
impl Blobs for Shaky {
    async fn put(&self, _: &str, _: &[u8]) -> Result<(), BlobError> {
        assert!(self.0.fetch_add(1, SeqCst) >= 2, "putting panics on purpose");
        Ok(())
    }
    async fn get(&self, _: &str) -> Result<Option<Vec<u8>>, BlobError> {
        panic!("nothing is got here")
    }
    async fn runs(&self, _: Option<&str>, _: usize) -> Result<Vec<String>, BlobError> {
        Ok(Vec::new())
    }
    async fn remove(&self, _: &str) -> Result<(), BlobError> {
        Ok(())
    }
}

/// A cipher that does not encrypt, and panics while it is broken.
struct Brittle(Arc<AtomicBool>);

impl Cipher for Brittle {
    fn seal(&self, plain: &[u8], _: &[u8]) -> (String, Vec<u8>) {
        assert!(!self.0.load(SeqCst), "sealing panics on purpose");
        ("plain".into(), plain.to_vec())
    }
    fn open(&self, _: &str, sealed: &[u8], _: &[u8]) -> Result<Vec<u8>, CipherError> {
        Ok(sealed.to_vec())
    }
}

async fn worker(store: &Arc<MemoryStore>, definition: &Definition<(), u64, String>, codec: Codec) -> Running {
    let poll = Duration::from_millis(2)..Duration::from_millis(10);
    let worker =
        Worker::new(store.clone(), ()).settings(Settings { poll, ..Settings::default() }).codec(codec);
    worker.register(definition).unwrap().start().await.unwrap()
}

async fn until(store: &MemoryStore, run: RunId, state: State) {
    let look = async {
        while store.summary(run).await.unwrap().unwrap().state != state {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), look).await.expect("the state is reached");
}

#[tokio::test]
async fn a_store_of_blobs_that_panics_is_one_that_is_away() {
    let (mut b, n) = Definition::build::<(), u64>("long", 1);
    let long = step("long", async |_: Cx<()>, n: u64| Ok::<_, StepError>("x".repeat(n as usize)));
    let long = b.add(long.no_compensation("it only writes"), n);
    let definition = b.finish(long).unwrap();
    let codec = Codec::new().offload_above(50, Arc::new(Shaky::default()));
    let worker = worker(&Arc::new(MemoryStore::new()), &definition, codec).await;
    let saga = worker.client().start(&definition, "1", &100).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(30), saga.wait()).await.expect("it ends");
    assert_eq!(end.unwrap(), Ended::Completed("x".repeat(100)));
    worker.drain().await;
}

#[tokio::test]
async fn an_attempt_that_panics_when_its_time_is_over_is_one_whose_time_is_over() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropping panics on purpose");
        }
    }
    let (mut b, n) = Definition::build::<(), u64>("slow", 1);
    let slow = step("slow", async |cx: Cx<()>, n: u64| {
        if cx.attempt() == 1 {
            let _bomb = Bomb;
            std::future::pending::<()>().await;
        }
        Ok::<_, StepError>(n.to_string())
    });
    let slow = slow.attempt_timeout(Duration::from_millis(50)).retry(quick());
    let slow = b.add(slow.no_compensation("it only waits"), n);
    let definition = b.finish(slow).unwrap();
    let worker = worker(&Arc::new(MemoryStore::new()), &definition, Codec::new()).await;
    let saga = worker.client().start(&definition, "1", &7).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(30), saga.wait()).await.expect("it ends");
    assert_eq!(end.unwrap(), Ended::Completed("7".into()));
    worker.drain().await;
}

#[tokio::test]
async fn a_cipher_that_panics_while_a_saga_is_driven_blocks_that_saga() {
    let broken = Arc::<AtomicBool>::default();
    let (mut b, n) = Definition::build::<(), u64>("pay", 1);
    let pay = step("pay", async |_: Cx<()>, n: u64| Ok::<_, StepError>(n));
    let refuse = async |_: Cx<()>, _: u64, _: u64| Err(StepError::rejected("what is paid is paid"));
    let paid = b.add(pay.compensate(refuse), n);
    let ship = step("ship", async |_: Cx<()>, n: u64| match n {
        7 => Ok(n.to_string()),
        _ => Err(StepError::rejected("nothing is in stock")),
    });
    let shipped = b.add(ship.no_compensation("it only says so"), paid);
    let definition = b.finish(shipped).unwrap();
    let store = Arc::new(MemoryStore::new());
    let worker = worker(&store, &definition, Codec::new().seal(Brittle(broken.clone()))).await;
    let run = worker.client().start(&definition, "1", &1).await.unwrap().run();
    until(&store, run, State::Blocked).await;

    let (admin, by) = (Admin::new(store.clone()), By::new("ann", "it was paid back by hand").unwrap());
    let at: Place = serde_json::from_value("pay".into()).unwrap();
    let resolve = Request::Resolve { at, output: Payload::null() };
    let ask = async |request: &Request| {
        let patience = Duration::from_secs(30);
        admin.request(run, MailId::new(), request, &by, patience).await.unwrap().answered
    };
    broken.store(true, SeqCst);
    let answered = ask(&resolve).await;
    assert!(matches!(&answered, Answered::Refused { why } if why.contains("panicked")), "{answered:?}");
    until(&store, run, State::Blocked).await;
    broken.store(false, SeqCst);
    let other = worker.client().start(&definition, "2", &7).await.unwrap();
    assert_eq!(other.wait().await.unwrap(), Ended::Completed("7".into()), "others go on");
    assert_eq!(ask(&Request::Abandon).await, Answered::Accepted);
    worker.drain().await;
}
