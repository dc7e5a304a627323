//! A small shop whose ledger decides: every effect is written down outside the engine.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use saga_core::{Cx, Definition, Retry, StepError, step};

/// What happened outside: (step, item or order, direction), with the key it came under.
#[derive(Clone, Default)]
pub(crate) struct Shop {
    ledger: Arc<Mutex<Ledger>>,
}

#[derive(Default)]
struct Ledger {
    applied: Vec<String>,
    keys: HashMap<String, String>,
    calls: HashMap<String, u32>,
    faults: HashMap<String, Vec<Fault>>,
}

/// What a call does instead of applying its effect and saying so.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    Reject,
    NotApplied,
    /// Applied, but the answer is lost.
    LoseAnswer,
    Panic,
}

impl Shop {
    /// The first calls of `effect` meet these faults, in order.
    pub(crate) fn fault(self, effect: &str, faults: &[Fault]) -> Self {
        self.ledger.lock().unwrap().faults.insert(effect.into(), faults.iter().rev().copied().collect());
        self
    }

    /// One call of an effect, idempotent by key.
    pub(crate) fn call(&self, key: String, effect: String) -> Result<String, StepError> {
        let mut ledger = self.ledger.lock().unwrap();
        *ledger.calls.entry(effect.clone()).or_default() += 1;
        let fault = ledger.faults.get_mut(&effect).and_then(Vec::pop);
        match fault {
            Some(Fault::Reject) => return Err(StepError::rejected(format!("{effect} is refused"))),
            Some(Fault::NotApplied) => return Err(StepError::not_applied("connection refused")),
            Some(Fault::Panic) => {
                drop(ledger);
                panic!("{effect} panics");
            }
            Some(Fault::LoseAnswer) | None => {}
        }
        if ledger.keys.insert(key, effect.clone()).is_none() {
            ledger.applied.push(effect.clone());
        }
        match fault {
            Some(Fault::LoseAnswer) => Err(StepError::unknown("the connection broke")),
            _ => Ok(format!("did {effect}")),
        }
    }

    /// The effects in the order in which they were applied.
    pub(crate) fn applied(&self) -> Vec<String> {
        self.ledger.lock().unwrap().applied.clone()
    }

    /// How often an effect was called.
    pub(crate) fn calls(&self, effect: &str) -> u32 {
        self.ledger.lock().unwrap().calls.get(effect).copied().unwrap_or(0)
    }
}

pub(crate) async fn act(cx: Cx<Shop>, what: String) -> Result<String, StepError> {
    cx.state().call(cx.key(), what)
}

pub(crate) async fn undo(cx: Cx<Shop>, what: String, done: String) -> Result<(), StepError> {
    assert_eq!(done, format!("did {what}"), "a compensation is given its action's output");
    cx.state().call(cx.key(), format!("undo {what}")).map(drop)
}

/// Retries that tests can wait for.
pub(crate) fn quick() -> Retry {
    Retry::exponential().base(std::time::Duration::from_millis(1)).attempts(3)
}

/// stock and payment side by side, then capture as the pivot, then shipping.
pub(crate) fn place_order() -> Definition<Shop, Vec<String>, String> {
    let (mut b, lines) = Definition::build::<Shop, Vec<String>>("place-order", 1);
    let pay = b.derive("pay-what", |_: &Vec<String>| "payment".to_owned(), lines);
    let stock = b.each(step("reserve", act).compensate(undo).retry(quick()), lines);
    let payment = b.add(step("charge", act).compensate(undo).retry(quick()), pay);
    let what = b.derive("capture-what", |_: &(Vec<String>, String)| "capture".to_owned(), (stock, payment));
    let (mut b, capture) = b.pivot(step("capture", act).retry(quick()), what);
    let ship = b.derive("ship-what", |_: &String| "shipment".to_owned(), capture);
    let shipped =
        b.add(step("ship", act).retry(Retry::forever().base(std::time::Duration::from_millis(1))), ship);
    b.finish(shipped).unwrap()
}
