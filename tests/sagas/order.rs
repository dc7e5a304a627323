//! An order over three services that refuse, do not answer, or cannot be reached.

use std::time::Duration;

use saga_core::{Cx, Definition, Retry, StepError, step};

use super::ledger::Ledger;

/// Reserve, charge, ship, in this order; the first two can be undone.
pub(super) fn place_order() -> Definition<Ledger, String, String> {
    let soon = || Retry::forever().base(Duration::from_millis(5)).most(Duration::from_millis(200));
    let (mut b, order) = Definition::build::<Ledger, String>("place-order", 1);
    let reserved =
        b.add(step("reserve", act).compensate(undo).retry(soon()).compensation_retry(soon()), order);
    let charged =
        b.add(step("charge", act).compensate(undo).retry(soon()).compensation_retry(soon()), reserved);
    let shipped = b.add(step("ship", act).compensate(undo).retry(soon()).compensation_retry(soon()), charged);
    b.finish(shipped).unwrap()
}

async fn act(cx: Cx<Ledger>, order: String) -> Result<String, StepError> {
    let fate = Fate::of(&cx);
    match fate {
        // Decided by the key alone: no attempt under it is ever applied.
        Fate::Refused => return Err(StepError::rejected("refused")),
        Fate::Unreachable => return Err(StepError::not_applied("connection refused")),
        Fate::Answered | Fate::AnswerLost => {}
    }
    cx.state().apply(&cx, &order).await?;
    if fate == Fate::AnswerLost { Err(StepError::unknown("the connection broke")) } else { Ok(order) }
}

async fn undo(cx: Cx<Ledger>, order: String, _done: String) -> Result<(), StepError> {
    let fate = Fate::of(&cx);
    if fate == Fate::Unreachable {
        return Err(StepError::not_applied("connection refused"));
    }
    cx.state().apply(&cx, &order).await?;
    if fate == Fate::AnswerLost { Err(StepError::unknown("the connection broke")) } else { Ok(()) }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    Refused,
    Unreachable,
    AnswerLost,
}

impl Fate {
    /// The same for the same attempt in every process. A refusal depends on the order and the step only.
    fn of(cx: &Cx<Ledger>) -> Self {
        let [_, (_, step), ..] = cx.headers();
        let hundredth =
            |text: String| text.bytes().fold(7_u32, |h, b| h.wrapping_mul(31).wrapping_add(b.into())) % 100;
        if hundredth(format!("{} {step}", cx.saga())) < 8 {
            return Self::Refused;
        }
        match hundredth(format!("{} {}", cx.key(), cx.attempt())) {
            0..10 => Self::Unreachable,
            10..20 => Self::AnswerLost,
            _ => Self::Answered,
        }
    }
}
