//! The headers between a saga and a participant: what saga-core writes, idempotency reads.
//!
//! The two crates share no type. `idempotency/wire/headers.json` pins the contract; that idempotency keeps to it
//! is tested there. Here a real saga is run through every kind of call, and what it sends is held to the same
//! vectors and read by the barrier.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use idempotency::barrier::Call;
use idempotency::{Direction, KeyId, Scope, Secret};
use saga_core::engine::Worker;
use saga_core::step::Probed;
use saga_core::store::MemoryStore;
use saga_core::{Cx, Definition, Ended, Retry, StepError, step};
use serde_json::Value;

type Headers = BTreeMap<String, String>;

/// Writes down the headers of every call.
#[derive(Clone, Default)]
struct Participants {
    calls: Arc<Mutex<Vec<Headers>>>,
}

impl Participants {
    fn call(cx: &Cx<Self>) {
        let headers = cx.headers().map(|(name, value)| (name.to_owned(), value)).into();
        cx.state().calls.lock().unwrap().push(headers);
    }
}

/// Reserves three lines, of which the last needs a second attempt.
async fn reserve(cx: Cx<Participants>, line: u32) -> Result<u32, StepError> {
    Participants::call(&cx);
    if line == 2 && cx.attempt() == 1 { Err(StepError::not_applied("connection refused")) } else { Ok(line) }
}

async fn release(cx: Cx<Participants>, _line: u32, _reserved: u32) -> Result<(), StepError> {
    Participants::call(&cx);
    Ok(())
}

/// Its answer is lost, and it may not be run again.
async fn book(cx: Cx<Participants>, (): ()) -> Result<(), StepError> {
    Participants::call(&cx);
    Err(StepError::unknown("the connection broke"))
}

async fn is_booked(cx: Cx<Participants>, (): ()) -> Result<Probed<()>, StepError> {
    Participants::call(&cx);
    Ok(Probed::Done(()))
}

async fn unbook(cx: Cx<Participants>, (): (), (): ()) -> Result<(), StepError> {
    Participants::call(&cx);
    Ok(())
}

async fn charge(cx: Cx<Participants>, (): ()) -> Result<(), StepError> {
    Participants::call(&cx);
    Err(StepError::rejected("the card is refused"))
}

async fn refund(cx: Cx<Participants>, (): (), (): ()) -> Result<(), StepError> {
    Participants::call(&cx);
    Ok(())
}

fn place_order() -> Definition<Participants, Vec<u32>, ()> {
    let soon = Retry::exponential().base(std::time::Duration::from_millis(1)).attempts(3);
    let (mut b, lines) = Definition::build::<Participants, Vec<u32>>("place-order", 1);
    let reserved = b.each(step("reserve", reserve).compensate(release).retry(soon), lines);
    let booking = b.derive("booking", |_: &Vec<u32>| (), reserved);
    let booked = b.add(step("book", book).compensate(unbook).not_idempotent().probe(is_booked), booking);
    let charged = b.add(step("charge", charge).compensate(refund), booked);
    b.finish(charged).unwrap()
}

/// The headers of every call of one saga, and its run.
async fn calls() -> (String, Vec<Headers>) {
    let participants = Participants::default();
    let worker = Worker::new(Arc::new(MemoryStore::new()), participants.clone());
    let worker = worker.register(&place_order()).unwrap().start().await.unwrap();
    let saga = worker.client().start(&place_order(), "order-1", &vec![0, 1, 2]).await.unwrap();
    assert!(matches!(saga.wait().await.unwrap(), Ended::Compensated(_)));
    worker.drain().await;
    let calls = participants.calls.lock().unwrap().clone();
    (saga.run().to_string(), calls)
}

fn read(headers: &Headers) -> Call {
    let call = Call::read(|name| headers.get(name).map(String::as_bytes));
    call.unwrap_or_else(|error| panic!("the barrier refuses {headers:?}: {error}")).expect("a call of a saga")
}

#[tokio::test]
async fn the_barrier_reads_every_call_of_a_saga_as_it_was_meant() {
    let (run, calls) = calls().await;
    let mut seen = BTreeSet::new();
    for headers in &calls {
        let call = read(headers);
        assert_eq!(call.run.to_string(), run);
        let written: Headers = call.headers().map(|(name, value)| (name.to_owned(), value)).into();
        assert_eq!(written, *headers, "both sides write the same");
        let direction = match call.direction {
            Direction::Action => "action",
            Direction::Compensation => "compensation",
            Direction::Settle => "settle",
        };
        seen.insert(format!("{}#{} {direction} {}", call.step, call.occurrence, call.attempt));
    }
    let expected = [
        "reserve#0 action 1",
        "reserve#1 action 1",
        "reserve#2 action 1",
        "reserve#2 action 2",
        "book#0 action 1",
        "book#0 settle 1",
        "charge#0 action 1",
        "book#0 compensation 1",
        "reserve#0 compensation 1",
        "reserve#1 compensation 1",
        "reserve#2 compensation 1",
    ];
    assert_eq!(seen, expected.map(str::to_owned).into());
}

/// Action, compensation and settlement of one step meet in one row; other steps and items have their own.
#[tokio::test]
async fn each_step_and_item_has_one_row_at_its_participant() {
    let (_, calls) = calls().await;
    let (secret, scope) = (Secret::new([1; 32]), Scope::global());
    let mut rows: HashMap<KeyId, BTreeSet<String>> = HashMap::new();
    for call in calls.iter().map(read) {
        let step = format!("{}#{}", call.step, call.occurrence);
        rows.entry(call.key_id(&secret, &scope)).or_default().insert(step);
    }
    assert_eq!(rows.len(), 5, "three reservations, a booking, a charge: {rows:?}");
    assert!(rows.values().all(|steps| steps.len() == 1), "{rows:?}");
}

/// What saga-core sends for a call of the vectors is what the vectors say, but for the run, which it draws.
#[tokio::test]
async fn a_saga_writes_the_golden_vectors() {
    let vectors: Value = serde_json::from_str(include_str!("../../idempotency/wire/headers.json")).unwrap();
    let (_, calls) = calls().await;
    let mut compared = 0;
    for vector in vectors["good"].as_array().unwrap() {
        let expected: Headers = serde_json::from_value(vector["headers"].clone()).unwrap();
        for headers in &calls {
            if read(headers).step != vector["call"]["step"]
                || headers["saga-direction"] != expected["saga-direction"]
            {
                continue;
            }
            let names = |headers: &Headers| headers.keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(headers), names(&expected));
            if headers["saga-occurrence"] == expected["saga-occurrence"]
                && headers["saga-attempt"] == expected["saga-attempt"]
            {
                let as_in_vector = Headers::from_iter(
                    headers.clone().into_iter().chain([("saga-run".into(), expected["saga-run"].clone())]),
                );
                assert_eq!(as_in_vector, expected);
                compared += 1;
            }
        }
    }
    assert!(compared >= 1, "the vectors and the saga have a call in common");
}
