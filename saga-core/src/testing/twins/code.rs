//! Engines that deal badly with what they call.

use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;

use super::super::play::Seams;
use super::{found, sagas};
use crate::id::RunId;
use crate::journal::{Effect, Outcome};
use crate::payload::Payload;
use crate::step::code::{Bound, Reply};
use crate::step::context::Attempt;

/// One call, and what is really called.
struct Call {
    attempt: Attempt,
    input: Payload,
    output: Option<Payload>,
    real: Bound,
}

impl Call {
    async fn make(self) -> Reply {
        (self.real)(self.attempt, self.input, self.output).await
    }

    fn undoes(&self, step: &str) -> bool {
        self.attempt.effect == Effect::Compensation && self.attempt.place.as_str() == step
    }
}

/// An engine that makes its calls like this. `twin` is asked once for each process.
fn calling<F>(twin: impl Fn() -> F + Send + Sync + 'static) -> Seams
where
    F: Fn(Call) -> BoxFuture<'static, Reply> + Send + Sync + 'static,
{
    let code = move || {
        let twin = Arc::new(twin());
        Arc::new(move |real: Bound| -> Bound {
            let twin = twin.clone();
            Arc::new(move |attempt, input, output| twin(Call { attempt, input, output, real: real.clone() }))
        }) as crate::engine::Wrap
    };
    Seams { code: Some(Box::new(code)), ..Seams::default() }
}

fn done() -> Reply {
    (Outcome::Ok(Payload::null()), None)
}

#[test]
fn skips_the_last_compensation() {
    let twin = calling(|| {
        |call: Call| Box::pin(async move { if call.undoes("charge") { done() } else { call.make().await } })
    });
    let found = found(sagas::linear(), twin);
    assert!(found.contains("it is compensated, but the effect of charge#0 stands"), "{found}");
}

#[test]
fn swallows_the_failure_of_a_compensation() {
    let twin = calling(|| {
        |call: Call| {
            Box::pin(async move {
                let undo = call.attempt.effect == Effect::Compensation;
                let reply = call.make().await;
                if undo { done() } else { reply }
            })
        }
    });
    let found = found(sagas::linear(), twin);
    assert!(found.contains("stands"), "{found}");
}

#[test]
fn compensates_in_forward_order() {
    let twin = calling(|| {
        let kept: Arc<Mutex<Option<Call>>> = Arc::default();
        move |call: Call| {
            let kept = kept.clone();
            Box::pin(async move {
                if call.undoes("reserve") {
                    *kept.lock().unwrap() = Some(call);
                    return done();
                }
                let then = kept.lock().unwrap().take().filter(|_| call.undoes("charge"));
                let reply = call.make().await;
                if let Some(then) = then {
                    then.make().await;
                }
                reply
            })
        }
    });
    let found = found(sagas::linear(), twin);
    assert!(found.contains("charge#0 was undone while reserve#0, which needs it, stood"), "{found}");
}

#[test]
fn uses_another_key_for_every_attempt() {
    let twin = calling(|| {
        |mut call: Call| {
            if call.attempt.number > 1 {
                call.attempt.run = RunId::new();
            }
            Box::pin(call.make())
        }
    });
    let found = found(sagas::linear(), twin);
    assert!(found.contains("was asked for under two keys"), "{found}");
}

#[test]
fn takes_an_unknown_outcome_as_a_rejection() {
    let twin = calling(|| {
        |call: Call| {
            Box::pin(async move {
                match call.make().await {
                    (Outcome::Unknown(failure), pause) => (Outcome::Rejected(failure), pause),
                    reply => reply,
                }
            })
        }
    });
    let found = found(sagas::linear(), twin);
    assert!(found.contains("stands"), "{found}");
}

#[test]
fn a_pivot_that_does_not_wait() {
    let found = found(sagas::hasty_pivot(), Seams::default());
    assert!(found.contains("starts capture before"), "{found}");
}
